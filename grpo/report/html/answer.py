"""The answer that a page begins with: before and after of each set, what it cost, what was lost, what alarmed."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Iterator, Mapping, Sequence

from grpo.cost.book import RunCosts, read_costs
from grpo.cost.price import Prices
from grpo.monitor.gate_table import LADDER
from grpo.recipe.shorthands import HELD_OUT
from grpo.report.console.words import candidates, outcomes
from grpo.report.folder import EvaluationPoint
from grpo.report.html.run_data import RunData
from grpo.report.tally import Results, prompt_means
from grpo.report.transcript import told_by
from grpo.statistics.comparison import Comparison, compare

ACCURACY = ("accuracy", "low", "high")
SHORTEST_PHASE = 0.05  # seconds
REWARD = ("reward", "reward_low", "reward_high")
OUTCOMES = {
    "trained": "in an update of the policy",
    "flat": "in a zero-variance group: all completions of the prompt got the same reward, so none is better",
    "truncated_masked": "cut off at the token limit, and masked",
    "correction_masked": "masked by the correction for the sampler–trainer mismatch",
    "faulted": "not scored: the reward failed on them",
    "cancelled": "cancelled: begun, and not needed any more",
}
"""What became of a completion, in words."""
SHORT_OUTCOMES = {
    "trained": "trained",
    "flat": "zero-variance group",
    "truncated_masked": "truncated, masked",
    "correction_masked": "correction masked",
    "faulted": "faulted",
    "cancelled": "cancelled",
}
SHOWN_DIGIT = 0.001
"""A tenth of a point: what two figures may differ by and be shown as one."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure after a step, with its 95 % interval where there is one."""

    step: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """One figure of one set in one run, before training and after (or at the latest evaluation so far).

    ``unit`` is ``accuracy`` or ``reward``. ``difference`` is paired by prompt; None where completions were not kept.
    """

    set: str
    source: str
    unit: str
    before: Estimate | None
    after: Estimate | None
    difference: Comparison | None = None

    @property
    def title(self) -> str:
        """The set in words."""
        name = "held-out" if self.set == HELD_OUT else self.set
        return f"{name}: {self.source}" if self.source else name

    @property
    def is_share(self) -> bool:
        return self.unit == "accuracy"

    @property
    def values(self) -> list[float]:
        """The figures that there are."""
        return [found.value for found in (self.before, self.after) if found is not None]

    @property
    def change(self) -> float | None:
        """After minus before."""
        if self.before is None or self.after is None:
            return None
        return self.after.value - self.before.value

    @property
    def is_whole(self) -> bool:
        """Whether the paired prompts have the change that all have; not where completions of a part alone are kept."""
        if self.difference is None or self.change is None:
            return False
        rounding = SHOWN_DIGIT * max(1.0, abs(self.change))
        return abs(self.difference.difference - self.change) <= rounding


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One outcome of the ledger: how many completions, and their share of those sampled."""

    outcome: str
    name: str
    meaning: str
    number: int
    share: float


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger of a run; ``missing`` completions would be unaccounted for, which is never so."""

    sampled: int
    lines: Sequence[LedgerLine]
    missing: int

    def line(self, outcome: str) -> LedgerLine:
        """The line of an outcome."""
        return next(line for line in self.lines if line.outcome == outcome)


@dataclass(frozen=True, slots=True)
class AlarmLine:
    """All alarms of one gate: its highest rung, the steps, and what the last one said."""

    gate: str
    level: str
    number: int
    first: int
    last: int
    says: str


