"""What a healthy run looks like, checked each step: pure functions over the history of records, and their table.

A gate reads a few metrics and gives one number, the larger the worse, or None where it has nothing to say. The number
passes up to four limits, the rungs of its ladder: ``note`` (in the record), ``warn`` (said), ``skip`` (the rows at
fault are masked, or the update is not made) and ``stop`` (exit code 1, the last checkpoint stands). Each is judged as
soon as what it reads is known: after sampling, before the optimizer's step, at the step's end, after an evaluation.
Reasons for the limits and what they were measured on: docs/gates.md. No torch here: a recipe is checked against the
table without it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Callable, Collection, Mapping, Sequence

RUNGS = ("note", "warn", "skip", "stop")
LEVELS = ("off", *RUNGS)
EARLY, KEPT = 10, 64  # steps kept from the run's beginning, and from its end

Record = Mapping[str, Any]
Limits = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class History:
    """What a gate sees: this step's numbers so far, the steps before it, the run's first, and the evaluations.

    ``usual_drift`` is what abs(sampled_logp - old_logp) may be on average between sound sides of the model's dtype,
    ``true`` the metric of the most lenient accuracy, ``formal`` those of rewards that can rise without it.
    """

    now: Record
    recent: Sequence[Record] = ()
    early: Sequence[Record] = ()
    evaluations: Sequence[Record] = ()
    usual_drift: float = 0.0
    true: str = ""
    formal: tuple[str, ...] = ()

    def get(self, key: str) -> float | None:
        """The number of this step, None where there is none."""
        return number(self.now.get(key))

    def last(self, key: str, steps: int) -> list[float]:
        """The numbers of the last `steps` steps that have one, this one the last."""
        found = [number(record.get(key)) for record in (*self.recent, self.now)]
        return [value for value in found if value is not None][-steps:]

    def before(self, key: str, steps: int) -> list[float]:
        """The same of the steps before this one."""
        found = [number(record.get(key)) for record in self.recent]
        return [value for value in found if value is not None][-steps:]

    def first(self, key: str, steps: int = EARLY) -> list[float]:
        """The numbers of the run's first steps, this one too while it is among them."""
        records = [*self.early, self.now] if len(self.early) < EARLY else self.early
        found = [number(record.get(key)) for record in records]
        return [value for value in found if value is not None][:steps]


Measure = Callable[[History], "float | None"]


def number(value: Any) -> float | None:
    """`value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


# ---- what the gates measure ---------------------------------------------------------------------------------


def value_of(key: str) -> Measure:
    """The metric itself."""
    return lambda history: history.get(key)


def share_of_faults(history: History) -> float | None:
    """Completions that could not be judged, as a share of those sampled."""
    sampled = history.get("ledger/sampled")
    return history.get("ledger/faulted") / sampled if sampled else None


def growth_of_drift(history: History) -> float | None:
    """How many times the first ten steps' drift the last five have, once it is above what its dtype explains."""
    now, first = history.last("policy/drift", 5), history.first("policy/drift")
    if len(now) < 5 or len(first) < EARLY or len(history.recent) < 2 * EARLY:
        return None
    return fmean(now) / max(fmean(first), 1e-12) if fmean(now) > history.usual_drift else 1.0


def lost_samples(history: History) -> float | None:
    """1 - effective share of samples under exp(old_logp - sampled_logp)."""
    share = history.get("policy/drift_ess")
    return None if share is None else 1 - share


def other_temperature(history: History) -> float | None:
    """How far the sampler's temperature is from the trainer's, where that explains half of what lies between them."""
    tilt, error, share = (
        history.get(f"policy/drift_{name}") for name in ("tilt", "tilt_error", "tilt_share")
    )
    if tilt is None or share is None or error is None:
        return None
    return max(0.0, abs(tilt) - 5 * error) if share > 0.5 else 0.0


def other_support(history: History) -> float | None:
    """Probability mass that one side gives to tokens which the other cannot draw, less five standard errors."""
    weight, error = history.get("policy/drift_weight"), history.get("policy/drift_weight_error")
    return None if weight is None or error is None else max(0.0, abs(1 - weight) - 5 * error)


