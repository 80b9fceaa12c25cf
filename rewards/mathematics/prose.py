r"""What prose states: the value that a sentence ends in, and the options that it calls correct.

`last_value` reads the expression around the last number of a text as it is written (``16pi``, ``\frac{1}{2}``,
``12, 15 and 18``), never a digit out of it. A number in a question, behind "not" or behind "less than" states nothing.
"""

from __future__ import annotations

import re

from rewards.mathematics.around import measures, quantities_before, unit_or_noun_after
from rewards.mathematics.tokens import NAMES
from rewards.mathematics.words import direction_of

__all__ = [
    "NUMBER",
    "chosen_options",
    "computes",
    "is_denied",
    "is_denied_behind",
    "is_question",
    "is_reference",
    "is_refuted",
    "linked",
    "last_value",
    "opening_value",
    "is_rejected",
    "said_value",
    "stated_options",
    "without_asides",
    "without_contrast",
]

MAX_BEFORE = 200
"""How far before a value a "not" is looked for, in characters."""
NUMBER = re.compile(
    r"(?<![\w.,/])(?P<sign>(?<![\d)\]}])[-\u2212\u2013])?[$\u20ac\u00a3]?\s?"
    r"(?P<body>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<over>\s?/\s?\d+(?!\d|\.\d))?"
    r"(?P<percent>\s?\\?%)?"
)
_DIGIT = re.compile(r"\d")
_SENTENCE_END = re.compile(
    r"[.!?]*[.?](?=[\s\"')\]*]|$)|(?<![\d)}])!+(?=[\s\"')\]*]|$)"
    r"|!+(?=[\s\"')\]*]|$)(?!\s+(?:[-+*/=<>^\u2212\u00d7\u00b7\u2248]|\\|[a-z]))|\n"
)
"""A sign behind a number that goes on is a factorial: "5! = 120", "5! ways"."""
_NEGATED = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|cannot|without|except|false|wrong|untrue|incorrect)|n't)\b(?!\s+only\b)"
    r"(?:\s+(?:be|been|being|is|are|was|were|equals?|to|the|an?|that|it|true|case|answer|value|number|exactly|actually"
    r"|necessarily|always|really|simply|just|even|possible|option|choice|any|either|larger|smaller|more|less|greater|than))*"
    r"(?:\s+[A-Za-z])?\s*[=:]?\s*$",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"\b(?:reject(?:s|ed|ing)?|rul(?:e|es|ed|ing)\s+out|discard(?:s|ed|ing)?|eliminat(?:e|es|ed|ing)"
    r"|dismiss(?:es|ed|ing)?|exclud(?:e|es|ed|ing))\s+(?:the\s+)?"
    r"(?:(?:value|root|solution|case|guess|option|possibility|answer|candidate)\s+)?(?:[A-Za-z]\s*=\s*)?\$?$",
    re.IGNORECASE,
)
_CONTRAST = re.compile(
    r"\s*(?:[,(;\u2014]\s*(?:and\s+)?not|\(?\b(?:rather than|instead of|as opposed to))\s+(?:[A-Za-z]\s*=\s*)?"
    r"\$?[-\u2212]?[\d.,/]*\d\$?%?(?:\s+[A-Za-z]+)?\)?(?=[\s.!*]*$)"
)
_COMPARED = re.compile(
    r"\b(?:than|at most|at least|up to|below|above|exceeds?|all but|except for|apart from)\s*$"
    r"|\b(?:if|suppose|assume|assuming|unless|whether)\b(?:(?!\bthen\b)[^,;])*$",
    re.IGNORECASE,
)
_RULED_OUT = (
    r"(?:incorrect|invalid|inadmissible|extraneous|rejected|ruled\s+out|discarded|eliminated)"
)
_REFUTED = (
    r"(?:(?:is|are|was|were|seems|does|do|did|can|could|will|would)"
    r"(?:n't\b|\s+(?:therefore\s+|thus\s+|clearly\s+|also\s+|to\s+be\s+|be\s+)?"
    rf"(?:not|never|wrong|false|impossible|too|{_RULED_OUT})\b)"
    r"|cannot\b|can't\b|won't\b|shouldn't\b|fails\b|contradicts\b|(?:leads\s+to|gives|yields)\s+an?\s+contradiction\b)"
)
_DENIED_AFTER = re.compile(
    rf"\s+{_REFUTED}|\s*[,(]\s*(?:which\s+is\s+)?(?:{_RULED_OUT}|not\s+valid)\b"
    r"|\s*,?\s+which\s+(?:is|was)\s+(?:clearly\s+)?(?:wrong|false|impossible|not\s+(?:right|true|correct|possible))\b"
)
_DENIED_THING = re.compile(rf"\s+(?:is|was|seems)\s+(?:not|wrong|false|impossible|{_RULED_OUT})\b")
_REFUTATION = re.compile(rf"\d[\s$)}}\]]*\s(?P<unit>[A-Za-z]{{1,12}}\s)?{_REFUTED}")
_LESS_AFTER = re.compile(r"\s+[a-z]+")
_CLAUSE = re.compile(
    r"\s(?:with|where|when|if|since|because|such that|for which|satisfying|among|whenever|provided|given|not exceeding"
    r"|between|below|above|(?:less|greater|smaller|larger) than|up to)\s",
    re.IGNORECASE,
)
_INFERENCE = re.compile(
    r"\b(?:so|thus|hence|therefore|leaves|leaving)\b[^.;]*\d"
    r"|,\s+and\s+(?:the|he|she|it|they|we|his|her|their)\s[^.;]{0,60}?\b(?:is|are|has|have|gets?|keeps?|pays?|costs?)\s[^.;]*\d",
    re.IGNORECASE,
)
"""A further statement behind a clause, which says another value than what comes before the clause."""
_REFERENCE = re.compile(
    r"\b(?:lemma|theorem|corollary|proposition|equation|eqn?\.?|inequality|step|part|case|condition|figure|fig\.|section"
    r"|claim|problem|exercise|example|method|chapter|table|property|hint)s?\s+[($]{0,2}\d[\d.]*\)?(?![\d/%])"
    r"|\b(?:by|from|using|via|into)\s+\(\d\)",
    re.IGNORECASE,
)
"""A number that names a part of a text, and is the value of nothing."""
_REACHED = "achieved|attained|reached|obtained|occurs|occurring|happens|happening|taken"
_SETS = r"\(?\$?\(?[A-Za-z](?:_\w)?(?:\s?,\s?[A-Za-z](?:_\w)?){0,3}\)?(?:\s?=\s?[A-Za-z]){0,3}\s?=\s?[^=\n]{1,40}"
_NUMBER_OF = r"\d[\d,]*(?:\s[a-z]{2,20}){0,2}"
_MERELY = "still|well|much|far|just|only|slightly|even|exactly"
_COMPARATIVE = "less|more|greater|fewer|larger|smaller|higher|lower|bigger|longer|shorter|better"
_COMPARES = (
    rf"(?:{_COMPARATIVE})\sthan|under|over|above|below|within|at\s(?:least|most)|not\senough|enough"
)
_CONCLUDES = (
    "so|thus|hence|therefore|but|and|or|not|leaving|leaves|total|answer|impossible|invalid"
    r"|contradict\w*|reject\w*"
)
_REST = rf"(?:(?!\b(?:{_CONCLUDES})\b)(?:,(?=\d)|[^\n,;=])){{1,80}}"
_MADE_OF = (
    r"squared|cubed|factorial|!|(?:times|plus|minus|divided\sby|over|to\sthe|more\sthan|less\sthan"
    rf"|percent\s(?:of|more|less)|%\s(?:of|more|less))\s{_REST}"
)
"""What follows a number of which a value is made: "9, which is 3 squared"."""
_ASIDES = [
    re.compile(pattern + r"[.!*\s]*$")
    for pattern in (
        r"\s\((?![^()]{0,99}\b(?:or|so|thus|hence|therefore|total|answer|i\.e\.|exact))[^()]{0,99}?[A-Za-z]{3}[^()]{0,99}\)",
        rf",?\s\(?(?:(?:and|which)\s)?(?:is\s|are\s)?(?:{_REACHED})\s(?:only\s)?(?:at|when|for|by|if|iff|with|in)\b[^\n;]{{1,80}}",
        rf",?\s(?:with\sequality\s)?(?:when|where|if|iff|at|for|with)\s(?:the\spoint\s)?{_SETS}",
        r"(?<=\d)\s\((?=[^()]{1,99}[+*/\u00d7\u00f7])=?\s?\d[\d\s.,=+*/\u00d7\u00f7\u2212-]{1,99}\)",
        rf"(?<=\d)(?:(?:\s[a-z]{{2,20}}){{0,2}}\sout|\s[a-z]{{2,20}}|)\sof\s(?:the\s|all\s|these\s|those\s|his\s|her\s|their\s)*{_NUMBER_OF}",
        r",?\s\d+\stimes\sas\s(?:many|much|large|long)\b[^\n.;]{0,40}",
        rf"\sat\sthe\send\sof\s(?:the\s|these\s|all\s)?{_NUMBER_OF}",
        rf",\s(?:which|that)\s(?:(?:is|are|was|were)\s(?:{_MERELY}\s)?(?:{_COMPARES})|exceeds?)\s{_REST}",
        rf",\s(?:{_MERELY}\s)?(?:{_COMPARATIVE})\sthan\s{_REST}",
        rf"\sto\s[a-z]{{2,12}}\s(?:all|the|these|those)\s(?:of\s)?{_NUMBER_OF}",
    )
]
_EXPLAINED = re.compile(
    rf",\s(?:which|that)\s(?:is|are|was|were|equals?)\s(?:{_MERELY}\s)?\$?\d[\d.,/]*\$?\s?(?:{_MADE_OF})[.!*\s]*$"
)
_APPROXIMATION = re.compile(
    r",?\s\(?(?:or\s|which\sis\s)?(?:approximately|approx\.?|about|roughly|\u2248|\\approx)\s\$?-?[\d.,]{0,20}\d\$?"
    r"(?:\s[a-z.]{1,15})?\)?[.!*\s]*$"
)
_ARROW = re.compile(r"^(?:->|-->|\u2192|\u21d2|\u27f9|\\(?:Rightarrow|implies|to)(?![A-Za-z]))\s*")
_POLYNOMIAL = re.compile(
    r"(?=.*[xyz])(?!x\s)"
    r"(?!.*[\d)](?:\s*x\s*\d|\s+x\s+\())"  # a times sign
    r"[\d\sxyz+\-*/^(){}\u2212\u00b2\u00b3]{2,80}"
)
_PLAIN_SUM = re.compile(r"[xyz](?:\s*[-+\u2212]\s*[xyz])*")
_SPACED_SIGN = re.compile(r"^[-\u2212]\s+(?=\$?(?:[\d\\{\[|]|\((?![A-Za-z]\)))|\.\d)")
_VERB_BEFORE = re.compile(r"(?:\b(?:is|are|be|was|equals?|gets?|gives?|equal\sto)|=)\s*$")
_NAME_IN_FRONT = re.compile(r"\$?(?P<name>[A-Za-z](?:_\{?\w{1,3}\}?)?)\s*=(?!=)")
_EXACT_FORM = re.compile(r"(?:\u221a|sqrt|\\frac|\u03c0|pi\b|\d/\d|\bln\b|\blog|e\^)\S{0,30}$")
_PRICE_FOR = re.compile(
    rf"(?<=\d)\sfor\s(?:the\s|all\s|these\s|those\s|his\s|her\s)*{_NUMBER_OF}(?:\sof\s[a-z]{{2,20}})?[.!*\s]*$"
)
_PRICE = re.compile(r"\$\d[\d,.]*$")
_SHARE = re.compile(r"(?:/\s?\d+|%|\})\$?$")
_COPULA = re.compile(
    r"\b(?:is|are|was|were|be|been|equals?|becomes?|gives?|gets?|yields?|has|have|exists?"
    r"|costs?|weighs?|measures?|takes?|needs?|earns?|makes?|pays?|contains?|totals?)\b|=",
    re.IGNORECASE,
)
_CONNECTORS = frozenset({"and", "or"})
_STATEMENT = re.compile(r"[=<>\u2264\u2265\u2260]|\\(?:[lg]eq?|[lg]t|[lg]eqslant|neq?)(?![A-Za-z])")
_THUS = re.compile(r"\s*(?:so|hence|thus|therefore)\b", re.IGNORECASE)
_SAID = re.compile(r"\b(?:is|are|equals|must be)\s+(?P<value>\S+(?:\s+[-+*/^]\s+\S+){0,4})\s*$")
_GLUED_UNIT = re.compile(
    r"(?<=\d)(?:(?:km|cm|mm)(?:[\u00b2\u00b3]|\^?[23])?|kg|m[\u00b2\u00b3])$"
    r"|(?<=[.,]\d{3}|.[.,]\d{2}|..[.,]\d)(?:m(?:\^?[23])?|[gsh])$"
)
_UNIT_INSIDE = re.compile(r"(?<=\d)\s[A-Za-z]{1,4}$")
_EXCLAMATION = re.compile(
    r"(?:^|[A-Za-z,:]\s|(?<![\d!)}])\s?[A-Za-z]\s?=\s?)(?:\*\*)?[-\u2212]?[$\u20ac\u00a3]?\d[\d,]*(?:\.\d+)?(?:/\d+)?\$?"
    r"(?P<mark>!+)[\s\"')*]*$"
)
_UNIT_EXCLAMATION = re.compile(
    r"(?:\d[\d.,]*|[)}\]])\$?\s"
    r"(?P<unit>[A-Za-z\u00b0\u03a9\u00b5][A-Za-z\d/^{}*\u00b7\u00b2\u00b3 -]{0,30})(?P<mark>!+)[\s\"')*]*$"
)
_FRACTION_EXCLAMATION = re.compile(
    r"\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}\$?(?P<mark>!+)[\s\"')*]*$"
)
_COUNTS_ORDERS = re.compile(r"factorial|permut|arrange|order", re.IGNORECASE)
_CHANGE = re.compile(r"\b[A-Za-z]+\s+by\s*$")
_LISTS = re.compile(r"(?:\b(?:is|are|were|be|include|namely)|[:=])\s*$", re.IGNORECASE)
_COMMAND = re.compile(r"\\[A-Za-z]+\s*")
_LETTERS = re.compile(r"[A-Za-z]+")
_ALLOWED = re.compile(
    r"[-+*/^=<>()\[\]{}|!_,.:;%$\u20ac\u00a3\\\w\u00b0-\u00b9\u00bc-\u00be\u00d7\u00f7\u2212\u2013\u2044\u2070-\u209c\u2200-\u22ff\u0391-\u03d6'~]+"
)
_OPERATORS = frozenset(
    "+ - * / ^ = < > \u00d7 \u00f7 \u2212 \u00b7 \u22c5 \u2264 \u2265 \u00b1 \u222a ** <= >= \\cdot \\times".split()
)
_RELATION = re.compile(r"(?<![<>!=])=(?![=<>])|\u2248|\\approx(?![A-Za-z])|:\s")
_OPTION = r"\(?[A-J]\)?(?![A-Za-z'])"
_OPTIONS = rf"(?P<options>{_OPTION}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*){_OPTION})*)"
_NAMED_OPTIONS = re.compile(
    r"\b(?:options?|choices?|answers?|statements?)\s*(?:(?:is|are|must be|should be|:)\s*)?"
    rf"(?:(?:option|choice)s?\s+)?{_OPTIONS}",
    re.IGNORECASE,
)
_CORRECT_OPTIONS = re.compile(
    rf"(?<![A-Za-z\\]){_OPTIONS}\s+(?:is|are|must be|should be)\s+(?:the\s+)?(?:only\s+)?"
    r"(?:correct|right|true|answers?\b|best)"
)
_LETTERS_OF_OPTIONS = rf"{_OPTION}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*){_OPTION})*"
_WRONG_OPTIONS = re.compile(
    rf"\b(?:options?|choices?|statements?|answers?)\s+{_LETTERS_OF_OPTIONS}\s+(?:is|are)\s+"
    r"(?:(?:both|all|clearly|also)\s+)?(?:wrong|incorrect|false|not\s+(?:correct|right|true))\b",
    re.IGNORECASE,
)
_OTHER_OPTIONS = re.compile(
    rf"\s*(?P<chosen>{_LETTERS_OF_OPTIONS})\s*[,;]?\s+(?:(?:and|but)\s+)?"
    rf"(?:not|rather\s+than|instead\s+of|as\s+opposed\s+to)\s+(?:options?\s+)?{_LETTERS_OF_OPTIONS}[\s.]*"
)
_RATHER_THESE = re.compile(
    rf"not\s+{_LETTERS_OF_OPTIONS}\s*,?\s+but\s+(?P<chosen>{_LETTERS_OF_OPTIONS})[\s.]*"
)
_CONCLUSION = re.compile(
    r"[,;]\s*(?:and\s+)?(?:so|hence|thus|therefore)\s|^\s*(?:since|because)\b[^,;]{1,80},\s",
    re.IGNORECASE,
)
_CONDITIONAL = re.compile(r"\b(?:if|unless|suppose|assum\w+|whether|false that)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|either|or|incorrect|wrong|false|except|eliminated?|unless|if|maybe|perhaps|might|could|may)\b|n't\b",
    re.IGNORECASE,
)


