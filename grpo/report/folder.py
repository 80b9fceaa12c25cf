"""Reads a run folder's files as one true history, also while the run writes them, or after it was resumed.

A last line that is only half written is left out. Where a run went back to an older step, what was written of the
later ones before does not count. Nothing is written here, and nothing is drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping, Sequence

from grpo.recipe import RecipeError, read_yaml
from grpo.recipe.shorthands import HELD_OUT

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

Record = dict[str, Any]
STEP_KEYS = {"reward/mean", "update/made"}
"""Every record of a step has one of these keys, none of an evaluation; supervised fine-tuning has no reward."""
SET_STEM = "eval/"


@dataclass(frozen=True, slots=True)
class EvaluationPoint:
    """One evaluation of a set after a step.

    ``set`` is ``heldout`` or a name of ``evaluate.sets``; ``source`` is the source of a mixture whose rows alone
    were counted, empty for all of the set. ``figures`` are accuracy, low, high, reward, length, ... by name.
    """

    step: int
    set: str
    source: str
    figures: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class State:
    """What became of a run: ``finished``, ``running``, ``stopped`` (on request) or ``failed``; ``reason`` in words."""

    name: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run. Each method reads its file anew; one that is not there is empty."""

    path: Path

    @staticmethod
    def at(target: str | Path) -> RunFolder:
        """The run folder at `target`, or around the ``recipe.yaml`` there; `RecipeError` if there is none."""
        path = Path(target).expanduser()
        if path.name == "recipe.yaml" and path.is_file():
            path = path.parent
        if not path.is_dir():
            raise RecipeError(f"run folder: there is no folder {path}")
        if not any((path / name).is_file() for name in ("recipe.yaml", "metrics.jsonl")):
            raise RecipeError(
                f"run folder: {path} holds neither recipe.yaml nor metrics.jsonl, so it is not a run's"
            )
        return RunFolder(path)

    @property
    def name(self) -> str:
        """The recipe's name, or that of the folder."""
        return str(self.recipe().get("name") or self.path.resolve().name)

    def recipe(self) -> Record:
        """The resolved recipe as plain values."""
        file = self.path / "recipe.yaml"
        return read_yaml(file) if file.is_file() and file.stat().st_size else {}

    def summary(self) -> Record:
        """``summary.json``; empty before the end of the run."""
        try:
            values = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def metrics(self) -> list[Record]:
        """The records of steps and of evaluations as they were written, without those that a resume undid."""
        kept: list[Record] = []
        for record in journal(self.path / "metrics.jsonl"):
            kept = _without_undone(kept, record)
            kept.append(record)
        return kept

    def steps(self) -> list[Record]:
        """The records of steps, each step once, in order."""
        return steps_in(self.metrics())

    def points(self) -> list[EvaluationPoint]:
        """The evaluations, each set and source of a step once, in order."""
        return points_in(self.metrics())

    def environments(self) -> list[Record]:
        """Versions and hardware of each life of the run."""
        return list(journal(self.path / "environment.jsonl"))

    def samples(self) -> Iterator[Record]:
        """The completions of steps, in the order they were written."""
        return journal(self.path / "samples.jsonl")

    def evaluated(self) -> Iterator[Record]:
        """The completions of evaluations, each with its ``set``."""
        for row in journal(self.path / "evaluations.jsonl"):
            yield {"set": HELD_OUT, **row}

    def alarms(self) -> list[Record]:
        """The alarms of gates."""
        return list(journal(self.path / "alarms.jsonl"))

    def console(self) -> list[str]:
        """The lines that the run printed, over all its lives."""
        try:
            text = (self.path / "console.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return text.splitlines()

    def state(self) -> State:
        """What became of the run, by its summary, its lock and its last words."""
        recipe = self.recipe()
        follows_from_rows = recipe.get("stage") == "reject" or recipe.get("epochs") is not None
        steps = None if follows_from_rows else recipe.get("steps")
        made = self.summary().get("steps")
        if made is not None and (steps is None or made >= steps):
            return State("finished")
        if is_locked(self.path):
            return State("running")
        return _last_words(self.console())


def is_step(record: Mapping[str, Any]) -> bool:
    """Whether a record of ``metrics.jsonl`` is a step's; the others are evaluations'."""
    return not STEP_KEYS.isdisjoint(record)


def steps_in(records: Sequence[Record]) -> list[Record]:
    """Those of `records` that are of steps."""
    return [record for record in records if is_step(record)]


def points_in(records: Sequence[Record]) -> list[EvaluationPoint]:
    """The evaluations in `records`."""
    evaluations = (record for record in records if not is_step(record))
    return [point for record in evaluations for point in points_of(record)]


def points_in_summary(summary: Mapping[str, Any]) -> list[EvaluationPoint]:
    """Before and after of a summary, for a folder whose ``metrics.jsonl`` has no records of evaluations."""
    sets = {HELD_OUT: summary, **(summary.get("sets") or {})}
    points = []
    for name, both in sets.items():
        for when in ("before", "after"):
            figures = both.get(when)
            if figures:
                step = figures.get("step") or 0
                points.append(EvaluationPoint(step=step, set=name, source="", figures=figures))
    return points


def points_of(record: Mapping[str, Any]) -> list[EvaluationPoint]:
    """The evaluations in a record: ``heldout/accuracy``, ``heldout/SOURCE/accuracy``, ``eval/NAME/accuracy``, ..."""
    figures_of: dict[tuple[str, str], dict[str, float | None]] = {}
    for key, value in record.items():
        stem, _, figure = key.rpartition("/")
        if stem:
            figures_of.setdefault(_set_of(stem), {})[figure] = value
    return [
        EvaluationPoint(step=record["step"], set=name, source=source, figures=figures)
        for (name, source), figures in figures_of.items()
    ]


def _set_of(stem: str) -> tuple[str, str]:
    """(set, source) of a key without its figure; a set's name holds no slash."""
    name, _, source = stem.removeprefix(SET_STEM).partition("/")
    return name, source


def _without_undone(kept: list[Record], record: Record) -> list[Record]:
    """`kept` without what `record` writes anew: its step and the later ones, or the same numbers of an evaluation."""
    step = record["step"]
    if not kept or kept[-1]["step"] < step:
        return kept
    if is_step(record):
        return [old for old in kept if old["step"] < step]
    return [old for old in kept if old["step"] < step or _stays_beside(old, record)]


def _stays_beside(old: Record, record: Record) -> bool:
    """Whether `old` is of the same step and holds other numbers: the step's own, or of another evaluation."""
    if old["step"] != record["step"]:
        return False
    return is_step(old) or old.keys() & record.keys() == {"step"}


def journal(file: Path) -> Iterator[Record]:
    """The records of a JSONL file that have a step; a line that is not whole is left out."""
    try:
        lines = file.open("rb")
    except OSError:
        return
    with lines:
        for line in lines:
            record = _record_in(line)
            if record is not None:
                yield record


def _record_in(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    has_step = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if has_step else None


def is_locked(folder: Path, file: str = "metrics.jsonl") -> bool:
    """Whether a run holds the folder by a lock on `file`; False where the file system knows no locks."""
    if fcntl is None:
        return False
    try:
        with (folder / file).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _last_words(lines: list[str]) -> State:
    """The state of a run that ended early, by what its last life printed."""
    for line in reversed(lines):
        if line.startswith("--- "):
            break
        if line.startswith("stopped: "):
            return State("failed", line.removeprefix("stopped: "))
        if line.startswith("stopped "):
            return State("stopped", line)
    return State("stopped", "it ended without a word: killed, or the machine went down")
