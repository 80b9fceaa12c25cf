"""``grpo train``, ``sft``, ``distill`` and ``reject``: dry run, preflight, or the run, its signals, its last words.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from grpo.commands import stages
from grpo.commands.exit_codes import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED
from grpo.commands.messages import print_error, without_secrets
from grpo.commands.screen import add_screen_options, loading_libraries, opened
from rewards.command_line import EXIT_USER
from rewards.spelling import many

if TYPE_CHECKING:
    from grpo.recipe import Recipe
    from grpo.report.console.console import Console


class _TrainHelp(argparse.RawDescriptionHelpFormatter):
    """Ends with every key of a recipe, which are read only if the help is wanted."""

    def format_help(self) -> str:
        from grpo.recipe.describe import keys_help  # noqa: PLC0415  slow to import

        keys = "keys of a recipe, each also settable as section.key=value:\n" + keys_help()
        return f"{super().format_help()}\n{keys}\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = _TrainHelp
    parser.add_argument(
        "recipe",
        nargs="?",
        help="a YAML file, the name of a recipe that ships with the library, or with --resume a run folder",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="recipe keys to set, e.g. optim.lr=1e-5",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        choices=("last", "auto"),
        const="last",
        metavar="=auto",
        help="continue from the run folder's last checkpoint; --resume=auto begins the run if there is "
        "none, and does nothing if it is finished: for job scripts",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done, and do nothing"
    )
    parser.add_argument(
        "--preflight",
        action="store_true",
        help="find out what can be known before the first step: "
        "data, rewards on gold answers, memory, a sample of completions, the cost; writes nothing",
    )
    stages.add_arguments(parser)
    add_screen_options(parser, has_details=True)


def run(options: argparse.Namespace, command: str) -> int:
    """``grpo train``: a run of whatever stage the recipe is."""
    return _run(options, command)


def run_sft(options: argparse.Namespace, command: str) -> int:
    """``grpo sft``: a run of stage sft, of a recipe, or of a model and the rows that ``data.source`` names."""
    if _is_model_with_rows(options) and not stages.is_meant(options):
        return run_recipe(_recipe_of_model(options, "sft"), options, command)
    return _run(options, command, "stage=sft")


def _is_model_with_rows(options: argparse.Namespace) -> bool:
    """Whether what was named can only be a model: neither a recipe nor a run folder, and with data of its own."""
    from grpo.recipe.files import shipped_recipes  # noqa: PLC0415  slow to import
    from grpo.recipe.target import run_of  # noqa: PLC0415  slow to import

    target = options.recipe
    if target is None or Path(target).suffix in (".yaml", ".yml") or target in shipped_recipes():
        return False
    has_rows = any(override.startswith("data.source=") for override in options.overrides)
    return has_rows and run_of(target) is None


def _recipe_of_model(options: argparse.Namespace, stage: str) -> Recipe:
    """A recipe of the stage that leaves all at its default but what was given."""
    from grpo.recipe import Recipe  # noqa: PLC0415  slow to import

    values = {"stage": stage, "name": f"{Path(options.recipe).name}-{stage}"}
    return Recipe.from_mapping(
        values, f"model.name={json.dumps(options.recipe)}", *options.overrides
    )


def run_distill(options: argparse.Namespace, command: str) -> int:
    """``grpo distill``: a run of stage distill."""
    return _run(options, command, "stage=distill")


def run_reject(options: argparse.Namespace, command: str) -> int:
    """``grpo reject``: a run of stage reject, of a recipe."""
    return _run(options, command, "stage=reject")


def _run(options: argparse.Namespace, command: str, *settings: str) -> int:
    """`settings` are overrides that the command itself makes, below those of its arguments."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.files import shipped_recipes  # noqa: PLC0415  slow to import

    if options.recipe is None:
        raise RecipeError(
            f"{command}: name a recipe: a YAML file, or one of those that ship: "
            f"{', '.join(shipped_recipes())}; {command} --help lists all keys"
        )
    if stages.is_meant(options):
        if settings:
            raise RecipeError(
                f"{command}: {options.recipe} has stages; run them by grpo train, and one of them by --only"
            )
        again = _again(options, command)
        return stages.run(options, again, stopping=_stopping_on_signals, explained=_failure)
    return run_recipe(_recipe_to_train(options, command, settings), options, command)


def run_recipe(recipe: Recipe, options: argparse.Namespace, command: str) -> int:
    """A dry run, the preflight or the run of a recipe, as the options say; returns the exit code."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    if options.dry_run:
        from grpo.preflight import dry_run  # noqa: PLC0415  heavy: torch

        for line in dry_run.dry_run(recipe):
            print(line)
        return EXIT_DONE
    if options.preflight and not recipe.samples_to_learn:
        raise RecipeError(
            f"{command}: --preflight is of runs that learn from their own completions, and the recipe's stage is "
            f"{recipe.stage}; --dry-run shows what it reads and does"
        )
    return _preflight(recipe, options) if options.preflight else _train(recipe, options, command)


def _preflight(recipe: Recipe, options: argparse.Namespace) -> int:
    with opened(options) as console:
        with loading_libraries(console):
            from grpo.preflight import preflight  # noqa: PLC0415  heavy: torch

        with console.working():
            is_fine = preflight.run(recipe, lambda line: console.say(without_secrets(line)))
    return EXIT_DONE if is_fine else EXIT_USER


def _recipe_to_train(options: argparse.Namespace, command: str, settings: Sequence[str]) -> Recipe:
    """The recipe that was named, or that of the run folder that was named."""
    from grpo.recipe import Recipe, RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.target import (  # noqa: PLC0415  slow to import
        is_run_folder,
        recipe_of_run,
        run_of,
    )

    run = run_of(options.recipe)
    if run is None or (options.resume is None and not is_run_folder(options.recipe)):
        return Recipe.load(options.recipe, *settings, *options.overrides)
    if options.resume is None and not options.dry_run:
        file = shlex.quote(str(Path(options.recipe) / "recipe.yaml"))
        name = command.split()[-1].removeprefix("grpo.")
        raise RecipeError(
            f"{name}: {options.recipe} is a run folder; go on with it by: {_again(options, command)}; "
            f"or make another run of its recipe by: {command} {file} run_dir=..."
        )
    return recipe_of_run(run, [*settings, *options.overrides])


def _again(options: argparse.Namespace, command: str) -> str:
    """The command line that continues the run, to be pasted into a shell."""
    words = [*_launcher(command), options.recipe, *options.overrides, "--resume"]
    return shlex.join(words)


def _launcher(command: str) -> list[str]:
    """`command`, or under torchrun what starts as many processes; on several machines, on each of them."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" not in os.environ or (processes, machines) == ("1", "1"):
        return command.split()
    name = command.split()[-1].removeprefix("grpo.")
    words = ["torchrun", "--nproc-per-node", processes]
    if machines != "1":
        words += ["--nnodes", machines, "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:PORT"]
    return [*words, "-m", "grpo", name]


