"""One record a step, to the console, ``metrics.jsonl`` and the trackers; in the loop, the only file that prints.

What is printed is also kept, as plain lines in ``console.log`` of the run folder, over all lives of the run. How it
looks on a terminal is the business of ``grpo.report.console``.

The console leads with reward and held-out accuracy, never with the loss: a policy-gradient loss is near 0 by
construction and says nothing about learning.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from grpo.monitor import watchdog
from grpo.monitor.gates import Alarm
from grpo.monitor.redaction import Redactor
from grpo.recipe.shorthands import HELD_OUT
from grpo.report.console.completion import chosen
from grpo.report.console.console import Console, open_console
from grpo.report.console.ink import Line, visible
from grpo.report.console.sentences import evaluation_sentence, step_sentence
from grpo.report.trackers import Life, Trackers
from grpo.run.accuracy import Evaluation
from grpo.run.sample_rows import SampleRows, evaluation_rows
from grpo.types import Batch, ScoredGroup

Record = dict[str, Any]
CONSOLE = "console.log"


class Log:
    """Writes what happens to a run's folder and shows it on `console`, by default the one that suits this process.

    A silent log (other ranks) writes nothing at all. A completion is shown after the first step and every `show_every`.

    ``accuracy`` is the last held-out accuracy, ``tracker_ids`` are the run's ids at the `trackers`; a checkpoint keeps
    both.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Trackers | None = None,
        *,
        rows: SampleRows | None = None,
        silent: bool = False,
        console: Console | None = None,
        show_every: int = 0,
    ):
        self.folder = folder
        self.rows = rows or SampleRows()
        self.silent = silent
        self.console = open_console(quiet=silent) if console is None else console
        self.trackers = trackers
        self.show_every = show_every
        self._num_shown = 0
        self.accuracy: float | None = None
        self._hide_secrets = Redactor()
        self._said: list[str] = []
        self._is_open = False

    @property
    def tracker_ids(self) -> dict[str, str]:
        """The run's id at each tracker; set before `open` where the run folder does not know them."""
        return {} if self.trackers is None else self.trackers.ids

    @tracker_ids.setter
    def tracker_ids(self, ids: Mapping[str, str]) -> None:
        if self.trackers is not None:
            self.trackers.former_ids = ids

    def open(self, life: Life, steps: int) -> None:
        """Start, or continue after the step of `life`; `RecipeError` if a tracker refuses its settings."""
        if self.silent:
            return
        self._is_open = True
        when = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        append_console(self.folder, [f"--- {when}", *self._said])
        self._said = []
        if self.trackers is not None:
            self.trackers.open(life, self.say)
        every = life.recipe.get("evaluate", {}).get("every", 0)
        self.console.begin(self.folder, steps=steps, step=life.step, evaluates_every=every)

    def say(self, *lines: str) -> None:
        """Print lines; what the console's encoding lacks is escaped."""
        if not self.silent:
            shown = self.keep(*lines)
            self.console.say(*shown)

    def detail(self, *lines: str) -> None:
        """Lines that are printed only by a verbose console, and kept by any."""
        if not self.silent:
            shown = self.keep(*lines)
            if self.console.verbose:
                self.console.say(*shown)

    def show(self, lines: Iterable[Line]) -> None:
        """Print styled lines."""
        if self.silent:
            return
        hidden = [line.changed(self._hide_secrets) for line in lines]
        self.keep(*(line.text for line in hidden))
        self.console.show_lines(hidden)

    def keep(self, *lines: str) -> list[str]:
        """The lines without secrets, kept in ``console.log`` and not printed."""
        kept = [self._hide_secrets(line) for line in lines]
        if self._is_open:
            append_console(self.folder, [visible(line) for line in kept])
        else:
            self._said += kept  # the folder is not prepared yet
        return kept

    def step(
        self,
        record: Record,
        groups: Sequence[ScoredGroup],
        steps: int,
        batch: Batch | None = None,
        *,
        rows: Sequence[Record] | None = None,
    ) -> None:
        """Write one step: its record, and every completion with its scores and what `batch` made of it.

        `rows` are those of the completions where others than the run's `SampleRows` make them.
        """
        if self.silent:
            return
        if rows is None:
            rows = self.rows.of_step(record["step"], groups, batch) if groups else []
        self._append("samples.jsonl", rows)
        self._append("metrics.jsonl", [record])
        if self.trackers is not None:
            self.trackers.step(record, rows)
        self.console.history.steps = steps
        self.keep(self.line(record, steps))
        self.console.step(record)
        self._show_a_completion(record["step"], rows)

    def _show_a_completion(self, step: int, rows: Sequence[Record]) -> None:
        """Show one of a step's completions, after the first step of this process and every `show_every`."""
        if not self.show_every or (self._num_shown and step % self.show_every):
            return
        found = chosen(rows, turn=self._num_shown)
        self._num_shown += 1
        if found is not None:
            row, group = found
            hidden = json.loads(self._hide_secrets(json.dumps(finite(row))))
            self.console.completion(hidden, finite(group))

    def alarm(self, alarm: Alarm, aloud: bool) -> None:
        """Write an alarm of a gate; `aloud`, print it too."""
        if self.silent:
            return
        self._append("alarms.jsonl", [alarm.to_mapping()])
        if aloud:
            self.say(f"warning: step {alarm.step}: gate {alarm.gate}: {alarm.says}")

    def samples(self, step: int, groups: Sequence[ScoredGroup], batch: Batch | None = None) -> None:
        """Append every completion of `groups` to ``samples.jsonl``."""
        if not self.silent:
            self._append("samples.jsonl", self.rows.of_step(step, groups, batch))

    def evaluation(self, step: int, results: Mapping[str, Evaluation], when: str) -> None:
        """Print and write the evaluation of each set."""
        self.accuracy = next(iter(results.values())).accuracy
        if self.silent:
            return
        metrics: Record = {}
        rows = {name: list(evaluation_rows(step, name, result)) for name, result in results.items()}
        for name, result in results.items():
            self._append("evaluations.jsonl", rows[name])
            metrics |= evaluation_metrics(name, result)
        self._append("metrics.jsonl", [{"step": step, **metrics}])
        if self.trackers is not None:
            self.trackers.evaluation(step, metrics, rows)
        shown = {name: {"step": step, **finite(of.to_mapping())} for name, of in results.items()}
        self.keep(*(evaluation_sentence(name, when, result) for name, result in shown.items()))
        seconds = sum(result.seconds for result in results.values())
        self.console.evaluations(shown, when, seconds)

    def measured(self, step: int, metrics: Record, line: str) -> None:
        """Write and print what an evaluation measured without sampling."""
        if self.silent:
            return
        self._append("metrics.jsonl", [{"step": step, **metrics}])
        if self.trackers is not None:
            self.trackers.evaluation(step, metrics, {})
        self.say(line)

    def line(self, record: Record, steps: int) -> str:
        """The plain line of a step."""
        return step_sentence(record, steps, self.console.history.evaluations)

    def close(self, *, failed: bool = False, hurried: bool = False) -> None:
        """Finish the run at the trackers, there as one that failed if it did.

        Where it is `hurried`, a tracker that does not answer is not waited for as long.
        """
        if self.trackers is not None and not self.silent:
            self.trackers.close(failed=failed, hurried=hurried)

    def _append(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = (self._hide_secrets(json.dumps(finite(row), ensure_ascii=False)) for row in rows)
        with watchdog.waiting("checkpoint", owner=f"grpo.run.log, {file}"):
            # half a surrogate pair, which UTF-8 cannot hold, becomes its JSON escape
            with (self.folder / file).open("a", encoding="utf-8", errors="backslashreplace") as out:
                out.writelines(line + "\n" for line in lines)


def evaluation_metrics(name: str, result: Evaluation) -> Record:
    """An evaluation as flat keys: ``heldout/accuracy``, or ``eval/NAME/accuracy`` for a set of the recipe.

    In a mixture, each source of the held-out rows has its own: ``heldout/SOURCE/accuracy``.
    """
    stem = HELD_OUT if name == HELD_OUT else f"eval/{name}"
    metrics = {f"{stem}/{key}": value for key, value in result.metrics().items()}
    for source, figures in result.by_source().items():
        if source and source != name:
            metrics |= {f"{stem}/{source}/{key}": value for key, value in figures.items()}
    return metrics


def append_console(folder: Path, lines: Sequence[str]) -> None:
    """Keep `lines` in ``console.log`` of a run that has begun; a disk that fails costs only them."""
    if not (folder / "recipe.yaml").is_file():
        return
    with suppress(OSError):
        with (folder / CONSOLE).open("a", encoding="utf-8", errors="backslashreplace") as out:
            out.writelines(f"{line}\n" for line in lines)


def finite(value: Any) -> Any:
    """`value` with NaN and infinity as null, which JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
