"""The command ``grpo``: what it can do, each command's arguments, exit codes, errors in one line.

``grpo NAME ...`` is the same as ``python -m grpo.NAME ...`` or ``python -m rewards.NAME ...``. A further command is a
row of `COMMANDS`. Nothing that imports torch is imported before a command runs, so that help and version are quick.

Exit codes: 0 done, 1 a fault, 2 the user's mistake (one line on stderr), 3 stopped on request with a checkpoint saved.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, NoReturn, Sequence

from grpo import __version__, evaluate_command
from rewards.command_line import EXIT_USER, OneLineParser
from rewards.spelling import nearest

if TYPE_CHECKING:
    from grpo.recipe import Recipe

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_STOPPED = 3

SHELLS = ("bash", "zsh")
VERSION_WORDS = ("version", "--version", "-V")


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table.

    ``module`` is what ``python -m`` runs. A command either has ``add_arguments`` and ``run`` (options and the command's
    own name to an exit code), or its module has ``add_arguments`` and a ``main`` of the arguments and that name.
    """

    name: str
    summary: str
    module: str
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    run: Callable[[argparse.Namespace, str], int] | None = None


# ---- train ----------------------------------------------------------------------------------------------------


class _TrainHelp(argparse.RawDescriptionHelpFormatter):
    """Ends with every key of a recipe, which are read only if the help is wanted."""

    def format_help(self) -> str:
        from grpo.recipe.describe import keys_help  # noqa: PLC0415  slow to import

        keys = "keys of a recipe, each also settable as section.key=value:\n" + keys_help()
        return f"{super().format_help()}\n{keys}\n"


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
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


def _run_train(options: argparse.Namespace, command: str) -> int:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.files import shipped_recipes  # noqa: PLC0415  slow to import

    if options.recipe is None:
        raise RecipeError(
            f"{command}: name a recipe: a YAML file, or one of those that ship: "
            f"{', '.join(shipped_recipes())}; {command} --help lists all keys"
        )
    recipe = _recipe_to_train(options, command)
    if options.dry_run:
        from grpo.preflight import dry_run  # noqa: PLC0415  heavy: torch

        for line in dry_run.dry_run(recipe):
            print(line)
        return EXIT_DONE
    if options.preflight:
        from grpo.preflight import preflight  # noqa: PLC0415  heavy: torch

        is_fine = preflight.run(recipe, lambda line: print(_redacted(line), flush=True))
        return EXIT_DONE if is_fine else EXIT_USER
    return _train(recipe, options, command)


def _recipe_to_train(options: argparse.Namespace, command: str) -> Recipe:
    """The recipe that was named, or that of the run folder that was named."""
    from grpo.recipe import Recipe, RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.target import (  # noqa: PLC0415  slow to import
        is_run_folder,
        recipe_of_run,
        run_of,
    )

    run = run_of(options.recipe)
    if run is None or (options.resume is None and not is_run_folder(options.recipe)):
        return Recipe.load(options.recipe, *options.overrides)
    if options.resume is None and not options.dry_run:
        file = shlex.quote(str(Path(options.recipe) / "recipe.yaml"))
        raise RecipeError(
            f"train: {options.recipe} is a run folder; go on with it by: {_again(options, command)}; "
            f"or make another run of its recipe by: {command} {file} run_dir=..."
        )
    return recipe_of_run(run, options.overrides)


def _again(options: argparse.Namespace, command: str) -> str:
    """The command line that continues the run, to be pasted into a shell."""
    words = [*_launcher(command), options.recipe, *options.overrides, "--resume"]
    return shlex.join(words)


