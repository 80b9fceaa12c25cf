"""What a healthy run looks like: what each gate measures, its limits, and what it says.

A gate reads a few metrics and gives one number, the larger the worse, or None if it cannot say. The number passes up
to four limits, the rungs of its ladder: ``note`` (in the record), ``warn`` (printed), ``skip`` (the completions at
fault are masked, or the update is skipped) and ``stop`` (exit code 1; the last checkpoint is intact). Reasons for the
limits and what they were measured on: docs/gates.md. Pure functions and a table, without torch: a recipe is checked
against it. How gates act on a run is in ``gates``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median
from typing import Callable, Mapping, Sequence

from grpo.monitor.history import EARLY_STEPS, History, Record

RUNGS = ("note", "warn", "skip", "stop")
LADDER = ("off", *RUNGS)
"""What ``upto`` may be: no rung, or the highest that a gate may reach. A level is an index into it."""

Limits = Mapping[str, float]
Measure = Callable[[History], "float | None"]

MIN_SURPRISAL = 0.05
"""Nats a token below which the entropy of the first steps is not taken as a baseline."""
MIN_RISE = 0.02
"""How much a mean reward or accuracy must be above another to count as risen."""
NUM_ERRORS = 5
"""Standard errors that are subtracted from an estimate before it counts."""
INTERVAL_WIDTH = 3.92
"""Width of a 95 % interval in standard errors."""


# ---- what the gates measure -------------------------------------------------------------------------------------


def value_of(key: str) -> Measure:
    """The metric itself."""
    return lambda history: history.get(key)


def share_of_faults(history: History) -> float | None:
    """Completions that could not be judged, as a share of those sampled."""
    sampled = history.get("ledger/sampled")
    faulted = history.get("ledger/faulted")
    if not sampled or faulted is None:
        return None
    return faulted / sampled


def growth_of_drift(history: History) -> float | None:
    """The last five steps' drift over that of the first ten; 1 while it is no larger than its dtype explains."""
    latest = history.last("policy/drift", 5)
    first = history.first("policy/drift")
    if len(latest) < 5 or len(first) < EARLY_STEPS or len(history.recent) < 2 * EARLY_STEPS:
        return None
    if fmean(latest) <= history.usual_drift:
        return 1.0
    return fmean(latest) / max(fmean(first), 1e-12)


def lost_samples(history: History) -> float | None:
    """1 - effective share of samples under exp(old_logp - sampled_logp)."""
    share = history.get("policy/drift_ess")
    return None if share is None else 1 - share


def other_temperature(history: History) -> float | None:
    """How far the sampler's temperature is from the trainer's, if that explains more than half of the drift."""
    tilt = history.get("policy/drift_tilt")
    error = history.get("policy/drift_tilt_error")
    share = history.get("policy/drift_tilt_share")
    if tilt is None or share is None or error is None:
        return None
    return max(0.0, abs(tilt) - NUM_ERRORS * error) if share > 0.5 else 0.0


def other_support(history: History) -> float | None:
    """Probability mass that one side gives to tokens that the other cannot draw, less five standard errors."""
    weight = history.get("policy/drift_weight")
    error = history.get("policy/drift_weight_error")
    if weight is None or error is None:
        return None
    return max(0.0, abs(1 - weight) - NUM_ERRORS * error)


def overflows(history: History) -> float | None:
    """Consecutive updates whose gradient was not finite although every log-prob was."""
    count = history.get("update/overflows")
    if not count:
        return count
    for record in reversed(history.recent):
        if not record.get("update/overflows"):
            break
        count += record["update/overflows"]
    return count


def gradient_spike(history: History) -> float | None:
    """The gradient's norm over the median of the last twenty."""
    norm = history.get("update/grad_norm")
    before = [value for value in history.before("update/grad_norm", 20) if value > 0]
    if norm is None or len(before) < 3:
        return None
    return norm / median(before)


def lost_entropy(history: History) -> float | None:
    """How many times less surprising tokens are than in the first five steps (or than 0.05 nats)."""
    surprisal = history.get("completion/surprisal")
    if surprisal is None:
        return None
    baseline = max(fmean(history.first("completion/surprisal", 5)), MIN_SURPRISAL)
    return baseline / max(surprisal, 1e-9)


