"""One spelling for what answers spell in many ways: Unicode signs, HTML, broken escapes, full-width letters.

`clean` only rewrites characters; it drops no word and judges nothing.
"""

from __future__ import annotations

import re
import unicodedata

from rewards.mathematics.measures import measure_of
from rewards.mathematics.plain_text import as_latex, without_entities
from rewards.mathematics.siunitx import without_siunitx
from rewards.mathematics.unit_phrases import read_phrase

__all__ = ["clean"]

_SIGNS = {
    "\u2212": "-",
    "\u2013": "-",
    "\u2014": "-",
    "\u2010": "-",
    "\u2011": "-",
    "\ufe63": "-",
    "\u00d7": "\\times ",
    "\u2217": "*",
    "\u22c5": "\\cdot ",
    "\u00b7": "\\cdot ",
    "\u2219": "\\cdot ",
    "\u00f7": "\\div ",
    "\u221e": "\\infty ",
    "\u222a": "\\cup ",
    "\u2229": "\\cap ",
    "\u2205": "\\emptyset ",
    "\u2216": "\\setminus ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2a7d": "\\le ",
    "\u2a7e": "\\ge ",
    "\u2266": "\\le ",
    "\u2267": "\\ge ",
    "\u2260": "\\ne ",
    "\u2248": "\\approx ",
    "\u2208": "\\in ",
    "\u2261": "\\equiv ",
    "\u00b1": "\\pm ",
    "\u2213": "\\mp ",
    "\u00b0": "^\\circ ",
    "\u00ba": "^\\circ ",
    "\u2103": "^\\circ C",
    "\u2109": "^\\circ F",
    "\u2200": "\\forall ",
    "\u2203": "\\exists ",
    "\u2192": "\\to ",
    "\u211d": "\\mathbb{R}",
    "\u2124": "\\mathbb{Z}",
    "\u2115": "\\mathbb{N}",
    "\u211a": "\\mathbb{Q}",
    "\u2102": "\\mathbb{C}",
    "\u2211": "\\sum ",
    "\u220f": "\\prod ",
    "\u222b": "\\int ",
    "\u2223": "|",
    "\u2032": "'",
    "\u2033": "''",
    "\u2019": "'",
    "\u2234": "",
    "\u2220": "\\angle ",
    "\u25b3": "\\triangle ",
    "\u22a5": "\\perp ",
    "\u2225": "\\parallel ",
    "\u2044": "/",
    "\u230a": "\\lfloor ",
    "\u230b": "\\rfloor ",
    "\u2308": "\\lceil ",
    "\u2309": "\\rceil ",
    "\u27e8": "\\langle ",
    "\u27e9": "\\rangle ",
    "\u2026": "\\ldots ",
    "\u22ef": "\\cdots ",
    "\u2228": "\\lor ",
    "\u2227": "\\land ",
    "\u2236": ":",
    "\u3001": ", ",
    "\u00d8": "\\emptyset ",
    "\u2300": "\\emptyset ",
    "\u00c5": "\\AA ",
    "\u212b": "\\AA ",
    "\u211c": "\\Re ",
    "\u2209": "\\notin ",
    "\u2286": "\\subseteq ",
    "\u2282": "\\subset ",
    "\u21d2": "\\Rightarrow ",
    "\u21d4": "\\Leftrightarrow ",
}
_GREEK = {
    "\u03b1": "alpha",
    "\u03b2": "beta",
    "\u03b3": "gamma",
    "\u03b4": "delta",
    "\u03b5": "epsilon",
    "\u03b8": "theta",
    "\u03bb": "lambda",
    "\u03bc": "mu",
    "\u03c0": "pi",
    "\u03c1": "rho",
    "\u03c3": "sigma",
    "\u03c4": "tau",
    "\u03c6": "phi",
    "\u03c8": "psi",
    "\u03c9": "omega",
    "\u0394": "Delta",
    "\u03a3": "Sigma",
    "\u03a9": "Omega",
    "\u03d5": "phi",
    "\u0393": "Gamma",
    "\u03b7": "eta",
    "\u03be": "xi",
    "\u03bd": "nu",
    "\u03ba": "kappa",
    "\u03c7": "chi",
    "\u03a6": "Phi",
    "\u03a0": "Pi",
    "\u0398": "Theta",
    "\u039b": "Lambda",
    "\u03a8": "Psi",
    "\u039e": "Xi",
    "\u03b6": "zeta",
    "\u03d1": "theta",
    "\u03f5": "epsilon",
    "\u03d6": "pi",
    "\u03f1": "rho",
    "\u03c2": "sigma",
    "\u2126": "Omega",
    "\u2206": "Delta",
    "\u00b5": "mu",
}
_RAISED = (
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a"
    "\u207f\u2071\u02e3\u02b8\u1d4f\u1d50\u02b3\u1d57\u207d\u207e"
)
_LOWERED = (
    "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208b\u208a"
    "\u2090\u2091\u2093\u1d62\u2c7c\u2096\u2098\u2099\u1d63\u209c"
)
_SUPERSCRIPTS = str.maketrans(_RAISED, "0123456789-+nixykmrt()")
_SUBSCRIPTS = str.maketrans(_LOWERED, "0123456789-+aexijkmnrt")
_SUPERSCRIPT_RUN = re.compile(f"[{_RAISED}]+")
_SUBSCRIPT_RUN = re.compile(f"[{_LOWERED}]+")
_CIRCLED = re.compile("[\u2460-\u2473]+")
_ROOT = re.compile("([\u221a-\u221c])\\s*(\\d+(?:\\.\\d+)?|[A-Za-z]|(?=[({\\\\\u03b1-\u03c9]))")
_ROOT_INDICES = {"\u221b": "[3]", "\u221c": "[4]"}
_VULGAR = re.compile("(\\d*)\\s*([\u00bc-\u00be\u2150-\u215e])")
_HTML = (
    (re.compile(r"<sup>(.{0,80}?)</sup>"), r"^{\1}"),
    (re.compile(r"<sub>(.{0,80}?)</sub>"), r"_{\1}"),
)
_ESCAPES = (
    (re.compile(r"\t(?=(?:ext|imes|an|heta|frac|extbf|extrm|extcirc|o|riangle)(?![a-z]))"), r"\\t"),
    (re.compile(r"\x0c(?=rac)"), r"\\f"),
    (re.compile(r"\x08(?=oxed|egin|inom|ar\b|eta)"), r"\\b"),
    (re.compile(r"\r(?=ight|angle|floor|ceil)"), r"\\r"),
    (re.compile(r"\n(?=eq\b|e\b)"), r"\\n"),
    (re.compile(r"(?<![A-Za-z\\])rac(?=\s*\{)"), r"\\frac"),
    (re.compile(r"(?<![A-Za-z\\])(frac|sqrt|dfrac)(?=\s*\{)"), r"\\\1"),
    (
        re.compile(
            r"\\\\(?=(?:frac|dfrac|sqrt|pi|left|right|cdot|times|text|infty|cup|le|ge|leq|geq|pm|boxed|circ"
            r"|[bB]igg?[lr]?|sin|cos|tan|ln|log)(?![A-Za-z]))"
        ),
        r"\\",
    ),
    (re.compile(r"\\(?:left|right)\s*\."), ""),
    (re.compile(r"\{\s*\}\s*(?=\^\s*\{?\s*\\circ)"), ""),
    (
        re.compile(
            r"(/\s*)\\left\s*\(((?:[^()]{0,40}\\(?:mathrm|text|rm))[^()]{0,80})\\right\s*\)"
        ),
        r"\1(\2)",
    ),
    (
        re.compile(
            r"(\\in(?![A-Za-z])\s*)\\(?:mathbf|mathrm|boldsymbol|bold|Bbb|mathds|bf)\s*\{?\s*([RZNQC])(?:\s*\}|(?![A-Za-z]))"
        ),
        r"\1\\mathbb{\2}",
    ),
    (re.compile(r"\\overrightarrow(?![A-Za-z])"), r"\\vec"),
    (
        re.compile(
            r"(?<!\d)(\d{0,40}\.\d{0,40})\\dot\s*(?:\{(\d)\}|(\d))(?:\s*(\d*)\\dot\s*(?:\{(\d)\}|(\d)))?"
        ),
        r"\1\\overline{\2\3\4\5\6}",
    ),
    (re.compile(r"\^\s*\{?\s*\\(?:text|mathrm|rm)\s*\{?\s*o\s*\}{1,2}"), r"^\\circ "),
    (re.compile(r"(?<![A-Za-z])US\s*(?=\\?\$\s*\d)"), ""),
    (
        re.compile(
            r"\\(text|mbox|mathrm|textrm|textbf|mathbf)\s*\{(?:\s|~)*([-+]?\\?\$?\d[\d.,]*)(?=[\s~\\A-Za-z])((?:[^{}\d]|\^-?\d)*)\}"
        ),
        r"\2\\\1{\3}",
    ),
    (
        re.compile(
            r"\\\\\s*\[\s*-?\d{1,4}(?:\.\d{1,4})?\s*[a-z]{2}\s*\]|\\(?:cr|newline)(?![A-Za-z])"
        ),
        r"\\\\",
    ),
    (re.compile(r"\\vert(?![A-Za-z])"), "|"),
    (re.compile(r"\\colon(?![A-Za-z])|(?<=\d)\{:\}(?=\d)"), ":"),
    (re.compile(r"\\(?:pounds|textsterling)(?![A-Za-z])\s*(?=\d)"), "\u00a3"),
    (re.compile(r"\\(?:euro|texteuro)(?![A-Za-z])\s*(?=\d)"), "\u20ac"),
    (
        re.compile(r"\\(?:text|mbox|mathrm|textrm)\s*\{\s*(\\?\$|\u20ac|\u00a3)\s*\}\s*(?=\d)"),
        r"\1",
    ),
    (re.compile(r"\\(?:underline|uline)\s*\{([^{}]*)\}"), r"{\1}"),
    (re.compile(r"(?<=[\w)}])\{\}\s*$|(?<=\\pi)\{\}|(?<=\\infty)\{\}|(?<=\\theta)\{\}"), " "),
    (re.compile(r"\\(?:no(?:number|tag)|hfill|noindent)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:color|textcolor)\s*\{[^{}]*\}|\\(?:label|tag)\s*\{[^{}]*\}"), ""),
)
_OUTWARD = re.compile(r"([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])")
_OUTWARD_ENDS = re.compile(r"^\s*\]|\[\s*$")


