"""The record of a step: flat keys, ``noun/quantity``, plain numbers.

Means over completions leave out what was not scored; the ledger outcomes every completion once, and its
outcomes sum to ``ledger/sampled``.
"""

from __future__ import annotations

from statistics import pstdev
from typing import Any, Mapping, Sequence

import torch

from grpo.evaluate import mean, part_means
from grpo.learner.sums import UpdateStats, drift_record
from grpo.types import Batch, Completion, ScoredGroup


def sampled_record(
    groups: Sequence[ScoredGroup], ledger: Mapping[str, int], version: int = 0
) -> dict[str, Any]:
    """What is known of a step before its updates; ``version`` is that of the weights that are trained."""
    return {
        **_rewards(groups),
        **_completions(groups),
        "policy/version": version,
        **{f"ledger/{outcome}": number for outcome, number in ledger.items()},
    }


def step_record(
    step: int,
    sampled: Mapping[str, Any],
    batch: Batch,
    updates: Sequence[UpdateStats],
    seconds: Mapping[str, float],
    num_retired: int = 0,
) -> dict[str, Any]:
    """Everything worth plotting of one step; `sampled` is its `sampled_record`, whose ledger may have changed."""
    return {
        "step": step,
        **sampled,
        **_policy(updates),
        **_correction(updates),
        "group/trained": len({row.group for row in batch.rows if row.outcome == "trained"}),
        "prompt/retired": num_retired,
        **{f"ledger/{outcome}": number for outcome, number in batch.ledger.items()},
        **{f"seconds/{phase}": spent for phase, spent in seconds.items()},
    }


def _rewards(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    values = [score.value for group in groups for score in group.scores if score.value is not None]
    statuses = [score.status for group in groups for score in group.scores]
    return {
        "reward/mean": mean(values),
        "reward/std": pstdev(values) if values else float("nan"),
        "reward/faults": statuses.count("fault"),
        "reward/timeouts": statuses.count("timeout"),
        "reward/no_answer": statuses.count("no_answer"),
        **{f"rewards/{name}": value for name, value in part_means(groups).items()},
    }


def _completions(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    return {
        "completion/length": mean(lengths),
        "completion/longest": max(lengths, default=0),
        "completion/truncated": mean(completion.truncated for completion in completions),
        "completion/tokens": sum(lengths),
        "completion/surprisal": _surprisal(completions),
        "completion/carried": sum(len(completion.versions) > 1 for completion in completions),
        "group/sampled": len(groups),
        "group/flat": mean(group.flat for group in groups),
    }


def _surprisal(completions: Sequence[Completion]) -> float:
    """Mean of -sampled_logp over tokens: what the sampler's entropy is estimated by, without a forward."""
    logps = (
        torch.cat([completion.sampled_logps for completion in completions])
        if completions
        else torch.zeros(0)
    )
    logps = logps[logps.isfinite()]
    return -float(logps.double().mean()) if len(logps) else float("nan")


def _policy(updates: Sequence[UpdateStats]) -> dict[str, Any]:
    made = [update for update in updates if update.made]
    drifts = [update for update in made if update.drift is not None]
    tokens = sum(update.num_tokens for update in made)
    drifted = sum(update.num_tokens for update in drifts)

    def over_tokens(name: str) -> float:
        return (
            sum(getattr(u, name) * u.num_tokens for u in made) / tokens if tokens else float("nan")
        )

    worst = max(
        (u for u in updates if u.detail), key=lambda u: u.drift, default=UpdateStats(made=False)
    )
    return {
        **drift_record(worst),
        "policy/drift": sum(u.drift * u.num_tokens for u in drifts) / drifted if drifted else None,
        "policy/drift_max": max((u.drift_max for u in drifts), default=None),
        "policy/entropy": over_tokens("entropy"),
        "policy/kl": over_tokens("kl"),
        "policy/clipped": over_tokens("clipped"),
        "policy/ratio_max": max((u.ratio_max for u in made), default=1.0),
        "update/made": len(made),
        "update/skipped": len(updates) - len(made),
        "update/masked": sum(u.masked for u in updates),
        "update/overflows": sum(u.overflows for u in updates),
        "update/tokens": tokens,
        "update/grad_norm": mean(u.grad_norm for u in made),
        "update/lr": made[-1].lr if made else None,
        "update/loss": mean(u.loss for u in made),
    }


def _correction(updates: Sequence[UpdateStats]) -> dict[str, Any]:
    """What the sampler's correction did, and the other terms beside the policy's."""
    seen = [update for update in updates if update.num_tokens]
    tokens = sum(update.num_tokens for update in seen)

    def over_tokens(name: str) -> float | None:
        return sum(getattr(u, name) * u.num_tokens for u in seen) / tokens if tokens else None

    taught = [update for update in seen if update.teacher_kl is not None]
    return {
        "correction/ess": over_tokens("ess"),
        "correction/dropped": over_tokens("dropped"),
        "correction/lost": over_tokens("lost"),
        "correction/weight": over_tokens("weight"),
        "correction/raw_max": max((u.raw_max for u in seen), default=None),
        "policy/entropy_weight": over_tokens("entropy_weight"),
        **({"policy/teacher_kl": over_tokens("teacher_kl")} if taught else {}),
    }
