"""What the stages of a recipe will do, in words, and what can be known of them, before the first one works.

Each stage is looked at as if it were a run of its own, with the model that its own descends from; rows that an earlier
stage makes are not there yet.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping

from grpo.model.location import is_unreachable
from grpo.preflight import dry_run as one
from grpo.preflight import preflight as checked
from grpo.preflight.foreign_rewards import stand_ins
from grpo.recipe import Recipe, RecipeError
from grpo.recipe.plan import Plan, Stage
from grpo.report.pipeline import DONE, PipelineFolder
from grpo.stages.checks import as_before, can_be_read, check_stages

SHOWN = ("grpo", "sft", "reject", "distill")
"""Kinds of which a dry run shows the rows and the objective."""


def dry_run(plan: Plan) -> Iterator[str]:
    """The recipe, and for each stage what it takes, does and leaves; `RecipeError` names a stage that cannot run."""
    yield plan.to_yaml().rstrip()
    yield ""
    yield from _overview(plan)
    for stage in plan.stages:
        _check(plan, stage)
    for stage in plan.stages:
        yield ""
        yield f"==== {stage.name} ({stage.describe()}) ===="
        yield from _shown(plan, stage)


def _unread(recipe: Recipe) -> Mapping[str, Callable[..., Any]]:
    """What stands in for rewards of the user's own files, which a dry run does not run."""
    return stand_ins(recipe.rewards)


def _check(plan: Plan, stage: Stage) -> None:
    """Refuse a stage that cannot run; what a hub that cannot be reached would say of it is left open."""
    try:
        check_stages(plan, [stage], rewards_of=_unread)
    except RecipeError as error:
        if not is_unreachable(str(error)):
            raise


def _overview(plan: Plan) -> Iterator[str]:
    yield f"{len(plan.stages)} stages, in {plan.folder}:"
    for number, stage in enumerate(plan.stages, start=1):
        left = [place for place in (stage.model, stage.data) if place is not None]
        leaves = "".join(f" -> {place.relative_to(plan.folder)}" for place in left)
        yield f"  {number}  {stage.name}: {stage.describe()}{leaves}"


def _shown(plan: Plan, stage: Stage) -> Iterator[str]:
    recipe = stage.recipe
    if stage.kind in SHOWN and can_be_read(plan, stage):
        yield from one.dry_run(as_before(plan, stage))
    elif stage.kind == "evaluate":
        yield from evaluation(recipe)
    elif stage.kind == "export":
        precision = ", ".join(recipe.export.precision) or "the default precision"
        yield f"writes {recipe.model.name} as {recipe.export.to}, {precision}, to {stage.folder / 'files'}"
    else:
        rows = f"rows: made by {stage.data_from}" if stage.data_from else "rows: not read"
        yield f"{rows}, so that nothing of them can be shown yet"
        yield from one.files(recipe)


def evaluation(recipe: Recipe) -> Iterator[str]:
    """What a stage evaluate measures."""
    held_out = sum(source.held_out for source in recipe.data.each().values())
    sets = [*([f"{held_out} held-out rows"] if held_out else []), *recipe.evaluate.sets]
    yield f"evaluates {', '.join(recipe.evaluate.models)} on {', '.join(sets)}"
    for name, place in recipe.evaluate.models.items():
        yield f"  {name}: {place}"


def preflight(plan: Plan, say: Callable[[str], None]) -> bool:
    """Say what can be found out about every stage; True if nothing is certainly wrong with any."""
    is_fine = True
    for stage in plan.stages:
        say("")
        say(f"==== {stage.name} ({stage.describe()}) ====")
        is_fine &= _checked(plan, stage, say)
    return is_fine


def _checked(plan: Plan, stage: Stage, say: Callable[[str], None]) -> bool:
    states = {state.name: state.status for state in PipelineFolder(plan.folder).states()}
    if states.get(stage.name) == DONE:
        say(f"done, in {stage.folder}")
        return True
    if stage.recipe.samples_to_learn and can_be_read(plan, stage) and not stage.folder.exists():
        return checked.run(as_before(plan, stage), say)
    try:
        check_stages(plan, [stage])
    except RecipeError as error:
        say(f"WRONG    {error}")
        return False
    say(
        f"settings, rewards and rows of stage {stage.name} are as they should be, as far as they are there"
    )
    return True