def overflows(history: History) -> float | None:
    """Updates in a row whose gradient was not finite though every log-prob was."""
    if not history.get("update/overflows"):
        return history.get("update/overflows")
    count = history.get("update/overflows")
    for record in reversed(history.recent):
        if not record.get("update/overflows"):
            break
        count += record["update/overflows"]
    return count


def gradient_spike(history: History) -> float | None:
    """The gradient's norm over the median of the last twenty."""
    norm, before = history.get("update/grad_norm"), history.before("update/grad_norm", 20)
    before = [value for value in before if value > 0]
    return norm / median(before) if norm is not None and len(before) >= 3 else None


def lost_entropy(history: History) -> float | None:
    """How many times less surprising tokens are than in the first five steps (or than 0.05 nats)."""
    now, first = history.get("completion/surprisal"), history.first("completion/surprisal", 5)
    return max(fmean(first), 0.05) / max(now, 1e-9) if now is not None else None


def grown_length(history: History) -> float | None:
    """How many times longer completions are than before though the reward is not higher.

    At once: against the mean of five steps. Slowly: five steps against the five that lie twenty steps back.
    """
    now, before = history.get("completion/length"), history.before("completion/length", 5)
    if now is None or len(before) < 3:
        return None
    found = (
        now / max(1.0, fmean(before))
        if not rose(history.last("reward/mean", 1), history.before("reward/mean", 5), 0.02)
        else 1.0
    )
    lengths, rewards = history.last("completion/length", 25), history.last("reward/mean", 25)
    if len(lengths) == len(rewards) == 25 and not rose(rewards[-5:], rewards[:5], 0.02):
        found = max(found, fmean(lengths[-5:]) / max(1.0, fmean(lengths[:5])))
    return found


def rose(now: Sequence[float], before: Sequence[float], by: float) -> bool:
    """Whether the mean of `now` is more than `by` above that of `before`."""
    return bool(now and before) and fmean(now) > fmean(before) + by


def truncation(history: History) -> float | None:
    """Share of truncated completions in the last five steps; half of it while it falls, or before ten steps are made.

    A base model may begin by talking on; what does not get better is the matter of this gate.
    """
    shares = history.last("completion/truncated", 10)
    if not shares:
        return None
    recent = fmean(shares[-5:])
    return recent / 2 if len(shares) < 10 or recent < fmean(shares[:5]) - 0.02 else recent


def flat_share(history: History) -> float | None:
    """Mean share of flat groups in the last ten steps, half of it before that many are made."""
    shares = history.last("group/flat", 10)
    return fmean(shares) * (1.0 if len(shares) == 10 else 0.5) if shares else None


def fallen_heldout(history: History) -> float | None:
    """Standard errors by which held-out accuracy lies below its best while the training reward rose since."""
    if len(history.evaluations) < 2:
        return None
    *earlier, now = history.evaluations
    best = max(earlier, key=lambda record: record["accuracy"])
    if not rose(
        [now["reward"]] if now["reward"] is not None else [],
        [best["reward"]] if best["reward"] is not None else [],
        0.01,
    ):
        return 0.0
    error = math.hypot(*((record["high"] - record["low"]) / 3.92 for record in (best, now)))
    return max(0.0, best["accuracy"] - now["accuracy"]) / max(error, 1e-6)


def formal_gain(history: History) -> float | None:
    """How much strict or formal rewards rose since the first ten steps while the lenient accuracy did not.

    Judged from thirty steps on, ten against ten.
    """
    if len(history.early) < EARLY or len(history.recent) < 3 * EARLY or not history.formal:
        return None
    if rose(history.last(history.true, EARLY), history.first(history.true), 0.02):
        return 0.0
    gains = [
        fmean(history.last(key, EARLY)) - fmean(history.first(key))
        for key in history.formal
        if history.last(key, EARLY) and history.first(key)
    ]
    return max([0.0, *gains])


# ---- the table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gate:
    """``measure`` of the metrics it ``reads``, its ``limits`` by rung, and what to say: ``finding`` with {value} and
    {limit} in it, then the ``remedy``.

    ``when``: sampled, update, step or evaluation. Limits that depend on the model's dtype and device stand in `DRIFT`.
    """

    name: str
    when: str
    reads: tuple[str, ...]
    measure: Measure
    limits: Limits
    finding: str
    remedy: str


