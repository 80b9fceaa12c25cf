"""trackio, on this machine or at a Space or server of one's own.

trackio takes a step twice and keeps both. On this machine a resumed run is therefore deleted there and written anew
from the run folder, under the same name; elsewhere only a run that was closed in peace goes on, and any other begins
anew under a further name.
"""

from __future__ import annotations

import io
import os
import uuid
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Sequence

import trackio

from grpo.recipe import TrackioSection
from grpo.report.trackers.tracker import COLUMNS, Opening, Point, Table


class TrackioRun:
    """A run in a trackio project; its id is its name there."""

    def __init__(self, run: Any, *, where: str, is_new: bool):
        self.id: str = run.name
        self.is_new = is_new
        self.where = where
        self._run = run

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def table(self, table: Table) -> None:
        shown = trackio.Table(columns=list(COLUMNS), data=[list(row) for row in table.rows])
        self._run.log({table.name: shown}, step=table.step)

    def keep(self, files: Sequence[Path]) -> None:
        artifact = trackio.Artifact(f"{self.id}-files", type="run")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        with redirect_stdout(io.StringIO()):  # trackio prints; the console is the run's
            self._run.finish()


def open_run(section: TrackioSection, opening: Opening) -> TrackioRun:
    """The run at trackio."""
    if is_elsewhere(section):
        continues = opening.former is not None and opening.may_continue
        name = opening.former if continues else f"{opening.name}-{uuid.uuid4().hex[:6]}"
        where = f"trackio project {section.project}, run {name}"
        run = _init(section, opening, name=str(name), resume="allow" if continues else "never")
        return TrackioRun(run, where=where, is_new=not continues)
    if opening.former and opening.may_delete:
        _delete(section.project, opening.former)
    name = _free_name(section.project, opening.name)
    run = _init(section, opening, name=name, resume="never")
    return TrackioRun(run, where=f"trackio show --project {section.project}", is_new=True)


def is_elsewhere(section: TrackioSection) -> bool:
    """Whether the run is sent to a Space or server, by the recipe or by trackio's own variables."""
    named = section.space or section.server
    variables = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
    return bool(named or any(os.environ.get(name) for name in variables))


def _init(section: TrackioSection, opening: Opening, *, name: str, resume: str) -> Any:
    with redirect_stdout(io.StringIO()):
        return trackio.init(
            project=section.project,
            name=name,
            space_id=section.space,
            server_url=section.server,
            config={**opening.config, "tags": list(opening.tags)},
            resume=resume,
            embed=False,
            auto_log_cpu=False,
        )


def _runs(project: str) -> list[Any]:
    """The runs of a project on this machine; none if there is no such project."""
    with suppress(ValueError):
        return list(trackio.Api().runs(project))
    return []


def _delete(project: str, name: str) -> None:
    for run in _runs(project):
        if run.name == name:
            run.delete()


def _free_name(project: str, name: str) -> str:
    """`name`, with a number behind it if another run of the project has it: trackio finds runs by their names."""
    taken = {run.name for run in _runs(project)}
    number = 1
    candidate = name
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
