from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grpo import Recipe
from grpo.cost.price import Prices
from grpo.preflight import forecast
from grpo.preflight.baseline_sample import BaselineSample
from grpo.preflight.facts import RunFacts
from grpo.preflight.forecast import Rates, Span, Work, of_arithmetic, of_baseline
from grpo.run.schedule import evaluates_after

HALVES = [
    "steps=10",
    "sample.prompts=8",
    "sample.group_size=4",
    "sample.max_tokens=150",
    "optim.epochs=2",
    "evaluate.every=0",
]


def sample(**changed: Any) -> BaselineSample:
    """16 completions in 4 groups."""
    groups: Any = (SimpleNamespace(completions=range(4)),) * 4
    baseline = BaselineSample(
        groups=groups,
        pass_rate=0.5,
        truncated=0.0,
        flat=0.25,
        length=100.0,
        sample_seconds=4.0,
        judge_seconds=0.5,
        update_seconds=2.0,
        cores=1.5,
    )
    return replace(baseline, **changed)


def facts(*overrides: str) -> RunFacts:
    return RunFacts(Recipe.load("quickstart", *HALVES, *overrides))


@pytest.mark.parametrize("steps, every", [(6, 2), (7, 2), (1, 1), (0, 3), (5, 0), (5, 9)])
@pytest.mark.parametrize("before", [True, False])
def test_as_many_evaluations_are_expected_as_are_made(steps: int, every: int, before: bool) -> None:
    changed = [
        f"steps={steps}",
        f"evaluate.every={every}",
        f"evaluate.before={str(before).lower()}",
    ]
    recipe = Recipe.load("quickstart", *changed)
    between = sum(evaluates_after(recipe, step) for step in range(1, steps + 1))
    assert forecast.num_evaluations(recipe) == before + between + 1


def test_a_run_takes_its_steps_in_proportion_and_loads_its_model_twice() -> None:
    found = of_baseline(facts(), sample(), load_seconds=3.0)
    step = 2 * (4.0 + 2.0 * 2)  # 32 completions of 16, two epochs
    fixed = 10 * 2 * 0.5 + 2 * 3.0
    assert found.seconds.middle == fixed + 10 * step
    assert found.seconds.high == fixed + 1.5 * 10 * step  # 150 of 100 tokens
    assert found.seconds.low == fixed + 0.5 * 10 * (step - 4.0)  # sampled side by side
    assert found.sampled == Span(16_000, 32_000, 48_000)
    assert found.trained.middle == 32_000 * 0.75 * 2 and found.cores == 1.5


def test_the_money_is_that_of_the_hours() -> None:
    found = replace(
        of_baseline(facts(), sample(), 0.0), seconds=Span(1800.0, 3600.0, 7200.0), gpus=2, cores=3.0
    )
    *_, money, assumes = found.lines(Prices({"gpu": 2.0, "cpu": 0.1}))
    assert "about 4.30 USD (2.15 USD to 8.60 USD)" in money
    assert "half to twice as long" in assumes
    assert not any("USD" in line for line in found.lines(Prices({})))


def test_arithmetic_counts_operations_or_bytes_whichever_takes_longer() -> None:
    rates = Rates(operations=1e12, bytes=1e10)
    training = Work(steps=5, rows=0, length=0.0, learnt=100.0, read=1000.0)
    found = of_arithmetic([training] * 3, 10**9, rates, bytes_each=2, assumes="")
    seconds = 5 * 6 * 1e9 * 1000 / 1e12
    assert found.seconds == Span.of([seconds / share for share in forecast.EFFICIENCY])
    few = replace(training, rows=4, length=50.0, read=0.0)
    many = replace(few, rows=400)
    by_bytes = of_arithmetic([few] * 3, 10**9, rates, bytes_each=2, assumes="").seconds.low
    by_operations = of_arithmetic([many] * 3, 10**9, rates, bytes_each=2, assumes="").seconds.low
    best = forecast.EFFICIENCY[0]
    assert by_bytes == pytest.approx(5 * 50 * 1e9 * 2 / 1e10 / best)
    assert by_operations == pytest.approx(5 * 50 * 400 * 2e9 / 1e12 / best)


def test_the_rates_of_this_device_are_numbers() -> None:
    rates = forecast.measured_rates(torch.device("cpu"), torch.float32)
    assert rates.operations > 1e8 and rates.bytes > 1e7
