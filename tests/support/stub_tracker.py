"""A tracker without a server, for the tests of what surrounds one: it keeps what it gets and fails as it is told to."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Sequence

from grpo.report.trackers import Opening, Point, Table


class StubTracker:
    """What it got, in order. ``before_log`` is called before points are taken, and may raise or wait."""

    opened: list[StubTracker] = []
    before_open: Callable[[Opening], None] = staticmethod(lambda opening: None)
    before_log: Callable[[Sequence[Point]], None] = staticmethod(lambda points: None)
    continues = True

    def __init__(self, opening: Opening):
        self.opening = opening
        self.is_new = not (self.continues and opening.may_continue)
        self.id = str(opening.former) if opening.former else f"run-{len(self.opened)}"
        self.where = "in memory"
        self.points: list[Point] = []
        self.tables: list[Table] = []
        self.files: list[str] = []
        self.failed: bool | None = None
        self.opened.append(self)

    def log(self, points: Sequence[Point]) -> None:
        StubTracker.before_log(points)
        self.points += points

    def table(self, table: Table) -> None:
        self.tables.append(table)

    def keep(self, files: Sequence[Path]) -> None:
        self.files += [file.name for file in files]

    def close(self, failed: bool) -> None:
        self.failed = failed


def open_run(section: Any, opening: Opening) -> StubTracker:
    StubTracker.before_open(opening)
    return StubTracker(opening)


class Gate:
    """Holds whoever calls it until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, *arguments: Any) -> None:
        self.reached.set()
        self._open.wait(60)

    def open(self) -> None:
        self._open.set()
