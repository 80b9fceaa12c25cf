"""Processor time of this process and of all that it started: reward workers, sandboxed programs, what those started.

A child that has ended and was waited for is in its parent's account, one that lives is asked. Time is lost only of a
process whose parent ends without waiting for it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Iterator

import psutil

PROC = Path("/proc")


def own_seconds() -> float:
    """Processor seconds of this process, all its threads, user and system."""
    return time.process_time()


def children_seconds() -> float:
    """Processor seconds of all that this process started, of those that have ended too.

    A child that ends between two of the readings here is in neither: the next call has it.
    """
    times = os.times()
    ended = times.children_user + times.children_system
    living = _living_on_linux if _lists_children() else _living_elsewhere
    return ended + sum(living())


def _lists_children() -> bool:
    """Whether the kernel says which children a thread has: Linux, mostly."""
    pid = os.getpid()
    return (PROC / f"self/task/{pid}/children").exists()


def _living_on_linux() -> Iterator[float]:
    tick = os.sysconf("SC_CLK_TCK")
    pids = list(_children_of(os.getpid()))
    while pids:
        pid = pids.pop()
        with suppress(OSError, ValueError, IndexError):
            yield _ticks(pid) / tick
            pids += _children_of(pid)


def _ticks(pid: int) -> int:
    """User and system time of a process and of its children that have ended, in ticks of the kernel's clock."""
    text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _children_of(pid: int) -> Iterator[int]:
    """The children of all threads of a process."""
    with suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                children = (thread / "children").read_text()
                yield from map(int, children.split())


def _living_elsewhere() -> Iterator[float]:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            yield times.user + times.system
