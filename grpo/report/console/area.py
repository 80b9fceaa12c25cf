"""The live area below the lines: the curves so far, what is being done, how far the run is and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Mapping, Sequence

from rich.cells import cell_len

from grpo.report.console.history import History
from grpo.report.console.ink import Glyphs, Line, Span
from grpo.report.console.numbers import is_number, rough_time, sparkline
from grpo.report.console.status import Status
from grpo.report.console.words import shown_set

MIN_HEIGHT = 12
"""On a lower screen the area is the status alone."""
MAX_CURVE = 24
MIN_CURVE = 4
MIN_POINTS = 2
MIN_BAR = 8


@dataclass(slots=True)
class Curves:
    """The line of the curves, made anew only where there is something new to draw."""

    _line: Line | None = None
    _drawn: tuple[int, int, int] | None = None

    def line(self, history: History, width: int, glyphs: Glyphs) -> Line | None:
        """What `curves_line` makes."""
        wanted = (id(history), history.version, width)
        if wanted != self._drawn:
            self._drawn = wanted
            self._line = curves_line(history, width, glyphs)
        return self._line


def area_lines(
    status: Status,
    history: History,
    curves: Curves,
    *,
    notice: str,
    width: int,
    height: int,
    glyphs: Glyphs,
) -> Iterator[Line]:
    """The lines of the area in `width` cells; `notice` stands beside the status, e.g. that the run is stopping."""
    now = _status_line(status, history, notice, glyphs)
    if height < MIN_HEIGHT:
        yield now
        return
    bar = _progress(status, history, width, glyphs)
    for line in (curves.line(history, width, glyphs), now, bar):
        if line is not None:
            yield line


def _status_line(status: Status, history: History, notice: str, glyphs: Glyphs) -> Line:
    spans: list[Span] = []
    if history.steps and history.step < history.steps:
        spans.append((f"step {history.step + 1}/{history.steps} {glyphs.dot} ", "dim"))
    spans += status.line(glyphs).spans
    if notice:
        spans.append((f" {glyphs.dot} {notice}", "warn"))
    return Line(tuple(spans))


def _progress(status: Status, history: History, width: int, glyphs: Glyphs) -> Line | None:
    """The bar of the run; where there is none, or no step is made yet, of what is being done."""
    left = history.seconds_left()
    if history.steps and left is not None:
        share = history.step / history.steps
        return bar_line(share, f"{rough_time(max(1, left))} left", width, glyphs)
    left = _seconds_left(status)
    words = "" if left is None else f"{rough_time(max(1, left))} left of this"
    return bar_line(status.share, words, width, glyphs)


def _seconds_left(status: Status) -> float | None:
    """What is left of a phase, if it goes on as it went."""
    share = status.share
    if not share or share >= 1 or status.seconds < 1:
        return None
    return status.seconds * (1 - share) / share


def bar_line(share: float | None, left: str, width: int, glyphs: Glyphs) -> Line | None:
    """``━━━━━━──────── 40 % · 12 min left``; None where no share is known."""
    if share is None:
        return None
    words = f" {share:.0%}"
    if left:
        words += f" {glyphs.dot} {left}"
    room = max(MIN_BAR, width - len(words))
    done = int(share * room)
    return Line.of((glyphs.bar * done, "good"), (glyphs.rule * (room - done), "dim"), words)


def curves_line(history: History, width: int, glyphs: Glyphs) -> Line | None:
    """The course of reward, accuracy by set and length, each with its last value; None before there are two points."""
    curves = {name: part for name, part in _curves(history).items() if len(part[0]) >= MIN_POINTS}
    if not curves:
        return None
    while len(curves) > 1 and _room(curves, width) < MIN_CURVE:
        curves.popitem()
    room = max(MIN_CURVE, min(MAX_CURVE, _room(curves, width)))
    spans: list[Span] = []
    for name, (values, last) in curves.items():
        gap = "   " if spans else ""
        drawn = sparkline(values, room, glyphs.spark)
        spans += [(f"{gap}{name} ", "dim"), (drawn, "note"), (f" {last}", "")]
    return Line(tuple(spans))


def _room(curves: Mapping[str, tuple[Sequence[float], str]], width: int) -> int:
    """Cells that each curve may take."""
    words = sum(cell_len(name) + len(last) + 5 for name, (_, last) in curves.items())
    return (width - words) // len(curves)


def _curves(history: History) -> dict[str, tuple[Sequence[float], str]]:
    """(values, the last one in words) by name, the most telling first."""
    curves: dict[str, tuple[Sequence[float], str]] = {}
    for name, values in _numbers(history):
        last = f"{100 * values[-1]:.1f} %" if name in history.accuracy else f"{values[-1]:.3g}"
        curves[shown_set(name)] = (values, last)
    return curves


def _numbers(history: History) -> Iterator[tuple[str, list[float]]]:
    (first, values), *others = [*history.curves.items()] or [("", [])]
    order = {first: values, **dict(list(history.accuracy.items())[:1])}
    order |= {**dict(others), **history.accuracy}
    for name, values in order.items():
        numbers = [value for value in values if is_number(value)]
        if numbers:
            yield name, numbers
