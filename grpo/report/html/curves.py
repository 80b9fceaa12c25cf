"""The curves of a page: which charts there are, and each run's series in them. Nothing is drawn here.

A series names the steps that its values belong to; the page places them by step, by tokens sampled so far, or by
seconds of training so far, which `axes_of` gives for each run.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, Callable, Iterator, Mapping, Sequence

from grpo.recipe.shorthands import HELD_OUT
from grpo.report.html.packing import rounded
from grpo.report.html.run_data import RunData
from grpo.report.tally import Sums

Values = Sequence[float | None]
MOST_POINTS = 2000
"""Steps that a series shows; of a longer run, evenly spaced ones."""
MOST_SERIES = 12
"""Series of one run in a chart."""
_TEST = re.compile(r"test_\d+|weak|visible|hidden")


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
        Chart("clipped", "Clipped", "share of tokens at the clip", "percent", scale="zero"),
        [_Line("clipped", "policy/clipped")],
    ),
)
DROPPED_IF_ZERO = ("kl", "clipped", "truncated")


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
    for chart, lines in PLAIN_CHARTS:
        shown = _with(chart, [_metric(number, part, run, line) for part, line in enumerate(lines)])
        if chart.key in DROPPED_IF_ZERO and not any(any(map(bool, s.y)) for s in shown.series):
            continue
        yield shown
    for chart, names in _found_charts(run):
        lines = [_Line(label, metric) for label, metric in names][:MOST_SERIES]
        yield _with(chart, [_metric(number, part, run, line) for part, line in enumerate(lines)])
    yield from _evaluated(number, run)
    yield _lengths(number, run)
    yield _seconds(number, run)
    yield from _text_statistics(number, run)


def _with(chart: Chart, series: Sequence[Series]) -> Chart:
    """A copy of `chart` that holds those of `series` that have a value."""
    shown = [line for line in series if any(value is not None for value in line.y)]
    values = {name: getattr(chart, name) for name in Chart.__slots__ if name != "series"}
    return Chart(**values, series=shown)


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
    return rounded(value) if isinstance(value, (int, float)) else None


def _found_charts(run: RunData) -> Iterator[tuple[Chart, Sequence[tuple[str, str]]]]:
    """Charts whose lines are the metrics that the run happens to have."""
    keys = list(dict.fromkeys(key for record in run.records for key in record))
    parts = [key for key in keys if key.startswith("rewards/") and key.count("/") == 1]
    if len(parts) > 1:
        chart = Chart("parts", "Parts of the reward", "mean of each, before weights", "number")
        yield chart, [(key.partition("/")[2], key) for key in parts]
    sources = [key for key in keys if key.startswith("source/") and key.endswith("/reward")]
    if len(sources) > 1:
        chart = Chart("sources", "Reward by source", "of the mixture", "number")
        yield chart, [(key.split("/")[1], key) for key in sources]
    reported = [key for key in keys if _is_reported(key)]
    if reported:
        chart = Chart("reported", "Numbers that rewards report", "means", "number")
        yield chart, [(key.partition("/")[2], key) for key in reported]
    logged = [key for key in keys if key.startswith("metric/")]
    if logged:
        chart = Chart("logged", "Logged by rewards", "means over the step's calls", "number")
        yield chart, [(key.partition("/")[2], key) for key in logged]


def _is_reported(key: str) -> bool:
    """Whether a metric is a number beside a reward's value; one test of a program is of one prompt alone."""
    words = key.split("/")
    return words[0] == "rewards" and len(words) == 3 and not _TEST.fullmatch(words[2])


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
    names = list(dict.fromkeys((point.set, point.source) for point in run.points))
    for part, (name, source) in enumerate(names[:MOST_SERIES]):
        points = [point for point in run.points if (point.set, point.source) == (name, source)]
        shown = "held-out" if name == HELD_OUT else name
        low, high = ([_value(point.figures.get(key)) for point in points] for key in bounds)
        yield Series(
            run=number,
            part=part,
            label=f"{shown}: {source}" if source else shown,
            at=[point.step for point in points],
            y=[_value(point.figures.get(figure)) for point in points],
            low=low,
            high=high,
            points=True,
        )


