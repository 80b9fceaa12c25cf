"""The command ``grpo watch``: its arguments and exit code. What is shown is up to ``grpo.report.console.watch``.

Nothing here imports torch.
"""

from __future__ import annotations

import argparse

from grpo.commands.exit_codes import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED

CODES = {"finished": EXIT_DONE, "stopped": EXIT_STOPPED, "failed": EXIT_FAULT}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "Reads the run's files and writes nothing; Ctrl-C leaves, and the run goes on. The exit code is that of the "
        "run: 0 finished, 3 stopped, 1 failed."
    )
    parser.add_argument("run_folder", metavar="RUN", help="the folder of a run")


def run(options: argparse.Namespace, command: str) -> int:
    """Show the run until it ends or the user leaves; returns the exit code."""
    from grpo.report.console.console import open_console  # noqa: PLC0415  slow to import
    from grpo.report.console.watch import watch  # noqa: PLC0415  slow to import
    from grpo.report.folder import RunFolder  # noqa: PLC0415  slow to import

    folder = RunFolder.at(options.run_folder)
    console = open_console()
    try:
        state = watch(folder, console)
    except KeyboardInterrupt:
        return EXIT_DONE
    finally:
        console.close()
    return CODES.get(state.name, EXIT_DONE)
