"""kill -9 at random points of a run, in the middle of a write too: the run that is gone on with is the run never killed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from lives import Lives
from small_runs import outcome

TINY = [
    "quickstart",
    "steps=10",
    "sample.prompts=3",
    "sample.group_size=3",
    "sample.max_tokens=8",
    "data.held_out=3",
    "evaluate.samples=1",
    "evaluate.every=3",
    "checkpoint.every=1",
    "advantage.flat=refill",
    "advantage.refills=2",
    "rewards.correct.use=mine.py:mixed",
]
VARIANTS = {
    "full, 1 update a step": [],
    "full, 2 updates a step": ["optim.updates=2"],
    "LoRA, 1 update a step": ["model.lora.rank=2"],
    "LoRA, 2 updates a step": ["model.lora.rank=2", "optim.updates=2"],
}


def kill(rng: random.Random) -> dict[str, float]:
    """A random end: at a time, at a file operation, or when a file of the run has so many bytes."""
    kind = rng.choice(["after", "event", "size"])
    return {
        kind: {
            "after": rng.uniform(0.1, 1.8),
            "event": rng.randint(1, 40),
            "size": int(10 ** rng.uniform(3.0, 6.0)),
        }[kind]
    }


def prompts_of(folder: Path) -> list[tuple[int, str]]:
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [(row["step"], row["prompt_id"]) for row in rows]


def kill_often(lives: Lives, overrides: list[str], times: int, seed: int) -> list[dict[str, Any]]:
    """Kill runs until `times` kills have been made, let the last one end, and compare each with the run never killed."""
    rng, kills, number = random.Random(seed), [], 0
    assert lives.live([*TINY, *overrides, "run_dir=whole"], Path.cwd() / "whole")["code"] == 0
    expected, drawn = outcome(Path("whole")), prompts_of(Path("whole"))
    assert len(set(drawn)) == len({prompt for _, prompt in drawn}) == len(drawn) // 3, (
        "no prompt twice, no row lost"
    )
    while len(kills) < times:
        number, code = number + 1, None
        folder = Path.cwd() / f"cut-{number}"
        while code != 0:
            end = kill(rng) if len(kills) < times else {}
            resume = ["--resume"] if (folder / "recipe.yaml").exists() else []
            life = lives.live([*TINY, *overrides, f"run_dir={folder}", *resume], folder, **end)
            code = life["code"]
            assert code in (0, -9, -25), life["said"]
            kills += [{**end, "said": life["said"]}] if code else []
        found = outcome(folder)
        for name, value in expected.items():
            assert found[name] == value, f"{name} of {folder.name}, killed {kills}"
    return kills


def test_a_run_killed_again_and_again_is_the_run_never_killed(
    lives: Lives, reward: Path, seed: int
) -> None:
    assert len(kill_often(lives, VARIANTS["LoRA, 2 updates a step"], 6, seed)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_twenty_kills_of_twenty_are_survived_bit_for_bit(
    lives: Lives, reward: Path, variant: str, seed: int
) -> None:
    kills = kill_often(lives, VARIANTS[variant], 20, seed)
    kinds = [next(iter(kill)) for kill in kills]
    print(
        f"{variant}: {len(kills)} kills survived: { {kind: kinds.count(kind) for kind in set(kinds)} }"
    )
    assert len(kills) == 20