def is_question(text: str) -> bool:
    """Tell whether a text ends as a question."""
    return text.rstrip(" \t\n*_\"')$").endswith("?")


def is_reference(text: str) -> bool:
    """Tell whether a text is nothing but the number of a step, a theorem or the like."""
    return _REFERENCE.fullmatch(text.strip(" .:*#")) is not None


def is_denied(before: str) -> bool:
    """Tell whether a value is denied, or only compared with, by the text right before it."""
    near = before[-MAX_BEFORE:]
    return _NEGATED.search(near) is not None or _COMPARED.search(near) is not None


def is_refuted(text: str) -> bool:
    """Tell whether a text calls a number wrong, or says that it is not the one: "34 is incorrect"."""
    for refutation in _REFUTATION.finditer(text):
        if refutation["unit"] is None or measures(refutation["unit"]):
            return True
    return False


def is_rejected(before: str, unit: str) -> bool:
    """Tell whether the text right before a value rejects it: "we rule out x = 34", but not "he rejected 34 offers"."""
    return not unit and _REJECTED.search(before[-MAX_BEFORE:]) is not None


def without_contrast(sentence: str) -> str:
    """Return a sentence without the value that it rules out at its end: "it is 3, not 4"."""
    contrast = _CONTRAST.search(sentence)
    if contrast is None or NUMBER_LIKE.search(sentence[: contrast.start()]) is None:
        return sentence
    return sentence[: contrast.start()] + sentence[contrast.end() :]