# ---- of completions -------------------------------------------------------------------------------------------


def _of_sums(
    number: int, part: int, label: str, sums: Mapping[int, Sums], value: Callable[[Sums], Any]
) -> Series:
    steps = thinned(sorted(sums))
    return Series(
        run=number,
        part=part,
        label=label,
        at=steps,
        y=[_value(value(sums[step])) for step in steps],
    )


def _lengths(number: int, run: RunData) -> Chart:
    chart = Chart("length", "Length", "mean tokens of a training completion", "tokens")
    steps = run.tally.steps
    everything = _metric(number, 0, run, _Line("all", "completion/length"))
    if not any(sums.right for sums in steps.values()):
        return _with(chart, [everything])
    right = _of_sums(number, 1, "right", steps, lambda sums: sums.right_length)
    wrong = _of_sums(number, 2, "wrong", steps, lambda sums: sums.wrong_length)
    return _with(chart, [everything, right, wrong])


def _seconds(number: int, run: RunData) -> Chart:
    """The whole step, and its phases with what is left between them."""
    chart = Chart(
        "seconds", "Seconds a step", "by phase, stacked", "seconds", scale="zero", stacked=True
    )
    keys = dict.fromkeys(key for record in run.records for key in record)
    phases = [key for key in keys if key.startswith("seconds/") and key != "seconds/step"]
    whole = _metric(number, 0, run, _Line("whole step", "seconds/step"))
    lines = [
        _metric(number, part, run, _Line(key.partition("/")[2], key))
        for part, key in enumerate(phases, start=1)
    ]
    return _with(chart, [whole, *lines])


def _text_statistics(number: int, run: RunData) -> Iterator[Chart]:
    words = Chart(
        "words",
        "Words of reflection",
        "a text statistic: how often the words below stand in 1,000 tokens",
        "number",
        section="words",
        scale="zero",
    )
    lengths = Chart(
        "evaluated-length",
        "Length of right and wrong completions",
        "mean tokens in evaluations, of the first set",
        "tokens",
        section="words",
    )
    names = list(dict.fromkeys(name for name, _ in run.tally.sets))
    series = [_of_sums(number, 0, "training", run.tally.steps, lambda sums: sums.rate())]
    for part, name in enumerate(names[:MOST_SERIES], start=1):
        series.append(
            _marked(
                _of_sums(number, part, _shown(name), _of_set(run, name), lambda sums: sums.rate())
            )
        )
    yield _with(words, series)
    if names:
        sums = _of_set(run, names[0])
        right = _of_sums(number, 0, "right", sums, lambda each: each.right_length)
        wrong = _of_sums(number, 1, "wrong", sums, lambda each: each.wrong_length)
        yield _with(lengths, [_marked(right), _marked(wrong)])


def _shown(name: str) -> str:
    return "held-out" if name == HELD_OUT else name


def _of_set(run: RunData, name: str) -> dict[int, Sums]:
    return {step: run.tally.sets[name, step] for step in run.tally.steps_of(name)}


def _marked(series: Series) -> Series:
    values = {name: getattr(series, name) for name in Series.__slots__}
    return Series(**{**values, "points": True})


# ---- the axes -------------------------------------------------------------------------------------------------


def axes_of(run: RunData) -> dict[str, list[float]]:
    """For each step, from 0 on: the tokens sampled until then, and the seconds of training."""
    records = run.records
    return {
        "step": [0, *(record["step"] for record in records)],
        "tokens": list(accumulate((r.get("completion/tokens") or 0 for r in records), initial=0)),
        "seconds": [
            round(seconds, 2)
            for seconds in accumulate(
                (record.get("seconds/step") or 0.0 for record in records), initial=0.0
            )
        ],
    }


def chart_data(charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """The charts as plain values; those without a line are left out."""
    return [asdict(chart) for chart in charts if chart.series]
