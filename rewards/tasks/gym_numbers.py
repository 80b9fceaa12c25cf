"""Rules for reasoning-gym's numeric tasks: an answer states the right number, or numbers, and nothing else.

reasoning-gym's own verifiers take the first number of a text (``28080 or 7`` for 28080, 28 for ``28,080``), drop a
sign, or refuse every spelling but one. Here a number may be written as people write it: with separators, a currency
or a unit, a full stop, zeros behind the point, in dollars or a box, as a power of ten. Whether two numbers agree is
decided by ``rewards.mathematics``; where a task rounds, its rounding is the tolerance. Expressions are no answers:
``4 + 3`` is the question.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any, Callable, Mapping

from rewards.mathematics.equality import equal
from rewards.mathematics.plain_number import read_plain_number

__all__ = ["NUMERIC", "bare", "number_of", "same_number"]

Rule = Callable[[str, str, Mapping[str, Any]], bool]
MAX_LENGTH = 2000
MAX_EXPONENT = 400

_WRAPPINGS = (
    ("\\boxed{", "}"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"),
    ("\\text{", "}"), ("\\mathrm{", "}"), ("\\mathbf{", "}"),
)  # fmt: skip
_TEN_TO = re.compile(
    r"(.*\d\.?)\s*(?:[eE]|(?:\\times|\\cdot|[×x*·])\s*10\s*(?:\^|\*\*)\s*\{?\s*\(?)\s*([-+−]?\d{1,4})\s*\)?\}?"
)
_LITERAL = r"(?:\d{1,3}(?:(?:,|\{,\}|,?\\[,!; ]|[\u202f\u00a0\u2009 ])\d{3})+(?!\d)|\d+)?\.?\d*"
_LONE_NUMBER = re.compile(
    rf"(?:[A-Za-z](?:_\{{?\w\}}?)?\s*=\s*)?[^\d\w+*/^=()\[\]{{}}<>|&,;:!√±\\]*(?:\\\$\s*)?{_LITERAL}(?:\s*/\s*\d+)?"
    r"[^-+*/^=()\[\]<>|&,;:!√±\d]*(?:\^\\?\{?\\?circ\}?)?"
)
_HAS_DIGIT = re.compile(r"\d")
_IN_WORDS = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+)*")
_LIST_COMMA = re.compile(r"\d,\s+\d")


_LEADING = re.compile(
    r"(?:=|(?:the )?(?:final |correct )?answer\s*(?:is\s*:?|[:=]))\s*", re.IGNORECASE
)
_NEGATIVE_IN_BRACKETS = re.compile(r"\(\s*([-−]\s*\d[\d,]*\.?\d*)\s*\)")

# ---- reading ----------------------------------------------------------------------------------------------------


def bare(text: str) -> str:
    """A text without what announces it, the delimiters around all of it, and a closing full stop."""
    text = text.strip()
    while True:
        announced = _LEADING.match(text)
        inner = _unwrapped(text[announced.end() :] if announced else text)
        inner = _without_brackets(inner)
        if inner.endswith(".") and not inner.endswith(".."):
            inner = inner[:-1].rstrip()
        if inner == text:
            return text
        text = inner


def _unwrapped(text: str) -> str:
    for opening, closing in _WRAPPINGS:
        inner = text[len(opening) : -len(closing)]
        is_whole = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening)
        if is_whole and opening not in inner and _is_closed(inner) and inner.strip():
            return inner.strip()
    return text


def _without_brackets(text: str) -> str:
    """A negative number without the brackets around it; any other text as it is."""
    match = _NEGATIVE_IN_BRACKETS.fullmatch(text)
    return match[1] if match else text


def _is_closed(text: str) -> bool:
    """Whether braces pair up within the text itself."""
    depth = 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if depth < 0:
            return False
    return depth == 0


def number_of(text: str) -> Fraction | None:
    """The number that a text writes out in digits, percent as hundredths; None if it says anything else, or more."""
    text = bare(text)
    if len(text) > MAX_LENGTH or _LIST_COMMA.search(text):
        return None
    exponent = 0
    match = _TEN_TO.fullmatch(text)
    if match is not None:
        text = match[1]
        exponent = int(match[2].replace("−", "-"))
    plain = read_plain_number(text)
    if plain is None or abs(exponent) > MAX_EXPONENT or (match is not None and plain.percent):
        return None
    value = plain.value / 100 if plain.percent else plain.value
    return value * Fraction(10) ** exponent


def numbers_of(text: str) -> list[Fraction] | None:
    """The numbers of a list, with or without brackets and quotes; None if anything else is in it."""
    text = bare(text)
    for opening, closing in ("[]", "()", "{}"):
        if text.startswith(opening) and text.endswith(closing):
            text = text[1:-1].strip()
            break
    if not text:
        return []
    values = [number_of(item.strip().strip("'\"")) for item in text.split(",")]
    return None if None in values else [value for value in values if value is not None]


def same_number(answer: str, gold: str) -> bool:
    """Whether the answer is one number, a unit allowed, that our own equality finds equal to the gold."""
    answer = bare(answer)
    gold = bare(gold)
    value = number_of(answer)
    if value is not None and value == number_of(gold):
        return True
    if len(answer) > MAX_LENGTH or number_of(gold) is None or not _states_one_number(answer):
        return False
    return equal(answer, gold).equal is True


def _states_one_number(text: str) -> bool:
    """Whether a text holds one number, in digits or words, with at most a unit: nothing to be worked out."""
    if number_of(text) is not None or _IN_WORDS.fullmatch(text):
        return True
    return bool(_HAS_DIGIT.search(text) and _LONE_NUMBER.fullmatch(text))


# ---- rules ------------------------------------------------------------------------------------------------------


def _within(answer: Fraction | None, gold: Any, tolerance: Any) -> bool:
    return answer is not None and abs(answer - Fraction(gold)) <= Fraction(tolerance)


def _near(tolerance: str) -> Rule:
    """A rule for golds rounded by the task: what lies within ``tolerance`` of the gold is right."""

    def rule(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
        right = number_of(gold)
        return right is not None and _within(number_of(answer), right, tolerance)

    return rule


def _decimal(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """Within one unit of the last decimal that the task's numbers may have, as its own verifier."""
    places = metadata["difficulty"]["decimal_places"][1]
    return _near(f"1e-{places}")(answer, gold, metadata)


