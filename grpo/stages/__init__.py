"""The stages of a recipe beside reinforcement learning, and which class makes the runs of each.

A stage that trains is a `grpo.run.lifecycle.Run`: the same folder, checkpoints, learner, evaluation and last words,
with a step of its own. ``sft`` is supervised fine-tuning. ``reject``, rejection sampling, trains nothing and has the
same surface, and so has a `grpo.stages.task.Task`: ``evaluate`` and ``export``. Several stages of one recipe are run by
`grpo.stages.pipeline.Pipeline`.
"""

from __future__ import annotations

from typing import Mapping

from grpo.recipe import Recipe
from grpo.run.lifecycle import Run
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
    "trainer_of",
]

StageRun = type[Run] | type[Task] | type[RejectionSampler]
TRAINERS: Mapping[str, StageRun] = {
    "grpo": Trainer,
    "sft": SftTrainer,
    "reject": RejectionSampler,
    "evaluate": EvaluationStage,
    "export": ExportStage,
}
"""The class of a stage's runs, by ``stage``."""


def trainer_of(recipe: Recipe) -> StageRun:
    """The class that makes a run of `recipe`: `grpo.Trainer`, `SftTrainer`, `RejectionSampler`, ..."""
    return TRAINERS[recipe.stage]