def without_asides(sentence: str) -> str:
    """Return a sentence without what follows the value it states: "47 (achieved at x = 3)", "47 out of 50 students".

    A number that names a step or a theorem loses its digits, so that it is no value.
    """
    sentence = _REFERENCE.sub(lambda found: re.sub(r"\d", "_", found.group()), sentence)
    for aside in _ASIDES:
        sentence = _cut(sentence, aside.search(sentence))
    sentence = without_explanation(sentence)
    approximation = _APPROXIMATION.search(sentence)
    if approximation is not None and _EXACT_FORM.search(sentence[: approximation.start()][-60:]):
        sentence = sentence[: approximation.start()]
    price = _PRICE_FOR.search(sentence)
    if price is not None and _PRICE.search(sentence[: price.start()]):
        return _cut(sentence, price)
    return sentence


def without_explanation(text: str) -> str:
    """Return a text without the clause that says what its value is made of: "9, which is 3 squared"."""
    clause = _EXPLAINED.search(text)
    if clause is None or NUMBER_LIKE.search(text[: clause.start()]) is None:
        return text
    return text[: clause.start()]


def _cut(sentence: str, aside: re.Match[str] | None) -> str:
    """Return a sentence up to an aside, if what comes before that states a number which is no share of it."""
    before = sentence if aside is None else sentence[: aside.start()]
    if NUMBER_LIKE.search(before) is None or _COPULA.search(before) is None:
        return sentence
    return sentence if _SHARE.search(before) else before


