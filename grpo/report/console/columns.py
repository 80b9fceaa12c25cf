"""The table of steps on the screen: which columns there are, what stands in them, which a width has room for.

A further column is a row of `COLUMNS`. What each means is said in docs/console.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Collection, Iterator, Mapping, Sequence

from grpo.monitor.gate_table import GATES, RUNGS
from grpo.report.console.ink import Glyphs, Line, Span, padded
from grpo.report.console.numbers import interval, is_number, seconds_of_step
from grpo.report.console.words import shown_set

Record = Mapping[str, Any]
GAP = "  "
INTERVAL_WIDTH = 21
ACCURACY_WIDTH = 9
LEVEL_STYLES = ("", "", "warn", "bad", "bad")
"""By the level of a gate, from none and a note to one that stops the run."""


@dataclass(frozen=True, slots=True)
class Column:
    """One quantity of a step: its key in the record, its heading, its width and format.

    Columns of a higher ``rank`` are the first to go where the screen is narrow. Records that have a key of
    ``unless`` do without.
    """

    key: str
    heading: str
    width: int
    shown: Callable[[float], str]
    rank: int = 0
    unless: tuple[str, ...] = ()

    def stands_in(self, record: Record) -> bool:
        """Whether a record has this column."""
        return self.key in record and not any(key in record for key in self.unless)


COLUMNS = (
    Column("reward/mean", "reward", 7, lambda value: f"{value:.3f}"),
    Column("policy/teacher_kl", "teacher KL", 10, lambda value: f"{value:.4f}"),
    Column(
        "update/loss",
        "loss",
        7,
        lambda value: f"{value:.4f}",
        unless=("reward/mean", "policy/teacher_kl"),
    ),
    Column("epoch", "epoch", 6, lambda value: f"{value:.2f}"),
    Column("row/learnt", "learnt", 7, lambda value: f"{value:.1f}"),
    Column("completion/length", "length", 7, lambda value: f"{value:.1f}"),
    Column("completion/truncated", "truncated", 9, lambda value: f"{value:.0%}", rank=5),
    Column("tool/share", "calling", 7, lambda value: f"{value:.0%}", rank=1),
    Column("prompt/pass_rate", "pass rate", 9, lambda value: f"{value:.0%}"),
    Column("ledger/accepted", "accepted", 8, lambda value: f"{value:.0f}"),
    Column("group/flat", "zero-var", 8, lambda value: f"{value:.0%}", rank=1),
    Column("policy/entropy", "entropy", 7, lambda value: f"{value:.2f}", rank=4),
    Column("policy/drift", "mismatch", 8, lambda value: f"{value:.0e}", rank=2),
    Column("seconds/step", "seconds", 7, seconds_of_step),
)
RANK_OF_FURTHER_SETS = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that fit: those of the record, and for each evaluation set whether its interval is shown.

    The sets stand after the first column.
    """

    columns: tuple[Column, ...]
    sets: tuple[tuple[str, bool], ...]
    step_width: int

    def heads(self) -> Line:
        """The column heads."""
        cells = [padded("step", self.step_width)]
        for column in self.columns:
            cells.append(padded(column.heading, column.width))
            if column is self.columns[0]:
                cells += [padded(shown_set(name), _width(wide)) for name, wide in self.sets]
        return Line.of((GAP.join(cells), "head"))

    def row(
        self, record: Record, steps: int, evaluations: Mapping[str, Record], glyphs: Glyphs
    ) -> Line:
        """One step. An accuracy that is older than the step before is dim."""
        step = int(record["step"])
        spans: list[Span] = [(padded(f"{step}/{steps}", self.step_width), "")]
        for column in self.columns:
            spans += [(GAP, ""), _cell(column, record, glyphs)]
            if column is self.columns[0]:
                for name, wide in self.sets:
                    spans += [(GAP, ""), _accuracy(evaluations.get(name), wide, step, glyphs)]
        return Line(tuple(spans))

    def remarks(self, record: Record) -> Line | None:
        """What a step is marked with, in a line of its own below its row; None for most."""
        keys = [column.key for column in self.columns]
        unseen = {name for name, gate in GATES.items() if gate.reads[0] not in keys}
        spans = [(f"{GAP}{text}", style) for text, style in remarks(record, unseen)]
        return Line.of(" " * self.step_width, *spans) if spans else None


def layout(width: int, record: Record, steps: int, sets: Sequence[str]) -> Layout:
    """What of a record and of the evaluation sets has room in `width` cells."""
    step_width = max(len("step"), 2 * len(str(steps)) + 1)
    columns = [column for column in COLUMNS if column.stands_in(record)]
    chosen = {name: True for name in sets}
    for name in reversed(list(chosen)[1:]):  # the first set keeps its interval longest
        if _needed(columns, chosen, step_width) > width:
            chosen[name] = False
    for rank in range(5, 0, -1):
        if _needed(columns, chosen, step_width) <= width:
            break
        if rank == RANK_OF_FURTHER_SETS:
            chosen = dict(list(chosen.items())[:1])
        columns = [column for column in columns if column.rank != rank]
    if sets and _needed(columns, chosen, step_width) > width:
        chosen[sets[0]] = False
    return Layout(tuple(columns), tuple(chosen.items()), step_width)


def _needed(columns: Sequence[Column], sets: Mapping[str, bool], step_width: int) -> int:
    widths = [column.width for column in columns] + [_width(wide) for wide in sets.values()]
    return step_width + sum(widths) + len(GAP) * len(widths)


def _width(with_interval: bool) -> int:
    return INTERVAL_WIDTH if with_interval else ACCURACY_WIDTH


def _cell(column: Column, record: Record, glyphs: Glyphs) -> Span:
    value: Any = record.get(column.key)
    if not is_number(value):
        return padded(glyphs.dash, column.width), "dim"
    return padded(column.shown(value), column.width), LEVEL_STYLES[level_of(column.key, record)]


def _accuracy(result: Record | None, wide: bool, step: int, glyphs: Glyphs) -> Span:
    if result is None or not is_number(result.get("accuracy")):
        return padded(glyphs.dash, _width(wide)), "dim"
    text = interval(result) if wide else f"{100 * result['accuracy']:.1f} %"
    is_new = int(result.get("step", step)) >= step - 1
    return padded(text, _width(wide)), "" if is_new else "dim"


def level_of(key: str, record: Record) -> int:
    """The highest level of the gates on a quantity; 0 where none is raised."""
    levels = [0]
    for name, gate in GATES.items():
        if gate.reads[:1] == (key,):
            levels.append(int(record.get(f"gate/{name}") or 0))
    return min(max(levels), len(LEVEL_STYLES) - 1)


def remarks(record: Record, gates: Collection[str] = GATES) -> Iterator[Span]:
    """What a step is marked with after its figures: no update, faults, those of `gates` that are raised."""
    if "update/made" in record and not record["update/made"]:
        yield "no update: nothing to learn", "dim"
    if record.get("ledger/faulted"):
        yield f"{record['ledger/faulted']} not scored", "warn"
    for name, rung in raised_gates(record):
        if name in gates:
            yield f"gate {name}: {rung}", "warn"


def raised_gates(record: Record) -> Iterator[tuple[str, str]]:
    """(gate, rung) for each gate above a note."""
    for key, level in record.items():
        if key.startswith("gate/") and key != "gate/level" and level > 1:
            yield key.removeprefix("gate/"), RUNGS[level - 1]
