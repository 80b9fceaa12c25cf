"""The command ``grpo convert``: a recipe from the settings of another trainer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grpo.commands.exit_codes import EXIT_DONE

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(options: argparse.Namespace, command: str) -> int:
    from grpo.convert import convert_file  # noqa: PLC0415  slow to import

    converted = convert_file(Path(options.file), options.trainer, options.overrides, options.out)
    if options.out is None:
        print(converted.yaml, end="")
    print("\n".join(converted.report), file=sys.stderr)
    return EXIT_DONE


# ---- completion -----------------------------------------------------------------------------------------------
