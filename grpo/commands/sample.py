"""The command ``grpo sample``: its arguments, and where the lines go.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from grpo.commands.exit_codes import EXIT_DONE
from grpo.commands.screen import add_screen_options, loading_libraries, opened

if TYPE_CHECKING:
    from grpo.recipe import Recipe
    from grpo.report.console.console import Console


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    add_screen_options(parser)


def run(options: argparse.Namespace, command: str) -> int:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.target import evaluation_recipe  # noqa: PLC0415  slow to import

    for name in ("n", "rows"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise RecipeError(f"sample: --{name} is {value}; it must be at least 1")
    other = ["data.sources={}", "data.held_out=0"] if options.data else []
    overrides = [*other, *_overrides({"data.source": options.data}), *options.overrides]
    recipe = evaluation_recipe(options.target, options.recipe, overrides, command="sample")
    file = options.out.open("w", encoding="utf-8") if options.out else nullcontext(sys.stdout)
    try:
        with file as out, opened(options, stream=sys.stderr) as console:
            report = _sample(recipe, options, out, console)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    print(json.dumps(report), file=sys.stderr)
    return EXIT_DONE


def _sample(
    recipe: Recipe, options: argparse.Namespace, out: TextIO, console: Console
) -> dict[str, Any]:
    """Write the completions to `out`, their progress to the console."""
    with loading_libraries(console):
        from grpo.run.setup import hide_progress_bars  # noqa: PLC0415  heavy: torch
        from grpo.sample import write  # noqa: PLC0415  heavy: torch

    hide_progress_bars()
    with console.working():
        return write(
            recipe,
            out,
            n=options.n,
            rows=options.rows,
            with_tokens=options.tokens,
            say=console.say,
        )