def _launcher(command: str) -> list[str]:
    """`command`, or under torchrun what starts as many processes."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" not in os.environ or processes == "1":
        return command.split()
    return ["torchrun", "--nproc-per-node", processes, "-m", "grpo.train"]


def _train(recipe: Recipe, options: argparse.Namespace, command: str) -> int:
    from grpo.run import folder  # noqa: PLC0415  slow to import

    has_run = (recipe.folder() / "recipe.yaml").is_file()
    if options.resume == "auto" and has_run and folder.is_finished(recipe.folder(), recipe):
        print(f"the run in {recipe.folder()} is finished: all {recipe.steps} steps are made")
        return EXIT_DONE
    resume = options.resume == "last" or (options.resume == "auto" and has_run)
    if _is_first_rank():
        folder.check_folder(recipe.folder(), recipe, resume)  # before torch is imported
    return _steps(recipe, resume, _again(options, command))


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _steps(recipe: Recipe, resume: bool, again: str) -> int:
    """Make the run's steps; `again` is the command line that continues it."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.run.log import append_console  # noqa: PLC0415  heavy: torch
    from grpo.run.setup import hide_progress_bars  # noqa: PLC0415  heavy: torch
    from grpo.train import Trainer  # noqa: PLC0415  heavy: torch

    hide_progress_bars()
    trainer = Trainer(recipe, resume=resume)
    try:
        with _stopping_on_signals(trainer):
            for _ in trainer:
                pass
    except RecipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the process's border
        code = EXIT_FAULT
        lines = _failure(error, _what_stands(recipe.folder(), again))
    else:
        if not trainer.stopped:
            return EXIT_DONE
        code = EXIT_STOPPED
        lines = [f"stopped after step {trainer.num_steps}; continue with: {again}"]
    for line in lines:
        print_error(line)
    if _is_first_rank():
        append_console(recipe.folder(), [_redacted(line) for line in lines])
    return code


def _failure(error: BaseException, standing: str) -> list[str]:
    """What is said of a run that broke off; `standing` is what is left of it."""
    from grpo.run.failures import explain  # noqa: PLC0415  heavy: torch

    if isinstance(error, KeyboardInterrupt):
        return [f"stopped at once; {standing}"]
    return explain(error, standing)


def _what_stands(run: Path, again: str) -> str:
    """What a run that broke off can go on from."""
    from grpo.run.checkpoint import newest_step  # noqa: PLC0415  heavy: torch

    step = newest_step(run)
    if step is not None:
        return f"the checkpoint of step {step} stands; continue with: {again}"
    if (run / "recipe.yaml").is_file():
        return f"no checkpoint was saved yet; begin again with: {again}"
    return "nothing was saved yet"


@contextmanager
def _stopping_on_signals(trainer: Any) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop the trainer after its step, the second at once."""

    def stop(number: int, frame: object) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt
        last = f" (the last one took {trainer.step_seconds:.0f} s)" if trainer.step_seconds else ""
        print(f"stopping after this step{last}; once more to stop at once", file=sys.stderr)
        trainer.request_stop()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


# ---- evaluate and sample --------------------------------------------------------------------------------------


def _add_model_arguments(parser: argparse.ArgumentParser, recipe_help: str) -> None:
    parser.add_argument(
        "target", metavar="MODEL_OR_RUN", help="run folder, model folder, .gguf file or hub id"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="recipe keys, e.g. sample.max_tokens=256",
    )
    parser.add_argument("--recipe", help=recipe_help)
    parser.add_argument(
        "--data", help="hub id, data file or pattern of files, or a procedural task's name"
    )


def _overrides(values: dict[str, Any]) -> list[str]:
    """``key=value`` for each value that was given."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def _add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Sampling follows the recipe's sample section: sample.temperature=0.7 sample.top_p=0.95 ..."
    )
    _add_model_arguments(parser, "take data and sampling from this recipe")
    parser.add_argument("--n", type=int, default=1, help="completions for each prompt; default 1")
    parser.add_argument("--rows", type=int, help="take this many rows of the data; default: all")
    parser.add_argument(
        "--tokens", action="store_true", help="write token ids and their log-probs too"
    )
    parser.add_argument("--out", type=Path, help="write to this file; default: standard output")


