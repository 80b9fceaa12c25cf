"""The pictures of docs/evidence.md from ``benchmarks/results/evidence``: one for each part that was run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grpo.report.plots.figure import Theme
from rewards.spelling import many

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "evidence"
NAMES = {"ours": "this library", "trl": "TRL 1.16.0"}
Content = Mapping[str, Any]


def evidence_pictures(folder: Path = RESULTS) -> dict[str, Callable[[Theme], Figure]]:
    """By name, what draws each part's picture."""
    found: dict[str, Callable[[Theme], Figure]] = {}
    for name, draw in DRAWN.items():
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["summary"]:
            found[f"evidence-{name.replace('_', '-')}"] = partial(draw, content)
    return found


def solvable(content: Content, theme: Theme) -> Figure:
    """Training accuracy by step, each seed a line, over a pass through the problems."""
    figure, axis = _figure(theme, 3.0)
    size = content["summary"]["size"]
    window = max(1, size["problems"] // size["prompts"])
    for number, row in enumerate(_rows(content)):
        values = _smooth(row["result"]["accuracy"], 2 * window)
        steps = range(1, len(values) + 1)
        shown = [100 * value for value in values]
        label = f"seed {row['job']['seed']}"
        axis.plot(steps, shown, color=theme.lines[number], linewidth=1.4, label=label)
    axis.axhline(95, color=theme.ink, linewidth=0.9, linestyle="--")
    axis.text(1, 95.8, "95 %", color=theme.ink, fontsize=8)
    axis.set_ylim(None, 102)
    _label(axis, theme, "step", "training accuracy, %, two passes' mean")
    _legend(axis, theme)
    _title(figure, theme, "Problems that the base solves 20 to 80 % of the time")
    return figure


def faults(content: Content, theme: Theme) -> Figure:
    """Training accuracy by fault, with its interval; the right run is the line."""
    found = content["summary"]["faults"]
    shown = {name: one for name, one in found.items() if one["accuracy"] and not one["alike"]}
    figure, axis = _figure(theme, 0.9 + 0.32 * len(shown), width=8.6)
    for place, one in enumerate(shown.values()):
        named = any(one["named"].values())
        color = theme.lines[0 if named else 1]
        _estimate(axis, one["accuracy"], place, color)
    if "right" in found:
        right = 100 * found["right"]["accuracy"]["value"]
        axis.axvline(right, color=theme.ink, linewidth=0.9, linestyle="--")
    axis.set_yticks(range(len(shown)), [_words(one) for one in shown.values()])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlim(-2, 102)
    axis.plot([], [], "o", color=theme.lines[0], label="a gate names it")
    axis.plot([], [], "o", color=theme.lines[1], label="no gate speaks")
    _label(axis, theme, "training accuracy at the end, %, 95 % interval over seeds", "")
    _legend(axis, theme)
    _title(figure, theme, "What faults cost, with gates off where they would stop the run")
    return figure


def _words(one: Mapping[str, Any]) -> str:
    return "the right run" if one["says"] == "none" else one["says"]


def versus(title: str, content: Content, theme: Theme) -> Figure:
    """Held-out accuracy against CPU seconds: each seed faint, the mean of a side strong."""
    figure, axis = _figure(theme, 3.2)
    for number, (side, one) in enumerate(content["summary"]["sides"].items()):
        color = theme.lines[number]
        curves = one["curves"]
        for curve in curves:
            axis.plot(*_curve(curve), color=color, alpha=0.35, linewidth=1)
        mean = {name: _mean([curve[name] for curve in curves]) for name in curves[0]}
        label = f"{NAMES[side]}, {many(len(curves), 'seed')}"
        axis.plot(*_curve(mean), color=color, linewidth=2, marker="o", markersize=4, label=label)
    axis.axhline(100 * content["summary"]["threshold"], color=theme.ink, linewidth=0.8, ls="--")
    _label(axis, theme, "CPU seconds of training, one thread", "held-out accuracy, %")
    _legend(axis, theme)
    _title(figure, theme, title)
    return figure


def presets(content: Content, theme: Theme) -> Figure:
    """Held-out accuracy by preset with intervals, in alphabetical order."""
    found = content["summary"]["presets"]
    figure, axis = _figure(theme, 0.9 + 0.28 * len(found))
    for place, name in enumerate(sorted(found)):
        _estimate(axis, found[name]["after"], place, theme.lines[0])
    axis.set_yticks(range(len(found)), sorted(found))
    axis.set_ylim(len(found) - 0.5, -0.5)
    _label(axis, theme, "held-out accuracy, %, 95 % interval over seeds", "")
    _title(figure, theme, f"The presets after {content['summary']['steps']} steps")
    return figure


def cold_start(title: str, content: Content, theme: Theme) -> Figure:
    """Held-out accuracy by step of reinforcement learning, each seed faint, the mean of a kind of weights strong."""
    figure, axis = _figure(theme, 3.0)
    for number, (kind, one) in enumerate(content["summary"]["kinds"].items()):
        color = theme.lines[number]
        for curve in one["curves"]:
            axis.plot(one["steps"], [100 * v for v in curve], color=color, alpha=0.35, linewidth=1)
        mean = [100 * value for value in _mean(one["curves"])]
        axis.plot(one["steps"], mean, color=color, linewidth=2, marker="o", label=kind)
    _label(axis, theme, "step, from the supervised start", "held-out accuracy, %")
    _legend(axis, theme)
    _title(figure, theme, title)
    return figure


DRAWN: dict[str, Callable[[Content, Theme], Figure]] = {
    "solvable": solvable,
    "faults": faults,
    "quickstart": partial(versus, "The quickstart: held-out accuracy"),
    "presets": presets,
    "smollm2_sums": partial(versus, "SmolLM2 learns sums: held-out accuracy"),
    "word_problems": partial(cold_start, "Word problems of held-out stories"),
    "code": partial(cold_start, "Small programs, pass@1"),
}


# ---- what the pictures share ------------------------------------------------------------------------------------


def _rows(content: Content) -> list[Mapping[str, Any]]:
    return [row for row in content["rows"] if "error" not in row]


def _smooth(values: Sequence[float], width: int) -> list[float]:
    """The mean of the last `width` values at each place."""
    parts = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return [sum(part) / len(part) for part in parts]


def _mean(lines: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*lines)]


