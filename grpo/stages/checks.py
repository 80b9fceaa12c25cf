"""What can be known of each stage before the first one works: its rewards, its rows, its files, its form of export.

A model that an earlier stage makes has the tokenizer of the model that it descends from, which stands in for it here.
What only weights can show is found out in the stage itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Collection, Iterable, Mapping

from grpo.export.write import check_form
from grpo.recipe import Recipe, RecipeError
from grpo.recipe.plan import Plan, Stage
from grpo.report.pipeline import DONE, PipelineFolder
from grpo.run.inputs import RunInputs, check_settings, load_inputs
from grpo.run.reward_specs import load_rewards
from grpo.stages.evaluation import recipe_of_model
from grpo.stages.exporting import wanted_of
from grpo.stages.rejection.inputs import load_reject_inputs
from grpo.stages.sft_inputs import load_sft_inputs


def _read_distill(recipe: Recipe, **options: Any) -> RunInputs:
    """The rows of a distillation, by its method."""
    if recipe.learns_rows:
        return load_sft_inputs(recipe, **options)
    return load_inputs(recipe, needs_rewards=False, **options)


READ: Mapping[str, Callable[..., Any]] = {
    "grpo": load_inputs,
    "sft": load_sft_inputs,
    "reject": load_reject_inputs,
    "distill": _read_distill,
}
"""What reads the rows of a stage and checks them, by kind."""
RewardsOf = Callable[[Recipe], Mapping[str, Callable[..., Any]]]


def check_stages(plan: Plan, stages: Iterable[Stage], rewards_of: RewardsOf | None = None) -> None:
    """Refuse stages whose rewards, rows, trackers or models do not do; `RecipeError` names the stage.

    With ``rewards_of``, what it gives of a recipe stands in for rewards of the user's own files, none of which is run.
    """
    left = list(stages)
    names = [stage.name for stage in left]
    for stage in left:
        try:
            rewards = {} if rewards_of is None else rewards_of(stage.recipe)
            _check(plan, stage, left=names, rewards=rewards)
        except RecipeError as error:
            raise RecipeError(f"stage {stage.name}: {error}") from None


def _check(
    plan: Plan, stage: Stage, *, left: Collection[str], rewards: Mapping[str, Callable[..., Any]]
) -> None:
    recipe = stage.recipe
    check_settings(recipe)
    if stage.kind == "export":
        check_form(wanted_of(recipe))
    if stage.kind == "evaluate":
        for label in recipe.evaluate.models:
            recipe_of_model(recipe, label)
    if recipe.rewards or stage.kind in ("grpo", "evaluate"):
        load_rewards(recipe, rewards)
    if stage.kind in READ and can_be_read(plan, stage, left):
        READ[stage.kind](as_before(plan, stage), rewards=rewards, report=_unsaid)


def can_be_read(plan: Plan, stage: Stage, left: Collection[str] = ()) -> bool:
    """Whether the rows of a stage are there, and its tokenizer's template is the one of the model it descends from.

    Rows of a stage that is not done, or is among those ``left`` to run, are still to be made.
    """
    states = PipelineFolder(plan.folder).states()
    done = {state.name for state in states if state.status == DONE} - set(left)
    samples = stage.recipe.reject.samples
    read = [
        other.name
        for other in plan.stages
        if other.name == stage.data_from or str(other.folder) in samples
    ]
    are_there = done.issuperset(read)
    has_other_template = any(other.recipe.sft.chat_template for other in ancestors(plan, stage))
    return are_there and not has_other_template


def ancestors(plan: Plan, stage: Stage) -> list[Stage]:
    """The stages that its model has gone through, the nearest first."""
    by_name = {other.name: other for other in plan.stages}
    found: list[Stage] = []
    name = stage.model_from
    while name in by_name:
        found.append(by_name[name])
        name = found[-1].model_from
    return found


def as_before(plan: Plan, stage: Stage) -> Recipe:
    """The stage's recipe with models that are there before any stage has run: those that its own descend from."""
    recipe = stage.recipe
    model = replace(recipe.model, name=stage.origin)
    loss = recipe.loss
    distill = recipe.distill
    for other in plan.stages:
        if str(other.model) == loss.teacher:
            loss = replace(loss, teacher=other.origin)
            teacher = None if distill.teacher is None else other.origin
            distill = replace(distill, teacher=teacher)
    return replace(recipe, model=model, loss=loss, distill=distill)


def _unsaid(line: Any) -> None:
    """What was changed in the rows is said when the stage reads them."""
