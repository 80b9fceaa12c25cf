"""Where the final answer stands in a completion.

`extract` reads a completion after its reasoning has ended and returns the answer and how it was found.
`bare_answer` does the same for text that may already be a bare answer. Whether two answers agree is
``rewards.mathematics.equality``; nothing here parses mathematics, imports sympy or runs longer than linear time.

Order of preference, the same for training (strict) and evaluation (lenient):

========== ===================================================== ==========================================
how        what is read                                          differences when lenient
========== ===================================================== ==========================================
answer_tag the last ``<answer>...</answer>``                     -
boxed      the last ``\\boxed{...}``; neighbours form one list   up to five words may stand between boxes; a
                                                                 "final answer is" after the last box wins;
                                                                 an unclosed box is read to its line's end
hash       what follows the last ``####``                        -
phrase     what follows the last "the answer is", "answer:"      -
math       the last formula in delimiters                        ``$ x $`` with inner spaces counts too
number     the last number in the text                           strict looks at the last 300 characters
========== ===================================================== ==========================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Extracted", "bare_answer", "extract"]

LONGEST_ANSWER = 2000
STRICT_TAIL = 300


@dataclass(frozen=True, slots=True)
class Extracted:
    """An answer found in a text, or None, and the rule that found it (see the module's table)."""

    text: str | None
    how: str


NOTHING = Extracted(None, "none")

NUMBER = re.compile(
    r"(?<![\w.,/])(?P<sign>(?<![\d)\]}])[-\u2212\u2013])?[$\u20ac\u00a3]?\s?"
    r"(?P<body>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<over>\s?/\s?\d+(?!\d|\.\d))?"
    r"(?P<percent>\s?\\?%)?"
)
_PHRASE = re.compile(
    r"(?:final\s+answer|answer|result)\b(?:\s*\*\*)?\s*(?:(?:is|are|was|equals)\b\s*:?|:|=)(?:\s*\*\*)?\s*",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"final\s+answer\b(?:\s*\*\*)?\s*(?:is\b\s*:?|:)(?:\s*\*\*)?\s*(?:the\s+final\s+answer\s+is\s*)?",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\])")
_SPECIAL = re.compile(r"<\|[^|<>]{1,40}\|>|</s>|<eos>|<end_of_turn>")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_JOIN_STRICT = re.compile(
    r"^(?:\\?[\s,;$.&]|\\[()\[\]]|\\q?quad|\\text\{|\\(?:mbox|textrm)\{|\}|and|or)*$"
)
_WORD = re.compile(r"[A-Za-z]{2,}")


def extract(text: str, *, lenient: bool = False) -> Extracted:
    """Return the final answer of a completion, or `Extracted(None, "none")` when there is none to judge.

    Only what follows the last ``</think>`` is read; an open ``<think>`` means that the reasoning never
    ended, so nothing is found. A box, tag or phrase that is present but empty is no answer: there is no
    falling back from it to a weaker rule.
    """
    visible = _after_reasoning(text)
    if visible is None:
        return NOTHING
    visible = _without_special_tokens(visible)
    tagged = _from_tag(visible, lenient)
    return (
        tagged
        if tagged is not None
        else _from_markers(visible, lenient) or _from_tail(visible, lenient)
    )


def bare_answer(text: str, *, lenient: bool = False) -> Extracted:
    """Return the answer of a text that may be a bare answer, in delimiters or boxed, or a whole solution.

    A text with a box, tag, ``####`` or (in prose) "the answer is" is read as a completion; prose with a
    formula or a number gives the last one; everything else is the answer as it stands.
    """
    visible = _without_special_tokens(text).strip()
    if visible.count("$") == 2 and visible[0] == visible[-1] == "$" and "\\boxed" not in visible:
        return Extracted(visible[1:-1].strip(), "bare") if visible[1:-1].strip() else NOTHING
    if "</think>" in visible or "<answer>" in visible or _BOX.search(visible) or "####" in visible:
        return extract(text, lenient=lenient)
    if len(visible) > 60 and _PHRASE.search(visible) and _is_sentence(visible):
        return extract(text, lenient=lenient)
    formula = _from_formulas(visible[-4 * LONGEST_ANSWER :])
    if formula is not None:
        return formula
    if _is_sentence(visible) and (number := _last_number(visible)) is not None:
        return Extracted(number, "number")
    return Extracted(visible, "bare") if visible else NOTHING


def _after_reasoning(text: str) -> str | None:
    """Return the part after the last closing think tag; None where thinking was opened and not closed."""
    head, closed, tail = text.rpartition("</think>")
    return None if "<think>" in tail else tail


def _without_special_tokens(text: str) -> str:
    """Cut the text at the first chat-template token after its beginning."""
    for match in _SPECIAL.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _from_tag(text: str, lenient: bool) -> Extracted | None:
    """Return the last answer tag's content, its own box or sentence resolved; None where there is no tag."""
    start = text.rfind("<answer>")
    if start < 0:
        return None
    content = text[start + len("<answer>") :].partition("</answer>")[0].strip()
    if not content:
        return NOTHING
    inner = _from_markers(content, lenient)
    if inner is None and _is_prose(content):
        inner = _from_tail(content, lenient)
    found = inner.text if inner is not None and inner.text else _undelimited(content)
    return Extracted(found, "answer_tag") if len(found) <= LONGEST_ANSWER else NOTHING


