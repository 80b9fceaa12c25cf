r"""Where a completion states its final answer.

`extract` reads a completion after its reasoning has ended and returns the answer and the rule that located it.
`bare_answer` does the same for text that may already be a bare answer. Whether two answers agree is
``rewards.mathematics.equality``, what prose states ``rewards.mathematics.prose``; nothing here parses mathematics,
imports sympy or takes more than linear time.

Order of preference, the same for training (strict) and evaluation (lenient):

========== ===================================================== ==========================================
how        what is read                                          differences when lenient
========== ===================================================== ==========================================
answer_tag the last ``<answer>...</answer>``                     -
boxed      the last ``\boxed{...}``; neighbours form one list    up to five words may stand between boxes; a
                                                                 "final answer is" after the last box wins;
                                                                 an unclosed box is read to its line's end
hash       what follows the last ``####``                        -
phrase     what follows the last "the answer is", "answer:"      the options that the last sentence calls correct
math       the last formula in delimiters, cases or matrix,      ``$ x $`` with inner spaces counts too
           or system with a value for each name
number     the last number with the expression around it         strict looks at the last 300 characters
========== ===================================================== ==========================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, NamedTuple

from rewards.mathematics.around import quantities_before, unit_or_noun_after
from rewards.mathematics.prose import (
    NUMBER,
    computes,
    is_denied,
    is_denied_behind,
    is_question,
    is_reference,
    is_rejected,
    last_value,
    linked,
    opening_value,
    stated_options,
    without_asides,
    without_contrast,
    without_explanation,
)
from rewards.mathematics.surface import without_marks
from rewards.mathematics.unit_tokens import unit_after

__all__ = ["Extracted", "bare_answer", "extract"]

MAX_LENGTH = 2000
STRICT_TAIL = 300


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer that a text states, or None, and the rule that located it (see the module's table)."""

    text: str | None
    how: str


NOTHING = Extracted(None, "none")

_BE = (
    r"(?:is|are|was|were|equals|becomes|comes\s+(?:out\s+)?to|turns\s+out\s+to\s+be|works\s+out\s+to"
    r"|(?:must|should|will|would|has\s+to)(?:\s+therefore|\s+then|\s+thus)?\s+be)\b\s*"
    r"(?:(?:therefore|thus|hence|simply|indeed|clearly|exactly|precisely|equal\s+to|given\s+by|found\s+to\s+be)\b\s*)?:?"
)
_PHRASE = re.compile(
    r"(?:final\s+answer|answer|result|(?:correct|right|best)\s+(?:option|choice|statement)s?)\b(?:\s*\*\*)?\s*"
    rf"(?:{_BE}|:|=)(?:\s*\*\*)?\s*(?:(?:options?|choices?)\s+(?=\W{{0,3}}[A-J](?![a-z])))?",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"final\s+answer\b(?:\s*\*\*)?\s*(?:is\b\s*:?|:)(?:\s*\*\*)?\s*(?:the\s+final\s+answer\s+is\s*)?",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\])")
