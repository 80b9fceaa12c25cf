"""The gates of a run: judge each step, remember what they need, and raise alarms or stop the run.

What each gate measures, its limits and its messages are in ``gate_table``. A gate is judged as soon as what it reads
is known: after sampling, before the optimizer's step, at the step's end, after an evaluation. No torch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Callable, Collection, Mapping, NamedTuple, Protocol, Sequence

from grpo.monitor.gate_table import (
    DRIFT_GATES,
    GATES,
    LADDER,
    REMEMBERED,
    RUNGS,
    TABLE,
    Limits,
    default_limits,
    level_of,
)
from grpo.monitor.history import EARLY_STEPS, History, Record, number

RECENT_STEPS = 64
"""Steps that are remembered from the end of a run."""
STATE = ("step_number", "recent", "early", "evaluations", "alarms", "counts", "levels")
"""The attributes of `Gates` that a checkpoint holds."""

Why = Callable[[str], str]
"""Gives the reason for a gate's alarm by the gate's name; empty if it has none."""


class GateSettings(Protocol):
    """What a recipe sets for a gate: the highest rung it may reach, and limits (None: the default)."""

    @property
    def upto(self) -> str: ...
    @property
    def note(self) -> float | None: ...
    @property
    def warn(self) -> float | None: ...
    @property
    def skip(self) -> float | None: ...
    @property
    def stop(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Alarm:
    """One gate at one step: how far up its ladder, the number, and a sentence with cause and remedy."""

    step: int
    gate: str
    level: int
    value: float
    says: str

    @property
    def rung(self) -> str:
        return LADDER[self.level]

    def to_mapping(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "gate": self.gate,
            "level": self.rung,
            "value": self.value,
            "says": self.says,
        }


class GateStop(RuntimeError):
    """A gate stops the run; ``gate`` is its name."""

    def __init__(self, alarm: Alarm):
        super().__init__(f"step {alarm.step}: gate {alarm.gate}: {alarm.says}")
        self.gate = alarm.gate
        self.alarm = alarm


class Reading(NamedTuple):
    """What a gate measured, and the level that this reached."""

    level: int
    value: float

    @property
    def rung(self) -> str:
        return LADDER[self.level]


def no_reason(gate: str) -> str:
    return ""


def report_nothing(alarm: Alarm, printed: bool) -> None:
    pass


@dataclass(slots=True)
class Gates:
    """The gates of a run: judge each step, remember what they need, and hand every new alarm to `report`.

    ``settings`` are the recipe's ``gates`` by name. ``report`` is called with an alarm and whether it is to be
    printed. An alarm is new if its gate is on a higher rung than a step ago, or acts. `alarms` are all new ones,
    `counts` how many steps each gate spent on each rung.
    """

    settings: Mapping[str, GateSettings]
    dtype: str
    device: str
    true: str = ""
    formal: tuple[str, ...] = ()
    report: Callable[[Alarm, bool], None] = report_nothing
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
        """The default limits of a gate, overridden by those of the recipe."""
        limits = dict(default_limits(name, self.dtype, self.device))
        settings = self.settings.get(name)
        if settings is not None:
            chosen = {rung: getattr(settings, rung) for rung in RUNGS}
            limits |= {rung: limit for rung, limit in chosen.items() if limit is not None}
        return limits

    # -- the moments at which gates are judged ----------------------------------------------------------------

    def probed(self, record: Record, why: Why = no_reason) -> None:
        """Judge what a probe of one server found, after the last step. Raises `GateStop`."""
        self._judge("probe", record, why)

    def sampled(self, step: int, record: Record, why: Why = no_reason) -> bool:
        """Judge what is known before a step's updates; whether they may be made. Raises `GateStop`."""
        self.step_number = step
        self.before = self.levels
        self.levels = {}
        return not self._judge("sampled", record, why)

    def update(self, record: Record, why: Why = no_reason) -> list[str]:
        """Judge an update before the optimizer's step; the gates that ask to mask or skip it. Raises `GateStop`."""
        return self._judge("update", record, why)

    def step(self, record: Record) -> dict[str, Any]:
        """Judge a step's whole record and remember it; the metrics that the gates add. Call `refuse` afterwards."""
        self._judge("step", record, no_reason, late=True)
        self._remember(record)
        raised = {name: level for name, level in self.levels.items() if level}
        for name, level in raised.items():
            count = self.counts.setdefault(name, {})
            count[LADDER[level]] = count.get(LADDER[level], 0) + 1
        metrics = {"gate/level": max(raised.values(), default=0)}
        metrics |= {f"gate/{name}": level for name, level in sorted(raised.items())}
        return metrics

    def _remember(self, record: Record) -> None:
        wanted = REMEMBERED | {self.true, *self.formal}
        remembered = {
            key: value
            for key, value in record.items()
            if key in wanted and number(value) is not None
        }
        self.recent = [*self.recent, remembered][-RECENT_STEPS:]
        self.early = [*self.early, remembered][:EARLY_STEPS]

    def refuse(self) -> None:
        """Raise `GateStop` if the step's end brought up something that stops a run."""
        if self.pending is not None:
            alarm = self.pending
            self.pending = None
            raise GateStop(alarm)

    def evaluated(self, accuracy: float, low: float, high: float) -> None:
        """Judge a held-out evaluation after the last step. Raises `GateStop`."""
        if number(accuracy) is None:
            return
        rewards = [record["reward/mean"] for record in self.recent[-5:] if "reward/mean" in record]
        evaluation = {
            "step": self.step_number,
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "reward": fmean(rewards) if rewards else None,
        }
        self.evaluations = [*self.evaluations, evaluation]
        self._judge("evaluation", {}, no_reason)

    # -- judging ----------------------------------------------------------------------------------------------

    def _judge(self, when: str, record: Record, why: Why, late: bool = False) -> list[str]:
        """Report what passes a limit; the gates that ask to skip. If `late`, a stop is left to `refuse`."""
        readings = self._measure(when, self._history(record))
        alarms = self._raise_alarms(readings, why)
        for name, reading in readings.items():
            self.levels[name] = max(reading.level, self.levels.get(name, 0))
        stopping = [alarm for alarm in alarms if alarm.rung == "stop"]
        if stopping and not late:
            raise GateStop(stopping[0])
        if stopping:
            self.pending = stopping[0]
        return [name for name, reading in readings.items() if reading.rung == "skip"]

    def _history(self, record: Record) -> History:
        return History(
            now=record,
            recent=self.recent,
            early=self.early,
            evaluations=self.evaluations,
            usual_drift=default_limits("drift", self.dtype, self.device)["note"],
            true=self.true,
            formal=self.formal,
        )

    def _measure(self, when: str, history: History) -> dict[str, Reading]:
        """What the gates of this moment read, for those that pass a limit."""
        readings = {}
        for gate in TABLE:
            value = gate.measure(history) if gate.when == when else None
            if not value:
                continue
            settings = self.settings.get(gate.name)
            upto = "stop" if settings is None else settings.upto
            level = level_of(value, self.limits(gate.name), upto)
            if level:
                readings[gate.name] = Reading(level, value)
        return readings

    def _raise_alarms(self, readings: Mapping[str, Reading], why: Why) -> list[Alarm]:
        """Alarms of the gates that are on a higher rung than a step ago or act, reported, the most serious first.

        Of the gates on drift, which usually pass their limits together, only the first is explained and printed.
        """
        new = [name for name, reading in readings.items() if self._is_new(name, reading)]
        order = list(GATES)
        new.sort(key=lambda name: (-readings[name].level, order.index(name)))
        first_of_drift = next((name for name in new if name in DRIFT_GATES), None)
        alarms = []
        for name in new:
            is_explained = name == first_of_drift or name not in DRIFT_GATES
            alarm = self._alarm(name, readings[name], why, is_explained)
            self.alarms = [*self.alarms, alarm.to_mapping()]
            self.report(alarm, is_explained and alarm.rung in ("warn", "skip"))
            alarms.append(alarm)
        return alarms

    def _is_new(self, name: str, reading: Reading) -> bool:
        """Whether a gate acts, or is on a higher rung than a step ago and than earlier in this step."""
        acts = reading.rung in ("skip", "stop")
        return acts or reading.level > max(self.before.get(name, 0), self.levels.get(name, 0))

    def _alarm(self, name: str, reading: Reading, why: Why, is_explained: bool) -> Alarm:
        return Alarm(
            step=self.step_number,
            gate=name,
            level=reading.level,
            value=reading.value,
            says=self._sentence(name, reading, why, is_explained),
        )

    def _sentence(self, name: str, reading: Reading, why: Why, is_explained: bool) -> str:
        """The finding, its reason and the remedy; for a note, or a gate that is not explained, the finding alone."""
        gate = GATES[name]
        passed = [limit for limit in self.limits(name).values() if reading.value > limit]
        finding = gate.finding.format(value=reading.value, limit=max(passed))
        if not is_explained or reading.rung == "note":
            return finding
        remedy = gate.remedy.format(name=name, rung=reading.rung)
        return "; ".join(part for part in (finding, why(name), remedy) if part)

    # -- what a resumed run needs -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return copy.deepcopy({name: getattr(self, name) for name in STATE})

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, copy.deepcopy(state[name]))


