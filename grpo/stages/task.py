"""A stage that learns nothing: pieces of work in a run folder of its own, each whole on disk or done again.

``Task`` is a run as an iterator, one piece an iteration, and answers to what `grpo.run.stepped.SteppedRun` answers to.
What a piece is, is up to ``evaluation`` and ``exporting``.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping, Sequence

from grpo.cost.book import read_costs
from grpo.cost.meter import Meter, Place, new_attempt
from grpo.cost.price import Prices
from grpo.distributed.process_group import Ranks
from grpo.recipe import Recipe, RecipeError, to_yaml
from grpo.report.console.console import Console, open_console
from grpo.report.console.heartbeat import FAILED, FINISHED, STOPPED
from grpo.report.console.opening import title
from grpo.run import inputs
from grpo.run.environment import uuid_of
from grpo.run.folder import lock, write_text
from grpo.run.log import append_console, finite
from grpo.run.setup import default_device, hide_progress_bars
from grpo.run.summary import write_summary


class Task(ABC):
    """A run of pieces of work. Iterate over it: each iteration does one piece that is left and yields its record.

    ``Task(recipe, resume=False, quiet=False, verbose=False, console=None)``; the first of several processes works.
    Raises `RecipeError` for what a user can fix. ``num_steps`` counts the pieces that are done.
    """

    stage: str
    phase: str

    def __init__(
        self,
        recipe: Recipe,
        *,
        resume: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        console: Console | None = None,
    ):
        if recipe.stage != self.stage:
            raise RecipeError(
                f"recipe: stage is {recipe.stage}, and {type(self).__name__} makes runs of stage {self.stage}; use "
                "grpo.stages.trainer_of(recipe)"
            )
        hide_progress_bars()
        self.folder = recipe.folder()
        self.pieces = self._pieces(recipe)
        self.recipe = replace(recipe, steps=len(self.pieces), epochs=None)
        inputs.check_recipe(self.recipe, resume=resume, has_model=False)
        self.is_main = inputs.is_first_rank()
        self.console = console or open_console(quiet=quiet or not self.is_main, verbose=verbose)
        self.console.title(title(recipe))
        self.num_steps = 0
        self.step_seconds = 0.0
        self.stopped = False
        self.stop_requested = False
        self.summary: dict[str, Any] | None = None
        self._lock: BinaryIO | None = None
        self.cost = Meter()

    @abstractmethod
    def _pieces(self, recipe: Recipe) -> Sequence[str]:
        """The names of what is to be done, in order."""

    @abstractmethod
    def _do(self, piece: str) -> Mapping[str, Any]:
        """Do one piece; what it came to, which is kept."""

    @abstractmethod
    def _summary(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What ``summary.json`` holds beside the name and the counts, from the record of each piece."""

    def train(self) -> dict[str, Any] | None:
        """Do all that is left; returns what ``summary.json`` holds (None on other ranks, or if stopped)."""
        for _ in self:
            pass
        return self.summary

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        if self.summary is not None:
            return
        if not self.is_main:
            self.stopped = of_the_first(False)
            return
        try:
            self._open()
            for piece in self.pieces:
                if self._kept(piece) is None:
                    if self.stop_requested:
                        self.stopped = True
                        break
                    yield self._done(piece)
                self.num_steps += 1
            if not self.stopped:
                self._finish()
        except BaseException:
            self._close(FAILED)
            raise
        self._close(STOPPED if self.stopped else FINISHED)
        of_the_first(self.stopped)

    def _open(self) -> None:
        self.num_steps = 0
        self.stopped = False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder)
        write_text(self.folder / "recipe.yaml", to_yaml(self.recipe.to_mapping()))
        (self.folder / "done").mkdir(exist_ok=True)
        number = len(self.pieces)
        self.cost.begin()
        device = default_device()
        place = Place(new_attempt(), devices=int(device.type != "cpu"), gpu=uuid_of(device))
        num_done = sum(self._kept(piece) is not None for piece in self.pieces)
        self.cost.open(self.folder, place, num_done or None)
        self.console.begin(self.folder, steps=number, step=0, evaluates_every=0)

    def _done(self, piece: str) -> Mapping[str, Any]:
        """The record of a piece, done now."""
        started = time.perf_counter()
        with self.console.working(), self.cost.phase(self.phase):
            record = dict(self._do(piece))
        self.step_seconds = time.perf_counter() - started
        record = {"piece": piece, "seconds": self.step_seconds, **finite(record)}
        write_text(self._file(piece), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        self.cost.mark(self.num_steps + 1)
        return record

    def _kept(self, piece: str) -> dict[str, Any] | None:
        """The record of a piece that was done; None of one that was not."""
        try:
            record: dict[str, Any] = json.loads(self._file(piece).read_text(encoding="utf-8"))
            return record
        except (OSError, ValueError):
            return None

    def _file(self, piece: str) -> Path:
        return self.folder / "done" / f"{piece}.json"

    def _finish(self) -> None:
        records = {piece: self._kept(piece) or {} for piece in self.pieces}
        summary = {
            "name": self.recipe.name,
            "stage": self.stage,
            "steps": len(self.pieces),
            "seconds": sum(record["seconds"] for record in records.values()),
            **self._summary(records),
        }
        write_summary(self.folder, summary)
        self.summary = summary

    def _settle(self, *, failed: bool) -> None:
        """End the account of what this attempt took; the summary has that of all attempts."""
        self.cost.end(failed=failed)
        costs = read_costs(self.folder)
        if self.summary is not None and costs is not None:
            prices = Prices.of_recipe(self.recipe.to_mapping())
            self.summary["cost"] = costs.to_mapping(prices)
            write_summary(self.folder, self.summary)

    def say(self, line: str) -> None:
        """Show a line and keep it."""
        self.console.say(line)
        append_console(self.folder, [line])

    def request_stop(self) -> None:
        """Stop after the piece under way."""
        self.stop_requested = True
        self.console.notice = "stopping after this one"

    def close(self, failure: BaseException | None = None) -> None:
        """Let others use the folder."""
        self._close(STOPPED if failure is None else FAILED)

    def _close(self, state: str) -> None:
        self.stop_requested = False
        if self._lock is not None:
            self._settle(failed=state == FAILED)
            self._lock.close()
            self._lock = None
            self.console.close(state)


def of_the_first(flag: bool) -> bool:
    """The flag of the first of the processes that train together, once all are here.

    They wait for it; what only one does takes as long as it takes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return flag
    first: bool = Ranks.start().gather([flag])[0]
    return first
