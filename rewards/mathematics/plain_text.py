r"""Plain-text mathematics in LaTeX's signs: ``x**2``, ``sqrt12``, ``5 choose 2``, ``(0, 1) U (2, 3)``, ``x => 0``.

`as_latex` rewrites signs and what would read otherwise once it is tokens; the names of functions, letters and infinity
are left to ``rewards.mathematics.tokens``. `complex_in_i` is a second reading of complex numbers that programs print.
"""

from __future__ import annotations

import html
import re

__all__ = ["as_latex", "complex_in_i", "without_entities"]

_START = r"(?<![A-Za-z\\])"
_SET_NAME = r"(?:(?<![A-Za-z\\])[RZNQC]|\\mathbb\s*\{?[RZNQC]\}?|\\[RZNQC])"
_OPERAND = r"(?:(?<![A-Za-z\\\d])\d{0,9}[A-Za-z]|\d{1,9}|\([^()]{1,40}\))"
_COUNT = r"\{?(\d{1,6}|[A-Za-z])\}?"
_BINOMIAL = r"\\binom{\1}{\2}"
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{1,5});")
_AMPERSAND = re.compile(r"\s\\?&\s")
_WITHOUT = re.compile(
    rf"(?P<set>{_SET_NAME})\s*"
    r"(?:\\(?:setminus|backslash)(?![A-Za-z])\s*|\\\s+(?=\\?[{(\[])|-\s*(?=\\?\{)|\\(?=\{[^{}\\]*\})|\\?(?=\\\{))"
    r"(?P<removed>\{[^{}\\]*\})?"
)
_BRACES = re.compile(r"(?<![\\A-Za-z^_}])\{([^{}]*)\}(?!\s*[_^])")
_CONDITION = re.compile(
    r"[<>=]|\\(?:[lgn]eq?|[lg]t|in|notin|text|forall|[lg]eqslant)(?![A-Za-z])|\bin\b"
)
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_COMPLEX = re.compile(rf"\(?\s*[-+]?\s*{_NUMBER}\s*[-+]\s*[-+]?\s*{_NUMBER}j\s*\)?")
_SYMPY = re.compile(r"(?<![A-Za-z\\])I(?![A-Za-z_^])")
_NO_UNIT = re.compile(r"\\?(?:sqrt|pi|exp|frac|dfrac|cdot|times)(?![A-Za-z])|[^A-Za-z]")

