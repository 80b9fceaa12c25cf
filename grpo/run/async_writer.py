"""Checkpoints are written during training: from a copy in the host's memory, in a thread of their own.

The run waits for the copy, and for the thread before the next checkpoint and at its end. An error of the thread is
raised where the run next looks.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Sequence

import psutil

from grpo.monitor import watchdog
from grpo.run import checkpoint
from grpo.run.checkpoint import Checkpoint

NICENESS = 10
MOST_OF_MEMORY = 0.5  # share of the free memory that a copy may take
GIB = 2**30


class Abandoned(Exception):
    """The run was stopped at once, and what was being written is not needed."""


class Writer:
    """Writes the checkpoints of a run, one at a time.

    Keeps the last `keep` and the `best`; works in the background if `background` is true and the copy fits into
    memory. ``blocked`` and ``written`` count seconds: those the run waited, and those the writing took. ``folder_lock``
    is held on to, so that a run that is dropped keeps others out until its last checkpoint is written.
    """

    def __init__(self, run: Path, keep: int, best: int, background: bool):
        self.run = run
        self.keep = keep
        self.best = best
        self.background = background
        self.folder_lock: BinaryIO | None = None
        self.num_written = 0
        self.blocked = 0.0
        self.written = 0.0
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._abandoned = threading.Event()

    def save(self, saved: Checkpoint, journals: Sequence[Path]) -> str | None:
        """Start to write `saved`; returns what a reader should know, if anything. `OSError` if that fails."""
        began = time.perf_counter()
        self.wait()
        note = self._too_large(saved) if self.background else None
        if self.background and note is None:
            self._start(saved.copied(), tuple(journals))
        else:
            self._write(saved, tuple(journals))
        self.blocked += time.perf_counter() - began
        self.check()
        return note

    def _too_large(self, saved: Checkpoint) -> str | None:
        free = psutil.virtual_memory().available
        if saved.num_bytes <= MOST_OF_MEMORY * free:
            return None
        return (
            f"checkpoint: a copy of {saved.num_bytes / GIB:.1f} GiB would take more than half of the "
            f"{free / GIB:.1f} GiB that are free, so the run waits while it is written"
        )

    def _start(self, saved: Checkpoint, journals: Sequence[Path]) -> None:
        thread = threading.Thread(
            target=self._in_background, args=(saved, journals), name="checkpoint writer"
        )
        try:
            thread.start()
        except RuntimeError:  # no memory for a thread
            self._write(saved, journals)
        else:
            self._thread = thread

    def _in_background(self, saved: Checkpoint, journals: Sequence[Path]) -> None:
        if sys.platform == "linux":  # a thread has its own priority there: training goes first
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._write(saved, journals)

    def _write(self, saved: Checkpoint, journals: Sequence[Path]) -> None:
        began = time.perf_counter()
        folder = checkpoint.folder_of(self.run)
        try:
            with watchdog.writing("grpo.run.checkpoint, a checkpoint", folder):
                checkpoint.save(
                    self.run,
                    saved,
                    self.keep,
                    self.best,
                    journals=journals,
                    between=self._raise_if_abandoned,
                )
            self.num_written += 1
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  a thread's border; `check` raises it in the run's own
            self._failure = error
        self.written += time.perf_counter() - began

    def _raise_if_abandoned(self) -> None:
        if self._abandoned.is_set():
            raise Abandoned

    def check(self) -> None:
        """Raise what the writing raised, once."""
        failure = self._failure
        self._failure = None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Return when nothing is being written any more; raises what the writing raised."""
        self._join()
        self.check()

    def _join(self) -> None:
        if self._thread is None:
            return
        folder = checkpoint.folder_of(self.run)
        with watchdog.writing("grpo.run.async_writer, the checkpoint before", folder):
            self._thread.join()
        self._thread = None

    def finish(self) -> list[str]:
        """Wait, for a run that fails already: an error of the writing is returned as lines for the log."""
        try:
            self.wait()
        except OSError as error:
            return [f"checkpoint: {error}"]
        return []

    def abandon(self) -> None:
        """Stop writing as soon as possible, and leave the previous checkpoint as the last."""
        self._abandoned.set()
        self._join()
        self._abandoned.clear()

    def describe(self) -> list[str]:
        """What the checkpoints of this process cost."""
        if not self.num_written:
            return []
        return [
            f"checkpoints: {self.num_written} written in {self.written:.1f} s, the run waited {self.blocked:.1f} s "
            "for them"
        ]
