"""``grpo train`` of a recipe with stages: dry run, preflight, or all stages, their signals, their last words.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Callable, ContextManager

from grpo.commands.exit_codes import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED
from grpo.commands.messages import print_error, without_secrets
from grpo.commands.screen import loading_libraries, opened
from rewards.command_line import EXIT_USER

if TYPE_CHECKING:
    from grpo.recipe.plan import Plan
    from grpo.stages.pipeline import Pipeline

Signals = Callable[[Any], ContextManager[Event]]
Failure = Callable[[BaseException, str], list[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that only a recipe with stages has."""
    parser.add_argument(
        "--from",
        dest="begin_at",
        metavar="STAGE",
        help="of a recipe with stages: run this stage and all after it anew",
    )
    parser.add_argument(
        "--only",
        metavar="STAGE",
        help="of a recipe with stages: run this stage alone, anew; what was made of it counts as not done",
    )


def is_meant(options: argparse.Namespace) -> bool:
    """Whether the recipe that was named has stages; `RecipeError` if an option needs them and it has none."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.plan import has_stages  # noqa: PLC0415  slow to import

    if has_stages(options.recipe):
        return True
    for option, value in (("--from", options.begin_at), ("--only", options.only)):
        if value is not None:
            raise RecipeError(f"{option} names a stage, and {options.recipe} has no stages")
    return False


def run(options: argparse.Namespace, again: str, *, stopping: Signals, explained: Failure) -> int:
    """Run what is asked for; `again` is the command line that goes on.

    ``stopping`` lets signals stop what it is given until the event is set, ``explained`` says why something broke off.
    """
    plan = _plan(options, again)
    if options.dry_run:
        from grpo.preflight import stages  # noqa: PLC0415  heavy: torch

        for line in stages.dry_run(plan):
            print(line)
        return EXIT_DONE
    if options.preflight:
        with opened(options) as console:
            with loading_libraries(console):
                from grpo.preflight import stages  # noqa: PLC0415  heavy: torch

            with console.working():
                is_fine = stages.preflight(plan, lambda line: console.say(without_secrets(line)))
        return EXIT_DONE if is_fine else EXIT_USER
    return _train(options, plan, again, stopping=stopping, explained=explained)


def _plan(options: argparse.Namespace, again: str) -> Plan:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.plan import Plan  # noqa: PLC0415  slow to import
    from grpo.recipe.target import run_of  # noqa: PLC0415  slow to import

    anew = options.begin_at or options.only
    if anew and options.resume is not None:
        raise RecipeError(
            "--resume goes on with what was interrupted, and --from and --only begin a stage anew; give one of them"
        )
    run = run_of(options.recipe)
    if run is None and Path(options.recipe).is_dir():
        run = options.recipe
    if run is None:
        return Plan.load(options.recipe, *options.overrides)
    if options.resume is None and not anew and not (options.dry_run or options.preflight):
        raise RecipeError(
            f"train: {options.recipe} is the folder of a run with stages; go on with it by: {again}; or name a stage "
            "by --from or --only"
        )
    return Plan.of_run(run, *options.overrides)


def _train(
    options: argparse.Namespace, plan: Plan, again: str, *, stopping: Signals, explained: Failure
) -> int:
    from grpo.cost.meter import begin_here  # noqa: PLC0415  slow to import
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.report.pipeline import DONE, PipelineFolder  # noqa: PLC0415  slow to import

    begin_here()
    has_run = (plan.folder / "recipe.yaml").is_file()
    states = PipelineFolder(plan.folder).states()
    if options.resume == "auto" and len(states) == len(plan.stages):
        if all(state.status == DONE for state in states):
            print(f"the run in {plan.folder} is finished, with all {len(states)} stages done")
            return EXIT_DONE
    with opened(options) as console, loading_libraries(console):
        from grpo.run.inputs import is_first_rank  # noqa: PLC0415  heavy: torch
        from grpo.run.log import append_console  # noqa: PLC0415  heavy: torch
        from grpo.stages.pipeline import Pipeline  # noqa: PLC0415  heavy: torch

    pipeline = Pipeline(
        plan,
        resume=options.resume == "last" or (options.resume == "auto" and has_run),
        begin_at=options.begin_at,
        only=options.only,
        quiet=options.quiet,
        verbose=options.verbose,
    )

    def keep(folder: Path, *lines: str) -> None:
        if is_first_rank():
            append_console(folder, [without_secrets(line) for line in lines])

    with stopping(pipeline) as has_ended:
        try:
            pipeline.train()
        except RecipeError as error:
            if not pipeline.last:
                raise
            made = plan.stage(pipeline.last, "stage").data_from
            hint = f" (rows that {made} left: other ones by --from {made})" if made else ""
            after = f"{error}{hint}; {_standing(pipeline)}. To resume, once that is mended: {again}"
            keep(plan.folder, after)
            raise RecipeError(after) from error
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the process's border
            code = EXIT_FAULT
            *before, last = explained(error, _standing(pipeline))
            last = last if _standing(pipeline) in last else f"{last}; {_standing(pipeline)}"
            keep(pipeline.folder_of_last, *before, last)
            lines = [*before, f"stage {pipeline.last}: {last}. To resume: {again}"]
        else:
            code = EXIT_STOPPED if pipeline.stopped else EXIT_DONE
            words = f"stopped {pipeline.stopped_at}. To resume: {again}"
            lines = [words] if pipeline.stopped else []
        has_ended.set()
        for line in lines:
            print_error(line)
        keep(plan.folder, *lines)
    return code


def _standing(pipeline: Pipeline) -> str:
    """What is left of a run that broke off."""
    done = [state.name for state in pipeline.book.states if state.status == "done"]
    return f"what stands: {', '.join(done)}" if done else "no stage was done yet"