DRIFT: Mapping[str, Mapping[str, Limits]] = {
    # mean and tail of abs(sampled_logp - old_logp), its k3, and the mean of the worst row
    "float32": {
        "drift": {"note": 3e-5, "warn": 1e-4, "stop": 1e-3},
        "drift_p99": {"note": 3e-4, "warn": 1e-3},
        "drift_kl": {"note": 1e-8, "warn": 1e-6},
        "drift_rows": {"note": 1e-3, "skip": 1e-2},
    },
    "float16": {
        "drift": {"note": 3e-3, "warn": 1e-2, "stop": 1e-1},
        "drift_p99": {"note": 3e-2, "warn": 0.1},
        "drift_kl": {"note": 1e-4, "warn": 1e-3},
        "drift_rows": {"note": 0.1, "skip": 1.0},
    },
    "bfloat16": {
        "drift": {"note": 1e-2, "warn": 3e-2, "stop": 0.2},
        "drift_p99": {"note": 0.1, "warn": 0.4},
        "drift_kl": {"note": 1e-3, "warn": 5e-3},
        "drift_rows": {"note": 0.5, "skip": 2.0},
    },
    # on CPUs both sides have bfloat16 logits, each with its own rounding
    "bfloat16 on cpu": {
        "drift": {"note": 5e-2, "warn": 0.1, "stop": 0.3},
        "drift_p99": {"note": 0.5, "warn": 1.0},
        "drift_kl": {"note": 5e-3, "warn": 2e-2},
        "drift_rows": {"note": 0.5, "skip": 2.0},
    },
}

SYNC = "if it is meant to be so, raise gates.{name}.{rung}"

