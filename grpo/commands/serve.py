"""The command ``grpo serve``: its arguments. The work is done by ``grpo.run.serving``.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from grpo.commands.exit_codes import EXIT_DONE, EXIT_FAULT
from grpo.commands.messages import print_error
from grpo.commands.ports import port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "vLLM or SGLang runs in an environment of its own, never in the trainer's. Everything that a run checks of its "
        "servers is set; once the server is what the recipe wants, a line with its address for sample.servers follows. "
        "The endpoints that take weights know no password: they listen on 127.0.0.1 unless --host says otherwise."
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe that ships")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="recipe keys to set"
    )
    parser.add_argument(
        "--engine",
        choices=["vllm", "sglang"],
        help="what to start (default: the recipe's sample.engine if servers sample, else vllm)",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the Python of the environment that has it (default: this one)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where it listens")
    parser.add_argument("--port", type=port, default=8000, help="where it listens (default: 8000)")
    parser.add_argument(
        "--max-model-len",
        type=int,
        metavar="N",
        help="the longest prompt with its completion, in tokens (default: data.max_prompt_tokens + "
        "sample.max_tokens, or what the model takes)",
    )
    parser.add_argument("--cpu", action="store_true", help="the environment's vLLM is one for CPUs")
    parser.add_argument(
        "--server-args",
        "--vllm-args",
        default="",
        metavar="WORDS",
        help="further arguments of vLLM or SGLang in one string, e.g. '--tensor-parallel-size 2'",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="how long it may take to load (default: 1800)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the command that would start it, and end"
    )


def run(options: argparse.Namespace, command: str) -> int:
    """Start the server and stay with it; returns the exit code."""
    from grpo.recipe import Recipe  # noqa: PLC0415  slow to import
    from grpo.run import serving  # noqa: PLC0415  heavy: torch

    recipe = Recipe.load(options.recipe, *options.overrides)
    wanted = serving.Serving(
        python=options.python,
        engine=options.engine or (recipe.sample.engine if recipe.sample.is_served else "vllm"),
        host=options.host,
        port=options.port,
        max_tokens=options.max_model_len,
        on_cpu=options.cpu,
        arguments=tuple(shlex.split(options.server_args)),
    )
    if options.dry_run:
        print(wanted.shown(recipe))
        return EXIT_DONE
    serving.check(recipe, wanted)
    try:
        serving.serve(recipe, wanted, lambda line: print(line, flush=True), options.timeout)
    except serving.ServerEnded as error:
        print_error(f"stopped: {error}")
        return EXIT_FAULT
    return EXIT_DONE
