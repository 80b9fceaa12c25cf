"""GRPO for reasoning models: sample groups, score them by rules, update the policy without a critic.

`Recipe` describes a run in full, `Trainer` makes it, one step an iteration, `SftTrainer` one of supervised training,
`RejectionSampler` one of rejection sampling;
`Policy` is the model, `Evaluation` a held-out accuracy; `Prompt`, `Completion`, `Group` and `ScoredGroup` are what
travels through the loop; `plot` draws run folders. All are imported on first use, so that ``import grpo`` stays cheap.
Rewards are the package ``rewards``.
"""

from __future__ import annotations

import os
from importlib import import_module

from grpo.startup import companion

TYPE_CHECKING = False
if TYPE_CHECKING:  # a user's file of that name may be first on the path
    from typing import Any

companion.pin()

# OpenMP's threads would spin at each barrier; on a core shared with other work, a step then takes ten times as long.
# Read when torch is first imported; a value that the user has set is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = [
    "Completion",
    "Evaluation",
    "Group",
    "Policy",
    "Prompt",
    "Recipe",
    "RecipeError",
    "RejectionSampler",
    "ScoredGroup",
    "SftTrainer",
    "Trainer",
    "__version__",
    "plot",
]

_MODULE_OF = {
    "Completion": "grpo.types",
    "Evaluation": "grpo.run.accuracy",
    "Group": "grpo.types",
    "Policy": "grpo.model.policy",
    "Prompt": "grpo.types",
    "Recipe": "grpo.recipe",
    "RecipeError": "grpo.recipe",
    "RejectionSampler": "grpo.stages",
    "ScoredGroup": "grpo.types",
    "SftTrainer": "grpo.stages",
    "Trainer": "grpo.train",
    "plot": "grpo.report.plots.plot",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'grpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
