"""The completions in a run folder, from files of any size: where each step's lie, and a bounded choice of them.

A file is first divided into spans of one step (and set) by the beginnings of its lines alone; only the spans, or the
prompts, that are chosen are read as JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

TRAINING = ""
"""The set of the completions that trained."""
_HEAD = re.compile(
    rb'\{(?:"set": ("(?:[^"\\]|\\.)*"), )?"step": (\d+), "prompt_id": ("(?:[^"\\]|\\.)*")'
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion with its scores. ``set`` is empty for a training completion, else the evaluated set.

    ``right`` says whether the reward that means accuracy gave it the threshold; None where it gave no verdict.
    ``parts`` are values by reward, ``reported`` the numbers a reward reported, e.g. a program's tests. ``tokens``
    holds ``ends`` (in characters) and ``logps`` of each token where they were kept, else nothing. ``turns`` are those
    that were answered, each with its ``text``, what was ``observed`` and the ``status``.
    """

    set: str
    step: int
    source: str = ""
    prompt_id: str = ""
    index: int = 0
    prompt: str = ""
    completion: str = ""
    finish: str = ""
    num_tokens: int = 0
    reward: float | None = None
    status: str = ""
    right: bool | None = None
    advantage: float | None = None
    outcome: str = ""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    statuses: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, str] = field(default_factory=dict)
    reported: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    extracted: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, Sequence[float]] = field(default_factory=dict)
    turns: Sequence[Mapping[str, Any]] = ()


PLAIN = tuple(part.name for part in fields(Sample) if part.name not in ("set", "right", "detail"))
"""The keys of a row that a `Sample` has as they are."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Which reward means accuracy, for folders whose rows do not say which completion is right."""

    reward: str
    threshold: float

    @staticmethod
    def of(recipe: Mapping[str, Any]) -> Judge:
        """By the recipe: ``evaluate.reward``, or the first reward."""
        section = recipe.get("evaluate") or {}
        first = next(iter(recipe.get("rewards") or {}), "")
        return Judge(section.get("reward") or first, section.get("threshold") or 1.0)

    def is_right(self, row: Mapping[str, Any]) -> bool | None:
        """Whether the completion of `row` is right."""
        if "right" in row:
            return None if row["right"] is None else bool(row["right"])
        value = (row.get("parts") or {}).get(self.reward)
        return None if value is None else value >= self.threshold


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring lines of a file that belong to one step and set: ``num_rows`` in the bytes from start to end."""

    set: str
    step: int
    start: int
    end: int
    num_rows: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.start


def sample_of(row: Mapping[str, Any], judge: Judge, name: str) -> Sample:
    """A row of ``samples.jsonl`` or ``evaluations.jsonl`` as a `Sample` of the set `name`; what it lacks is empty."""
    detail = row.get("detail") or {}
    known = {key: row[key] for key in PLAIN if row.get(key) is not None}
    return Sample(
        **known,
        set=name,
        right=judge.is_right(row),
        detail=detail if isinstance(detail, dict) else {"": str(detail)},
    )


# ---- where they lie -------------------------------------------------------------------------------------------


def spans_of(file: Path, unnamed: str = TRAINING) -> list[Span]:
    """The spans of a file, without those that a resume from an older step undid; none without the file.

    `unnamed` is the set of the rows that name none.
    """
    spans: list[Span] = []
    for start, line in _whole_lines(file):
        head = _head_of(line)
        if head is None:
            continue
        name = head[0] or unnamed
        step = head[1]
        last = spans[-1] if spans else None
        if last is not None and step < last.step:
            spans = [span for span in spans if span.step < step]
            last = None
        if last is None or (last.set, last.step) != (name, step):
            spans.append(Span(name, step, start=start, end=start + len(line), num_rows=1))
        else:
            spans[-1] = replace(last, end=start + len(line), num_rows=last.num_rows + 1)
    return spans


def _whole_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each line that is complete."""
    try:
        lines = file.open("rb")
    except OSError:
        return
    start = 0
    with lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield start, line
            start += len(line)


def _head_of(line: bytes) -> tuple[str, int, str] | None:
    """(set, step, prompt id) of a row by its beginning, or by all of it; None for what is no row."""
    found = _HEAD.match(line)
    if found is not None:
        name, step, prompt_id = found.groups()
        return (json.loads(name) if name else TRAINING), int(step), json.loads(prompt_id)
    try:
        row = json.loads(line)
        return row.get("set", TRAINING), int(row["step"]), str(row["prompt_id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def evenly_spaced(spans: Sequence[Span], limit_bytes: int) -> list[Span]:
    """As many of `spans` as fit in `limit_bytes`, the first and the last among them, the others evenly between."""
    number = len(spans)
    total = sum(span.num_bytes for span in spans)
    while number > 2 and total > limit_bytes:
        number = max(2, min(number - 1, int(number * limit_bytes / total)))
        total = sum(spans[place].num_bytes for place in _places(len(spans), number))
    return [spans[place] for place in _places(len(spans), number)]


def _places(number: int, kept: int) -> list[int]:
    """`kept` places out of `number`, evenly spaced, both ends among them."""
    if kept >= number or number < 2:
        return list(range(number))
    return [round(place * (number - 1) / (kept - 1)) for place in range(kept)]


# ---- what they hold -------------------------------------------------------------------------------------------


def read_spans(
    file: Path, spans: Sequence[Span], judge: Judge, prompts: set[str] | None = None
) -> Iterator[Sample]:
    """The completions in `spans` of a file, of the `prompts` only where they are given."""
    if not spans:
        return
    with file.open("rb") as lines:
        for span in spans:
            lines.seek(span.start)
            for line in lines.read(span.num_bytes).splitlines(keepends=True):
                head = _head_of(line)
                if head is None or (prompts is not None and head[2] not in prompts):
                    continue
                yield sample_of(json.loads(line), judge, span.set)


def prompt_ids(file: Path, span: Span) -> list[str]:
    """The ids of the prompts in a span, each once, in order."""
    with file.open("rb") as lines:
        lines.seek(span.start)
        heads = (_head_of(line) for line in lines.read(span.num_bytes).splitlines(keepends=True))
        return list(dict.fromkeys(head[2] for head in heads if head is not None))