def _from_markers(text: str, lenient: bool) -> Extracted | None:
    """Return what a box, ``####`` or a phrase announces; None where none of them is present."""
    boxes = _boxes(text, lenient)
    if boxes:
        final = _last_match(_FINAL, text) if lenient else None
        if final is None or final.start() < boxes[-1][1]:
            return _joined(text, boxes, lenient)
        return Extracted(_sentence(text[final.end() :]) or None, "phrase")
    if "####" in text:
        line = text[text.rindex("####") + 4 :].strip().partition("\n")[0]
        return Extracted(_undelimited(line), "hash") if line.strip() else NOTHING
    phrase = _last_match(_PHRASE, text)
    if phrase is not None and (announced := _sentence(text[phrase.end() :])):
        return Extracted(announced, "phrase")
    return None


def _boxes(text: str, lenient: bool) -> list[tuple[int, int, str]]:
    """Return (start, end, content) of every outermost box; where the last one never closes, strict finds none."""
    found: list[tuple[int, int, str]] = []
    covered = 0
    for match in _BOX.finditer(text):
        if match.start() < covered:
            continue
        end = _box_end(text, match.end())
        if end is None:
            rest = text[match.end() + 1 :].partition("\n")[0].strip(" $")
            return (
                [(match.start(), len(text), rest)]
                if lenient and rest
                else [(match.start(), len(text), "")]
            )
        covered = end
        content = text[match.end() : end]
        found.append((match.start(), end, content[1:-1] if content.startswith("{") else content))
    return found


def _box_end(text: str, start: int) -> int | None:
    """Return the index just behind the box whose content starts at `start`; None where its brace never closes."""
    if text[start] != "{":
        bare = re.compile(r"\\?\w+").match(text, start)
        return bare.end() if bare else None
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end()
    return None


def _joined(text: str, boxes: list[tuple[int, int, str]], lenient: bool) -> Extracted:
    """Return the last box, together with the boxes right before it that it continues as a list."""
    first = len(boxes) - 1
    while first > 0 and _continues(text[boxes[first - 1][1] : boxes[first][0]], lenient):
        first -= 1
    contents = [_innermost(content.strip()) for _, _, content in boxes[first:]]
    answer = ", ".join(dict.fromkeys(contents)) if len(contents) > 1 else contents[0]
    if not answer or len(answer) > LONGEST_ANSWER:
        return NOTHING
    return Extracted(answer, "boxed")


def _continues(between: str, lenient: bool) -> bool:
    """Tell whether the text between two boxes only links them: a comma, "and", delimiters, a few words."""
    if len(between) > 80 or not between.strip():
        return not between.strip()
    if _JOIN_STRICT.match(between):
        return "\n\n" not in between
    words = _WORD.findall(re.sub(r"\\[A-Za-z]+", " ", between))
    return lenient and ("and" in words or "," in between) and len(words) <= 5 and "." not in between


def _innermost(content: str) -> str:
    """Return the content of a box that holds nothing but another box."""
    while (match := _BOX.match(content)) and content.endswith("}") and content[match.end()] == "{":
        content = content[match.end() + 1 : -1].strip()
    return content


def _sentence(rest: str) -> str:
    """Return the answer that opens `rest`: a formula, a number with its unit, or the sentence."""
    rest = rest.lstrip(" \t\n*:").rstrip()
    formulas = _formulas(rest[:LONGEST_ANSWER], spaced=True)
    if formulas and formulas[0][0] <= 3:
        return _linked(rest, formulas)
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    number = NUMBER.match(sentence)
    if number and _is_prose(sentence[number.end() :]):
        return number.group().strip()
    within = [formula for formula in formulas if formula[1] <= len(sentence) + 2]
    if within and _is_prose(sentence) and not (NUMBER.search(sentence, within[-1][1])):
        return within[-1][2]
    if _is_prose(sentence) and (last := _last_number(sentence)) is not None:
        return last
    return _undelimited(sentence.strip(" *")) if len(sentence) <= LONGEST_ANSWER else ""


def _linked(text: str, formulas: list[tuple[int, int, str]]) -> str:
    """Return the first formula and those that continue it as a list, with a unit that follows."""
    last = 0
    while last + 1 < len(formulas) and _JOIN_STRICT.match(
        text[formulas[last][1] : formulas[last + 1][0]]
    ):
        last += 1
    joined = ", ".join(content for _, _, content in formulas[: last + 1])
    return joined


