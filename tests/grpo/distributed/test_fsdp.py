"""Weights divided over processes: gradient, clipping, moments and weights are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SUPPORT = ROOT / "tests" / "support"
LIMITS = {"half": 2e-2, "half base": 1e-5}
WITH_KEY_BIAS = ("gpt2", "qwen2", "gpt_neox")
"""The bias of keys has no gradient but rounding, which AdamW scales up to a step."""
FAST = ("full", "tied lora", "nothing to train", "masked row, copies")


def differences(world: int, *cases: str) -> dict[str, dict[str, float]]:
    """By case and kind of tensor, the largest relative difference from one process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "shard_child.py"), str(world), *cases],
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_equal(found: dict[str, dict[str, float]]) -> None:
    for name, by_kind in found.items():
        assert {"gradient", "norm", "loss", "weight", "moment"} == set(by_kind) - {"penalty"}, name
        for kind, difference in by_kind.items():
            limit = LIMITS.get(name, 1e-10)
            if name in WITH_KEY_BIAS and kind == "weight":
                limit = 1e-6
            assert difference < limit, f"{name}: {kind} differs by {difference}"


def test_two_processes_with_divided_weights_make_the_update_of_one() -> None:
    found = differences(2, *FAST)
    assert set(found) == set(FAST)
    assert_equal(found)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_kind_of_training_makes_the_update_of_one_process(world: int) -> None:
    found = differences(world)
    assert len(found) > 10
    assert_equal(found)
