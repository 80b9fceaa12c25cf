"""A run that is killed at random points until it is through, against the same run left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import small_runs
from lives import Lives


def assert_kills_change_nothing(
    lives: Lives,
    command: list[str],
    folder: Path,
    *,
    seed: int,
    kills: int,
    assert_same: Callable[[Path, Path], None] = small_runs.assert_same,
) -> None:
    """`command` run once whole, and further runs killed `kills` times in all and resumed: each is the same run."""
    rng = random.Random(seed)
    whole = folder / "whole"
    alone = lives.live([*command, f"run_dir={whole}"], whole)
    assert alone["code"] == 0, alone["said"]
    num_kills = 0
    for number in range(20 * kills):
        cut = folder / f"cut-{number}"
        code = None
        while code != 0:
            resume = ["--resume"] if (cut / "recipe.yaml").exists() else []
            end = _some_end(rng, alone["seconds"]) if num_kills < kills else {}
            life = lives.live([*command, f"run_dir={cut}", *resume], cut, **end)
            code = life["code"]
            assert code in (0, -9), life["said"]
            num_kills += code == -9
        assert_same(whole, cut)
        if num_kills == kills:
            return
    raise AssertionError(f"{num_kills} of {kills} kills met a run that was still alive")


def _some_end(rng: random.Random, seconds: float) -> dict[str, float]:
    """At a file operation, or at a moment of a run that takes `seconds` on this machine."""
    ends = [{"event": rng.randint(3, 40)}, {"after": seconds * rng.uniform(0.1, 0.9)}]
    return rng.choice(ends)
