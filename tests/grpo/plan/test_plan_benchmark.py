"""The benchmark of plans calibrates four assumptions by two runs: from runs made by known ones it finds them again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.plan import CASES, FITTED, START, fitted, predicted, rows, table
from grpo.plan.device import Device

DEVICE = Device("x", 8e10, 1.6e10, 16e9, 1e12, 1e12, number_bytes=4, overlaps=False)
TRUTH = {"kernel_seconds": 4e-5, "product": 0.8, "training": 0.9, "logit_bytes": 100.0}


def seen_by(assumed) -> dict[str, dict[str, float]]:
    found = {}
    for case in CASES:
        inputs = {"length": float(case.new), "flat": 0.1}
        found[case.name] = {**inputs, **predicted(case, inputs, DEVICE, assumed)}
    return found


def test_known_assumptions_are_found_again_and_then_predict_every_case() -> None:
    seen = seen_by(replace(START, **TRUTH))
    found = fitted(seen, DEVICE)
    for name, value in TRUTH.items():
        assert getattr(found, name) == pytest.approx(value, rel=0.02)
    results = list(rows(list(CASES), seen, DEVICE, found))
    ratios = [ratio for row in results for ratio in row["ratio"].values()]
    assert ratios == pytest.approx([1.0] * len(ratios), rel=0.02)
    assert len(list(table(results))) == 2 + len(CASES)
    assert [row["case"]["name"] for row in results if row["fitted"]] == list(FITTED)
