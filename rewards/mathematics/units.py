"""Units of measurement: what a name stands for, and which of them convert into each other.

A unit is a factor to the base unit of its dimensions. A noun that is no unit ("apples") gets a dimension of
its own and is marked as a noun.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

__all__ = ["Unit", "unit_of"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: its exact factor to the base unit (degrees: to a 180th of pi) and sorted (dimension, power) pairs."""

    factor: Fraction
    dimensions: tuple[tuple[str, int], ...]
    is_noun: bool = False


MAX_LENGTH = 80
_F = Fraction
_TABLE: dict[str, tuple[Fraction, str]] = {}


def _add(dimension: str, entries: dict[str, Fraction | int]) -> None:
    """Enter the names of one dimension, several to a factor, separated by space."""
    for names, factor in entries.items():
        for name in names.split():
            _TABLE[name] = (_F(factor), dimension)


_add(
    "length",
    {
        "m meter meters metre metres": 1,
        "cm centimeter centimeters centimetre centimetres": _F(1, 100),
        "mm millimeter millimeters millimetre millimetres": _F(1, 1000),
        "km kilometer kilometers kilometre kilometres": 1000,
        "dm decimeter decimeters": _F(1, 10),
        "nm nanometer nanometers": _F(1, 10**9),
        "in inch inches": _F(254, 10000),
        "ft foot feet": _F(3048, 10000),
        "yd yard yards": _F(9144, 10000),
        "mi mile miles": _F(1609344, 1000),
    },
)
_add(
    "mass",
    {
        "g gram grams gramme grammes": 1,
        "kg kilogram kilograms": 1000,
        "mg milligram milligrams": _F(1, 1000),
        "t ton tons tonne tonnes": 1_000_000,
        "lb lbs pound pounds": _F(45359237, 100000),
        "oz ounce ounces": _F(28349523125, 10**9),
    },
)
_add(
    "time",
    {
        "s sec secs second seconds": 1,
        "min mins minute minutes": 60,
        "h hr hrs hour hours": 3600,
        "day days": 86400,
        "week weeks": 604800,
        "ms millisecond milliseconds": _F(1, 1000),
    },
)
_add(
    "month",
    {"month months": 1, "year years yr yrs": 12, "decade decades": 120, "century centuries": 1200},
)
_add("money", {"$ dollar dollars usd USD bucks": 1, "cent cents \u00a2": _F(1, 100)})
_add("euro", {"\u20ac euro euros eur EUR": 1})
_add("sterling", {"\u00a3 gbp GBP": 1})
_add("rupee", {"rupee rupees Rs rs": 1})
_add("yuan", {"yuan": 1})
_add("rouble", {"rouble roubles ruble rubles": 1})
_add(
    "angle",
    {
        "degree degrees deg": 1,
        "arcminute arcminutes": _F(1, 60),
        "arcsecond arcseconds": _F(1, 3600),
    },
)
_add("radian", {"rad radian radians": 1})
_add("celsius", {"degreeC": 1})
_add("fahrenheit", {"degreeF": 1})
_add(
    "litre",
    {
        "L l liter liters litre litres": 1,
        "mL ml milliliter milliliters millilitre millilitres": _F(1, 1000),
    },
)
_add(
    "gallon",
    {
        "gallon gallons gal": 1,
        "quart quarts": _F(1, 4),
        "pint pints": _F(1, 8),
        "cup cups": _F(1, 16),
    },
)
_add("unit", {"unit units": 1})
_add("newton", {"N newton newtons kN": 1})
_add("joule", {"J joule joules": 1, "kJ": 1000})
_add("watt", {"W watt watts": 1, "kW kilowatt kilowatts": 1000})
_add("volt", {"V volt volts": 1})
_add("ampere", {"A ampere amperes": 1})
_add("hertz", {"Hz hertz": 1, "kHz": 1000})
_add("pascal", {"Pa pascal pascals": 1, "kPa": 1000})
_add("kelvin", {"K kelvin": 1})
_add("mole", {"mol mole moles": 1})
_add("acre", {"acre acres": 1})

_NOT_NOUNS = frozenset(
    "and or not more less than times over plus minus negative half third quarter million billion trillion thousand"
    " hundred dozen pair factorial squared cubed percent pct percentage if when unless otherwise no none is are"
    " only except at most least between to odd even per modulo mod or".split()
)
_SCALES = {
    "C": "celsius",
    "F": "fahrenheit",
    "Celsius": "celsius",
    "Fahrenheit": "fahrenheit",
}
_SHORTHANDS = {"mph": "miles/hour", "kmh": "km/h", "kph": "km/h", "fps": "feet/s", "sqft": "feet^2"}
_PART = re.compile(r"(?P<name>[A-Za-z$\u20ac\u00a3\u00a2]+)(?:\s*\^?\s*\{?(?P<power>-?\d)\}?)?")


@lru_cache(maxsize=4096)
def unit_of(name: str) -> Unit | None:
    """Return the unit that `name` writes (``cm^2``, ``km/h``, ``square feet``, ``apples``), or None if it is none."""
    text = re.sub(r"\\(?:cdot|,|;| )|[.*\u00b7]", " ", name).strip()
    scale = _SCALES.get(text.removeprefix("degree ")) if text.startswith("degree ") else None
    if scale is not None:
        return Unit(_F(1), ((scale, 1),))
    if len(text) > MAX_LENGTH or not text:
        return None
    measured = _measured(_SHORTHANDS.get(text.lower(), text))
    if measured is not None:
        return measured
    return _noun(text)


def _measured(text: str) -> Unit | None:
    """Return a unit composed of known ones, or None."""
    text = re.sub(r"\b(?:sq(?:uare)?\.?)\s+(\w+)", r"\1^2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:cubic|cu\.?)\s+(\w+)", r"\1^3", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(\w+)\s+squared\b", r"\1^2", text)
    text = re.sub(r"\s+per\s+(?:an?\s+)?", "/", text)
    factor = _F(1)
    powers: dict[str, int] = {}
    numerator, *denominators = text.split("/")
    parts = [(part, 1) for part in numerator.split()]
    parts += [(part, -1) for denominator in denominators for part in denominator.split()]
    for part, sign in parts:
        match = _PART.fullmatch(part)
        entry = None if match is None else _entry(match["name"])
        if match is None or entry is None:
            return None
        factor_of_part, dimension = entry
        power = int(match["power"] or 1) * sign
        factor *= factor_of_part**power
        powers[dimension] = powers.get(dimension, 0) + power
    return Unit(factor, tuple(sorted(powers.items())))


def _entry(name: str) -> tuple[Fraction, str] | None:
    return _TABLE.get(name) or _TABLE.get(name.lower())


def _noun(text: str) -> Unit | None:
    """Return a counted thing as a unit, or None if the phrase may carry meaning of its own."""
    nouns = re.findall(r"[A-Za-z]+", text.lower())
    if not nouns or len(nouns) > 6:
        return None
    if any(noun in _NOT_NOUNS for noun in nouns):
        return None
    if not re.fullmatch(r"[A-Za-z' -]+", text):
        return None
    if all(len(noun) < 3 for noun in nouns):
        return None
    return Unit(_F(1), ((" ".join(nouns), 1),), is_noun=True)