_SPECIAL = re.compile(
    r"<\|[^|<>]{1,40}\|>|<\uff5c[^\uff5c<>]{1,40}\uff5c>|</s>|<eos>|<end_of_turn>"
)
_SENTENCE_END = re.compile(
    r"[.?](?=\s|$)|!+(?!\s+(?:[-+*/=<>^\u2212\u00d7\u00b7\u2248]|\\)|\s+[a-z])(?=\s|$)|(?<![\d)}!])!+(?=\s)|\n"
)
"""A sign behind a number that goes on is a factorial: "5! = 120", "5! ways"."""
_JOIN_STRICT = re.compile(
    r"^(?:\\?[\s,;$.&]|\\[()\[\]]|\\q?quad|\\text\{|\\(?:mbox|textrm)\{|\}|and|or)*$"
)
_EXCLUDED = re.compile(r"(?:\\neq?|\u2260|!=)\s*\$?$")
_NAME_BEFORE = re.compile(r"(?P<name>[A-Za-z](?:_\{?\w{1,3}\}?)?|\\[a-z]{2,8})\s*=\s*(?:\$+\s*)?$")
_WORD = re.compile(r"[A-Za-z]{2,}")
_BARE_CONTENT = re.compile(r"\\?\w+")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_DECIMAL_COMMA = re.compile(r"(?<![\d,.\w])\d+,\d{1,2}(?![\d,])")
_QUALIFIER = re.compile(r"\s*,?\s*(?:where|with|for|such that|if)\b")
_DELIMITED = re.compile(
    r"(?<!\\)\$\$(?P<a>[^$]{1,2000}?)\$\$|\\\[(?P<b>.{1,2000}?)\\\]|\\\((?P<c>.{1,2000}?)\\\)"
    r"|(?<!\\)\$(?P<d>(?:[^$\\]|\\.){1,2000}?)(?<!\\)\$(?!\d)",
    re.DOTALL,
)
_ENVIRONMENT = re.compile(
    r"(?:[A-Za-z]\w{0,8}(?:\([A-Za-z](?:, ?[A-Za-z]){0,3}\))?[ \t]{0,4}=\s{0,4})?"
    r"\\begin\{(?P<kind>[a-zA-Z]{1,20}\*?)\}(?P<inside>.{1,2000}?)\\end\{(?P=kind)\}",
    re.DOTALL,
)
"""An environment without delimiters, with a name in front that it is the value of."""
_WHOLE = re.compile(r"(?:[dr]?cases|[pbvBV]?(?:small)?matrix|array)\*?")
"""Environments that are one value."""
_EQUATION_OF_NAME = re.compile(r"\s*([A-Za-z](?:_\{?\w{1,3}\}?)?)\s*&?\s*=")
_POWER_OF_WORD = re.compile(r"(?<=[A-Za-z])\$(\^\{?-?\d\}?)\$")
_BEFORE_SIGN = r"(?P<before>(?:\b(?:is|are|be|was|equals?|gets?|gives?|to)[ \t]|[=:]\**[ \t]?)"
_SIGN_BEFORE_MATH = re.compile(
    _BEFORE_SIGN
    + r")[-\u2212]\s?(?P<open>\$|\\\()(?P<inside>[^$\\\s](?:[^$\\]|\\[^)])*|\\[A-Za-z](?:[^$\\]|\\[^)])*)"
    r"(?P<close>\$|\\\))"
)
_SIGN_IN_BOLD = re.compile(r"(?<=[A-Za-z=:][ \t])\*\*[-\u2212][ \t]+(?=[\d\\$.])")
_SIGN_BEFORE_BOX = re.compile(
    _BEFORE_SIGN + r"\$?)[-\u2212]\s?\\boxed\{"
    r"(?=(?:\d[\d.,]*|\\[dt]?frac\{[^{}]*\}\{[^{}]*\}|\d*\\sqrt\{[^{}]*\}|\d*\\?[A-Za-z]+)\})"
)
_EXPLAINS = re.compile(
    r"\s*\((?!mod)[A-Za-z]{3,}[^()]*\)$|\s*,?\s(?:because|since|as|when|after|which|i\.e\.)\s"
)
_UNIT_ALONE = re.compile(
    r"(?:\\(?:text|mathrm|textrm|mbox)\s*\{[^{}\d]{1,20}\}(?:\^\{?-?\d\}?)?[\s/]*){1,4}"
)
_FORMAL = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|textbf|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+|\$[^$]*\$|</?su[bp]>"
)
_SENTENCE_WORDS = frozenset(
    "the is are was were so it which that this these those we he she they has have had be will would therefore thus"
    " hence then gives get gets equals makes make there not".split()
)


