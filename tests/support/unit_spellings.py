"""Units in every spelling that answers use: signs of space, LaTeX groups, products, quotients and powers."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Iterator

SPACES = ("", " ", "~", "\\,", "\\ ", "\\;", "\\:", "\\!", "\\, ", "~ ")
GROUPS = (
    "\\mathrm{%s}", "\\mathrm{~%s}", "\\text{%s}", "\\text{ %s}", "{\\rm %s}", "{\\rm{%s}}", "{\\rm\\,%s}", "\\rm %s",
    "\\textrm{%s}", "\\mbox{ %s}", "\\operatorname{%s}", "\\unit{%s}", "\\si{%s}",
)  # fmt: skip
PRODUCTS = (" \\cdot ", "\\cdot ", "\\,", "\\times ", "*", " ", "~", "\u00b7")
PIECE = re.compile(r"[A-Za-z]+|\^-?\d|[*/()]")

SIMPLE = {  # a unit: its name, one that it converts into with the exact ratio, and another that it is not
    "cm": ("centimeters", "m", "1/100", "mm"), "km": ("kilometres", "m", "1000", "m"),
    "m": ("meters", "cm", "100", "km"), "mm": ("millimeters", "cm", "1/10", "cm"),
    "dm": ("decimeters", "cm", "10", "cm"), "nm": ("nanometers", "m", "1/1000000000", "pm"),
    "kg": ("kilograms", "g", "1000", "g"), "g": ("grams", "kg", "1/1000", "kg"),
    "mg": ("milligrams", "g", "1/1000", "g"), "Mg": ("megagrams", "kg", "1000", "mg"),
    "s": ("seconds", "ms", "1000", "min"), "min": ("minutes", "s", "60", "h"), "h": ("hours", "min", "60", "min"),
    "ms": ("milliseconds", "s", "1/1000", "s"), "N": ("newtons", "kN", "1/1000", "kN"),
    "kN": ("kilonewtons", "N", "1000", "N"), "J": ("joules", "kJ", "1/1000", "kJ"),
    "kJ": ("kilojoules", "J", "1000", "J"), "W": ("watts", "kW", "1/1000", "kW"),
    "kW": ("kilowatts", "W", "1000", "W"), "MW": ("megawatts", "kW", "1000", "mW"),
    "V": ("volts", "mV", "1000", "kV"), "A": ("amperes", "mA", "1000", "mA"),
    "mA": ("milliamperes", "A", "1/1000", "A"), "Hz": ("hertz", "kHz", "1/1000", "MHz"),
    "MHz": ("megahertz", "Hz", "1000000", "GHz"), "Pa": ("pascals", "kPa", "1/1000", "MPa"),
    "kPa": ("kilopascals", "Pa", "1000", "Pa"), "mol": ("moles", "mmol", "1000", "mmol"),
    "L": ("liters", "mL", "1000", "mL"), "mL": ("milliliters", "L", "1/1000", "L"),
    "K": ("kelvins", "mK", "1000", "mK"), "eV": ("electronvolts", "keV", "1/1000", "MeV"),
    "cal": ("calories", "J", "523/125", "kcal"), "atm": ("atmospheres", "mmHg", "760", "mmHg"),
    "bar": ("bars", "kPa", "100", "mbar"), "Da": ("daltons", "kDa", "1/1000", "kDa"),
    "T": ("teslas", "mT", "1000", "mT"), "C": ("coulombs", "mC", "1000", "nC"),
    "F": ("farads", "pF", "1000000000000", "pF"), "H": ("henries", "mH", "1000", "mH"),
    "Wb": ("webers", "mWb", "1000", "mWb"), "rad": ("radians", "mrad", "1000", "mrad"),
    "ft": ("feet", "in", "12", "in"), "in": ("inches", "cm", "127/50", "ft"), "mi": ("miles", "ft", "5280", "km"),
    "yd": ("yards", "ft", "3", "ft"), "lb": ("pounds", "oz", "16", "oz"), "oz": ("ounces", "lb", "1/16", "lb"),
    "gal": ("gallons", "qt", "4", "qt"), "ha": ("hectares", "m^2", "10000", "m^2"), "mph": ("mph", "km/h",
    "201168/125000", "km/h"), "kWh": ("kilowatt-hours", "MJ", "18/5", "kJ"),
}  # fmt: skip

COMPOSED = (  # a unit, one that it converts into with the exact ratio, and another that it is not
    ("cm^2", "mm^2", "100", "cm^3"), ("m^2", "cm^2", "10000", "m^3"), ("cm^3", "mL", "1", "cm^2"),
    ("m^3", "L", "1000", "m"), ("km^2", "m^2", "1000000", "km"), ("m/s", "km/h", "18/5", "m/s^2"),
    ("km/h", "m/s", "5/18", "m/s"), ("m/s^2", "cm/s^2", "100", "m/s"), ("g/cm^3", "kg/m^3", "1000", "g/cm^2"),
    ("kg/m^3", "g/L", "1", "kg/m^2"), ("J/(kg*K)", "kJ/(kg*K)", "1/1000", "J/kg"), ("N*m", "kN*m", "1/1000", "N/m"),
    ("kg*m/s", "g*m/s", "1000", "kg*m/s^2"), ("kg*m/s^2", "N", "1", "kg*m/s"), ("kW*h", "J", "3600000", "kW/h"),
    ("mol/L", "mmol/L", "1000", "mol"), ("N/m^2", "Pa", "1", "N/m"), ("L/min", "mL/s", "50/3", "L"),
    ("V/m", "kV/m", "1/1000", "V*m"), ("W/m^2", "kW/m^2", "1/1000", "W/m"), ("s^-1", "Hz", "1", "s"),
    ("J/mol", "kJ/mol", "1/1000", "J/kg"),
)  # fmt: skip


def number(value: Fraction | int | str) -> str:
    """Write an exact number."""
    value = Fraction(value)
    return (
        str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
    )


def spellings(unit: str) -> Iterator[str]:
    """Write a unit of one name, with or without a power, behind a number in every spelling."""
    base, _, power = unit.partition("^")
    powers = (
        f"^{power}",
        f"^{{{power}}}",
        {"2": "\u00b2", "3": "\u00b3"}.get(power, f"^{{{power}}}"),
    )
    for space in SPACES:
        for group in GROUPS:
            yield from (space + group % base + sign for sign in (powers if power else ("",)))
            if power and "si" not in group and "unit" not in group:
                yield space + group % f"{base}^{{{power}}}"
        if space or len(base) > 2:
            yield from (space + base + sign for sign in (powers if power else ("",)))


def composed(unit: str) -> Iterator[str]:
    """Write a unit of several names: in one group or many, with every sign of product and quotient."""
    for style in ("\\mathrm{%s}", "\\mathrm{~%s}", "\\text{%s}", "{\\rm %s}", "%s"):
        for dot in PRODUCTS[: 7 if style == "%s" else 8]:
            for slash in ("/", " / "):
                yield " " + _spelled(unit, style, dot, slash)
    for group in (
        "\\mathrm{%s}",
        "\\text{ %s}",
        "\\mathrm{~%s}",
        "{\\rm\\,%s}",
        "\\operatorname{%s}",
        "\\si{%s}",
    ):
        for dot in ("\\cdot ", "~", "\\,", " ", "*"):
            yield "~" + group % _spelled(unit, "%s", dot, "/")
    for style in ("\\mathrm{%s}", "\\mathrm{~%s}", "\\text{%s}"):
        for dot in ("\\cdot ", " ", "\\,", "~"):
            yield "~" + _with_negative_powers(unit, style, dot)
            yield "~" + style % _with_negative_powers(unit, "%s", dot)
    if "/" in unit:
        above, below = unit.split("/")
        for style in ("\\mathrm{%s}", "\\text{%s}", "{\\rm %s}"):
            halves = [_spelled(half, style, "\\cdot ", "/") for half in (above, below.strip("()"))]
            yield f"\\,\\frac{{{halves[0]}}}{{{halves[1]}}}"
            yield f"~\\dfrac{{{halves[0]}}}{{{halves[1]}}}"


def _spelled(unit: str, style: str, dot: str, slash: str) -> str:
    written = ""
    for piece in PIECE.findall(unit):
        if piece[0].isalpha():
            written += style % piece
        elif piece[0] == "^":
            written += f"^{{{piece[1:]}}}"
        else:
            written += {"*": dot, "/": slash}.get(piece, piece)
    return written


def _with_negative_powers(unit: str, style: str, dot: str) -> str:
    sign = 1
    factors: list[tuple[str, int]] = []
    for piece in PIECE.findall(unit):
        if piece == "/":
            sign = -1
        elif piece[0].isalpha():
            factors.append((piece, sign))
        elif piece[0] == "^":
            factors[-1] = (factors[-1][0], factors[-1][1] * int(piece[1:]))
    return dot.join(
        style % name + ("" if power == 1 else f"^{{{power}}}") for name, power in factors
    )
