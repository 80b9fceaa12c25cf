"""How well programs can be isolated on this machine: found by trying, reported in one line.

| level | isolated by |
|---|---|
| L4 | namespaces, seccomp, Landlock, control groups |
| L3 | namespaces, seccomp, Landlock |
| L2 | seccomp, Landlock |
| L1 | limits on CPU, memory and files only |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

__all__ = ["FEATURES", "Isolation", "IsolationError", "LEVELS", "isolation_of", "refusal"]

LEVELS = ("L1", "L2", "L3", "L4")
FEATURES = ("namespaces", "seccomp", "landlock", "cgroup")
LEAST_LANDLOCK = 3
"""Before this version a read-only file can still be truncated."""
PROBE = """
import os, socket
print(os.getpid())
def attempt(what):
    try:
        what()
    except OSError:
        return "held"
    return "free"
print(attempt(lambda: socket.socket()), attempt(lambda: os.listdir("/proc")), attempt(lambda: os.kill(os.getppid(), 0)
      if os.getppid() else os.kill(2, 0)))
"""
_FIXES = {
    "namespaces": "allow user namespaces (sysctl user.max_user_namespaces above 0; on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt seccomp=unconfined) or run as root",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER",
    "landlock": "use Linux 6.2 or newer with landlock among the kernel's lsm= modules",
    "cgroup": "run as root with a writable /sys/fs/cgroup",
}
_WANTED = {"L4": FEATURES, "L3": FEATURES[:3], "L2": ("seccomp", "landlock"), "L1": ()}


class IsolationError(ValueError):
    """Programs cannot be isolated at the requested level."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """The level reached, and why each missing feature is missing."""

    level: str
    missing: Mapping[str, str]
    uid: int | None = None

    @property
    def line(self) -> str:
        """One line for a log."""
        there = [name for name in FEATURES if name not in self.missing]
        without = "; ".join(f"no {name} ({why})" for name, why in self.missing.items())
        as_uid = f" as uid {self.uid}" if self.uid is not None else ""
        return f"sandbox: {self.level}{as_uid}: {', '.join(there) or 'limits alone'}{'; ' if without else ''}{without}"


def isolation_of(report: Mapping[str, Any], probe: str, no_cgroup: str) -> Isolation:
    """The level, from a fork server's report and from what a program inside it was able to do."""
    missing: dict[str, str] = {}
    answers = probe.split()
    pid, network = (answers + ["?", "?"])[:2]
    trouble = report.get("trouble", {})
    if not report.get("namespaces") or pid != "1":
        missing["namespaces"] = trouble.get(
            "namespaces", f"the program found itself to be process {pid}"
        )
    if not report.get("seccomp") or network != "held":
        missing["seccomp"] = (
            "masked" if not report.get("seccomp") else "the program could make a socket"
        )
    if report.get("landlock", 0) < LEAST_LANDLOCK:
        missing["landlock"] = f"version {report.get('landlock', 0)} found, {LEAST_LANDLOCK} needed"
    if no_cgroup:
        missing["cgroup"] = no_cgroup
    level = next(level for level in reversed(LEVELS) if not set(_WANTED[level]) & set(missing))
    return Isolation(level, missing, report.get("uid"))


def refusal(isolation: Isolation, min_isolation: str) -> str:
    """Why programs are not run here, and what to do; empty if the level suffices."""
    if LEVELS.index(isolation.level) >= LEVELS.index(min_isolation):
        return ""
    lacking = [name for name in _WANTED[min_isolation] if name in isolation.missing]
    reasons = "; ".join(
        f"{name} is missing ({isolation.missing[name]}): {_FIXES[name]}" for name in lacking
    )
    return (
        f"sandbox: this machine isolates programs at {isolation.level}, below min_isolation {min_isolation}. "
        f"{reasons}; "
        "or set sandbox.allow_unsafe=true to run them anyway"
    )
