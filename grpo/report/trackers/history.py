"""What a run folder holds of a run so far, as a tracker gets it that begins anew: every step once, none undone.

It is read after a resume has cut the files back, up to the sizes that they had then; what the run writes meanwhile
comes to the tracker by itself.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Iterator, Mapping

from grpo.recipe.shorthands import HELD_OUT
from grpo.report.trackers.tracker import Point, Table
from grpo.report.trackers.values import numbers, table_of

RECORDS = "metrics.jsonl"
COMPLETIONS = ("samples.jsonl", "evaluations.jsonl")
LAST_BYTES = 64 * 2**20
"""How much of the completions' files is read, from their ends; tables of steps before are left out."""
TRAIN = "train"
"""The name of the table of a step's own completions."""


@dataclass(frozen=True, slots=True)
class History:
    """The journals of a run folder up to given sizes in bytes; `at_most` completions make a table."""

    folder: Path
    sizes: Mapping[str, int]
    at_most: int

    @staticmethod
    def so_far(folder: Path, at_most: int) -> History:
        """What the folder holds now."""
        files = (folder / name for name in (RECORDS, *COMPLETIONS))
        sizes = {file.name: file.stat().st_size for file in files if file.is_file()}
        return History(folder, sizes, at_most)

    def jobs(self) -> Iterator[Point | Table]:
        """Points and tables in the order of steps, dated as if the run had gone on without a break until now."""
        records = list(self._rows(RECORDS))
        dates = _dates(records)
        tables: dict[int, list[Table]] = {}
        for table in self._tables(dates):
            tables.setdefault(table.step, []).append(table)
        for record in records:
            step = record["step"]
            yield Point(step=step, values=numbers(record), when=dates[step])
            yield from tables.pop(step, ())

    def _tables(self, dates: Mapping[int, float]) -> Iterator[Table]:
        if not self.at_most:
            return
        for file in COMPLETIONS:
            rows = self._rows(file, LAST_BYTES)
            for (step, name), group in groupby(rows, key=_step_and_set):
                if step in dates:
                    yield table_of(name, step, list(group), at_most=self.at_most, when=dates[step])

    def _rows(self, name: str, last_bytes: int | None = None) -> Iterator[dict[str, Any]]:
        """The rows of a journal; of the last bytes alone, those of whole steps."""
        size = self.sizes.get(name, 0)
        start = 0 if last_bytes is None else max(0, size - last_bytes)
        if not size:
            return
        partial: int | None = None
        with (self.folder / name).open("rb") as lines:
            lines.seek(start)
            if start:
                lines.readline()
            while lines.tell() < size:
                row = _row_in(lines.readline())
                if row is not None and start and partial is None:
                    partial = row["step"]
                if row is not None and row["step"] != partial:
                    yield row


def _row_in(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None for a line that holds none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _step_and_set(row: Mapping[str, Any]) -> tuple[int, str]:
    """Which table a row belongs to; rows of ``evaluations.jsonl`` alone have a set."""
    return row["step"], table_name(row.get("set", TRAIN))


def table_name(set_name: str) -> str:
    """``heldout``, or ``eval/NAME`` for a set of the recipe, as in the keys of metrics."""
    return set_name if set_name in (TRAIN, HELD_OUT) else f"eval/{set_name}"


def _dates(records: list[dict[str, Any]]) -> dict[int, float]:
    """When each step ended, by the seconds of the steps after it."""
    dates: dict[int, float] = {}
    when = time.time()
    for record in reversed(records):
        dates.setdefault(record["step"], when)
        when -= record.get("seconds/step") or 0.0
    return dates
