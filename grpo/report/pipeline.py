"""The folder of a recipe with stages as others see it: what has become of each stage, and the runs in it.

Nothing is written here; ``grpo.stages.progress`` does that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Iterator

from grpo.recipe import RecipeError
from grpo.report.folder import RunFolder, is_locked

FILE = "stages.json"
LOCK = "stages.lock"
WAITING = "waiting"
RUNNING = "running"
DONE = "done"
STOPPED = "stopped"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StageState:
    """What has become of one stage.

    ``status`` is waiting, running (also if its process was killed), done, stopped or failed; ``folder`` is relative to
    the folder of all; ``seconds`` is the wall time that its run took, 0 before its end.
    """

    name: str
    kind: str
    folder: str
    status: str = WAITING
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """The folder of a recipe with stages. Each method reads its file anew."""

    path: Path

    @staticmethod
    def at(target: str | Path) -> PipelineFolder | None:
        """The folder at `target`; None if that is anything else."""
        path = Path(target).expanduser()
        return PipelineFolder(path) if (path / FILE).is_file() else None

    def states(self) -> list[StageState]:
        """The stages in order; none while the file cannot be read."""
        try:
            text = (self.path / FILE).read_text(encoding="utf-8")
            return [_state(values) for values in json.loads(text)["stages"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def is_running(self) -> bool:
        """Whether a process holds the folder."""
        return is_locked(self.path, LOCK)

    def run(self, state: StageState) -> RunFolder:
        """The run folder of a stage."""
        return RunFolder(self.path / state.folder)

    def runs_with_steps(self) -> list[RunFolder]:
        """The stages that have made steps, as run folders."""
        runs = [self.run(state) for state in self.states()]
        return [run for run in runs if run.steps()]

    def table(self) -> str:
        """The table of models and sets as text; empty before the end."""
        try:
            return (self.path / "table.md").read_text(encoding="utf-8")
        except OSError:
            return ""

    def lines(self) -> Iterator[str]:
        """A line for each stage: its name, kind and status, and how long it took."""
        states = self.states()
        width = max((len(state.name) for state in states), default=0)
        alive = self.is_running()
        for number, state in enumerate(states, start=1):
            status = state.status
            if status == RUNNING and not alive:
                status = "interrupted"
            took = f", {state.seconds:.0f} s" if state.seconds else ""
            yield f"  {number}  {state.name:<{width}}  {state.kind:<8}  {status}{took}"


def runs_at(target: str | Path) -> list[RunFolder]:
    """The run at `target`; of a folder of stages, those that have made steps. `RecipeError` if there is none."""
    stages = PipelineFolder.at(target)
    if stages is None:
        return [RunFolder.at(target)]
    runs = stages.runs_with_steps()
    if not runs:
        raise RecipeError(f"run folder: no stage of {stages.path} has made a step yet")
    return runs


def _state(values: Any) -> StageState:
    known = [field.name for field in fields(StageState)]
    return StageState(**{name: part for name, part in values.items() if name in known})
