"""Measures what a run takes, phase by phase, and writes it into ``costs.jsonl`` of the run folder.

The phases share out the clock: whatever the run does, exactly one is on. Each line of the file holds the sums since the
attempt began, so that the last whole line of an attempt is its account, a kill loses no more than what came after it,
and nothing can be counted twice. Every process of a run writes a file of its own. A disk that fails costs only lines.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
import weakref
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

from grpo.cost import processor
from grpo.cost.energy import Gpu, ProcessorEnergy

FILE = "costs.jsonl"
LOAD = "load"
EVALUATE = "evaluate"
SAMPLE = "sample"
JUDGE = "judge"
UPDATE = "update"
SAVE = "save"
REPORT = "report"
OTHER = "other"
WAITING = "waiting"
PHASES = (LOAD, EVALUATE, SAMPLE, JUDGE, UPDATE, SAVE, REPORT, OTHER, WAITING)
"""``waiting`` is the time between steps that is the caller's; ``other`` is what a step does beside the phases."""

START = "start"
STEP = "step"
NOW = "now"
END = "end"
FAILED = "failed"
"""What a line was written for: an attempt begins, a step is done, time has passed, an attempt ended, or broke off."""

TICK_SECONDS = 20.0
DEVICE_SECONDS = 1.0
CHILDREN_SECONDS = 2.0
OF_STEPS = {SAMPLE, JUDGE, UPDATE, OTHER, WAITING}
"""While these are on, it is rewards that child processes work at, alongside."""

_begun_before: list[tuple[float, float, float]] = []


def begin_here() -> None:
    """Let the next meter count from here: what comes before it, imports above all, is loading. For commands."""
    before = (time.perf_counter(), processor.own_seconds(), processor.children_seconds())
    _begun_before[:] = [before]


def file_of(folder: Path, rank: int = 0) -> Path:
    """The file of a process's costs."""
    return folder / (FILE if rank == 0 else f"costs.{rank}.jsonl")


