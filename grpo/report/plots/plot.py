"""`plot`: runs as a figure, from what their folders hold. matplotlib is imported only here, when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Sequence

from grpo.recipe import RecipeError, nearest
from grpo.report.folder import RunFolder
from grpo.report.pipeline import runs_at
from grpo.report.plots.curves import AXES, PANELS, SHOWN, Course, Panel, keys_of, panel_of

if TYPE_CHECKING:
    from grpo.report.plots.figure import RunFigure


def plot(
    *runs: str | Path | RunFolder,
    panels: Sequence[str] = SHOWN,
    over: str = "step",
    columns: int = 3,
    dark: bool = False,
) -> RunFigure:
    """Runs as a matplotlib figure, from their folders: held-out accuracy with its interval, reward, length, and more.

    ``grpo.plot("runs/quickstart-1")``; several folders are drawn over each other, as are
    the stages of a recipe with stages. A run may be under way, stopped,
    finished or resumed: what counts is what its ``metrics.jsonl`` holds. ``panels`` are names of `PANELS`, or keys of
    the steps' records (``rewards/correct/retries``), drawn in rows of `columns`; one of `PANELS` for which no run has a
    number is left out. ``over`` is ``step``, ``tokens`` (completion
    tokens sampled) or ``seconds`` (spent in training steps). A step's number is drawn faint under the mean of the
    steps around it. `dark` is for a dark page.

    A notebook shows the figure; ``.savefig("run.svg")`` writes it. Raises `RecipeError` for a folder without a run, for
    an unknown name, and where matplotlib is not installed.
    """
    if not runs:
        raise RecipeError('plot: no run is given; name its folder, as in plot("runs/quickstart-1")')
    _check(over, AXES, "axis")
    folders: list[RunFolder] = []
    for run in runs:
        folders += [run] if isinstance(run, RunFolder) else runs_at(run)
    try:
        from grpo.report.plots.figure import DARK, LIGHT, draw  # noqa: PLC0415  optional package
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise RecipeError(
            "plot: the package matplotlib is not installed; pip install matplotlib"
        ) from None
    courses = [Course.of(folder, over) for folder in folders]
    return draw(
        courses,
        [_panel(name, courses) for name in panels],
        theme=DARK if dark else LIGHT,
        columns=columns,
    )


def _panel(name: str, courses: Sequence[Course]) -> Panel:
    """The panel of that name, or that of a key of some run's records."""
    if name in PANELS:
        return PANELS[name]
    keys = keys_of(courses)
    if name in keys:
        return panel_of(name)
    raise RecipeError(
        f"plot: there is no panel {name!r}, and no step has a number of that name"
        f"{nearest(name, [*PANELS, *keys])}; there are {', '.join(PANELS)}, and the keys of metrics.jsonl"
    )


def _check(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        raise RecipeError(
            f"plot: there is no {what} {name!r}{nearest(name, known)}; there are {', '.join(known)}"
        )