def said_value(text: str) -> str | None:
    """Return what prose says something to be (``The largest n is 34``); None for other texts."""
    text = without_explanation(text)
    words = [word for word in _LETTERS.findall(_COMMAND.sub(" ", text)) if len(word) > 1]
    if (NAMES | _CONNECTORS).issuperset(words) or is_question(text):
        return None
    if NUMBER_LIKE.search(text) and (_COPULA.search(text) or _THUS.match(text)):
        return last_value(text, lenient=True) or None
    said = _SAID.search(text)
    if said is None or _NEGATED.search(text[: said.start()]) or _DENIED.search(said.group()):
        return None
    return said["value"].strip(" .")


def last_value(text: str, lenient: bool = False) -> str | None:
    """Return the last number or what it is part of; an empty string if that is denied or asked, None if there is none.

    Lenient also leaves out what a last clause adds: "there are 12 pairs with a + b = 20" states 12.
    """
    was_asked = False
    for sentence in reversed(_sentences(text)):
        if NUMBER_LIKE.search(sentence) is None:
            continue
        if is_question(sentence):
            was_asked = True
            continue
        sentence = without_asides(without_contrast(sentence))
        if NUMBER_LIKE.search(sentence) is None:
            continue
        sentence = _without_mark_behind_unit(sentence)
        if lenient:
            sentence = without_exclamation(sentence)
        return _value_of(_main_clause(sentence) if lenient else sentence)
    return "" if was_asked else None