def grown_length(history: History) -> float | None:
    """How many times longer completions are than before, although the reward is not higher.

    The larger of two: this step against the mean of the five before it, and the last five steps against the five that
    were twenty steps earlier.
    """
    length = history.get("completion/length")
    before = history.before("completion/length", 5)
    if length is None or len(before) < 3:
        return None
    growth = 1.0
    if not rose(history.last("reward/mean", 1), history.before("reward/mean", 5), MIN_RISE):
        growth = length / max(1.0, fmean(before))
    lengths = history.last("completion/length", 25)
    rewards = history.last("reward/mean", 25)
    has_both = len(lengths) == len(rewards) == 25
    if has_both and not rose(rewards[-5:], rewards[:5], MIN_RISE):
        growth = max(growth, fmean(lengths[-5:]) / max(1.0, fmean(lengths[:5])))
    return growth


def rose(now: Sequence[float], before: Sequence[float], by: float) -> bool:
    """Whether the mean of `now` is more than `by` above that of `before`; False if either is empty."""
    return bool(now and before) and fmean(now) > fmean(before) + by


def truncation(history: History) -> float | None:
    """Share of truncated completions in the last five steps; half of it while it falls, or in the first nine steps.

    A base model may start by rambling; this gate is about truncation that does not get better.
    """
    shares = history.last("completion/truncated", 10)
    if not shares:
        return None
    recent = fmean(shares[-5:])
    is_falling = recent < fmean(shares[:5]) - MIN_RISE
    return recent / 2 if len(shares) < 10 or is_falling else recent


def flat_share(history: History) -> float | None:
    """Mean share of flat groups in the last ten steps; half of it before there are ten."""
    shares = history.last("group/flat", 10)
    if not shares:
        return None
    return fmean(shares) * (1.0 if len(shares) == 10 else 0.5)


def fallen_heldout(history: History) -> float | None:
    """Standard errors by which held-out accuracy is below its best although the training reward rose since."""
    if len(history.evaluations) < 2:
        return None
    *earlier, latest = history.evaluations
    best = max(earlier, key=lambda record: record["accuracy"])
    has_rewards = latest["reward"] is not None and best["reward"] is not None
    if not has_rewards or not rose([latest["reward"]], [best["reward"]], 0.01):
        return 0.0
    error = math.hypot(standard_error(best), standard_error(latest))
    return max(0.0, best["accuracy"] - latest["accuracy"]) / max(error, 1e-6)


def standard_error(evaluation: Record) -> float:
    """The standard error of an accuracy, from its 95 % interval."""
    return (evaluation["high"] - evaluation["low"]) / INTERVAL_WIDTH


def formal_gain(history: History) -> float | None:
    """How much strict or format rewards rose since the first ten steps while the lenient accuracy did not.

    Compares ten steps with ten, from the thirtieth step on.
    """
    has_steps = len(history.early) >= EARLY_STEPS and len(history.recent) >= 3 * EARLY_STEPS
    if not has_steps or not history.formal:
        return None
    if rose(history.last(history.true, EARLY_STEPS), history.first(history.true), MIN_RISE):
        return 0.0
    gains = [0.0]
    for key in history.formal:
        latest = history.last(key, EARLY_STEPS)
        first = history.first(key)
        if latest and first:
            gains.append(fmean(latest) - fmean(first))
    return max(gains)


def steps_without_calls(history: History) -> float | None:
    """Steps in a row, this one included, in which no completion called a tool; None where none is offered."""
    shares = history.last("tool/share", EARLY_STEPS)
    if not shares or history.get("tool/share") is None:
        return None
    without = 0
    for share in reversed(shares):
        if share > 0:
            break
        without += 1
    return float(without)


def share_of_failed_calls(history: History) -> float | None:
    """The mean share of calls that failed in the last five steps with calls; half of it before there are five."""
    shares = history.last("tool/errors", 5)
    if not shares or history.get("tool/errors") is None:
        return None
    return fmean(shares) * (1.0 if len(shares) == 5 else 0.5)


def above_the_bound(history: History) -> float | None:
    """By how many steps the oldest token is older than allowed; None where nothing is sampled ahead."""
    oldest = history.get("staleness/max")
    bound = history.get("staleness/bound")
    return None if oldest is None or bound is None else max(0.0, oldest - bound)


# ---- the table --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gate:
    """One check of a run.

    ``when`` it is judged: probe (servers were given weights), sampled (after sampling), update (before the optimizer's
    step), step (at the step's end) or evaluation. ``measure`` of the metrics it ``reads`` gives its number; ``limits``
    are by rung. It says its ``finding``, with {value} and {limit} in it, then the ``remedy``. Limits that depend on the
    model's dtype and device are in `DRIFT`.
    """

    name: str
    when: str
    reads: tuple[str, ...]
    measure: Measure
    limits: Limits
    finding: str
    remedy: str


