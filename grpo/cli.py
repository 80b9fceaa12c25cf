"""The command ``grpo``: what it can do, each command's arguments, exit codes, errors in one line.

``grpo NAME ...`` is the same as ``python -m grpo.NAME ...`` or ``python -m rewards.NAME ...``. A further command is a
row of `COMMANDS`. Nothing that imports torch is imported before a command runs, so that help and version are quick.

Exit codes: 0 done, 1 a fault, 2 the user's mistake (one line on stderr), 3 stopped on request with a checkpoint saved.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Callable, Iterator, NoReturn, Sequence

from grpo import __version__
from grpo.commands import (
    chat,
    convert,
    cost,
    evaluate,
    export,
    plan,
    reject,
    report,
    sample,
    selftest,
    serve,
    serve_rewards,
    train,
    watch,
)
from grpo.commands.exit_codes import EXIT_DONE, EXIT_FAULT
from grpo.commands.messages import print_error
from rewards.command_line import EXIT_USER, OneLineParser
from rewards.spelling import nearest

if TYPE_CHECKING:
    pass

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


# ---- completion of the shell ------------------------------------------------------------------------------


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
        add_arguments=train.add_arguments,
        run=train.run,
    ),
    Command(
        name="sft",
        summary="supervised fine-tuning of a causal language model on traces, chats or texts",
        module="grpo.sft",
        add_arguments=train.add_arguments,
        run=train.run_sft,
    ),
    Command(
        name="distill",
        summary="let a model learn from a teacher: on its own completions, or from the teacher's traces",
        module="grpo.distill",
        add_arguments=train.add_arguments,
        run=train.run_distill,
    ),
    Command(
        name="reject",
        summary="rejection sampling: judge many completions a prompt, filter them, keep the best as data to learn from",
        module="grpo",
        add_arguments=reject.add_arguments,
        run=reject.run,
    ),
    Command(
        name="evaluate",
        summary="held-out accuracy of models or of runs' final models, with 95 % intervals, and comparisons",
        module="grpo.evaluate",
        add_arguments=evaluate.add_arguments,
        run=evaluate.run,
    ),
    Command(
        name="sample",
        summary="completions of a model, or of a run's final model, as JSON lines",
        module="grpo.sample",
        add_arguments=sample.add_arguments,
        run=sample.run,
    ),
    Command(
        name="serve",
        summary="start a vLLM or SGLang server that samples for a recipe, with the settings that a run checks",
        module="grpo",
        add_arguments=serve.add_arguments,
        run=serve.run,
    ),
    Command(
        name="serve-rewards",
        summary="judge completions for runs of a recipe on other machines, in workers and a sandbox here",
        module="grpo",
        add_arguments=serve_rewards.add_arguments,
        run=serve_rewards.run,
    ),
    Command(
        name="plan",
        summary="what a step would take on other hardware, by arithmetic: seconds by phase, cost, the bottleneck",
        module="grpo",
        add_arguments=plan.add_arguments,
        run=plan.run,
    ),
    Command(
        name="watch",
        summary="show a run of another process as it goes on: its steps, what it does now, how it ended",
        module="grpo",
        add_arguments=watch.add_arguments,
        run=watch.run,
    ),
    Command(
        name="report",
        summary="write a page about runs: before and after, curves, completions; one file, no network",
        module="grpo",
        add_arguments=report.add_arguments,
        run=report.run,
    ),
    Command(
        name="cost",
        summary="what runs have taken: time of clock, processors and GPUs by phase, tokens, energy, money",
        module="grpo.cost",
        add_arguments=cost.add_arguments,
        run=cost.run,
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
        name="export",
        summary="write a run's final model, or any model, as GGUF, safetensors or int8, checked, with a model card",
        module="grpo.export",
        add_arguments=export.add_arguments,
        run=export.run,
    ),
    Command(
        name="chat",
        summary="talk to a run's final model, or to any model, in the terminal",
        module="grpo.chat",
        add_arguments=chat.add_arguments,
        run=chat.run,
    ),
    Command(
        name="convert",
        summary="write a recipe from a TRL or verl configuration, and say what became of each key",
        module="grpo",
        add_arguments=convert.add_arguments,
        run=convert.run,
    ),
    Command(
        name="selftest",
        summary="check that it computes here what it promises: kernels, gradient, seeds, resume, verdicts",
        module="grpo.selftest",
        add_arguments=selftest.add_arguments,
        run=selftest.run,
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
