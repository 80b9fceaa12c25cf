"""The frame of `make evidence`, what its parts conclude from rows made by hand, and their code at tiny sizes."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import (
    code_tasks,
    cold_start,
    estimates,
    faults,
    frame,
    injections,
    page,
    peer,
    presets,
    program_solutions,
    smollm2,
    solvable_problems,
    versus,
    word_problem_rows,
    word_problems,
)
from benchmarks.evidence.frame import Part, Scale
from benchmarks.evidence.parts import PARTS

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "recipes" / "quickstart_base"


# ---- the frame --------------------------------------------------------------------------------------------------


def counting(name: str = "counted") -> Part:
    """A part whose answer is the sum of its seeds."""
    return Part(
        name=name,
        question="How much is it?",
        minutes="0",
        seeds=(0, 1, 2),
        jobs=lambda scale: [{"seed": seed} for seed in scale.seeds],
        run=lambda job, is_try: job["seed"],
        summarise=lambda rows: {"sum": sum(row["result"] for row in rows)},
        answer=lambda summary: f"it is {summary['sum']}",
        table=lambda summary: f"| {summary['sum']} |",
    )


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds whose process was run, in order."""
    seeds: list[int] = []

    def child(part: Part, job: Any, is_try: bool) -> dict[str, Any]:
        seeds.append(job["seed"])
        result = part.run(job, is_try)
        row = {"job": dict(job), "at": "2026-01-01", "load": 1.0, "seconds": 1, "cpu_seconds": 1}
        return {**row, "result": result, "machine": {"cpu": "one", "versions": {}}}

    monkeypatch.setattr(frame, "child", child)
    return seeds


def run(part: Part, folder: Path, *seeds: int, **options: Any) -> dict[str, Any]:
    file = frame.run_part(part, Scale(seeds), folder, say=lambda line: None, **options)
    return json.loads(file.read_text())


def test_what_has_a_result_is_not_run_again_unless_asked(tmp_path: Path, ran: list[int]) -> None:
    assert run(counting(), tmp_path, 0, 1)["summary"] == {"sum": 1}
    assert run(counting(), tmp_path, 0, 1, 2)["summary"] == {"sum": 3} and ran == [0, 1, 2]
    content = run(counting(), tmp_path, 1, again=True)
    assert ran == [0, 1, 2, 1] and [row["job"]["seed"] for row in content["rows"]] == [0, 2, 1]
    assert content["machines"] == [{"cpu": "one", "versions": {}}]
    assert {row["machine"] for row in content["rows"]} == {0}


def test_a_run_that_is_killed_loses_one_result_at_most(tmp_path: Path, ran: list[int]) -> None:
    def killed(job: Any, is_try: bool) -> int:
        if job["seed"] == 1:
            raise KeyboardInterrupt
        return job["seed"]

    with pytest.raises(KeyboardInterrupt):
        run(replace(counting(), run=killed), tmp_path, 0, 1, 2)
    content = frame.read(tmp_path / "counted.json")
    assert content is not None and [row["result"] for row in content["rows"]] == [0]
    assert not list(tmp_path.glob("*.writing"))
    run(counting(), tmp_path, 0, 1, 2)
    assert ran == [0, 1, 1, 2]


def test_a_run_without_a_result_is_kept_as_an_error_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[int]
) -> None:
    good = frame.child
    monkeypatch.setattr(
        frame,
        "child",
        lambda part, job, is_try: {
            "job": dict(job),
            "seconds": 1,
            "cpu_seconds": 1,
            "error": "Traceback\nValueError: no",
        },
    )
    content = run(counting(), tmp_path, 0)
    assert content["rows"][0]["error"].endswith("no") and content["summary"] == {}
    monkeypatch.setattr(frame, "child", good)
    content = run(counting(), tmp_path, 0)
    assert [row.get("result") for row in content["rows"]] == [0]


def test_at_most_so_many_runs_are_made_and_rows_of_others_stay(
    tmp_path: Path, ran: list[int]
) -> None:
    run(counting(), tmp_path, 0, 1, 2, most=2)
    assert ran == [0, 1]

    def meanwhile(job: Any, is_try: bool) -> int:
        run(counting(), tmp_path, 5)  # another process adds a row while this one runs
        return job["seed"]

    content = run(replace(counting(), run=meanwhile), tmp_path, 2)
    assert sorted(row["job"]["seed"] for row in content["rows"]) == [0, 1, 2, 5]