def _run_sample(options: argparse.Namespace, command: str) -> int:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.target import evaluation_recipe  # noqa: PLC0415  slow to import

    for name in ("n", "rows"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise RecipeError(f"sample: --{name} is {value}; it must be at least 1")
    overrides = [*_overrides({"data.source": options.data}), *options.overrides]
    recipe = evaluation_recipe(options.target, options.recipe, overrides, command="sample")
    from grpo.run.setup import hide_progress_bars  # noqa: PLC0415  heavy: torch
    from grpo.sample import write  # noqa: PLC0415  heavy: torch

    hide_progress_bars()
    file = options.out.open("w", encoding="utf-8") if options.out else nullcontext(sys.stdout)
    try:
        with file as out:
            report = write(recipe, out, n=options.n, rows=options.rows, with_tokens=options.tokens)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    print(json.dumps(report), file=sys.stderr)
    return EXIT_DONE


# ---- convert --------------------------------------------------------------------------------------------------


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Says for each setting what became of it; nothing is dropped without a word. The recipe goes to "
        "standard output, or to the file of --out."
    )
    parser.add_argument(
        "file",
        help="TRL's YAML, its GRPOConfig as JSON, or a Python script that builds one; verl's YAML, or a "
        "shell script that starts it",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="recipe keys to set, e.g. data.source=rows.jsonl",
    )
    parser.add_argument(
        "--from",
        dest="trainer",
        choices=("trl", "verl"),
        help="whose settings they are; default: seen by their names",
    )
    parser.add_argument("--out", type=Path, help="write the recipe to this file")


def _run_convert(options: argparse.Namespace, command: str) -> int:
    from grpo.convert import convert_file  # noqa: PLC0415  slow to import

    converted = convert_file(Path(options.file), options.trainer, options.overrides, options.out)
    if options.out is None:
        print(converted.yaml, end="")
    print("\n".join(converted.report), file=sys.stderr)
    return EXIT_DONE


# ---- completion -----------------------------------------------------------------------------------------------


def _add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "bash: grpo completion bash > ~/.local/share/bash-completion/completions/grpo"
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def _run_completion(options: argparse.Namespace, command: str) -> int:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    try:
        import shtab  # noqa: PLC0415  optional
    except ImportError:
        raise RecipeError(
            "completion: the package shtab is not installed; install it with: pip install shtab"
        ) from None
    print(shtab.complete(whole_parser(), options.shell))
    return EXIT_DONE


def whole_parser() -> argparse.ArgumentParser:
    """One parser over all commands, for shell completion."""
    parser = OneLineParser(prog="grpo")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.summary)
        if command.add_arguments is not None:
            command.add_arguments(own)
        else:
            import_module(command.module).add_arguments(own)
    return parser


# ---- the table ------------------------------------------------------------------------------------------------

COMMANDS = (
    Command(
        name="train",
        summary="train a causal language model by group-relative policy optimisation",
        module="grpo.train",
        add_arguments=_add_train_arguments,
        run=_run_train,
    ),
    Command(
        name="evaluate",
        summary="held-out accuracy of models or of runs' final models, with 95 % intervals, and comparisons",
        module="grpo.evaluate",
        add_arguments=evaluate_command.add_arguments,
        run=evaluate_command.run,
    ),
    Command(
        name="sample",
        summary="completions of a model, or of a run's final model, as JSON lines",
        module="grpo.sample",
        add_arguments=_add_sample_arguments,
        run=_run_sample,
    ),
    Command(
        name="score",
        summary="score completions, one JSON object a line",
        module="rewards.score",
    ),
    Command(
        name="check",
        summary="check that a reward and a data set fit",
        module="rewards.check",
    ),
    Command(
        name="convert",
        summary="write a recipe from a TRL or verl configuration, and say what became of each key",
        module="grpo",
        add_arguments=_add_convert_arguments,
        run=_run_convert,
    ),
    Command(
        name="completion",
        summary="print a script that completes these commands in a shell",
        module="grpo",
        add_arguments=_add_completion_arguments,
        run=_run_completion,
    ),
)
BY_NAME = {command.name: command for command in COMMANDS}


