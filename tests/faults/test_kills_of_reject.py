"""kill -9 at any point of rejection sampling: the run that is gone on with is the run never killed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from candidates import SMALL, assert_same
from lives import Lives

KILLS = 4


@pytest.mark.slow
def test_a_run_killed_again_and_again_is_the_run_never_killed(
    lives: Lives, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(SMALL))
    whole = tmp_path / "whole"
    cut = tmp_path / "cut"
    assert lives.live([str(file), f"run_dir={whole}"], whole)["code"] == 0
    num_kills = 0
    code = None
    while code != 0:
        resume = ["--resume"] if (cut / "recipe.yaml").exists() else []
        ends = [{"event": rng.randint(3, 40)}, {"after": rng.uniform(0.3, 3.0)}]
        end = rng.choice(ends) if num_kills < KILLS else {}
        life = lives.live([str(file), f"run_dir={cut}", *resume], cut, **end)
        code = life["code"]
        assert code in (0, -9), life["said"]
        num_kills += code == -9
    assert num_kills
    assert_same(whole, cut)
