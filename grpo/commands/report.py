"""The command ``grpo report``: one page about one or more runs, from their folders alone. No torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from grpo.commands.exit_codes import EXIT_DONE

if TYPE_CHECKING:
    from grpo.report.folder import RunFolder

NO_PAGE = {
    "evaluate": "its accuracies are in summary.json and in the table of all stages",
    "export": "its files and the model card are in files/",
}
"""Where the result of a stage is that no page is about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The page is one file and needs no network. A run may still be under way."
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder; several are laid over each other, as are the stages of a recipe with stages",
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
    from grpo.report.html.page import REPORT, write_report  # noqa: PLC0415  slow to import
    from grpo.report.pipeline import PipelineFolder, runs_at  # noqa: PLC0415  slow to import

    targets = list(dict.fromkeys(options.runs))
    folders = [run for target in targets for run in runs_at(target)]
    for folder in folders:
        _check_trains(folder, command)
    out = options.out
    if out is None and len(targets) == 1:
        place = PipelineFolder.at(targets[0]) or folders[0]
        out = place.path / REPORT
    elif out is None:
        out = Path(REPORT)
    try:
        written = write_report(folders, out)
    except OSError as error:
        raise RecipeError(
            f"{command}: {out} cannot be written: {error.strerror or error}"
        ) from None
    print(f"{written}  {written.stat().st_size / 1e6:.1f} MB")
    return EXIT_DONE


def _check_trains(folder: RunFolder, command: str) -> None:
    """Refuse the folder of a stage that has nothing for a page, with where its result is."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import

    result = NO_PAGE.get(str(folder.recipe().get("stage")))
    if result is not None:
        raise RecipeError(
            f"{command}: {folder.path} is of the stage {folder.recipe()['stage']}, which makes no steps to show; "
            f"{result}, and grpo watch prints it"
        )
