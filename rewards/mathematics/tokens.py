"""The words of LaTeX answers: which signs there are, and how a text is cut into them.

`tokens` decides what a run of letters is: a function, a connector, a word of prose, a unit, or a product of
symbols. What the tokens mean together is ``rewards.mathematics.latex``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.mathematics.units import unit_of

__all__ = [
    "ACCENTS", "ALIASES", "APPLIED", "BIG", "BINOMIALS", "CLOSING", "CONNECTORS", "CONSTANTS", "DIVIDE", "END",
    "FRACTIONS", "FUNCTIONS", "INVERSES", "MONEY", "MULTIPLIERS", "NUMBER_SETS", "OPENING", "QUALIFIERS", "RELATIONS",
    "ROW_ENDS", "SET_OPERATIONS", "TIMES", "Token", "tokens",
]  # fmt: skip


class Token(NamedTuple):
    """A piece of the text: its kind (num, cmd, name, text, mark), content, and whether space precedes it."""

    kind: str
    value: str
    spaced: bool = False


END = Token("end", "")

_TEXT_COMMANDS = "text|mbox|hbox|textnormal|textrm|textbf|textit|emph|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname"
_TOKEN = re.compile(
    r"(?P<skip>(?:\s|~|\\[,;:!> ]|\\(?:q?quad|displaystyle|textstyle|limits|nolimits|left|right|middle|[bB]igg?[lrm]?"
    r"|rm|bf|it)(?![A-Za-z]))+)"
    r"|(?P<num>(?:\d{1,3}(?:(?:\{,\}|,\\!|\\,|\\!|,\\,)\s*\d{3})+(?!\d)|\d+)"
    r"(?:\.\d+(?:[eE]\d+)?|\.(?![.\d]))?(?:[eE][+-]\d+)?|\.\d+)"
    rf"|\\(?P<style>{_TEXT_COMMANDS})\*?\s*\{{(?P<text>[^{{}}]*)\}}"
    r"|(?P<cmd>\\[A-Za-z]+)"
    r"|(?P<mark>\\\\|\\[{}|%$#&_]|<=|>=|!=|\.{3}|.)",
    re.DOTALL,
)
_GROUPED = re.compile(
    r"[1-9]\d{0,2}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?|\d{1,3}(?: \d{3})+(?!\s?\d)(?:\.\d+)?"
)
_WORD = re.compile(r"[A-Za-z]+")

FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh",
    "ln", "log", "lg", "exp", "max", "min", "gcd", "lcm", "det", "deg", "dim", "Re", "Im", "arg", "sgn", "sqrt",
    "asin", "acos", "atan", "sign",
}  # fmt: skip
ALIASES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "arctg": "arctan", "sign": "sgn", "arcctg": "arccot", "arsinh": "asinh", "sh": "sinh", "ch": "cosh",
}  # fmt: skip
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc",
            "sinh": "asinh", "cosh": "acosh", "tanh": "atanh"}  # fmt: skip
APPLIED = frozenset({"f", "g", "\\varphi", "\\phi", "\\psi"})
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=",
    "\\leqq": "<=", "<=": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=", ">=": ">=",
    "\\ne": "!=", "\\neq": "!=", "!=": "!=", "\\approx": "~", "\\simeq": "~", "\\in": "in", "\\equiv": "==",
    "\\notin": "notin", "\\to": "->", "\\rightarrow": "->", "\\mapsto": "->", "\\cong": "cong", "\\sim": "sim",
    "\\Leftrightarrow": "<->", "\\iff": "<->", "\\Rightarrow": "=>", "\\implies": "=>", "\\parallel": "par",
    "\\perp": "perp", "\\subset": "sub", "\\subseteq": "sub", "\\mid": "mid", "\\doteq": "~", "\\coloneqq": "=",
}  # fmt: skip
TIMES = {"\\cdot", "\\times", "*", "\\ast", "\\bullet"}
DIVIDE = {"/", "\\div"}
SET_OPERATIONS = {"\\cup": "union", "\\bigcup": "union", "\\cap": "inter", "\\setminus": "minus",
                   "\\backslash": "minus", "\\smallsetminus": "minus"}  # fmt: skip
OPENING = {"(": ")", "[": "]", "\\{": "\\}", "\\lbrace": "\\}", "\\langle": "\\rangle", "\\lfloor": "\\rfloor",
            "\\lceil": "\\rceil", "\\lvert": "\\rvert", "\\lVert": "\\rVert", "\\lbrack": "]"}  # fmt: skip
CLOSING = frozenset(
    {
        ")",
        "]",
        "\\}",
        "\\rbrace",
        "\\rangle",
        "\\rfloor",
        "\\rceil",
        "\\rvert",
        "\\rVert",
        "}",
        "\\rbrack",
    }
)
ROW_ENDS = frozenset({"&", "\\\\", "\\end", "."})
CONSTANTS = {"\\infty": "inf", "\\pi": "pi", "\\infin": "inf"}
NUMBER_SETS = {"R": "R", "Z": "Z", "N": "N", "Q": "Q", "C": "C"}
MONEY = {"\\$": "$", "$": "$", "\u20ac": "\u20ac", "\u00a3": "\u00a3", "\u00a2": "\u00a2"}
FRACTIONS = {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\sfrac", "\\nicefrac"}
BINOMIALS = {"\\binom", "\\dbinom", "\\tbinom"}
ACCENTS = {"\\vec", "\\hat", "\\bar", "\\tilde", "\\overrightarrow", "\\widehat", "\\overline", "\\underline",
           "\\mathcal", "\\mathscr", "\\mathfrak", "\\dot", "\\wideparen", "\\overset"}  # fmt: skip
CONNECTORS = {
    "and": "and",
    "or": "or",
    "\\land": "and",
    "\\lor": "or",
    "\\wedge": "and",
    "\\vee": "or",
    "und": "and",
}
QUALIFIERS = frozenset(
    {"for", "where", "with", "such", "in", "as", "respectively", "on", "given", "assuming"}
)
MULTIPLIERS = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
BIG = {"\\sum": "sum", "\\prod": "prod"}
_SHORT_WORDS = frozenset(
    "the is are of to be it no yes one two six ten any all odd not has for day days only sum set add men even per cat"
    " dog win won red blue top his her she who its was a an".split()
)


def tokens(text: str, grouped: bool) -> list[Token]:
    """Return the tokens of a cleaned text; `grouped` reads ``1,234`` outside brackets as one number."""
    found: list[Token] = []
    position, spaced, depth = 0, False, 0
    while match := _TOKEN.match(text, position):
        kind = match.lastgroup
        if kind == "mark" and (word := _WORD.match(text, position)):
            found += _named(word.group(), spaced, found)
            position, spaced = word.end(), False
            continue
        if kind == "num" and grouped and depth == 0:
            match = _GROUPED.match(text, position) or match
        position = match.end()
        if kind == "text":
            found += _styled(match.group("style"), match.group("text"), spaced, found)
        elif kind != "skip":
            found.append(_token(match, kind, spaced))
            depth += (found[-1].value in OPENING) - (found[-1].value in CLOSING)
        spaced = kind == "skip"
    return found


def _token(match: re.Match[str], kind: str | None, spaced: bool) -> Token:
    """Return the token of a match that is not a run of letters."""
    if kind == "num" or match.re is not _TOKEN:
        return Token("num", re.sub(r"[^\d.eE+-]", "", match.group()), spaced)
    if kind == "mark" and match.group().isalpha():
        return Token("text", match.group(), spaced)
    return Token("cmd" if kind == "cmd" else "mark", match.group(), spaced)


def _styled(style: str, content: str, spaced: bool, before: list[Token]) -> list[Token]:
    r"""Return the tokens of ``\text{...}`` and its kin: connectors, a function, a letter or plain text."""
    bare = content.strip()
    if style.startswith("text") and re.match(r"[-+]?\.?\d", bare):
        return tokens(content, grouped=True)
    low = ALIASES.get(bare, bare)
    if (low in FUNCTIONS or low in INVERSES) and not _is_unit(bare, before):
        return [Token("cmd", "\\" + low, spaced)]
    single = len(bare) == 1 and bare.isalpha() and style.startswith(("math", "bold", "bm", "oper"))
    if single and (unit_of(bare) is None or style != "mathrm"):
        return [Token("name", bare, spaced)]
    front, connector, after = _linked(bare)
    if connector is None:
        return (
            [Token("text", content, spaced)]
            if bare.strip(" ,;.")
            else [Token("mark", mark) for mark in bare if mark in ",;"]
        )
    outer = [Token("text", front, spaced)] if front else []
    return [
        *outer,
        Token("cmd", "\\" + connector, spaced),
        *([Token("text", after, True)] if after else []),
    ]


def _is_unit(word: str, before: list[Token]) -> bool:
    """Tell whether a word that is also a function's name (min, deg) is the unit of the number before it."""
    return bool(before) and before[-1].kind == "num" and unit_of(word) is not None


