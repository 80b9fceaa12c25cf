"""Reads the ``costs.jsonl`` of a run as one account: over all attempts and processes, also while the run goes on.

Of each attempt the last whole line counts, so nothing counts twice. What an attempt did after the checkpoint that a
later one went back to was made again: it is in the sums, and apart as what was ``repeated``. Wall time is that of the
first process; processor and device time are summed over all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

from grpo.cost.meter import (
    END,
    EVALUATE,
    FAILED,
    FILE,
    JUDGE,
    OTHER,
    PHASES,
    SAMPLE,
    START,
    STEP,
    UPDATE,
)
from grpo.cost.price import Prices, rounded

Line = Mapping[str, Any]
TOKENS = ("prompt", "sampled", "trained", "evaluated")
UNKNOWN = ("cpu_seconds", "children_cpu_seconds", "gpu_seconds")
"""What is not known of a run that kept no costs."""
NEEDED = {"at", "event", "attempt", "step", "rank", "world", "devices", "phases", "tokens"}


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of clock, processors, child processes' part of those, held devices, busy devices; joules of devices."""

    wall: float = 0.0
    cpu: float = 0.0
    children: float = 0.0
    gpu: float = 0.0
    busy: float = 0.0
    joules: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return self._with(other, 1)

    def __sub__(self, other: Spent) -> Spent:
        return self._with(other, -1)

    def _with(self, other: Spent, sign: int) -> Spent:
        names = [part.name for part in fields(self)]
        return Spent(*(getattr(self, name) + sign * getattr(other, name) for name in names))

    def to_mapping(self, tells: frozenset[str]) -> dict[str, float | None]:
        """Plain values; what the device does not tell is None."""
        seconds = {
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "children_cpu_seconds": self.children,
            "gpu_seconds": self.gpu,
        }
        told: dict[str, float | None] = {name: round(value, 3) for name, value in seconds.items()}
        told["gpu_busy_seconds"] = round(self.busy, 3) if "busy" in tells else None
        told["gpu_joules"] = round(self.joules, 1) if "joules" in tells else None
        return told


Phases = dict[str, Spent]


@dataclass(frozen=True, slots=True)
class Repeated:
    """What was made, lost to a kill or a fault, and so made again; part of the sums."""

    steps: int = 0
    spent: Spent = Spent()
    tokens: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))


@dataclass(frozen=True, slots=True)
class RunCosts:
    """The account of a run, or of several together.

    ``tells`` are the things that every device has told (``busy``, ``joules``), ``socket_joules`` the energy of
    processor sockets, None if some machine did not tell. ``missing`` counts processes without a file here, ``cut_off``
    attempts whose last words are missing: they were killed, or are still under way. ``at`` is when the last line was
    written. ``from_metrics`` is true of a run that kept no costs, of which the steps' seconds alone are known.
    """

    phases: Phases
    tokens: Mapping[str, int]
    repeated: Repeated = Repeated()
    attempts: int = 1
    processes: int = 1
    devices: int = 0
    missing: int = 0
    cut_off: int = 0
    tells: frozenset[str] = frozenset()
    socket_joules: float | None = None
    at: float = 0.0
    from_metrics: bool = False

    @property
    def total(self) -> Spent:
        """The sum over the phases."""
        return sum(self.phases.values(), Spent())

    def to_mapping(self, prices: Prices = Prices({})) -> dict[str, Any]:
        """Plain values, as ``summary.json`` has them."""
        phases = {name: self._priced(spent, prices) for name, spent in self.phases.items()}
        return {
            "phases": phases,
            "total": self._priced(self.total, prices),
            "tokens": dict(self.tokens),
            "repeated": self._repeated(prices),
            "socket_joules": self.socket_joules,
            "price_per_hour": dict(prices.per_hour),
            "currency": prices.currency if prices else None,
            **self._facts(),
        }

    def _priced(self, spent: Spent, prices: Prices) -> dict[str, float | None]:
        values = spent.to_mapping(self.tells)
        if self.from_metrics:
            values |= dict.fromkeys(UNKNOWN)
        if prices:
            money = self.money(spent, prices)
            values["money"] = None if money is None else rounded(money)
        return values

    def money(self, spent: Spent, prices: Prices) -> Fraction | None:
        """What a part of the account costs; None if it is priced by what was not recorded."""
        if self.from_metrics and set(prices.per_hour) - {"machine"}:
            return None
        return prices.money(wall=spent.wall, cpu=spent.cpu, gpu=spent.gpu)

    def _repeated(self, prices: Prices) -> dict[str, Any]:
        repeated = self.repeated
        spent = self._priced(repeated.spent, prices)
        return {"steps": repeated.steps, **spent, "tokens": dict(repeated.tokens)}

    def _facts(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts,
            "cut_off": self.cut_off,
            "processes": self.processes,
            "missing_processes": self.missing,
            "devices": self.devices,
            "recorded": not self.from_metrics,
        }


