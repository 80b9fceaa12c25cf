"""Trackers never stop or hold up a run, get every number once, and are told of a resume what the folder holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Iterator

import pytest
import stub_tracker
from stub_tracker import Gate, StubTracker
from tracked_lives import FakeRun

from grpo.recipe import Recipe, RecipeError
from grpo.report.trackers import check_installed, delivery, history
from grpo.report.trackers.kept import FILE
from grpo.report.trackers.registry import KINDS, Kind, is_installed
from grpo.report.trackers.values import MAX_CELL

ASKED = "log.tensorboard=true"


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StubTracker]]:
    """The stub in place of TensorBoard."""
    monkeypatch.setitem(KINDS, "tensorboard", Kind("json", stub_tracker.__name__))
    monkeypatch.setattr(StubTracker, "opened", [])
    monkeypatch.setattr(StubTracker, "continues", True)
    monkeypatch.setattr(StubTracker, "before_log", staticmethod(lambda points: None))
    monkeypatch.setattr(StubTracker, "before_open", staticmethod(lambda opening: None))
    monkeypatch.setattr(delivery, "FIRST_PAUSE_SECONDS", 0.01)
    yield StubTracker


def run_at(folder: Path, *overrides: str, patience: float = 20.0) -> FakeRun:
    run = FakeRun(folder, ASKED, *overrides)
    run.trackers._patience_seconds = patience
    return run


def steps_of(tracker: StubTracker, key: str = "reward/mean") -> list[tuple[int, float]]:
    return [(point.step, point.values[key]) for point in tracker.points if key in point.values]


# ---- what they get --------------------------------------------------------------------------------------------


def test_a_tracker_gets_finite_numbers_bounded_tables_and_the_files_at_the_end(tmp_path, stub):
    run = run_at(tmp_path, "log.completions=3", "log.tags=[a, b]")
    run.open(0)
    run.live(0, 2, 0.5)
    (tmp_path / "report.html").write_text("<p>")
    run.trackers.close()
    (tracker,) = stub.opened
    assert tracker.opening.tags == ["a", "b"] and tracker.opening.config["steps"] == 100
    assert [set(point.values) for point in tracker.points] == [
        {"heldout/accuracy", "heldout/low", "heldout/high"},
        *[{"reward/mean", "metric/an odd (name)"}] * 2,
        {"heldout/accuracy", "heldout/low", "heldout/high"},
    ]
    names = [(table.name, table.step, len(table.rows)) for table in tracker.tables]
    assert names == [
        ("completions/heldout", 0, 3),
        ("completions/train", 1, 3),
        ("completions/train", 2, 3),
        ("completions/heldout", 2, 3),
    ]
    rewards = [row[5] for row in tracker.tables[1].rows]
    assert rewards == [0.5, 0.55, 0.61]  # the lowest, one between, the highest
    assert tracker.files == ["recipe.yaml", "report.html"] and tracker.failed is False


def test_secrets_are_hidden_in_what_trackers_get_and_long_texts_cut_in_the_middle(
    tmp_path, stub, monkeypatch
):
    monkeypatch.setenv("MY_API_KEY", "very-secret-value")
    run = run_at(tmp_path, "log.tags=[very-secret-value]")
    run.open(0)
    long = "a" * MAX_CELL + "very-secret-value" + "z" * MAX_CELL
    run.trackers.step({"step": 1}, [{"completion": "the key is very-secret-value"}])
    run.trackers.step({"step": 2}, [{"completion": long, "parts": {"correct": 1.0}}])
    run.trackers.close()
    (tracker,) = stub.opened
    assert tracker.opening.tags == ["[hidden]"]
    assert tracker.tables[0].rows[0][4] == "the key is [hidden]"
    cut = tracker.tables[1].rows[0][4]
    assert cut.startswith("aaa") and cut.endswith("zzz") and len(cut) < MAX_CELL + 50
    assert tracker.tables[1].rows[0][-1] == '{"correct": 1.0}'


def test_without_completions_there_are_no_tables(tmp_path, stub):
    run = run_at(tmp_path, "log.completions=0")
    run.open(0)
    run.live(0, 2, 0.5)
    run.trackers.close()
    assert stub.opened[0].tables == [] and len(stub.opened[0].points) == 4


# ---- what fails -----------------------------------------------------------------------------------------------


def test_what_fails_for_a_while_comes_later_in_order_and_is_said_once(tmp_path, stub, monkeypatch):
    failures = iter([OSError("no route")] * 3)

    def away(points: Any) -> None:
        for error in failures:
            raise error

    monkeypatch.setattr(StubTracker, "before_log", staticmethod(away))
    run = run_at(tmp_path)
    run.open(0)
    run.live(0, 4, 0.5)
    run.trackers.close()
    assert [step for step, _ in steps_of(stub.opened[0])] == [1, 2, 3, 4]
    warnings = [line for line in run.said if "warning" in line]
    assert warnings == ["warning: tensorboard: no route; the run goes on, and tries again"]
    kept = json.loads((tmp_path / FILE).read_text())["tensorboard"]
    assert kept["closed_step"] == 4 and kept["evaluated_step"] == 4


def test_what_fails_for_good_is_left_out_and_the_next_life_brings_it(tmp_path, stub, monkeypatch):
    def broken(points: Any) -> None:
        raise ValueError("not taken")

    monkeypatch.setattr(StubTracker, "before_log", staticmethod(broken))
    run = run_at(tmp_path, patience=0.05)
    run.open(0)
    run.live(0, 2, 0.5)
    run.trackers._patience_seconds = 20
    run.trackers.close()
    assert stub.opened[0].points == [] and stub.opened[0].failed is False
    assert sum("warning: tensorboard: not taken" in line for line in run.said) == 1
    monkeypatch.setattr(StubTracker, "before_log", staticmethod(lambda points: None))
    run = run_at(tmp_path)
    run.open(2)
    run.trackers.close()
    assert steps_of(stub.opened[1]) == [(1, 0.5), (2, 0.5)]


def test_a_tracker_that_hangs_holds_neither_a_step_nor_the_end(tmp_path, stub, monkeypatch):
    gate = Gate()
    monkeypatch.setattr(StubTracker, "before_log", staticmethod(gate))
    monkeypatch.setattr(delivery, "MAX_WAITING", 5)
    run = run_at(tmp_path, patience=0.2)
    run.open(0)
    run.live(0, 1, 0.5)
    assert gate.reached.wait(60)
    run.live(1, 6, 0.5)
    run.trackers.close()
    gate.open()
    behind, stuck = [line for line in run.said if "warning" in line]
    assert behind.startswith("warning: tensorboard: it is too far behind; the run goes on")
    assert stuck.startswith("warning: tensorboard took nothing for 0.2 s at the end of the run")
    assert json.loads((tmp_path / FILE).read_text())["tensorboard"]["closed_step"] is None


def test_a_tracker_that_refuses_a_new_run_ends_it_before_any_work(tmp_path, monkeypatch):
    def refuses(opening: Any) -> None:
        raise ConnectionError("there is no server at x")

    monkeypatch.setattr(StubTracker, "before_open", staticmethod(refuses))
    with pytest.raises(RecipeError, match="recipe: log.tensorboard: there is no server at x; mend"):
        run_at(tmp_path).open(0)


def test_a_tracker_that_is_away_at_a_resume_is_done_without(tmp_path, stub, monkeypatch):
    first = run_at(tmp_path)
    first.open(0)
    first.live(0, 2, 0.5)
    first.trackers.close()

    def refuses(opening: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(StubTracker, "before_open", staticmethod(refuses))
    second = run_at(tmp_path)
    second.open(2)
    second.live(2, 4, 0.5)
    second.trackers.close()
    assert second.said == [
        "warning: tensorboard: away; the run goes on without it, and resumed later it brings it up to date"
    ]
    monkeypatch.setattr(StubTracker, "before_open", staticmethod(lambda opening: None))
    third = run_at(tmp_path)
    third.open(4)
    third.trackers.close()
    assert [step for step, _ in steps_of(stub.opened[-1])] == [1, 2, 3, 4]


def test_a_tracker_that_answers_late_at_a_resume_gets_everything(tmp_path, stub, monkeypatch):
    first = run_at(tmp_path)
    first.open(0)
    first.live(0, 2, 0.5)  # and is killed: never closed
    gate = Gate()
    monkeypatch.setattr(StubTracker, "before_open", staticmethod(gate))
    second = run_at(tmp_path, patience=0.05)
    second.open(2)
    second.live(2, 4, 0.75)
    gate.open()
    second.trackers._patience_seconds = 20
    second.trackers.close()
    assert "has not answered for 0.05 s" in second.said[0]
    assert steps_of(stub.opened[-1]) == [(1, 0.5), (2, 0.5), (3, 0.75), (4, 0.75)]


# ---- resumes --------------------------------------------------------------------------------------------------


def test_a_run_closed_in_peace_goes_on_where_it_was_and_no_evaluation_comes_twice(tmp_path, stub):
    first = run_at(tmp_path)
    first.open(0)
    first.live(0, 2, 0.5)
    first.trackers.close()
    second = run_at(tmp_path)
    second.open(2, evaluation_due=True)
    second.evaluate(2, 0.5)
    second.live(2, 4, 0.5)
    second.trackers.close()
    before, after = stub.opened
    assert after.id == before.id and not after.is_new
    both = [*before.points, *after.points]
    evaluated = [point.step for point in both if "heldout/low" in point.values]
    stepped = [point.step for point in both if "reward/mean" in point.values]
    assert (evaluated, stepped) == ([0, 2, 4], [1, 2, 3, 4])
    tables = [(table.name, table.step) for table in [*before.tables, *after.tables]]
    assert len(set(tables)) == len(tables) == 7


def test_a_tracker_that_begins_anew_gets_the_evaluation_that_is_due(tmp_path, stub, monkeypatch):
    first = run_at(tmp_path)
    first.open(0)
    first.live(0, 2, 0.5)
    first.trackers.close()
    for name in (
        "metrics.jsonl",
        "evaluations.jsonl",
    ):  # cut back to before the evaluation of step 2
        lines = (tmp_path / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if "heldout" not in line or '"step": 2' not in line]
        (tmp_path / name).write_text("".join(kept))
    monkeypatch.setattr(StubTracker, "continues", False)
    second = run_at(tmp_path)
    second.open(2, evaluation_due=True)
    second.evaluate(2, 0.5)
    second.trackers.close()
    after = stub.opened[1]
    assert steps_of(after, "heldout/low") == [(0, 0.125), (2, 0.375)]
    assert [step for step, _ in steps_of(after)] == [1, 2]


@pytest.mark.parametrize("closed", [True, False])
def test_a_resume_from_an_older_step_gives_the_history_of_the_folder(tmp_path, stub, closed):
    first = run_at(tmp_path)
    first.open(0)
    first.live(0, 5, 0.25)
    if closed:
        first.trackers.close()
    second = run_at(tmp_path)
    second.cut_back(2)
    second.open(2)
    second.live(2, 6, 0.75)
    second.trackers.close()
    after = stub.opened[1]
    assert after.opening.former == stub.opened[0].id and after.opening.may_delete
    assert not after.opening.may_continue
    assert steps_of(after) == [(1, 0.25), (2, 0.25), *[(step, 0.75) for step in (3, 4, 5, 6)]]
    assert [step for step, _ in steps_of(after, "heldout/low")] == [0, 2, 4, 6]
    dates = [point.when for point in after.points]
    assert dates == sorted(dates)
    assert [table.step for table in after.tables] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]


def test_a_copy_of_a_run_folder_leaves_the_run_of_the_original_alone(tmp_path, stub):
    first = run_at(tmp_path / "a")
    first.folder.mkdir()
    first.open(0)
    first.live(0, 2, 0.5)
    first.trackers.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = run_at(tmp_path / "b")
    copy.open(2)
    copy.trackers.close()
    assert not stub.opened[1].opening.may_delete and not stub.opened[1].opening.may_continue


def test_the_id_in_a_checkpoint_counts_where_the_folder_does_not_know_it(tmp_path, stub):
    run = run_at(tmp_path)
    run.trackers.former_ids = {"tensorboard": "old", "wandb": "other"}
    run.open(0)
    assert run.trackers.ids == {"tensorboard": "old"}
    run.trackers.close()
    opening = stub.opened[0].opening
    assert (opening.former, opening.may_continue, opening.may_delete) == ("old", False, False)


def test_tables_of_the_last_completions_alone_are_brought_to_a_tracker_that_begins_anew(
    tmp_path, stub, monkeypatch
):
    first = run_at(tmp_path)
    first.open(0)
    first.live(0, 6, 0.5)
    size = (tmp_path / "samples.jsonl").stat().st_size
    monkeypatch.setattr(history, "LAST_BYTES", size // 2 - 10)
    second = run_at(tmp_path)
    second.open(6)
    second.trackers.close()
    tables = [table for table in stub.opened[1].tables if table.name == "completions/train"]
    assert [(table.step, len(table.rows)) for table in tables] == [(5, 8), (6, 8)]
    assert [step for step, _ in steps_of(stub.opened[1])] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["", "[]", '{"tensorboard": 3}', '{"tensorboard": {"ID": 1}}'])
def test_a_damaged_file_of_ids_costs_the_ids_alone(tmp_path, stub, text):
    (tmp_path / FILE).write_text(text)
    run = run_at(tmp_path)
    run.open(0)
    run.trackers.close()
    assert stub.opened[0].opening.former is None


# ---- what is installed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_with_the_command(name, monkeypatch):
    monkeypatch.setitem(KINDS, name, Kind("not_installed_anywhere", "x"))
    with pytest.raises(
        RecipeError, match=rf"recipe: log\.{name} needs .* pip install '.*\[{name}\]'"
    ):
        check_installed(Recipe.from_mapping({}, f"log.{name}=true").log)
    check_installed(Recipe.from_mapping({}, f"log.{name}=false").log)


def test_a_folder_that_a_tracker_left_is_not_taken_for_its_package(tmp_path, monkeypatch):
    (tmp_path / "not_a_package").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("not_a_package") and is_installed("json")
