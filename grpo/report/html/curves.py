"""The curves of a page: which charts there are, and each run's series in them. Nothing is drawn here.

A series names the steps that its values belong to; the page places them by step, by tokens sampled so far, or by
seconds of training so far, which `axes_of` gives for each run.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any, Callable, Iterator, Mapping, Sequence

from grpo.recipe.shorthands import HELD_OUT
from grpo.report.folder import EvaluationPoint
from grpo.report.html.packing import rounded
from grpo.report.html.run_data import RunData
from grpo.report.tally import Sums

Values = Sequence[float | None]
MOST_POINTS = 2000
"""Steps that a series shows; of a longer run, evenly spaced ones."""
MOST_SERIES = 12
"""Series of one run in a chart."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: its values after the steps ``at``, and a band where it has one.

    ``part`` numbers the lines of a run, so that a line has the same dash in every run. ``points`` marks each value,
    for lines of few.
    """

    run: int
    part: int
    label: str
    at: Sequence[int]
    y: Values
    low: Values | None = None
    high: Values | None = None
    points: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: ``unit`` is percent, number, tokens, seconds or rate; ``scale`` linear, zero (from 0 on) or log.

    ``stacked`` series lie on each other where the page shows a single run; of several, only the part 0 is shown.
    """

    key: str
    title: str
    note: str
    unit: str
    section: str = "curves"
    scale: str = "linear"
    stacked: bool = False
    series: list[Series] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a chart that shows a metric as it is."""

    label: str
    metric: str


# ---- of metrics -----------------------------------------------------------------------------------------------

PLAIN_CHARTS: Sequence[tuple[Chart, Sequence[_Line]]] = (
    (
        Chart("reward", "Reward", "mean over the step's completions", "number"),
        [_Line("reward", "reward/mean")],
    ),
    (
        Chart("truncated", "Truncated", "share of completions cut off", "percent", scale="zero"),
        [_Line("truncated", "completion/truncated")],
    ),
    (
        Chart("calls", "Calls of tools", "shares of the step's completions and calls", "percent"),
        [_Line("completions that call", "tool/share"), _Line("calls that fail", "tool/errors")],
    ),
    (
        Chart("entropy", "Entropy", "nats a token", "number", scale="zero"),
        [_Line("policy", "policy/entropy"), _Line("surprisal of samples", "completion/surprisal")],
    ),
    (
        Chart("flat", "Zero-variance groups", "share of prompts that teach nothing", "percent"),
        [_Line("zero-variance", "group/flat")],
    ),
    (
        Chart(
            "mismatch",
            "Sampler–trainer mismatch",
            "difference of log-probs, nats a token, logarithmic",
            "tiny",
            scale="log",
        ),
        [
            _Line("mean", "policy/drift"),
            _Line("99th percentile", "policy/drift_p99"),
            _Line("largest", "policy/drift_max"),
        ],
    ),
    (
        Chart("gradient", "Gradient norm", "before clipping", "number", scale="zero"),
        [_Line("norm", "update/grad_norm")],
    ),
    (
        Chart("kl", "KL to the reference", "nats a token", "number", scale="zero"),
        [_Line("KL", "policy/kl")],
    ),
    (
        Chart("teacher", "KL to the teacher", "nats a token", "number", scale="zero"),
        [_Line("KL", "policy/teacher_kl")],
    ),
    (
        Chart("clipped", "Clipped", "share of tokens at the clip", "percent", scale="zero"),
        [_Line("clipped", "policy/clipped")],
    ),
)
DROPPED_IF_ZERO = ("kl", "clipped", "words")


def charts_of(runs: Sequence[RunData]) -> list[Chart]:
    """The charts that have something to show, in the order of the page."""
    charts: dict[str, Chart] = {}
    for number, run in enumerate(runs):
        for made in _charts_of_run(number, run):
            charts.setdefault(made.key, made)
            if charts[made.key] is not made:
                charts[made.key].series.extend(made.series)
    return sorted(charts.values(), key=lambda chart: _place(chart.key))


ORDER = (
    "reward",
    "accuracy",
    "evaluated-reward",
    "length",
    "flat",
    "truncated",
    "calls",
    "entropy",
    "mismatch",
    "parts",
    "sources",
    "reported",
    "logged",
    "seconds",
    "gradient",
    "kl",
    "clipped",
)


def _place(key: str) -> int:
    return ORDER.index(key) if key in ORDER else len(ORDER)


def _charts_of_run(number: int, run: RunData) -> Iterator[Chart]:
    found = [*PLAIN_CHARTS, *_found_charts(run)]
    for chart, lines in found:
        yield _with(chart, _metrics(number, run, lines[:MOST_SERIES]))
    yield from _evaluated(number, run)
    yield _lengths(number, run)
    yield _seconds(number, run)
    yield from _text_statistics(number, run)


def _with(chart: Chart, series: Sequence[Series]) -> Chart:
    """A copy of `chart` that holds those of `series` that have a value."""
    shown = [line for line in series if _has_value(line)]
    if chart.key in DROPPED_IF_ZERO and not any(_has_size(line) for line in shown):
        shown = []
    return replace(chart, series=shown)


def _has_value(line: Series) -> bool:
    return any(value is not None for value in line.y)


def _has_size(line: Series) -> bool:
    return any(line.y)


def _metrics(number: int, run: RunData, lines: Sequence[_Line]) -> list[Series]:
    return [_metric(number, part, run, line) for part, line in enumerate(lines)]


def _metric(number: int, part: int, run: RunData, line: _Line) -> Series:
    records = thinned(run.records)
    return Series(
        run=number,
        part=part,
        label=line.label,
        at=[record["step"] for record in records],
        y=[_value(record.get(line.metric)) for record in records],
    )


def thinned(records: Sequence[Any]) -> Sequence[Any]:
    """Evenly spaced ones of many `records`, the last among them."""
    every = -(-len(records) // MOST_POINTS)
    return records if every < 2 else list(records[::-every])[::-1]


def _value(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return rounded(value) if is_number else None


FOUND_CHARTS: Sequence[tuple[Chart, re.Pattern[str], int]] = (
    (
        Chart("parts", "Parts of the reward", "mean of each, before weights", "number"),
        re.compile(r"rewards/([^/]+)"),
        2,
    ),
    (
        Chart("sources", "Reward by source", "of the mixture", "number"),
        re.compile(r"source/([^/]+)/reward"),
        2,
    ),
    (
        Chart("reported", "Numbers that rewards report", "means", "number"),
        re.compile(r"rewards/([^/]+/(?!(?:test_\d+|weak|visible|hidden)$)[^/]+)"),
        1,
    ),
    (
        Chart("logged", "Logged by rewards", "means over the step's calls", "number"),
        re.compile(r"metric/(.+)"),
        1,
    ),
)
"""Charts of the metrics that a run happens to have, by a pattern of their keys, where it has that many. One test of a
program is of one prompt alone, and has no curve."""


def _found_charts(run: RunData) -> Iterator[tuple[Chart, Sequence[_Line]]]:
    keys = _keys_of(run)
    for chart, pattern, least in FOUND_CHARTS:
        matches = (pattern.fullmatch(key) for key in keys)
        lines = [_Line(match[1], match[0]) for match in matches if match]
        if len(lines) >= least:
            yield chart, lines


def _keys_of(run: RunData) -> dict[str, None]:
    """The metrics that a step of the run has, in order."""
    return dict.fromkeys(key for record in run.records for key in record)


# ---- of evaluations -------------------------------------------------------------------------------------------


def _evaluated(number: int, run: RunData) -> Iterator[Chart]:
    accuracy = Chart("accuracy", "Accuracy", "with 95 % intervals for new prompts", "percent")
    yield _with(accuracy, list(_bands(number, run, "accuracy", ("low", "high"))))
    if any(_differs(point.figures) for point in run.points):
        reward = Chart(
            "evaluated-reward",
            "Evaluated reward",
            "mean of the whole reward, 95 % intervals",
            "number",
        )
        yield _with(reward, list(_bands(number, run, "reward", ("reward_low", "reward_high"))))


def _differs(figures: Mapping[str, float | None]) -> bool:
    return figures.get("reward") is not None and figures.get("reward") != figures.get("accuracy")


def _bands(number: int, run: RunData, figure: str, bounds: tuple[str, str]) -> Iterator[Series]:
    """A line with its band for each set and source."""
    points_of: dict[str, list[EvaluationPoint]] = {}
    for point in run.points:
        label = shown_set(point.set) + (f": {point.source}" if point.source else "")
        points_of.setdefault(label, []).append(point)
    for part, (label, points) in enumerate(list(points_of.items())[:MOST_SERIES]):
        low, high = (_figures(points, bound) for bound in bounds)
        yield Series(
            run=number,
            part=part,
            label=label,
            at=[point.step for point in points],
            y=_figures(points, figure),
            low=low,
            high=high,
            points=True,
        )


def _figures(points: Sequence[EvaluationPoint], key: str) -> list[float | None]:
    return [_value(point.figures.get(key)) for point in points]


def shown_set(name: str) -> str:
    """A set's name as people read it."""
    return "held-out" if name == HELD_OUT else name