def _without_mark_behind_unit(sentence: str) -> str:
    """Return a sentence without the exclamation mark behind a unit or a fraction: "it is 8 m^2!" has no factorial."""
    closing = _UNIT_EXCLAMATION.search(sentence)
    if closing is None or not measures(closing["unit"]):
        closing = _FRACTION_EXCLAMATION.search(sentence)
    return sentence if closing is None else sentence[: closing.start("mark")]


def without_exclamation(sentence: str) -> str:
    """Return a sentence whose closing mark is an exclamation without it: "So we get 34!" states 34.

    Where it counts orders, or computes its value, the mark stays a factorial.
    """
    closing = _EXCLAMATION.search(sentence)
    if closing is None or _COUNTS_ORDERS.search(sentence):
        return sentence
    return sentence[: closing.start("mark")]


def opening_value(text: str) -> str | None:
    """Return the value that a text opens with, and those that follow it as a list; None if it opens with a word."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    if not words or not _is_mathematics(text[slice(*words[0])]):
        return None
    last = _run(text, words, 0)[1]
    while (item := _next_item(text, words, last)) is not None:
        last = _run(text, words, item)[1]
    value = _trimmed(text[: words[last][1]])
    return value + _unit_behind(value, text, words[last][1])


def _next_item(text: str, words: list[tuple[int, int]], last: int) -> int | None:
    """Return the word that continues a list whose item ends at ``last``; None if the list ends there."""
    item = last + 1
    if item < len(words) and text[slice(*words[item])].lower() in ("and", "or"):
        item += 1
    elif not text[slice(*words[last])].endswith(","):
        return None
    if item >= len(words) or not _DIGIT.search(text[slice(*words[item])]):
        return None
    return item if _is_mathematics(text[slice(*words[item])]) else None


NUMBER_LIKE = re.compile(r"(?<![A-Za-z_^.\d])\d|(?<!\d)\.\d|\\frac|\\sqrt")


def _sentences(text: str) -> list[str]:
    """Return the sentences of a text, with their closing marks."""
    sentences = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        sentences.append(text[start : end.end()])
        start = end.end()
    return [*sentences, text[start:]]


def _main_clause(sentence: str) -> str:
    """Return a sentence without its last subordinate clause, if what comes before it states a value."""
    for clause in _CLAUSE.finditer(sentence):
        before = sentence[: clause.start()]
        if _INFERENCE.search(sentence, clause.end()):
            return sentence
        if _DIGIT.search(before) and _COPULA.search(before):
            return before
    return sentence


# the expression around a number


def _value_of(sentence: str) -> str:
    """Return the last value of a sentence; an empty string if it is denied or compared with."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", sentence)]
    last = _index_of_last(sentence, words)
    if last is None:
        return ""
    first, last = _run(sentence, words, last)
    is_computed = computes(sentence[words[first][0] : words[last][1]])
    starts = [first] if is_computed else _list_starts(sentence, words, first)
    before = sentence[: words[starts[0]][0]]
    after = sentence[words[last][1] :]
    ends = [start - 1 for start in starts[1:]] + [last]
    chunks = [sentence[words[i][0] : words[j][1]] for i, j in zip(starts, ends)]
    items = _with_names(chunks, [_item(_signed(chunk, before)) for chunk in chunks])
    unit = _unit_behind(items[-1], sentence, words[last][1])
    if is_denied_behind(after, unit) or is_rejected(before, unit):
        return ""
    if is_denied(before) and not is_computed:
        return ""
    value = linked(items, sentence[words[starts[0]][0] : words[last][1]])
    if value.endswith("%"):
        return _with_direction(before, value, after)
    if len(items) > 1:
        return value + (unit if measures(unit) else "")
    inside = _UNIT_INSIDE.search(value)  # ``min`` and single letters may as well be mathematics
    if not sentence.startswith(value, words[first][0]):  # ``250 days = 5 hours``
        return value + unit
    return quantities_before(before, inside.group() if inside else unit) + value + unit


