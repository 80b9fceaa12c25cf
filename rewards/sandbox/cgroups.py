"""Control groups that limit memory and tasks, if root may make them: version 2, or version 1.

A group holds a fork server and its child. Groups of processes that are gone are removed at the next start.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["Group", "available", "own_prefix"]

HOME = Path("/sys/fs/cgroup")
PREFIX = "grpo-sandbox-"
MEMORY_BYTES = 3 << 30
MOST_TASKS = 512
MOST_TRIES = 500
_VERSION_2 = {"": {"memory.max": MEMORY_BYTES, "pids.max": MOST_TASKS}}
_VERSION_1 = {"memory": {"memory.limit_in_bytes": MEMORY_BYTES}, "pids": {"pids.max": MOST_TASKS}}


def _hierarchies() -> dict[str, dict[str, int]]:
    """Which folders hold groups here, and which limits are written there."""
    return _VERSION_2 if (HOME / "cgroup.controllers").exists() else _VERSION_1


def own_prefix() -> str:
    """The prefix of this PID namespace's groups: in other namespaces the same process ids mean other processes."""
    return f"{PREFIX}{Path('/proc/self/ns/pid').stat().st_ino}-"


class Group:
    """One slot's groups; raises `OSError` if they cannot be made."""

    def __init__(self, number: int) -> None:
        self._folders: list[Path] = []
        try:
            for hierarchy, limits in _hierarchies().items():
                folder = HOME / hierarchy / f"{own_prefix()}{os.getpid()}-{number}"
                folder.mkdir(exist_ok=True)
                self._folders.append(folder)
                for name, value in limits.items():
                    (folder / name).write_text(str(value))
        except OSError:
            self.remove()
            raise

    def add(self, pid: int) -> None:
        """Put a process, and everything it starts from now on, under the limits."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the groups; processes left in them were killed and are about to exit."""
        for folder in self._folders:
            for _ in range(MOST_TRIES):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.001)


def available() -> str:
    """Why groups cannot be used; empty if they can. Tries it."""
    _remove_abandoned()
    try:
        group = Group(9999)
    except OSError as error:
        return f"{error.strerror or error} at {error.filename or HOME}"
    group.remove()
    return ""


def _remove_abandoned() -> None:
    for hierarchy in _hierarchies():
        for folder in (HOME / hierarchy).glob(f"{own_prefix()}*"):
            owner = folder.name.removeprefix(own_prefix()).split("-")[0]
            if not Path(f"/proc/{owner}").exists():
                try:
                    folder.rmdir()
                except OSError:
                    pass
