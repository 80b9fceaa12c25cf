"""Draws the lines of runs with matplotlib, without its global state: no window opens, no back end is chosen."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from itertools import chain
from typing import Any, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from grpo.report.plots.curves import AXES, Course, Line, Panel, smoothed, smoothing_width

STYLES = ("-", "--", ":", "-.")
SCREEN_DPI = 144
"""Of a picture in a notebook, which shows it at half its size."""


@dataclass(frozen=True)
class Theme:
    """The colours of a figure."""

    paper: str
    ink: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#24292f",
    grid="#d8dee4",
    lines=("#0072b2", "#d55e00", "#009e73", "#b0529a", "#9a6700", "#57606a"),
)
DARK = Theme(
    paper="#0d1117",
    ink="#e6edf3",
    grid="#30363d",
    lines=("#58b2f0", "#ff8a4c", "#2cc295", "#e3a0c8", "#f2c14e", "#9ea7b3"),
)


class RunFigure(Figure):
    """A matplotlib figure that notebooks show as it is, whatever back end they have; `savefig` writes it to a file."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=SCREEN_DPI)
        width, height = (round(72 * inches) for inches in self.get_size_inches())
        return picture.getvalue(), {"width": width, "height": height}


def draw(
    courses: Sequence[Course], panels: Sequence[Panel], *, theme: Theme, columns: int = 3
) -> RunFigure:
    """A plot a panel, those for which no run has a number left out; runs are told apart by colour."""
    lines_of = [list(map(panel.lines, courses)) for panel in panels]
    drawn = [(panel, lines) for panel, lines in zip(panels, lines_of) if any(lines)]
    across = max(1, min(columns, len(drawn)))
    down = max(1, math.ceil(len(drawn) / across))
    size = (max(6.4, 3.5 * across), 2.6 * down + 0.5 if drawn else 1.4)
    figure = RunFigure(figsize=size, layout="constrained", facecolor=theme.paper)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(drawn) :]:
        axis.set_visible(False)
    for axis, (panel, lines) in zip(axes, drawn):
        _dress(axis, panel, theme, over=AXES[courses[0].over])
        _draw_panel(axis, panel, lines, theme)
    figure.suptitle(_title(courses), color=theme.ink, fontsize=11)
    if not drawn:
        figure.text(0.5, 0.4, "no step is written yet", ha="center", color=theme.ink)
    if len(courses) > 1 and drawn:
        _name_runs(figure, axes[0], courses, theme)
    return figure


def _title(courses: Sequence[Course]) -> str:
    if len(courses) > 1:
        return f"{len(courses)} runs"
    [course] = courses
    of = f" of {course.planned}" if course.planned else ""
    return f"{course.name}: step {course.num_steps}{of}"


def _dress(axis: Axes, panel: Panel, theme: Theme, *, over: str) -> None:
    """The axes of a panel, without a number on them."""
    axis.set_facecolor(theme.paper)
    axis.set_title(panel.title, color=theme.ink, fontsize=10)
    axis.set_xlabel(over, color=theme.ink, fontsize=9)
    axis.tick_params(which="both", colors=theme.ink, labelsize=8, length=0)
    axis.grid(color=theme.grid, linewidth=0.6)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.is_share:
        axis.yaxis.set_major_formatter(_percent)


def _percent(share: float, position: float) -> str:
    return f"{round(100 * share, 2):g} %"


def _draw_panel(
    axis: Axes, panel: Panel, lines_of_runs: Sequence[Sequence[Line]], theme: Theme
) -> None:
    several = len(lines_of_runs) > 1
    for run, lines in enumerate(lines_of_runs):
        for number, line in enumerate(lines):
            color = theme.lines[(run if several else number) % len(theme.lines)]
            style = STYLES[number % len(STYLES)] if several else "-"
            label = line.label if run == 0 else ""
            _draw_line(axis, line, {"color": color, "linestyle": style}, label)
    _, end = axis.get_xlim()
    axis.set_xlim(-0.03 * end, end)
    bottom, top = axis.get_ylim()
    positive = [value for line in chain(*lines_of_runs) for value in line.y if value > 0]
    if panel.is_log and positive:
        _use_decades(axis, min(positive), max(positive))
    elif panel.is_share:
        axis.set_ylim(max(bottom, 0.0), top)
    if max(map(len, lines_of_runs)) > 1:
        axis.legend(frameon=False, fontsize=8, labelcolor=theme.ink)


def _use_decades(axis: Axes, low: float, high: float) -> None:
    """A logarithmic scale of whole decades, so that noise does not fill the plot; 0 is a gap."""
    axis.set_yscale("log", nonpositive="mask")
    first = math.floor(math.log10(low))
    last = max(first + 1, math.ceil(math.log10(high)))
    axis.set_ylim(10.0**first, 10.0**last)
    axis.yaxis.set_minor_formatter(NullFormatter())


def _draw_line(axis: Axes, line: Line, look: dict[str, Any], label: str) -> None:
    """A noisy line faint under its mean, points in their band of intervals; a gap where nothing is known."""
    name = label or "_"  # matplotlib leaves such a label out of legends
    if line.low is not None and line.high is not None:
        axis.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.2, linewidth=0)
        axis.plot(line.x, line.y, marker="o", markersize=4, linewidth=1.6, label=name, **look)
        return
    width = smoothing_width(len(line.y))
    if width > 1:
        axis.plot(line.x, line.y, linewidth=0.8, alpha=0.35, **look)
    marker = "o" if len(line.y) < 10 else ""
    means = smoothed(line.y, width)
    axis.plot(line.x, means, linewidth=1.6, marker=marker, markersize=3, label=name, **look)


def _name_runs(figure: Figure, axis: Axes, courses: Sequence[Course], theme: Theme) -> None:
    names = list(_distinct_names(courses))
    colors = [theme.lines[number % len(theme.lines)] for number in range(len(courses))]
    handles = [axis.plot([], [], color=color, linewidth=2)[0] for color in colors]
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(4, len(names)),
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
    )


def _distinct_names(courses: Sequence[Course]) -> Iterator[str]:
    names = [course.folder for course in courses]
    for number, name in enumerate(names):
        yield f"{name} ({number + 1})" if names.count(name) > 1 else name
