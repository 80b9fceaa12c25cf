"""What the process does right now, read from its open waits: ``sampling 130/256 completions, 1.8k tokens/s, 0:07``.

Nobody reports to this file. The engine, the scorer and the learner already name what they wait for and say how far it
is (``grpo.monitor.waits``); whoever shows a status asks a few times a second.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Callable, Sequence

from grpo.monitor.waits import PROCESS, Counts, Wait
from grpo.report.console.ink import Glyphs, Line, Span
from grpo.report.console.numbers import clock, short

VERBS = {
    "engine": "sampling",
    "judge": "judging",
    "update": "updating",
    "collective": "waiting for the other ranks",
}
"""What is shown for a wait of a kind that needs no name of its own."""
SAID_BESIDE = ("judge", "loading", "server", "collective")
"""Waits that are named beside the work that they belong to."""
RATE_SECONDS = 6.0
MIN_RATE_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Status:
    """What is being done, for how long (``seconds``), how far it is, and the tokens a second that are sampled."""

    what: str
    seconds: float
    counts: Counts | None = None
    rate: float | None = None

    @property
    def share(self) -> float | None:
        """How much of it is done; None where the total is not known."""
        if self.counts is None or not self.counts.total:
            return None
        return min(1.0, self.counts.done / self.counts.total)

    def line(self, glyphs: Glyphs) -> Line:
        """The status in words."""
        spans: list[Span] = [(self.what, "title")]
        counts = self.counts
        if counts is not None and counts.total:
            done = min(counts.done, counts.total)
            spans.append((f" {done}/{counts.total}", "title"))
            spans.append((f" {counts.unit}", ""))
        elif counts is not None and counts.done:
            spans.append((f" {glyphs.dot} {counts.done} {counts.unit}", ""))
        if self.rate:
            spans.append((f" {glyphs.dot} {short(self.rate)} tok/s", ""))
        spans.append((f" {glyphs.dot} {clock(self.seconds)}", ""))
        return Line(tuple(spans))


def name_of(wait: Wait) -> str:
    """What a wait is called on the screen."""
    what = wait.owner.partition(", ")[2]
    if wait.name == "work":
        return wait.owner
    if wait.name == "loading":
        return f"loading {what}"
    if wait.name == "checkpoint":
        what = what.partition(" in ")[0]
        return f"saving {what}" if what.startswith(("a ", "the ")) else "writing"
    if wait.name == "server":
        return f"waiting for {wait.owner}"
    return VERBS.get(wait.name, wait.name)


class Phases:
    """The phases of one thread, one after the other; `look` says where it is.

    A phase that is left and entered again at once, as the judging of one group after another, keeps its clock. Between
    two waits the last phase goes on.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self.thread = 0
        self._now = now
        self._status = Status("starting", 0.0)
        self._began = now()
        self._tokens: deque[tuple[float, int]] = deque()

    def look(self) -> Status:
        """The status of the thread at this moment."""
        waits = PROCESS.of_thread(self.thread)
        now = self._now()
        if not waits:
            seconds = now - self._began
            return Status(self._status.what, seconds, self._status.counts)
        what = _what(waits)
        if what != self._status.what:
            self._began = waits[-1].began
            self._tokens.clear()
        counts = _counts(waits)
        rate = self._rate(now, counts)
        self._status = Status(what, max(0.0, now - self._began), counts, rate)
        return self._status

    def _rate(self, now: float, counts: Counts | None) -> float | None:
        """Tokens a second over the last seconds."""
        if counts is None or counts.tokens is None:
            return None
        seen = self._tokens
        if seen and counts.tokens < seen[-1][1]:
            seen.clear()
        seen.append((now, counts.tokens))
        while now - seen[0][0] > RATE_SECONDS and len(seen) > 2:
            seen.popleft()
        then, before = seen[0]
        passed = now - then
        return (counts.tokens - before) / passed if passed >= MIN_RATE_SECONDS else None


def _what(waits: Sequence[Wait]) -> str:
    """Work with a name of its own, and what it waits for where that is something else."""
    named = [wait.owner for wait in waits if wait.name == "work"]
    inner = waits[-1]
    if not named:
        return name_of(inner)
    if inner.name in SAID_BESIDE:
        return f"{named[-1]}, {name_of(inner)}"
    return named[-1]


def _counts(waits: Sequence[Wait]) -> Counts | None:
    """How far the innermost wait is that can say so; a count that fails, as its owner changes, is none."""
    for wait in reversed(waits):
        if wait.counts is not None:
            try:
                return wait.counts()
            except Exception:  # noqa: BLE001  another thread changes what is counted
                return None
    return None