def _from_tail(text: str, lenient: bool) -> Extracted:
    """Return the last formula or number of a text without any marker."""
    formulas = _formulas(text[-LONGEST_ANSWER:], spaced=lenient)
    tail = text[-LONGEST_ANSWER:]
    last = _last_match(NUMBER, tail if lenient else tail[-STRICT_TAIL:])
    number_end = (
        -1 if last is None else last.end() + (0 if lenient else max(0, len(tail) - STRICT_TAIL))
    )
    if formulas and number_end <= formulas[-1][1]:
        return Extracted(formulas[-1][2], "math")
    if last is not None:
        return Extracted(last.group().strip(), "number")
    stripped = text.strip()
    return Extracted(stripped, "bare") if lenient and 0 < len(stripped) <= 200 else NOTHING


def _last_number(text: str) -> str | None:
    """Return the last number in a prose text, as written; a decimal comma becomes a point."""
    last = _last_match(NUMBER, text)
    if last is None:
        return None
    comma = _last_match(re.compile(r"(?<![\d,.\w])\d+,\d{1,2}(?![\d,])"), text)
    if comma is not None and comma.end() >= last.end():
        return comma.group().replace(",", ".")
    return last.group().strip()


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the pattern's last match."""
    last = None
    for match in pattern.finditer(text):
        last = match
    return last


_DELIMITED = re.compile(
    r"(?<!\\)\$\$(?P<a>[^$]{1,2000}?)\$\$|\\\[(?P<b>.{1,2000}?)\\\]|\\\((?P<c>.{1,2000}?)\\\)"
    r"|(?<!\\)\$(?P<d>(?:[^$\\]|\\.){1,2000}?)(?<!\\)\$(?!\d)",
    re.DOTALL,
)


def _formulas(text: str, spaced: bool) -> list[tuple[int, int, str]]:
    """Return (start, end, content) of the formulas in delimiters; amounts of money are no delimiters."""
    found = []
    position = 0
    while match := _DELIMITED.search(text, position):
        content = match.group(match.lastgroup or 0)
        if match.lastgroup == "d" and not _plausible(content, spaced):
            position = match.start() + 1
            continue
        position = match.end()
        if content.strip():
            found.append((match.start(), match.end(), content.strip()))
    return found


def _plausible(content: str, spaced: bool) -> bool:
    """Tell whether text between two dollar signs is a formula and not what stands between two prices."""
    if content[0].isspace() != content[-1].isspace() or (content[0].isspace() and not spaced):
        return False
    words = _WORD.findall(
        re.sub(r"\\(?:text|mbox|mathrm|textrm|textbf)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", content)
    )
    return sum(len(word) > 2 for word in words) <= 4


def _from_formulas(text: str) -> Extracted | None:
    """Return a text of formulas without its delimiters; of prose with formulas the last, or the linked ones."""
    formulas = _formulas(text, spaced=True)
    if not formulas:
        return None
    before, after = text[: formulas[0][0]], text[formulas[-1][1] :]
    outside = " ".join(text[a[1] : b[0]] for a, b in zip(formulas, formulas[1:]))
    if re.match(r"\s*,?\s*(?:where|with|for|such that|if)\b", text[formulas[0][1] :]):
        return Extracted(formulas[0][2], "math")
    words = [word for word in _WORD.findall(outside) if word not in ("and", "or")]
    led, followed = _WORD.findall(before), _WORD.findall(after)
    if not words and len(led) <= 1 and (not followed or not (led or _is_prose(after))):
        return Extracted(_undelimited(text[formulas[0][0] :]), "math")
    first = len(formulas) - 1
    while first and _JOIN_STRICT.match(text[formulas[first - 1][1] : formulas[first][0]]):
        first -= 1
    return Extracted(", ".join(content for _, _, content in formulas[first:]), "math")


def _undelimited(text: str) -> str:
    """Return the text without mathematical delimiters and without markdown's bold around it."""
    text = text.strip().strip("*`").strip()
    pieces, position = [], 0
    for start, end, content in _formulas(text, spaced=True):
        pieces += [text[position:start], content]
        position = end
    return (
        ("".join(pieces) + text[position:]).strip().rstrip(".").strip()
        if pieces
        else text.rstrip(".").strip()
    )


def _is_prose(text: str) -> bool:
    """Tell whether a text is prose: four or more plain words, each counted once."""
    return len(_plain_words(text)) >= 4


def _is_sentence(text: str) -> bool:
    """Tell whether a text is a sentence and not a list of quantities: prose with a verb or a pronoun in it."""
    words = _plain_words(text)
    telling = len(words & _SENTENCE_WORDS)
    return telling >= 2 or (len(words) >= 4 and telling == 1)


def _plain_words(text: str) -> set[str]:
    """Return the words of a text that stand in no formula, command or environment."""
    plain = _FORMAL.sub(" ", text)
    return {word.lower() for word in re.findall(r"(?<![\w\\])[A-Za-z]{2,}(?![\w(=:{])", plain)}


_FORMAL = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|textbf|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+|\$[^$]*\$|</?su[bp]>"
)
_SENTENCE_WORDS = frozenset(
    "the is are was were so it which that this these those we he she they has have had be will would therefore thus"
    " hence then gives get gets equals makes make there not".split()
)
