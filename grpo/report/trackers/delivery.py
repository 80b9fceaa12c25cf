"""Brings what a run logs to one tracker, in a thread of its own, so that no server or disk holds the run up.

What fails is tried again for as long as the patience lasts, then left out and counted; the run learns of it by a note.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Callable, Iterable, Sequence

from grpo.monitor.redaction import first_words
from grpo.report.trackers.tracker import Point, Table, Tracker

MAX_POINTS = 50  # points that a tracker gets at once
MAX_WAITING = 2000  # jobs; a tracker that is further behind loses the newest
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Files:
    """Files of the run folder to be kept."""

    paths: Sequence[Path]


@dataclass(frozen=True, slots=True)
class End:
    """Nothing comes after this."""

    failed: bool


Job = Point | Table | Files | End


class Delivery:
    """The thread of one tracker. All methods belong to the run's own thread, and none of them waits but `finish`.

    ``opened`` is set once the tracker is open, or could not be, with the ``error``; ``num_lost`` counts what it was not
    given; ``is_clean`` says that it was closed with all of it, ``is_stuck`` that it did not close. ``notes`` are what
    the run should say. What is sent of `held_step` is left out where the tracker goes on with a run that has it.
    """

    def __init__(
        self,
        name: str,
        open_tracker: Callable[[], Tracker],
        history: Callable[[], Iterable[Point | Table]],
        *,
        patience_seconds: float,
        held_step: int | None = None,
    ):
        self.name = name
        self.held_step = held_step
        self.opened = threading.Event()
        self.error: BaseException | None = None
        self.tracker: Tracker | None = None
        self.num_lost = 0
        self.is_clean = False
        self.is_stuck = False
        self.notes: SimpleQueue[str] = SimpleQueue()
        self._open_tracker = open_tracker
        self._history = history
        self._patience_seconds = patience_seconds
        self._backlog: deque[Job] = deque()
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._num_passed_on = 0
        self._is_noted = False
        self._is_away = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def send(self, job: Point | Table) -> None:
        """Have the tracker get `job` after what was sent before."""
        if self._ended.is_set():
            return  # it could not be opened, and the run was told so
        if self._jobs.qsize() >= MAX_WAITING:
            self._lose(1, "it is too far behind")
        else:
            self._jobs.put(job)

    def finish(self, files: Sequence[Path], *, failed: bool, patience_seconds: float) -> None:
        """Send `files` and close the tracker; given up when nothing gets through for so long."""
        if files:
            self._jobs.put(Files(files))
        self._jobs.put(End(failed))
        passed_on = self._num_passed_on
        while not self._ended.wait(patience_seconds):
            if self._num_passed_on == passed_on:
                self.is_stuck = True
                self.notes.put(
                    f"warning: {self.name} took nothing for {patience_seconds:g} s at the end of the run and is left "
                    "alone; metrics.jsonl has it all"
                )
                return
            passed_on = self._num_passed_on

    # -- in the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            tracker = self._open_tracker()
            if tracker.is_new:
                self._backlog.extend(self._history())
            self.tracker = tracker
        except BaseException as error:  # noqa: BLE001  the run decides what follows from it
            self.error = error
            self._note(f"{first_words(error)}; the run goes on without it")
            self._ended.set()
            return
        finally:
            self.opened.set()
        while not self._ended.is_set():
            jobs = self._next_jobs()
            if isinstance(jobs[0], End):
                self._close(tracker, jobs[0].failed)
            elif tracker.is_new or not self._is_held(jobs[0]):
                self._deliver(tracker, jobs)

    def _is_held(self, job: Job) -> bool:
        return isinstance(job, (Point, Table)) and job.step == self.held_step

    def _next_jobs(self) -> list[Job]:
        """The job that is next; with the points after it, if it is one."""
        jobs = [self._backlog.popleft() if self._backlog else self._jobs.get()]
        while isinstance(jobs[-1], Point) and len(jobs) < MAX_POINTS:
            if not self._backlog and self._jobs.empty():
                break
            following = self._backlog.popleft() if self._backlog else self._jobs.get()
            if not isinstance(following, Point) or self._is_held(jobs[0]):
                self._backlog.appendleft(following)
                break
            jobs.append(following)
        return jobs

    def _deliver(self, tracker: Tracker, jobs: Sequence[Job]) -> None:
        """Pass `jobs` on; again after a pause if that fails, unless the patience is over or was before."""
        deadline = time.monotonic() + self._patience_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                _pass_on(tracker, jobs)
            except Exception as error:  # noqa: BLE001  another's code: whatever it raises must not end the run
                if self._is_away or time.monotonic() + pause > deadline:
                    self._is_away = True
                    self._lose(len(jobs), first_words(error))
                    return
                self._note(f"{first_words(error)}; the run goes on, and tries again")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._is_away = False
                self._num_passed_on += 1
                return

    def _close(self, tracker: Tracker, failed: bool) -> None:
        try:
            tracker.close(failed)
            self.is_clean = not self.num_lost
        except Exception as error:  # noqa: BLE001  as above
            self._note(f"{first_words(error)}, when it was closed")
        self._ended.set()

    def _lose(self, number: int, reason: str) -> None:
        self.num_lost += number
        self._note(f"{reason}; the run goes on, and {self.name} lacks a part of it")

    def _note(self, words: str) -> None:
        """Have the run say what is wrong, once a life."""
        if not self._is_noted:
            self._is_noted = True
            self.notes.put(f"warning: {self.name}: {words}")


def _pass_on(tracker: Tracker, jobs: Sequence[Job]) -> None:
    first = jobs[0]
    if isinstance(first, Point):
        tracker.log([job for job in jobs if isinstance(job, Point)])
    elif isinstance(first, Table):
        tracker.table(first)
    elif isinstance(first, Files):
        tracker.keep(first.paths)
