"""The other trainers' names of trackers as sections of ``log``."""

from __future__ import annotations

from typing import Sequence

from grpo.convert.values import Draft
from grpo.recipe.shorthands import TRACKERS

PROJECTS = {
    "wandb": "log.wandb.project",
    "trackio": "log.trackio.project",
    "mlflow": "log.mlflow.experiment",
}
"""What stands for the project, by tracker; TensorBoard has none."""


def set_trackers(draft: Draft, asked: Sequence[str], setting: str, project: str) -> None:
    """Turn on what `setting` asks for, each with the `project`; what is none of ours is lost."""
    for name in asked:
        if name in PROJECTS:
            draft.set(PROJECTS[name], project, setting)
        elif name in TRACKERS:
            draft.set(f"log.{name}", True, setting)
    others = [name for name in asked if name not in TRACKERS]
    if others:
        draft.lost[setting] = (
            f"no tracker {', '.join(others)}; the trackers are {', '.join(TRACKERS)}"
        )
