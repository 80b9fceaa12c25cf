"""A run folder reads as one true history: half lines, resumes and runs that broke off included."""

import json
from pathlib import Path

import pytest

from grpo.recipe import RecipeError
from grpo.report.folder import RunFolder, points_in_summary
from grpo.run.folder import lock


def write(folder: Path, name: str, *records: object, end: str = "") -> RunFolder:
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / name).write_text(text + end)
    return RunFolder(folder)


def step(number: int, reward: float) -> dict[str, float]:
    return {"step": number, "reward/mean": reward}


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    run = write(tmp_path, "metrics.jsonl", step(1, 0.5), end='{"step": 2, "rewa')
    assert run.steps() == [step(1, 0.5)]


def test_what_a_resume_from_an_older_step_undid_does_not_count(tmp_path: Path) -> None:
    evaluation = {"step": 2, "heldout/accuracy": 0.25}
    first = [step(1, 0.1), step(2, 0.2), evaluation, step(3, 0.3)]
    run = write(tmp_path, "metrics.jsonl", *first, step(2, 0.7))
    assert run.metrics() == [step(1, 0.1), step(2, 0.7)]


def test_two_evaluations_of_a_step_that_hold_different_numbers_both_count(tmp_path: Path) -> None:
    trained = {"step": 1, "update/loss": 0.5, "update/made": 1}
    loss = {"step": 1, "heldout/loss": 2.0}
    accuracy = {"step": 1, "heldout/accuracy": 0.25}
    run = write(tmp_path, "metrics.jsonl", trained, loss, accuracy, loss | {"heldout/loss": 1.5})
    assert run.steps() == [trained]
    assert run.metrics() == [trained, accuracy, {"step": 1, "heldout/loss": 1.5}]


def test_an_evaluation_made_again_replaces_the_first_and_keeps_the_step(tmp_path: Path) -> None:
    first = {"step": 1, "heldout/accuracy": 0.25}
    again = {"step": 1, "heldout/accuracy": 0.5}
    run = write(tmp_path, "metrics.jsonl", step(1, 0.1), first, again)
    assert run.metrics() == [step(1, 0.1), again]


def test_an_evaluation_of_several_sets_and_sources_is_one_point_each(tmp_path: Path) -> None:
    record = {
        "step": 4,
        "heldout/accuracy": 0.5,
        "heldout/low": 0.4,
        "heldout/easy/accuracy": None,
        "eval/gsm8k/accuracy": 0.75,
    }
    points = write(tmp_path, "metrics.jsonl", record).points()
    assert [(point.set, point.source, dict(point.figures)) for point in points] == [
        ("heldout", "", {"accuracy": 0.5, "low": 0.4}),
        ("heldout", "easy", {"accuracy": None}),
        ("gsm8k", "", {"accuracy": 0.75}),
    ]


def test_the_state_is_read_from_summary_lock_and_last_words(tmp_path: Path) -> None:
    run = write(tmp_path, "metrics.jsonl", step(1, 0.5))
    (tmp_path / "recipe.yaml").write_text("name: mine\nsteps: 3\n")
    assert run.name == "mine"
    held = lock(tmp_path)
    assert run.state().name == "running"
    held.close()
    assert run.state().name == "stopped"
    (tmp_path / "console.log").write_text("--- once\nstep 1\nstopped: the disk is full; intact\n")
    assert (run.state().name, run.state().reason) == ("failed", "the disk is full; intact")
    write(tmp_path, "summary.json", {"steps": 3})
    assert run.state().name == "finished"


def test_what_is_no_run_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds neither recipe.yaml nor metrics.jsonl"):
        RunFolder.at(tmp_path)
    with pytest.raises(RecipeError, match="there is no folder"):
        RunFolder.at(tmp_path / "missing")


def test_a_summary_stands_in_where_no_evaluation_was_recorded(tmp_path: Path) -> None:
    figures = {"step": 0, "accuracy": 0.25, "low": 0.2, "high": 0.3}
    after = {**figures, "step": 9, "accuracy": 0.5}
    summary = {
        "before": figures,
        "after": after,
        "sets": {"gsm8k": {"before": None, "after": after}},
    }
    points = points_in_summary(summary)
    assert [(point.step, point.set) for point in points] == [
        (0, "heldout"),
        (9, "heldout"),
        (9, "gsm8k"),
    ]
    assert points[1].figures["accuracy"] == 0.5