_NO_LINKS = frozenset(
    "so thus then hence therefore finally get gives which wait actually no not but rather sorry correction instead"
    " mistake oops hmm".split()
)
"""Words between two boxes after which the second one takes the place of the first."""


class Span(NamedTuple):
    """A box or formula in a text: where it starts and ends with its delimiters, and what is inside."""

    start: int
    end: int
    content: str


def extract(text: str, *, lenient: bool = False) -> Extracted:
    """Return the final answer of a completion, or `Extracted(None, "none")` if it states none.

    Only what follows the last ``</think>`` is read; an open ``<think>`` means that the reasoning never
    ended, so there is no answer. A box, tag or phrase that is present but empty is no answer: the weaker rules
    are not tried then.
    """
    visible = _after_reasoning(text)
    if visible is None:
        return NOTHING
    visible = without_marks(_without_special_tokens(visible))
    tagged = _from_tag(visible, lenient)
    if tagged is not None:
        return tagged
    return _from_markers(visible, lenient) or _from_tail(visible, lenient)


def bare_answer(text: str, *, lenient: bool = False) -> Extracted:
    """Return the answer of a text that may be a bare answer, in delimiters or boxed, or a whole solution.

    A text with a box, tag, ``####`` or (in prose) "the answer is" is read as a completion; prose with a
    formula or a number gives the last one; everything else is the answer as it is written.
    """
    visible = without_marks(_without_special_tokens(text)).strip()
    has_box = "\\boxed" in visible
    if visible.count("$") == 2 and visible[0] == visible[-1] == "$" and not has_box:
        content = visible[1:-1].strip()
        if content:
            return Extracted(content, "bare")
        return NOTHING
    if _is_completion(visible):
        return extract(text, lenient=lenient)
    formula = _from_formulas(visible[-4 * MAX_LENGTH :])
    if formula is not None:
        return formula
    number = _last_number(visible[-4 * MAX_LENGTH :], lenient) if _is_sentence(visible) else None
    if number is not None:
        return Extracted(number, "number") if number else NOTHING
    if visible:
        return Extracted(visible, "bare")
    return NOTHING


def _is_completion(text: str) -> bool:
    """Tell whether a text announces its answer as a completion does."""
    if any(marker in text for marker in ("</think>", "<answer>", "####")) or _BOX.search(text):
        return True
    return len(text) > 60 and _PHRASE.search(text) is not None and _is_sentence(text)


def _after_reasoning(text: str) -> str | None:
    """Return the part after the last closing think tag; None if a think tag is open."""
    tail = text.rpartition("</think>")[2]
    return None if "<think>" in tail else tail


def _without_special_tokens(text: str) -> str:
    """Cut the text at the first chat-template token after its beginning; ``cm$^2$`` loses its delimiters.

    A sign in front of delimiters or a box belongs to what they enclose: "it is -$3$".
    """
    text = _POWER_OF_WORD.sub(r"\1", text)
    text = _SIGN_BEFORE_MATH.sub(_sign_inside, text)
    text = _SIGN_IN_BOLD.sub("**-", text)
    text = _SIGN_BEFORE_BOX.sub(r"\g<before>\\boxed{-", text)
    for match in _SPECIAL.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _sign_inside(match: re.Match[str]) -> str:
    inside = match["inside"]
    if re.search(r"[-+=,;\u2212]", inside):
        inside = f"({inside})"
    return f"{match['before']}{match['open']}-{inside}{match['close']}"


def _from_tag(text: str, lenient: bool) -> Extracted | None:
    """Return the content of the last answer tag, its own box or sentence resolved; None if there is no tag."""
    start = text.rfind("<answer>")
    if start < 0:
        return None
    content = text[start + len("<answer>") :].partition("</answer>")[0].strip()
    if not content:
        return NOTHING
    inner = _from_markers(content, lenient)
    if inner is None and _is_prose(content):
        inner = _from_tail(content, lenient)
    answer = inner.text if inner is not None and inner.text else _undelimited(content)
    if len(answer) <= MAX_LENGTH:
        return Extracted(answer, "answer_tag")
    return NOTHING


