"""Answers in words: multiple choice, times and dates, yes and no, names, and sentences around them.

Everything here compares text; mathematics is left to ``rewards.mathematics.equality``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.mathematics.tokens import NAMES

__all__ = [
    "choice_of",
    "direction_of",
    "is_sentence",
    "is_wording",
    "moments_agree",
    "plain_words",
    "same_words",
    "says_more",
    "spelled_out",
]

_STYLE = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textnormal|operatorname|boxed|mathsf|bf|rm)\s*(?=\{)"
)
_CHOICE = re.compile(r"(?:\(\s*([A-Za-z])\s*\)|\[([A-Za-z])\]|([A-Z])[.):])\s*(.*)", re.DOTALL)
_SIGN = re.compile(r"[+*/=<>^|%]|(?<![A-Za-z])-|(?<=\d)\.(?=\d)|\\[a-zA-Z]+")
_FURTHER_CHOICE = re.compile(
    r"(?<![A-Za-z])\([A-J]\)|^\s*(?:[,;&]|and\b|or\b)\s*\(?[A-Ja-j]\)?\W*$"
)
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?\d+(?:[.,/:]\d+)*%?")
_ARTICLES = frozenset("the a an is are of in on at to will be it that this there".split())
_REVERSING = frozenset(
    "not than no never neither nor or versus unlike except without instead but cannot and both".split()
)
_QUALIFIED = re.compile(r"[\s,(]+(?:where|for\s+(?:all|any|every|each|some))\s[^.;]*$")
_SYNONYMS = (
    (
        "infinity",
        {
            "infinitely many",
            "infinite",
            "infinity",
            "infty",
            "infinitely many solutions",
            "infinite solutions",
            "unbounded",
        },
    ),
    (
        "none",
        {
            "none",
            "no solution",
            "no solutions",
            "no real solution",
            "no real solutions",
            "empty set",
            "emptyset",
            "varnothing",
            "no such",
            "does not exist",
            "dne",
            "no real roots",
        },
    ),
    ("yes", {"yes", "true"}),
    ("no", {"no", "false"}),
)
_HAS_NONE = re.compile(
    r"^(?!.*\b(?:not|never|false|wrong|if|or|but|neither|cannot)\b)[^.;]{0,80}"
    r"\b(?:has|have|there (?:is|are))\s+(?=no (?:real )?(?:solutions?|roots)$)"
)
_PHRASES_OF = {
    "\\mathbb{R}": (
        "all real numbers; all reals; any real number; all real; all real x; all real values; real numbers;"
        " the set of all real numbers; the set of real numbers; set of real numbers"
    ),
    "\\mathbb{Z}": (
        "all integers; any integer; the integers; all integer values; the set of integers"
    ),
    "\\emptyset": (
        "no solution; no solutions; no real solution; no real solutions; the empty set; empty set; empty;"
        " there is no solution; there are no solutions; no such numbers; emptyset; null set"
    ),
}
_LATEX_OF = {
    phrase: latex for latex, phrases in _PHRASES_OF.items() for phrase in phrases.split("; ")
}
_ALL_BUT = re.compile(
    r"(?:the set of )?all real(?: number)?s?(?: x)?,?\s*(?:except|other than|but|excluding|not equal to)(?: for)?"
    r"\s+(?:x\s*=\s*)?(?P<removed>-?[\d./]+(?:(?:\s*,\s*|\s+and\s+|\s*,\s*and\s+)-?[\d./]+)*)"
)
_CHANGING = _REVERSING | frozenset(
    "less more fewer greater least most half twice double triple third quarter times squared cubed minus negative"
    " below above under over hundred thousand million billion dozen or about between from either"
    " square factorial halves thirds fourths quarters fifths sixths sevenths eighths ninths tenths hundredths"
    " thousandths tens hundreds thousands millions billions trillion trillions dozens pair pairs".split()
)
_DOWNWARD = frozenset(
    "decrease decreases decreased decreasing fall falls fell fallen drop drops dropped decline declines declined reduce"
    " reduces reduced reduction loss losses lose loses lost shrinks shrank down lower less fewer deficit"
    " debt".split()
)
_UPWARD = frozenset(
    "increase increases increased increasing rise rises rose risen grow grows grew gain gains gained profit up higher"
    " surplus".split()
)
_TIME = re.compile(
    r"(\d{1,2})\s?:\s?(\d{2})(?::(\d{2}))?\s*(?:\\?,|~)?\s*([ap])?\.?\s*(?:m\.?)?", re.IGNORECASE
)
_HOUR = re.compile(r"(\d{1,2})\s*(?:\\?,|~)?\s*([ap])\.?\s*m\.?", re.IGNORECASE)
_MONTHS = {
    name: index + 1
    for index, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())
}
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)(?![a-z])\.?"
)
_DATES = (
    re.compile(
        rf"{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?P<year>\d{{4}}))?", re.IGNORECASE
    ),
    re.compile(
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+(?P<year>\d{{4}}))?",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"),
)


class Time(NamedTuple):
    """A time of day; ``is_half_known`` if it says am or pm."""

    hour: int
    minute: int
    second: int
    is_half_known: bool


class Date(NamedTuple):
    """A date; None if it has no year."""

    year: str | None
    month: int
    day: int


def plain_words(text: str) -> str:
    """Return the text without LaTeX's styling, braces and dollar signs."""
    bare = _STYLE.sub("", text)
    bare = re.sub(r"\\[,;:! ]|~|\\q?quad|\\left|\\right|[{}$]", " ", bare)
    return " ".join(bare.split()).strip(" .")


