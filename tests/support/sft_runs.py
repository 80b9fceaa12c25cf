"""Small runs of supervised fine-tuning on the quickstart's model, with traces that the countdown task writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo import Recipe, SftTrainer

TINY = [
    "epochs=2",
    "data.args.count=40",
    "data.held_out=6",
    "sft.batch=8",
    "sample.max_tokens=8",
    "evaluate.samples=1",
    "evaluate.every=3",
    "checkpoint.every=2",
]


def recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.load("sft_countdown", *TINY, f"run_dir={folder}", *overrides)


def run(folder: Path, *overrides: str, **options: Any) -> SftTrainer:
    """A run to its end."""
    trainer = SftTrainer(recipe(folder, *overrides), quiet=True, **options)
    for _ in trainer:
        pass
    return trainer