def _from_markers(text: str, lenient: bool) -> Extracted | None:
    """Return what a box, ``####`` or a phrase announces; None if none of them is present."""
    boxes = _boxes(text, lenient)
    if boxes:
        final = _last_match(_FINAL, text) if lenient else None
        if final is None or final.start() < boxes[-1].end:
            return _joined(text, boxes, lenient)
        return Extracted(_sentence(text[final.end() :]) or None, "phrase")
    if "####" in text:
        line = text[text.rindex("####") + 4 :].strip().partition("\n")[0]
        if line.strip():
            return Extracted(_undelimited(line), "hash")
        return NOTHING
    phrase = _last_match(_PHRASE, text)
    announced = _sentence(text[phrase.end() :]) if phrase is not None else ""
    if announced and not _is_asked(text, phrase):
        return Extracted(announced, "phrase")
    return None


def _is_asked(text: str, phrase: re.Match[str] | None) -> bool:
    """Tell whether the sentence with the phrase is a question."""
    end = _SENTENCE_END.search(text, phrase.end()) if phrase else None
    return end is not None and is_question(text[: end.end()])


# boxes


def _boxes(text: str, lenient: bool) -> list[Span]:
    """Return every outermost box; one that never closes is the only one, and empty if strict."""
    boxes: list[Span] = []
    covered = 0
    for match in _BOX.finditer(text):
        if match.start() < covered:
            continue
        end = _box_end(text, match.end())
        if end is None:
            line = text[match.end() + 1 :].partition("\n")[0].strip(" $")
            return [Span(match.start(), len(text), line if lenient else "")]
        covered = end
        content = text[match.end() : end]
        if content.startswith("{"):
            content = content[1:-1]
        boxes.append(Span(match.start(), end, content))
    return boxes


def _box_end(text: str, start: int) -> int | None:
    """Return the index just after the box whose content starts at `start`; None if its brace never closes."""
    if text[start] != "{":
        bare = _BARE_CONTENT.match(text, start)
        return bare.end() if bare else None
    depth = 0
    for match in _BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end()
    return None


def _joined(text: str, boxes: list[Span], lenient: bool) -> Extracted:
    """Return the last box, together with the boxes right before it that it continues as a list."""
    last_boxes = _run_at_end(boxes, lambda between: _continues(between, lenient), text)
    if any(_EXCLUDED.search(text[max(0, box.start - 20) : box.start]) for box in last_boxes):
        return NOTHING
    contents = [_innermost(_stripped(box.content)) for box in last_boxes]
    if len(contents) > 1:
        contents = _named(text, last_boxes, contents)
    if not contents[-1]:
        return NOTHING
    contents = [content for content in contents if content]
    between = text[last_boxes[0].end : last_boxes[-1].start]
    answer = linked(list(dict.fromkeys(contents)), between)
    if not answer or len(answer) > MAX_LENGTH:
        return NOTHING
    return Extracted(answer, "boxed")


def _named(text: str, boxes: list[Span], contents: list[str]) -> list[str]:
    """Return the contents of boxes with the names in front of them (``x=`` before the box), if these differ."""
    before = [_NAME_BEFORE.search(text[max(0, box.start - 40) : box.start]) for box in boxes]
    names = [match["name"] if match else "" for match in before]
    if len(set(names)) < 2 or "" in names:
        return contents
    return [f"{name} = {content}" for name, content in zip(names, contents)]


def _run_at_end(spans: list[Span], links: Callable[[str], bool], text: str) -> list[Span]:
    """Return the last span and those before it, as long as the text between two of them links them."""
    first = len(spans) - 1
    while first > 0 and links(text[spans[first - 1].end : spans[first].start]):
        first -= 1
    return spans[first:]