def _curve(curve: Mapping[str, Sequence[float]]) -> tuple[Sequence[float], list[float]]:
    return curve["cpu_seconds"], [100 * value for value in curve["accuracy"]]


def _estimate(axis: Axes, estimate: Mapping[str, Any], place: float, color: str) -> None:
    if estimate["low"] is not None:
        ends = [max(0.0, 100 * estimate["low"]), min(100.0, 100 * estimate["high"])]
        axis.plot(ends, [place, place], color=color, alpha=0.35, linewidth=6)
    axis.plot([100 * estimate["value"]], [place], "o", color=color, markersize=6)


def _figure(theme: Theme, height: float, width: float = 7.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    axis = figure.subplots()
    axis.set_facecolor(theme.paper)
    axis.grid(color=theme.grid, linewidth=0.6)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure, axis


def _label(axis: Axes, theme: Theme, across: str, up: str) -> None:
    axis.set_xlabel(across, color=theme.ink, fontsize=9)
    axis.set_ylabel(up, color=theme.ink, fontsize=9)
    axis.tick_params(colors=theme.ink, labelsize=9, length=0)


def _legend(axis: Axes, theme: Theme) -> None:
    axis.legend(frameon=False, labelcolor=theme.ink, fontsize=8)


def _title(figure: Figure, theme: Theme, title: str) -> None:
    figure.suptitle(title, color=theme.ink, fontsize=11)
