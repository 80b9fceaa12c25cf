r"""Units as answers spell them, in LaTeX and in words, become a list of names and powers.

``\mathrm{~kg} \cdot \mathrm{m}^{2} / \mathrm{s}^{2}``, ``{\rm kg\,m^2\,s^{-2}}``, ``\frac{\text{kg m}^2}{\text{s}^2}``,
``kg*m^2/s^2`` and "kilogram square meters per second squared" are one phrase. A phrase is read from a position on, as
far as it makes sense. What the names measure is ``rewards.mathematics.measures``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from rewards.mathematics.measures import is_word, measure_of

__all__ = ["Phrase", "read_phrase"]

MAX_FACTORS = 12
MAX_LEVELS = 4

Factor = tuple[str, int]


class Phrase(NamedTuple):
    """The names and powers of a unit, where it ends, whether its first name is set as a unit (or a word), and joints.

    ``joints`` are the signs between the names: "/" for a quotient, "*" for a product sign, " " for neither.
    """

    factors: tuple[Factor, ...]
    end: int
    is_explicit: bool
    joints: str

    @property
    def spelling(self) -> str:
        """The phrase as ``kg m^2 s^-2``."""
        return " ".join(name if power == 1 else f"{name}^{power}" for name, power in self.factors)


_STYLES = (
    "text|mbox|hbox|textnormal|textrm|textsf|texttt|textup|textmd|textbf|textit|emph|mathrm|mathbf|mathit|mathsf|mathtt"
    "|mathnormal|boldsymbol|bm|operatorname|unit|si|rm|bf"
)
_SWITCHES = (
    "rm|bf|it|sf|tt|rmfamily|sffamily|normalfont|mathrm|mathbf|mathit|mathsf|displaystyle|textstyle"
)
_DEGREE = r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\(?:text)?degree(?![A-Za-z])|\^\s*\\degree(?![A-Za-z])"
_PIECE = re.compile(
    r"(?P<space>(?:\s|~|\\[,;:!> ]|\\(?:q?quad|(?:thin|med|thick|en|neg)?space|nobreakspace|left|right"
    r"|[bB]igg?[lr]?)(?![A-Za-z])|\{\s*\}|\\hspace\*?\{[^{}]*\})+)"
    rf"|(?P<style>\\(?:{_STYLES})\*?\s*\{{|\{{\s*\\(?:{_SWITCHES})(?![A-Za-z]))"
    rf"|(?P<switch>\\(?:{_SWITCHES})(?![A-Za-z]))"
    r"|(?P<fraction>\\(?:[dtcs]?frac|nicefrac)(?![A-Za-z]))"
    rf"|(?P<degree>{_DEGREE})"
    r"|\^\s*(?:\{\s*)?(?:\\(?:text|mathrm|rm)\s*\{?\s*)?(?P<power>[-+]?\s*\d)(?!\d|\.\d)(?P<closing>\s*\}{0,2})"
    r"|(?P<slash>/)"
    r"|(?P<times>\\(?:cdot|times|ast|bullet|cdotp)(?![A-Za-z])|\*)"
    r"|(?P<prefix>\\(?:mu|micro|upmu|textmu)(?![A-Za-z]))"
    r"|(?P<sign>\\(?:Omega|ohm|ell|upOmega|AA|angstrom|pounds|euro|texteuro|textdollar|\$)(?![A-Za-z])"
    r"|\\mathring\s*\{\s*(?:\\(?:text|mathrm)\s*\{)?A\}{1,2}|[\u20ac\u00a3\u00a5\u20b9\u20a9\u00a2])"
    r"|(?P<name>[A-Za-z\u03bc\u03a9\u00c5\u00e5\u00f6\u2113]+)(?P<digit>-?[1-4](?!\d|\.\d))?"
    r"|(?P<dash>-(?=[A-Za-z]))"
    r"|(?P<dot>\.)"
    r"|(?P<open>[{(\[])"
    r"|(?P<close>\})"
    r"|(?P<dollar>\$)"
)
_SIGNS = {
    "\\Omega": "\u03a9", "\\upOmega": "\u03a9", "\\ohm": "\u03a9", "\\pounds": "\u00a3", "\\euro": "\u20ac",
    "\\texteuro": "\u20ac", "\\textdollar": "$", "\\$": "$", "\\AA": "\u00c5", "\\angstrom": "\u00c5",
    "\\ell": "\u2113",
}  # fmt: skip
_GAP = r"(?:[-\s~]|\\[,;:! ])*"
_SEVERAL_WORDS = tuple(
    (re.compile(pattern.replace("_", _GAP) + "(?![A-Za-z])", re.IGNORECASE), name)
    for pattern, name in (
        ("light_years?", "ly"),
        ("nautical_miles?", "nmi"),
        ("fluid_ounces?", "floz"),
        (r"fl\.?_oz\.?", "floz"),
        ("metric_tons?", "ton"),
        ("short_tons?", "shorttons"),
        ("astronomical_units?", "AU"),
        ("electron_volts?", "eV"),
        ("horse_powers?", "hp"),
        ("mm_(?:of_)?(?:Hg|mercury)", "mmHg"),
        ("cm_(?:of_)?(?:Hg|mercury)", "cmHg"),
        ("pounds?_sterling", "poundsterling"),
        ("(?:US|U\\.S\\.|American)_dollars?", "dollar"),
        ("(?:pounds?|lbs?\\.?)_per_(?:square|sq\\.?)_inch(?:es)?", "psi"),
        ("lbs?_/_in_\\^?_\\{?2\\}?", "psi"),
        ("pounds?_force", "lbf"),
        ("(?:degrees?|deg\\.?)_(?:C|Celsius|centigrade)", "degreeC"),
        ("(?:degrees?|deg\\.?)_(?:F|Fahrenheit)", "degreeF"),
        ("(?:degrees?|deg\\.?)_(?:K|kelvins?)", "K"),
        ("arc_minutes?", "arcminute"),
        ("arc_seconds?", "arcsecond"),
    )
)
_FIRST_LETTERS = frozenset("lnfmsaehcpudLNFMSAEHCPUD")
_BEFORE_NAME = re.compile(r"(square|sq|cubic|cu)(?:[.-]|(?![A-Za-z]))", re.IGNORECASE)
_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER = {"squared": 2, "cubed": 3, "sq": 2, "square": 2}
_AFTER_PREFIX = re.compile(
    r"(?:\s|~|\\[,;:! ]|\})*(?P<style>\\(?:text|mathrm|textrm|mbox|rm)\s*\{|\{\s*\\rm)?(?:\s|~|\\[,;:! ])*"
    r"(?P<unit>\\(?:up)?Omega|\\ohm|[A-Za-z]+)"
)
_ENGLISH = frozenset("in as at am pm".split())
_OHM_PREFIXES = frozenset("QRYZEPTGMkhdcmnpfazyrq")
_BEFORE_OHM = re.compile(
    r"(?:\s|~|\\[,;:! ]|\})*(?:\\(?:text|mathrm)\s*\{\s*)?\\(?:(?:up)?Omega|ohm)(?![A-Za-z])"
)
_AFTER_ABBREVIATION = ("", " ", "~", "}", "^", ",", ";", ")")
_GLUED_PREFIX = re.compile(r"(sq|cu)([a-z]{1,6})", re.IGNORECASE)
_GLUED = frozenset(
    "kg g m cm mm s N kN J kJ mol K W kW V kV C A T Pa kPa Hz rad h L F H Wb".split()
)
_SCALES = {"C": "degreeC", "F": "degreeF", "Celsius": "degreeC", "Fahrenheit": "degreeF", "K": "K"}


def read_phrase(text: str, position: int, *, plain: bool = True, level: int = 0) -> Phrase | None:
    """Return the longest unit phrase that starts at `position`, space before it included, or None.

    Without `plain`, the first name must be set as text or be a word: letters of a formula are none.
    """
    if level > MAX_LEVELS:
        return None
    reader = _Reader(text, position, plain, level)
    while reader.step():
        pass
    return reader.best


@dataclass
class _Reader:
    """A position in the text, the factors read so far, and the longest phrase that was complete."""

    text: str
    position: int
    plain: bool
    level: int
    factors: list[Factor] = field(default_factory=list)
    joints: str = ""
    joint: str = " "
    stack: list[str] = field(default_factory=list)
    sign: int = 1
    pending: int = 0
    has_switch: bool = False
    is_explicit: bool = False
    needs_factor: bool = True
    scope: int = 0
    before: str = ""
    best: Phrase | None = None

    def step(self) -> bool:
        """Consume a piece; False once the phrase has ended."""
        match = _PIECE.match(self.text, self.position)
        if match is None or len(self.factors) > MAX_FACTORS:
            return False
        kind = match.lastgroup or ""
        kind = {"closing": "power", "digit": "name"}.get(kind, kind)
        if not getattr(self, "_" + kind)(match):
            return False
        self.position = max(self.position, match.end())
        if kind != "space":
            self.before = kind
            self._keep()
        return True

    def _keep(self) -> None:
        """Note the phrase if it is complete here."""
        if self.stack or self.needs_factor or self.pending:
            return
        if self.before == "degree" and len(self.factors) == 1 and not self.is_explicit:
            return
        if re.match(r"\s*_", self.text[self.position : self.position + 8]):
            return
        self.best = Phrase(tuple(self.factors), self.position, self.is_explicit, self.joints)

    # space and groups

    def _space(self, match: re.Match[str]) -> bool:
        return True

    def _style(self, match: re.Match[str]) -> bool:
        self.stack.append("style")
        return True

    def _switch(self, match: re.Match[str]) -> bool:
        self.has_switch = True
        return True

    def _open(self, match: re.Match[str]) -> bool:
        """Enter braces, or read a whole group in brackets."""
        if match.group() == "{":
            is_set_apart = bool(self.stack) or self.has_switch or self.factors or self.plain
            self.stack.append("brace")
            return bool(is_set_apart)
        if not self.needs_factor or not self.factors:
            return False
        inside = _balanced(self.text, self.position)
        if inside is None:
            return False
        self.position += len(inside) + 2
        return self._take_whole(inside)

    def _close(self, match: re.Match[str]) -> bool:
        if self.stack:
            self.stack.pop()
            return True
        return False

    def _dollar(self, match: re.Match[str]) -> bool:
        return bool(self.stack)

    def _fraction(self, match: re.Match[str]) -> bool:
        """Read a fraction of two phrases; the upper one may be 1."""
        if not self.needs_factor and self.factors and self.joint == "/":
            return False
        top = _braces(self.text, match.end())
        bottom = None if top is None else _braces(self.text, top[1])
        if top is None or bottom is None:
            return False
        self.position = bottom[1]
        sign = self.sign
        if top[0].strip() != "1" and not self._take_whole(top[0]):
            return False
        self.sign = -sign
        self.joint = "/"
        if not self._take_whole(bottom[0]):
            return False
        self.sign = sign
        self.before = "fraction"
        return True

    def _take_whole(self, inside: str) -> bool:
        """Add the factors of a text that is one phrase from end to end."""
        styled = self.plain or bool(self.stack) or self.has_switch or bool(self.factors)
        phrase = read_phrase(inside, 0, plain=styled, level=self.level + 1)
        if phrase is None or inside[phrase.end :].strip(" ~."):
            return False
        explicit = phrase.is_explicit or self._is_set_apart()
        for name, power in phrase.factors:
            self._add(name, power, explicit)
        self.scope = len(phrase.factors)
        return True

    # signs

    def _power(self, match: re.Match[str]) -> bool:
        """Raise the last factors to a power."""
        if self.needs_factor or not self.factors:
            return False
        exponent = int(match["power"].replace(" ", "")) if match["power"] else 0
        num_opened = match.group().count("{")
        closing = match["closing"]
        num_closed = closing.count("}")
        if num_closed < num_opened or not exponent:
            return False
        self.position = match.end() - (num_closed - num_opened)
        self._raise(exponent)
        return self._repositioned(match)

    def _repositioned(self, match: re.Match[str]) -> bool:
        """Leave braces that close more than the exponent to the next steps."""
        surplus = match.end() - self.position
        for _ in range(surplus):
            if self.stack:
                self.stack.pop()
            else:
                self.before = "power"
                self._keep()
                return False
        return True

    def _raise(self, exponent: int) -> None:
        for index in range(len(self.factors) - max(1, self.scope), len(self.factors)):
            name, power = self.factors[index]
            self.factors[index] = (name, power * exponent)
        if exponent < 0 and self.factors[-1] == ("ms", exponent):  # metres per second, by custom
            self.factors[-1:] = [("m", 1), ("s", exponent)]
            self.joints += "*"

    def _slash(self, match: re.Match[str]) -> bool:
        self.sign = -1
        return self._expect_factor("/")

    def _times(self, match: re.Match[str]) -> bool:
        return bool(self.factors) and self._expect_factor("*")

    def _expect_factor(self, joint: str) -> bool:
        if self.needs_factor and self.factors:
            return False
        self.needs_factor = True
        self.joint = joint
        return True

    def _dash(self, match: re.Match[str]) -> bool:
        """A hyphen joins two names, or a number and a word."""
        if self.before == "name":
            return self._expect_factor("*")
        word = _letters(self.text, match.end())
        return not self.factors and not self.before and is_word(word)

    def _dot(self, match: re.Match[str]) -> bool:
        """A full stop ends an abbreviation or stands between two names."""
        if self.before not in ("name", "power"):
            return False
        following = self.text[match.end() : match.end() + 1]
        if following.isalpha() or following == "\\":
            return self._expect_factor("*")
        return self.before == "name" and following in _AFTER_ABBREVIATION

    # names

    def _degree(self, match: re.Match[str]) -> bool:
        scale = re.compile(
            r"(?:\s|~|\\[,;: ])*(?:\\(?:text|mathrm|textrm|mbox|rm)\s*\{?|\{\s*\\rm|\{)?(?:\s|~|\\[,;: ])*"
            r"(?P<scale>Celsius|Fahrenheit|C|F|K)(?![A-Za-z_])(?P<close>(?:\s|~)*\})?"
        ).match(self.text, match.end())
        if scale is None:
            return self._add("deg", 1, self._is_set_apart())
        opened = "{" in self.text[match.end() : scale.start("scale")]
        self.position = scale.end() if opened else scale.end("scale")
        return self._add(_SCALES[scale["scale"]], 1, True)

    def _sign(self, match: re.Match[str]) -> bool:
        spelled = match.group()
        name = _SIGNS.get(spelled, "\u00c5" if "mathring" in spelled else spelled)
        return self._add(name, 1, self._is_set_apart())

    def _prefix(self, match: re.Match[str]) -> bool:
        """Read a Greek mu together with the unit that it belongs to."""
        return self._prefixed("\u03bc", match.end())

    def _prefixed(self, prefix: str, end: int) -> bool:
        """Read the unit of a prefix that is set apart from it."""
        unit = _AFTER_PREFIX.match(self.text, end)
        if unit is None:
            return False
        name = prefix + _SIGNS.get(unit["unit"], unit["unit"])
        if measure_of(name) is None:
            return False
        num_closed = self.text.count("}", end, unit.start("unit"))
        if num_closed > len(self.stack):
            return False
        explicit = unit["style"] is not None or self._is_set_apart()
        del self.stack[len(self.stack) - num_closed :]
        self.stack += ["style"] * ("{" in (unit["style"] or ""))
        self.position = unit.end()
        return self._add(name, 1, explicit)

    def _name(self, match: re.Match[str]) -> bool:
        """Read a unit's name, or a word that says what to do with one."""
        for pattern, name in _SEVERAL_WORDS if match.group()[0] in _FIRST_LETTERS else ():
            several = pattern.match(self.text, self.position)
            if several is not None:
                self.position = several.end()
                return self._add(name, 1, True)
        letters = match["name"]
        if letters in _ENGLISH and self._is_preposition(match):
            return False
        if letters in _OHM_PREFIXES and _BEFORE_OHM.match(self.text, match.end()):
            return self._prefixed(letters, match.end())
        lower = letters.lower()
        if lower == "per" or (lower in ("a", "an") and self._opens_rate(match)):
            self.sign = -1
            return self._expect_factor("/")
        if lower in _AFTER and self.factors and not self.needs_factor and self._ends_here(match):
            self._raise(_AFTER[lower])
            return True
        square = _BEFORE_NAME.match(self.text, self.position)
        if square is not None and not self.pending:
            self.pending = _BEFORE[square[1].lower()]
            self.position = square.end()
            self.needs_factor = True
            return True
        return self._named(letters, match["digit"])

    def _is_preposition(self, match: re.Match[str]) -> bool:
        """Tell whether a symbol that is also a word of English is the word: "5 km in 3 hours", "5 in total"."""
        continues = bool(self.factors) and not self.needs_factor and not self.pending
        following = _letters(self.text, match.end() + 1)
        is_followed = following.lower() in ("per", "an") or measure_of(following) is not None
        return continues or (len(following) > 1 and not is_followed)

    def _opens_rate(self, match: re.Match[str]) -> bool:
        """Tell whether an article stands for "per": miles an hour."""
        following = _letters(self.text, match.end() + 1)
        opens = is_word(following) or following in _BEFORE
        return bool(self.factors) and not self.needs_factor and opens

    def _ends_here(self, match: re.Match[str]) -> bool:
        """Tell whether no name follows that "square" could belong to."""
        lower = match["name"].lower()
        if lower in ("squared", "cubed"):
            return True
        return measure_of(_letters(self.text, match.end() + 1)) is None

    def _named(self, letters: str, digit: str | None) -> bool:
        power = int(digit) if digit else 1
        if measure_of(letters) is not None:
            explicit = self._is_set_apart() or is_word(letters)
            return self._add(letters, power, explicit)
        glued = _GLUED_PREFIX.fullmatch(letters)
        if glued is not None and measure_of(glued[2]) is not None and not self.pending:
            self.pending = _BEFORE[glued[1].lower()]
            return self._add(glued[2], power, True)
        return self._several(letters, power)

    def _several(self, letters: str, power: int) -> bool:
        """Read symbols written without anything between them: ``Nm``, ``kgm``."""
        parts = _parted(letters)
        if len(parts) != 1:
            return False
        *front, last = parts[0]
        explicit = self._is_set_apart()
        for name in front:
            if not self._add(name, 1, explicit):
                return False
            self.joint = "*"
        return self._add(last, power, explicit)

    def _is_set_apart(self) -> bool:
        """Tell whether the text here is set as text."""
        return self.has_switch or "style" in self.stack

    def _add(self, name: str, power: int, explicit: bool) -> bool:
        """Add a factor."""
        if not self.factors:
            begins_with_slash = self.sign < 0 and len(name) < 2
            explicit = explicit or bool(self.pending)
            if not explicit and (begins_with_slash or not self.plain):
                return False
            self.is_explicit = explicit
        else:
            self.joints += self.joint
        self.factors.append((name, power * (self.pending or 1) * self.sign))
        self.pending = 0
        self.joint = " "
        self.scope = 1
        self.needs_factor = False
        return True


