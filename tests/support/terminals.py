"""A terminal that remembers its screen, for tests of what a person sees; the emulator is pyte."""

from __future__ import annotations

import io

import pyte
from rich.console import Console as RichConsole

from grpo.report.console.console import Console
from grpo.report.console.screen import Screen


class Terminal(io.StringIO):
    """A stream that is a terminal of `columns` x `rows`; `lines` are what stands on it, `written` all characters."""

    def __init__(self, columns: int = 80, rows: int = 24, encoding: str = "utf-8"):
        super().__init__()
        self.history = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1e-9)
        self._feed = pyte.Stream(self.history)
        self._encoding = encoding
        self.written = ""

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        text.encode(self._encoding)
        self.written += text
        self._feed.feed(text)
        return len(text)

    @property
    def lines(self) -> list[str]:
        """The screen from its top to the last line that is not blank."""
        shown = [line.rstrip() for line in self.history.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def everything(self) -> list[str]:
        """What has scrolled away, and the screen."""
        away = []
        for row in self.history.history.top:
            cells = [row[column].data for column in range(self.history.columns)]
            away.append("".join(cells).rstrip())
        return [*away, *self.lines]


def screen_on(terminal: Terminal, **options: object) -> Screen:
    """A screen on the terminal, through rich's console at its size."""
    size = {"width": terminal.history.columns, "height": terminal.history.lines}
    settings = {"force_terminal": True, "color_system": "standard", **size, **options}
    return Screen(terminal, RichConsole(file=terminal, **settings))  # type: ignore[arg-type]


def console_on(terminal: Terminal, **options: object) -> Console:
    """A console on the terminal."""
    return Console(screen_on(terminal, **options))
