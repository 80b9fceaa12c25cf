"""What a scored group, an evaluation, a recipe and a run show in a notebook, from plain values.

A card is small: many completions are counted and not shown, a long text is cut. All of it is in the object itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from grpo.notebook.markup import (
    BLUE,
    FAINT,
    GREY,
    MONOSPACED,
    Html,
    card,
    deviation_bar,
    faint,
    folded,
    heading,
    interval_chart,
    is_known,
    joined,
    number,
    percent,
    sparkline,
    table,
    tag,
    text_block,
)
from grpo.notebook.sizes import size_of
from rewards.spelling import many

MAX_ROWS = 32
"""Completions of a group that are shown."""
MAX_TRUTHS = 8
"""Columns of a data row that are shown."""
OUTCOME_WORDS = {
    "flat": "in zero-variance groups",
    "truncated_masked": "truncated and masked",
    "correction_masked": "masked by the correction",
}
PLAIN = "font:inherit;padding:0;background:transparent;color:inherit"
"""Of text in ``code``, where notebooks typeset no mathematics, in the page's own type."""

Values = Mapping[str, Any]


# ---- a scored group -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CompletionRow:
    """One completion with its score; ``parts`` are the values by reward, ``counted`` is whether it trains."""

    text: str
    num_tokens: int
    finish: str
    reward: float | None
    status: str = "scored"
    detail: str = ""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    counted: bool = True


def group_card(
    id: str, prompt: str, truth: Values, rows: Sequence[CompletionRow], *, is_flat: bool
) -> Html:
    """The prompt, its truth, and a row a completion: green above the group's mean, red below it."""
    counted = [row.reward for row in rows if row.counted and row.reward is not None]
    center = sum(counted) / len(counted) if counted else None
    remarks = [f"{many(len(rows), 'completion')}", f"mean reward {number(center)}"]
    if is_flat:
        remarks.append("zero variance: no completion is better than another")
    shown = rows[:MAX_ROWS]
    others = {name: value for name, value in truth.items() if str(value) != prompt}
    parts = [text_block(prompt), _truth_line(others), _completions(shown, counted, center)]
    if len(rows) > len(shown):
        parts.append(faint(f"... and {len(rows) - len(shown)} more, in completions and scores"))
    return card(heading("ScoredGroup", id, *remarks), *parts)


def _truth_line(truth: Values) -> Html:
    shown = []
    for name, value in list(truth.items())[:MAX_TRUTHS]:
        text = _beginning(str(value), 80)
        shown += [f"{name} ", tag("code", text, style=MONOSPACED), "  "]
    if len(truth) > MAX_TRUTHS:
        shown.append(f"and {len(truth) - MAX_TRUTHS} more columns")
    return tag("div", *shown, style=f"{FAINT};margin:4px 0 8px;overflow-wrap:anywhere")


def _completions(
    rows: Sequence[CompletionRow], counted: Sequence[float], center: float | None
) -> Html:
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    names = names if len(names) > 1 else []
    has_remarks = any(_remark(row) for row in rows)
    heads = ["reward", "against mean", *names, "tokens", *(["remarks"] if has_remarks else [])]
    distances = [] if center is None else [abs(value - center) for value in counted]
    largest = max(distances, default=0.0)
    lines = []
    for row in rows:
        cells: list[object] = [
            number(row.reward),
            _against_mean(row, center, largest),
            *(number(row.parts.get(name)) for name in names),
            number(row.num_tokens),
        ]
        remark = tag("code", _remark(row), style=PLAIN)
        cells += [remark] if has_remarks else []
        lines.append([*cells, text_block(row.text)])
    return table([*heads, "completion"], lines)


def _against_mean(row: CompletionRow, center: float | None, largest: float) -> Html:
    """How much better or worse than its group a completion is, which is what the update weighs it by."""
    if row.reward is None or center is None or not row.counted:
        return joined([number(None)])
    distance = row.reward - center
    shown = f"+{number(distance)}" if distance > 0 else number(distance)
    drawn = deviation_bar(distance, largest)
    return tag("span", drawn, " ", shown, style="white-space:nowrap")


def _remark(row: CompletionRow) -> str:
    """What is out of the ordinary with a completion."""
    remarks = [] if row.status == "scored" else [row.status.replace("_", " ")]
    if row.finish != "stop":
        remarks.append({"length": "cut off"}.get(row.finish, row.finish))
    if row.reward is not None and not row.counted:
        remarks.append("not trained")
    if row.detail and row.status != "scored":
        remarks.append(_beginning(row.detail))
    return ", ".join(remarks)


# ---- an evaluation --------------------------------------------------------------------------------------------


