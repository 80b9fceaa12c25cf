"""Plots of run folders: what is drawn is what the files hold, under way, resumed, and over each other."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import grpo
from grpo.recipe import RecipeError
from grpo.report.folder import RunFolder
from grpo.report.plots.curves import PANELS, Course, accuracy_lines


def step(number: int, reward: float, **other: Any) -> dict[str, Any]:
    record = {"step": number, "reward/mean": reward, "completion/length": 10.0 * number}
    record |= {"completion/tokens": 100, "seconds/step": 2.0, "group/flat": 0.25}
    return {**record, "policy/drift": 1e-6, "policy/entropy": None, **other}


def evaluated(number: int, accuracy: float, name: str = "heldout") -> dict[str, Any]:
    figures = {"accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}
    return {"step": number} | {f"{name}/{key}": value for key, value in figures.items()}


def run(folder: Path, *records: dict[str, Any], end: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("name: mine\nsteps: 9\n")
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "metrics.jsonl").write_text("".join(lines) + end)
    return folder


def drawn(figure: Any, title: str) -> list[list[tuple[float, float]]]:
    """The points of the lines under a title."""
    [axis] = [axis for axis in figure.axes if axis.get_title() == title]
    return [list(zip(*line.get_data())) for line in axis.get_lines()]


def titles(figure: Any) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_visible()]


def test_a_run_under_way_is_drawn_as_far_as_it_is_written(tmp_path: Path) -> None:
    records = [evaluated(0, 0.3), step(1, 0.4), step(2, 0.5), evaluated(2, 0.6)]
    figure = grpo.plot(run(tmp_path / "a", *records, end='{"step": 3, "rewa'))
    assert figure.get_suptitle() == "mine: step 2 of 9"
    assert drawn(figure, PANELS["reward"].title) == [[(1, 0.4), (2, 0.5)]]
    assert drawn(figure, PANELS["accuracy"].title) == [[(0, 0.3), (2, 0.6)]]
    assert PANELS["entropy"].title not in titles(figure)  # no step has it


def test_accuracy_is_drawn_with_its_interval_for_each_set(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", evaluated(0, 0.3) | evaluated(0, 0.8, "eval/test"), step(1, 0.4))
    held_out, test = accuracy_lines(Course.of(RunFolder(folder)))
    assert (held_out.label, test.label) == ("held-out", "test")
    assert (held_out.low, held_out.high) == ([pytest.approx(0.2)], [pytest.approx(0.4)])
    figure = grpo.plot(folder, panels=["accuracy"])
    assert len(figure.axes[0].collections) == 2  # a band each


def test_steps_that_a_resume_undid_are_not_drawn(tmp_path: Path) -> None:
    records = [step(1, 0.1), step(2, 0.2), step(3, 0.3), step(2, 0.7)]
    figure = grpo.plot(run(tmp_path / "a", *records), panels=["reward"])
    assert drawn(figure, PANELS["reward"].title) == [[(1, 0.1), (2, 0.7)]]


def test_tokens_and_seconds_are_summed_up_over_steps(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", evaluated(0, 0.3), step(1, 0.4), step(2, 0.5), evaluated(2, 0.6))
    for over, positions in (("tokens", (0, 100, 200)), ("seconds", (0, 2, 4))):
        course = Course.of(RunFolder(folder), over)
        assert tuple(map(course.at, range(3))) == positions
        figure = grpo.plot(folder, over=over, panels=["accuracy"])
        assert drawn(figure, PANELS["accuracy"].title) == [[(0, 0.3), (positions[2], 0.6)]]


def test_a_noisy_line_is_faint_under_the_mean_of_its_neighbours(tmp_path: Path) -> None:
    records = [step(number, number % 2) for number in range(1, 41)]
    noisy, mean = drawn(
        grpo.plot(run(tmp_path / "a", *records), panels=["reward"]), "training reward"
    )
    assert noisy[20] == (21, 1) and mean[20] == (21, pytest.approx(3 / 5))


def test_runs_are_drawn_over_each_other_under_their_folders_names(tmp_path: Path) -> None:
    folders = [run(tmp_path / name, step(1, reward)) for name, reward in (("a", 0.1), ("b", 0.2))]
    figure = grpo.plot(*folders, panels=["reward"])
    assert drawn(figure, "training reward")[:2] == [[(1, 0.1)], [(1, 0.2)]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a", "b"]


def test_any_key_of_the_steps_is_a_panel(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", step(1, 0.4, **{"rewards/mine/retries": 2.5}))
    figure = grpo.plot(folder, panels=["rewards/mine/retries"])
    assert drawn(figure, "rewards/mine/retries") == [[(1, 2.5)]]


def test_supervised_fine_tuning_is_drawn_by_its_losses(tmp_path: Path) -> None:
    losses = {"heldout/loss": 2.0, "heldout/loss_low": 1.5, "heldout/loss_high": 2.5}
    records = [
        {"step": 0} | losses,
        *({"step": at, "update/loss": 3 - at, "update/made": 1} for at in (1, 2)),
    ]
    figure = grpo.plot(run(tmp_path / "a", *records))
    assert titles(figure) == [PANELS["held_out_loss"].title, PANELS["loss"].title]
    assert drawn(figure, PANELS["loss"].title) == [[(1, 2), (2, 1)]]
    assert drawn(figure, PANELS["held_out_loss"].title) == [[(0, 2.0)]]
    trained = step(1, 0.5, **{"update/loss": 1e-9, "update/made": 1})
    assert PANELS["loss"].title not in titles(grpo.plot(run(tmp_path / "b", trained)))


def test_a_run_without_a_step_is_an_empty_figure_that_says_so(tmp_path: Path) -> None:
    figure = grpo.plot(run(tmp_path / "a"))
    assert "no step is written yet" in [text.get_text() for text in figure.texts]
    assert titles(figure) == []


def test_a_mismatch_of_zero_and_one_that_is_not_known_leave_a_gap(tmp_path: Path) -> None:
    drifts = (0.0, None, 0.0)
    records = [step(at, 0.1, **{"policy/drift": drift}) for at, drift in enumerate(drifts, 1)]
    figure = grpo.plot(run(tmp_path / "a", *records), panels=["mismatch"])
    [line] = drawn(figure, PANELS["mismatch"].title)
    assert line[0] == (1, 0.0) and math.isnan(line[1][1])
    figure.savefig(tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_a_notebook_shows_the_figure_at_half_the_size_of_its_pixels(tmp_path: Path) -> None:
    figure = grpo.plot(run(tmp_path / "a", step(1, 0.4)), panels=["reward"], dark=True)
    picture, size = figure._repr_png_()
    assert picture.startswith(b"\x89PNG")
    pixels = [int.from_bytes(picture[at : at + 4], "big") for at in (16, 20)]
    assert pixels == [
        pytest.approx(2 * size["width"], abs=1),
        pytest.approx(2 * size["height"], abs=1),
    ]
    assert sum(figure.get_facecolor()[:3]) < 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"panels": ["acuracy"]}, "no panel 'acuracy'.*did you mean accuracy"),
        ({"panels": ["policy/drft"]}, "did you mean policy/drift"),
        ({"over": "token"}, "no axis 'token'; did you mean tokens"),
    ],
)
def test_what_is_not_there_to_draw_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        grpo.plot(run(tmp_path / "a", step(1, 0.4)), **options)


def test_a_folder_without_a_run_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="it is not a run's"):
        grpo.plot(tmp_path)
    with pytest.raises(RecipeError, match="no run is given"):
        grpo.plot()


def test_plotting_needs_matplotlib_alone_and_says_so_where_it_is_missing(tmp_path: Path) -> None:
    run(tmp_path / "a", step(1, 0.4))
    script = (
        "import sys, grpo\n"
        "sys.modules['matplotlib'] = None  # as if it were not installed\n"
        "try:\n    grpo.plot('a')\n"
        "except grpo.RecipeError as error:\n    print(error)\n"
        "del sys.modules['matplotlib']\n"
        "grpo.plot('a').savefig('plot.png')\n"
        "print({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    sentence = "plot: the package matplotlib is not installed; pip install matplotlib"
    assert done.stdout.splitlines() == [sentence, "set()"]
    assert (tmp_path / "plot.png").stat().st_size > 1000
