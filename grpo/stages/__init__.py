"""The stages of a recipe beside reinforcement learning, and which class makes the runs of each.

A stage that trains is a `grpo.run.lifecycle.Run`: the same folder, checkpoints, learner, evaluation and last words,
with a step of its own. ``sft`` is supervised fine-tuning. ``reject``, rejection sampling, trains nothing and has the
same surface.
"""

from __future__ import annotations

from typing import Mapping

from grpo.recipe import Recipe
from grpo.run.lifecycle import Run
from grpo.stages.reject import RejectionSampler
from grpo.stages.sft import SftTrainer
from grpo.train import Trainer

__all__ = ["TRAINERS", "RejectionSampler", "SftTrainer", "trainer_of"]

TRAINERS: Mapping[str, type[Run] | type[RejectionSampler]] = {
    "grpo": Trainer,
    "sft": SftTrainer,
    "reject": RejectionSampler,
}
"""The class of a stage's runs, by ``stage``."""


def trainer_of(recipe: Recipe) -> type[Run] | type[RejectionSampler]:
    """The class that makes a run of `recipe`: `grpo.Trainer`, `SftTrainer`, `RejectionSampler`."""
    return TRAINERS[recipe.stage]
