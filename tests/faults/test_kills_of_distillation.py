"""kill -9 at any point of an on-policy distillation: the run that is gone on with is the run never killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from distill_runs import TINY, make_teacher
from kills import assert_kills_change_nothing
from lives import Lives

KILLS = 2


@pytest.mark.slow
def test_a_run_killed_again_and_again_is_the_run_never_killed(
    lives: Lives, tmp_path: Path, seed: int
) -> None:
    teacher = make_teacher(tmp_path / "teacher")
    settings = ["stage=distill", f"distill.teacher={teacher}", "loss={}", "optim.epochs=2"]
    command = ["quickstart", *TINY, *settings]
    assert_kills_change_nothing(lives, command, tmp_path, seed=seed, kills=KILLS)