TABLE = (
    Gate(
        "stale",
        "sampled",
        ("weights/stale",),
        value_of("weights/stale"),
        {"stop": 0},
        "{value:.0f} completions of the step were not sampled by the trainer's weights",
        "the engine must read the policy that is trained, and policy.weights_changed() must follow every change",
    ),
    Gate(
        "faults",
        "sampled",
        ("ledger/faulted", "ledger/sampled"),
        share_of_faults,
        {"note": 0, "warn": 0.05, "stop": 0.2},
        "{value:.1%} of the step's completions are faults",
        "they are masked, never scored 0; mend what is named above, or give it time (rewards.<name>.timeout_seconds)",
    ),
    Gate(
        "entropy",
        "sampled",
        ("completion/surprisal",),
        lost_entropy,
        {"note": 4, "warn": 50},
        "the policy's entropy has collapsed: its tokens are {value:.3g} times less surprising than at first",
        "a policy that says one thing learns nothing more; lower optim.lr, raise loss.epsilon_high (clip-higher), "
        "or set loss.entropy or loss.beta",
    ),
    Gate(
        "length",
        "sampled",
        ("completion/length", "reward/mean"),
        grown_length,
        {"note": 1.5, "warn": 2.5},
        "completions are {value:.1f} times longer than before and earn no more",
        "loss.aggregation sequence_mean favours long wrong completions: try token_mean or constant, or a reward on "
        "length (soft_overlong)",
    ),
    Gate(
        "truncated",
        "sampled",
        ("completion/truncated",),
        truncation,
        {"note": 0.1, "warn": 0.4},
        "{value:.0%} of the completions of the last steps were cut off by length and it does not get better",
        "raise sample.max_tokens, or set advantage.mask_truncated, or shorten what the template asks for",
    ),
    Gate(
        "flat",
        "sampled",
        ("group/flat",),
        flat_share,
        {"note": 0.7, "warn": 0.95},
        "{value:.0%} of the groups of the last steps were flat, so nearly nothing is learnt",
        "all right or all wrong: choose easier or harder prompts (data.pass_low, pass_high), raise "
        "sample.group_size, or set advantage.flat: refill",
    ),
    Gate(
        "nonfinite",
        "update",
        ("update/bad_rows",),
        value_of("update/bad_rows"),
        {"skip": 0, "stop": 0.2},
        "{value:.1%} of the update's rows have log-probs that are not finite",
        "up to gates.nonfinite.stop such rows are left out of the update; if it goes on, train in float32 or lower "
        "optim.lr",
    ),
    Gate(
        "overflow",
        "update",
        ("update/overflows",),
        overflows,
        {"skip": 0, "stop": 2},
        "the gradient is not finite though every log-prob is ({value:.0f} updates in a row)",
        "the update was not made; lower optim.lr, or train in float32",
    ),
    Gate(
        "logps",
        "update",
        ("policy/drift_missing",),
        value_of("policy/drift_missing"),
        {"note": 0, "warn": 0.01, "stop": 0.5},
        "the sampler gave no log-prob for {value:.1%} of the tokens",
        "such tokens weigh 0; look at the sampler",
    ),
    Gate(
        "drift",
        "update",
        ("policy/drift",),
        value_of("policy/drift"),
        {},
        "sampler and trainer differ by {value:.1e} on average in the log-probs of the same tokens (limit {limit:.0e})",
        SYNC,
    ),
    Gate(
        "drift_p99",
        "update",
        ("policy/drift_p99",),
        value_of("policy/drift_p99"),
        {},
        "one token in a hundred has log-probs that differ by {value:.1e} or more between sampler and trainer (limit "
        "{limit:.0e})",
        SYNC,
    ),
    Gate(
        "drift_kl",
        "update",
        ("policy/drift_k3",),
        value_of("policy/drift_k3"),
        {},
        "the KL between sampler and trainer is {value:.1e} a token (k3; limit {limit:.0e})",
        SYNC,
    ),
    Gate(
        "drift_rows",
        "update",
        ("policy/drift_row",),
        value_of("policy/drift_row"),
        {},
        "a completion's log-probs differ by {value:.1e} on average between sampler and trainer, far beyond the others "
        "(limit {limit:.0e})",
        "such completions were masked; if it goes on, look at the sampler's slots",
    ),
    Gate(
        "drift_ess",
        "update",
        ("policy/drift_ess",),
        lost_samples,
        {"note": 0.01, "warn": 0.1, "stop": 0.5},
        "the sampler's tokens are worth {value:.0%} less to the trainer than its own would be",
        SYNC,
    ),
    Gate(
        "drift_trend",
        "step",
        ("policy/drift",),
        growth_of_drift,
        {"note": 3, "warn": 10},
        "the drift between sampler and trainer has grown {value:.0f} times since the first steps",
        "something departs with every update: weights that arrive late, or rounding that adds up",
    ),
    Gate(
        "temperature",
        "update",
        ("policy/drift_tilt", "policy/drift_tilt_error", "policy/drift_tilt_share"),
        other_temperature,
        {"note": 0.005, "warn": 0.02, "stop": 0.1},
        "sampler and trainer seem to use temperatures that differ by {value:.0%}",
        SYNC,
    ),
    Gate(
        "support",
        "update",
        ("policy/drift_weight", "policy/drift_weight_error"),
        other_support,
        {"note": 1e-3, "warn": 3e-3, "stop": 5e-2},
        "{value:.1%} of the probability lies on tokens that one of sampler and trainer leaves out",
        SYNC,
    ),
    Gate(
        "gradient",
        "update",
        ("update/grad_norm",),
        gradient_spike,
        {"note": 5, "warn": 20, "skip": 100},
        "the gradient's norm is {value:.3g} times its usual size",
        "beyond gates.gradient.skip times it the update is not made; lower optim.lr or optim.max_grad_norm",
    ),
    Gate(
        "heldout",
        "evaluation",
        ("heldout/accuracy", "reward/mean"),
        fallen_heldout,
        {"note": 2, "warn": 3},
        "held-out accuracy lies {value:.1f} standard errors below its best while the training reward rises",
        "the policy learns the training prompts or a flaw of the reward: read samples.jsonl, go back to the best "
        "checkpoint, lower optim.lr, or set loss.beta",
    ),
    Gate(
        "format",
        "step",
        ("rewards/*",),
        formal_gain,
        {"note": 0.1, "warn": 0.25},
        "format or strictness rose by {value:.2f} while lenient accuracy did not rise",
        "what is learnt is how to write an answer, not to find it; lower the weight of format rewards, and judge by "
        "the lenient figures",
    ),
)
GATES: Mapping[str, Gate] = {gate.name: gate for gate in TABLE}
DRIFT_GATES = frozenset(gate.name for gate in TABLE if gate.remedy is SYNC)
REMEMBERED = frozenset(key for gate in TABLE for key in gate.reads)


def default_limits(name: str, dtype: str, device: str) -> Limits:
    """A gate's limits for a model of `dtype` on a device of this type."""
    of_dtype = DRIFT.get(f"{dtype} on {device}") or DRIFT.get(dtype, DRIFT["float32"])
    return of_dtype.get(name, GATES[name].limits)


