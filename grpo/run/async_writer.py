"""Checkpoints are written beside the training: from a copy in the host's memory, in a thread of its own.

The run waits for the copy, and for the thread before the next checkpoint and at its end. What the thread could
not do is raised where the run next looks.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Sequence

import psutil

from grpo.monitor import watchdog
from grpo.run import checkpoint
from grpo.run.checkpoint import Checkpoint

NICENESS = 10
MOST_OF_MEMORY = 0.5  # share of the memory that is free which a copy may take


class Abandoned(Exception):
    """The run was stopped at once, and what was being written is not needed."""


class Writer:
    """Writes the checkpoints of a run, one at a time.

    Keeps `keep` and the `best`; in the background where `beside` is true and the copy fits into memory. ``blocked``
    and ``written`` count seconds: those the run waited, and those the writing took.
    """

    def __init__(self, run: Path, keep: int, best: int, beside: bool):
        self.run, self.keep, self.best, self.beside = run, keep, best, beside
        self.num_written, self.blocked, self.written = 0, 0.0, 0.0
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._abandoned = threading.Event()

    def save(self, found: Checkpoint, journals: Sequence[Path]) -> str | None:
        """Begin to write `found`; returns what a reader should know, if anything. `OSError` where that fails."""
        began = time.perf_counter()
        self.wait()
        note = None
        free = psutil.virtual_memory().available
        if self.beside and found.num_bytes > MOST_OF_MEMORY * free:
            note = (
                f"checkpoint: a copy of {found.num_bytes / 2**30:.1f} GiB would take more than half of the "
                f"{free / 2**30:.1f} GiB that are free, so the run waits while it is written"
            )
        if self.beside and note is None:
            self._begin(found.copied(), tuple(journals))
        else:
            self._write(found, tuple(journals))
        self.blocked += time.perf_counter() - began
        self.check()
        return note

    def _begin(self, found: Checkpoint, journals: Sequence[Path]) -> None:
        thread = threading.Thread(
            target=self._beside, args=(found, journals), name="checkpoint writer"
        )
        try:
            thread.start()
        except RuntimeError:  # no memory for a thread
            self._write(found, journals)
        else:
            self._thread = thread

    def _beside(self, found: Checkpoint, journals: Sequence[Path]) -> None:
        if (
            sys.platform == "linux"
        ):  # there a thread has a priority of its own: the training goes first
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._write(found, journals)

    def _write(self, found: Checkpoint, journals: Sequence[Path]) -> None:
        began = time.perf_counter()
        try:
            with watchdog.writing(
                "grpo.run.checkpoint, a checkpoint", checkpoint.folder_of(self.run)
            ):
                checkpoint.save(
                    self.run, found, self.keep, self.best, journals=journals, between=self._between
                )
            self.num_written += 1
        except Abandoned:
            pass
        except BaseException as error:  # raised in the run's own thread by `check`
            self._failure = error
        self.written += time.perf_counter() - began

    def _between(self) -> None:
        if self._abandoned.is_set():
            raise Abandoned

    def check(self) -> None:
        """Raise what the writing raised, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Come back when nothing is being written any more; raises what the writing raised."""
        if self._thread is not None:
            self._join()
            self._thread = None
        self.check()

    def _join(self) -> None:
        with watchdog.writing(
            "grpo.run.async_writer, the one before", checkpoint.folder_of(self.run)
        ):
            self._thread.join()

    def finish(self) -> list[str]:
        """Wait, for a run that fails already: what the writing raised is returned in words."""
        try:
            self.wait()
        except OSError as error:
            return [f"checkpoint: {error}"]
        return []

    def abandon(self) -> None:
        """Stop writing as soon as may be, and leave the checkpoint before as the last."""
        self._abandoned.set()
        if self._thread is not None:
            self._join()
        self._thread = None
        self._abandoned.clear()

    def words(self) -> list[str]:
        """What the checkpoints of this process cost."""
        if not self.num_written:
            return []
        return [
            f"checkpoints: {self.num_written} written in {self.written:.1f} s, the run waited {self.blocked:.1f} s "
            "for them"
        ]