def spelled_out(text: str) -> str:
    """Return LaTeX for the phrases that name a set ("all real numbers", "no solution"); other text unchanged."""
    if not 4 < len(text) < 80:
        return text
    phrase = _HAS_NONE.sub("", plain_words(text).lower())
    all_but = _ALL_BUT.fullmatch(phrase)
    if all_but is not None and phrase == " ".join(text.lower().split()):
        return f"\\mathbb{{R}} \\setminus \\{{{all_but['removed'].replace(' and ', ', ')}\\}}"
    return _LATEX_OF.get(phrase, text)


def says_more(text: str) -> bool:
    """Tell whether text around a value changes it: "less than", "half of", "not"."""
    return not _CHANGING.isdisjoint(_WORD.findall(text.lower()))


def direction_of(text: str) -> str:
    """Return whether text around a value says that it went "down" or "up"; an empty string if neither or both."""
    words = set(_WORD.findall(text.lower()))
    is_down = not _DOWNWARD.isdisjoint(words)
    is_up = not _UPWARD.isdisjoint(words)
    if is_down == is_up:
        return ""
    return "down" if is_down else "up"


# multiple choice, times and dates


def choice_of(text: str) -> tuple[str, str] | None:
    """Return the letter of a multiple-choice answer and what follows it; None if there is no such letter."""
    bare = plain_words(text)
    if len(bare) == 1 and bare.isalpha():
        return bare.upper(), ""
    match = _CHOICE.fullmatch(bare) if len(bare) <= 200 else None
    if match is None or _FURTHER_CHOICE.search(match[4]):
        return None
    letter = match[1] or match[2] or match[3]
    return letter.upper(), match[4].strip()


def moments_agree(pred: str, gold: str) -> bool | None:
    """Tell whether two times or two dates agree; None for anything else.

    A year or an "am" that one side leaves out is no difference. What may be a time (4:15) is no quotient, unless the
    gold is a ratio too, which 7:01 is not, and 2020-05-01 no difference of numbers.
    """
    claimed = _moment_of(pred)
    true = _moment_of(gold)
    is_no_ratio = isinstance(true, Date) or re.search(r":0\d", gold) is not None
    if _is_no_number(claimed, gold) or (is_no_ratio and _is_no_number(true, pred)):
        return False
    if isinstance(claimed, Date) and isinstance(true, Date):
        years_agree = None in (claimed.year, true.year) or claimed.year == true.year
        return years_agree and claimed[1:] == true[1:]
    if isinstance(claimed, Time) and isinstance(true, Time):
        return _times_agree(claimed, true)
    return _hours_agree(plain_words(pred), plain_words(gold))


def _is_no_number(moment: Time | Date | None, other: str) -> bool:
    """Tell whether a moment stands against a number, which it is not although its signs could be computed."""
    if moment is None or _moment_of(other) is not None:
        return False
    is_bare = isinstance(moment, Date) or not moment.is_half_known
    return is_bare and ":" not in other and re.search(r"\d", other) is not None


def _hours_agree(claimed: str, true: str) -> bool | None:
    """Tell whether "3 pm" is the bare number that the gold asks for; None for anything else."""
    hour = _HOUR.fullmatch(claimed)
    if hour is None or re.fullmatch(r"\d{1,2}", true) is None:
        return None
    return int(hour[1]) == int(true)


def _times_agree(claimed: Time, true: Time) -> bool:
    if claimed[1:3] != true[1:3]:
        return False
    is_half_unclear = claimed.is_half_known != true.is_half_known
    if is_half_unclear and max(claimed.hour, true.hour) <= 12:
        return claimed.hour % 12 == true.hour % 12
    return claimed.hour == true.hour


