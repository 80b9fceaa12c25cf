"""Where a unit may stand in a formula, and whether plain letters there are one beyond doubt."""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence

from rewards.mathematics.measures import is_word
from rewards.mathematics.notation import clean
from rewards.mathematics.unit_phrases import Phrase, read_phrase
from rewards.mathematics.units import DOUBTFUL

__all__ = ["FoundUnit", "UnitFinder", "unit_after"]


class FoundUnit(NamedTuple):
    """A unit behind a value: its spelling, where it ends in the text, whether a space precedes it, or a slash."""

    spelling: str
    end: int
    is_spaced: bool
    begins_with_slash: bool = False


class Preceding(NamedTuple):
    """The token in front: its kind and value (fields as in ``tokens.Token``)."""

    kind: str
    value: str


MAX_LENGTH = 120
_VALUE_ENDS = frozenset(
    ") ] } \\} | ! % \\% \\circ \\degree \\pi \\$ $ \u20ac \u00a3 \u00a2".split()
)
_MONEY = frozenset("\\$ $ \u20ac \u00a3".split())
_MAY_OPEN = re.compile(
    r"(?:\s|~|\\[,;:!> ])*[A-Za-z\\{^/\u20ac\u00a3\u00a5\u20b9\u20a9\u00a2\u03bc\u00b5\u03a9\u00c5-]"
)
_TWO_ARGUMENTS = re.compile(r"\\\w*(?:frac|binom)")
_SPACE = re.compile(r"(?:\s|~|\\[,;:!> ]|\\q?quad(?![A-Za-z])|\\left|\\right)*")
_GOES_ON = re.compile(r"[A-Za-z(\\_'=]")
_ENDS = re.compile(
    r"$|[,;.)\]}:<>=&$|?]|\\[,;.)\]}%$&|\\]|\\(?:and|or|text|mbox|textrm|quad|qquad|le|ge|leq|geq|lt|gt|approx|right"
    r"|cup|end|pm|colon|to|mathrm)(?![A-Za-z])|\d|-?\d|(?:and|or|to|of|per|in|for|is|at|with|by|from|each)\b|[A-Za-z]{4,}"
)
_POWER_OF_TEN = re.compile(r"10\s*\^\s*\{\s*-?\d{1,3}\s*\}$")
_EXCLAMATION = re.compile(r"(?<=[A-Za-z])!(?=!*(?:\s|$))")
_SUM_SIGNS = re.compile(r"[-+*/]|\\(?:cdot|times)(?![A-Za-z])")
_GLUED = frozenset(
    "cm mm km kg ml mL dL lb oz hr mi yd ft in kN kJ kW kV mA Hz Pa eV kPa MPa GPa kHz MHz GHz".split()
)
_GLUED_QUOTIENTS = frozenset(
    {"m s^-1", "m s^-2", "km h^-1", "km s^-1", "g L^-1", "ft s^-1", "J K^-1", "N m^-1"}
)
_PRODUCTS = frozenset(
    {
        "N m",
        "N s",
        "J s",
        "V A",
        "W h",
        "kW h",
        "kg m",
        "A h",
        "mA h",
        "kg m^2",
        "N m^2",
        "Pa s",
        "kN m",
    }
)
_RARE_LETTERS = frozenset("b B G M u P t \u2113".split())
_POINTS = re.compile(r"[QRYZEPTGM][ACFHKNSTVBWJ]")
_TIMES_OF_DAY = frozenset({"am", "pm"})


def unit_after(text: str, position: int) -> str:
    """Return the unit of measurement that follows a number in prose, behind a space; empty if none does.

    What may be a symbol in a formula (``3m``) is a unit at the end of a sentence.
    """
    following = clean(_EXCLAMATION.sub(".", text[position : position + MAX_LENGTH]))
    found = UnitFinder(following, letters_are_units=True).find(0, [("num", "", False)])
    if found is None:
        return ""
    name = found.spelling.rstrip(DOUBTFUL)
    is_doubtful = name != found.spelling
    if is_doubtful and (
        found.is_spaced or found.begins_with_slash or name in _RARE_LETTERS | _TIMES_OF_DAY
    ):
        return ""
    return f" {following[: found.end].strip(' .')}"