# ---- stale completions ------------------------------------------------------------------------------------------


def stale_completions(
    groups: Sequence[Any],
    carried: Collection[str],
    trained: tuple[int, int],
    sampled: Collection[tuple[int, int]],
) -> tuple[int, str]:
    """(how many completions were not written by the weights about to be trained, how that is known).

    `groups` are those of ``grpo.types``, a layer above. `trained` and `sampled` are (version, fingerprint) pairs: of
    the trainer's weights, and of those that each call of the sampler read. Groups of the prompts `carried` began under
    older weights, which is allowed.
    """
    version, fingerprint = trained
    for sampled_version, sampled_fingerprint in sampled:
        if sampled_fingerprint != fingerprint:
            return sum(len(group.completions) for group in groups), (
                f"the sampler read weights of version {sampled_version} (fingerprint {sampled_fingerprint:016x}), "
                f"the trainer holds version {version} ({fingerprint:016x})"
            )
    stale = []
    for group in groups:
        if group.prompt.id not in carried:
            stale += _stale_versions(group, version)
    if not stale:
        return 0, ""
    return len(
        stale
    ), f"they were sampled with version {min(stale)}, the trainer holds version {version}"


def _stale_versions(group: Any, version: int) -> list[int]:
    """The first version of each completion of `group` that not only `version` wrote."""
    stale = []
    for completion in group.completions:
        versions = [span[0] for span in completion.versions]
        if any(other != version for other in versions):
            stale.append(versions[0])
    return stale
