"""The run folder: when it may be begun, when it may be gone on with, and how a file in it is written."""

from __future__ import annotations

import os
from pathlib import Path

from grpo.recipe import Recipe, RecipeError, differences, read_yaml

FREE_KEYS = ("steps", "run_dir", "evaluate.", "checkpoint.", "log.", "gates")


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to overwrite a run, to resume what is not there, or to resume under another recipe."""
    if not resume:
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise RecipeError(f"run folder: {folder} exists; go on with it by --resume, or choose another run_dir")
        above = next(place for place in (folder, *folder.parents) if place.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise RecipeError(f"run folder: {folder} cannot be made, since {above} is "
                              f"{'read-only' if above.is_dir() else 'not a folder'}; choose another run_dir")
        return
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"run folder: there is no run to resume in {folder}; leave --resume out to start one")
    old = Recipe.from_mapping(read_yaml(folder / "recipe.yaml"))
    changed = [f"{name} was {a!r}, is {b!r}" for name, a, b in differences(old.to_mapping(), recipe.to_mapping())
               if not name.startswith(FREE_KEYS)]
    if changed:
        raise RecipeError(f"run folder: {folder} was made by another recipe: {'; '.join(changed)}; resume with the "
                          "old values, or choose another run_dir")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    writing = path.with_name(f".writing-{path.name}")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)
