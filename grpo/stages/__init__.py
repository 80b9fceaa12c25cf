"""The stages of a recipe beside reinforcement learning, and which class makes the runs of each.

A stage is a `grpo.run.lifecycle.Run`: the same folder, checkpoints, learner, evaluation and last words, with a step of
its own; or a `grpo.stages.task.Task`, which learns nothing. ``sft`` is supervised fine-tuning; several stages of one
recipe are run by `grpo.stages.pipeline.Pipeline`.
"""

from __future__ import annotations

from typing import Mapping

from grpo.recipe import Recipe
from grpo.run.lifecycle import Run
from grpo.stages.evaluation import EvaluationStage
from grpo.stages.exporting import ExportStage
from grpo.stages.sft import SftTrainer
from grpo.stages.task import Task
from grpo.train import Trainer

__all__ = ["TRAINERS", "EvaluationStage", "ExportStage", "SftTrainer", "trainer_of"]

TRAINERS: Mapping[str, type[Run] | type[Task]] = {
    "grpo": Trainer,
    "sft": SftTrainer,
    "evaluate": EvaluationStage,
    "export": ExportStage,
}
"""The class of a stage's runs, by ``stage``."""


def trainer_of(recipe: Recipe) -> type[Run] | type[Task]:
    """The class that makes a run of `recipe`: `grpo.Trainer`, `SftTrainer`."""
    return TRAINERS[recipe.stage]
