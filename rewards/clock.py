"""Clocks that do not run faster on a slow machine: the time that processes use, not the time that passes.

`Clock` counts what processes spend on the CPU or asleep, and nothing while they are ready to run and wait for a core,
or are held back by a quota. A slow core is another matter: what overran its budget is tried once more with
`SECOND_TRY` times as much (`patience`), and only that decides. docs/clocks.md lists every clock of both packages.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import Iterator

__all__ = ["SECOND_TRY", "TICK_SECONDS", "Clock", "patience", "patient", "process_state"]

SECOND_TRY = 4.0
"""How many times its budget something gets on its second try: a machine three times slower decides alike."""
TICK_SECONDS = 0.05

_patience = 1.0


def patience() -> float:
    """By how much the budgets of what is being judged are to be multiplied: 1, or `SECOND_TRY`."""
    return _patience


@contextlib.contextmanager
def patient(factor: float) -> Iterator[None]:
    """Set `patience` for the body. Of this process: only for one that judges one call at a time."""
    global _patience
    before = _patience
    _patience = factor
    try:
        yield
    finally:
        _patience = before


class Clock:
    """The time that processes have used since `restart`: on the CPU or asleep, but not waiting for a busy machine.

    Of several processes that take turns, one that sleeps while another works uses nothing; of none, all time counts.
    Read from outside, so that it also works for a process that never returns to its interpreter.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self.used_seconds = 0.0
        self.restart(math.inf)

    def restart(self, limit_seconds: float) -> None:
        """Count from zero towards a new limit."""
        self._limit = limit_seconds
        self.used_seconds = 0.0
        self._began = time.monotonic()
        self._last_look = self._began
        self._cpu = self._cpu_seconds()

    @property
    def cpu_seconds(self) -> float | None:
        """What the processes have spent on the CPU at the last look, since they began; None if it cannot be read."""
        return self._cpu

    @property
    def tick_seconds(self) -> float:
        """How long to wait until the next look; without a limit there is little to see."""
        if self._limit == math.inf:
            return 5 * TICK_SECONDS
        return max(0.005, min(TICK_SECONDS, self._limit / 4))

    def look(self) -> None:
        """Add what was used since the last look."""
        now = time.monotonic()
        cpu = self._cpu_seconds()
        passed = now - self._last_look
        if cpu is None or self._cpu is None or not self._is_ready():
            self.used_seconds += passed
        else:
            # some may wait for a core; threads on several cores use no more than the time that passes
            self.used_seconds += min(passed, cpu - self._cpu)
        self._last_look = now
        self._cpu = cpu

    def settle(self) -> None:
        """Add the CPU time since the last look: the processes have done what was asked, and now wait for more."""
        cpu = self._cpu_seconds()
        if cpu is not None and self._cpu is not None:
            self.used_seconds += min(time.monotonic() - self._last_look, cpu - self._cpu)
        self._last_look = time.monotonic()
        self._cpu = cpu

    def has_run_out(self) -> bool:
        """Look at the processes; whether their budget is spent, or `is_starved`. Without a limit nobody looks."""
        if self._limit == math.inf:
            return False
        self.look()
        return self.used_seconds >= self._limit or self._is_overdue()

    @property
    def is_starved(self) -> bool:
        """Whether the machine gave too little to use the budget up in five times its length: nobody's fault."""
        return self.used_seconds < self._limit and self._is_overdue()

    def _is_overdue(self) -> bool:
        return self.age_seconds >= 5 * self._limit + 5

    @property
    def age_seconds(self) -> float:
        """Wall-clock time since `restart`."""
        return time.monotonic() - self._began

    def _cpu_seconds(self) -> float | None:
        """CPU time of all processes; None if one's cannot be read."""
        seconds = [_cpu_seconds(pid) for pid in self._pids]
        return None if None in seconds else sum(filter(None, seconds))

    def _is_ready(self) -> bool:
        """Whether a thread of a process runs or would like to."""
        return any(_has_ready_thread(pid) for pid in self._pids)


def _has_ready_thread(pid: int) -> bool:
    if process_state(pid) == "R":
        return True
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  a path object costs more than the reading
    except OSError:
        return False
    return len(threads) > 1 and any(
        process_state(f"{pid}/task/{thread}") == "R" for thread in threads
    )


def _cpu_seconds(pid: int) -> float | None:
    """CPU time of another process, by the clock id that Linux gives each process; None if there is none."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, OverflowError, AttributeError):
        return None


def process_state(pid: int | str) -> str:
    """R running or ready to run, S asleep, D waiting for I/O, Z exited but not reaped; ? if it cannot be read."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "?"
    try:
        stat = os.read(
            descriptor, 512
        )  # the state stands behind the name, which has 64 bytes at most
        return stat.rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "?"
    finally:
        os.close(descriptor)