def _continues(between: str, lenient: bool) -> bool:
    """Tell whether the text between two boxes only links them: a comma, "and", delimiters, a few words."""
    if len(between) > 80:
        return not between.strip()
    between = _NAME_BEFORE.sub("", between)
    if not between.strip():
        return not between.strip()
    if _JOIN_STRICT.match(between):
        return "\n\n" not in between
    words = _WORD.findall(re.sub(r"\\[A-Za-z]+", " ", between))
    if not lenient or len(words) > 5 or not _NO_LINKS.isdisjoint(map(str.lower, words)):
        return False
    if "." in between:
        return False
    return "and" in words or "," in between


def _stripped(content: str) -> str:
    r"""Return what a box holds without space at its ends, ``\ `` included."""
    stripped = content.strip()
    is_cut = stripped.endswith("\\") and not stripped.endswith("\\\\")
    return stripped[:-1].rstrip() if is_cut else stripped


def _innermost(content: str) -> str:
    """Return the content of a box that holds nothing but another box."""
    while (match := _BOX.match(content)) and content.endswith("}") and content[match.end()] == "{":
        content = content[match.end() + 1 : -1].strip()
    return content


# phrases and tails


def _sentence(rest: str) -> str:
    """Return the answer that opens `rest`: a formula, a number with its unit, or the sentence."""
    rest = rest.lstrip(" \t\n*:}").rstrip()
    formulas = _formulas(rest[:MAX_LENGTH], spaced=True)
    if formulas and formulas[0].start <= 3:
        return _linked(rest, formulas)
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    sentence = without_explanation(without_contrast(sentence))
    opening = opening_value(sentence[:MAX_LENGTH])
    if opening and (_is_prose(sentence) or _is_explained(sentence, opening)):
        return opening
    if _is_prose(sentence):
        last = _last_value(sentence, formulas)
        if last is not None:
            return last
    if len(sentence) <= MAX_LENGTH:
        return _undelimited(sentence.strip(" *"))
    return ""


def _is_explained(sentence: str, value: str) -> bool:
    """Tell whether what follows the value that a sentence opens with only explains it: "12, because 3 * 4 = 12"."""
    return sentence.startswith(value) and _EXPLAINS.match(sentence, len(value)) is not None


def _last_value(sentence: str, formulas: list[Span]) -> str | None:
    """Return the last formula of a sentence, or the last number if one follows that or there is no formula."""
    inside = [formula for formula in formulas if formula.end <= len(sentence) + 2]
    if inside and not NUMBER.search(sentence, inside[-1].end):
        return inside[-1].content + unit_after(sentence, inside[-1].end)
    return _last_number(sentence)


def _linked(text: str, formulas: list[Span]) -> str:
    """Return the first formula and those that continue it as a list."""
    contents = [formulas[0].content]
    end = formulas[0].end
    for before, formula in zip(formulas, formulas[1:]):
        if not _JOIN_STRICT.match(text[before.end : formula.start]):
            break
        contents.append(formula.content)
        end = formula.end
    return linked(contents, text[formulas[0].end : end])


def _from_tail(text: str, lenient: bool) -> Extracted:
    """Return the last formula or value of a text without any marker; leniently, also the options it calls correct."""
    tail = text[-MAX_LENGTH:]
    options = stated_options(tail) if lenient else None
    if options is not None:
        return Extracted(options, "phrase")
    tail = _without_asides_at_end(tail)
    formulas = _with_environments(tail, _formulas(tail, spaced=lenient))
    skipped = 0 if lenient else max(0, len(tail) - STRICT_TAIL)
    number = _last_match(NUMBER, tail[skipped:])
    number_end = -1 if number is None else skipped + number.end()
    if formulas and number_end <= formulas[-1].end:
        return _last_formulas(tail, formulas)
    value = last_value(tail[skipped:], lenient)
    if value is not None:
        return Extracted(value, "number") if value else NOTHING
    stripped = text.strip()
    if lenient and 0 < len(stripped) <= 200:
        return NOTHING if is_reference(stripped) else Extracted(stripped, "bare")
    return NOTHING


