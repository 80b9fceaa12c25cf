"""How often the intervals of ``grpo.statistics`` hold the truth, simulated at fixed seeds, as dated JSON.

    python -m benchmarks.coverage [--draws 10000] [--only accuracy] [--output benchmarks/results]
    python -m benchmarks.coverage --show benchmarks/results/coverage-DATE.json     # into docs/statistics.md

A prompt has a chance of being answered; a spread says how the chances of prompts differ:

none      every prompt has the same chance, the accuracy
beta      Beta(4a, 4(1 - a)) for an accuracy a: Beta(0.2, 3.8) at 5 %
bimodal   each prompt is always or never answered
modes     two kinds of prompts: a fifth of the accuracy, and 0.9 (1 at 95 %)
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy

from grpo.statistics.comparison import compare
from grpo.statistics.curves import pass_at_k
from grpo.statistics.distributions import normal_quantile
from grpo.statistics.intervals import fixed_prompts_interval, mean_interval, share_interval

PROMPTS = (16, 64, 256, 1319)
SAMPLES = (1, 2, 8)
ACCURACIES = (0.0, 0.02, 0.05, 0.3, 0.5, 0.95, 1.0)
SPREADS = ("none", "beta", "bimodal", "modes")
MANY_PROMPTS = 1000
PLANTED = 0.03
Generator = numpy.random.Generator
Row = dict[str, Any]


# ---- chances and completions ------------------------------------------------------------------------------------


def chances(spread: str, accuracy: float, shape: tuple[int, int], generator: Generator) -> Any:
    """The chances of prompts, of mean `accuracy`."""
    if spread == "none" or accuracy in (0, 1):
        return numpy.full(shape, accuracy)
    if spread == "beta":
        return generator.beta(4 * accuracy, 4 * (1 - accuracy), shape)
    if spread == "bimodal":
        return (generator.random(shape) < accuracy).astype(float)
    low = accuracy / 5
    high = 0.9 if accuracy < 0.9 else 1.0
    is_high = generator.random(shape) < (accuracy - low) / (high - low)
    return numpy.where(is_high, high, low)


def coverage(intervals: Iterator[Any], truths: Any) -> Row:
    """How many percent of the intervals hold their truth, lie below it, lie above it."""
    found = numpy.array([(interval.low, interval.high) for interval in intervals])
    below = float((found[:, 1] < truths - 1e-12).mean())
    above = float((found[:, 0] > truths + 1e-12).mean())
    width = float((found[:, 1] - found[:, 0]).mean())
    numbers = {"covers": 1 - below - above, "below": below, "above": above}
    return {**{name: round(100 * value, 2) for name, value in numbers.items()}, "width": width}


def grid() -> Iterator[tuple[int, int, float, str]]:
    """(prompts, samples, accuracy, spread) of every point that differs from the others."""
    for prompts in PROMPTS:
        for samples in SAMPLES:
            for accuracy in ACCURACIES:
                differs = samples > 1 and 0 < accuracy < 1
                for spread in SPREADS if differs else SPREADS[:1]:
                    yield prompts, samples, accuracy, spread


def point_generator(kind: int, *place: float) -> Generator:
    """The random numbers of one point, whichever other points are simulated."""
    return numpy.random.default_rng([kind, *(round(1000 * value) for value in place)])


# ---- what is simulated -------------------------------------------------------------------------------------------


def accuracy_row(prompts: int, samples: int, accuracy: float, spread: str, draws: int) -> Row:
    """One point of the accuracy's interval for new prompts."""
    generator = point_generator(1, prompts, samples, accuracy, SPREADS.index(spread))
    draws = min(draws, 4000) if prompts > MANY_PROMPTS else draws
    q = chances(spread, accuracy, (draws, prompts), generator)
    shares = generator.binomial(samples, q) / samples
    result = coverage((share_interval(row, samples) for row in shares), accuracy)
    place = {"prompts": prompts, "samples": samples, "accuracy": accuracy, "spread": spread}
    return {**place, "draws": draws, **result}


def accuracy_rows(draws: int) -> list[Row]:
    """Accuracy, new prompts: the whole grid."""
    return [accuracy_row(*point, draws) for point in grid()]


