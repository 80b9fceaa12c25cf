"""``stages.json``: what has become of each stage, written whole or not at all at every change."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Iterable

from grpo.recipe.plan import Plan, Stage
from grpo.report.pipeline import DONE, FILE, RUNNING, WAITING, PipelineFolder, StageState
from grpo.run.folder import write_text


class StageBook:
    """The states of a plan's stages, as the folder says; nothing is written before the first change."""

    def __init__(self, plan: Plan):
        self.folder = plan.folder
        found = {state.name: state for state in PipelineFolder(plan.folder).states()}
        self._states = {
            stage.name: found.get(stage.name, _unrecorded(stage, plan.folder))
            for stage in plan.stages
        }

    @property
    def states(self) -> list[StageState]:
        """All states in order."""
        return list(self._states.values())

    def status(self, name: str) -> str:
        """The status of a stage."""
        return self._states[name].status

    def is_done(self, name: str) -> bool:
        """Whether a stage has ended and what it left stands."""
        return self.status(name) == DONE

    def all_done(self) -> bool:
        """Whether nothing is left to run."""
        return all(state.status == DONE for state in self.states)

    def set(self, name: str, status: str, seconds: float = 0.0) -> None:
        """Record what has become of a stage."""
        self._states[name] = replace(self._states[name], status=status, seconds=seconds)
        self.write()

    def forget(self, names: Iterable[str]) -> None:
        """Record that stages wait; what they have left is no longer to be used."""
        for name in names:
            self._states[name] = replace(self._states[name], status=WAITING, seconds=0.0)
        self.write()

    def write(self) -> None:
        """Write the file."""
        stages = [asdict(state) for state in self.states]
        text = json.dumps({"stages": stages}, indent=1, ensure_ascii=False)
        write_text(self.folder / FILE, text + "\n")


def _unrecorded(stage: Stage, folder: Path) -> StageState:
    """The state of a stage that the file says nothing of; what lies in its folder is gone on with."""
    begun = (stage.folder / "recipe.yaml").is_file()
    return StageState(
        name=stage.name,
        kind=stage.kind,
        folder=str(stage.folder.relative_to(folder)),
        status=RUNNING if begun else WAITING,
    )
