"""Small runs that sample at servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterable

from grpo import Recipe

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "recipes" / "quickstart_base"
LIGHT = ROOT / "tests" / "support" / "light_rewards.py"
SHORT = [
    "steps=3",
    "data.args.count=100",
    "sample.prompts=2",
    "sample.group_size=2",
    "sample.max_tokens=6",
    "data.held_out=2",
    "evaluate.samples=1",
    "evaluate.every=2",
    "checkpoint.every=1",
    "checkpoint.background=false",
    "log.report=false",
    "optim.lr=1e-3",
]


def served_recipe(folder: Path, servers: Iterable[Any], *overrides: str) -> Recipe:
    """A recipe of three steps, each of two groups of two completions of up to six tokens."""
    servers = list(servers)
    urls = json.dumps([server.url for server in servers])
    return Recipe.load(
        "quickstart",
        *SHORT,
        f"run_dir={folder}",
        f"sample.engine={servers[0].engine}",
        f"sample.servers={urls}",
        f"rewards.correct.use={LIGHT}:reward_of_length",
        *overrides,
    )