def fixed_rows(draws: int) -> list[Row]:
    """Accuracy, these prompts."""
    rows = []
    for prompts, samples, accuracy, spread in grid():
        if prompts > MANY_PROMPTS or samples == 1:
            continue
        generator = point_generator(2, prompts, samples, accuracy, SPREADS.index(spread))
        q = chances(spread, accuracy, (draws, prompts), generator)
        shares = generator.binomial(samples, q) / samples
        result = coverage((fixed_prompts_interval(row, samples) for row in shares), q.mean(1))
        place = {"prompts": prompts, "samples": samples, "accuracy": accuracy, "spread": spread}
        rows.append({**place, "draws": draws, **result})
    return rows


def pass_rows(draws: int) -> list[Row]:
    """pass@k of 8 samples, new prompts; at all-or-nothing prompts it is the accuracy's."""
    rows = []
    for prompts in (16, 64, 256):
        for accuracy in (0.02, 0.05, 0.3, 0.5):
            for k in (2, 4, 8):
                generator = point_generator(3, prompts, k, accuracy)
                q = generator.beta(4 * accuracy, 4 * (1 - accuracy), (draws, prompts))
                table = numpy.array([pass_at_k(8, right, k) for right in range(9)])
                shares = table[generator.binomial(8, q)]
                # the truth, 1 - E (1 - q)^k under Beta(a, b)
                misses = [(4 * (1 - accuracy) + i) / (4 + i) for i in range(k)]
                result = coverage((share_interval(row, 8) for row in shares), 1 - math.prod(misses))
                place = {"prompts": prompts, "k": k, "accuracy": accuracy}
                rows.append({**place, "draws": draws, **result})
    return rows


REWARDS: dict[str, tuple[float, Callable[[Generator, tuple[int, int]], Any]]] = {
    "normal": (0.0, lambda generator, shape: generator.normal(0, 1, shape)),
    "uniform in [0, 1]": (0.5, lambda generator, shape: generator.random(shape)),
    "uniform in [0.4, 0.5]": (0.45, lambda generator, shape: 0.4 + 0.1 * generator.random(shape)),
    "-exponential": (-1.0, lambda generator, shape: -generator.exponential(1, shape)),
    "right + 0.1 form, 30 %": (0.38, lambda generator, shape: _with_form(generator, shape, 0.3)),
    "right + 0.1 form, 5 %": (0.13, lambda generator, shape: _with_form(generator, shape, 0.05)),
    "right + 0.1 form, 5 %, bounds known": (
        0.13,
        lambda generator, shape: _with_form(generator, shape, 0.05),
    ),
    "-1 or 1, 5 % right": (
        -0.9,
        lambda generator, shape: 2 * generator.binomial(1, 0.05, shape) - 1,
    ),
}


def _with_form(generator: Generator, shape: tuple[int, int], accuracy: float) -> Any:
    return generator.binomial(1, accuracy, shape) + 0.1 * generator.binomial(1, 0.8, shape)


def reward_rows(draws: int) -> list[Row]:
    """Mean reward, one value a prompt, new prompts."""
    rows = []
    for prompts in (16, 64, 256):
        for index, (name, (truth, draw)) in enumerate(REWARDS.items()):
            values = draw(point_generator(4, prompts, index), (draws, prompts))
            bounds = (0.0, 1.1) if "bounds known" in name else None
            samples = 1 if bounds else math.inf
            intervals = (mean_interval(row, bounds=bounds, samples=samples) for row in values)
            result = coverage(intervals, truth)
            rows.append({"prompts": prompts, "reward": name, "draws": draws, **result})
    return rows


def comparison_rows(draws: int) -> list[Row]:
    """Two models on the same prompts: how often a difference of 0 or 3 points is found, and theory's power."""
    rows = []
    for prompts in PROMPTS:
        for samples in SAMPLES:
            for accuracy in (0.05, 0.4, 0.9):
                for difference in (0.0, PLANTED):
                    rows.append(comparison_row(prompts, samples, accuracy, difference, draws))
    return rows