@dataclass(frozen=True, slots=True)
class Example:
    """One evaluated prompt with a completion before training and one after, each with its reward.

    ``title`` is what tells the prompt from the others: all of it but what they share.
    """

    title: str
    prompt: str
    before: str
    before_reward: float | None
    after: str
    after_reward: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took. ``seconds`` are those of steps and evaluations, or of the steps alone (``of_steps_only``).

    ``account`` is all that it took, over all attempts, None of a run that kept no costs; ``money`` is its price in
    words, empty without one.
    """

    steps: int
    asked_steps: int | None
    seconds: float
    of_steps_only: bool
    tokens: Mapping[str, int]
    account: RunCosts | None = None
    money: str = ""

    def phases(self) -> list[tuple[str, float]]:
        """The phases of the account that took something, with their wall time, the longest first."""
        spent = {} if self.account is None else self.account.phases
        walls = [(name, of.wall) for name, of in spent.items() if of.wall >= SHORTEST_PHASE]
        return sorted(walls, key=lambda phase: -phase[1])


# ---- before and after -----------------------------------------------------------------------------------------


def results_of(run: RunData) -> list[BeforeAfter]:
    """Before and after of each set, then of each source of a mixture.

    Of a set both accuracy and mean reward where those differ, the reward first where accuracy never left 0. Of a
    source the accuracy, or where there is none the reward.
    """
    points_of: dict[tuple[str, str], list[EvaluationPoint]] = {}
    for point in run.points:
        points_of.setdefault((point.set, point.source), []).append(point)
    results: list[BeforeAfter] = []
    for (name, source), points in sorted(points_of.items(), key=lambda item: bool(item[0][1])):
        accuracy = _before_after(run, name, source, estimates=_estimates(points, ACCURACY))
        reward = _before_after(
            run, name, source, estimates=_estimates(points, REWARD), unit="reward"
        )
        results += _worth_showing(accuracy, reward)
    return results


def _worth_showing(
    accuracy: BeforeAfter | None, reward: BeforeAfter | None
) -> Iterator[BeforeAfter]:
    if accuracy is None or reward is None:
        yield from filter(None, (accuracy, reward))
    elif accuracy.source or accuracy.values == reward.values:
        yield accuracy
    elif any(accuracy.values):
        yield from (accuracy, reward)
    else:
        yield from (reward, accuracy)


def _before_after(
    run: RunData,
    name: str,
    source: str,
    *,
    estimates: Sequence[Estimate],
    unit: str = "accuracy",
) -> BeforeAfter | None:
    if not estimates:
        return None
    first = estimates[0]
    last = estimates[-1]
    result = BeforeAfter(
        set=name,
        source=source,
        unit=unit,
        before=first if first.step == 0 else None,
        after=last if last.step > 0 else None,
    )
    return replace(result, difference=_difference(run, result))


def _estimates(points: Sequence[EvaluationPoint], keys: Sequence[str]) -> list[Estimate]:
    return [estimate for point in points for estimate in _estimate(point, keys)]


def _estimate(point: EvaluationPoint, keys: Sequence[str]) -> Iterator[Estimate]:
    value, low, high = (point.figures.get(key) for key in keys)
    if value is not None:
        yield Estimate(point.step, value, low, high)


def _difference(run: RunData, result: BeforeAfter) -> Comparison | None:
    """The paired difference over the prompts that both evaluations judged; None if there are none, or of a source."""
    if result.before is None or result.after is None or result.source:
        return None
    results = run.tally.results
    first = _means(results.get((result.set, result.before.step)), result.unit)
    last = _means(results.get((result.set, result.after.step)), result.unit)
    both = [prompt for prompt in first if prompt in last]
    if not both:
        return None
    return compare(
        [first[prompt] for prompt in both],
        [last[prompt] for prompt in both],
        largest=1.0 if result.is_share else None,
    )


def _means(results: Results | None, unit: str) -> dict[str, float]:
    if results is None:
        return {}
    return prompt_means(results.right if unit == "accuracy" else results.rewards)


# ---- the books ------------------------------------------------------------------------------------------------


def books_of(run: RunData) -> Books | None:
    """The ledger of the summary, or the sum of the steps' so far; None before the first step."""
    ledger = run.summary.get("ledger") if run.state.name == "finished" else None
    ledger = ledger or _summed_ledger(run.records)
    sampled = ledger.get("sampled", 0)
    if not sampled:
        return None
    lines = [
        LedgerLine(
            outcome=outcome,
            name=SHORT_OUTCOMES[outcome],
            meaning=OUTCOMES[outcome],
            number=ledger.get(outcome, 0),
            share=ledger.get(outcome, 0) / sampled,
        )
        for outcome in OUTCOMES
    ]
    return Books(sampled, lines, missing=sampled - sum(line.number for line in lines))


def without_books(run: RunData) -> str:
    """What to say of a run that samples nothing to train on: its rows or candidates by what became of them."""
    ledger = run.summary.get("ledger") if run.state.name == "finished" else None
    ledger = ledger or _every_count(run.records)
    if ledger.get("candidates"):
        return f"Rejection sampling trains nothing. {candidates(ledger)}."
    if ledger.get("drawn"):
        return f"Rows are learnt as they stand, so nothing is sampled for training. {outcomes(ledger)}."
    return "No step is done yet, so nothing was sampled for training."


