"""Whole runs of the quickstart's model in seconds, and what two equal runs have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from grpo import Recipe, Trainer

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "steps=4",
    "data.args.count=400",
    "sample.prompts=6",
    "sample.group_size=4",
    "sample.max_tokens=40",
    "data.held_out=12",
    "evaluate.samples=2",
    "evaluate.every=2",
    "checkpoint.every=2",
]


def recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.load(
        ROOT / "recipes" / "quickstart.yaml", *QUICK, f"run_dir={folder}", *overrides
    )


def run(folder: Path, *overrides: str, **options: Any) -> Trainer:
    trainer = Trainer(recipe(folder, *overrides), **options)
    for _ in trainer:
        pass
    return trainer


def records(folder: Path, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The records of a run without what may differ between two identical runs, seconds; of metrics, the steps'."""
    rows = lines(folder, file)
    return [row for row in rows if file != "metrics.jsonl" or "reward/mean" in row]


def lines(folder: Path, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Every line of a run's file without seconds."""
    rows = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not _is_time(key)} for row in rows]


def _is_time(key: str) -> bool:
    return key.startswith("seconds") or key.endswith("/seconds")


def summary(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "summary.json").read_text())
    result.pop("cost")
    for part in (result, result["before"], result["after"]):
        part.pop("seconds")
    return result


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "final").state_dict()


def assert_same_run(a: Path, b: Path) -> None:
    for file in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        assert lines(a, file) == lines(b, file), file
    assert summary(a) == summary(b)
    first, second = weights(a), weights(b)
    assert all(torch.equal(first[name], second[name]) for name in first)
