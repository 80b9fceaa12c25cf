"""A worker process: receives completions over a socket, judges them, and sends each verdict back at once.

Started by ``rewards.service.process`` in a fresh interpreter, never forked from the trainer. It enforces no deadline:
a reward may be stuck in C code, so the parent watches the clock and kills. What comes in is the parent's own
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
from pathlib import Path
from typing import Any, BinaryIO, Callable, Mapping, Sequence, cast

from rewards.calling import judge
from rewards.clock import patient
from rewards.conventions import Convention, convention_of
from rewards.loading import announce_to
from rewards.own_modules import Sources, serve
from rewards.table import load
from rewards.types import Sample, Score

__all__ = ["Assignment", "die_with", "main"]

MAX_DETAIL_CHARS = 2000
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Assignment:
    """One reward as a worker needs it: how to find it, and how to call it.

    ``sources`` is what the user's files held when the service was made: a worker that starts later runs that.
    """

    use: str
    args: Mapping[str, Any] = field(default_factory=dict)
    style: str | None = None
    timeout_seconds: float = math.inf
    base_dir: str | None = None
    sources: Sources | None = None


class Outbox:
    """Writes one JSON object a line to the parent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, **message: Any) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def send_verdict(self, index: int, score: Score, seconds: float) -> None:
        """Send the score of row ``index``."""
        message: dict[str, Any] = {
            "row": index,
            "value": score.value,
            "status": score.status,
            "seconds": round(seconds, 6),
        }
        if score.parts:
            message["parts"] = {str(name): _finite(part) for name, part in score.parts.items()}
        if score.detail:
            message["detail"] = str(score.detail)[:MAX_DETAIL_CHARS]
        if score.extracted is not None:
            message["extracted"] = str(score.extracted)[:MAX_DETAIL_CHARS]
        self.send(**message)

    def send_metric(self, name: str, value: float) -> None:
        self.send(metric=name, value=value)


def _finite(part: Any) -> float | None:
    number = None if part is None else float(part)
    return number if number is not None and math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class _Loaded:
    convention: Convention
    function: Callable[..., Any]
    args: Mapping[str, Any]


def main(descriptor: int, parent: int) -> None:
    """Serve until the parent closes its end of the socket."""
    die_with(parent)
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    inbox = connection.makefile("rb")
    outbox = Outbox(connection)
    announce_to(lambda is_loading: outbox.send(loading=is_loading))
    assignments, path, folder = pickle.load(inbox)
    sys.path[:] = path
    os.chdir(folder)
    loaded: dict[int, _Loaded] = {}
    try:
        while True:
            _serve_one(inbox, outbox, assignments, loaded)
    except (EOFError, ConnectionError):
        os._exit(0)  # the parent is done with us; a reward's stray threads must not keep us alive


def _serve_one(
    inbox: BinaryIO,
    outbox: Outbox,
    assignments: Sequence[Assignment],
    loaded: dict[int, _Loaded],
) -> None:
    number, payloads, step, factor = pickle.load(inbox)
    assignment = assignments[number]
    try:
        if number not in loaded:
            loaded[number] = _load(assignment)
        samples: list[Sample] = [pickle.loads(payload) for payload in payloads]
    except (Exception, SystemExit) as error:  # noqa: BLE001  importing a reward can raise anything
        outbox.send(failed=f"{type(error).__name__}: {error}"[:MAX_DETAIL_CHARS])
        return
    outbox.send(loaded=True)
    reward = loaded[number]
    with patient(factor):
        judge(
            reward.convention,
            reward.function,
            samples,
            args=reward.args,
            emit=outbox.send_verdict,
            step=step,
            timeout_seconds=factor * assignment.timeout_seconds,
            log=outbox.send_metric,
        )
    outbox.send(ended=True)


def _load(assignment: Assignment) -> _Loaded:
    """The reward, loaded; a class is instantiated here, once, with the recipe's arguments."""
    sources = assignment.sources
    serve(sources.modules if sources else None)
    function: Any = load(assignment.use, base_dir=assignment.base_dir, sources=sources)
    convention = convention_of(function, assignment.style, tuple(assignment.args))
    if inspect.isclass(function):
        return _Loaded(convention, cast(Any, function)(**assignment.args), {})
    return _Loaded(convention, function, {**_worker_only_args(convention), **assignment.args})


def _worker_only_args(convention: Convention) -> dict[str, Any]:
    """What rewards may do only in a process that is killed at its deadline: use sympy."""
    if convention.style == "native" and "allow_sympy" in convention.accepted:
        return {"allow_sympy": True}
    return {}


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and first when memory runs out (Linux)."""
    try:
        import ctypes  # noqa: PLC0415  optional: not every Python has it

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text("500")
    except (ImportError, OSError, AttributeError):
        pass  # elsewhere the closed socket ends an idle worker
    if os.getppid() != parent:
        os._exit(0)
