"""Which run at each tracker belongs to a run folder, and how it was left: ``trackers.json``.

A life of a run that was killed leaves its trackers with steps that the next one makes again, or without the last ones
that it made; only one that closed them in peace may be continued there.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Mapping

FILE = "trackers.json"


@dataclass(frozen=True, slots=True)
class KeptRun:
    """The run at one tracker: its id there and the folder that it was opened for.

    ``closed_step`` is the last step that it was given, None if it was not closed or lacks something; ``evaluated_step``
    that of the last evaluation.
    """

    id: str
    folder: str = ""
    closed_step: int | None = None
    evaluated_step: int | None = None

    def may_continue(self, step: int, *, evaluation_due: bool) -> bool:
        """Whether it holds just what a run holds that goes on after `step`, or that and the evaluation that is due."""
        is_evaluated = self.evaluated_step == step or not evaluation_due
        return self.closed_step == step and is_evaluated


class KeptRuns:
    """``trackers.json`` of a run folder. A disk that fails costs the file, never the run."""

    def __init__(self, folder: Path):
        self.file = folder / FILE
        self.folder = str(folder.resolve())
        self.runs: dict[str, KeptRun] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):
            values: Mapping[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
            self.runs = {name: KeptRun(**run) for name, run in values.items()}

    def is_ours(self, name: str) -> bool:
        """Whether the run at tracker `name` was opened for this folder, not for one that this is a copy of."""
        return name in self.runs and self.runs[name].folder == self.folder

    def opened(self, name: str, id: str) -> None:
        """Keep that the run is `id` at tracker `name`, and open there."""
        self.runs[name] = KeptRun(id, self.folder)
        self._write()

    def closed(self, name: str, step: int, evaluated_step: int | None) -> None:
        """Keep that tracker `name` has everything up to `step`."""
        self.runs[name] = replace(self.runs[name], closed_step=step, evaluated_step=evaluated_step)
        self._write()

    def _write(self) -> None:
        values = {name: asdict(run) for name, run in self.runs.items()}
        writing = self.file.with_name(f".writing-{FILE}")
        with suppress(OSError):
            writing.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            writing.replace(self.file)
