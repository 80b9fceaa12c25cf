"""``status.json`` of a run folder: what the run does at this second, for whoever watches from another process.

The file has one size and is written in place by one call, so that a reader sees one state or the other, and a run that
is killed leaves its last one.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo.report.console.status import Counts, Status

FILE = "status.json"
SIZE = 768
RUNNING = "running"
FINISHED = "finished"
STOPPED = "stopped"
FAILED = "failed"
MAX_WORDS = 120


@dataclass(frozen=True, slots=True)
class Beat:
    """One state: ``state`` is running, finished, stopped or failed, ``time`` when it was written (seconds since 1970).

    ``what`` is being done for ``seconds``, ``done`` of ``total`` of its ``unit``, at ``rate`` tokens a second; ``left``
    seconds are to come, about.
    """

    state: str
    time: float
    pid: int
    host: str
    step: int
    steps: int
    what: str
    seconds: float
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float | None = None
    left: float | None = None

    def status(self, now: float) -> Status:
        """What was being done, its clock gone on to `now`."""
        counts = Counts(self.done, self.total, self.unit) if self.unit else None
        passed = max(0.0, now - self.time)
        return Status(self.what, self.seconds + passed, counts, self.rate)


class Heartbeat:
    """Writes the state of this process's run into its folder; a disk that refuses costs only that."""

    def __init__(self, folder: Path):
        self._file: int | None = None
        with suppress(OSError):
            self._file = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT, 0o644)
            os.ftruncate(self._file, SIZE)
        self._host = socket.gethostname()

    def write(self, state: str, status: Status, step: int, steps: int, left: float | None) -> None:
        """Write one state."""
        counts = status.counts or Counts(0, 0)
        beat = Beat(
            state=state,
            time=round(time.time(), 2),
            pid=os.getpid(),
            host=self._host[:MAX_WORDS],
            step=step,
            steps=steps,
            what=status.what[:MAX_WORDS],
            seconds=round(status.seconds, 2),
            done=counts.done,
            total=counts.total,
            unit=counts.unit,
            rate=status.rate,
            left=left,
        )
        text = json.dumps(asdict(beat)).encode()
        if self._file is not None and len(text) < SIZE:
            with suppress(OSError):
                os.lseek(self._file, 0, os.SEEK_SET)
                os.write(self._file, text.ljust(SIZE - 1) + b"\n")

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
        self._file = None


def read_beat(folder: Path) -> Beat | None:
    """The last state of the run in `folder`; None where there is none that can be read."""
    try:
        values: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Beat(**values)
    except (OSError, ValueError, TypeError):
        return None
