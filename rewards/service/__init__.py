"""Judges many completions: worker processes with deadlines, threads for closures, programs in a sandbox.

`RewardService` is the entry point; `Ticket` is a submission in progress and `Judged` the verdict on one completion.
How a function is called is ``rewards.calling``; what a program may do is ``rewards.sandbox``.

Every worker process imports this package and needs none of the names below, so they are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Judged", "RewardService", "Ticket", "applies", "combine"]

_MODULES = {
    "Judged": "rewards.service.ticket",
    "RewardService": "rewards.service.service",
    "Ticket": "rewards.service.ticket",
    "applies": "rewards.service.functions",
    "combine": "rewards.service.ticket",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'rewards.service' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