def _signed(chunk: str, before: str) -> str:
    """Return an expression with its sign next to it where a verb precedes: "it equals - 5"."""
    if not _SPACED_SIGN.match(chunk) or not _VERB_BEFORE.search(before[-20:]):
        return chunk
    return _SPACED_SIGN.sub("-", chunk)


def _with_names(chunks: list[str], values: list[str]) -> list[str]:
    """Return the values of a list with their names, if these differ: "x = 1 and y = 2"."""
    names = [_NAME_IN_FRONT.match(chunk) for chunk in chunks]
    known = [match["name"] for match in names if match]
    if len(known) < len(values) or len({name.partition("_")[0] for name in known}) < 2:
        return values
    return [f"{name} = {value}" for name, value in zip(known, values)]


def linked(items: list[str], text: str) -> str:
    """Return values as the list that `text` writes; statements that hold one or the other keep their "or"."""
    is_either = len(items) > 1 and re.search(r"(?<![A-Za-z])or(?![A-Za-z])", text) is not None
    if is_either and all(map(_STATEMENT.search, items)):
        return " or ".join(items)
    return ", ".join(items)


def is_denied_behind(after: str, unit: str) -> bool:
    """Tell whether a value is denied by what follows it and its unit: "34 km is incorrect"."""
    if _DENIED_AFTER.match(after):
        return True
    rest = after.lstrip().removeprefix(unit.strip())
    return (
        bool(unit) and (_DENIED_AFTER if measures(unit) else _DENIED_THING).match(rest) is not None
    )