_SIGN_IN_FRONT = re.compile(
    r"(?<![\w\\])(?:\\(?:text|mathrm|mbox|textrm)\s*\{)?\s{0,4}(?:(?P<sign>[\u00a5\u20b9\u20a9\uffe5])|(?P<name>Rs\.?))\s*(?:\}\s*\.?\s*)?"
    r"(?P<number>\d[\d,.]*\d|\d)"
)
_CURRENCY_OF = {"\u00a5": "yen", "\uffe5": "yen", "\u20b9": "rupees", "\u20a9": "won"}
_IN_BRACKETS = re.compile(
    r"(?<=[\d})])(?:\s|~|\\[,;: ])*(?:\\left\s*)?(?P<bracket>[(\[])(?P<unit>[^()\[\]=,;]{1,60}?|[^()\[\]=,;]{1,60}"
    r"\([^()\[\]=,;]{1,30}\)[^()\[\]=,;]{0,20}?)(?:\\right\s*)?[)\]](?=\s*(?:$|[,;]|\\text|and\b|or\b))"
)
_BRACKETS_IN_TEXT = re.compile(
    r"(?<=[\d})])(?P<space>(?:\s|~)*)\\(?P<style>text|mathrm|textrm|mbox)\s*\{\s*\((?P<unit>[^(){}]{1,40})\)\s*\}"
)
_COUNTED = re.compile(
    r"\\(?:text|mathrm|textrm|mbox)\s*\{\s*(?:[a-z]{2,20}s|people|children|men|women)\s*\}"
)
_PLAIN_IN_BRACKETS = re.compile(
    r"(?:[kcmd]?m|kg|mg|m[lL]|hours?|h|min|s)?(?:(?<=m)\s*\^?\s*\{?[23]\}?|(?<=m)/(?:s|h|min))?"
)
"""Plain letters in brackets behind a number that are a unit; one letter alone may as well be a factor."""
_RANGE_OF_INTEGERS = re.compile(
    r"(?<=[\w})\]])\s*(?:\\left\s*)?\((\s*[a-z](?:\s*,\s*[a-z])*\s*\\in\s*(?:\\(?:mathbb|mathbf|mathrm|Bbb)\s*)?\{?\s*[ZN]"
    r"\s*\}?(?:\s*[\^_]\s*\{?[+*]\}?)?)\s*(?:\\right\s*)?\)"
)
_FEET_AND_INCHES = re.compile(
    r"^\s*(?:(?P<feet>\d{1,4})'\s*)?(?P<inches>\d{1,4}(?:\.\d+)?)(?:''|\")\s*$"
)
"""A length such as ``6'2"``."""
_CHINESE_UNITS = {
    "\u5343\u514b": "kg", "\u516c\u65a4": "kg", "\u514b": "g", "\u5428": "t", "\u5343\u7c73": "km",
    "\u516c\u91cc": "km", "\u7c73": "m", "\u5206\u7c73": "dm", "\u5398\u7c73": "cm", "\u6beb\u7c73": "mm",
    "\u5347": "L", "\u6beb\u5347": "mL", "\u5c0f\u65f6": "h", "\u5206\u949f": "min", "\u79d2": "s",
    "\u5929": "days", "\u5143": "yuan", "\u5ea6": "degrees",
}  # fmt: skip
_CHINESE_POWERS = {"\u5e73\u65b9": "^2", "\u7acb\u65b9": "^3", "": ""}
_CHINESE_UNIT = re.compile(
    "(?<=[\\d})a-z])\\s*(?P<power>\u5e73\u65b9|\u7acb\u65b9|)(?P<name>"
    + "|".join(_CHINESE_UNITS)
    + ")(?![\u4e00-\u9fff])"
)
_CURRENCIES = {"USD": "\\$", "EUR": "\u20ac", "GBP": "\u00a3"}
_CURRENCY_IN_FRONT = re.compile(r"(?<![A-Za-z\\])(USD|EUR|GBP)\s*(?=\d)")


