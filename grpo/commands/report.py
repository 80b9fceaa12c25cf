"""The command ``grpo report``: one page about one or more runs, from their folders alone. No torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from grpo.commands.exit_codes import EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The page is one file and needs no network. A run may still be under way."
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder; several are laid over each other"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="write the page to this file; default: report.html in the run folder, or of several runs in the "
        "working folder",
    )


def run(options: argparse.Namespace, command: str) -> int:
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.report.folder import RunFolder  # noqa: PLC0415  slow to import
    from grpo.report.html.page import REPORT, write_report  # noqa: PLC0415  slow to import

    folders = [RunFolder.at(target) for target in dict.fromkeys(options.runs)]
    out = options.out
    if out is None:
        out = folders[0].path / REPORT if len(folders) == 1 else Path(REPORT)
    try:
        written = write_report(folders, out)
    except OSError as error:
        raise RecipeError(
            f"{command}: {out} cannot be written: {error.strerror or error}"
        ) from None
    print(f"{written}  {written.stat().st_size / 1e6:.1f} MB")
    return EXIT_DONE