_RULES = [  # what a text must hold for the rule to be tried, what is replaced, and by what
    (needed, re.compile(pattern, re.IGNORECASE if needed in ("inus", "nfinity") else 0), new)
    for needed, pattern, new in (
        # powers and products
        ("**", r"(?<=[\w)\]}])(?:\*\*|\s+\*\*\s+|\s\*\*(?=[\d(]))(?=[-+\w(\\{.])", "^"),
        ("", r"(?<=\d)\s*[xX]\s*(?=\d)", r" \\times "),
        ("!=", r"^(\s*\d{1,3})!=(?=\s*\d)", r"\1! ="),
        # double signs; ``+-`` between two terms, without spaces, adds a negative one
        ("/", r"\+\s?/\s?-", r" \\pm "),
        ("+-", r"(^\s*|[=(,\[{;]\s*|\s)\+-(?=[\s\d.A-Za-z\\(])", r"\1\\pm "),
        ("inus", _START + r"plus\s+or\s+minus\b", r" \\pm "),
        # relations
        ("=>", r"^([^<>=]*)=>([^<>=]*)$", r"\1>=\2"),
        ("=<", r"^([^<>=]*)=<([^<>=]*)$", r"\1<=\2"),
        ("", r"=/=|/=|<>", r" \\ne "),
        ("||", r"(?<=\s)\|\|(?=\s)", r"\\or "),
        ("&&", r"(?<=\s)&&(?=\s)", r"\\and "),
        ("~", r"(?<=\w)\s~\s(?=-?[\d.])", r" \\approx "),
        # infinity
        ("nfinity", _START + r"(?:positive|plus)\s+infinity\b", r"+\\infty "),
        ("nfinity", _START + r"(?:negative|minus)\s+infinity\b", r"-\\infty "),
        # sets
        ("", r"(,[^,()\[\]{}]*[)\]]|\})\s*[Uu]\s*(?=(?:\\left\s*)?\\?[(\[{])", r"\1 \\cup "),
        ("cup", r"([)\]}])\s*cup\s*(?=(?:\\left\s*)?\\?[(\[{])", r"\1 \\cup "),
        (
            " in",
            _START + r"([A-Za-z])\s+in\s+(?=\\?[\[({]|\\left|\\mathbb|[RZNQC](?![A-Za-z]))",
            r"\1 \\in ",
        ),
        ("\\in", r"(\\in(?![A-Za-z])\s*)([RZNQC])(?![A-Za-z])", r"\1\\mathbb{\2}"),
        ("{", r"^\s*(?:\\?\{\s*\\?\}|\\\{\s*\\\})\s*$", r"\\emptyset "),
        ("<", r"^\s*<([^<>=]*,[^<>=]*)>\s*$", r"\\langle \1\\rangle "),
        # functions
        ("sqrt", _START + r"sqrt\s*(\d+(?:\.\d+)?)", r"\\sqrt{\1}"),
        ("log", _START + r"log(2|10)(?=\s*[({])", r"\\log_{\1}"),
        ("base", _START + r"log\s+base\s+(\w+)\s+of\b", r"\\log_{\1}"),
        ("root", _START + r"root\s*\(([^()]{1,20})\)\s*\(", r"\\sqrt[\1]("),
        ("_", _START + r"(sum|prod|int|lim)(?=_)", r"\\\1"),
        ("int ", _START + r"int(?=\s[^=]*\bd[a-z]\b)", r"\\int"),
        ("/d", _START + r"d([a-zA-Z]?)/d([a-z])(?![A-Za-z])", r"\\frac{d\1}{d\2}"),
        ("angle", _START + r"(angle|triangle)\s+(?=[A-Z]{1,3}(?![A-Za-z]))", r"\\\1 "),
        # binomials
        ("choose", rf"({_OPERAND})\s+choose\s+({_OPERAND})", _BINOMIAL),
        (
            "C",
            rf"(?:\{{\}}\s*)?(?<!\w)[_^]\s*{_COUNT}\s*(?:\\mathrm\{{C\}}|C)\s*_\s*{_COUNT}",
            _BINOMIAL,
        ),
        ("C", rf"(?<![A-Za-z\\_^])C\s*\^\s*{_COUNT}\s*_\s*{_COUNT}", r"\\binom{\2}{\1}"),
        ("C", r"(?<![\w\\.])(\d{1,6}|n)C(\d{1,6}|[krm])(?![\w(])", _BINOMIAL),
        # matrices
        ("(", r"^\s*(?:[Mm]atrix|(?:np\.)?array)\(([^{}]*)\)\s*$", r"\1"),
    )
]


def without_entities(text: str) -> str:
    """Return the text with HTML's names of signs (``&le;``) replaced by the signs."""
    return _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)


def as_latex(text: str) -> str:
    """Return the text with the signs of plain text in the form that the parser reads."""
    if "&" in text and "\\begin" not in text:
        text = _AMPERSAND.sub(r" \\and ", text)
    if "{" in text or "\\ " in text:
        text = _WITHOUT.sub(_without, text)
    if "{" in text:
        text = _BRACES.sub(_set_builder, text)
    for needed, pattern, replacement in _RULES:
        if needed in text:
            text = pattern.sub(replacement, text)
    return text


def _without(match: re.Match[str]) -> str:
    r"""Return ``R \ {0}`` as the numbers without a set."""
    name = re.search("[RZNQC]", match["set"])
    removed = match["removed"]
    assert name is not None
    braces = f"\\{{{removed[1:-1]}\\}}" if removed else ""
    return f"\\mathbb{{{name.group()}}} \\setminus {braces}"


def _set_builder(match: re.Match[str]) -> str:
    """Return ``{x | x > 0}`` with the braces of a set; other braces as they are."""
    content = match[1]
    element, separator, condition = content.partition("|")
    if not separator:
        element, separator, condition = content.partition(":")
    if separator and element.strip() and _CONDITION.search(condition):
        return f"\\{{{content}\\}}"
    return match.group()


def complex_in_i(text: str) -> str | None:
    """Return a complex number that a program shows (``3+4j``, ``2*I``) with the unit ``i``; None for other texts."""
    if _COMPLEX.fullmatch(text):
        return text.replace("j", "i")
    is_alone = text.strip("-+ ()") == "I"
    if is_alone or _NO_UNIT.sub("", text) != "I":
        return None
    return _SYMPY.sub("i", text)
