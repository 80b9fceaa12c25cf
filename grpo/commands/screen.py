"""What the commands that work for long have in common: their options for the screen, and the console they open."""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, TextIO

if TYPE_CHECKING:
    from grpo.report.console.console import Console


def add_screen_options(parser: argparse.ArgumentParser, *, has_details: bool = False) -> None:
    """``--quiet``, and ``--verbose`` where a command `has_details`."""
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print nothing but results and errors"
    )
    if has_details:
        parser.add_argument(
            "-v",
            "--verbose",
            action="store_true",
            help="print the objective as a formula, kernels and costs too",
        )


@contextmanager
def opened(options: argparse.Namespace, stream: TextIO | None = None) -> Iterator[Console]:
    """The console of a command, closed at the end whatever happens; `stream` None is standard output."""
    from grpo.report.console.console import open_console  # noqa: PLC0415  slow to import

    verbose = getattr(options, "verbose", False)
    console = open_console(quiet=options.quiet, verbose=verbose, stream=stream)
    try:
        yield console
    finally:
        console.close()


@contextmanager
def loading_libraries(console: Console) -> Iterator[None]:
    """Show that PyTorch and transformers are being imported, which takes seconds."""
    from grpo.monitor.waits import doing  # noqa: PLC0415  slow to import

    with doing("loading PyTorch and transformers"), console.working():
        yield
