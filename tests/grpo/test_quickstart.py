"""The quickstart learns, on every seed tried: the claim of the README, run whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_quickstart_goes_from_a_third_to_well_over_half(tmp_path: Path, seed: int) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpo.train",
            "recipes/quickstart.yaml",
            f"seed={seed}",
            f"run_dir={tmp_path / 'run'}",
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    print(
        f"seed {seed}: {before['accuracy']:.3f} -> {after['accuracy']:.3f}, length {before['length']:.1f} -> "
        f"{after['length']:.1f}, {summary['seconds']:.0f} s"
    )
    assert before["accuracy"] <= 0.35 and after["accuracy"] >= 0.55
    assert after["low"] > before["high"]
    assert after["details"]["correct/retries"] > 1.5 * before["details"]["correct/retries"]
    assert after["details"]["correct/ended"] > 0.97
    print(f"gates: {summary['gates']}")
    assert all(set(levels) == {"note"} for levels in summary["gates"].values()), summary["alarms"]
    assert (
        sum(n for outcome, n in summary["ledger"].items() if outcome != "sampled")
        == summary["ledger"]["sampled"]
    )
