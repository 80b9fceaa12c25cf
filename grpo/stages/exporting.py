"""The stage ``export``: the model of a stage written for other programs, by the machinery of ``grpo export``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.cost.meter import SAVE
from grpo.export.write import Wanted, check_form, export
from grpo.recipe import Recipe
from grpo.recipe.target import is_run_folder
from grpo.stages.task import Task

FILES = "files"
"""The folder of the files, in the stage's own."""


class ExportStage(Task):
    """Writes ``model.name`` as the section ``export`` says, checked and described, into the folder ``files``."""

    stage = "export"
    phase = SAVE

    def _pieces(self, recipe: Recipe) -> Sequence[str]:
        check_form(wanted_of(recipe))
        return [recipe.export.to]

    def _do(self, piece: str) -> Mapping[str, Any]:
        out = self.folder / FILES
        shutil.rmtree(
            out, ignore_errors=True
        )  # whole, but not known to be: a life ended in between
        for unfinished in self.folder.glob(f".writing-{FILES}-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        report = export(wanted_of(self.recipe), self.say)
        for part in report.exported:
            size = f"{part.written.num_bytes / 1e6:.3g} MB"
            self.say(f"{part.written.path}: {part.written.precision}, {size}")
        details: dict[str, Any] = json.loads((out / "export.json").read_text(encoding="utf-8"))
        return details

    def _summary(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        (record,) = records.values()
        names = [f"{FILES}/{part['path']}" for part in record["files"]]
        return {
            "export": {name: part for name, part in record.items() if name != "piece"},
            "files": names if self.recipe.export.to == "gguf" else [FILES],
            "output": {"model": FILES, "data": None},
        }


def wanted_of(recipe: Recipe) -> Wanted:
    """What is to be exported, and how; of a stage's model the whole run, so that the card can tell of it."""
    section = recipe.export
    target = str(recipe.model.name)
    run = Path(target).parent
    if Path(target).name == "final" and is_run_folder(str(run)):
        target = str(run)
    return Wanted(
        target=target,
        form=section.to,
        out=recipe.folder() / FILES,
        precisions=tuple(section.precision),
        licence=section.license,
        pre=section.pre,
        compare=section.compare,
    )
