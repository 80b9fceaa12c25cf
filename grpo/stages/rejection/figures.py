"""What rejection sampling comes to: the record of a step, rates with their intervals, the histogram of pass rates."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from grpo.run.accuracy import mean
from grpo.stages.rejection.books import OUTCOMES, WHOLE
from grpo.stages.rejection.candidates import CandidateGroup
from grpo.statistics.intervals import share_interval
from grpo.statistics.ratios import ratio_interval

BINS = ("0", "(0, 0.25)", "[0.25, 0.5)", "[0.5, 0.75)", "[0.75, 1)", "1")
"""Where the pass rate of a prompt may lie; none and all stand apart."""
Record = dict[str, Any]


def step_record(
    step: int,
    groups: Sequence[CandidateGroup],
    outcomes: Sequence[str],
    seconds: Mapping[str, float],
) -> Record:
    """Everything worth plotting of a step: flat keys, plain numbers."""
    candidates = [one for group in groups for one in group.candidates]
    values = [one.score.value for one in candidates if one.score.value is not None]
    judged = [group.judged for group in groups if group.judged]
    lengths = [one.num_tokens for one in candidates]
    ledger = {f"ledger/{name}": outcomes.count(name) for name in OUTCOMES}
    times = {f"seconds/{phase}": spent for phase, spent in seconds.items()}
    return {
        "step": step,
        "reward/mean": mean(values),
        **_means_of_parts(groups),
        "prompt/pass_rate": mean(mean(rights) for rights in judged),
        "completion/length": mean(lengths),
        "completion/longest": max(lengths, default=0),
        "completion/truncated": mean(one.completion.truncated for one in candidates),
        "completion/tokens": sum(lengths),
        "group/sampled": len(groups),
        f"ledger/{WHOLE}": len(candidates),
        **ledger,
        **times,
    }


def _means_of_parts(groups: Sequence[CandidateGroup]) -> Record:
    values_of: dict[str, list[float]] = {}
    for group in groups:
        for candidate in group.candidates:
            for name, part in candidate.verdict.items():
                if part.value is not None:
                    values_of.setdefault(f"rewards/{name}", []).append(part.value)
    return {name: mean(values) for name, values in values_of.items()}


def acceptance(rates: Sequence[Mapping[str, Any]]) -> Record:
    """The share of candidates that were accepted, with its 95 % interval for new prompts; `rates` are rows a prompt."""
    sampled = [row for row in rates if row["k"]]
    found = ratio_interval([row["accepted"] for row in sampled], [row["k"] for row in sampled])
    return {
        "value": found.value,
        "low": max(0.0, found.low),
        "high": min(1.0, found.high),
        "prompts": len(sampled),
    }


def pass_rates(rates: Sequence[Mapping[str, Any]]) -> Record:
    """The mean pass rate with its 95 % interval for new prompts, and how many prompts lie in each of `BINS`."""
    known = [row for row in rates if row["pass_rate"] is not None]
    shares = [float(row["pass_rate"]) for row in known]
    found = share_interval(shares, mean(row["judged"] for row in known) if known else 1)
    histogram = dict.fromkeys(BINS, 0)
    for share in shares:
        histogram[BINS[_bin(share)]] += 1
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "prompts": len(known),
        "without_verdict": len(rates) - len(known),
        "histogram": histogram,
    }


def _bin(share: float) -> int:
    if share in (0.0, 1.0):
        return 0 if share == 0.0 else len(BINS) - 1
    return 1 + int(share * 4)