def test_runs_go_side_by_side_unless_they_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[int]
) -> None:
    together = threading.Barrier(2, timeout=60)

    def meets(job: Any, is_try: bool) -> int:
        together.wait()
        return job["seed"]

    content = run(replace(counting(), run=meets), tmp_path, 0, 1, workers=2)
    assert content["summary"] == {"sum": 1}
    running: list[int] = []

    def alone(job: Any, is_try: bool) -> int:
        running.append(job["seed"])
        assert len(running) == 1
        running.remove(job["seed"])
        return job["seed"]

    timed = replace(counting("timed"), run=alone, is_timed=True)
    assert run(timed, tmp_path, 0, 1, 2, workers=2)["summary"] == {"sum": 3}
    assert ran[2:] == [0, 1, 2]
    assert [name for name, part in PARTS.items() if part.is_timed] == ["quickstart", "smollm2_sums"]


def test_a_part_is_given_the_rows_of_the_parts_it_uses(tmp_path: Path, ran: list[int]) -> None:
    run(counting("first"), tmp_path, 7)
    assert run(replace(counting(), uses=("first",)), tmp_path, 1)["summary"] == {"sum": 8}


def test_the_machine_is_described_by_what_changes_numbers() -> None:
    found = frame.machine()
    assert found["versions"]["torch"] and found["cores"] == os.cpu_count()
    assert all(flag.startswith(frame.FLAGS) for flag in found["flags"])


def test_the_command_lists_the_parts_and_how_far_each_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.evidence", "--list", "--out", str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in said.splitlines()] == list(PARTS)
    assert "  0/10 " in said and len(said.splitlines()) == 7
    makefile = (ROOT / "Makefile").read_text()
    assert "\nevidence: " in makefile and "-m benchmarks.evidence $(ARGS)\n" in makefile


@pytest.mark.parametrize(
    "name", ["estimates", "faults", "frame", "program_solutions", "runs", "versus"]
)
def test_the_examples_of_docstrings_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"benchmarks.evidence.{name}"))
    assert found.attempted and not found.failed


# ---- the page ----------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_committed_results_give() -> None:
    written = page.PAGE.read_text(encoding="utf-8")
    assert page.text(frame.RESULTS, written) == written, "make evidence ARGS=--page writes it"
    for name, content in page.contents(frame.RESULTS).items():
        stored = frame.read(frame.RESULTS / f"{name}.json")
        assert stored is not None
        assert stored["summary"] == json.loads(json.dumps(content["summary"]))


def test_what_was_not_run_is_unmeasured_and_marks_are_asked_for(tmp_path: Path) -> None:
    said = page.text(tmp_path, page.PAGE.read_text(encoding="utf-8"))
    assert (
        said.count(f"| {page.UNMEASURED} | 0 |") == len(PARTS) and said.count("**Unmeasured**") == 7
    )
    with pytest.raises(ValueError, match="the marks of faults are missing"):
        page.put("nothing", "faults", "")


# ---- estimates ---------------------------------------------------------------------------------------------------


def test_an_interval_over_seeds_holds_the_mean_as_often_as_it_says() -> None:
    drawn = random.Random(0)
    held = 0
    for _ in range(2000):
        found = estimates.over_seeds([drawn.gauss(0.5, 0.1) for _ in range(4)])
        held += found["low"] <= 0.5 <= found["high"]
    assert 0.94 <= held / 2000 <= 0.96


def test_one_seed_has_no_interval_and_no_seed_in_common_no_difference() -> None:
    assert estimates.over_seeds([0.4])["low"] is None
    assert estimates.paired({0: 0.4}, {1: 0.5})["value"] is None
    assert estimates.paired({0: 0.4, 1: 0.5}, {0: 0.4, 1: 0.5})["p_value"] == 1.0
    assert estimates.points(estimates.paired({}, {})) == "unmeasured"


def test_holm_stops_at_the_first_that_does_not_count() -> None:
    assert estimates.holm({"a": 0.01, "b": 0.03, "c": 0.04}) == {"a"}
    assert estimates.holm({}) == set()


# ---- what parts conclude ------------------------------------------------------------------------------------------


def course(*points: tuple[float, float]) -> dict[str, Any]:
    return {
        "points": [
            {"step": 10 * number, "accuracy": accuracy, "cpu_seconds": seconds, "seconds": seconds}
            for number, (seconds, accuracy) in enumerate(points)
        ]
    }