# ---- one run ------------------------------------------------------------------------------------------------------


def read_costs(folder: Path) -> RunCosts | None:
    """The account of the run in `folder`; None if it kept none."""
    lines = list(_lines(folder / FILE))
    if not lines:
        return None
    first = _lives(lines)
    lives = list(first)
    for file in sorted(folder.glob("costs.*.jsonl")):
        lives += _lives(_lines(file))
    now = [life for life in lives if life.attempt == first[-1].attempt]
    begun = sum(life.last["world"] for life in first)
    sums = RunCosts(
        phases=_summed([life.phases() for life in lives]),
        tokens=_tokens(first),
        repeated=_repeated(lives, _kept(first, lives)),
        tells=_told(lives),
        socket_joules=_sockets(lives),
    )
    return replace(
        sums,
        attempts=len(first),
        processes=now[0].last["world"],
        devices=sum(life.last["devices"] for life in now),
        missing=begun - len(lives),
        cut_off=sum(life.is_cut_off for life in first),
        at=max(life.last["at"] for life in lives),
    )


@dataclass(frozen=True, slots=True)
class Life:
    """The lines of one process in one attempt, each with the sums so far."""

    attempt: str
    rank: int
    lines: Sequence[Line]

    @property
    def last(self) -> Line:
        return self.lines[-1]

    @property
    def is_cut_off(self) -> bool:
        """Whether its last words are missing."""
        return self.last["event"] not in (END, FAILED)

    @property
    def resumed_from(self) -> int | None:
        """The step of the checkpoint that it went on from; None if it began anew."""
        found: int | None = self.lines[0].get("resumed_from")
        return found

    def phases(self, number: int | None = None) -> Phases:
        """What was spent by the end of the first `number` lines, by default of all."""
        number = len(self.lines) if number is None else number
        if not number:
            return {}
        line = self.lines[number - 1]
        return {name: self._spent(values) for name, values in line["phases"].items()}

    def _spent(self, values: Mapping[str, float]) -> Spent:
        wall = values.get("wall", 0.0)
        children = values.get("children", 0.0)
        return Spent(
            wall=0.0 if self.rank else wall,
            cpu=values.get("cpu", 0.0) + children,
            children=children,
            gpu=wall * self.last["devices"],
            busy=values.get("busy", 0.0),
            joules=values.get("joules", 0.0),
        )

    def kept_till(self, step: int | None, number: int) -> int:
        """How many of the first `number` lines tell of what a later attempt, going on from `step`, did not lose."""
        if step is None:
            return 0
        kept = 0
        for index, line in enumerate(self.lines[:number]):
            if line["step"] <= step and line["event"] in (START, STEP, END):
                kept = index + 1
        return kept

    def steps_between(self, kept: int) -> int:
        """How many steps were made after the first `kept` lines."""
        return len({line["step"] for line in self.lines[kept:] if line["event"] == STEP})


def _lines(file: Path) -> Iterator[Line]:
    """The whole lines of a file of costs."""
    try:
        text = file.read_bytes()
    except OSError:
        return
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue  # cut off by a kill
        if isinstance(line, dict) and NEEDED <= line.keys():
            yield line


def _lives(lines: Iterable[Line]) -> list[Life]:
    by_attempt: dict[str, list[Line]] = {}
    for line in lines:
        by_attempt.setdefault(line["attempt"], []).append(line)
    return [Life(attempt, its[0]["rank"], its) for attempt, its in by_attempt.items()]


def _kept(attempts: Sequence[Life], lives: Sequence[Life]) -> dict[int, int]:
    """By place in `lives`, how many of its lines tell of what no later attempt made again."""
    order = {life.attempt: number for number, life in enumerate(attempts)}
    kept = {place: len(life.lines) for place, life in enumerate(lives)}
    for number, later in enumerate(attempts):
        for place, life in enumerate(lives):
            if order.get(life.attempt, number) < number:
                kept[place] = life.kept_till(later.resumed_from, kept[place])
    return kept


