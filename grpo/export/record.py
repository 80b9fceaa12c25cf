"""What is known of a run once it is over, for its model card: read from the run folder, nothing is computed again."""

from __future__ import annotations

import importlib.util
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

from grpo.recipe import Recipe, RecipeError, RewardSection
from grpo.recipe.target import recipe_of_run
from grpo.run import checkpoint
from grpo.run.fingerprint import digest
from grpo.run.state import SPELLING
from rewards.table import TABLE

JSON = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``recipe`` and ``summary`` are the run's, ``made_of`` its last fingerprint, empty where no checkpoint is."""

    recipe: Recipe
    summary: JSON
    made_of: JSON = field(default_factory=dict)


def read_record(run: Path) -> RunRecord:
    """The record of the finished run in `run`; `RecipeError` if it has no summary."""
    file = run / "summary.json"
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RecipeError(
            f"export: {run} has no summary.json that can be read, so the run is not over; finish it with: grpo train "
            f"{shlex.quote(str(run))} --resume"
        ) from None
    return RunRecord(recipe_of_run(str(run)), summary, _made_of(run))


def _made_of(run: Path) -> JSON:
    folders = sorted(checkpoint.folder_of(run).glob("step-*"))
    for folder in reversed(folders):
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # being written, or damaged
            continue
        found: JSON = state["state"].get(SPELLING["fingerprint"]) or {}
        return found
    return {}


def reward_digest(section: RewardSection) -> str | None:
    """The digest of the file that a reward's function is in, as a run's fingerprint has it; None if it is not found.

    The file is not run.
    """
    use = section.use
    if not isinstance(use, str):
        return None
    place = TABLE.get(use, use).rpartition(":")[0]
    if place.endswith(".py"):
        file = Path(place).expanduser()
    else:
        try:
            spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            return None
        if spec is None or spec.origin is None:
            return None
        file = Path(spec.origin)
    return digest([file.read_bytes()]) if file.is_file() else None


def stated_licence(model: str | None) -> str | None:
    """The licence in the head of the README beside a model's files; None where none is stated."""
    if model is None:
        return None
    file = Path(model).expanduser() / "README.md"
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        key, _, value = line.partition(":")
        if key.strip() == "license" and value.strip():
            return value.strip().strip("'\"")
    return None