def test_both_sides_are_compared_after_equal_seconds_and_trl_ahead_is_said() -> None:
    rows = []
    for seed, more in enumerate((0.0, 0.01, 0.02)):
        ours = course((0, 0.3), (10, 0.4 + more), (20, 0.5 + more))
        trl = course((0, 0.3), (5, 0.5 + more), (10, 0.6 + more))
        rows.append({"job": {"side": "ours", "seed": seed}, "result": ours})
        rows.append({"job": {"side": "trl", "seed": seed}, "result": trl})
    found = versus.summarise(replace_threshold(0.5), rows)
    last = found["equal"][-1]
    assert last["cpu_seconds"] == 10 and last["ours_ahead"]["value"] == pytest.approx(-0.2)
    assert versus.verdict(last["ours_ahead"]) == "TRL is ahead"
    assert "TRL is ahead" in versus.answer(found) and "TRL is ahead" in versus.table(found)
    assert found["ratio"]["value"] == pytest.approx(0.5)
    assert found["sides"]["trl"]["to_threshold"]["value"] == pytest.approx(
        (5 + 4.773 + 4.545) / 3, abs=0.01
    )


def replace_threshold(value: float) -> versus.Case:
    from benchmarks.evidence.quickstart import CASE

    return replace(CASE, threshold=value)


def test_a_side_alone_is_not_compared() -> None:
    rows = [{"job": {"side": "ours", "seed": 0}, "result": course((0, 0.3), (10, 0.6))}]
    found = versus.summarise(replace_threshold(0.9), rows)
    said = versus.answer(found)
    assert said == "this library alone: 60.0 % after 10.0 s; the comparison is unmeasured"
    assert "never" in versus.table(found) and "unmeasured" in versus.table(found)


def test_presets_are_ranked_only_where_seeds_allow_it() -> None:
    noise = {0: 0.001, 1: -0.001, 2: 0.0, 3: 0.0005, 4: -0.0005}
    clear = {seed: 0.6 + small for seed, small in noise.items()}
    worse = {seed: 0.5 - small for seed, small in noise.items()}
    vague = {0: 0.4, 1: 0.7, 2: 0.6, 3: 0.5, 4: 0.6}
    pairs = presets.told_apart({"worse": worse, "clear": clear, "vague": vague})
    assert pairs == [["clear", "worse"]]


def fault_row(
    fault: str | None, seed: int, accuracy: float | None, gate: str = ""
) -> dict[str, Any]:
    stopped = {"gate": gate, "step": 3, "says": ""} if gate else None
    job = {"seed": seed} if fault is None else {"fault": fault, "gates": "on", "seed": seed}
    evaluation = None if accuracy is None else {"accuracy": accuracy}
    result = {"evaluation": evaluation, "stopped": stopped, "alarms": [], "size": {}}
    result["size"] = {"problems": 8, "prompts": 8, "group": 4}
    result["accuracy"] = [] if accuracy is None else [0.5, accuracy]
    return {"job": job, "result": result}


def test_a_faults_row_names_its_gate_and_what_it_costs_against_the_right_run() -> None:
    rows = [fault_row(None, seed, 0.97 + seed / 1000) for seed in range(3)]
    rows += [fault_row("neighbour", seed, 0.30 + seed / 100) for seed in range(3)]
    rows += [fault_row("top_p", 0, None, gate="drift")]
    found = faults.summarise(rows)
    assert found["costly"] == ["neighbour"]
    assert found["faults"]["neighbour"]["lost"]["value"] == pytest.approx(-0.661)
    said = faults.table(found)
    assert "| `drift`, stop, step 3 | unmeasured |  | unmeasured | 1; accuracy 0 |" in said
    assert "the score of its neighbour in the group | none | 31.0 %" in said


# ---- faults, problems, rows -----------------------------------------------------------------------------------------


def test_patches_put_everything_back() -> None:
    class Place:
        kept = "class"

    place = Place()
    place.own = 1  # type: ignore[attr-defined]
    patches = injections.Patches()
    for value in (2, 3):
        patches.set(place, "own", value)
        patches.set(place, "kept", "changed")
    assert (place.own, place.kept) == (3, "changed")  # type: ignore[attr-defined]
    patches.undo()
    assert vars(place) == {"own": 1} and place.kept == "class"


def test_the_solvable_problems_are_in_the_range_and_of_the_task() -> None:
    from rewards.tasks import load_task

    content = json.loads(solvable_problems.FILE.read_text())
    rows = content["problems"]
    assert len(rows) == len({row["prompt"] for row in rows}) == solvable_problems.KEPT
    assert all(solvable_problems.LOW <= row["base"] <= solvable_problems.HIGH for row in rows)
    known = {row["prompt"] for row in load_task("countdown").rows(style="symbols")}
    assert {row["prompt"] for row in rows} <= known
    assert set(solvable_problems.problems(3)[0]) == {"prompt", "numbers", "target"}