def _unit_behind(value: str, sentence: str, end: int) -> str:
    """Return the unit of measurement that follows a value of which the last word ends at ``end``, behind a space."""
    start = sentence.rfind(value, 0, end)
    if start < 0 or not value:
        return ""
    return unit_or_noun_after(sentence, start + len(value))


def _with_direction(before: str, percentage: str, after: str) -> str:
    """Return a percentage with the word that says whether it was gained or lost: "increases by 20%", "20% less"."""
    change = _CHANGE.search(before[-MAX_BEFORE:])
    if change is not None and direction_of(change.group()):
        return change.group() + percentage
    less = _LESS_AFTER.match(after)
    if less is not None and direction_of(less.group()) == "down":
        return f"decreases by {percentage}"
    return percentage


def _index_of_last(sentence: str, words: list[tuple[int, int]]) -> int | None:
    """Return the last word with a number in it that is mathematics."""
    for index in range(len(words) - 1, -1, -1):
        word = sentence[slice(*words[index])]
        if NUMBER_LIKE.search(word):
            return index
    return None


def _run(sentence: str, words: list[tuple[int, int]], index: int) -> tuple[int, int]:
    """Return the first and last word of the expression that a word belongs to."""
    first = last = index
    texts = [sentence[start:end] for start, end in words]
    while first > 0:
        is_inside = (
            _num_open(texts[first - 1]) > 0 or _num_open("".join(texts[first : last + 1])) < 0
        )
        if not _joins(texts[first - 1], texts[first], is_inside):
            break
        first -= 1
    while last + 1 < len(words):
        is_inside = _num_open("".join(texts[first : last + 1])) > 0
        if not _joins(texts[last], texts[last + 1], is_inside):
            break
        last += 1
    return first, last


def _num_open(text: str) -> int:
    """Return how many brackets a text opens and does not close; negative if it closes more."""
    return sum(map(text.count, "([{")) - sum(map(text.count, ")]}"))


def _joins(left: str, right: str, is_inside: bool) -> bool:
    """Tell whether two neighbouring words are parts of one expression; inside of brackets, a comma goes on."""
    if not (_is_mathematics(left) and _is_mathematics(right)):
        return False
    if left[-1] in ",;":
        return is_inside
    if left[-1] in ".:" and len(left) > 1:
        return False
    return True


def _is_mathematics(word: str) -> bool:
    """Tell whether a word between spaces is part of a formula: no letters but single ones and names of functions."""
    core = word.strip("*\"'`,;:.?!")
    if word in _OPERATORS or core in _OPERATORS:
        return True
    if core in ("", "a", "A", "I") or not _ALLOWED.fullmatch(core):
        return False
    plain = re.sub(r"\\(?:text|mathrm|textbf)\s*\{[^{}]*\}", "", core)
    names = _LETTERS.findall(_COMMAND.sub(" ", plain))
    return all(len(name) == 1 or name in NAMES for name in names)