DRIFT: Mapping[str, Mapping[str, Limits]] = {
    # mean and tail of abs(sampled_logp - old_logp), its k3, and the mean of the worst completion
    "float32": {
        "drift": {"note": 3e-5, "warn": 1e-4, "stop": 1e-3},
        "server_parity": {"note": 3e-5, "warn": 1e-4, "stop": 1e-3},
        "drift_p99": {"note": 3e-4, "warn": 1e-3},
        "drift_kl": {"note": 1e-8, "warn": 1e-6},
        "drift_rows": {"note": 1e-3, "skip": 1e-2},
    },
    "float16": {
        "drift": {"note": 3e-3, "warn": 1e-2, "stop": 1e-1},
        "server_parity": {"note": 3e-3, "warn": 1e-2, "stop": 1e-1},
        "drift_p99": {"note": 3e-2, "warn": 0.1},
        "drift_kl": {"note": 1e-4, "warn": 1e-3},
        "drift_rows": {"note": 0.1, "skip": 1.0},
    },
    "bfloat16": {
        "drift": {"note": 1e-2, "warn": 3e-2, "stop": 0.2},
        "server_parity": {"note": 3e-2, "warn": 0.1, "stop": 0.2},
        "drift_p99": {"note": 0.1, "warn": 0.4},
        "drift_kl": {"note": 1e-3, "warn": 5e-3},
        "drift_rows": {"note": 0.5, "skip": 2.0},
    },
    # on CPUs both sides have bfloat16 logits, each rounded in its own way
    "bfloat16 on cpu": {
        "drift": {"note": 5e-2, "warn": 0.1, "stop": 0.3},
        "server_parity": {"note": 5e-2, "warn": 0.2, "stop": 0.3},
        "drift_p99": {"note": 0.5, "warn": 1.0},
        "drift_kl": {"note": 5e-3, "warn": 2e-2},
        "drift_rows": {"note": 0.5, "skip": 2.0},
    },
}

SYNC = "if this is intended, raise gates.{name}.{rung}"
"""The remedy of gates on drift, after `Gates` has said what causes it."""

