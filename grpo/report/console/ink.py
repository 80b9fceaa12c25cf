"""Lines of styled text, and how they become characters: with colours or without, in any encoding, cut to a width.

Text that a model or a data set wrote goes through `visible`: no control character of theirs reaches a terminal.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style

Span = tuple[str, str]
"""Text, and the name of its style in `STYLES`; empty for none."""

STYLES = {
    "title": Style(bold=True),
    "head": Style(bold=True, dim=True),
    "dim": Style(dim=True),
    "good": Style(color="green"),
    "note": Style(color="cyan"),
    "warn": Style(color="yellow"),
    "bad": Style(color="red", bold=True),
}
DIRECTION_MARKS = range(0x202A, 0x202F), range(0x2066, 0x206A)
KEPT = "\n\t"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen, in spans."""

    spans: tuple[Span, ...]

    @staticmethod
    def of(*spans: Span | str) -> Line:
        """A line of spans; plain text has no style."""
        return Line(tuple((part, "") if isinstance(part, str) else part for part in spans))

    @property
    def text(self) -> str:
        """The line without styles."""
        return "".join(text for text, _ in self.spans)

    def changed(self, change: Callable[[str], str]) -> Line:
        """The line with each text changed."""
        return Line(tuple((change(text), style) for text, style in self.spans))

    def cut(self, width: int, mark: str = "…") -> Line:
        """The line in at most `width` cells; `mark` ends one that was longer."""
        if cell_len(self.text) <= width:
            return self
        room = max(0, width - cell_len(mark))
        spans: list[Span] = []
        for text, style in self.spans:
            text = text if cell_len(text) <= room else set_cell_size(text, room)
            room -= cell_len(text)
            spans.append((text, style))
            if not room:
                break
        return Line((*spans, (mark, "dim")))

    def folded(self, width: int) -> list[Line]:
        """The line in lines of at most `width` cells, broken between words; the further ones are indented."""
        if cell_len(self.text) <= width:
            return [self]
        indent = min(_hanging_indent(self.text), width // 2)
        lines: list[Line] = []
        for text in folded(self.text, width, indent):
            lines.append(Line.of((text, self.spans[0][1])))
        return lines


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters beyond ASCII that a display draws with."""

    arrow: str
    times: str
    dot: str
    dash: str
    rule: str
    bar: str
    more: str
    spark: str


UNICODE = Glyphs(
    arrow="→", times="×", dot="·", dash="–", rule="─", bar="━", more="…", spark="▁▂▃▄▅▆▇█"
)
ASCII = Glyphs(
    arrow="->", times="x", dot="|", dash="-", rule="-", bar="=", more="...", spark="_.-=+*#@"
)


def glyphs_of(encoding: str | None) -> Glyphs:
    """What can be drawn in `encoding`."""
    every = "".join(getattr(UNICODE, name) for name in UNICODE.__slots__)
    try:
        every.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def visible(text: str) -> str:
    r"""`text` with control characters, and marks that turn the direction of writing, as escapes.

    >>> visible("a\x1b[2J b")
    'a\\x1b[2J b'
    """
    if text.isprintable():
        return text
    return "".join(
        character if _is_harmless(character) else _escape(character) for character in text
    )


def _is_harmless(character: str) -> bool:
    if character in KEPT or character.isprintable():
        return True
    if any(ord(character) in marks for marks in DIRECTION_MARKS):
        return False
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def encodable(text: str, encoding: str | None) -> str:
    """`text` with what `encoding` lacks escaped."""
    known = encoding or "utf-8"
    try:
        codecs.lookup(known)
    except LookupError:
        known = "ascii"
    return text.encode(known, "backslashreplace").decode(known)


class Ink:
    """Turns lines into characters for one terminal: its colours, none with ``NO_COLOR``, and its encoding."""

    def __init__(self, terminal: Console):
        name = terminal.color_system if not terminal.no_color else None
        self.colours: ColorSystem | None = COLOR_SYSTEMS[name] if name else None
        self.encoding = terminal.encoding
        self.glyphs = glyphs_of(self.encoding)

    def characters(self, line: Line) -> str:
        """The line as it is written to the terminal."""
        text = "".join(self._painted(text, style) for text, style in line.spans)
        return encodable(text, self.encoding)

    def _painted(self, text: str, style: str) -> str:
        text = visible(text)
        if not style or not text or self.colours is None:
            return text
        return STYLES[style].render(text, color_system=self.colours)


def aligned(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Rows of cells as lines, the first column to the left and the others to the right.

    >>> aligned([["", "before"], ["length", "29.1"]])
    ['        before', 'length    29.1']
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            padded(cell, width, right=index > 0)
            for index, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append((" " * gap).join(cells).rstrip())
    return lines


def padded(text: str, width: int, right: bool = True) -> str:
    """`text` filled up to `width` cells; to the right edge if `right`, cut if it is longer."""
    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width)
    return " " * missing + text if right else text + " " * missing


def folded(text: str, width: int, indent: int = 0) -> Iterator[str]:
    """`text` in lines of at most `width` cells, broken between words, or inside one that is longer than a line.

    >>> list(folded("  data  a long line of words", 14, indent=8))
    ['  data  a long', '        line', '        of', '        words']
    """
    rest = text
    margin = ""
    while cell_len(margin + rest) > width:
        line, rest = _broken(rest, width - len(margin))
        yield (margin + line).rstrip()
        margin = " " * indent
    yield margin + rest


def _broken(text: str, width: int) -> tuple[str, str]:
    """(what fits into `width` cells, the rest)."""
    end = _num_fitting(text, width)
    space = text.rfind(" ", 0, end + 1)
    if space > 0 and text[:space].strip():
        return text[:space], text[space + 1 :]
    return text[:end], text[end:]


def _num_fitting(text: str, width: int) -> int:
    """How many characters fit into `width` cells; at least one."""
    room = width
    for index, character in enumerate(text):
        room -= cell_len(character)
        if room < 0:
            return max(1, index)
    return len(text)


def _hanging_indent(text: str) -> int:
    """Where the text of a line begins after its name: ``  data      countdown`` at 12; else two in."""
    name = re.match(r"(\s*\S+\s{2,}|\s+)", text)
    return len(name.group()) if name else 2