def _list_starts(sentence: str, words: list[tuple[int, int]], first: int) -> list[int]:
    """Return where the items of the list start whose last one starts at ``first``: ``12, 15 and 18``."""
    starts = [first]
    has_word = False
    while starts[0] > 0:
        before = sentence[slice(*words[starts[0] - 1])]
        if before.lower() in ("and", "or") and starts[0] > 1:
            item = starts[0] - 2
            has_word = True
        elif before.endswith((",", ";")):
            item = starts[0] - 1
        else:
            break
        text = sentence[slice(*words[item])]
        if not _DIGIT.search(text) or not _is_mathematics(text):
            break
        start = _run(sentence, words, item)[0]
        if computes(sentence[words[start][0] : words[item][1]]):
            break
        starts.insert(0, start)
    is_list = has_word or _LISTS.search(sentence[: words[starts[0]][0]])
    is_list = is_list or _NAME_IN_FRONT.match(sentence[words[starts[0]][0] :])
    return starts if is_list else [first]


def computes(text: str) -> bool:
    """Tell whether a text computes its value, ``60 - 20 = 40``: an equation with more than a name on its left side."""
    left, sign, _ = text.rpartition("=")
    left = re.sub(r"[A-Za-z]_?\{?\d+\}?", "", left)  # ``x_1 = 3`` names a value
    return bool(sign) and re.search(r"\d|[A-Za-z]{3}|[-+*/]", left) is not None


def _item(text: str) -> str:
    """Return an item of a list without the "and" behind it."""
    return _trimmed(re.sub(r"[\s,;]+(?:and|or)\s*$", "", text))


def _trimmed(chunk: str) -> str:
    """Return an expression without punctuation, the left sides of its equations and brackets that do not match."""
    chunk = chunk.strip("*\"'`").rstrip(".,;:?* ")
    if chunk.endswith("$"):
        chunk = chunk.strip("$")
    chunk = _ARROW.sub("", chunk)
    sides = [side.strip() for side in _RELATION.split(chunk) if side.strip()]
    if len(sides) == 2 and _POLYNOMIAL.fullmatch(sides[0]) and not _PLAIN_SUM.fullmatch(sides[0]):
        return chunk  # ``x^2 + y^2 = 9`` is an equation and names no value
    if len(sides) > 1 and not _DIGIT.search(sides[-1]) and _DIGIT.search(sides[-2]):
        del sides[-1]  # ``20 = A``
    chunk = _SPACED_SIGN.sub("-", sides[-1]) if len(sides) > 1 else sides[-1] if sides else chunk
    number = None if _is_mathematics(chunk.replace(" ", "")) else NUMBER.search(chunk)
    if number is not None:
        return number.group().strip()  # ``$28/month``
    surplus = sum(map(chunk.count, "([")) - sum(map(chunk.count, ")]"))
    if surplus > 0 and chunk[0] in "([":
        chunk = chunk[1:]
    elif surplus < 0 and chunk[-1] in ")]":
        chunk = chunk[:-1]
    chunk = chunk.strip("*")
    chunk = re.sub(r"^[-+*/\u2013\u2212]\s+|\s+[-+*/\u2013\u2212]$", "", chunk)
    is_named = len(sides) > 1  # ``x = 5m`` is a product
    return chunk.strip() if is_named else _GLUED_UNIT.sub(r" \g<0>", chunk).strip()


# options


def chosen_options(text: str) -> str:
    """Return an answer without the options that it rules out: "D, not A", "not D but A"."""
    chosen = _OTHER_OPTIONS.fullmatch(text) or _RATHER_THESE.fullmatch(text)
    return text if chosen is None else chosen["chosen"]


def stated_options(text: str) -> str | None:
    """Return the options that the last sentence of a text calls correct, as it lists them; None if it names none."""
    sentences = [sentence for sentence in _sentences(text) if sentence.strip(" .*\n")]
    if not sentences or is_question(sentences[-1]):
        return None
    sentence = sentences[-1].replace("**", "")
    if not _CONDITIONAL.search(sentence):
        sentence = _CONCLUSION.split(sentence)[-1]
    remaining, ruled_out = _WRONG_OPTIONS.subn("", sentence)
    if _DENIED.search(remaining):
        return None
    found = _CORRECT_OPTIONS.search(remaining)
    if found is None and not ruled_out:
        found = _NAMED_OPTIONS.search(sentence)
    if found is None or not re.search(r"[A-J]", found["options"]):
        return None
    return found["options"]
