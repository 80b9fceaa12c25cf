"""The console in the middle of a run, as an SVG, from a run's files; ``pictures.py`` writes it.

The console itself draws: it is given a display that keeps its lines, and the records of the run as they came.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Iterator, Sequence

from rich.console import Console as Recording
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from grpo.monitor.waits import Counts
from grpo.report.console.completion import chosen
from grpo.report.console.console import Console
from grpo.report.console.display import Area
from grpo.report.console.history import evaluations_of
from grpo.report.console.ink import STYLES, UNICODE, Line
from grpo.report.console.status import Status
from grpo.report.folder import RunFolder, is_step
from grpo.report.plots.figure import DARK, Theme

WIDTH = 92
HEIGHT = 40
FIRST_STEPS = 2
LAST_STEP = 26
"""Shown are the first two steps, and those from the second evaluation to this one."""
HEADER = (
    "  policy    LlamaForCausalLM, 139k parameters, float32 on cpu, 1 thread",
    "  data      countdown: 3744 train, 256 held out, template plain",
    "  rewards   1 x correct; accurate means correct = 1",
    "  training  60 steps of 32 x 8 completions up to 80 tokens, grpo, lr 0.0003",
)
NOW = Status("sampling", 0.3, Counts(done=130, total=256, unit="completions"), rate=12_000.0)
LIGHT_COLOURS = [(36, 41, 47), (178, 24, 43), (17, 99, 41), (154, 103, 0)]
DARK_COLOURS = [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34)]
LIGHT_REST = [(5, 80, 174), (130, 80, 223), (27, 124, 131), (110, 119, 129)]
DARK_REST = [(88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)]
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""That of rich without its fonts, which a browser would fetch from elsewhere."""


class Kept:
    """A display that keeps its lines, the live area apart."""

    is_live = True
    glyphs = UNICODE
    width = WIDTH
    height = HEIGHT

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.area: Area | None = None

    def print(self, lines: Sequence[Line]) -> None:
        self.lines += lines

    def show(self, area: Area) -> None:
        self.area = area

    def refresh(self) -> None:
        pass

    def hide(self) -> None:
        pass


def console_picture(folder: Path, theme: Theme) -> str:
    """The console after step `LAST_STEP` of the run in `folder`."""
    recording = Recording(
        record=True,
        width=WIDTH,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    for line in console_lines(folder):
        parts = [(text, STYLES[style]) if style else text for text, style in line.spans]
        recording.print(Text.assemble(*parts), soft_wrap=True, highlight=False)
    return recording.export_svg(
        title="grpo train quickstart",
        theme=_colours(theme),
        code_format=FORMAT,
        unique_id=f"console{'-dark' if theme is DARK else ''}",
    )


def console_lines(folder: Path) -> Iterator[Line]:
    """What the console drew, some of the steps left out."""
    display = Kept()
    console = Console(display)
    console.show_status(lambda: NOW)
    console.title("grpo 0.1.0  quickstart  ->  runs/quickstart-1")
    console.say(*HEADER)
    console.forget()
    console.history.steps = 60
    console.history.every = 20
    for record in RunFolder.at(folder).metrics():
        if record["step"] > LAST_STEP:
            break
        _tell(console, record, folder)
    yield from display.lines
    with console.working():
        assert display.area is not None
        yield Line.of("")
        yield from display.area(WIDTH, HEIGHT)
    console.close()


def _tell(console: Console, record: dict[str, Any], folder: Path) -> None:
    step = record["step"]
    if not is_step(record):
        when = f"after step {step}" if step else "before training"
        console.evaluations(evaluations_of(record), when)
    elif step <= FIRST_STEPS or step > LAST_STEP - 7:
        console.step(record)
        if step == LAST_STEP - 6:
            _show_completion(console, step, folder)
    else:
        if step == FIRST_STEPS + 1:
            console.say(f"{UNICODE.more:>6}")
        console.take_in(record)


def _show_completion(console: Console, step: int, folder: Path) -> None:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] == step]
    found = chosen(rows, step)
    if found is not None:
        console.completion(*found)


def _colours(theme: Theme) -> TerminalTheme:
    is_dark = theme is DARK
    first = DARK_COLOURS if is_dark else LIGHT_COLOURS
    rest = DARK_REST if is_dark else LIGHT_REST
    return TerminalTheme(_rgb(theme.paper), _rgb(theme.ink), [*first, *rest])


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.lstrip("#"))
    return red, green, blue