_SPACED_LETTERS = re.compile(
    r"(?P<front>\\(?:mathrm|text|textrm|mbox|rm)\s*\{(?:[\s~]|\\[,;: ])*)"
    r"(?P<letters>[A-Za-z](?:\s[A-Za-z]){1,4})(?=[\s~]*[}^/])"
)
_FOR_EACH = re.compile(
    r"(?<=[a-z])\s+(?:(?:for\s+)?(?:each|every)\s+(?=[a-z]{3})|an?\s+(?=square|cubic))"
)
_BEHIND_NUMBER = re.compile(r"\d[\s~]*(?:\\text\s*\{)?[\s~]*(?:[a-z]{2,}\s)?[a-z]{2,}$")


def _per(match: re.Match[str]) -> str:
    """Return "5 miles for each hour" as a rate; other phrases as they are."""
    before = match.string[max(0, match.start() - 60) : match.start()]
    return " per " if _BEHIND_NUMBER.search(before) else match.group()


def clean(text: str) -> str:
    """Return `text` with every sign in the LaTeX or ASCII form that the parser reads."""
    if "&" in text and ";" in text:
        text = without_entities(text)
    if any(sign in text for sign in ("\\", "rac", "sqrt", "US", "{:}")) or not text.isprintable():
        text = _substituted(_ESCAPES, text)
    if "\\" in text:
        text = _SPACED_LETTERS.sub(_unit_of_letters, text)
    if "<su" in text:
        text = _substituted(_HTML, text)
    if "\\" in text:
        text = without_siunitx(text)
    if not text.isascii():
        text = _ascii(_CHINESE_UNIT.sub(_unit_in_english, text))
    text = _with_unit_in_letters(text)
    if "(" in text or "[" in text:
        text = _with_brackets_read(text)
    if "Rs" in text or not text.isascii():
        text = _SIGN_IN_FRONT.sub(_sign_behind, text)
    text = _CURRENCY_IN_FRONT.sub(lambda match: _CURRENCIES[match[1]], text)
    if any(word in text for word in ("each ", "every ", " square ", " cubic ")):
        text = _FOR_EACH.sub(_per, text)
    text = as_latex(text)
    if "[" in text and _OUTWARD_ENDS.search(text):
        text = _OUTWARD.sub(_inward, text)
    return text


