"""What a whole run records of itself, over a fault and a resume."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sft_runs
from quick_runs import ROOT, recipe, run

from grpo import Trainer
from grpo.cli import main
from grpo.cost.book import RunCosts, read_costs


def costs_of(folder: Path) -> RunCosts:
    costs = read_costs(folder)
    assert costs is not None
    return costs


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that broke off in its fourth step and went on from the checkpoint of the second; its seconds by the clock."""
    folder = tmp_path_factory.mktemp("run") / "cut"
    begun = time.perf_counter()
    trainer = Trainer(recipe(folder), quiet=True)
    with pytest.raises(RuntimeError, match="no more"), pytest.MonkeyPatch.context() as monkeypatch:
        for record in trainer:
            if record["step"] == 3:
                monkeypatch.setattr(trainer, "_make_batch", _fails)
    run(folder, "cost.price_per_hour.machine=3.6", resume=True, quiet=True)
    return folder, time.perf_counter() - begun


def _fails(*arguments: object) -> None:
    raise RuntimeError("no more")


def test_the_phases_of_all_attempts_sum_to_the_time_on_the_clock(
    resumed: tuple[Path, float],
) -> None:
    folder, seconds = resumed
    costs = costs_of(folder)
    assert list(costs.phases) == [
        "load",
        "evaluate",
        "sample",
        "judge",
        "update",
        "save",
        "report",
        "other",
        "waiting",
    ]
    assert costs.attempts == 2 and costs.cut_off == 0
    assert 0.9 * seconds < costs.total.wall <= seconds
    assert costs.phases["other"].wall < 0.2 * costs.total.wall
    assert costs.total.children > 0 and costs.total.gpu == 0


def test_the_time_of_the_steps_is_in_the_phases(resumed: tuple[Path, float]) -> None:
    folder, _ = resumed
    costs = costs_of(folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for phase in ("sample", "judge", "update"):
        of_steps = sum(record.get(f"seconds/{phase}", 0.0) for record in records)
        assert costs.phases[phase].wall >= 0.9 * of_steps - 0.05, phase


def test_a_step_that_is_made_again_is_paid_twice_and_said_once(resumed: tuple[Path, float]) -> None:
    folder, _ = resumed
    costs = costs_of(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert costs.repeated.steps == 1
    again = costs.repeated.tokens
    kept = {kind: costs.tokens[kind] - again[kind] for kind in ("sampled", "trained", "evaluated")}
    assert kept == summary["tokens"] and again["sampled"] > 0
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    prompts = {(row["step"], row["prompt_id"]): row["prompt"] for row in rows}
    assert costs.tokens["prompt"] - again["prompt"] >= len(prompts)


def test_the_summary_has_the_whole_account_at_the_recipes_price(
    resumed: tuple[Path, float],
) -> None:
    folder, _ = resumed
    costs = costs_of(folder)
    found = json.loads((folder / "summary.json").read_text())["cost"]
    assert found["total"]["wall_seconds"] == round(costs.total.wall, 3)
    assert found["total"]["money"] == pytest.approx(costs.total.wall / 1000, abs=1e-6)
    assert found["repeated"]["steps"] == 1 and found["currency"] == "USD"


def test_the_command_shows_runs_by_phase_and_their_sum(
    resumed: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = resumed
    old = ROOT / "examples" / "runs" / "quickstart" / "seed-0"
    assert main(["cost", str(folder), str(old), "--price", "cpu=0.5"]) == 0
    out = capsys.readouterr().out
    assert "2 attempts, 1 process, no GPU" in out and "1 whole step" in out
    assert "costs were not recorded" in out and "\nall " in out
    (last,) = (line.split() for line in out.splitlines() if line.startswith(f"{old} "))
    assert last[-3:] == ["-", "-", "-"]
    assert "147,000 H800 hours, $294K" in out and "left out: " in out
    assert main(["cost", str(folder), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["all"]["total"]["wall_seconds"] == values["runs"][0]["total"]["wall_seconds"] > 0
    assert values["runs"][0]["price_per_hour"] == {"machine": 3.6}
    assert main(["cost", str(folder.parent / "nothing")]) == 2


def test_a_folder_with_stages_is_shown_stage_by_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    for number, name in enumerate(("warm", "grow")):
        stage = whole / "stages" / name
        stage.mkdir(parents=True)
        (stage / "recipe.yaml").write_text("steps: 3\n")
        (stage / "costs.jsonl").write_text(
            json.dumps(
                {
                    "event": "end",
                    "attempt": name,
                    "step": 3,
                    "at": float(number),
                    "rank": 0,
                    "world": 1,
                    "devices": 2,
                    "phases": {"sample": {"wall": 1800.0 * (number + 1)}},
                    "tokens": {},
                }
            )
            + "\n"
        )
    (whole / "recipe.yaml").write_text("name: whole\n")
    assert main(["cost", str(whole), "--price", "gpu=2.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (last,) = (line.split() for line in lines if line.startswith("all "))
    assert last == ["all", "1.50", "1.50", "0.00", "3.00", "6.00"]
    rows = [line.split()[0] for line in lines if line.startswith(str(whole)) and line[-1].isdigit()]
    assert [Path(row).name for row in rows] == ["warm", "grow"]


def test_supervised_training_counts_what_it_reads_and_learns(tmp_path: Path) -> None:
    trainer = sft_runs.run(tmp_path / "run", "epochs=1")
    costs = costs_of(tmp_path / "run")
    read = sum(len(example.prompt.token_ids) for example in trainer.inputs.examples.train)
    learnt = sum(example.num_learnt for example in trainer.inputs.examples.train)
    assert (costs.tokens["prompt"], costs.tokens["trained"]) == (read - learnt, learnt)
    assert costs.phases["update"].wall > 0 and "sample" not in costs.phases


@pytest.mark.slow
def test_a_run_that_is_killed_at_once_has_an_account_that_its_resume_adds_to(
    tmp_path: Path,
) -> None:
    """Killed by SIGKILL in a step, at a moment of the clock; the first attempt's account stands as it was written."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "grpo.train", "quickstart", "steps=6", "checkpoint.every=2"]
    command += [
        "sample.prompts=4",
        "data.held_out=4",
        "evaluate.every=0",
        f"run_dir={folder}",
        "-q",
    ]
    child = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and child.poll() is None:
        costs = read_costs(folder)
        if costs is not None and costs.tokens["sampled"] and _steps(folder) >= 3:
            break
        time.sleep(0.02)
    child.kill()
    child.wait()
    first = costs_of(folder)
    assert first.cut_off == 1 and first.total.wall > 0
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True, timeout=250)
    whole = costs_of(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert whole.attempts == 2 and whole.total.wall > first.total.wall
    assert whole.repeated.spent.wall > 0
    again = whole.repeated.tokens["sampled"]
    assert whole.tokens["sampled"] - again == summary["tokens"]["sampled"]


def _steps(folder: Path) -> int:
    lines = (folder / "costs.jsonl").read_bytes().splitlines()
    return sum(b'"event": "step"' in line for line in lines)
