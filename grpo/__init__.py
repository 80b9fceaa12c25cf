"""GRPO for reasoning models: sample groups, score them by rules, update the policy without a critic.

The public names are `Recipe` (a run, fully described) and `Trainer` (the loop, one step an iteration).
They are imported on first use, so that ``import grpo`` stays cheap.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# OpenMP's threads would spin at each barrier; where a core is shared with other work, a step then takes ten times
# as long. Read when torch is first imported; what the user has set stands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["Policy", "Recipe", "RecipeError", "Trainer", "__version__"]

_HOME = {
    "Policy": "grpo.model.policy",
    "Recipe": "grpo.recipe",
    "RecipeError": "grpo.recipe",
    "Trainer": "grpo.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'grpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