def _without_asides_at_end(text: str) -> str:
    """Return a text of which the last sentence ends with its value."""
    text = text.rstrip()
    starts = [end.end() for end in _SENTENCE_END.finditer(text) if end.end() < len(text)]
    start = starts[-1] if starts else 0
    return text[:start] + without_asides(text[start:])


def _last_formulas(text: str, formulas: list[Span]) -> Extracted:
    """Return the last formula, with those that "and" or "or" link to it; nothing if it is denied or asked."""
    run = _run_at_end(formulas, lambda between: bool(_JOIN_STRICT.match(between)), text)
    is_linked = re.search(r"\b(?:and|or)\b", text[run[0].end : run[-1].start]) is not None
    if not is_linked and not _name_values(run):
        run = formulas[-1:]
    sentence = text[: run[0].start]
    starts = [end.end() for end in _SENTENCE_END.finditer(sentence)]
    is_asked = is_question(text[run[-1].end :][:3])
    before = sentence[starts[-1] if starts else 0 :]
    unit = _unit_behind(text, run)
    if is_asked or is_denied_behind(text[run[-1].end :], unit):
        return NOTHING
    if is_denied(before) or is_rejected(before, unit):
        return NOTHING
    between = text[run[0].end : run[-1].start]
    contents = linked([formula.content for formula in run], between)
    larger = quantities_before(before, unit) if len(run) == 1 else ""
    if unit and len(run) == 1 and computes(contents):
        contents = contents.rpartition("=")[2].strip()
    return Extracted(larger + contents + unit, "math")


def _name_values(formulas: list[Span]) -> bool:
    """Tell whether formulas give values to different names: ``$x=1$, $y=2$``."""
    names = [_EQUATION_OF_NAME.match(formula.content) for formula in formulas]
    return None not in names and len({match[1] for match in names if match}) == len(formulas)


def _unit_behind(text: str, formulas: list[Span]) -> str:
    """Return the unit behind the last formula, or the noun if there is one formula and it ends in a digit."""
    last = formulas[-1]
    if len(formulas) > 1 or not last.content[-1:].isdigit():
        return unit_after(text, last.end)
    return unit_or_noun_after(text, last.end)


def _last_number(text: str, lenient: bool = False) -> str | None:
    """Return the last value in a prose text, as written; a decimal comma becomes a point."""
    last = last_value(text, lenient)
    if last and _DECIMAL_COMMA.fullmatch(last):
        return last.replace(",", ".")
    return last


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the pattern's last match."""
    last = None
    for match in pattern.finditer(text):
        last = match
    return last


# formulas


def _formulas(text: str, spaced: bool) -> list[Span]:
    """Return the formulas in delimiters; amounts of money are no delimiters."""
    formulas = []
    position = 0
    while match := _DELIMITED.search(text, position):
        content = match.group(match.lastgroup or 0)
        if match.lastgroup == "d" and not _is_plausible(content, spaced):
            position = match.start() + 1
            continue
        position = match.end()
        if content.strip():
            formulas.append(Span(match.start(), match.end(), content.strip()))
    return _with_units(text, formulas)


def _with_units(text: str, formulas: list[Span]) -> list[Span]:
    r"""Return the formulas with those that hold nothing but a unit (``$12$ $\text{m}$``) joined to the one before."""
    joined: list[Span] = []
    for formula in formulas:
        before = joined[-1] if joined else None
        is_unit = before is not None and _UNIT_ALONE.fullmatch(formula.content) is not None
        if before is None or not is_unit or text[before.end : formula.start].strip():
            joined.append(formula)
            continue
        joined[-1] = Span(before.start, formula.end, f"{before.content} {formula.content}")
    return joined


