"""Where lines appear: the interface of all displays, and the two that have no live area."""

from __future__ import annotations

import sys
from typing import Protocol, Sequence, TextIO

from grpo.report.console.ink import ASCII, Glyphs, Line, encodable, visible


class Area(Protocol):
    """Makes the lines of the live area for a width and a height in cells."""

    def __call__(self, width: int, height: int) -> Sequence[Line]: ...


class Display(Protocol):
    """A place where lines appear one below the other, and perhaps a live area below them.

    ``is_live`` says whether there is such an area; only then is the layout that of the screen, with a table of
    steps in place of sentences. `show` and `hide` may be called again and again.
    """

    is_live: bool
    glyphs: Glyphs

    @property
    def width(self) -> int:
        """Cells in a line."""

    @property
    def height(self) -> int:
        """Lines of the screen."""

    def print(self, lines: Sequence[Line]) -> None:
        """Write lines, for good."""

    def show(self, area: Area) -> None:
        """Begin to keep a live area below the lines."""

    def refresh(self) -> None:
        """Draw the live area anew."""

    def hide(self) -> None:
        """Take the live area away."""


class Plain:
    """Lines as they are, for a file or a pipe: no colours, no control characters, each line written at once.

    `stream` None is what ``sys.stdout`` is at the time of each line.
    """

    is_live = False
    glyphs = ASCII
    width = 1_000_000
    height = 1_000_000

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream

    def print(self, lines: Sequence[Line]) -> None:
        stream = sys.stdout if self.stream is None else self.stream
        encoding = getattr(stream, "encoding", None)
        for line in lines:
            stream.write(encodable(visible(line.text), encoding) + "\n")
        stream.flush()

    def show(self, area: Area) -> None:
        pass

    def refresh(self) -> None:
        pass

    def hide(self) -> None:
        pass


class Nothing(Plain):
    """Shows nothing."""

    def print(self, lines: Sequence[Line]) -> None:
        pass
