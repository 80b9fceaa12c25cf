"""A run that is killed at random points until it is through, against the same run left alone."""

from __future__ import annotations

import random
from pathlib import Path

from lives import Lives
from small_runs import assert_same


def assert_kills_change_nothing(
    lives: Lives, command: list[str], folder: Path, *, seed: int, kills: int
) -> None:
    """`command` run once whole, and once killed up to `kills` times and resumed: the same run, and it was killed."""
    rng = random.Random(seed)
    whole = folder / "whole"
    cut = folder / "cut"
    assert lives.live([*command, f"run_dir={whole}"], whole)["code"] == 0
    num_kills = 0
    code = None
    while code != 0:
        resume = ["--resume"] if (cut / "recipe.yaml").exists() else []
        ends = [{"event": rng.randint(3, 40)}, {"after": rng.uniform(0.3, 2.0)}]
        end = rng.choice(ends) if num_kills < kills else {}
        life = lives.live([*command, f"run_dir={cut}", *resume], cut, **end)
        code = life["code"]
        assert code in (0, -9), life["said"]
        num_kills += code == -9
    assert num_kills
    assert_same(whole, cut)