@dataclass(slots=True)
class Sums:
    """What one phase took in one process: seconds, and joules of the device."""

    wall: float = 0.0
    cpu: float = 0.0
    children: float = 0.0
    busy: float = 0.0
    joules: float = 0.0

    def to_mapping(self) -> dict[str, float]:
        """By name, what is not 0."""
        values = {name: round(getattr(self, name), 4) for name in self.__slots__}
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process of a run stands: its number among how many, how many devices it holds, and of which GPU it is.

    ``attempt`` is the same word in all processes of one attempt. ``measures_machine`` is true in one process of each
    machine: energy of sockets is counted there.
    """

    attempt: str
    rank: int = 0
    world: int = 1
    devices: int = 0
    gpu: str | None = None
    measures_machine: bool = True


def new_attempt() -> str:
    """A word that no other attempt has."""
    return uuid.uuid4().hex[:12]


class Meter:
    """What one process of a run takes, from `begin` to `end`; after that it may begin anew, as another attempt.

    It begins when it is made. Its file is opened by `open`; what came before is in the first line.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        own: Callable[[], float] = processor.own_seconds,
        children: Callable[[], float] = processor.children_seconds,
    ):
        self._clock = clock
        self._own = own
        self._children = children
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._ended.set()
        self._thread: threading.Thread | None = None
        self._file: int | None = None
        self.begin()

    # -- from begin to end ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin an attempt with nothing spent, unless one is under way."""
        if not self._ended.is_set():
            return
        self._ended.clear()
        self._sums = {name: Sums() for name in PHASES}
        self._stack = [WAITING]
        self.tokens = {"prompt": 0, "sampled": 0, "trained": 0, "evaluated": 0}
        self._place: Place | None = None
        self._step = 0
        self._gpu: Gpu | None = None
        self._told: list[str] = []
        self._gpu_joules = 0.0
        self._sockets: ProcessorEnergy | None = None
        self._busy_at: float | None = None
        self._wall_at = self._clock()
        self._own_at = self._own()
        self._children_at = self._children()
        self._children_asked = self._wall_at
        self._written = self._wall_at
        while _begun_before:
            self._count_from(*_begun_before.pop())

    def _count_from(self, wall: float, own: float, children: float) -> None:
        """Count what came after an earlier moment as loading."""
        loading = self._sums[LOAD]
        loading.wall += max(0.0, self._wall_at - wall)
        loading.cpu += max(0.0, self._own_at - own)
        loading.children += max(0.0, self._children_at - children)

    def open(self, folder: Path, place: Place, step: int | None) -> bool:
        """Write into `folder` from here on; `step` is that of the checkpoint the run goes on from, None for none.

        Returns whether the file can be written.
        """
        self._place = place
        self._step = step or 0
        if place.gpu is not None:
            self._gpu = Gpu(place.gpu)
            self._told = _told(self._gpu)
        if place.measures_machine:
            self._sockets = ProcessorEnergy()
        with suppress(OSError):
            self._file = _opened(file_of(folder, place.rank))
        with self._lock:
            self._write(START, resumed_from=step)
        if self._file is None:
            return False
        self._close_file = weakref.finalize(self, os.close, self._file)
        pause = TICK_SECONDS if self._gpu is None else DEVICE_SECONDS
        self._thread = threading.Thread(
            target=_keep_ticking,
            args=(weakref.ref(self), self._ended, pause),
            name="cost meter",
            daemon=True,
        )
        self._thread.start()
        return True

    def end(self, *, failed: bool = False) -> None:
        """Write the last line of the attempt; nothing if none is under way. What a step that `failed` did is lost."""
        if self._ended.is_set():
            return
        with self._lock:
            self._charge_children()
            self._write(FAILED if failed else END)
            self._ended.set()
            file = self._file
            self._file = None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if file is not None:
            with suppress(OSError):
                os.fsync(file)
            self._close_file()

    # -- what is counted ------------------------------------------------------------------------------------

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block into a phase of `PHASES`; one inside another takes its time from it."""
        self._turn(name)
        try:
            yield
        finally:
            self._turn(None)

    def _turn(self, name: str | None) -> None:
        """Begin a phase, or end the one that is on."""
        with self._lock:
            now_on = self._stack[-1]
            if not {now_on, name or now_on} <= OF_STEPS:
                self._charge_children()
            self._charge()
            if name is None:
                self._stack.pop()
            else:
                self._stack.append(name)

    def count(self, **tokens: int) -> None:
        """Count tokens: ``prompt``, ``sampled``, ``trained``, ``evaluated``."""
        with self._lock:
            for kind, number in tokens.items():
                self.tokens[kind] += number

    def mark(self, step: int) -> None:
        """A step is done, with all that follows it: a run that goes back to its checkpoint keeps what was till here."""
        with self._lock:
            self._step = step
            if self._clock() - self._children_asked >= CHILDREN_SECONDS:
                self._charge_children()
            self._write(STEP)

    def flush(self) -> None:
        """Write where things stand."""
        with self._lock:
            self._charge_children()
            self._write(NOW)

    def _charge(self) -> None:
        """Give the phase that is on what the clock and this process have used since the last time."""
        now = self._clock()
        own = self._own()
        sums = self._sums[self._stack[-1]]
        sums.wall += now - self._wall_at
        sums.cpu += own - self._own_at
        self._wall_at = now
        self._own_at = own

    def _charge_children(self) -> None:
        """Give the phase that is on, or judging, what child processes have used since the last time."""
        self._children_asked = self._clock()
        children = self._children()
        phase = self._stack[-1]
        if children > self._children_at:
            sums = self._sums[JUDGE if phase in OF_STEPS else phase]
            sums.children += children - self._children_at
            self._children_at = children

    # -- beside the run -------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Ask the device, and write a line where none was written for a while."""
        self._ask_device()
        with self._lock:
            if self._file is None or self._clock() - self._written < TICK_SECONDS - 1:
                return
            self._charge_children()
            self._write(NOW)
            copy = os.dup(self._file)
        with suppress(OSError):
            os.fsync(copy)
        os.close(copy)

    def _ask_device(self) -> None:
        """Give the phase that is on the share of the time in which the device was busy, and its energy."""
        if self._gpu is None:
            return
        busy = self._gpu.busy()
        joules = self._gpu.joules()
        with self._lock:
            now = self._clock()
            sums = self._sums[self._stack[-1]]
            if busy is not None:
                since = now - (self._busy_at or now - DEVICE_SECONDS)
                sums.busy += busy * since
                self._busy_at = now
            if joules is not None:
                sums.joules += joules - self._gpu_joules
                self._gpu_joules = joules

    # -- the file -------------------------------------------------------------------------------------------

    def _write(self, event: str, **facts: Any) -> None:
        """Append a line with the sums so far."""
        self._charge()
        self._written = self._wall_at
        if self._file is None or self._place is None:
            return
        line = json.dumps({**self._line(event, self._place), **facts})
        with suppress(OSError):
            os.write(self._file, line.encode() + b"\n")

    def _line(self, event: str, place: Place) -> dict[str, Any]:
        phases = {name: sums.to_mapping() for name, sums in self._sums.items()}
        return {
            "event": event,
            "attempt": place.attempt,
            "step": self._step,
            "at": round(time.time(), 2),
            "rank": place.rank,
            "world": place.world,
            "devices": place.devices,
            "phases": {name: values for name, values in phases.items() if values},
            "tokens": self.tokens,
            "tells": self._told,
            "socket_joules": None if self._sockets is None else self._sockets.joules(),
        }


def _keep_ticking(
    meter_of: Callable[[], Meter | None], ended: threading.Event, pause: float
) -> None:
    """In a thread: tick until the attempt has ended, or its run was dropped."""
    while not ended.wait(pause):
        meter = meter_of()
        if meter is None:
            return
        meter.tick()
        del meter


def _told(gpu: Gpu) -> list[str]:
    """What a device tells, by the names of `Sums`."""
    told = {"busy": gpu.busy(), "joules": gpu.joules()}
    return [name for name, value in told.items() if value is not None]


def _opened(file: Path) -> int:
    """A descriptor to append lines to `file`; a line that a kill cut off is ended first."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


@contextmanager
def metered(folder: Path, *, devices: int = 0, gpu: str | None = None) -> Iterator[Meter]:
    """The meter of work that is no `grpo.run.lifecycle.Run`, in one process: opened in `folder`, then ended."""
    meter = Meter()
    meter.open(folder, Place(new_attempt(), devices=devices, gpu=gpu), step=None)
    try:
        with meter.phase(OTHER):
            yield meter
    except BaseException:
        meter.end(failed=True)
        raise
    else:
        meter.end()