def _moment_of(text: str) -> Time | Date | None:
    """Return a time of day or a date; None for anything else."""
    bare = plain_words(text)
    if len(bare) > 40:
        return None
    match = _TIME.fullmatch(bare)
    if match:
        return _time_of(match)
    hour = _HOUR.fullmatch(bare)
    if hour and 1 <= int(hour[1]) <= 12:
        return Time(int(hour[1]) % 12 + (12 if hour[2] in "pP" else 0), 0, 0, is_half_known=True)
    for pattern in _DATES:
        match = pattern.fullmatch(bare)
        if match:
            month = match["month"]
            number = int(month) if month.isdigit() else _MONTHS[month[:3].lower()]
            return Date(match["year"], number, int(match["day"]))
    return None


def _time_of(match: re.Match[str]) -> Time | None:
    hour = int(match[1])
    minute = int(match[2])
    second = int(match[3] or 0)
    if hour > 24 or minute > 59:
        return None
    if second > 59:
        return None
    half = (match[4] or "").lower()
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return Time(hour, minute, second, is_half_known=bool(half))


# sentences


def is_sentence(text: str) -> bool:
    """Tell whether a text is prose and no formula: three words or more, no relation, power or command."""
    bare = plain_words(text)
    value = _QUALIFIED.sub("", bare)
    if value != bare and not re.search(r"[A-Za-z]{2}", value.replace("pi", "")):
        return False
    if re.search(r"[=<>^_\\]", bare):
        return False
    words = [word for word in re.findall(r"[A-Za-z]{2,}(?![A-Za-z(])", bare) if word not in NAMES]
    return len(words) >= 3


def is_wording(text: str) -> bool:
    """Tell whether a text is nothing but words: a name, a phrase, a list of them."""
    bare = plain_words(text)
    if not re.fullmatch(r"[A-Za-z][A-Za-z ,;.'!?-]*", bare):
        return False
    if all(len(word) == 1 or word in NAMES for word in re.findall("[A-Za-z]+", bare)):
        return False
    return re.search(r"[A-Za-z]{3}", bare) is not None


def same_words(pred: str, gold: str, lenient: bool) -> bool:
    """Tell whether two answers in words agree.

    Case, punctuation, order around "and" and commas, and articles do not count. Lenient also accepts a phrase
    that a gold sentence contains, unless that sentence negates or compares, and synonyms of "none" or "infinite".
    """
    pred_words = _words(pred)
    gold_words = _words(gold)
    if not pred_words or not gold_words:
        return False
    if not _numbers_agree(pred, gold):
        return False
    pred_signs = _SIGN.findall(plain_words(pred))
    gold_signs = _SIGN.findall(plain_words(gold))
    has_same_signs = pred_signs == gold_signs
    if has_same_signs and pred_words == gold_words:
        return True
    if has_same_signs and _list_items(pred) == _list_items(gold):
        return True
    if not lenient:
        return False
    if _synonym(pred) == _synonym(gold) != "":
        return True
    if not set(pred_signs) <= set(gold_signs):
        return False
    return _is_phrase_of(pred_words, gold_words)


def _numbers_agree(pred: str, gold: str) -> bool:
    """Tell whether numbers in the text are no obstacle: equal with their signs and points, or on one side alone."""
    numbers = _NUMBER.findall(plain_words(pred))
    gold_numbers = _NUMBER.findall(plain_words(gold))
    return not numbers or not gold_numbers or sorted(numbers) == sorted(gold_numbers)


def _words(text: str) -> list[str]:
    """Return a text's words without articles, unless nothing else is left."""
    words = _WORD.findall(plain_words(text).lower())
    return [word for word in words if word not in _ARTICLES] or words


def _list_items(text: str) -> list[str]:
    """Return the sorted items of a list in words."""
    pieces = re.split(r",|;|\band\b", plain_words(text).lower())
    return sorted(" ".join(_words(piece)) for piece in pieces if piece.strip())


def _synonym(text: str) -> str:
    """Return the common name of phrases that mean the same, or an empty string."""
    bare = plain_words(text).lower().lstrip("\\")
    return next((name for name, phrases in _SYNONYMS if bare in phrases), "")


def _is_phrase_of(phrase: list[str], sentence: list[str]) -> bool:
    """Tell whether a sentence contains the phrase, word by word, and neither negates nor compares it."""
    length = len(phrase)
    if len(sentence) < 3:
        return False
    if length > len(sentence):
        return False
    if _REVERSING & set(sentence) - set(phrase):
        return False
    if all(word.isdigit() or len(word) < 3 for word in phrase):
        return False
    starts = range(len(sentence) - length + 1)
    return any(sentence[start : start + length] == phrase for start in starts)
