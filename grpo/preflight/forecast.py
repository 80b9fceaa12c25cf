"""What a run will take, before it does: hours, tokens and money, each as a range, with what that assumes.

`of_baseline` scales what preflight has measured on a sample of completions; `of_arithmetic` counts operations and bytes
where nothing was measured, and is the coarser by far. What runs have taken is in ``grpo.cost``.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

import torch

from grpo.cost.price import Prices
from grpo.preflight.baseline_sample import BaselineSample
from grpo.preflight.facts import RunFacts
from grpo.recipe import Recipe
from grpo.run.console import many_hours
from grpo.run.setup import default_device
from rewards.spelling import many

HOUR = 3600
GROWTH = (0.5, 1.0, 2.0)
"""Lengths of completions over the run, in those of the sample."""
EFFICIENCY = (0.7, 0.35, 0.15)
"""The share of the device's rates that training and sampling reach, at best, as a rule, and at worst."""
LENGTHS = (0.125, 0.5, 1.0)
"""Lengths of completions in ``sample.max_tokens`` where none was sampled."""
MATRIX = 1024
COPIED = 1 << 24


@dataclass(frozen=True, slots=True)
class Span:
    """A figure at least, as a rule, and at most."""

    low: float
    middle: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Span:
        """The three of `values`."""
        low, middle, high = values
        return Span(low, middle, high)

    def each(self) -> tuple[float, float, float]:
        """Low, middle, high."""
        return self.low, self.middle, self.high


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds of the whole run; tokens that are sampled and trained; GPUs held, cores busy; what it assumes."""

    seconds: Span
    sampled: Span
    trained: Span
    gpus: int
    cores: float
    assumes: str

    def lines(self, prices: Prices) -> Iterator[str]:
        """Hours, tokens and money, in words."""
        low, middle, high = map(many_hours, self.seconds.each())
        yield f"cost     the run about {middle} ({low} to {high})"
        hours = [f"{self.cores * self.seconds.middle / HOUR:.3g} CPU hours"]
        if self.gpus:
            hours.append(f"{self.gpus * self.seconds.middle / HOUR:.3g} GPU hours")
        tokens = [f"tokens: {_short(self.trained)} trained on"]
        if self.sampled.high:
            tokens = [f"tokens: {_short(self.sampled)} sampled, {_short(self.trained)} trained on"]
        yield f"cost     {', '.join(tokens)}; about {', '.join(hours)}"
        if prices:
            sums = [prices.shown(prices.money(**self._hours(of))) for of in self.seconds.each()]
            yield f"cost     about {sums[1]} ({sums[0]} to {sums[2]}) at {prices.describe()}"
        yield f"cost     this assumes {self.assumes}"

    def _hours(self, seconds: float) -> dict[str, float]:
        return {"wall": seconds, "cpu": self.cores * seconds, "gpu": self.gpus * seconds}


def _short(span: Span) -> str:
    """Counts in thousands or millions."""
    size, unit = (1e6, "M") if span.high >= 1e6 else (1e3, "k")
    low, middle, high = (f"{value / size:,.3g}{unit}" for value in span.each())
    return middle if low == high else f"{middle} ({low} to {high})"


def num_evaluations(recipe: Recipe) -> int:
    """Before, after, and every so many steps between."""
    every = recipe.evaluate.every
    between = max(0, recipe.steps - 1) // every if every else 0
    return int(recipe.evaluate.before) + between + 1


def prices_of(recipe: Recipe) -> Prices:
    """Those that the recipe names."""
    return Prices(recipe.cost.price_per_hour, recipe.cost.currency)


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _gpus() -> int:
    return _processes() if default_device().type != "cpu" else 0


# ---- from what was measured ---------------------------------------------------------------------------------------


def of_baseline(facts: RunFacts, baseline: BaselineSample, load_seconds: float) -> Forecast:
    """The run of `facts`, each part in proportion to that of the sample; `load_seconds` is what loading took."""
    recipe = facts.recipe
    completions = recipe.sample.prompts * recipe.sample.group_size
    scale = completions / baseline.num_completions
    sampling = baseline.sample_seconds / baseline.num_completions
    judging = baseline.judge_seconds / baseline.num_completions
    growth = _growth(recipe, baseline)
    fixed = recipe.steps * baseline.judge_seconds * scale + 2 * load_seconds
    updates = recipe.steps * scale * baseline.update_seconds * recipe.optim.epochs
    steps = recipe.steps * scale * baseline.sample_seconds
    evaluations = num_evaluations(recipe) * _num_evaluated(facts) * (sampling + judging)
    grows = updates + steps + evaluations
    side_by_side = updates + (steps + evaluations) / max(1.0, scale)
    tokens = [recipe.steps * completions * baseline.length * times for times in growth]
    trains = (1 - baseline.flat) * recipe.optim.epochs
    return Forecast(
        seconds=Span(fixed + growth[0] * side_by_side, fixed + grows, fixed + growth[2] * grows),
        sampled=Span.of(tokens),
        trained=Span.of([number * trains for number in tokens]),
        gpus=_gpus(),
        cores=baseline.cores * _processes(),
        assumes=(
            "completions half to twice as long as the sample's and never above sample.max_tokens; rows that decode "
            "side by side at best, in proportion at worst; as many flat groups and a machine as free as now; it leaves "
            "out imports, checkpoints, the report page, and what a kill repeats"
        ),
    )


def _growth(recipe: Recipe, baseline: BaselineSample) -> list[float]:
    most = recipe.sample.max_tokens / max(1.0, baseline.length)
    return [min(times, most) for times in GROWTH]


def _num_evaluated(facts: RunFacts) -> int:
    """Completions of one evaluation."""
    return sum(len(of.prompts) * of.samples for of in facts.sets)


def step_line(facts: RunFacts, baseline: BaselineSample) -> str:
    """The parts of a step, in proportion to those of the sample."""
    recipe = facts.recipe
    number = baseline.num_completions
    completions = recipe.sample.prompts * recipe.sample.group_size
    scale = completions / number
    phases = {
        "sampling": baseline.sample_seconds * scale,
        "judging alongside": baseline.judge_seconds * scale,
        "update": baseline.update_seconds * scale * recipe.optim.epochs,
    }
    parts = ", ".join(f"{name} {value:.1f}" for name, value in phases.items())
    return (
        f"cost     a step about {sum(phases.values()):.1f} s ({parts}), "
        f"as measured on {many(number, 'completion')} and scaled to {completions}"
    )


# ---- from arithmetic ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device does in a second: floating-point operations of a large product, bytes copied."""

    operations: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a run does: prompts and completions a step, and those of all evaluations, with tokens; passes to train.

    ``learnt`` and ``read`` are tokens a step that are trained on, and forwarded in training.
    """

    steps: int
    rows: int
    length: float
    learnt: float
    read: float
    evaluated: float = 0.0


def measured_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measured in a tenth of a second or so: the best of three large products and copies."""
    matrix = torch.ones(MATRIX, MATRIX, device=device, dtype=dtype)
    source = torch.ones(COPIED, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product = min(_seconds(lambda: matrix @ matrix, device) for _ in range(3))
    copy = min(_seconds(lambda: target.copy_(source), device) for _ in range(3))
    return Rates(operations=2 * MATRIX**3 / product, bytes=2 * COPIED / copy)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    begun = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - begun


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def of_arithmetic(
    work: Sequence[Work], parameters: int, rates: Rates, *, bytes_each: int, assumes: str
) -> Forecast:
    """A run of a model of so many `parameters`; `work` is the least, the usual and the most that it may have to do.

    A token costs two operations a parameter forward and four backward; each token that is decoded reads all weights,
    once for all rows that decode side by side.
    """
    at_rates = [_work_seconds(of, parameters, rates, bytes_each=bytes_each) for of in work]
    seconds = [of / share / _processes() for of, share in zip(at_rates, EFFICIENCY)]
    figures = f"{rates.operations / 1e9:,.0f} GFLOP/s and {rates.bytes / 1e9:,.0f} GB/s"
    shares = f"{EFFICIENCY[0]:.0%} to {EFFICIENCY[2]:.0%}"
    cores = float(torch.get_num_threads() if not _gpus() else 1) * _processes()
    return Forecast(
        seconds=Span.of(seconds),
        sampled=Span.of([of.steps * of.rows * of.length for of in work]),
        trained=Span.of([of.steps * of.learnt for of in work]),
        gpus=_gpus(),
        cores=cores,
        assumes=(
            f"{assumes}; {shares} of the {figures} just measured here; it leaves out loading, judging and saving; "
            "--preflight measures"
        ),
    )


def _work_seconds(of: Work, parameters: int, rates: Rates, *, bytes_each: int) -> float:
    training = of.steps * 6 * parameters * of.read / rates.operations
    tokens = of.steps * of.rows * of.length + of.evaluated * of.length
    if not of.rows:
        return training
    operations = tokens * 2 * parameters / rates.operations
    passes = tokens / of.rows
    return training + max(operations, passes * parameters * bytes_each / rates.bytes)


def grpo_work(recipe: Recipe, *, prompt_tokens: float, evaluated: int) -> list[Work]:
    """The least, usual and most work of a run that samples; `evaluated` are the completions of an evaluation."""
    rows = recipe.sample.prompts * recipe.sample.group_size
    work = []
    for share in LENGTHS:
        length = share * recipe.sample.max_tokens
        learnt = rows * length * recipe.optim.epochs
        prompts = recipe.sample.prompts * prompt_tokens * recipe.optim.epochs
        work.append(
            Work(
                steps=recipe.steps,
                rows=rows,
                length=length,
                learnt=learnt,
                read=learnt + prompts,
                evaluated=num_evaluations(recipe) * evaluated,
            )
        )
    return work


def sft_work(recipe: Recipe, *, tokens: float, learnt: float) -> list[Work]:
    """The work of supervised training on rows with so many `tokens` in the mean, of them `learnt`."""
    batch = recipe.sft.batch
    one = Work(steps=recipe.steps, rows=0, length=0.0, learnt=batch * learnt, read=batch * tokens)
    return [one, one, one]
