"""kill -9 at any point of rejection sampling: the run that is gone on with is the run never killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from candidates import SMALL, assert_same
from kills import assert_kills_change_nothing
from lives import Lives

KILLS = 4


@pytest.mark.slow
def test_a_run_killed_again_and_again_is_the_run_never_killed(
    lives: Lives, tmp_path: Path, seed: int
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(SMALL))
    assert_kills_change_nothing(
        lives, [str(file)], tmp_path, seed=seed, kills=KILLS, assert_same=assert_same
    )
