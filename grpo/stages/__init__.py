"""The stages of a recipe beside reinforcement learning, and which class makes the runs of each.

A stage is a `grpo.run.lifecycle.Run`: the same folder, checkpoints, learner, evaluation and last words, with a step of
its own. ``sft`` is supervised fine-tuning.
"""

from __future__ import annotations

from typing import Mapping

from grpo.recipe import Recipe
from grpo.run.lifecycle import Run
from grpo.stages.sft import SftTrainer
from grpo.train import Trainer

__all__ = ["TRAINERS", "SftTrainer", "trainer_of"]

TRAINERS: Mapping[str, type[Run]] = {"grpo": Trainer, "sft": SftTrainer}
"""The class of a stage's runs, by ``stage``."""


def trainer_of(recipe: Recipe) -> type[Run]:
    """The class that makes a run of `recipe`: `grpo.Trainer`, `SftTrainer`."""
    return TRAINERS[recipe.stage]
