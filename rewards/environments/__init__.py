"""Environments that answer a policy in the middle of its completion, and the tools that it may call there.

`Environment` is what a class has to offer, `Observation` what it answers, `Turn` the record of both. No torch, no
trainer: an environment runs in a worker process that can be killed. `CallFormat` is how calls are written;
`EnvironmentPool` runs many environments at once.

Worker processes import this package and need few of the names below, so they are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "OBSERVATION_STATUSES",
    "Call",
    "CallFormat",
    "Environment",
    "EnvironmentPool",
    "EnvironmentSpec",
    "Observation",
    "Parsed",
    "Result",
    "Turn",
    "example_call",
    "format_of",
    "schemas_of",
]

_MODULES = {
    "CallFormat": "formats",
    "EnvironmentPool": "pool",
    "Parsed": "formats",
    "example_call": "tools",
    "format_of": "formats",
    "schemas_of": "pool",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rewards.environments' has no attribute {name!r}")
    module = _MODULES.get(name, "types")
    return getattr(import_module(f"rewards.environments.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