def test_problems_are_chosen_by_their_share_of_right_completions() -> None:
    rows = [
        {"prompt_id": name, "columns": {"prompt": name}, "parts": {"correct": float(right)}}
        for name, rights in {"never": (0, 0), "half": (1, 0), "always": (1, 1)}.items()
        for right in rights
    ]
    chosen = solvable_problems.chosen(solvable_problems.shares(rows))
    assert chosen == [{"prompt": "half", "base": 0.5}]


def test_solutions_of_programs_pass_all_tests_and_held_out_ones_are_others() -> None:
    rows = program_solutions.trained(120)
    for row in rows:
        names: dict[str, Any] = {}
        exec(row["completion"].split("```python\n")[1].split("```")[0], names)
        inputs = row["inputs"] + row["hidden_inputs"]
        outputs = row["outputs"] + row["hidden_outputs"]
        assert [names["solve"](*given) for given in inputs] == outputs, row["prompt"]
    held_out = program_solutions.held_out(64)
    assert len(held_out) == 64 and "completion" not in held_out[0]
    assert not {row["prompt"] for row in held_out} & {row["prompt"] for row in rows}


def test_word_problems_are_answered_by_their_solutions_and_stories_are_apart() -> None:
    stories = word_problem_rows.TRAINED + word_problem_rows.HELD_OUT
    for row in word_problem_rows.rows(stories, 200, "test"):
        *lines, last = row["completion"].splitlines()
        for line in lines:
            left, _, right = line.partition(" = ")
            assert eval(left) == int(right), row
        assert last == f"#### {row['answer']}" and lines[-1].endswith(f"= {row['answer']}")
    assert not set(word_problem_rows.TRAINED) & set(word_problem_rows.HELD_OUT)
    assert "completion" not in word_problem_rows.held_out(3)[0]


@pytest.mark.parametrize("is_try", [False, True])
@pytest.mark.parametrize("name", ["word_problems", "code"])
def test_the_recipes_of_both_stages_and_of_evaluations_are_accepted(
    name: str, is_try: bool, tmp_path: Path
) -> None:
    from grpo import Recipe

    case = word_problems.CASE if name == "word_problems" else code_tasks.case()
    first = cold_start.sft_values(case, str(BASE), 0, place=tmp_path, is_try=is_try)
    assert Recipe.from_mapping(first).stage == "sft"
    held_out = tmp_path / "rows.jsonl"
    held_out.write_text("")
    asked = cold_start.evaluation_values(case, str(BASE), 0, held_out=held_out, is_try=is_try)
    assert Recipe.from_mapping(asked).data.source == str(held_out)
    for weights in case.lr:
        second = cold_start.grpo_values(
            case, str(BASE), 0, weights=weights, place=tmp_path, is_try=is_try
        )
        recipe = Recipe.from_mapping(second)
        assert (recipe.model.lora is not None) == (weights == "lora")
        assert list(recipe.rewards) == [case.reward]


# ---- the code, tried ------------------------------------------------------------------------------------------------


def tried(part: Part, job: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(smollm2.GIVEN, str(BASE))
    row = frame.child(part, job, True)
    assert "error" not in row, row["error"]
    return row


def has_trl() -> bool:
    return bool(os.environ.get("GRPO_TRL_PYTHON")) or (peer.FOLDER / ".stamp").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PARTS if name != "faults"])
def test_a_part_is_tried_from_its_first_run_to_its_table(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = PARTS[name]
    jobs = part.jobs(Scale(part.seeds[:1], True))
    if not has_trl():
        jobs = [job for job in jobs if job.get("side") != "trl"]
    rows = [tried(part, job, monkeypatch) for job in jobs]
    summary = json.loads(json.dumps(part.summarise(rows)))
    assert part.answer(summary) and part.table(summary).startswith("|")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [name for name in injections.FAULTS if name != injections.RIGHT])
def test_a_fault_is_put_in_and_named_by_the_gate_of_the_page(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = {"stale": "stale", "faults_masked": "faults"}
    row = tried(faults.PART, {"fault": fault, "gates": "on", "seed": 0}, monkeypatch)
    found = faults.named(row)
    if injections.FAULTS[fault].stops:
        assert found is not None and found["level"] == "stop"
        assert found["gate"] == gates.get(fault, "drift")
    else:
        assert row["result"]["evaluation"] is not None


@pytest.mark.slow
def test_a_part_is_tried_by_its_command_and_leaves_results_and_page_alone(tmp_path: Path) -> None:
    before = page.PAGE.read_bytes()
    command = [sys.executable, "-m", "benchmarks.evidence", "--try", "--only", "solvable"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["solvable.json"]
    assert page.PAGE.read_bytes() == before
