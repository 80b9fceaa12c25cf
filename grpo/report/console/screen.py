r"""A terminal: lines that scroll away, and below them a live area that is drawn again and again.

The cursor rests at the left of a blank line above the area, and is never hidden. So whatever else writes to the
terminal (a native library, a child process) starts on a line of its own and the next drawing goes below it; a terminal
made narrower breaks nothing, since everything that is drawn again lies below the cursor; and a process that is killed
leaves a usable terminal. What Python writes to ``sys.stdout`` and ``sys.stderr`` appears above the area, line by line.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import weakref
from typing import Any, Sequence, TextIO

from rich.console import Console

from grpo.report.console.display import Area
from grpo.report.console.ink import Ink, Line

TO_END_OF_LINE = "\x1b[K"
TO_END_OF_SCREEN = "\x1b[J"
UP = "\x1b[{}A"
MIN_WIDTH = 2
ROOMY_HEIGHT = 30
ROOMY_MARGIN = 3
"""Blank lines above the area on a screen of that height or more: as many lines may be written past Python between two
drawings before one lands on the area. One on a lower screen."""
FALLBACK = os.terminal_size((80, 24))
SCREENS: weakref.WeakSet[Screen] = weakref.WeakSet()


class Screen:
    """A display on the terminal behind `stream`; all methods may be called from any thread, and by a signal handler.

    A handler that interrupts a drawing leaves its lines for that drawing to write.
    """

    is_live = True

    def __init__(self, stream: TextIO, terminal: Console | None = None):
        self.stream = stream
        self.terminal = terminal or Console(file=stream)
        self.ink = Ink(self.terminal)
        self.glyphs = self.ink.glyphs
        self._lock = threading.RLock()
        self._waiting: list[str] = []
        self._is_writing = False
        self._area: Area | None = None
        self._is_drawn = False
        self._streams: list[_Above] = []
        SCREENS.add(self)

    @property
    def width(self) -> int:
        """One cell less than the terminal has, so that no line wraps."""
        return max(MIN_WIDTH, self._size().columns - 1)

    @property
    def height(self) -> int:
        return self._size().lines

    def _size(self) -> os.terminal_size:
        """The terminal's size now; that of rich's console where the stream is none, as in tests."""
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError, AttributeError):
            size = os.terminal_size(self.terminal.size)
        return size if size.columns and size.lines else FALLBACK

    # -- what is shown ----------------------------------------------------------------------------------------

    def print(self, lines: Sequence[Line]) -> None:
        self.write_above("".join(self.ink.characters(line) + "\n" for line in lines))

    def show(self, area: Area) -> None:
        with self._lock:
            self._area = area
            if not self._streams:
                self._streams = [_Above(self, "stdout"), _Above(self, "stderr")]
            self.refresh()

    def refresh(self) -> None:
        self.write_above("")

    def hide(self) -> None:
        with self._lock:
            self._area = None
            for stream in self._streams:
                stream.restore()
            self._streams = []
            if self._is_drawn:
                self.write_above("")

    # -- how it is drawn --------------------------------------------------------------------------------------

    def write_above(self, text: str) -> None:
        """Write whole lines above the live area, and draw that anew."""
        with self._lock:
            self._waiting.append(text)
            if self._is_writing:
                return
            self._is_writing = True
            try:
                while self._waiting:
                    texts = "".join(self._waiting)
                    self._waiting.clear()
                    self._write(texts)
            finally:
                self._is_writing = False

    def _write(self, text: str) -> None:
        """One write for all, so that nothing flickers."""
        above = text.replace("\n", f"{TO_END_OF_LINE}\r\n")
        below = self._drawn_area()
        if above or below or self._is_drawn:
            self._send(f"\r{above}{below}" if below else f"\r{above}{TO_END_OF_SCREEN}")
        self._is_drawn = bool(below)

    def _drawn_area(self) -> str:
        """The blank lines, the area's lines below them, and the way back up; empty without an area."""
        if self._area is None:
            return ""
        width = self.width
        height = self.height
        lines = self._area(width, height)
        if not lines:
            return ""
        more = self.glyphs.more
        drawn = [self.ink.characters(line.cut(width, more)) for line in lines]
        margin = ROOMY_MARGIN if height >= ROOMY_HEIGHT else 1
        rows = f"{TO_END_OF_LINE}\r\n".join([*[""] * margin, *drawn])
        return f"{rows}{TO_END_OF_SCREEN}\r{UP.format(margin + len(drawn) - 1)}"

    def _send(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self._area = None  # the terminal is gone; the run goes on

    def leave_to_parent(self) -> None:
        """In a forked child: draw nothing, and give the streams back; the lock may be held by a thread left behind."""
        self._lock = threading.RLock()
        self._is_writing = False
        self._area = None
        self._is_drawn = False
        for stream in self._streams:
            stream.forget()
        self._streams = []


def _leave_screens_to_parent() -> None:
    for screen in list(SCREENS):
        screen.leave_to_parent()


@atexit.register
def _clear_screens() -> None:
    for screen in list(SCREENS):
        screen.hide()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_screens_to_parent)


class _Above(io.TextIOBase):
    """Stands in for ``sys.stdout`` or ``sys.stderr`` while there is a live area; its lines appear above that.

    Whoever has kept it writes through it after that too. What has no end of its line yet is kept by thread, since
    ``print`` writes a line and its end apart and threads that print at once would get into each other's lines.
    """

    def __init__(self, screen: Screen, name: str):
        super().__init__()
        self.original: Any = getattr(sys, name)
        self._name = name
        self._screen: Screen | None = screen
        self._partials: dict[int, str] = {}
        setattr(sys, name, self)

    def restore(self) -> None:
        """Give the stream back, with what is still without an end of its line."""
        screen = self._screen
        partials = [partial for partial in self._partials.values() if partial]
        self.forget()
        if partials and screen is not None:
            screen.write_above("".join(f"{partial}\n" for partial in partials))

    def forget(self) -> None:
        """Give the stream back; what has no end of its line yet is dropped."""
        self._screen = None
        self._partials = {}
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self.original)

    def write(self, text: str) -> int:
        screen = self._screen
        if screen is None:
            return int(self.original.write(text))
        thread = threading.get_ident()
        *lines, rest = (self._partials.pop(thread, "") + text).split("\n")
        if rest:
            self._partials[thread] = _after_return(rest)
        if lines:
            screen.write_above("".join(f"{_after_return(line)}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """A line without an end waits for it, since the live area stands below."""
        if self._screen is None:
            self.original.flush()

    def isatty(self) -> bool:
        return bool(self.original.isatty())

    def fileno(self) -> int:
        return int(self.original.fileno())

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed's is an attribute
        return str(getattr(self.original, "encoding", None) or "utf-8")

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self.original, "errors", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _after_return(line: str) -> str:
    """What is left to see of a line that was written over, as a progress bar's is."""
    return line.rstrip("\r").rpartition("\r")[2]
