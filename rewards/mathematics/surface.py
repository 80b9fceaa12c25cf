r"""How an answer is set down, before anything reads it: quotes, full-width signs, marks at its end.

`on_one_line` and `without_marks` only drop or replace what carries no meaning; both return other texts unchanged.
"""

from __future__ import annotations

import re

__all__ = ["in_plain_characters", "on_one_line", "without_marks"]

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_INVISIBLE = dict.fromkeys([0x00AD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060, 0xFEFF])
_SIGNS: dict[int, str | int | None] = {
    **_FULL_WIDTH,
    **_INVISIBLE,
    0xFF0C: ", ",
    0xFF1B: "; ",
    0x3010: "",
    0x3011: "",
    0x3002: ".",
    0x3000: " ",
}
_BOXES = r"\\(?:blacksquare|square|Box|qed|checkmark)(?![A-Za-z])"
_END_MARKS = re.compile(
    rf"(?:\s|\$\s*{_BOXES}\s*\$|\\\(\s*{_BOXES}\s*\\\)|{_BOXES}"
    r"|[\u2713\u2714\u2705\u25a0\u25a1\u220e\u25fb\u25fc\ufe0f\u2b1b\U0001f389]|\bQ\.?E\.?D\.?)+$"
)
_CALCULATED = re.compile(r"<<[^<>\n]{1,120}>>")
_FRACTIONS = {
    "\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "\u215b": "1/8", "\u215c": "3/8", "\u2155": "1/5", "\u2156": "2/5", "\u2157": "3/5",
    "\u2158": "4/5", "\u2159": "1/6", "\u215a": "5/6",
}  # fmt: skip
_FRACTION = re.compile(f"(?<!\\d)(?<!\\d )[{''.join(_FRACTIONS)}]")
_RATIO = re.compile(r"(?<=\d) : (?=\d)")


def in_plain_characters(text: str) -> str:
    """Return a text without full-width signs and invisible characters."""
    return text if text.isascii() else text.translate(_SIGNS)


def without_marks(text: str) -> str:
    r"""Return a completion without a sign of its end (a tick, ``\blacksquare``) and without GSM8K's ``<<9*2=18>>``.

    >>> without_marks("She has 9*2=<<9*2=18>>18 left. QED"), without_marks("It is 2 : 3.")
    ('She has 9*2=18 left.', 'It is 2:3.')
    """
    if "<<" in text:
        text = _CALCULATED.sub("", text)
    if " : " in text:
        text = _RATIO.sub(":", text)
    if not text.isascii():
        text = _FRACTION.sub(lambda sign: _FRACTIONS[sign.group()], text)
    marks = _END_MARKS.search(text[-60:])
    if marks is None or not marks.group().strip():
        return text
    return text[: len(text) - len(marks.group())]


def on_one_line(text: str) -> str:
    r"""Return equations on lines of their own as a list; other texts as they are.

    >>> on_one_line("x = 2,\ny = -1"), on_one_line("x = 2\nis it")
    ('x = 2, y = -1', 'x = 2\nis it')
    """
    if "\n" not in text or "\\begin" in text:
        return text
    lines = [line.strip().rstrip(",;.\\").rstrip() for line in text.split("\n") if line.strip()]
    are_equations = len(lines) > 1 and all(re.search(r"\w.*=\s*[^\s=]", line) for line in lines)
    return ", ".join(lines) if are_equations else text