def _with_unit_in_letters(text: str) -> str:
    """Return the text with ``6'2"``, "per cent" and "years old" as other answers spell them."""
    if text.endswith(("''", '"')):
        text = _FEET_AND_INCHES.sub(_in_feet_and_inches, text)
    if " old" in text:
        text = re.sub(r"(?<=(?:year|onth)s)\s+old(?![A-Za-z])", "", text)
    if "per cent" in text:
        text = re.sub(r"(?<![A-Za-z])per cent(?![A-Za-z])", "percent", text)
    return text


def _with_brackets_read(text: str) -> str:
    """Return the text without brackets around the unit of a number, or around the range of a whole number."""
    text = _RANGE_OF_INTEGERS.sub(r", \1", text)
    text = _BRACKETS_IN_TEXT.sub(r"\g<space>(\\\g<style>{\g<unit>})", text)
    return _IN_BRACKETS.sub(_without_brackets, text)


def _without_brackets(match: re.Match[str]) -> str:
    r"""Return a unit without the brackets around it, ``12(\mathrm{~cm})``; other brackets as they are."""
    unit = match["unit"].strip()
    phrase = read_phrase(unit, 0, plain=False)
    is_set_apart = phrase is not None and not unit[phrase.end :].strip(" ~.")
    is_set_apart = is_set_apart or _COUNTED.fullmatch(unit) is not None
    is_plain = len(unit) > 1 and _PLAIN_IN_BRACKETS.fullmatch(unit) is not None
    is_plain = is_plain or (match.group()[0].isspace() and unit in ("m", "s", "h", "g"))
    return f" \\text{{ {unit}}}" if is_plain else f" {unit}" if is_set_apart else match.group()


