"""A worker process: receives completions over a socket, judges them, and sends each verdict back at once.

Started by ``rewards.service.pool`` in a fresh interpreter, never forked from the trainer. It enforces no deadline: whoever
judges may be stuck in C code, so the parent watches the clock and kills. What comes in is the parent's own
pickle; what goes out is JSON, so that nothing a reward does here can run code in the parent.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import pickle
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Callable, Mapping, Sequence, cast

from rewards.conventions import Convention, convention_of, judge
from rewards.loading import announce_to
from rewards.table import load
from rewards.types import Sample, Score

__all__ = ["Assignment", "main"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One reward as a worker needs it: how to find it, and how to call it."""

    use: str
    args: Mapping[str, Any] = field(default_factory=dict)
    style: str | None = None
    timeout_seconds: float = math.inf
    base_dir: str | None = None


class Outbox:
    """Writes one JSON object a line to the parent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, **message: Any) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def verdict(self, index: int, score: Score, seconds: float) -> None:
        """Send the score of row ``index``."""
        parts = {str(name): _finite(part) for name, part in score.parts.items()}
        message: dict[str, Any] = {
            "row": index,
            "value": score.value,
            "status": score.status,
            "seconds": round(seconds, 6),
        }
        message |= {"parts": parts} if parts else {}
        message |= {"detail": str(score.detail)[:2000]} if score.detail else {}
        message |= {"extracted": str(score.extracted)[:2000]} if score.extracted is not None else {}
        self.send(**message)


def _finite(part: Any) -> float | None:
    number = None if part is None else float(part)
    return number if number is not None and math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class _Ready:
    convention: Convention
    function: Callable[..., Any]
    args: Mapping[str, Any]


def main(descriptor: int, parent: int) -> None:
    """Serve until the parent closes its end of the socket."""
    _die_with(parent)
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    inbox, outbox = connection.makefile("rb"), Outbox(connection)
    announce_to(lambda is_loading: outbox.send(loading=is_loading))
    assignments, path, folder = pickle.load(inbox)
    sys.path[:] = path
    os.chdir(folder)
    ready: dict[int, _Ready] = {}
    try:
        while True:
            _serve_one(inbox, outbox, assignments, ready)
    except (EOFError, ConnectionError):
        os._exit(0)  # the parent is done with us; a reward's stray threads must not keep us alive


def _serve_one(
    inbox: BinaryIO, outbox: Outbox, assignments: Sequence[Assignment], ready: dict[int, _Ready]
) -> None:
    number, rows, step = pickle.load(inbox)
    try:
        if number not in ready:
            ready[number] = _prepared(assignments[number])
        samples: list[Sample] = [pickle.loads(row) for row in rows]
    except (Exception, SystemExit) as error:
        outbox.send(failed=f"{type(error).__name__}: {error}"[:2000])
        return
    outbox.send(loaded=True)
    chosen, limit = ready[number], assignments[number].timeout_seconds
    judge(
        chosen.convention,
        chosen.function,
        samples,
        chosen.args,
        outbox.verdict,
        step=step,
        timeout_seconds=limit,
        log=lambda name, value: outbox.send(metric=name, value=value),
    )
    outbox.send(ended=True)


def _prepared(assignment: Assignment) -> _Ready:
    """The reward, loaded; a class is made into an instance here, once, with the recipe's arguments."""
    function: Any = load(assignment.use, base_dir=assignment.base_dir)
    convention = convention_of(function, assignment.style, tuple(assignment.args))
    if not inspect.isclass(function):
        return _Ready(convention, function, {**_only_here(convention), **assignment.args})
    return _Ready(convention, cast(Any, function)(**assignment.args), {})


def _only_here(convention: Convention) -> dict[str, Any]:
    """What rewards may do in a process that is killed at its deadline, and nowhere else: ask sympy."""
    return (
        {"allow_sympy": True}
        if convention.style == "native" and "allow_sympy" in convention.accepted
        else {}
    )


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and to prefer it when memory runs out (Linux)."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except (ImportError, OSError, AttributeError):
        pass  # elsewhere the closed socket ends an idle worker
    if os.getppid() != parent:
        os._exit(0)
