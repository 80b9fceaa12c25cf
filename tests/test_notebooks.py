"""The notebooks run from top to bottom with small settings and show what they say they show."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
SMALL = [
    "steps=4",
    "sample.prompts=4",
    "sample.group_size=4",
    "sample.max_tokens=70",
    "data.held_out=8",
    "evaluate.samples=2",
]


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / name, as_version=4)


def parameters(notebook: NotebookNode) -> NotebookNode:
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def execute(name: str, settings: str) -> NotebookNode:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        notebook = read(name)
        parameters(notebook).source = settings
        place = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=250, resources=place).execute()
        return notebook

    return execute


def shown(notebook: NotebookNode, kind: str) -> Iterator[str]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                yield output.data[kind]


def titles(notebook: NotebookNode) -> list[str]:
    """The bold beginnings of the cards that are shown."""
    cards = (
        re.match(r"<div[^>]*><div[^>]*><b>(\w+)</b>", html) for html in shown(notebook, "text/html")
    )
    return [card.group(1) for card in cards if card]


def num_plots(notebook: NotebookNode) -> int:
    plots = [base64.b64decode(picture) for picture in shown(notebook, "image/png")]
    assert all(len(plot) > 10_000 for plot in plots)
    return len(plots)


@pytest.mark.slow
def test_the_quickstart_shows_recipe_groups_evaluations_and_the_run(executed) -> None:
    notebook = executed("01_quickstart.ipynb", f"OVERRIDES = {SMALL}")
    assert titles(notebook) == [
        *("Recipe", "Evaluation", "ScoredGroup", "Trainer", "Evaluation"),
        *("ScoredGroup", "ScoredGroup"),
    ]
    assert num_plots(notebook) == 1
    trainer = next(html for html in shown(notebook, "text/html") if "<b>Trainer</b>" in html)
    assert "2 of 4 steps" in trainer
    assert any(text.startswith("ScoredGroup(train-") for text in shown(notebook, "text/plain"))
    assert "'summary.json'" in list(shown(notebook, "text/plain"))[-1]


@pytest.mark.slow
def test_a_reward_of_the_readers_own_is_trained_on_and_one_that_fails_is_a_fault(executed) -> None:
    notebook = executed("02_your_own_reward.ipynb", f"OVERRIDES = {SMALL}")
    assert titles(notebook) == ["ScoredGroup", "Evaluation", "Evaluation", "ScoredGroup"]
    assert num_plots(notebook) == 1
    first, *_, last = shown(notebook, "text/html")
    assert "brief</th>" in first and "correct</th>" in first
    assert "cannot read" in last and "brittle</th>" in last
    ledger = list(shown(notebook, "text/plain"))[-1]
    assert int(re.findall(r"'faulted': (\d+)", ledger)[0]) > 0


def test_the_committed_runs_can_be_read(executed) -> None:
    runs = ROOT / "examples" / "runs" / "quickstart"
    others = [str(runs / "seed-1"), str(runs / "seed-2")]
    notebook = executed(
        "03_reading_a_run.ipynb", f"RUN = {str(runs / 'seed-0')!r}\nOTHERS = {others}"
    )
    assert num_plots(notebook) == 3
    tables = list(shown(notebook, "text/html"))
    assert len(tables) == 6 and "0.335" in tables[0] and "answer (" in tables[2]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_output_and_names_its_parameters(name: str) -> None:
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert code[0] == parameters(notebook)
    for target in re.findall(r"\]\(([^)]+)\)", "".join(cell.source for cell in notebook.cells)):
        assert (FOLDER / target).exists(), target
