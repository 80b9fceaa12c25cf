"""What a run shows of itself in a notebook, from its folder's files and what it has counted."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

from grpo.notebook.cards import EvaluatedSet, Series, run_card
from grpo.recipe import Recipe
from grpo.recipe.shorthands import HELD_OUT
from grpo.report.folder import EvaluationPoint, Record, RunFolder, is_step, points_of
from rewards.spelling import many

NUMBERS = {
    "training reward": "reward/mean",
    "completion length, tokens": "completion/length",
    "zero-variance groups": "group/flat",
    "truncated": "completion/truncated",
    "entropy, nats a token": "policy/entropy",
    "sampler–trainer mismatch, nats": "policy/drift",
    "seconds a step": "seconds/step",
}
"""What is shown of the steps, and its key in ``metrics.jsonl``."""
WITHOUT_REWARD = {
    "training loss": "update/loss",
    "row length, tokens": "row/length",
    "gradient norm": "update/grad_norm",
    "seconds a step": "seconds/step",
}
"""The same in supervised fine-tuning."""
SHARES = {"group/flat", "completion/truncated"}


def run_html(
    kind: str, recipe: Recipe, *, state: str, folder: Path, ledger: Mapping[str, int]
) -> str:
    """A run of `recipe` as a card: how far it is, its evaluations, the course of its numbers."""
    records = RunFolder(folder).metrics()
    steps = [record for record in records if is_step(record)]
    others = [record for record in records if not is_step(record)]
    num_steps = steps[-1]["step"] if steps else 0
    numbers = NUMBERS if any("reward/mean" in record for record in steps) else WITHOUT_REWARD
    series = [_series(name, key, steps) for name, key in numbers.items()]
    series.append(_series("held-out loss", "heldout/loss", others))
    points = [point for record in others for point in points_of(record) if _is_whole(point)]
    return run_card(
        kind,
        recipe.name,
        [f"{num_steps} of {many(recipe.steps, 'step')}", state],
        done=num_steps / max(1, recipe.steps),
        evaluations=_first_and_last(points),
        series=series,
        ledger=ledger,
        folder=str(folder),
    )


def _is_whole(point: EvaluationPoint) -> bool:
    """Whether a point is the accuracy of a whole set, not of one of its sources."""
    return not point.source and "accuracy" in point.figures


def _series(name: str, key: str, steps: Sequence[Record]) -> Series:
    return Series(name, [_known(record.get(key)) for record in steps], is_share=key in SHARES)


def _known(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _first_and_last(points: list[EvaluationPoint]) -> list[EvaluatedSet]:
    shown = []
    for name in dict.fromkeys(point.set for point in points):
        its = [point for point in points if point.set == name]
        ends = its if len(its) == 1 else [its[0], its[-1]]
        label = "held-out" if name == HELD_OUT else name
        shown += [EvaluatedSet(label, point.step, point.figures) for point in ends]
    return shown
