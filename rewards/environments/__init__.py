"""Environments that answer a policy in the middle of its completion, and the tools that it may call there.

`Environment` is what a class has to offer, `Observation` what it answers, `Turn` the record of both. No torch, no
trainer: an environment runs in a worker process that can be killed.
"""

from __future__ import annotations

from rewards.environments.types import (
    OBSERVATION_STATUSES,
    Environment,
    EnvironmentSpec,
    Observation,
    Turn,
)

__all__ = ["OBSERVATION_STATUSES", "Environment", "EnvironmentSpec", "Observation", "Turn"]
