"""The stages of a recipe beside reinforcement learning, and which class makes the runs of each.

A stage that trains is a `grpo.run.lifecycle.Run`: the same folder, checkpoints, learner, evaluation and last words,
with a step of its own. ``sft`` is supervised fine-tuning, ``distill`` learning from a teacher. ``reject``, rejection
sampling, goes step by step as they do and trains nothing. A `grpo.stages.task.Task` (``evaluate``, ``export``) is made
of pieces and answers to the same calls.
Several stages of one recipe are run by `grpo.stages.pipeline.Pipeline`.
"""

from __future__ import annotations

from typing import Callable, Mapping

from grpo.recipe import Recipe
from grpo.run.stepped import SteppedRun
from grpo.stages.distill import distill_trainer
from grpo.stages.evaluation import EvaluationStage
from grpo.stages.exporting import ExportStage
from grpo.stages.reject import RejectionSampler
from grpo.stages.sft import SftTrainer
from grpo.stages.task import Task
from grpo.train import Trainer

__all__ = [
    "TRAINERS",
    "EvaluationStage",
    "ExportStage",
    "RejectionSampler",
    "SftTrainer",
    "distill_trainer",
    "trainer_of",
]

TRAINERS: Mapping[str, Callable[..., SteppedRun | Task]] = {
    "grpo": Trainer,
    "sft": SftTrainer,
    "reject": RejectionSampler,
    "distill": distill_trainer,
    "evaluate": EvaluationStage,
    "export": ExportStage,
}
"""What makes a stage's runs, by ``stage``: a class, or a function with its arguments."""


def trainer_of(recipe: Recipe) -> Callable[..., SteppedRun | Task]:
    """What makes a run of `recipe`: `grpo.Trainer`, `SftTrainer`, `RejectionSampler`, `distill_trainer`, ..."""
    return TRAINERS[recipe.stage]