def _with_environments(text: str, formulas: list[Span]) -> list[Span]:
    """Return the formulas and the environments outside of them: cases, matrices, and systems of equations."""
    found = list(formulas)
    for match in _ENVIRONMENT.finditer(text):
        is_outside = all(match.end() <= one.start or one.end <= match.start() for one in formulas)
        if is_outside and (_WHOLE.fullmatch(match["kind"]) or _is_system(match["inside"])):
            found.append(Span(match.start(), match.end(), match.group()))
    return sorted(found)


def _is_system(lines: str) -> bool:
    """Tell whether each line gives a name its value, and no two the same name; a chain of equations does not."""
    names = [_EQUATION_OF_NAME.match(line) for line in re.split(r"\\\\", lines) if line.strip()]
    known = [match[1] for match in names if match]
    return len(known) == len(names) == len(set(known)) and len(known) > 1


def _is_plausible(content: str, spaced: bool) -> bool:
    """Tell whether text between two dollar signs is a formula and not the text between two prices."""
    opens_with_space = content[0].isspace()
    if opens_with_space != content[-1].isspace():
        return False
    if opens_with_space and not spaced:
        return False
    plain = re.sub(r"\\(?:text|mbox|mathrm|textrm|textbf)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", content)
    return sum(len(word) > 2 for word in _WORD.findall(plain)) <= 4


def _from_formulas(text: str) -> Extracted | None:
    """Return a text of formulas without its delimiters; of prose with formulas the last, or the linked ones."""
    formulas = _formulas(text, spaced=True)
    if not formulas:
        return None
    first = formulas[0]
    if _QUALIFIER.match(text[first.end :]):
        return Extracted(first.content, "math")
    if _is_only_formulas(text, formulas):
        return Extracted(_undelimited(text[first.start :]), "math")
    run = _run_at_end(formulas, lambda between: bool(_JOIN_STRICT.match(between)), text)
    between = text[run[0].end : run[-1].start]
    contents = linked([formula.content for formula in run], between)
    return Extracted(contents + unit_after(text, run[-1].end), "math")


def _is_only_formulas(text: str, formulas: list[Span]) -> bool:
    """Tell whether a text is formulas with nothing but a word before, connectors between and a unit after."""
    gaps = [text[before.end : after.start] for before, after in zip(formulas, formulas[1:])]
    words_between = [word for word in _WORD.findall(" ".join(gaps)) if word not in ("and", "or")]
    words_before = _WORD.findall(text[: formulas[0].start])
    rest = text[formulas[-1].end :]
    if words_between or len(words_before) > 1:
        return False
    return not _WORD.findall(rest) or not (words_before or _is_prose(rest))


def _undelimited(text: str) -> str:
    """Return the text without mathematical delimiters and without markdown's bold around it."""
    text = text.strip().strip("*`").strip()
    pieces = []
    position = 0
    for formula in _formulas(text, spaced=True):
        pieces += [text[position : formula.start], formula.content]
        position = formula.end
    pieces.append(text[position:])
    return "".join(pieces).strip().rstrip(".").strip()


# prose


def _is_prose(text: str) -> bool:
    """Tell whether a text is prose: four or more plain words, each counted once."""
    return len(_plain_words(text)) >= 4


def _is_sentence(text: str) -> bool:
    """Tell whether a text is a sentence and not a list of quantities: prose with a verb or a pronoun in it."""
    words = _plain_words(text)
    num_telling = len(words & _SENTENCE_WORDS)
    return num_telling >= 2 or (len(words) >= 4 and num_telling == 1)


def _plain_words(text: str) -> set[str]:
    """Return the words of a text outside formulas, commands and environments."""
    plain = _FORMAL.sub(" ", text)
    return {word.lower() for word in re.findall(r"(?<![\w\\])[A-Za-z]{2,}(?![\w(=:{])", plain)}