def _unit_in_english(match: re.Match[str]) -> str:
    """Return a unit that is written in Chinese as a symbol set as text."""
    power = _CHINESE_POWERS[match["power"]]
    return f" \\text{{ {_CHINESE_UNITS[match['name']]}}}{power}"


def _in_feet_and_inches(match: re.Match[str]) -> str:
    """Return a length with its two units in letters."""
    feet = f"{match['feet']} \\text{{ ft }} " if match["feet"] else ""
    return f"{feet}{match['inches']} \\text{{ in}}"


def _sign_behind(match: re.Match[str]) -> str:
    """Return an amount with the sign of its currency behind it, where units stand."""
    return f"{match['number']} \\text{{{_CURRENCY_OF.get(match['sign'], 'rupees')}}}"


def _unit_of_letters(match: re.Match[str]) -> str:
    r"""Return ``\mathrm{~c m}`` as ``\mathrm{~cm}``: a unit, while one of its letters alone is none."""
    letters = match["letters"].split()
    name = "".join(letters)
    if measure_of(name) is None or all(measure_of(letter) for letter in letters):
        return match.group()
    return match["front"] + name


def _substituted(rules: tuple[tuple[re.Pattern[str], str], ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _inward(match: re.Match[str]) -> str:
    """Return an interval with its open ends in round brackets instead of brackets that face outward."""
    opening, content, closing = match.groups()
    opening = "(" if opening == "]" else "["
    closing = ")" if closing == "[" else "]"
    return f"{opening}{content}{closing}"


def _ascii(text: str) -> str:
    """Return the text with its Unicode signs spelled out."""
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{{{run.group().translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: f"_{{{run.group().translate(_SUBSCRIPTS)}}}", text)
    text = _CIRCLED.sub(_circled_numbers, text)
    text = _VULGAR.sub(_vulgar_fraction, text)
    text = _ROOT.sub(_root, text)
    text = "".join(_SIGNS.get(sign, sign) for sign in text)
    text = "".join(f"\\{_GREEK[sign]} " if sign in _GREEK else sign for sign in text)
    return unicodedata.normalize("NFKC", text)


def _circled_numbers(run: re.Match[str]) -> str:
    """Return circled numbers as a list of plain ones."""
    return ", ".join(str(ord(sign) - 0x245F) for sign in run.group())


def _root(match: re.Match[str]) -> str:
    """Return a root sign as a command, with the number or letter that follows as its argument."""
    sign, radicand = match.groups()
    root = "\\sqrt" + _ROOT_INDICES.get(sign, "")
    if radicand:
        return f"{root}{{{radicand}}}"
    return root + " "


def _vulgar_fraction(match: re.Match[str]) -> str:
    """Return one character such as a half as a LaTeX fraction, after its whole part."""
    whole, sign = match.groups()
    top, _, bottom = unicodedata.normalize("NFKC", sign).partition("\u2044")
    return f"{whole}\\frac{{{top}}}{{{bottom}}}"