def _every_count(records: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """The sum of whatever the steps' ledgers count."""
    counts: Counter[str] = Counter()
    for record in records:
        for key, number in record.items():
            if key.startswith("ledger/"):
                counts[key.removeprefix("ledger/")] += number or 0
    return counts


def outcomes_of(books: Sequence[Books | None]) -> list[LedgerLine]:
    """The outcomes that a page names: those of any of the books, and always what was trained and what failed."""
    found: dict[str, LedgerLine] = {}
    for account in filter(None, books):
        for line in account.lines:
            if line.number or line.outcome in ("trained", "faulted"):
                found.setdefault(line.outcome, line)
    return [found[outcome] for outcome in OUTCOMES if outcome in found]


def _summed_ledger(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    summed = dict.fromkeys(("sampled", *OUTCOMES), 0)
    for record in records:
        for name in summed:
            summed[name] += record.get(f"ledger/{name}", 0)
    return summed


def cost_of(run: RunData) -> Cost:
    """Steps, seconds and tokens, by the summary or by the steps so far."""
    is_finished = run.state.name == "finished"
    seconds = run.summary.get("seconds") if is_finished else None
    tokens = run.summary.get("tokens") if is_finished else None
    account = read_costs(run.path)
    of_steps = math.fsum(record.get("seconds/step") or 0.0 for record in run.records)
    return Cost(
        steps=run.records[-1]["step"] if run.records else 0,
        asked_steps=None if run.recipe.get("stage") == "reject" else run.recipe.get("steps"),
        seconds=of_steps if seconds is None else seconds,
        of_steps_only=seconds is None,
        tokens={**_summed_tokens(run.records), **(tokens or {})},
        account=account,
        money=_money(run, account),
    )


def _money(run: RunData, account: RunCosts | None) -> str:
    prices = Prices.of_recipe(run.recipe)
    if account is None or not prices:
        return ""
    total = account.total
    money = prices.money(wall=total.wall, cpu=total.cpu, gpu=total.gpu)
    return prices.shown(money)


def _summed_tokens(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "sampled": sum(record.get("completion/tokens") or 0 for record in records),
        "trained": sum(record.get("update/tokens") or 0 for record in records),
        "evaluated": 0,
    }


def alarms_of(run: RunData) -> list[AlarmLine]:
    """The alarms by gate, the gravest first."""
    by_gate: dict[str, list[Mapping[str, Any]]] = {}
    for alarm in run.alarms:
        by_gate.setdefault(str(alarm.get("gate", "")), []).append(alarm)
    lines = [_alarm_line(gate, alarms) for gate, alarms in by_gate.items()]
    return sorted(lines, key=lambda line: -_height(line.level))


def _alarm_line(gate: str, alarms: Sequence[Mapping[str, Any]]) -> AlarmLine:
    levels = [str(alarm.get("level", "")) for alarm in alarms]
    return AlarmLine(
        gate=gate,
        level=max(levels, key=_height),
        number=len(alarms),
        first=alarms[0]["step"],
        last=alarms[-1]["step"],
        says=str(alarms[-1].get("says", "")),
    )


def _height(level: str) -> int:
    """How far up the ladder a rung is."""
    return LADDER.index(level) if level in LADDER else 0


def examples_of(run: RunData) -> list[Example]:
    """The examples of the summary whose prompts are the same before and after."""
    kept = run.summary.get("examples") or {}
    pairs = list(zip(kept.get("before") or (), kept.get("after") or ()))
    prompts = [before["prompt"] for before, _ in pairs]
    start = _num_shared(prompts) if len(prompts) > 1 else 0
    end = _num_shared([prompt[start:][::-1] for prompt in prompts]) if len(prompts) > 1 else 0
    return [
        Example(
            title=before["prompt"][start : len(before["prompt"]) - end],
            prompt=before["prompt"],
            before=told_by(before),
            before_reward=before["reward"],
            after=told_by(after),
            after_reward=after["reward"],
        )
        for before, after in pairs
        if before["prompt"] == after["prompt"]
    ]


def _num_shared(texts: Sequence[str]) -> int:
    """How many characters all `texts` begin with, up to the last word that they share whole."""
    shared = os.path.commonprefix(list(texts))
    return 1 + max(shared.rfind(" "), shared.rfind("\n"))