# ---- of completions -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _SumsLine:
    """A line of values that are added up from completions."""

    label: str
    sums: Mapping[int, Sums]
    value: Callable[[Sums], float | None]
    points: bool = True


def _of_sums(number: int, lines: Sequence[_SumsLine], first_part: int = 0) -> list[Series]:
    series = []
    for part, line in enumerate(lines, start=first_part):
        steps = thinned(sorted(line.sums))
        values = [_value(line.value(line.sums[step])) for step in steps]
        series.append(Series(number, part, line.label, at=steps, y=values, points=line.points))
    return series


def _lengths(number: int, run: RunData) -> Chart:
    chart = Chart("length", "Length", "mean tokens of a training completion", "tokens")
    steps = run.tally.steps
    everything = _metrics(number, run, [_Line("all", "completion/length")])
    lines = [
        _SumsLine("right", steps, Sums.right_length, points=False),
        _SumsLine("wrong", steps, Sums.wrong_length, points=False),
    ]
    has_right = any(sums.right for sums in steps.values())
    return _with(chart, everything + (_of_sums(number, lines, 1) if has_right else []))


def _seconds(number: int, run: RunData) -> Chart:
    """The whole step, and its phases."""
    chart = Chart(
        "seconds", "Seconds a step", "by phase, stacked", "seconds", scale="zero", stacked=True
    )
    phases = [key for key in _keys_of(run) if key.startswith("seconds/") and key != "seconds/step"]
    lines = [_Line("whole step", "seconds/step")]
    lines += [_Line(key.partition("/")[2], key) for key in phases]
    return _with(chart, _metrics(number, run, lines))