def _probability(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """Within a ten-thousandth, and within a hundredth of the gold: 0 is not 3e-5."""
    right = number_of(gold)
    if right is None:
        return False
    return _within(number_of(answer), right, min(Fraction(1, 10_000), abs(right) / 100))


def _three_digits(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """The gold to three significant digits; more digits must agree when rounded."""
    value = number_of(answer)
    right = number_of(gold)
    if value is None or right is None:
        return False
    return f"{float(value):.2e}" == f"{float(right):.2e}"


def _complex(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """``a + bi`` in either order: whole numbers exactly, others to a hundredth."""
    parts = _complex_parts(answer)
    right = _complex_parts(gold)
    if parts is None or right is None:
        return False
    exact = all(part.denominator == 1 for part in right)
    tolerance = Fraction(0) if exact else Fraction(1, 100)
    return all(abs(part - wanted) <= tolerance for part, wanted in zip(parts, right))


_TERM = re.compile(r"([-+]?)(\d{0,300}(?:\.\d{0,300})?)\*?([ij]?)")


def _complex_parts(text: str) -> tuple[Fraction, Fraction] | None:
    text = bare(text).replace("−", "-").replace(" ", "")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    text = text.replace("+-", "-").replace("--", "+")
    terms = re.split(r"(?<=[^-+])(?=[-+])", text)
    found: dict[bool, Fraction] = {}
    for term in terms:
        match = _TERM.fullmatch(term)
        if match is None or not (match[2].strip(".") or match[3]) or bool(match[3]) in found:
            return None
        size = Fraction(match[2].strip(".") or 1) if match[2] != "." else None
        if size is None:
            return None
        found[bool(match[3])] = -size if match[1] == "-" else size
    return found.get(False, Fraction(0)), found.get(True, Fraction(0))


def _simplified_fraction(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """The fraction in lowest terms as such: its value alone is in the question already."""
    wanted = (metadata["simplified_numerator"], metadata["simplified_denominator"])
    return _fraction_as_written(answer) == wanted


_FRACTION = re.compile(
    r"(-?)(?:\\[dtc]?frac\s*(?:\{\s*(-?\d{1,300})\s*\}\s*\{\s*(\d{1,300})\s*\}|(\d)(\d))|(\d{1,300})\s*/\s*(\d{1,300}))"
)


def _fraction_as_written(text: str) -> tuple[int, int] | None:
    match = _FRACTION.fullmatch(bare(text))
    if match is None:
        return None
    top, bottom = (int(part) for part in match.groups()[1:] if part is not None)
    return (-top if match[1] else top), bottom


def _prime_factors(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    factors = _factors(answer)
    return factors is not None and factors == _factors(gold)


_FACTOR = re.compile(r"(\d{1,30})\s*(?:(?:\^|\*\*)\s*\{?\s*(\d{1,3})\s*\}?)?")


def _factors(text: str) -> list[int] | None:
    """The factors of a product, sorted; ``7^2`` is 7 twice."""
    text = bare(text).rpartition("=")[2] if text.count("=") == 1 else bare(text)
    factors: list[int] = []
    for part in re.split(r"\\times|\\cdot|[×xX·]|(?<!\*)\*(?!\*)", text):
        match = _FACTOR.fullmatch(part.strip())
        if match is None:
            return None
        factors += [int(match[1])] * int(match[2] or 1)
    return sorted(factors)


NO_ROOTS = (
    "none",
    "no real solution",
    "no real solutions",
    "no solution",
    "no solutions",
    "no real roots",
    "[]",
    "∅",
)


def _roots(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """All real roots, in any order, each to a thousandth."""
    right = numbers_of(gold)
    if not right:
        return bare(answer).casefold() in NO_ROOTS
    text = re.sub(r"[A-Za-z](?:_\{?\d\}?)?\s*=\s*", "", bare(answer))
    values = numbers_of(re.sub(r"\s*,?\s*\b(?:and|or)\b\s*", ", ", text))
    if values is None or len(values) != len(right):
        return False
    pairs = zip(sorted(values), sorted(right))
    return all(_within(value, wanted, Fraction(1, 1000)) for value, wanted in pairs)


def _geometry(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """An angle to two decimals, a radius or a point's coordinates to three."""
    if metadata["task_type"] != "orthocenter":
        places = "0.005" if metadata["task_type"] == "angle_measure" else "0.0005"
        return _near(places)(_without_degrees(answer), _without_degrees(gold), metadata)
    point = numbers_of(re.sub(r"^\s*\\left|\\right\s*(?=\)\s*$)", "", bare(answer)))
    right = numbers_of(gold)
    if point is None or right is None or len(point) != len(right):
        return False
    return all(_within(value, wanted, "0.0005") for value, wanted in zip(point, right))


def _without_degrees(text: str) -> str:
    return re.sub(r"\s*(?:°|\^\s*\{?\s*\\circ\s*\}?|degrees?)\s*$", "", bare(text))


def _calendar(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    if number_of(gold) is not None:
        return same_number(answer, gold)
    return bare(answer).casefold() == bare(gold).casefold()


_DURATION = re.compile(
    r"(?:(\d{1,9})\s*days?(?:,\s*|\s+|$))?(?:(\d{1,9}):(\d{2})(?::(\d{2}(?:\.\d{1,9})?))?)?"
)


def _duration(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """A number of days, a time, or both: the same to the digit."""
    seconds = _seconds(answer, counts_days="day" in gold)
    return seconds is not None and seconds == _seconds(gold, counts_days=True)


def _seconds(text: str, counts_days: bool) -> Fraction | None:
    text = bare(text)
    if counts_days and re.fullmatch(r"\d{1,9}", text):
        text += " days"
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return 86_400 * days + 3600 * hours + 60 * minutes + seconds


def _hexadecimal(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """The hexadecimal number in either case; leading zeros say nothing."""
    return _hexadecimal_value(answer) == _hexadecimal_value(gold) is not None


def _hexadecimal_value(text: str) -> int | None:
    match = re.fullmatch(r"([-+]?)(0x[0-9a-f]{1,300})", bare(text).replace("−", "-").casefold())
    return int(match[1] + match[2], 16) if match is not None else None


def _list_in_order(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """The same numbers in the same order, quoted or not."""
    values = numbers_of(answer)
    return values is not None and values == numbers_of(gold)


def _board(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """The same JSON, and nothing in addition."""
    try:
        return bool(json.loads(bare(answer)) == json.loads(gold))
    except (ValueError, RecursionError):
        return False


def _matrix(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """Every cell to a hundredth of itself, in rows of the right length; as lines or as a list of lists."""
    cells = _cells(answer)
    right = _cells(gold)
    if cells is None or right is None or [len(row) for row in cells] != [len(row) for row in right]:
        return False
    pairs = [pair for rows in zip(cells, right) for pair in zip(*rows)]
    return all(_within(value, wanted, abs(wanted) / 100) for value, wanted in pairs)


def _cells(text: str) -> list[list[Fraction]] | None:
    rows = []
    for line in bare(text).strip("[]").replace("],", "\n").splitlines():
        cells = [number_of(cell) for cell in line.strip(" [],").replace(",", " ").split()]
        if not cells or None in cells:
            return None
        rows.append([cell for cell in cells if cell is not None])
    return rows


NUMERIC: Mapping[str, Rule] = {
    "advanced_geometry": _geometry,
    "bitwise_arithmetic": _hexadecimal,
    "calendar_arithmetic": _calendar,
    "coin_flip": _probability,
    "complex_arithmetic": _complex,
    "decimal_arithmetic": _decimal,
    "fraction_simplification": _simplified_fraction,
    "game_of_life": _board,
    "list_functions": _list_in_order,
    "number_filtering": _list_in_order,
    "number_format": _near("0.01"),
    "polynomial_equations": _roots,
    "pool_matrix": _matrix,
    "power_function": _three_digits,
    "prime_factorization": _prime_factors,
    "time_intervals": _duration,
}
"""Task -> (answer, gold, metadata) -> whether the answer is right. Where one number is right, it is `same_number`."""
