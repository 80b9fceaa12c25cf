"""Pairs of answers that are not the same, made at random: numbers, units, intervals, sets."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import chain
from typing import Iterator

from unit_spellings import COMPOSED, SIMPLE, composed, number, spellings

NOUNS = ("apples", "people", "red balls", "days of work", "students", "boxes")
FAR = (
    Fraction(1, 3),
    Fraction(3, 2),
    Fraction(10),
    Fraction(-1),
    Fraction(1, 10),
    Fraction(100),
    Fraction(11, 10),
)
MEASURES: dict[
    str, tuple[str, Fraction]
] = {}  # each unit: a name of its dimensions, and its factor


def _enter(dimension: str, table: dict[str, str]) -> None:
    for name, factor in table.items():
        MEASURES[name] = (dimension, Fraction(factor))


_enter("length", {"m": "1", "cm": "1/100", "km": "1000", "mm": "1/1000", "nm": "1/1000000000", "in": "127/5000",
                  "ft": "381/1250", "yd": "1143/1250", "mi": "201168/125", "dm": "1/10"})  # fmt: skip
_enter(
    "area", {"m^2": "1", "cm^2": "1/10000", "km^2": "1000000", "mm^2": "1/1000000", "ha": "10000"}
)
_enter(
    "volume", {"m^3": "1", "cm^3": "1/1000000", "L": "1/1000", "mL": "1/1000000", "dm^3": "1/1000"}
)
_enter(
    "mass", {"kg": "1", "g": "1/1000", "mg": "1/1000000", "t": "1000", "lb": "45359237/100000000"}
)
_enter("time", {"s": "1", "min": "60", "h": "3600", "ms": "1/1000"})
_enter("speed", {"m/s": "1", "km/h": "5/18", "mph": "1397/3125", "cm/s": "1/100"})
_enter("acceleration", {"m/s^2": "1", "cm/s^2": "1/100"})
_enter("force", {"N": "1", "kN": "1000", "mN": "1/1000"})
_enter("energy", {"J": "1", "kJ": "1000", "MJ": "1000000", "cal": "523/125", "kWh": "3600000"})
_enter("power", {"W": "1", "kW": "1000", "MW": "1000000", "mW": "1/1000"})
_enter("pressure", {"Pa": "1", "kPa": "1000", "atm": "101325", "bar": "100000", "MPa": "1000000"})
_enter("current", {"A": "1", "mA": "1/1000"})
_enter("voltage", {"V": "1", "mV": "1/1000", "kV": "1000"})
_enter("charge", {"C": "1", "mC": "1/1000", "nC": "1/1000000000"})
_enter("frequency", {"Hz": "1", "kHz": "1000", "MHz": "1000000"})
_enter("amount", {"mol": "1", "mmol": "1/1000"})
_enter("field", {"T": "1", "mT": "1/1000"})
_enter("density", {"kg/m^3": "1", "g/cm^3": "1000"})
_enter("heat", {"J/(kg*K)": "1", "kJ/(kg*K)": "1000"})
_enter("concentration", {"mol/L": "1", "mmol/L": "1/1000"})


def unequal_pairs(rng: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of answers that differ, of all kinds in turn."""
    kinds = (_numbers, _units, _units, _values_of_units, _intervals, _sets, _lists, _tuples)
    for index in range(count):
        yield kinds[index % len(kinds)](rng)


def _value(rng: random.Random) -> Fraction:
    whole = rng.choice((rng.randint(1, 20), rng.randint(1, 5000)))
    return Fraction(whole, rng.choice((1, 1, 1, 2, 4, 5, 10, 100, rng.randint(2, 30))))


def _other(value: Fraction, rng: random.Random) -> Fraction:
    """Another number, too far away to be its rounding."""
    other = rng.choice((value * rng.choice(FAR), value + rng.randint(1, 9), -value))
    return other if abs(other - value) > abs(value) / 100 else -value


def _written(value: Fraction, rng: random.Random) -> str:
    """A number in one of its usual forms."""
    forms = [number(value), f"\\frac{{{value.numerator}}}{{{value.denominator}}}"]
    is_finite = Fraction(str(float(value))) == value
    if is_finite:
        forms.append(f"{float(value):.10f}".rstrip("0").rstrip("."))
    if value.denominator == 1:
        forms += [str(value), f"{value.numerator:,}", f"{value.numerator}.0"]
    return rng.choice(forms)


