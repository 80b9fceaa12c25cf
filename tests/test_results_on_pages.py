"""The figures of tables that come from `benchmarks/results` are those of the files, rounded to the digits that are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Mapping

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def spread(found: Mapping[str, float], digits: int) -> str:
    """``1.39 [1.30, 1.85]``: the median, the lowest and the highest round."""
    median, low, high = (f"{found[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def cells(page: str) -> list[list[str]]:
    """All rows of the tables of a page."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]


def has_row(page: str, *shown: str) -> bool:
    """Whether a row ends with these cells, after those that describe it."""
    return any(row[-len(shown) :] == list(shown) for row in cells(page))


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_the_comparison_of_the_readme(page: str) -> None:
    parts = ("seconds", "sample", "update", "peak_gib")
    one = result("vs-trl-cpu-smollm2-2026-11-22-native")["trl_over_ours"]
    assert has_row(page, *(f"{one[part]['median']:.1f}" for part in parts))
    three = result("vs-trl-cpu-miniature-2026-11-22-native")["trl_over_ours"]
    times = (spread(three[part], 2) for part in parts[:3])
    assert has_row(page, *times, f"{three['peak_gib']['median']:.2f}")


def test_the_comparison_of_supervised_fine_tuning() -> None:
    parts = ("cpu_seconds", "seconds", "peak_gib")
    three = result("vs-trl-cpu-sft-miniature-2026-11-28")["trl_over_ours"]
    assert has_row("docs/sft.md", *(spread(three[part], 2) for part in parts))
    one = result("vs-trl-cpu-sft-smollm2-2026-11-28")["trl_over_ours"]
    assert has_row("docs/sft.md", *(f"{one[part]['median']:.2f}" for part in parts))


@pytest.mark.parametrize("file", sorted(RESULTS.glob("rollouts-cpu-*-native-*.json")))
def test_the_comparison_of_rollouts(file: Path) -> None:
    for case in json.loads(file.read_text("utf-8"))["cases"].values():
        over = case["ours_over"]
        ours = f"{case['tokens_per_second']['ours']['median']:,.0f}"
        vllm = spread(over["vllm"], 2) if "vllm" in over else ""
        alive = f"{100 * case['alive']:.0f} %"
        assert has_row("docs/rollouts.md", ours, spread(over["generate"], 1), vllm, alive)


def test_the_comparison_of_updates() -> None:
    runs = [*result("learner-cpu-2026-11-22")["runs"], result("learner-cpu-2026-11-22-idle")]
    assert len(runs) == 3
    for run in runs:
        (case,) = run["cases"]
        ours, trl = (
            f"{side['seconds']:.1f} s, {side['peak_gib']:.1f} GiB"
            for side in (case["rounds"][0][name] for name in ("ours", "trl"))
        )
        time = f"{case['trl_over_ours_seconds']['median']:.1f} x"
        assert has_row("docs/learner.md", ours, trl, time, f"{_memory(case):.1f} x")


def _memory(case: Mapping[str, Any]) -> float:
    return case["trl_over_ours_peak_gib"]["median"]


def test_the_predictions_of_plans_beside_what_was_measured() -> None:
    for case in result("plan-cpu-2026-11-28")["cases"]:
        shown = [
            f"{case[kind][phase]:.2f}"
            for phase in ("sample", "update")
            for kind in ("measured", "predicted", "ratio")
        ]
        assert has_row("docs/plan.md", *shown), case["case"]["name"]


def test_what_checkpoints_cost() -> None:
    text = (ROOT / "docs" / "resilience.md").read_text("utf-8")
    mean = result("checkpoints-cpu-2026-11-22")["mean"]
    for shown in (
        f"{result('checkpoints-cpu-2026-11-22')['checkpoint_gib']:.2f} GiB",
        f"a step took {mean['seconds_a_step']:.1f} s",
        f"waited {mean['blocked']:.2f} s",
        f"took {mean['slower']:.1f} s longer",
        f"is {100 * mean['share']:.1f} % longer",
    ):
        assert shown in re.sub(r"\s+", " ", text)
