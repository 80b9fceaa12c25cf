"""The record of a step: flat keys, ``noun/quantity``, plain numbers.

Means over completions leave out what was not scored; the ledger counts every completion once, and its
outcomes sum to ``ledger/sampled``. What a reward logs by ``log_metric(name, value)`` is ``metric/<name>``, the mean
over the step's calls.
"""

from __future__ import annotations

import re
from statistics import pstdev
from typing import Any, Mapping, Sequence

import torch

from grpo.learner.learner import UpdateStats, drift_record
from grpo.run.accuracy import mean, part_means
from grpo.types import Batch, Completion, ScoredGroup

_OF_REWARDS = re.compile(r"rewards?/(?!faults$).*|source/.*/rewards?(/.*)?")
FAILED = ("error", "malformed", "timeout", "died")
"""Statuses of turns whose call gave nothing."""
_OF_COMPARISON = re.compile(r"group/flat|source/.*/flat")


def sampled_record(
    groups: Sequence[ScoredGroup],
    ledger: Mapping[str, int],
    version: int = 0,
    mask_truncated: bool = False,
    has_rewards: bool = True,
    by_score: bool = True,
    is_answered: bool = False,
) -> dict[str, Any]:
    """What is known of a step before its updates; ``version`` is that of the weights being trained.

    With `mask_truncated` (the recipe's) a group is flat if its other completions do not spread. Where nothing scores,
    nothing is said of rewards, and where completions are not learnt ``by_score``, nothing of flat groups. Of tools
    something is said where the turns of completions are answered (``is_answered``).
    """
    outcomes = {f"ledger/{outcome}": number for outcome, number in ledger.items()}
    record = {
        **_rewards(groups),
        **_sources(groups),
        **_completions(groups),
        **(tool_record(groups) if is_answered else {}),
        "group/sampled": len(groups),
        "group/flat": mean(group.is_flat(mask_truncated) for group in groups),
        "policy/version": version,
        **outcomes,
    }
    if not has_rewards:
        record = _without(record, _OF_REWARDS)
    return record if by_score else _without(record, _OF_COMPARISON)


def _without(record: Mapping[str, Any], keys: re.Pattern[str]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not keys.fullmatch(key)}