def level_of(value: float | None, limits: Limits, upto: str = "stop") -> int:
    """The highest rung, 1 to 4, whose limit `value` exceeds, and 0 for none; never above `upto`."""
    if value is None:
        return 0
    found = max(
        (i + 1 for i, rung in enumerate(RUNGS) if rung in limits and value > limits[rung]),
        default=0,
    )
    return min(found, LEVELS.index(upto))


def stale_completions(
    groups: Sequence[Any],
    carried: Collection[str],
    trained: tuple[int, int],
    sampled: Collection[tuple[int, int]],
) -> tuple[int, str]:
    """(how many completions other weights wrote than those about to be trained, in words how one knows).

    `trained` and `sampled` are versions and fingerprints: of the trainer's weights, and of those that each call of
    the sampler read. Groups of the prompts `carried` began under older weights, which is no fault.
    """
    everything = sum(len(group.completions) for group in groups)
    other = [weights for weights in sampled if weights[1] != trained[1]]
    if other:
        return everything, (
            f"the sampler read weights of version {other[0][0]} (fingerprint {other[0][1]:016x}), the "
            f"trainer holds version {trained[0]} ({trained[1]:016x})"
        )
    wrong = [
        span[0]
        for group in groups
        if group.prompt.id not in carried
        for completion in group.completions
        for span in completion.versions[:1]
        if any(part[0] != trained[0] for part in completion.versions)
    ]
    words = (
        f"they say version {min(wrong)}, the trainer holds version {trained[0]}" if wrong else ""
    )
    return len(wrong), words


# ---- at work ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alarm:
    """One gate at one step: how far up its ladder, the number, and a sentence with cause and remedy."""

    step: int
    gate: str
    level: int
    value: float
    says: str

    def to_mapping(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "gate": self.gate,
            "level": LEVELS[self.level],
            "value": self.value,
            "says": self.says,
        }


class GateStop(RuntimeError):
    """A gate stops the run; ``gate`` names it."""

    def __init__(self, alarm: Alarm):
        super().__init__(f"step {alarm.step}: gate {alarm.gate}: {alarm.says}")
        self.gate, self.alarm = alarm.gate, alarm


Why = Callable[[str], str]
STATE = ("step_number", "recent", "early", "evaluations", "alarms", "counts", "levels")


def no_reason(gate: str) -> str:
    return ""