def _text_statistics(number: int, run: RunData) -> Iterator[Chart]:
    names = list(dict.fromkeys(name for name, _ in run.tally.sets))[:MOST_SERIES]
    words = Chart(
        "words",
        "Words of reflection",
        "a text statistic: those of the table, in 1,000 tokens",
        "number",
        section="words",
        scale="zero",
    )
    lines = [_SumsLine("training", run.tally.steps, Sums.rate, points=False)]
    lines += [_SumsLine(shown_set(name), run.tally.of_set(name), Sums.rate) for name in names]
    yield _with(words, _of_sums(number, lines))
    if names:
        title = f"Length of right and wrong, {shown_set(names[0])}"
        lengths = Chart(
            "evaluated-length", title, "mean tokens of a completion", "tokens", section="words"
        )
        sums = run.tally.of_set(names[0])
        both = [
            _SumsLine("right", sums, Sums.right_length),
            _SumsLine("wrong", sums, Sums.wrong_length),
        ]
        yield _with(lengths, _of_sums(number, both))


# ---- the axes -------------------------------------------------------------------------------------------------


def axes_of(run: RunData) -> dict[str, list[float]]:
    """For each step, from 0 on: the tokens sampled until then, and the seconds of training."""
    tokens = (record.get("completion/tokens") or 0 for record in run.records)
    seconds = (record.get("seconds/step") or 0.0 for record in run.records)
    return {
        "step": [0, *(record["step"] for record in run.records)],
        "tokens": list(accumulate(tokens, initial=0)),
        "seconds": [round(total, 2) for total in accumulate(seconds, initial=0.0)],
    }


def chart_data(charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """The charts as plain values; those without a line are left out."""
    return [asdict(chart) for chart in charts if chart.series]
