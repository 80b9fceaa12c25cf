"""The command ``grpo export``: its arguments, and what it prints. The work is done by ``grpo.export``.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grpo.commands.exit_codes import EXIT_DONE

if TYPE_CHECKING:
    pass

FORMS = ("gguf", "safetensors", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "Every file is loaded back and compared with the model; a model card (README.md) and export.json are written "
        "beside it. --compare also evaluates the held-out rows at each precision, and lets llama.cpp answer where "
        "the package xllamacpp is installed. docs/export.md says which models, tokenizers and formats."
    )
    parser.add_argument(
        "target", metavar="RUN_OR_MODEL", help="run folder, model folder, .gguf file or hub id"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="recipe keys, e.g. evaluate.samples=1 or model.revision=main",
    )
    parser.add_argument("--to", required=True, choices=FORMS, dest="form", help="the form")
    parser.add_argument(
        "--precision",
        nargs="+",
        default=[],
        metavar="NAME",
        help="gguf: F32, F16 (default), BF16, Q8_0, Q4_K, one or more; safetensors: F32, F16 or BF16, default "
        "as the model is kept",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        metavar="PATH",
        help="the folder to make; for one GGUF file also its name, ending in .gguf",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="measure log-probs and held-out accuracy at each precision beside the model's",
    )
    parser.add_argument("--recipe", help="for a model: take data and rewards from this recipe")
    parser.add_argument(
        "--license", metavar="NAME", help="the licence that the card states, e.g. apache-2.0"
    )
    parser.add_argument(
        "--pre",
        metavar="NAME",
        help="gguf: how llama.cpp splits text (tokenizer.ggml.pre), where it is not found by itself",
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload the folder to the hub, as a private repository unless it exists",
    )


def run(options: argparse.Namespace, command: str) -> int:
    """Export, print where everything is and what it costs, and return the exit code."""
    from grpo.export.card import comparison_table, nats  # noqa: PLC0415  heavy: torch
    from grpo.export.write import Wanted, export  # noqa: PLC0415  heavy: torch
    from grpo.run.setup import hide_progress_bars  # noqa: PLC0415  heavy: torch

    hide_progress_bars()
    wanted = Wanted(
        target=options.target,
        form=options.form,
        out=options.out,
        precisions=tuple(options.precision),
        recipe=options.recipe,
        overrides=tuple(options.overrides),
        licence=options.license,
        pre=options.pre,
        compare=options.compare,
        repo=options.push,
    )
    report = export(wanted, _say)
    for part in report.exported:
        written = part.written
        size = f"{written.num_bytes / 1e6:.3g} MB"
        check = f"log-probs of arbitrary tokens off by {nats(part.check.mean)} nats"
        print(f"{written.path}: {written.precision}, {size}, loads back as the model, {check}")
    if report.compared:
        print()
        print("\n".join(comparison_table(report.compared)))
    if report.address:
        print(f"uploaded to {report.address}")
    return EXIT_DONE


def _say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
