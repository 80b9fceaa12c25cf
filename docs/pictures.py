"""Draws the pictures of the README and the docs from the runs in ``examples/runs``: ``make pictures``.

Those of docs/evidence.md are drawn from ``benchmarks/results/evidence`` (``evidence_pictures.py``).

Each is written for light and for dark pages, the same bytes from the same data; a test draws them again. A further
picture is a row of `PICTURES`. Those of the report need a browser (``report_picture.py``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Callable

import matplotlib
from console_picture import console_picture
from evidence_pictures import evidence_pictures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report_picture import missing, report_pictures

import grpo
from grpo.report.folder import RunFolder
from grpo.report.plots.figure import DARK, LIGHT, Theme

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SEEDS = [ROOT / "examples" / "runs" / "quickstart" / f"seed-{seed}" for seed in range(3)]
SETTINGS: Any = {"svg.hashsalt": "grpo", "svg.fonttype": "none"}


def learning(theme: Theme) -> Figure:
    """Training reward and held-out accuracy of the three seeds."""
    figure = grpo.plot(*SEEDS, panels=["accuracy", "reward"], dark=theme is DARK)
    figure.suptitle("The quickstart, three seeds", color=theme.ink, fontsize=11)
    return figure


def length(theme: Theme) -> Figure:
    """What the model does differently: it tries again, and so writes more."""
    panels = ["rewards/correct/retries", "length"]
    figure = grpo.plot(*SEEDS, panels=panels, dark=theme is DARK)
    figure.axes[0].set_title("times it rejects its own try and goes on", fontsize=10)
    figure.suptitle("What the quickstart learns, three seeds", color=theme.ink, fontsize=11)
    return figure


def before_after(theme: Theme) -> Figure:
    """Held-out accuracy and length before and after training, a row a seed."""
    figure = Figure(figsize=(7.0, 2.3), layout="constrained", facecolor=theme.paper)
    left, right = figure.subplots(1, 2, sharey=True)
    summaries = [RunFolder.at(folder).summary() for folder in SEEDS]
    for row, summary in enumerate(summaries):
        for when, filled in (("before", False), ("after", True)):
            values = summary[when]
            _interval(left, 100 * values["low"], 100 * values["high"], row, theme)
            _dot(left, 100 * values["accuracy"], row, theme, filled)
            _dot(right, values["length"], row, theme, filled)
        before, after = summary["before"], summary["after"]
        _arrow(left, 100 * before["accuracy"], 100 * after["accuracy"], row, theme)
        _arrow(right, before["length"], after["length"], row, theme)
    _dress(left, "held-out accuracy, %, with 95 % interval", theme)
    _dress(right, "completion length, tokens", theme)
    left.set_yticks(range(len(SEEDS)), [f"seed {seed}" for seed in range(len(SEEDS))])
    left.set_ylim(len(SEEDS) - 0.5, -0.5)
    left.set_xlim(20, 70)
    right.set_xlim(20, 50)
    figure.suptitle("Before (open) and after (filled) 60 steps", color=theme.ink, fontsize=11)
    return figure


def _interval(axis: Axes, low: float, high: float, row: int, theme: Theme) -> None:
    axis.plot(
        [low, high],
        [row, row],
        color=theme.lines[0],
        alpha=0.35,
        linewidth=7,
        solid_capstyle="butt",
    )


def _dot(axis: Axes, value: float, row: int, theme: Theme, filled: bool) -> None:
    color = theme.lines[0]
    face = color if filled else theme.paper
    axis.plot([value], [row], marker="o", color=color, markerfacecolor=face, markersize=7)


def _arrow(axis: Axes, start: float, end: float, row: int, theme: Theme) -> None:
    look = {"arrowstyle": "->", "color": theme.ink, "shrinkA": 7, "shrinkB": 7}
    axis.annotate("", xy=(end, row), xytext=(start, row), arrowprops=look)


def _dress(axis: Axes, title: str, theme: Theme) -> None:
    axis.set_facecolor(theme.paper)
    axis.set_title(title, color=theme.ink, fontsize=10)
    axis.tick_params(colors=theme.ink, labelsize=9, length=0)
    axis.grid(axis="x", color=theme.grid, linewidth=0.6)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_visible(False)


def console(theme: Theme) -> str:
    """The live console in the middle of a step."""
    return console_picture(SEEDS[0], theme)


PICTURES: dict[str, Callable[[Theme], Figure | str]] = {
    "quickstart-learning": learning,
    "quickstart-length": length,
    "quickstart-before-after": before_after,
    "quickstart-console": console,
    **evidence_pictures(),
}
"""Figures, and texts of SVG."""
REPORT = "quickstart-report"
THEMES = {"": LIGHT, "-dark": DARK}


def draw(folder: Path, only: str = "") -> list[Path]:
    """Write every picture to `folder`, or those whose names begin with `only`."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"Date": None, "Creator": None}
    files = []
    with matplotlib.rc_context(SETTINGS):
        for name, picture in PICTURES.items():
            if not name.startswith(only):
                continue
            for suffix, theme in THEMES.items():
                file = folder / f"{name}{suffix}.svg"
                drawn = picture(theme)
                if isinstance(drawn, str):
                    file.write_text(drawn, encoding="utf-8")
                else:
                    drawn.savefig(file, metadata=metadata)
                files.append(file)
    return files


def draw_report(folder: Path) -> list[Path]:
    """Write the pictures of the page of two runs to `folder`."""
    files = {"light": folder / f"{REPORT}.png", "dark": folder / f"{REPORT}-dark.png"}
    report_pictures(SEEDS[:2], files)
    return [*files.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=IMAGES)
    parser.add_argument("--only", default="", help="how the names begin; the report's are left out")
    given = parser.parse_args()
    folder = given.folder
    files = draw(folder, given.only)
    reason = missing()
    if reason and not given.only:
        print(reason)
    elif not given.only:
        files += draw_report(folder)
    for file in files:
        print(file)


if __name__ == "__main__":
    main()
