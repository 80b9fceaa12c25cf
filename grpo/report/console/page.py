"""A notebook: one output of the cell that is updated, with the lines so far in a box and the live area below it."""

from __future__ import annotations

import html
import sys
from typing import Any, Sequence

from grpo.report.console.display import Area
from grpo.report.console.ink import UNICODE, Line, visible

COLOURS = {
    "title": "font-weight:bold",
    "head": "font-weight:bold;opacity:.65",
    "dim": "opacity:.6",
    "good": "color:#2e9e4f",
    "note": "color:#2a8fb0",
    "warn": "color:#b07d00",
    "bad": "color:#d0342c;font-weight:bold",
}
"""Of middle brightness, to be read on a light page and on a dark one."""
MAX_LINES = 400
TEXT = "margin:0;line-height:1.35;white-space:pre;font-family:monospace;font-size:12px;"
BOX = f"{TEXT}max-height:28em;overflow:auto;display:flex;flex-direction:column-reverse"
"""A column that is reversed keeps its end in sight as it grows."""


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    if interactive is None:
        return False
    shell = interactive.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class Page:
    """A display in the output of a notebook's cell; the cell that first prints gets it.

    Of a long run the first lines are dropped; ``console.log`` keeps them.
    """

    is_live = True
    glyphs = UNICODE
    width = 110
    height = 60

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._area: Area | None = None
        self._handle: Any = None

    def print(self, lines: Sequence[Line]) -> None:
        self._lines += [in_html(line) for line in lines]
        del self._lines[:-MAX_LINES]
        self.refresh()

    def show(self, area: Area) -> None:
        self._area = area
        self.refresh()

    def refresh(self) -> None:
        page = self.content()
        if not page:
            return
        from IPython.display import HTML, display  # noqa: PLC0415  only in a notebook

        if self._handle is None:
            self._handle = display(HTML(page), display_id=True)
        else:
            self._handle.update(HTML(page))

    def hide(self) -> None:
        self._area = None
        self.refresh()

    def content(self) -> str:
        """The page as HTML; empty while there is nothing to show."""
        area = [] if self._area is None else self._area(self.width, self.height)
        if not self._lines and not area:
            return ""
        lines = "\n".join(self._lines)
        live = "\n".join(map(in_html, area))
        return f'<div style="{BOX}"><div>{lines}</div></div><pre style="{TEXT}">{live}</pre>'


def in_html(line: Line) -> str:
    """A line as HTML, its text escaped."""
    return "".join(_span(text, style) for text, style in line.spans)


def _span(text: str, style: str) -> str:
    escaped = html.escape(visible(text))
    return f'<span style="{COLOURS[style]}">{escaped}</span>' if style else escaped