def _linked(text: str) -> tuple[str, str | None, str]:
    """Split words at an "and" or "or" that opens or ends them; None where there is no such connector."""
    match = re.fullmatch(
        r"(?:(?P<before>.*?)[\s,;]+)?(?P<link>and|or)[\s,;]*", text, re.DOTALL | re.IGNORECASE
    )
    if match:
        return (match["before"] or "").strip(" ,;"), match["link"].lower(), ""
    match = re.fullmatch(
        r"[\s,;]*(?P<link>and|or)\s+(?P<after>.*)", text, re.DOTALL | re.IGNORECASE
    )
    return ("", match["link"].lower(), match["after"]) if match else (text, None, "")


def _named(word: str, spaced: bool, before: list[Token]) -> list[Token]:
    """Return the tokens of a run of letters: a function, a connector, a word of prose, or single letters."""
    low = ALIASES.get(word, word)
    if low in FUNCTIONS and not _is_unit(word, before):
        return [Token("cmd", "\\" + low, spaced)]
    if word.lower() in ("and", "or"):
        return [Token("cmd", "\\" + word.lower(), spaced)]
    if word.lower() in ("percent", "pct", "percentage"):
        return [Token("mark", "%", spaced)]
    after_number = bool(before) and before[-1].kind == "num"
    unit = (
        unit_of(word)
        if len(word) > 1 and (after_number or (spaced and before and _may_carry_unit(before[-1])))
        else None
    )
    if (
        (unit is not None and (after_number or not unit.is_noun))
        or _is_word(word)
        or (after_number and word in ("st", "nd", "rd", "th"))
    ):
        return [Token("text", word, True)]
    for name in ("sin", "cos", "tan", "log", "ln"):
        if name in word and len(word) <= len(name) + 2:
            at = word.index(name)
            return (
                _letters(word[:at], spaced)
                + [Token("cmd", "\\" + name, False)]
                + _letters(word[at + len(name) :], False)
            )
    return _letters(word, spaced)


def _may_carry_unit(token: Token) -> bool:
    """Tell whether a unit in plain letters may follow: behind brackets, or behind words such as "square"."""
    return token.kind == "text" or token.value in ("}", ")", "]")


def _letters(word: str, spaced: bool) -> list[Token]:
    """Return a token for each letter."""
    return [Token("name", letter, spaced and index == 0) for index, letter in enumerate(word)]


def _is_word(word: str) -> bool:
    """Tell whether a run of letters is a word of a language rather than a product of symbols."""
    if word.lower() in _SHORT_WORDS and len(word) > 1 and not word.isupper():
        return True
    if len(word) >= 3 and word.isupper():
        return True
    return len(word) >= 4 and word[1:].islower() and bool(set(word.lower()) & set("aeiouy"))