@dataclass(slots=True)
class Gates:
    """The gates of a run: judges each step, remembers what it needs to, and hands every new alarm to `report`.

    ``settings`` are the recipe's ``gates`` by name, each with ``upto`` and the limits set there (None: the default).
    ``report`` is called with an alarm and whether it is to be said. An alarm is new if its gate stands higher than a
    step ago, or acts. `alarms` are all new ones, `counts` how many steps each gate spent on which rung.
    """

    settings: Mapping[str, Any]
    dtype: str
    device: str
    true: str = ""
    formal: tuple[str, ...] = ()
    report: Callable[[Alarm, bool], None] = lambda alarm, said: None
    step_number: int = 0
    recent: list[dict[str, Any]] = field(default_factory=list)
    early: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    pending: Alarm | None = None

    def limits(self, name: str) -> Limits:
        """The default limits of a gate with those of the recipe laid over."""
        own = self.settings.get(name)
        given = {
            rung: getattr(own, rung)
            for rung in RUNGS
            if own is not None and getattr(own, rung) is not None
        }
        return {**default_limits(name, self.dtype, self.device), **given}

    # -- the moments at which gates are judged ----------------------------------------------------------------

    def sampled(self, step: int, record: Record, why: Why = no_reason) -> bool:
        """Scorer what is known before a step's updates; whether they may be made. Raises `GateStop`."""
        self.step_number, self.before, self.levels = step, self.levels, {}
        return not self._judge("sampled", record, why)

    def update(self, record: Record, why: Why = no_reason) -> list[str]:
        """Scorer an update before the optimizer's step; the gates that ask to mask or to skip it. Raises `GateStop`."""
        return self._judge("update", record, why)

    def step(self, record: Record) -> dict[str, Any]:
        """Scorer a step's whole record and remember it; what the gates add to it. `refuse` is to be called then."""
        self._judge("step", record, no_reason, late=True)
        wanted = REMEMBERED | {self.true, *self.formal}
        kept = {
            key: value
            for key, value in record.items()
            if key in wanted and number(value) is not None
        }
        self.recent = [*self.recent, kept][-KEPT:]
        self.early = [*self.early, kept][:EARLY]
        raised = {name: level for name, level in self.levels.items() if level}
        for name, level in raised.items():
            count = self.counts.setdefault(name, {})
            count[LEVELS[level]] = count.get(LEVELS[level], 0) + 1
        return {
            "gate/level": max(raised.values(), default=0),
            **{f"gate/{name}": level for name, level in sorted(raised.items())},
        }

    def refuse(self) -> None:
        """Raise `GateStop` if the step's end brought up what stops a run."""
        if self.pending is not None:
            alarm, self.pending = self.pending, None
            raise GateStop(alarm)

    def evaluated(self, accuracy: float, low: float, high: float) -> None:
        """Take note of a held-out evaluation after the last step and judge it. Raises `GateStop`."""
        if number(accuracy) is None:
            return
        rewards = [record["reward/mean"] for record in self.recent[-5:] if "reward/mean" in record]
        self.evaluations = [
            *self.evaluations,
            {
                "step": self.step_number,
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "reward": fmean(rewards) if rewards else None,
            },
        ]
        self._judge("evaluation", {}, no_reason)

    # -- judging ------------------------------------------------------------------------------------------------

    def _judge(self, when: str, record: Record, why: Why, late: bool = False) -> list[str]:
        """Book and report what passes a limit; the gates that ask to skip. With `late` a stop is left to `refuse`."""
        usual = default_limits("drift", self.dtype, self.device)["note"]
        history = History(
            record, self.recent, self.early, self.evaluations, usual, self.true, self.formal
        )
        found: dict[str, tuple[int, float]] = {}
        for gate in TABLE:
            value = gate.measure(history) if gate.when == when else None
            own = self.settings.get(gate.name)
            level = (
                level_of(value, self.limits(gate.name), own.upto if own is not None else "stop")
                if value
                else 0
            )
            if level:
                found[gate.name] = level, value
        alarms = self._told(found, why)
        for name, (level, _) in found.items():
            self.levels[name] = max(level, self.levels.get(name, 0))
        stopping = [alarm for alarm in alarms if LEVELS[alarm.level] == "stop"]
        if stopping and not late:
            raise GateStop(stopping[0])
        self.pending = stopping[0] if stopping else self.pending
        return [name for name, (level, _) in found.items() if LEVELS[level] == "skip"]

    def _told(self, found: Mapping[str, tuple[int, float]], why: Why) -> list[Alarm]:
        """Alarms of the gates that stand higher than a step ago or act, booked and reported, the gravest first.

        Of those on drift, which go off together, only the first is explained and said.
        """
        new = [
            name
            for name, (level, _) in found.items()
            if LEVELS[level] in ("skip", "stop")
            or level > max(self.before.get(name, 0), self.levels.get(name, 0))
        ]
        new.sort(key=lambda name: (-found[name][0], list(GATES).index(name)))
        lead = next((name for name in new if name in DRIFT_GATES), None)
        alarms = []
        for name in new:
            level, value = found[name]
            leads = name == lead or name not in DRIFT_GATES
            alarm = Alarm(
                self.step_number, name, level, value, self._sentence(name, level, value, why, leads)
            )
            self.alarms = [*self.alarms, alarm.to_mapping()]
            self.report(alarm, leads and LEVELS[level] in ("warn", "skip"))
            alarms.append(alarm)
        return alarms

    def _sentence(self, name: str, level: int, value: float, why: Why, leads: bool) -> str:
        """What was found, why, and what to do; for a note, or a gate that follows another, what was found."""
        gate = GATES[name]
        limit = max(limit for limit in self.limits(name).values() if value > limit)
        finding = gate.finding.format(value=value, limit=limit)
        if not leads or LEVELS[level] == "note":
            return finding
        remedy = gate.remedy.format(name=name, rung=LEVELS[level])
        return "; ".join(part for part in (finding, why(name), remedy) if part)

    # -- what a resumed run needs -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return copy.deepcopy({name: getattr(self, name) for name in STATE})

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, copy.deepcopy(state[name]))