class UnitFinder:
    """Looks for units while a formula is read; keeps track of the braces that a second argument follows."""

    def __init__(self, text: str, letters_are_units: bool):
        self._text = text
        self._letters_are_units = letters_are_units
        self._opened: list[bool] = []
        self._before_argument = False

    def note(self, tokens: Sequence[tuple[str, str, bool]]) -> None:
        """Take notice of the sign that was read last."""
        value = tokens[-1][1]
        self._before_argument = False
        if value == "{":
            before = tokens[-2][1] if len(tokens) > 1 else ""
            self._opened.append(_TWO_ARGUMENTS.fullmatch(before) is not None)
        elif value == "}" and self._opened:
            self._before_argument = self._opened.pop()

    def find(self, position: int, tokens: Sequence[tuple[str, str, bool]]) -> FoundUnit | None:
        """Return the unit at a position behind the tokens read so far, or None if there is none."""
        if not tokens:
            return None
        before = Preceding(*tokens[-1][:2])
        if before.kind not in ("num", "name") and before.value not in _VALUE_ENDS:
            return None
        if before.value == "}" and self._before_argument:
            return None
        if _MAY_OPEN.match(self._text, position) is None:
            return None
        plain = self._letters_are_units and before.kind != "name"
        phrase = read_phrase(self._text, position, plain=plain)
        if phrase is None:
            return None
        return self._found(phrase, position, before)

    def _found(self, phrase: Phrase, position: int, before: Preceding) -> FoundUnit | None:
        space = _SPACE.match(self._text, position)
        is_spaced = space is not None and space.end() > position
        written = self._text[position : phrase.end]
        rest = self._text[phrase.end :].lstrip(" ~")
        begins_with_slash = written.lstrip(" ~").startswith("/")
        found = FoundUnit(phrase.spelling, phrase.end, is_spaced, begins_with_slash)
        if phrase.is_explicit:
            is_letter = len(phrase.factors) == 1 and len(phrase.factors[0][0]) == 1
            if is_letter and not is_word(phrase.factors[0][0]):
                is_apart = is_spaced or "~" in written or " " in written or "\\," in written
                if _GOES_ON.match(rest) and _ENDS.match(rest) is None:
                    return None
                if before.kind == "name" and not is_apart:
                    return None
            is_doubtful = _is_time(phrase, before, written) or _names_points(phrase, written)
            return found._replace(spelling=found.spelling + DOUBTFUL * is_doubtful)
        return self._plain(phrase, found, position, before)

    def _plain(
        self, phrase: Phrase, found: FoundUnit, position: int, before: Preceding
    ) -> FoundUnit | None:
        """Return a unit in plain letters, marked where it may be a product of symbols."""
        names = [name for name, _ in phrase.factors]
        longest = max(map(len, names))
        is_letter = False  # behind a value that is no number, a letter may always be a symbol
        follows_number = (
            before.kind == "num"
            or _POWER_OF_TEN.search(self._text[max(0, position - 30) : position]) is not None
        )
        if not follows_number and before.value not in _MONEY | {"\\circ", "\\degree"}:
            if not found.is_spaced:
                return None
            is_letter = longest < 2 and phrase.spelling not in _GLUED_QUOTIENTS
        rest = self._text[phrase.end :].lstrip(" ~")
        if _ENDS.match(rest) is None and not (longest > 1 and _SUM_SIGNS.match(rest)):
            return None
        is_fraction = "frac" in self._text[position : phrase.end] and longest < 2
        if is_fraction or is_letter or not _is_certain(phrase, found):
            return found._replace(spelling=found.spelling + DOUBTFUL)
        if not _is_time(phrase, before, found.spelling):
            return found
        return found._replace(spelling=found.spelling + DOUBTFUL)


def _is_time(phrase: Phrase, before: Preceding, written: str) -> bool:
    """Tell whether a picometre or attometre is rather the half of a day."""
    return phrase.spelling in _TIMES_OF_DAY and re.search(r"\\(?:math)?rm", written) is None


def _names_points(phrase: Phrase, written: str) -> bool:
    r"""Tell whether two capitals are rather a segment than a unit: ``2\mathrm{PA}``."""
    name = phrase.factors[0][0]
    is_alone = len(phrase.factors) == 1 and phrase.factors[0][1] == 1
    return (
        is_alone
        and _POINTS.fullmatch(name) is not None
        and not re.search(r"[~\s]|\\[,;: ]", written)
    )


def _is_certain(phrase: Phrase, found: FoundUnit) -> bool:
    """Tell whether plain letters behind a number are a unit and no product of symbols."""
    names = [name for name, _ in phrase.factors]
    spelling = phrase.spelling
    is_product = " " in phrase.joints or "*" in phrase.joints
    if spelling in _PRODUCTS and found.is_spaced:
        return True
    if max(map(len, names)) > 2 or any(
        name[0] in "\u03bc\u03a9\u00c5$\u20ac\u00a3" for name in names
    ):
        return True
    if found.begins_with_slash or (len(names) == 1 and names[0] in _RARE_LETTERS):
        return False
    if is_product and any(len(name) == 1 for name in names):
        is_quotient = "/" in phrase.joints or any(power != 1 for _, power in phrase.factors)
        return is_quotient and max(map(len, names)) == 2
    if spelling in _GLUED_QUOTIENTS:
        return True
    if max(map(len, names)) == 2:
        return found.is_spaced or any(name in _GLUED for name in names)
    return found.is_spaced
