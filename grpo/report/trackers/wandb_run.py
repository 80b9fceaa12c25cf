"""Weights & Biases.

An online run that was closed in peace goes on under its id. Any other begins a new run that gets the whole history:
the server takes no step twice, and winding a run back is not offered by every server, nor while it takes the old one
for alive. Offline each life writes a file of its own, and two files of one run overwrite each other when they are
synced; so the new file gets the whole history and the old one goes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Sequence, cast

import wandb

from grpo.recipe import RecipeError, WandbSection
from grpo.report.trackers.tracker import COLUMNS, Opening, Point, Table


class WandbRun:
    """A run at Weights & Biases, or in a file of its format."""

    def __init__(self, run: Any, *, is_new: bool):
        self.id: str = run.id
        self.is_new = is_new
        self.where = ""  # wandb prints it by itself
        self._run = run

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def table(self, table: Table) -> None:
        shown = wandb.Table(columns=list(COLUMNS), data=[list(row) for row in table.rows])
        self._run.log({table.name: shown}, step=table.step)

    def keep(self, files: Sequence[Path]) -> None:
        artifact = wandb.Artifact(f"run-{self.id}-files", type="run")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def open_run(section: WandbSection, opening: Opening) -> WandbRun:
    """The run at wandb; `RecipeError` if it refuses the settings of a run that it never saw."""
    mode = mode_of(section)
    if mode == "online" and opening.former and opening.may_continue:
        try:
            run = _init(section, opening, mode=mode, id=opening.former, resume="must")
            return WandbRun(run, is_new=False)
        except wandb.errors.Error:
            pass  # it was deleted there, or is another's: begin anew
    id = None
    if mode == "offline":
        os.environ.setdefault("WANDB_DATA_DIR", str(opening.folder / "wandb"))
        if opening.former and _drop_unsynced(opening.folder, opening.former):
            id = opening.former
    try:
        return WandbRun(_init(section, opening, mode=mode, id=id, resume=None), is_new=True)
    except wandb.errors.Error as error:
        raise RecipeError(
            f"recipe: log.wandb: {error} Or set log.wandb.mode=offline, or log.wandb=null"
        ) from None


def mode_of(section: WandbSection) -> str:
    """The mode of the recipe; where that is the default, the one that WANDB_MODE asks for."""
    asked = os.environ.get("WANDB_MODE", "")
    known = ("offline", "disabled")
    return asked if section.mode == "online" and asked in known else section.mode


def _init(
    section: WandbSection, opening: Opening, *, mode: str, id: str | None, resume: str | None
) -> Any:
    replaced = {"replaces": opening.former} if opening.former and resume is None else {}
    return wandb.init(
        project=section.project,
        entity=section.entity,
        mode=cast(Any, mode),
        tags=[*opening.tags, *section.tags],
        name=opening.name,
        config={**opening.config, **replaced},
        dir=str(opening.folder),
        id=id,
        resume=cast(Any, resume),
        settings=wandb.Settings(console="off"),  # console.log has it, without secrets
    )


def _drop_unsynced(folder: Path, id: str) -> bool:
    """Remove the offline files of run `id` below `folder`; False if none is there or one was synced."""
    lives = list((folder / "wandb").glob(f"offline-run-*-{id}"))
    if not lives or any(list(life.glob("*.synced")) for life in lives):
        return False
    for life in lives:
        shutil.rmtree(life)
    return True
