"""kill -9 at any point of a run of supervised fine-tuning: the run that is gone on with is the run never killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import assert_kills_change_nothing
from lives import Lives
from sft_runs import TINY

KILLS = 3


@pytest.mark.parametrize("variant", [[], ["model.lora.rank=2"]], ids=["full", "lora"])
@pytest.mark.thin(1)
def test_a_run_killed_again_and_again_is_the_run_never_killed(
    lives: Lives, tmp_path: Path, variant: list[str], seed: int
) -> None:
    command = ["sft_countdown", *TINY, *variant]
    assert_kills_change_nothing(lives, command, tmp_path, seed=seed, kills=KILLS)