def staleness_record(ages: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How many steps old the tokens of each completion are that train: the mean over all tokens, and the largest."""
    every = [age for of_completion in ages for age in of_completion]
    return {"staleness/mean": mean(every), "staleness/max": max(every, default=0)}


def step_record(
    step: int,
    sampled: Mapping[str, Any],
    batch: Batch,
    updates: Sequence[UpdateStats],
    seconds: Mapping[str, float],
    num_retired: int = 0,
    logged: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Everything worth plotting of one step.

    `sampled` is its `sampled_record`, whose ledger may have changed since; `logged` are the values that rewards
    logged by name.
    """
    trained = {row.group for row in batch.rows if row.outcome == "trained"}
    outcomes = {f"ledger/{outcome}": number for outcome, number in batch.ledger.items()}
    metrics = {f"metric/{name}": mean(values) for name, values in (logged or {}).items()}
    times = {f"seconds/{phase}": spent for phase, spent in seconds.items()}
    return {
        "step": step,
        **sampled,
        **_policy(updates),
        **_correction(updates),
        **_experts(updates),
        "group/trained": len(trained),
        "prompt/retired": num_retired,
        **outcomes,
        **metrics,
        **times,
    }


def _rewards(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    scores = [score for group in groups for score in group.scores]
    values = [score.value for score in scores if score.value is not None]
    statuses = [score.status for score in scores]
    by_reward = {f"rewards/{name}": value for name, value in part_means(groups).items()}
    return {
        "reward/mean": mean(values),
        "reward/std": pstdev(values) if values else float("nan"),
        "reward/faults": statuses.count("fault"),
        "reward/timeouts": statuses.count("timeout"),
        "reward/no_answer": statuses.count("no_answer"),
        **by_reward,
    }


def _sources(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    """Of each source of a mixture: its groups, and the means of its rewards and lengths."""
    record: dict[str, Any] = {}
    for source in sorted({group.prompt.source for group in groups} - {""}):
        its = [group for group in groups if group.prompt.source == source]
        values = [score.value for group in its for score in group.scores if score.value is not None]
        lengths = [completion.num_tokens for group in its for completion in group.completions]
        record[f"source/{source}/groups"] = len(its)
        record[f"source/{source}/reward"] = mean(values)
        record[f"source/{source}/flat"] = mean(group.flat for group in its)
        record[f"source/{source}/length"] = mean(lengths)
        for name, value in part_means(its).items():
            record[f"source/{source}/rewards/{name}"] = value
    return record


def _completions(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    completions = [completion for group in groups for completion in group.completions]
    lengths = [completion.num_tokens for completion in completions]
    return {
        "completion/length": mean(lengths),
        "completion/longest": max(lengths, default=0),
        "completion/truncated": mean(completion.truncated for completion in completions),
        "completion/tokens": sum(lengths),
        "completion/surprisal": _surprisal(completions),
        "completion/carried": sum(len(completion.versions) > 1 for completion in completions),
    }


def _num_calls(completion: Completion) -> int:
    return sum(len(turn.calls) for turn in completion.turns)


def tool_record(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    """What completions called and were answered; means over completions but for errors and seconds, over answers."""
    completions = [completion for group in groups for completion in group.completions]
    turns = [turn for completion in completions for turn in completion.turns]
    asked = [turn for turn in turns if turn.calls or turn.status != "ok"]
    numbers = [_num_calls(completion) for completion in completions]
    given = [len(completion.token_ids) - completion.num_tokens for completion in completions]
    return {
        "tool/calls": mean(numbers),
        "tool/share": mean(number > 0 for number in numbers),
        "tool/errors": mean(turn.status in FAILED for turn in asked),
        "tool/seconds": mean(turn.seconds for turn in turns),
        "tool/turns": mean(len(completion.turns) for completion in completions),
        "tool/observation_tokens": mean(given),
    }


def _surprisal(completions: Sequence[Completion]) -> float:
    """Mean of -sampled_logp over tokens: an estimate of the sampler's entropy without a forward."""
    if not completions:
        return float("nan")
    logps = torch.cat([completion.sampled_logps for completion in completions])
    logps = logps[logps.isfinite()]
    return -float(logps.double().mean()) if len(logps) else float("nan")


def _token_mean(updates: Sequence[UpdateStats], name: str) -> float | None:
    """A statistic of `updates`, weighted by their tokens; None without tokens."""
    num_tokens = sum(update.num_tokens for update in updates)
    if not num_tokens:
        return None
    return sum(getattr(update, name) * update.num_tokens for update in updates) / num_tokens


def _policy(updates: Sequence[UpdateStats]) -> dict[str, Any]:
    made = [update for update in updates if update.made]
    ratios = [update.ratio_max for update in made]

    def over_tokens(name: str) -> float:
        value = _token_mean(made, name)
        return float("nan") if value is None else value

    return {
        **_drift(updates, made),
        "policy/entropy": over_tokens("entropy"),
        "policy/kl": over_tokens("kl"),
        "policy/clipped": over_tokens("clipped"),
        "policy/ratio_max": max(ratios, default=1.0),
        **_update_counts(updates, made),
    }


def _drift(updates: Sequence[UpdateStats], made: Sequence[UpdateStats]) -> dict[str, Any]:
    """The moments of the update that drifted most, with mean and maximum over all that were made."""
    measured = [update for update in made if update.drift is not None]
    largest = [update.drift_max for update in measured if update.drift_max is not None]
    return {
        **drift_record(_with_largest_drift(updates)),
        "policy/drift": _token_mean(measured, "drift"),
        "policy/drift_max": max(largest, default=None),
    }


def _with_largest_drift(updates: Sequence[UpdateStats]) -> UpdateStats:
    detailed = [update for update in updates if update.detail]
    return max(detailed, key=lambda update: update.drift or 0.0, default=UpdateStats(made=False))


def _update_counts(updates: Sequence[UpdateStats], made: Sequence[UpdateStats]) -> dict[str, Any]:
    norms = [update.grad_norm for update in made]
    losses = [update.loss for update in made]
    return {
        "update/made": len(made),
        "update/skipped": len(updates) - len(made),
        "update/masked": sum(update.masked for update in updates),
        "update/overflows": sum(update.overflows for update in updates),
        "update/tokens": sum(update.num_tokens for update in made),
        "update/grad_norm": mean(norms),
        "update/lr": made[-1].lr if made else None,
        "update/loss": mean(losses),
    }


def _correction(updates: Sequence[UpdateStats]) -> dict[str, Any]:
    """What the sampler's correction did, and the terms added to the policy loss."""
    seen = [update for update in updates if update.num_tokens]
    record = {
        "correction/ess": _token_mean(seen, "ess"),
        "correction/dropped": _token_mean(seen, "dropped"),
        "correction/lost": _token_mean(seen, "lost"),
        "correction/weight": _token_mean(seen, "weight"),
        "correction/raw_max": max((update.raw_max for update in seen), default=None),
        "policy/entropy_weight": _token_mean(seen, "entropy_weight"),
    }
    if any(update.teacher_kl is not None for update in seen):
        record["policy/teacher_kl"] = _token_mean(seen, "teacher_kl")
    return record


def _experts(updates: Sequence[UpdateStats]) -> dict[str, Any]:
    """The load of a mixture of experts; nothing for other models."""
    loads = [update.experts for update in updates if update.experts is not None]
    if not loads:
        return {}
    return {
        "experts/entropy": mean(load.entropy for load in loads),
        "experts/max_share": max(load.max_share for load in loads),
        "experts/balance": mean(load.balance for load in loads),
    }