# ---- running one ----------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``grpo``; returns the exit code. Without arguments it lists the commands."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = arguments[0] if arguments else "--help"
    if first in ("help", "--help", "-h") and len(arguments) > 1 and arguments[1] in BY_NAME:
        arguments = [arguments[1], "--help"]
        first = arguments[0]
    if first in ("help", "--help", "-h"):
        print("\n".join(overview()))
        return EXIT_DONE
    if first in VERSION_WORDS:
        print(f"grpo {__version__}")
        return EXIT_DONE
    if first not in BY_NAME:
        hint = nearest(first, BY_NAME)
        print_error(
            f"grpo: there is no command {first}{hint}; the commands are {', '.join(BY_NAME)}"
        )
        return EXIT_USER
    return run_command(BY_NAME[first], arguments[1:], f"grpo {first}")


def overview() -> Iterator[str]:
    """What ``grpo`` prints by itself."""
    yield f"grpo {__version__}: reinforcement learning of reasoning models by GRPO"
    yield ""
    width = max(map(len, BY_NAME))
    for command in COMMANDS:
        yield f"  grpo {command.name:<{width}}  {command.summary}"
    yield ""
    yield "grpo COMMAND --help lists a command's arguments; grpo --version prints the version"


def run_module(name: str, arguments: Sequence[str] | None) -> int:
    """What ``python -m grpo.NAME`` does; returns the exit code."""
    command = BY_NAME[name]
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(command, arguments, f"python -m {command.module}")


def run_command(command: Command, arguments: Sequence[str], shown: str) -> int:
    """Parse `arguments` and run; `shown` is what the user typed to get here."""
    if list(arguments[:1]) in (["--version"], ["-V"]):
        print(f"grpo {__version__}")
        return EXIT_DONE
    if command.run is None or command.add_arguments is None:
        return import_module(command.module).main(arguments, shown)
    parser = KeyParser(prog=shown, description=f"{_capitalised(command.summary)}.")
    command.add_arguments(parser)
    # with a value at once, so that what follows the flag is not taken for it
    resumable = ["--resume=last" if word == "--resume" else word for word in arguments]
    options = parser.parse_intermixed_args(resumable)
    return _outcome(command.run, options, shown)


def _outcome(
    run: Callable[[argparse.Namespace, str], int], options: argparse.Namespace, shown: str
) -> int:
    """The exit code of a command; what goes wrong is said on standard error."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    try:
        return run(options, shown)
    except RecipeError as error:
        print_error(" ".join(str(error).split()))
        return EXIT_USER
    except KeyboardInterrupt:
        print_error("stopped at once")
        return EXIT_FAULT
    except Exception as error:  # noqa: BLE001  the process's border
        from grpo.run.failures import explain  # noqa: PLC0415  heavy: torch

        for message in explain(error):
            print_error(message)
        return EXIT_FAULT


class KeyParser(OneLineParser):
    """Also answers an option that is another trainer's, or a key of the recipe with two dashes before it."""

    def error(self, message: str) -> NoReturn:
        """Print the user's mistake and exit."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and unknown.startswith("--"):
            from grpo.recipe.build import advice_on_key  # noqa: PLC0415  slow to import

            name = unknown.split()[0].removeprefix("--").partition("=")[0]
            message += advice_on_key(name)
        super().error(message)


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def print_error(message: str) -> None:
    """Say on standard error what went wrong, without the secrets that foreign errors may repeat."""
    print(_redacted(message), file=sys.stderr)


def _redacted(message: str) -> str:
    from grpo.monitor.redaction import redacted  # noqa: PLC0415  slow to import

    return redacted(message)
