"""Small recipes with stages on the quickstart's model: supervised training, then reinforcement learning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grpo.stages.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]
BASE = str(ROOT / "recipes" / "quickstart_base")
SHAPED = f"{ROOT}/tests/support/light_rewards.py:reward_of_length"
START = {
    "name": "start",
    "sft": {
        "steps": 3,
        "batch": 8,
        "data": {"args": {"style": "symbols", "traces": "search", "count": 60}, "held_out": 0},
        "optim": {"lr": 2e-3},
    },
}
RL = {"name": "rl", "grpo": {"steps": 3, "optim": {"lr": 1e-3}}}
TABLE = {"name": "table", "evaluate": {"samples": 1}}


def values(folder: Path | str, *stages: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose stages take well below a second each; two stages unless others are given."""
    return {
        "name": "small",
        "run_dir": str(folder),
        "threads": 1,
        "model": {"name": BASE},
        "data": {
            "source": "countdown",
            "args": {"style": "symbols", "count": 60},
            "template": "plain",
            "held_out": 6,
        },
        "sample": {"prompts": 4, "group_size": 4, "max_tokens": 12},
        "rewards": {"correct": {"use": "countdown"}, "shaped": {"use": SHAPED}},
        "evaluate": {"every": 0, "before": False, "samples": 1},
        "checkpoint": {"every": 1, "keep": 1},
        "log": {"report": False},
        "stages": list(stages or (START, RL)),
    }


def run(folder: Path, *stages: dict[str, Any], **options: Any) -> Pipeline:
    """All stages to their end."""
    pipeline = Pipeline(values(folder, *stages), quiet=True, **options)
    pipeline.train()
    return pipeline


def statuses(folder: Path) -> dict[str, str]:
    """What ``stages.json`` says."""
    stages = json.loads((folder / "stages.json").read_text())["stages"]
    return {stage["name"]: stage["status"] for stage in stages}
