"""A bar on standard error for work of many rows; nothing where that is no terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Callable, Iterator


@contextmanager
def shown_progress(
    what: str, total: int, unit: str, *, quiet: bool = False
) -> Iterator[Callable[[float], None]]:
    """Show inside the block how much of `total` is done, of which the function that is given is told."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console  # noqa: PLC0415  only where a person looks
    from rich.progress import (  # noqa: PLC0415  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TextColumn(unit),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    terminal = Console(file=sys.stderr)
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
