"""Distillation: a policy learns from a teacher, on its own completions or from the teacher's traces.

On its own completions a run is the loop of ``grpo.train`` with another loss: per token the reverse KL to the teacher,
as ``grpo.objective.kl.distillation`` estimates it from the sampled token; no completion is compared with another, and
rewards only measure. From traces it is supervised fine-tuning (``sft``) of rows whose completions a teacher wrote.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from grpo.recipe import Recipe
from grpo.run import console, inputs
from grpo.run.inputs import RunInputs
from grpo.run.lifecycle import Run, RunKind
from grpo.run.setup import RunParts
from grpo.stages import sft
from grpo.stages.sft import SftTrainer
from grpo.train import Trainer
from rewards.spelling import many

MARGIN = 12


def distill_trainer(recipe: Recipe, **options: Any) -> Run:
    """A run of stage distill, by its ``distill.method``; `options` are those of `grpo.Trainer`.

    Raises `RecipeError` for what a user can fix, before a model loads.
    """
    if recipe.learns_rows:
        return SftTrainer(recipe, kind=TRACES, **options)
    return Trainer(recipe, kind=ON_POLICY, **options)


def header(recipe: Recipe, inputs: RunInputs, parts: RunParts, num_steps: int) -> list[str]:
    """The lines after the title: as in the loop, with the teacher, and rewards that only measure."""
    lines = console.header(recipe, inputs, parts, num_steps)
    names = [line[:MARGIN].strip() for line in lines]
    measured = f"{inputs.accurate}, which only measures" if inputs.specs else "none"
    lines[names.index("rewards")] = f"{'  rewards':<{MARGIN}}{measured}"
    lines[names.index("training")] = f"{'  training':<{MARGIN}}{_size(recipe)}"
    lines.insert(names.index("data"), f"{'  teacher':<{MARGIN}}{_teacher(recipe, parts)}")
    return lines


def _teacher(recipe: Recipe, parts: RunParts) -> str:
    teacher = parts.learner.teacher
    assert teacher is not None, "the recipe of an on-policy distillation names its teacher"
    where = ", in host memory between its passes" if recipe.loss.teacher_offload else ""
    return f"{recipe.loss.teacher}: {teacher.policy.describe_frozen()}{where}"


def _size(recipe: Recipe) -> str:
    sample = recipe.sample
    completions = f"{sample.prompts} x {many(sample.group_size, 'completion')}"
    return (
        f"{many(recipe.steps, 'step')} of {completions} {sample.describe_max_tokens()}, reverse KL to the teacher, "
        f"lr {recipe.optim.lr:g}"
    )


ON_POLICY = RunKind(
    stage="distill",
    load_inputs=partial(inputs.load_inputs, needs_rewards=False),
    header=header,
    by_score=False,
)
TRACES = replace(sft.KIND, stage="distill")