def _train(recipe: Recipe, options: argparse.Namespace, command: str) -> int:
    from grpo.run import folder  # noqa: PLC0415  slow to import

    has_run = (recipe.folder() / "recipe.yaml").is_file()
    if options.resume == "auto" and has_run and folder.is_finished(recipe.folder(), recipe):
        print(f"the run in {recipe.folder()} is finished, with {many(recipe.steps, 'step')} made")
        return EXIT_DONE
    resume = options.resume == "last" or (options.resume == "auto" and has_run)
    if _is_first_rank():
        folder.check_folder(recipe.folder(), recipe, resume)  # before torch is imported
    options.quiet = options.quiet or not _is_first_rank()
    with opened(options) as console:
        return _steps(recipe, resume, _again(options, command), console)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _steps(recipe: Recipe, resume: bool, again: str, console: Console) -> int:
    """Make the run's steps; `again` is the command line that continues it."""
    from grpo.cost.meter import begin_here  # noqa: PLC0415  slow to import
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.report.console.opening import title  # noqa: PLC0415  slow to import

    begin_here()
    console.title(title(recipe))
    with loading_libraries(console):
        from grpo.run.log import append_console  # noqa: PLC0415  heavy: torch
        from grpo.run.setup import hide_progress_bars  # noqa: PLC0415  heavy: torch
        from grpo.stages import trainer_of  # noqa: PLC0415  heavy: torch

    hide_progress_bars()
    trainer = trainer_of(recipe)(recipe, resume=resume, console=console)
    with _stopping_on_signals(trainer) as has_ended:
        try:
            for _ in trainer:
                pass
        except RecipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the process's border
            code, lines = _broken_off(error, trainer, again)
        else:
            code, lines = _ended(trainer, again)
        has_ended.set()
        for line in lines:
            print_error(line)
        if lines and _is_first_rank():
            append_console(recipe.folder(), [without_secrets(line) for line in lines])
    return code


def _broken_off(error: BaseException, trainer: Any, again: str) -> tuple[int, list[str]]:
    """(the exit code, what is said) of a run that raised `error`; one that was stopped had only to close."""
    if isinstance(error, KeyboardInterrupt) and trainer.stopped:
        return _ended(trainer, again)
    return EXIT_FAULT, _failure(error, _what_stands(trainer.folder, again))


def _ended(trainer: Any, again: str) -> tuple[int, list[str]]:
    """(the exit code, what is said) of a run that came to its end or was stopped."""
    if not trainer.stopped:
        return EXIT_DONE, []
    return EXIT_STOPPED, [f"stopped after step {trainer.num_steps}. To resume: {again}"]


def _failure(error: BaseException, standing: str) -> list[str]:
    """What is said of a run that broke off; `standing` is what is left of it."""
    from grpo.run.failures import explain  # noqa: PLC0415  heavy: torch

    if isinstance(error, KeyboardInterrupt):
        return [f"stopped at once; {standing}"]
    return explain(error, standing)


def _what_stands(run: Path, again: str) -> str:
    """What a run that broke off can go on from; only the first process, which writes the folder, can know."""
    if not _is_first_rank():
        return f"rank 0 says what stands; if it could not, go on by: {again}"
    from grpo.run.checkpoint import newest_step  # noqa: PLC0415  heavy: torch
    from grpo.stages.rejection.progress import kept_steps  # noqa: PLC0415  heavy: torch

    step = newest_step(run)
    if step is not None:
        return f"the checkpoint of step {step} stands. To resume: {again}"
    steps = kept_steps(run)
    if steps:
        return f"everything up to step {steps} stands. To resume: {again}"
    if (run / "recipe.yaml").is_file():
        return f"no checkpoint was saved yet. To begin again: {again}"
    return "nothing was saved yet"


@contextmanager
def _stopping_on_signals(trainer: Any) -> Iterator[Event]:
    """Let the first SIGINT or SIGTERM stop the trainer after its step, the second at once.

    None does anything once the event is set that the block is given: the last words are then being said.
    """
    has_ended = Event()

    def stop(number: int, frame: object) -> None:
        if has_ended.is_set():
            return
        if trainer.stop_requested or trainer.stopped:
            raise KeyboardInterrupt
        last = f" (the last one took {trainer.step_seconds:.0f} s)" if trainer.step_seconds else ""
        print(f"stopping after this step{last}; once more to stop at once", file=sys.stderr)
        trainer.request_stop()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield has_ended
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
