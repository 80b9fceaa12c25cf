"""The gold answer of a row, as data sets keep it: in a list of one, as JSON text, or not there at all.

What an answer means is up to the rewards; this says whether there is one, and which.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any, Mapping, Sequence

__all__ = ["SEVERAL", "gold_items", "is_missing", "is_placeholder", "num_answers", "stated_gold"]

SEVERAL = ("any", "all")
"""How a list of several gold answers may be meant: any of them is right, or all are asked for."""

MAX_LIST_CHARS = 10_000

_MISSING = frozenset("nan -nan none (none) null n/a #n/a n.a. <na> nat {}".split()) | {"n / a"}
_PLACEHOLDER = re.compile(
    r"(?:the )?(?:proof|(?:answer )?not[ _]?found|not (?:available|given|provided|applicable|known)|no[ _]answer"
    r"|unknown|missing|omitted|to ?do|tbd|na|see (?:the )?(?:solution|above|below|proof)|[-\u2013\u2014_?.*#]+|\u2026)",
    re.IGNORECASE,
)
_LONE_BACKSLASH = re.compile(r"\\(?!u[0-9a-fA-F]{4}|[\"'])")
"""LaTeX put between quotes as it is: ``["\\frac12"]`` would else hold a form feed."""
_WRAPPED = re.compile(
    r"\*\*(.*?)\*\*|`(.*?)`|\$+(.*?)\$+|\\\((.*)\\\)|\\\[(.*)\\\]|\\(?:boxed|text|mathrm|mbox|textbf)\s*\{(.*)\}",
    re.DOTALL,
)


def is_missing(gold: Any) -> bool:
    r"""Whether a gold is no answer: None, NaN, blank, or how tables write these ("nan", "None", "null", "N/A").

    So is a list in which nothing else stands. Delimiters and boxes do not count.
    >>> [is_missing(gold) for gold in (None, float("nan"), " ", "N/A", r"\boxed{}", [None], 0, "0", "no")]
    [True, True, True, True, True, True, False, False, False]
    """
    if isinstance(gold, str):
        items = _list_in(gold)
        bare = _bare(gold).strip("'\"").casefold()
        return bare in ("", *_MISSING) if items is None else is_missing(items)
    gold = _as_python(gold)
    if isinstance(gold, (list, tuple)):
        return all(map(is_missing, gold))
    return gold is None or _is_nan(gold)


def _as_python(gold: Any) -> Any:
    """A value or list of numpy, as pandas hands them out, as Python's own; anything else as it is."""
    convert = getattr(gold, "tolist", None)
    return convert() if callable(convert) else gold


def _is_nan(gold: Any) -> bool:
    try:
        return math.isnan(gold)
    except (TypeError, ValueError, OverflowError):
        return False


def _bare(text: str) -> str:
    """A text without white space, delimiters, boxes and a full stop around it."""
    text = text.strip()
    while match := _WRAPPED.fullmatch(text):
        text = next((part for part in match.groups() if part is not None), "").strip()
    return text.rstrip(".").strip() if text.strip(".") else text


def is_placeholder(gold: Any) -> bool:
    """Whether a gold is most likely a remark in place of an answer: "proof", "not found", "-".

    >>> is_placeholder("Proof."), is_placeholder("not found"), is_placeholder("no solution"), is_placeholder("x")
    (True, True, False, False)
    """
    items = [item for item in gold_items(gold) if not is_missing(item)]
    return bool(items) and all(map(_is_remark, items))


def _is_remark(item: Any) -> bool:
    return isinstance(item, str) and _PLACEHOLDER.fullmatch(_bare(item)) is not None


def gold_items(gold: Any) -> list[Any]:
    """The answers that a gold holds: those of a list, also of one in JSON text or as Python prints it; else itself.

    A text with brackets is a list only if its items are texts, or if there is just one: ``[1, 2]`` is an interval.
    >>> gold_items(["5"]), gold_items('["5", "6"]'), gold_items("[1, 2]"), gold_items("[5]"), gold_items(7)
    (['5'], ['5', '6'], ['[1, 2]'], [5], [7])
    """
    gold = _as_python(gold)
    if isinstance(gold, str):
        gold = _list_in(gold) or gold
    if not isinstance(gold, (list, tuple)):
        return [gold]
    items: list[Any] = []
    for item in gold:
        items += gold_items(item)
    return items


def num_answers(gold: Any) -> int:
    """How many different answers a gold holds, those left out that are none."""
    return len({repr(item) for item in gold_items(gold) if not is_missing(item)})


def _list_in(text: str) -> list[Any] | None:
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > MAX_LIST_CHARS:
        return None
    if "\\\\" not in text:
        text = _LONE_BACKSLASH.sub(r"\\\\", text)
    for read in (json.loads, ast.literal_eval):
        try:
            items = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, list) and _is_list_of_answers(items):
            return items
    return None


def _is_list_of_answers(items: Sequence[Any]) -> bool:
    kinds = {type(item) for item in items}
    if not kinds <= {str, int, float, list, type(None)}:
        return False
    return len(items) <= 1 or not kinds <= {int, float, list}


def stated_gold(gold: Any, several: str | None = None) -> str:
    """A gold as one text that a completion could state: the only item, the first of any, or all of them.

    In a mapping, as verl keeps it, it is the entry ``ground_truth``.
    """
    if isinstance(gold, Mapping):
        gold = gold.get("ground_truth")
    items = [item for item in gold_items(gold) if not is_missing(item)] or [gold]
    if several == "any":
        items = items[:1]
    return ", ".join(map(str, items))
