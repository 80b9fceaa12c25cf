"""The command ``grpo watch``: its arguments and exit code. What is shown is up to ``grpo.report.console.watch``.

Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from grpo.commands.exit_codes import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED

if TYPE_CHECKING:
    from grpo.report.folder import RunFolder
    from grpo.report.pipeline import PipelineFolder

LOOK_SECONDS = 0.5
CODES = {"finished": EXIT_DONE, "stopped": EXIT_STOPPED, "failed": EXIT_FAULT}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "Reads the run's files and writes nothing; Ctrl-C leaves, and the run goes on. The exit code is that of the "
        "run: 0 finished, 3 stopped, 1 failed."
    )
    parser.add_argument(
        "run_folder", metavar="RUN", help="the folder of a run, or of a recipe with stages"
    )


def run(options: argparse.Namespace, command: str) -> int:
    """Show the run until it ends or the user leaves; returns the exit code."""
    from grpo.report.folder import RunFolder  # noqa: PLC0415  slow to import
    from grpo.report.pipeline import PipelineFolder  # noqa: PLC0415  slow to import

    stages = PipelineFolder.at(options.run_folder)
    try:
        if stages is not None:
            return _watch_stages(stages)
        return _watch_run(RunFolder.at(options.run_folder))
    except KeyboardInterrupt:
        return EXIT_DONE


def _watch_run(folder: RunFolder) -> int:
    from grpo.report.console.console import open_console  # noqa: PLC0415  slow to import
    from grpo.report.console.watch import watch  # noqa: PLC0415  slow to import

    console = open_console()
    try:
        state = watch(folder, console)
    finally:
        console.close()
    return CODES.get(state.name, EXIT_DONE)


def _watch_stages(folder: PipelineFolder) -> int:
    """Show one stage after the other as it runs, then what became of all."""
    from grpo.report.pipeline import DONE, FAILED, RUNNING  # noqa: PLC0415  slow to import

    print("\n".join(folder.lines()), flush=True)
    watched = ""
    while folder.is_running():
        running = [state for state in folder.states() if state.status == RUNNING]
        is_there = running and (folder.path / running[0].folder / "recipe.yaml").is_file()
        if not is_there or running[0].name == watched:
            time.sleep(LOOK_SECONDS)
            continue
        watched = running[0].name
        print(f"\nstage {watched}", flush=True)
        _watch_run(folder.run(running[0]))
    if watched:
        print("\n".join(["", *folder.lines()]))
    print(folder.table(), end="")
    statuses = {state.status for state in folder.states()}
    if statuses == {DONE}:
        return EXIT_DONE
    return EXIT_FAULT if FAILED in statuses else EXIT_STOPPED