def _letters(text: str, position: int) -> str:
    """Return the letters from a position on, space before them left out."""
    match = re.compile(r"[\s~]*([A-Za-z]*)").match(text, position)
    return match[1] if match else ""


def _balanced(text: str, position: int) -> str | None:
    """Return what the brackets hold that open at a position, or None if they do not close."""
    opening = text[position]
    closing = {"(": ")", "[": "]", "{": "}"}[opening]
    depth = 0
    for index in range(position, min(len(text), position + 200)):
        depth += {opening: 1, closing: -1}.get(text[index], 0)
        if depth == 0:
            return text[position + 1 : index]
    return None


def _braces(text: str, position: int) -> tuple[str, int] | None:
    """Return the content of the braces that follow, and where they end."""
    start = position + len(text[position:]) - len(text[position:].lstrip())
    if text[start : start + 1] != "{":
        return None
    inside = _balanced(text, start)
    return None if inside is None else (inside, start + len(inside) + 2)


def _parted(letters: str) -> list[list[str]]:
    """Return the ways to part a run of letters into symbols in common use; none for long runs."""
    if not letters:
        return [[]]
    if len(letters) > 8:
        return []
    ways = []
    for length in (1, 2, 3):
        if letters[:length] in _GLUED and len(letters) >= length:
            ways += [[letters[:length], *rest] for rest in _parted(letters[length:])]
    return ways
