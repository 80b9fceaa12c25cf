r"""The commands of LaTeX's packages siunitx and units, written out: ``\SI{5}{\metre}`` becomes ``5 \mathrm{m}``."""

from __future__ import annotations

import re

from rewards.mathematics.measures import measure_of

__all__ = ["without_siunitx"]

_COMMAND = re.compile(r"\\(SI|qty|si|unit|unitfrac|num|ang)\s*(?=[\[{])")
_PREFIXES = {
    "quetta": "Q", "ronna": "R", "yotta": "Y", "zetta": "Z", "exa": "E", "peta": "P", "tera": "T", "giga": "G",
    "mega": "M", "kilo": "k", "hecto": "h", "deca": "da", "deka": "da", "deci": "d", "centi": "c", "milli": "m",
    "micro": "\\mu ", "nano": "n", "pico": "p", "femto": "f", "atto": "a", "zepto": "z", "yocto": "y",
}  # fmt: skip
_NAMES = {
    "metre": "m", "meter": "m", "gram": "g", "second": "s", "ampere": "A", "kelvin": "K", "mole": "mol",
    "candela": "cd", "radian": "rad", "steradian": "sr", "hertz": "Hz", "newton": "N", "pascal": "Pa", "joule": "J",
    "watt": "W", "coulomb": "C", "volt": "V", "farad": "F", "ohm": "\\Omega ", "siemens": "S", "weber": "Wb",
    "tesla": "T", "henry": "H", "lumen": "lm", "lux": "lx", "becquerel": "Bq", "gray": "Gy", "sievert": "Sv",
    "katal": "kat", "litre": "L", "liter": "L", "electronvolt": "eV", "bar": "bar", "tonne": "t", "byte": "B",
    "bit": "bit", "dalton": "Da", "hectare": "ha", "minute": "min", "hour": "h", "day": "day", "degree": "deg",
    "arcminute": "arcmin", "arcsecond": "arcsec", "celsius": "degreeC", "degreeCelsius": "degreeC",
    "angstrom": "\\AA ", "decibel": "dB", "astronomicalunit": "AU", "parsec": "pc", "lightyear": "ly",
    "atomicmassunit": "Da", "mmHg": "mmHg", "torr": "torr", "atm": "atm", "kg": "kg", "calorie": "cal",
    "percent": "percent", "degreeFahrenheit": "degreeF", "fahrenheit": "degreeF", "inch": "in", "foot": "ft",
    "mile": "mi", "pound": "lb", "ounce": "oz", "gallon": "gal", "kilogram": "kg", "atmosphere": "atm",
}  # fmt: skip
_POWERS_BEFORE = {"square": 2, "cubic": 3}
_POWERS_AFTER = {"squared": 2, "cubed": 3}
_MACRO = re.compile(
    r"\\(?P<macro>[A-Za-z]+)\s*(?:\{\s*(?P<argument>[-+]?\d)\s*\})?|(?P<other>[^\\]+|\\.)",
    re.DOTALL,
)


def without_siunitx(text: str) -> str:
    """Return the text with numbers, angles and units in those packages' commands written out."""
    while match := _COMMAND.search(text):
        name = match[1]
        position = match.end()
        option, position = _argument(text, position, "[]")
        first, position = _argument(text, position, "{}")
        second, after_second = _argument(text, position, "{}")
        if first is None:
            return text
        takes_two = name in ("SI", "qty", "unitfrac") and second is not None
        written = _written(name, option, first, second if takes_two else None)
        end = after_second if takes_two else position
        text = text[: match.start()] + written + text[end:]
    return text


def _argument(text: str, position: int, brackets: str) -> tuple[str | None, int]:
    """Return the bracketed argument that follows, or None, and where reading goes on."""
    start = position + len(text[position:]) - len(text[position:].lstrip())
    opening = brackets[0]
    closing = brackets[1]
    if text[start : start + 1] != opening:
        return None, position
    depth = 0
    for index in range(start, len(text)):
        depth += {opening: 1, closing: -1}.get(text[index], 0)
        if depth == 0:
            return text[start + 1 : index], index + 1
    return None, position


def _written(name: str, option: str | None, first: str, second: str | None) -> str:
    """Return what a command and its arguments stand for."""
    if name == "num":
        return first
    if name == "ang":
        marks = ("^\\circ ", "' ", "''")
        return "".join(part + mark for part, mark in zip(first.split(";"), marks) if part.strip())
    if name == "unitfrac":
        return f"{option or ''} \\mathrm{{ {first}/({second or '1'}) }}"
    if second is not None:
        return f"{first} {_unit(second)}"
    number = option if option is not None and re.match(r"\s*[-+.\d]", option) else ""
    return f"{number} {_unit(first)}"


def _unit(content: str) -> str:
    r"""Return a unit in macros (``\kilo\metre\per\second``) or letters as text that is set upright."""
    content = content.strip()
    if content in ("\\percent", "\\%"):
        return "\\%"
    return f"\\mathrm{{ {_spelled(content)} }}"


def _spelled(content: str) -> str:
    """Return the macros of a unit as symbols with powers."""
    pieces: list[str] = []
    prefix = ""
    power_before = 1
    sign = 1
    for match in _MACRO.finditer(content):
        macro = match["macro"]
        if macro is None:
            pieces.append(match["other"])
        elif macro == "per":
            sign = -1
        elif macro in _PREFIXES:
            prefix += _PREFIXES[macro]
        elif macro in _POWERS_BEFORE:
            power_before = _POWERS_BEFORE[macro]
        elif macro in _POWERS_AFTER or macro in ("tothe", "raiseto"):
            power = _POWERS_AFTER.get(macro) or int(match["argument"] or 1)
            pieces[-1:] = [_raised(pieces[-1], power)] if pieces else []
        elif macro not in _NAMES and measure_of(macro) is None:
            pieces.append(f"\\{macro} ")
        else:
            symbol = prefix + _NAMES.get(macro, macro)
            pieces.append(_raised(f" {symbol}^{{1}}", power_before * sign))
            prefix, power_before, sign = "", 1, 1  # density: the marks of one unit
    return "".join(pieces).replace("^{1}", "")


def _raised(piece: str, power: int) -> str:
    """Return a unit of a known power raised to a further one."""
    base, _, exponent = piece.rpartition("^{")
    if not base:
        return piece
    return f"{base}^{{{int(exponent.rstrip('}')) * power}}}"