def _repeated(lives: Sequence[Life], kept: Mapping[int, int]) -> Repeated:
    spent = Spent()
    steps = 0
    tokens = dict.fromkeys(TOKENS, 0)
    for place, life in enumerate(lives):
        if kept[place] == len(life.lines):
            continue
        spent += _sum(life.phases()) - _sum(life.phases(kept[place]))
        if not life.rank:
            steps += life.steps_between(kept[place])
            before = life.lines[kept[place] - 1]["tokens"] if kept[place] else {}
            for kind in TOKENS:
                tokens[kind] += life.last["tokens"].get(kind, 0) - before.get(kind, 0)
    return Repeated(steps, spent, tokens)


def _sum(phases: Phases) -> Spent:
    return sum(phases.values(), Spent())


def _summed(accounts: Iterable[Phases]) -> Phases:
    """The sums by phase, in the order of `PHASES`."""
    sums: Phases = {}
    for phases in accounts:
        for name, spent in phases.items():
            sums[name] = sums.get(name, Spent()) + spent
    order = [*PHASES, *(name for name in sums if name not in PHASES)]
    return {name: sums[name] for name in order if name in sums}


def _tokens(lives: Sequence[Life]) -> dict[str, int]:
    return _added([life.last["tokens"] for life in lives])


def _told(lives: Sequence[Life]) -> frozenset[str]:
    """What all that held a device were told by it."""
    told = [frozenset(life.last.get("tells", ())) for life in lives if life.last["devices"]]
    return frozenset.intersection(*told) if told else frozenset()


def _sockets(lives: Sequence[Life]) -> float | None:
    """The joules of processor sockets; None if those of the first process of an attempt are unknown."""
    joules = [life.last.get("socket_joules") for life in lives]
    known = [value for value in joules if value is not None]
    if any(life.last.get("socket_joules") is None for life in lives if not life.rank):
        return None
    return sum(known)


# ---- several runs, and those that kept nothing --------------------------------------------------------------------


def together(costs: Sequence[RunCosts]) -> RunCosts:
    """The sum of several runs that did not share their devices."""
    return reduce(_both, costs)


def _both(one: RunCosts, other: RunCosts) -> RunCosts:
    repeated = Repeated(
        steps=one.repeated.steps + other.repeated.steps,
        spent=one.repeated.spent + other.repeated.spent,
        tokens=_added([one.repeated.tokens, other.repeated.tokens]),
    )
    known = replace(
        one,
        phases=_summed([one.phases, other.phases]),
        tokens=_added([one.tokens, other.tokens]),
        repeated=repeated,
        tells=_both_tell(one, other),
        socket_joules=_both_known(one.socket_joules, other.socket_joules),
    )
    return replace(
        known,
        attempts=one.attempts + other.attempts,
        processes=max(one.processes, other.processes),
        devices=max(one.devices, other.devices),
        missing=one.missing + other.missing,
        cut_off=one.cut_off + other.cut_off,
        at=max(one.at, other.at),
        from_metrics=one.from_metrics or other.from_metrics,
    )


def _both_tell(one: RunCosts, other: RunCosts) -> frozenset[str]:
    """What the devices of both told; a run without a device says nothing about that."""
    if not one.total.gpu:
        return other.tells
    return one.tells & other.tells if other.total.gpu else one.tells


def _both_known(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {kind: _total(counts, kind) for kind in TOKENS}


def _total(counts: Iterable[Mapping[str, float]], kind: str) -> Any:
    """The sum of one entry; one that is missing or null is 0."""
    return sum(of.get(kind) or 0 for of in counts)


def from_metrics(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> RunCosts:
    """What the steps' ``seconds/*`` and a summary give of a run that kept no costs: wall time and tokens, no more."""
    names = (SAMPLE, JUDGE, UPDATE, "step")
    seconds = {name: float(_total(records, f"seconds/{name}")) for name in names}
    steps = seconds.pop("step")
    seconds[OTHER] = max(0.0, steps - sum(seconds.values()))
    whole = summary.get("seconds")
    if whole is not None and whole > steps:
        seconds[EVALUATE] = whole - steps
    tokens = summary.get("tokens") or {
        "sampled": _total(records, "completion/tokens"),
        "trained": _total(records, "update/tokens"),
    }
    order = [name for name in PHASES if seconds.get(name)]
    phases = {name: Spent(wall=seconds[name]) for name in order}
    return RunCosts(phases, tokens=_added([tokens]), from_metrics=True)
