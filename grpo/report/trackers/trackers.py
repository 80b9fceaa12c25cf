"""All trackers of a run: opened with it, told what it logs, closed with it. None of them can stop it or hold it up.

A tracker gets the same keys as ``metrics.jsonl``, and after a resume the same history as the run folder has: it goes on
with its run where that was closed in peace at the very step, and otherwise begins anew with what the folder holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any, Callable, Iterator, Mapping, Sequence

from grpo.monitor import watchdog
from grpo.monitor.redaction import Redactor, first_words
from grpo.recipe import LogSection, RecipeError
from grpo.report.trackers.delivery import Delivery
from grpo.report.trackers.history import TRAIN, History, table_name
from grpo.report.trackers.kept import KeptRun, KeptRuns
from grpo.report.trackers.registry import KINDS, asked_for, end_service
from grpo.report.trackers.tracker import Opening, Point, Table, Tracker
from grpo.report.trackers.values import numbers, table_of

FILES = ("recipe.yaml", "summary.json", "report.html", "console.log")
"""What trackers keep of the run folder at the end, as far as it is there."""
HURRIED_SECONDS = 30.0
"""The longest wait for trackers at the end of a run that failed or was asked to stop."""


@dataclass(frozen=True, slots=True)
class Life:
    """A life of a run as it begins: the resolved recipe, the step after which it goes on, and what is due there."""

    recipe: Mapping[str, Any]
    name: str
    step: int = 0
    evaluation_due: bool = False


class Trackers:
    """The trackers that a recipe's section ``log`` asks for.

    `patience_seconds` bounds every wait for one. ``former_ids`` are the ids by tracker of a run whose folder does not
    know them, as a checkpoint of an earlier version keeps them; ``ids`` are those of the open ones.
    """

    def __init__(self, section: LogSection, folder: Path, *, patience_seconds: float):
        self.section = section
        self.folder = folder
        self.former_ids: Mapping[str, str] = {}
        self._patience_seconds = patience_seconds
        self._hide = Redactor()
        self._say: Callable[..., None] = lambda *lines: None
        self._known: set[str] = set()
        self._deliveries: dict[str, Delivery] = {}
        self._step = 0
        self._evaluated_step: int | None = None

    @property
    def ids(self) -> dict[str, str]:
        """The run's id at each open tracker, by the tracker's name."""
        deliveries = self._deliveries.items()
        return {name: one.tracker.id for name, one in deliveries if one.tracker is not None}

    # -- the beginning ----------------------------------------------------------------------------------------

    def open(self, life: Life, say: Callable[..., None]) -> None:
        """Open every tracker; `say` prints what a reader should know.

        `RecipeError` if one refuses that the run was never at before; one that it was at may be away for now.
        """
        self._say = say
        self._known = set()
        self._kept = KeptRuns(self.folder)
        self._step = life.step
        self._evaluated_step = None
        for name, section in asked_for(self.section):
            self._open(name, section, life)

    def _open(self, name: str, section: Any, life: Life) -> None:
        former = self._kept.runs.get(name)
        if former is None and name in self.former_ids:
            former = KeptRun(self.former_ids[name])
        history = History.so_far(self.folder, self.section.completions)
        delivery = Delivery(
            name,
            partial(self._open_tracker, name, section, self._opening(name, life, former)),
            history.jobs,
            patience_seconds=self._patience_seconds,
            held_step=None if former is None else former.evaluated_step,
        )
        if former is None:
            with watchdog.waiting("server", owner=f"{name}, its start"):
                delivery.opened.wait()
        elif not delivery.opened.wait(self._patience_seconds):
            self._say(
                f"warning: {name} has not answered for {self._patience_seconds:g} s; the run goes on, and "
                f"{name} gets everything once it answers"
            )
        if delivery.error is not None:
            self._refuse(name, delivery.error, is_known=former is not None)
            return
        self._deliveries[name] = delivery
        self._look_after(delivery)

    def _opening(self, name: str, life: Life, former: KeptRun | None) -> Opening:
        due = life.evaluation_due
        is_ours = self._kept.is_ours(name)
        return Opening(
            folder=self.folder,
            name=self._hide(life.name),
            config=life.recipe,
            tags=[self._hide(tag) for tag in self.section.tags],
            former=None if former is None else former.id,
            may_continue=bool(
                former and is_ours and former.may_continue(life.step, evaluation_due=due)
            ),
            may_delete=is_ours,
        )

    @staticmethod
    def _open_tracker(name: str, section: Any, opening: Opening) -> Tracker:
        return KINDS[name].open(section, opening)

    def _refuse(self, name: str, error: BaseException, *, is_known: bool) -> None:
        if not isinstance(error, Exception):
            raise error
        if is_known:
            self._say(
                f"warning: {name}: {first_words(error)}; the run goes on without it, and resumed later it "
                "brings it up to date"
            )
        elif isinstance(error, RecipeError):
            raise error
        else:
            raise RecipeError(
                f"recipe: log.{name}: {first_words(error)}; mend that, or leave log.{name} out"
            ) from error

    # -- what is logged ---------------------------------------------------------------------------------------

    def step(self, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Pass on the record of a step, and a table of some of its completions, `rows` of ``samples.jsonl``."""
        self._step = record["step"]
        self._send(Point(record["step"], numbers(record), time.time()))
        self._send_table(TRAIN, record["step"], rows)

    def evaluation(
        self, step: int, metrics: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> None:
        """Pass on the metrics of an evaluation, and a table of some completions of each set, by its name."""
        self._evaluated_step = step
        self._send(Point(step, numbers(metrics), time.time()))
        for name, its_rows in rows.items():
            self._send_table(table_name(name), step, its_rows)

    def _send_table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        number = self.section.completions
        if not (self._deliveries and number and rows):
            return
        table = table_of(name, step, rows, at_most=number, when=time.time())
        self._send(Table(table.name, step, [self._hidden(row) for row in table.rows], table.when))

    def _hidden(self, row: Sequence[str | float | None]) -> list[str | float | None]:
        """A table's row without secrets."""
        return [self._hide(cell) if isinstance(cell, str) else cell for cell in row]

    def _send(self, job: Point | Table) -> None:
        for delivery in self._deliveries.values():
            delivery.send(job)
            self._look_after(delivery)

    def _look_after(self, delivery: Delivery) -> None:
        """Say what a tracker has to say, and keep its id once it is known."""
        for note in _taken(delivery):
            self._say(note)
        tracker = delivery.tracker
        if tracker is None or delivery.name in self._known:
            return
        self._known.add(delivery.name)
        self._kept.opened(delivery.name, tracker.id)
        if tracker.where:
            self._say(f"{delivery.name}: {tracker.where}")

    # -- the end ----------------------------------------------------------------------------------------------

    def close(self, *, failed: bool = False, hurried: bool = False) -> None:
        """Give every tracker the files at the end, close it, and keep whether it has everything."""
        present = (self.folder / name for name in FILES)
        files = [file for file in present if file.is_file()]
        patience = self._patience_seconds
        if failed or hurried:
            patience = min(patience, HURRIED_SECONDS)
        for name, delivery in self._deliveries.items():
            delivery.finish(files, failed=failed, patience_seconds=patience)
            self._look_after(delivery)
            if delivery.is_stuck:
                end_service(name)
            if delivery.is_clean:
                self._kept.closed(name, self._step, self._evaluated_step)
        self._deliveries = {}


def _taken(delivery: Delivery) -> Iterator[str]:
    """The notes that are there, each once."""
    while True:
        try:
            yield delivery.notes.get_nowait()
        except Empty:
            return
