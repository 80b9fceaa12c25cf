"""The other side of a completion of several turns: from a recipe's tools and environment to what the engine asks.

`plan_environment` and `open_environment` make a `RunEnvironment`; its `turns` answer the sequences of one call of the
engine. What an environment is, and how calls are read and run, is in ``rewards.environments``.
"""

from __future__ import annotations

from grpo.environments.opening import (
    EnvironmentPlan,
    RunEnvironment,
    Tools,
    Used,
    check_pauses,
    open_environment,
    plan_environment,
    start_environment,
    turns_of,
)
from grpo.environments.session import EnvironmentTurns

__all__ = [
    "EnvironmentPlan",
    "EnvironmentTurns",
    "RunEnvironment",
    "Tools",
    "Used",
    "check_pauses",
    "open_environment",
    "plan_environment",
    "start_environment",
    "turns_of",
]
