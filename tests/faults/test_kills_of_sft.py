"""kill -9 at any point of a run of supervised fine-tuning: the run that is gone on with is the run never killed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from lives import Lives
from sft_runs import TINY
from small_runs import assert_same

KILLS = 3


@pytest.mark.parametrize("variant", [[], ["model.lora.rank=2"]], ids=["full", "lora"])
@pytest.mark.thin(1)
def test_a_run_killed_again_and_again_is_the_run_never_killed(
    lives: Lives, tmp_path: Path, variant: list[str], seed: int
) -> None:
    rng = random.Random(seed)
    command = ["sft_countdown", *TINY, *variant]
    whole = tmp_path / "whole"
    cut = tmp_path / "cut"
    assert lives.live([*command, f"run_dir={whole}"], whole)["code"] == 0
    num_kills = 0
    code = None
    while code != 0:
        resume = ["--resume"] if (cut / "recipe.yaml").exists() else []
        ends = [{"event": rng.randint(3, 40)}, {"after": rng.uniform(0.3, 2.0)}]
        end = rng.choice(ends) if num_kills < KILLS else {}
        life = lives.live([*command, f"run_dir={cut}", *resume], cut, **end)
        code = life["code"]
        assert code in (0, -9), life["said"]
        num_kills += code == -9
    assert num_kills
    assert_same(whole, cut)