def _numbers(rng: random.Random) -> tuple[str, str]:
    value = _value(rng)
    marks = ("", "", "", "\\$", "x = ", "n = ")
    mark = rng.choice(marks)
    return mark + _written(value, rng), mark + _written(_other(value, rng), rng)


_SPELLED = {
    name: tuple(composed(name)) if set(name) & set("/*") else tuple(spellings(name))
    for name in MEASURES
}
_ALL = tuple(MEASURES)


def _with_unit(value: Fraction, unit: str, rng: random.Random) -> str:
    return _written(value, rng) + rng.choice(_SPELLED[unit])


def _units(rng: random.Random) -> tuple[str, str]:
    """The same number in two units that differ."""
    value = _value(rng)
    first = rng.choice(_ALL)
    other = rng.choice([name for name in _ALL if MEASURES[name] != MEASURES[first]])
    if rng.random() < 0.1:
        return _with_unit(
            value, first, rng
        ), f"{_written(value, rng)} \\text{{ {rng.choice(NOUNS)}}}"
    if rng.random() < 0.1:
        return _with_unit(value, first, rng), f"{_written(value, rng)}\\%"
    return _with_unit(value, first, rng), _with_unit(value, other, rng)


def _values_of_units(rng: random.Random) -> tuple[str, str]:
    """Two numbers in units of one kind that do not convert into each other, or with a unit on one side alone."""
    value = _value(rng)
    first = rng.choice(_ALL)
    kind, factor = MEASURES[first]
    second = rng.choice([name for name in _ALL if MEASURES[name][0] == kind])
    wrong = _other(value, rng)
    if rng.random() < 0.3:
        pair = [_with_unit(value, first, rng), _written(wrong, rng)]
        rng.shuffle(pair)
        return pair[0], pair[1]
    converted = wrong * factor / MEASURES[second][1]
    return _with_unit(value, first, rng), _with_unit(converted, second, rng)


def _intervals(rng: random.Random) -> tuple[str, str]:
    """Two intervals with other ends, or the same ends open and closed."""
    low = rng.randint(-30, 30)
    high = low + rng.randint(1, 30)
    left = rng.choice("[(")
    right = rng.choice("])")
    shift = rng.choice((1, 2, -1))
    changes = [
        (low + (shift if low + shift < high else -1), high, left, right),
        (low, high + abs(shift), left, right),
        (low, high, "[" if left == "(" else "(", right),
        (low, high, left, "]" if right == ")" else ")"),
    ]
    return _interval(rng, low, high, left=left, right=right), _interval_of(rng, rng.choice(changes))


def _interval_of(rng: random.Random, ends: tuple[int, int, str, str]) -> str:
    low, high, left, right = ends
    return _interval(rng, low, high, left=left, right=right)


def _interval(rng: random.Random, low: int, high: int, *, left: str, right: str) -> str:
    if rng.random() < 0.5:
        return f"{left}{low}, {high}{right}"
    above = "<" if left == "(" else "\\le"
    below = "<" if right == ")" else "\\leq"
    return f"{low} {above} x {below} {high}"


def _members(rng: random.Random) -> tuple[list[int], list[int]]:
    """Two lists of distinct numbers that differ as sets."""
    members = rng.sample(range(-40, 40), rng.randint(2, 5))
    others = list(members)
    change = rng.randrange(3)
    if change == 0:
        others[rng.randrange(len(others))] = 41 + rng.randrange(9)
    elif change == 1 and len(others) > 2:
        others.pop(rng.randrange(len(others)))
    else:
        others.append(50)
    rng.shuffle(others)
    return members, others


def _sets(rng: random.Random) -> tuple[str, str]:
    first, other = (", ".join(map(str, members)) for members in _members(rng))
    return f"\\{{{first}\\}}", rng.choice((f"\\{{{other}\\}}", other))


def _lists(rng: random.Random) -> tuple[str, str]:
    links = (", ", " \\text{ or } ", " and ")
    first, other = (rng.choice(links).join(map(str, members)) for members in _members(rng))
    return first, other


def _tuples(rng: random.Random) -> tuple[str, str]:
    members = rng.sample(range(-40, 40), rng.randint(3, 4))
    others = members[1:] + members[:1]
    first, other = (", ".join(map(str, values)) for values in (members, others))
    return f"({first})", f"({other})"


def all_spellings() -> Iterator[tuple[str, str]]:
    """Yield every spelling of every unit of the tables, with the unit."""
    yield from chain(
        ((unit, written) for unit in SIMPLE for written in spellings(unit)),
        ((row[0], written) for row in COMPOSED for written in composed(row[0])),
    )
