"""Candidates of rejection sampling made by hand, and small runs of the stage on the quickstart's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from grpo import Recipe, RejectionSampler
from grpo.stages.rejection.candidates import Candidate, Origin
from grpo.types import Completion, Prompt
from rewards import Score

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "name": "small",
    "threads": 1,
    "model": {"name": str(ROOT / "recipes" / "quickstart_base")},
    "data": {
        "source": "countdown",
        "args": {"style": "symbols", "count": 60},
        "template": "plain",
        "held_out": 6,
    },
    "sample": {"max_tokens": 48, "prompts": 4, "group_size": 6},
    "rewards": {"correct": {"use": "countdown"}},
    "reject": {"prompts": 10, "per_prompt": 2},
    "log": {"report": False},
}
FILES = ("samples.jsonl", "accepted.jsonl", "pass_rates.jsonl")


def candidate(text: str, *, index: int = 0, value: float | None = 1.0, **more: Any) -> Candidate:
    """A right completion of `text`, unless `more` (finish, status, right, num_tokens, prompt) says otherwise."""
    finish = more.get("finish", "stop")
    status = more.get("status", "scored")
    prompt = Prompt("p", (1,), {}, text=more.get("prompt", "2 + 2?"))
    number = more.get("num_tokens", len(text.split()))
    score = Score(value, status=status)
    right = more.get("right", None if value is None else value >= 1)
    return Candidate(
        prompt=prompt,
        completion=Completion(text, (2,) * number, torch.zeros(number), finish),
        score=score,
        verdict={"correct": score},
        right=right,
        num_tokens=number,
        origin=Origin(index),
    )


def recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.from_mapping(SMALL, f"run_dir={folder}", *overrides)


def run(folder: Path, *overrides: str, **options: Any) -> RejectionSampler:
    """A run to its end."""
    sampler = RejectionSampler(recipe(folder, *overrides), quiet=True, **options)
    sampler.train()
    return sampler


def rows(folder: Path, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def assert_same(first: Path, second: Path) -> None:
    """Two runs are the same, byte for byte, but for seconds and other costs."""
    for file in FILES:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    for file in ("metrics.jsonl", "summary.json"):
        assert _without_seconds(first / file) == _without_seconds(second / file), file


def _without_seconds(file: Path) -> list[str]:
    if file.suffix == ".json":
        values = json.loads(file.read_text())
        kept = {name: value for name, value in values.items() if name not in ("seconds", "cost")}
        return json.dumps(kept, indent=1).splitlines()
    lines = file.read_text().splitlines()
    plain = []
    for line in lines:
        record = json.loads(line)
        plain.append(json.dumps({k: v for k, v in record.items() if not k.startswith("seconds")}))
    return plain