TABLE = (
    Gate(
        name="server_parity",
        when="probe",
        reads=("server/distance",),
        measure=value_of("server/distance"),
        limits={},
        finding=(
            "a server and the trainer differ by {value:.1e} on average in the log-probs of the same tokens (limit "
            "{limit:.0e})"
        ),
        remedy=SYNC,
    ),
    Gate(
        name="server_weights",
        when="probe",
        reads=("server/likeness",),
        measure=value_of("server/likeness"),
        limits={"stop": 0.5},
        finding=(
            "a server's log-probs are those of other weights than the trainer's, by {value:.0%} or more"
        ),
        remedy="to go on all the same, set gates.{name}.upto to warn",
    ),
    Gate(
        name="stale",
        when="sampled",
        reads=("weights/stale",),
        measure=value_of("weights/stale"),
        limits={"stop": 0},
        finding="completions of the step that the trainer's weights did not sample: {value:.0f}",
        remedy=(
            "the engine must read the policy being trained, and policy.weights_changed() must "
            "follow every change"
        ),
    ),
    Gate(
        name="staleness",
        when="sampled",
        reads=("staleness/max", "staleness/bound"),
        measure=above_the_bound,
        limits={"stop": 0},
        finding="tokens of the step are older than sample.staleness allows, by so many steps: {value:.0f}",
        remedy="nothing that old is begun, so this is a fault of the library; please report it with recipe.yaml",
    ),
    Gate(
        name="faults",
        when="sampled",
        reads=("ledger/faulted", "ledger/sampled"),
        measure=share_of_faults,
        limits={"note": 0, "warn": 0.05, "stop": 0.2},
        finding="{value:.1%} of the step's completions are faults",
        remedy=(
            "they are masked, never scored 0; fix what is named above, or allow more time "
            "(rewards.<name>.timeout_seconds)"
        ),
    ),
    Gate(
        name="entropy",
        when="sampled",
        reads=("completion/surprisal",),
        measure=lost_entropy,
        limits={"note": 4, "warn": 50},
        finding=(
            "the policy's entropy has collapsed: its tokens are {value:.3g} times less surprising "
            "than in the first steps"
        ),
        remedy=(
            "a policy that always writes the same learns nothing more; lower optim.lr, raise "
            "loss.epsilon_high (clip-higher), or set loss.entropy or loss.beta"
        ),
    ),
    Gate(
        name="length",
        when="sampled",
        reads=("completion/length", "reward/mean"),
        measure=grown_length,
        limits={"note": 1.5, "warn": 2.5},
        finding="completions are {value:.1f} times longer than before and their reward is no higher",
        remedy=(
            "loss.aggregation sequence_mean favours long wrong completions: try token_mean or "
            "constant, or a reward on length (soft_overlong)"
        ),
    ),
    Gate(
        name="truncated",
        when="sampled",
        reads=("completion/truncated",),
        measure=truncation,
        limits={"note": 0.1, "warn": 0.4},
        finding=(
            "{value:.0%} of the completions of the last steps were truncated and the share is not falling"
        ),
        remedy=(
            "raise sample.max_tokens, or set advantage.mask_truncated, or shorten what the "
            "template asks for"
        ),
    ),
    Gate(
        name="flat",
        when="sampled",
        reads=("group/flat",),
        measure=flat_share,
        limits={"note": 0.7, "warn": 0.95},
        finding="{value:.0%} of the last steps' groups were zero-variance groups, so almost nothing is learned",
        remedy=(
            "all correct or all wrong: choose easier or harder prompts (data.pass_low, "
            "pass_high), raise sample.group_size, or set advantage.flat: refill"
        ),
    ),
    Gate(
        name="tools_unused",
        when="sampled",
        reads=("tool/share",),
        measure=steps_without_calls,
        limits={"note": 2, "warn": 4},
        finding="tools are offered, and no completion has called one for so many steps: {value:.0f}",
        remedy=(
            "what is never tried is never learnt: say in the prompt how a call is written (grpo train --preflight "
            "shows one), check environment.format, or begin with supervised examples that call"
        ),
    ),
    Gate(
        name="calls_fail",
        when="sampled",
        reads=("tool/errors",),
        measure=share_of_failed_calls,
        limits={"note": 0.5, "warn": 0.95},
        finding="{value:.0%} of the calls of the last steps gave nothing but an error",
        remedy=(
            "read the turns in samples.jsonl: a status malformed is a matter of environment.format or the prompt, "
            "error and timeout of the tool (environment.timeout_seconds)"
        ),
    ),
    Gate(
        name="nonfinite",
        when="update",
        reads=("update/bad_rows",),
        measure=value_of("update/bad_rows"),
        limits={"skip": 0, "stop": 0.2},
        finding="{value:.1%} of the update's completions have log-probs that are not finite",
        remedy=(
            "up to gates.nonfinite.stop such completions are left out of the update; if it "
            "persists, train in float32 or lower optim.lr"
        ),
    ),
    Gate(
        name="overflow",
        when="update",
        reads=("update/overflows",),
        measure=overflows,
        limits={"skip": 0, "stop": 2},
        finding="the gradient is not finite though every log-prob is, for so many updates: {value:.0f}",
        remedy="the update was skipped; lower optim.lr, or train in float32",
    ),
    Gate(
        name="logps",
        when="update",
        reads=("policy/drift_missing",),
        measure=value_of("policy/drift_missing"),
        limits={"note": 0, "warn": 0.01, "stop": 0.5},
        finding="the sampler returned no log-prob for {value:.1%} of the tokens",
        remedy="such tokens have weight 0; check the sampler",
    ),
    Gate(
        name="drift",
        when="update",
        reads=("policy/drift",),
        measure=value_of("policy/drift"),
        limits={},
        finding=(
            "sampler and trainer differ by {value:.1e} on average in the log-probs of the same "
            "tokens (limit {limit:.0e})"
        ),
        remedy=SYNC,
    ),
    Gate(
        name="drift_p99",
        when="update",
        reads=("policy/drift_p99",),
        measure=value_of("policy/drift_p99"),
        limits={},
        finding=(
            "one token in a hundred has log-probs that differ by {value:.1e} or more between "
            "sampler and trainer (limit {limit:.0e})"
        ),
        remedy=SYNC,
    ),
    Gate(
        name="drift_kl",
        when="update",
        reads=("policy/drift_k3",),
        measure=value_of("policy/drift_k3"),
        limits={},
        finding="the KL between sampler and trainer is {value:.1e} a token (k3; limit {limit:.0e})",
        remedy=SYNC,
    ),
    Gate(
        name="drift_rows",
        when="update",
        reads=("policy/drift_row",),
        measure=value_of("policy/drift_row"),
        limits={},
        finding=(
            "a completion's log-probs differ by {value:.1e} on average between sampler and "
            "trainer, far beyond the others (limit {limit:.0e})"
        ),
        remedy="such completions were masked; if it persists, check the sampler's cache",
    ),
    Gate(
        name="drift_ess",
        when="update",
        reads=("policy/drift_ess",),
        measure=lost_samples,
        limits={"note": 0.01, "warn": 0.1, "stop": 0.5},
        finding=(
            "the effective sample size of the sampler's tokens is {value:.0%} smaller than that "
            "of the trainer's own"
        ),
        remedy=SYNC,
    ),
    Gate(
        name="drift_trend",
        when="step",
        reads=("policy/drift",),
        measure=growth_of_drift,
        limits={"note": 3, "warn": 10},
        finding="the sampler-trainer mismatch has grown {value:.0f} times since the first steps",
        remedy="something diverges with every update: weights that arrive late, or rounding that accumulates",
    ),
    Gate(
        name="temperature",
        when="update",
        reads=("policy/drift_tilt", "policy/drift_tilt_error", "policy/drift_tilt_share"),
        measure=other_temperature,
        limits={"note": 0.005, "warn": 0.02, "stop": 0.1},
        finding="sampler and trainer seem to use temperatures that differ by {value:.0%}",
        remedy=SYNC,
    ),
    Gate(
        name="support",
        when="update",
        reads=("policy/drift_weight", "policy/drift_weight_error"),
        measure=other_support,
        limits={"note": 1e-3, "warn": 3e-3, "stop": 5e-2},
        finding=(
            "{value:.1%} of the probability is on tokens that either the sampler or the trainer leaves out"
        ),
        remedy=SYNC,
    ),
    Gate(
        name="gradient",
        when="update",
        reads=("update/grad_norm",),
        measure=gradient_spike,
        limits={"note": 5, "warn": 20, "skip": 100},
        finding="the gradient's norm is {value:.3g} times its usual size",
        remedy=(
            "beyond gates.gradient.skip times its usual size the update is skipped; lower "
            "optim.lr or optim.max_grad_norm"
        ),
    ),
    Gate(
        name="heldout",
        when="evaluation",
        reads=("heldout/accuracy", "reward/mean"),
        measure=fallen_heldout,
        limits={"note": 2, "warn": 3},
        finding=(
            "held-out accuracy is {value:.1f} standard errors below its best while the training "
            "reward rises"
        ),
        remedy=(
            "the policy overfits the training prompts or exploits the reward: read samples.jsonl, "
            "go back to the best checkpoint, lower optim.lr, or set loss.beta"
        ),
    ),
    Gate(
        name="format",
        when="step",
        reads=("rewards/*",),
        measure=formal_gain,
        limits={"note": 0.1, "warn": 0.25},
        finding="format or strictness rose by {value:.2f} while lenient accuracy did not rise",
        remedy=(
            "the policy learns how to write an answer, not how to find it; lower the weight of "
            "format rewards, and judge by the lenient accuracy"
        ),
    ),
)
GATES: Mapping[str, Gate] = {gate.name: gate for gate in TABLE}
DRIFT_GATES = frozenset(gate.name for gate in TABLE if gate.remedy is SYNC)
"""Gates on drift, which usually pass their limits together and for one reason."""
REMEMBERED = frozenset(key for gate in TABLE for key in gate.reads)
"""The metrics of past steps that the gates need."""


def default_limits(name: str, dtype: str, device: str) -> Limits:
    """A gate's limits for a model of `dtype` on a device of type `device`."""
    by_gate = DRIFT.get(f"{dtype} on {device}") or DRIFT.get(dtype, DRIFT["float32"])
    return by_gate.get(name, GATES[name].limits)


def level_of(value: float | None, limits: Limits, upto: str = "stop") -> int:
    """The highest rung, 1 to 4, whose limit `value` exceeds, and 0 for none; never above `upto`."""
    if value is None:
        return 0
    level = 0
    for rung in RUNGS:
        if rung in limits and value > limits[rung]:
            level = LADDER.index(rung)
    return min(level, LADDER.index(upto))