def comparison_row(
    prompts: int, samples: int, accuracy: float, difference: float, draws: int
) -> Row:
    """One comparison: chances as in ``beta``, the second model's nearer to 1 by a common factor."""
    generator = point_generator(5, prompts, samples, accuracy, difference)
    draws = min(draws, 2000) if prompts > MANY_PROMPTS else draws
    first = chances("beta", accuracy, (draws, prompts), generator)
    second = first + difference / (1 - accuracy) * (1 - first)
    variance = (second - first).var() + (
        first * (1 - first) + second * (1 - second)
    ).mean() / samples
    shares = [generator.binomial(samples, chance) / samples for chance in (first, second)]
    found = [compare(a, b) for a, b in zip(*shares)]
    result = coverage(iter(found), difference)
    z = normal_quantile(0.95)
    shift = difference / math.sqrt(variance / prompts)
    place = {"prompts": prompts, "samples": samples, "accuracy": accuracy, "difference": difference}
    rates = {
        "found": round(100 * float(numpy.mean([one.p_value < 0.05 for one in found])), 2),
        "theory": round(100 * (_normal(shift - z) + _normal(-shift - z)), 2),
    }
    return {**place, "draws": draws, **rates, **result}


def _normal(value: float) -> float:
    return math.erfc(-value / math.sqrt(2)) / 2


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "accuracy": accuracy_rows,
    "these_prompts": fixed_rows,
    "pass_at_k": pass_rows,
    "reward": reward_rows,
    "comparison": comparison_rows,
}


# ---- Markdown ----------------------------------------------------------------------------------------------------


def show(results: dict[str, list[Row]], page: Path) -> None:
    """Write the tables of a result file between the page's comments."""
    tables = {
        "accuracy": _accuracy_table(results["accuracy"]),
        "summary": _summary(results["accuracy"]),
        "reward": _plain_table(
            results["reward"], ("prompts", "reward", "covers", "below", "above")
        ),
        "comparison": _plain_table(
            results["comparison"],
            ("prompts", "samples", "accuracy", "difference", "found", "theory", "covers"),
        ),
    }
    text = page.read_text()
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + after
    page.write_text(text)


def _summary(rows: list[Row]) -> Iterator[str]:
    """How many points are within 93 to 97 %, and which are not."""
    inner = [row for row in rows if 0 < row["accuracy"] < 1]
    low = [row for row in inner if row["covers"] < 93]
    high = [row for row in inner if row["covers"] > 97]
    yield f"Of {len(inner)} points with an accuracy between 0 and 1, {len(inner) - len(low) - len(high)} are"
    yield f"within 93 to 97 %. At 0 and 1 the interval always holds the truth. Below 93 %: {_places(low)}."
    yield f"Above 97 %: {_places(high)}."


def _places(rows: list[Row]) -> str:
    places = [
        f"{row['prompts']} x {row['samples']} at {row['accuracy']:.0%}, {row['spread']} ({row['covers']:.1f})"
        for row in rows
    ]
    return "; ".join(places) or "none"


def _accuracy_table(rows: list[Row]) -> Iterator[str]:
    """One line for prompts, samples and spread, one column an accuracy."""
    cells = {
        (row["prompts"], row["samples"], row["spread"], row["accuracy"]): row["covers"]
        for row in rows
    }
    yield "| prompts | samples | spread | " + " | ".join(f"{a:.0%}" for a in ACCURACIES) + " |"
    yield "|---|---|---|" + "---|" * len(ACCURACIES)
    for prompts, samples, spread in dict.fromkeys(key[:3] for key in cells):
        found = [cells.get((prompts, samples, spread, accuracy)) for accuracy in ACCURACIES]
        shown = ["" if value is None else f"{value:.1f}" for value in found]
        yield f"| {prompts} | {samples} | {spread} | " + " | ".join(shown) + " |"


def _plain_table(rows: list[Row], names: tuple[str, ...]) -> Iterator[str]:
    yield "| " + " | ".join(names) + " |"
    yield "|---" * len(names) + "|"
    for row in rows:
        yield "| " + " | ".join(f"{row[name]}" for name in names) + " |"


# ---- the command -------------------------------------------------------------------------------------------------


def main() -> None:
    """Simulate and write, or show what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part alone")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--show", type=Path, metavar="JSON", help="write a result file's tables")
    parser.add_argument(
        "--page", type=Path, default=Path("docs/statistics.md"), help="to this page"
    )
    options = parser.parse_args()
    if options.show:
        show(json.loads(options.show.read_text()), options.page)
        return
    file = options.output / f"coverage-{datetime.date.today()}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in options.only or PARTS:
        begun = time.perf_counter()
        results[name] = PARTS[name](options.draws)
        print(
            f"{name}: {len(results[name])} points, {time.perf_counter() - begun:.0f} s", flush=True
        )
    lines = [
        f" {json.dumps(name)}: [\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n ]"
        for name, rows in results.items()
    ]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(file)


if __name__ == "__main__":
    main()
