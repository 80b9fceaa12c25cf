"""The lexer: which signs LaTeX answers use, and how a text is split into tokens.

`tokens` decides what a run of letters is: a function, a connector, a word of prose, a unit, or a product of
symbols. What the tokens mean together is ``rewards.mathematics.latex``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.mathematics.unit_tokens import UnitFinder
from rewards.mathematics.units import unit_of

__all__ = [
    "ACCENTS",
    "ALIASES",
    "APPLIED",
    "BIG",
    "BINOMIALS",
    "CLOSING",
    "CONNECTORS",
    "CONSTANTS",
    "DIVIDE",
    "END",
    "FRACTIONS",
    "FUNCTIONS",
    "INVERSES",
    "MONEY",
    "MULTIPLIERS",
    "NAMES",
    "NUMBER_SETS",
    "OPENING",
    "QUALIFIERS",
    "RELATIONS",
    "ROW_ENDS",
    "SET_OPERATIONS",
    "TIMES",
    "Token",
    "tokens",
]


class Token(NamedTuple):
    """A piece of the text: its kind (num, cmd, name, text, unit, mark), content, and whether a space precedes it."""

    kind: str
    value: str
    spaced: bool = False


END = Token("end", "")

_TEXT_COMMANDS = (
    "text|mbox|hbox|textnormal|textrm|textbf|textit|emph|mathrm|mathbf|mathit|mathsf|boldsymbol|bm"
    "|operatorname"
)
_TOKEN = re.compile(
    r"(?P<skip>(?:\s|~|\\[,;:!> ]|\\(?:q?quad|displaystyle|textstyle|limits|nolimits|left|right|middle|[bB]igg?[lrm]?"
    r"|rm|bf|it)(?![A-Za-z]))+)"
    r"|(?P<num>(?:\d{1,3}(?:(?:\{,\}|,\\!|\\,|\\!|,\\,)\s*\d{3})+(?!\d)|\d+)"
    r"(?:\.\d+|\.(?![.\d]))?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    rf"|\\(?P<style>{_TEXT_COMMANDS})\*?\s*\{{(?P<text>[^{{}}]*)\}}"
    r"|(?P<cmd>\\[A-Za-z]+)"
    r"|(?P<mark>\\\\|\\[{}|%$#&_]|<=|>=|!=|\.{3}|.)",
    re.DOTALL,
)
_GROUPED = re.compile(
    r"[1-9]\d{0,2}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?|\d{1,3}(?: \d{3})+(?!\s?\d)(?:\.\d+)?"
)
_LETTERS = re.compile(r"[A-Za-z]+")
_ENDS_IN_CONNECTOR = re.compile(
    r"(?:(?P<before>.*?)[\s,;]+)?(?P<connector>and|or)[\s,;]*", re.DOTALL | re.IGNORECASE
)
_OPENS_WITH_CONNECTOR = re.compile(
    r"[\s,;]*(?P<connector>and|or)\s+(?P<after>.*)", re.DOTALL | re.IGNORECASE
)
_VOWELS = frozenset("aeiouy")

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot asin acos atan sinh cosh tanh ln log lg exp max min"
    " gcd lcm det deg dim Re Im arg sgn sign sqrt abs floor ceil cbrt factorial binomial".split()
)
ALIASES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
    "arctg": "arctan",
    "sign": "sgn",
    "arcctg": "arccot",
    "arsinh": "asinh",
    "sh": "sinh",
    "ch": "cosh",
    "Abs": "abs",
    "ceiling": "ceil",
    "cuberoot": "cbrt",
    "binom": "binomial",
    "comb": "binomial",
    "nCr": "binomial",
    "Sqrt": "sqrt",
    "Log": "log",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Exp": "exp",
}
_BRACKETED = frozenset(
    "floor ceil ceiling abs Abs cbrt cuberoot factorial binomial binom comb nCr".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega"
    " varphi varepsilon vartheta varrho varsigma Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega".split()
)
_ONE_SHAPE = {
    "\\varphi": "\\phi",
    "\\varepsilon": "\\epsilon",
    "\\vartheta": "\\theta",
    "\\varrho": "\\rho",
    "\\varsigma": "\\sigma",
    "\\varpi": "\\pi",
}
_INFINITIES = frozenset("oo inf infinity infty".split())
NAMES = FUNCTIONS | frozenset(ALIASES) | GREEK | _INFINITIES | {"pi", "Pi"}
_UNIONS = {
    "union": "\\cup",
    "cup": "\\cup",
    "intersection": "\\cap",
    "intersect": "\\cap",
    "cap": "\\cap",
}
_WITH_PI = re.compile(r"(?P<before>[nkmr]?)[pP]i(?P<after>[rRdhxk]?)")
INVERSES = {
    "sin": "arcsin",
    "cos": "arccos",
    "tan": "arctan",
    "cot": "arccot",
    "sec": "arcsec",
    "csc": "arccsc",
    "sinh": "asinh",
    "cosh": "acosh",
    "tanh": "atanh",
}
APPLIED = frozenset({"f", "g", "\\varphi", "\\phi", "\\psi"})
RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "\\lt": "<",
    "\\gt": ">",
    "\\le": "<=",
    "\\leq": "<=",
    "\\leqslant": "<=",
    "\\leqq": "<=",
    "<=": "<=",
    "\\ge": ">=",
    "\\geq": ">=",
    "\\geqslant": ">=",
    "\\geqq": ">=",
    ">=": ">=",
    "\\ne": "!=",
    "\\neq": "!=",
    "!=": "!=",
    "\\approx": "~",
    "\\simeq": "~",
    "\\in": "in",
    "\\equiv": "==",
    "\\notin": "notin",
    "\\to": "->",
    "\\rightarrow": "->",
    "\\mapsto": "->",
    "\\cong": "cong",
    "\\sim": "sim",
    "\\Leftrightarrow": "<->",
    "\\iff": "<->",
    "\\Rightarrow": "=>",
    "\\implies": "=>",
    "\\parallel": "par",
    "\\perp": "perp",
    "\\subset": "sub",
    "\\subseteq": "sub",
    "\\mid": "mid",
    "\\doteq": "~",
    "\\coloneqq": "=",
}
TIMES = frozenset("\\cdot \\times * \\ast \\bullet".split())
DIVIDE = frozenset("/ \\div".split())
SET_OPERATIONS = {
    "\\cup": "union",
    "\\bigcup": "union",
    "\\cap": "inter",
    "\\setminus": "minus",
    "\\backslash": "minus",
    "\\smallsetminus": "minus",
}
OPENING = {
    "(": ")",
    "[": "]",
    "\\{": "\\}",
    "\\lbrace": "\\}",
    "\\langle": "\\rangle",
    "\\lfloor": "\\rfloor",
    "\\lceil": "\\rceil",
    "\\lvert": "\\rvert",
    "\\lVert": "\\rVert",
    "\\lbrack": "]",
}
CLOSING = frozenset(") ] } \\} \\rbrace \\rangle \\rfloor \\rceil \\rvert \\rVert \\rbrack".split())
ROW_ENDS = frozenset({"&", "\\\\", "\\end", "."})
CONSTANTS = {"\\infty": "inf", "\\pi": "pi", "\\infin": "inf"}
NUMBER_SETS = frozenset("RZNQC")
MONEY = {"\\$": "$", "$": "$", "\u20ac": "\u20ac", "\u00a3": "\u00a3", "\u00a2": "\u00a2"}
FRACTIONS = frozenset("\\frac \\dfrac \\tfrac \\cfrac \\sfrac \\nicefrac".split())
BINOMIALS = frozenset("\\binom \\dbinom \\tbinom".split())
ACCENTS = frozenset(
    "\\vec \\hat \\bar \\tilde \\overrightarrow \\widehat \\overline \\underline \\mathcal \\mathscr"
    " \\mathfrak \\dot \\wideparen \\overset".split()
)
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
    " dog win won red blue top his her she who its was a an if".split()
)

_SHORT_NOUNS = frozenset(
    "men man boy girl egg bag box pen hat kid toy car cow pig hen bus row pie cup bar jar can tin cat dog day pcs ppl"
    " pts ants bees bats".split()
)
_PERCENT = ("percent", "pct", "percentage")

_WORDS_AFTER_WORDS = frozenset("by at we so up do as from into".split())
_ORDINAL_ENDINGS = ("st", "nd", "rd", "th")
_GLUED_FUNCTIONS = ("sin", "cos", "tan", "log", "ln")


def tokens(text: str, grouped: bool, letters_are_units: bool = True) -> list[Token]:
    """Return the tokens of a cleaned text; `grouped` reads ``1,234`` outside brackets as one number.

    `letters_are_units` also reads units that are set as plain letters; otherwise those are symbols.
    """
    result: list[Token] = []
    position = 0
    depth = 0
    spaced = False
    finder = UnitFinder(text, letters_are_units)
    while match := _TOKEN.match(text, position):
        unit = None if spaced else finder.find(position, result)
        if unit is not None:
            result.append(Token("unit", unit.spelling, unit.is_spaced))
            position = unit.end
            continue
        kind = match.lastgroup
        letters = _LETTERS.match(text, position) if kind == "mark" else None
        if letters is not None:
            position = letters.end()
            is_applied = text.startswith("(", position)
            result += _named(letters.group(), spaced, result, is_applied)
            spaced = False
            continue
        if kind == "num" and not spaced and _takes_number(text, position, result):
            result.append(Token("mark", "_"))
        if kind == "num" and grouped and depth == 0:
            match = _GROUPED.match(text, position) or match
        position = match.end()
        if kind == "text":
            result += _styled(match["style"], match["text"], spaced)
        elif kind != "skip":
            token = _token(match, kind, spaced)
            result.append(token)
            finder.note(result)
            depth += token.value in OPENING
            depth -= token.value in CLOSING
        spaced = kind == "skip"
    return result


def _token(match: re.Match[str], kind: str | None, spaced: bool) -> Token:
    """Return the token of a match that is not a run of letters."""
    if kind == "num":
        return Token("num", re.sub(r"[^\d.eE+-]", "", match.group()), spaced)
    if kind == "mark" and match.group().isalpha():
        return Token("text", match.group(), spaced)
    if kind == "cmd":
        return Token("cmd", _ONE_SHAPE.get(match.group(), match.group()), spaced)
    return Token("mark", match.group(), spaced)


_TAKES_ARGUMENTS = re.compile(r"\\(?:[dtc]?(?:frac|binom)|sqrt)")


def _takes_number(text: str, position: int, before: list[Token]) -> bool:
    """Tell whether digits right after a letter are its subscript: ``x1``, ``theta0``; not ``ab1``, ``sin2``."""
    if not before or not text[position].isdigit():
        return False
    if len(before) > 1 and _TAKES_ARGUMENTS.fullmatch(before[-2].value):
        return False
    name = re.search(
        r"(?<![A-Za-z\\])(?:[A-Za-z]|[A-Za-z]{2,7})$", text[max(0, position - 9) : position]
    )
    if name is None:
        return False
    return (
        before[-1].kind == "name"
        and len(name[0]) == 1
        or before[-1].value == "\\" + name[0]
        and name[0] in GREEK
    )


# letters with a style


def _styled(style: str, content: str, spaced: bool) -> list[Token]:
    r"""Return the tokens of ``\text{...}`` and its kin: connectors, a function, a letter or plain text."""
    bare = content.strip()
    if style != "operatorname" and re.match(r"[-+]?\.?\d", bare):
        return tokens(content, grouped=True)
    if bare.lower() in _PERCENT:
        return [Token("mark", "%", spaced)]
    name = ALIASES.get(bare, bare)
    if name in FUNCTIONS or name in INVERSES:
        return [Token("cmd", "\\" + name, spaced)]
    is_letter = len(bare) == 1 and bare.isalpha()
    if is_letter and style.startswith(("math", "bold", "bm", "oper")):
        return [Token("name", bare, spaced)]
    front, connector, rest = _split_at_connector(bare)
    if connector is None:
        return _plain_text(content, spaced)
    result = [Token("text", front, spaced)] if front else []
    result.append(Token("cmd", "\\" + connector, spaced))
    if rest:
        result.append(Token("text", rest, True))
    return result


def _plain_text(content: str, spaced: bool) -> list[Token]:
    """Return a token of text; only the separators if there is nothing else."""
    bare = content.strip()
    if bare.strip(" ,;."):
        return [Token("text", content, spaced)]
    return [Token("mark", mark) for mark in bare if mark in ",;"]


def _split_at_connector(text: str) -> tuple[str, str | None, str]:
    """Split words at an "and" or "or" that opens or ends them; None if there is no such connector."""
    match = _ENDS_IN_CONNECTOR.fullmatch(text)
    if match:
        return (match["before"] or "").strip(" ,;"), match["connector"].lower(), ""
    match = _OPENS_WITH_CONNECTOR.fullmatch(text)
    if match:
        return "", match["connector"].lower(), match["after"]
    return text, None, ""


# letters without a style


def _named(word: str, spaced: bool, before: list[Token], is_applied: bool) -> list[Token]:
    """Return the tokens of a run of letters: a function, a connector, a word of prose, or single letters."""
    name = ALIASES.get(word, word)
    lower = word.lower()
    if _is_divisor(word, before):
        return [Token("text", word, True)]
    is_function = name in FUNCTIONS and (is_applied or word not in _BRACKETED)
    if is_function:
        return [Token("cmd", "\\" + name, spaced)]
    sign = _sign_of(word, before)
    if sign is not None:
        return [Token("cmd", sign, spaced)]
    around_pi = _WITH_PI.fullmatch(word)
    if around_pi is not None:
        letters = [_letters(around_pi[side], False) for side in ("before", "after")]
        return [*letters[0], Token("cmd", "\\pi", spaced), *letters[1]]
    if lower in ("and", "or"):
        return [Token("cmd", "\\" + lower, spaced)]
    if lower in _PERCENT:
        return [Token("mark", "%", spaced)]
    follows_number = bool(before) and before[-1].kind == "num"
    if follows_number and _ends_ordinal(word, spaced, before[-1].value):
        return [Token("text", word, True)]
    is_after_word = spaced and bool(before) and before[-1].kind == "text"
    if is_after_word and word in _WORDS_AFTER_WORDS:
        return [Token("text", word, True)]
    if _is_word(word) or _is_counted(word, spaced, before):
        return [Token("text", word, True)]
    return _with_function(word, spaced)


def _is_divisor(word: str, before: list[Token]) -> bool:
    """Tell whether letters are what a rate of counted things is for: "apples per min", "meters/box"."""
    if len(word) < 2 or not before:
        return False
    is_per = before[-1].kind == "text" and before[-1].value in ("per", "a", "an")
    is_slash = before[-1].value == "/" and len(before) > 1 and before[-2].kind in ("text", "unit")
    if not (is_per or is_slash):
        return False
    return word in _SHORT_NOUNS or (measure := unit_of(word)) is not None and not measure.is_noun


def _ends_ordinal(word: str, spaced: bool, number: str) -> bool:
    """Tell whether letters behind a number make it an ordinal: ``2nd``; ``7 st`` are stones."""
    if word == "st" and (spaced or number[-2:] == "11" or number[-1] != "1"):
        return False
    return word in _ORDINAL_ENDINGS


def _sign_of(word: str, before: list[Token]) -> str | None:
    """Return the command of a word that names a sign: a Greek letter, infinity, a union after a bracket."""
    if word.lower() in _INFINITIES:
        return "\\infty"
    if word in _UNIONS and before and before[-1].value in CLOSING:
        return _UNIONS[word]
    if word not in GREEK:
        return None
    return _ONE_SHAPE.get("\\" + word, "\\" + word)


def _is_counted(word: str, spaced: bool, before: list[Token]) -> bool:
    """Tell whether letters behind a number are a short noun, or behind words a unit."""
    if len(word) == 1 or not before or not spaced:
        return False
    if before[-1].kind == "num":
        return word in _SHORT_NOUNS
    if before[-1].kind != "text":
        return False
    unit = unit_of(word)
    return unit is not None and not unit.is_noun


def _with_function(word: str, spaced: bool) -> list[Token]:
    """Return single letters, except for a function's name that is glued to one or two of them."""
    for name in _GLUED_FUNCTIONS:
        if name in word and len(word) <= len(name) + 2:
            before, _, after = word.partition(name)
            function = Token("cmd", "\\" + name, False)
            return [*_letters(before, spaced), function, *_letters(after, False)]
    return _letters(word, spaced)


def _letters(word: str, spaced: bool) -> list[Token]:
    """Return a token for each letter."""
    return [Token("name", letter, spaced and index == 0) for index, letter in enumerate(word)]


def _is_word(word: str) -> bool:
    """Tell whether a run of letters is a word of a language rather than a product of symbols."""
    lower = word.lower()
    if lower in _SHORT_WORDS and len(word) > 1 and not word.isupper():
        return True
    if len(word) >= 3 and word.isupper():
        return True
    has_vowel = not _VOWELS.isdisjoint(lower)
    return len(word) >= 4 and word[1:].islower() and has_vowel