def evaluation_card(values: Values, accurate: str, sources: Mapping[str, Values]) -> Html:
    """Accuracy with its interval, by source where there are several, and the other figures."""
    size = size_of(values, "×")
    rows: list[Sequence[object]] = [_accuracy_row("accuracy", values)]
    rows += [_accuracy_row(name, figures) for name, figures in sources.items()]
    reward = joined([number(values["reward"]), _bounds(values, "reward", number)])
    rows += [
        ("mean reward", reward),
        ("length", f"{number(values['length'])} tokens"),
        ("truncated", percent(values["truncated"])),
        ("no answer", percent(values["no_answer"])),
        ("not scored (faults)", number(values["faults"])),
    ]
    rows += [(name, number(value)) for name, value in values["details"].items()]
    cost = f"{number(values['tokens'])} tokens in {number(values['seconds'])} s"
    meaning = f"Accurate: the full score by {accurate}. " if accurate else ""
    return card(
        heading("Evaluation", "", size, cost),
        table((), rows),
        faint(f"{meaning}Intervals: 95 %, for new prompts of the same kind."),
    )


def _accuracy_row(name: str, values: Values) -> list[object]:
    if not is_known(values["accuracy"]):
        return [name, "nothing scored", ""]
    return [name, _with_interval(values), _chart_of(values)]


def _with_interval(values: Values) -> Html:
    return joined([tag("b", percent(values["accuracy"])), _bounds(values, "", percent)])


def _bounds(values: Values, name: str, written: Any) -> Html:
    low = values.get(f"{name}_low" if name else "low")
    high = values.get(f"{name}_high" if name else "high")
    if not (is_known(low) and is_known(high)):
        return joined([""])
    shown = f" [{written(low)}, {written(high)}]".replace(" %", "")
    return tag("span", shown, style=FAINT)


def _chart_of(values: Values) -> Html:
    return interval_chart(values["accuracy"], values["low"], values["high"])


# ---- a recipe -------------------------------------------------------------------------------------------------


def recipe_card(
    name: str, sizes: Sequence[str], changed: Sequence[tuple[str, str, str]], resolved: str
) -> Html:
    """The keys that are not at their defaults, each (key, value, default), and the resolved recipe, folded."""
    rows = [
        (_code(key), _code(_beginning(value)), tag("span", default, style=FAINT))
        for key, value, default in changed
    ]
    whole = tag("pre", resolved, style=MONOSPACED)
    return card(
        heading("Recipe", name),
        *(faint(line) for line in sizes),
        table(("key", "value", "default"), rows),
        folded(tag("span", "the resolved recipe", style=FAINT), whole),
    )


def _code(text: str) -> Html:
    return tag("code", text, style=f"{MONOSPACED};overflow-wrap:anywhere")


def _beginning(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


# ---- a run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Series:
    """A number over the steps of a run; ``is_share`` shows it in per cent."""

    name: str
    values: Sequence[float | None]
    is_share: bool = False

    @property
    def last(self) -> float | None:
        """The last value that is known."""
        known = [value for value in self.values if value is not None]
        return known[-1] if known else None


@dataclass(frozen=True, slots=True)
class EvaluatedSet:
    """The first and the last evaluation of a set, each with ``accuracy``, ``low`` and ``high``, after which step."""

    name: str
    step: int
    values: Values


def run_card(
    kind: str,
    name: str,
    remarks: Sequence[str],
    *,
    done: float,
    evaluations: Sequence[EvaluatedSet],
    series: Sequence[Series],
    ledger: Mapping[str, int],
    folder: str,
) -> Html:
    """How far a run is (`done`, a share), its evaluations, the course of its numbers, and its completions' outcomes."""
    rows = [_accuracy_row(f"{of.name}, step {of.step}", of.values) for of in evaluations]
    known = [one for one in series if is_known(one.last)]
    numbers = [(one.name, _last(one), sparkline(one.values)) for one in known]
    outcomes = ", ".join(
        f"{count:,} {OUTCOME_WORDS.get(outcome, outcome)}"
        for outcome, count in ledger.items()
        if count
    )
    parts = [table((), [*rows, *numbers])]
    if outcomes:
        parts.append(faint(f"completions: {outcomes}"))
    parts.append(faint(_code(folder)))
    return card(heading(kind, name, *remarks), _progress(done), *parts)


def _last(series: Series) -> str:
    return percent(series.last) if series.is_share else number(series.last)


def _progress(done: float) -> Html:
    width = round(100 * min(1.0, max(0.0, done)), 1)
    inner = tag("div", style=f"height:4px;width:{width}%;background:{BLUE}")
    outer = f"height:4px;background:{GREY};border-radius:2px;overflow:hidden;margin-bottom:8px"
    return tag("div", inner, style=outer)
