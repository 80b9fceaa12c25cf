"""Each tracker read back after a real kill and a resume from an older step: one run, every step once, nothing dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tracked_lives import DEAD, NAME, STEPS, TRUE

from grpo.report.trackers.registry import KINDS, is_installed

ROOT = Path(__file__).resolve().parents[4]
REWARD = [[1, DEAD], [2, DEAD], *[[step, TRUE] for step in range(3, STEPS + 1)]]
ACCURACY = [[0, DEAD / 2], [2, DEAD], [4, TRUE], [6, TRUE]]
LATER_REWARD = [[7, TRUE], [8, TRUE]]
LATER_ACCURACY = [[8, TRUE]]


def environment(folder: Path) -> dict[str, str]:
    """No network, no telemetry, nothing outside `folder`."""
    own = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HOME": str(folder),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": str(folder / "mlruns"),
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    return {**os.environ, **own}


def lives(name: str, folder: Path) -> dict[str, Any]:
    """What tracker `name` holds after each life of ``tracked_lives``."""
    if not is_installed(KINDS[name].package):
        pytest.skip(f"{KINDS[name].package} is not installed")
    script = ROOT / "tests" / "support" / "tracked_lives.py"
    asked = [f"log.{name}=true", "log.tags=[a, b]"]
    run = folder / "run"
    run.mkdir()
    done = subprocess.run(
        [sys.executable, str(script), name, str(run), *asked],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def the_only(held: dict[str, Any]) -> dict[str, Any]:
    (run,) = held.values()
    return dict(run)


def assert_is_true_history(run: dict[str, Any], reward: list[Any], accuracy: list[Any]) -> None:
    values = run["values"]
    assert sorted(values["reward/mean"]) == reward
    assert sorted(values["heldout/accuracy"]) == accuracy
    for bound, distance in (("low", -0.125), ("high", 0.125)):
        expected = [[step, value + distance] for step, value in accuracy]
        assert sorted(values[f"heldout/{bound}"]) == expected
    odd = [key for key in values if key.startswith("metric/")]
    names = {"reward/mean", "heldout/accuracy", "heldout/low", "heldout/high"}
    assert len(odd) == 1 and set(values) == {*names, *odd}
    assert sorted(run["tables"]["completions/train"]) == [[step, 8] for step, _ in reward]
    assert sorted(run["tables"]["completions/heldout"]) == [[step, 8] for step, _ in accuracy]


def check(name: str, folder: Path) -> dict[str, Any]:
    """What all trackers have in common; what they hold of the run in the end."""
    found = lives(name, folder)
    resumed = the_only(found["resumed"])
    assert_is_true_history(resumed, REWARD, ACCURACY)
    continued = the_only(found["continued"])
    assert_is_true_history(continued, REWARD + LATER_REWARD, ACCURACY + LATER_ACCURACY)
    assert not [line for line in found["said"] if "warning" in line]
    return found


def assert_the_dead_branch_was_there(killed: dict[str, Any]) -> None:
    assert sorted(the_only(killed)["values"]["reward/mean"]) == [[s, DEAD] for s in range(1, 6)]


@pytest.mark.slow
def test_wandb_offline_holds_one_true_history_in_one_file_under_one_id(tmp_path):
    found = check("wandb", tmp_path)
    run = the_only(found["continued"])
    ids = {
        name.rpartition("-")[2] for held in found.values() if held for name in held if "-" in name
    }
    assert len(ids - {""}) == 1
    assert run["files"] == ["recipe.yaml", "report.html"] and run["tags"] == ["a", "b"]
    assert run["name"] == NAME and run["config"]["steps"] == 100


def test_tensorboard_holds_one_true_history_with_bands_and_literal_text(tmp_path):
    found = check("tensorboard", tmp_path)
    assert_the_dead_branch_was_there(found["killed"])
    run = the_only(found["continued"])
    assert run["config"] == {"custom_scalars__config__": 1, "recipe": 1, "tags": 1}
    assert "    <script>alert(1)</script> | \\ud83d\n    second line" in run["cells"]


def test_trackio_holds_one_true_history_under_one_name(tmp_path):
    found = check("trackio", tmp_path)
    assert_the_dead_branch_was_there(found["killed"])
    run = the_only(found["continued"])
    assert run["name"] == NAME and list(found["killed"]) == list(found["continued"]) == [NAME]
    assert run["files"] == ["recipe.yaml", "report.html"] and run["tags"] == ["a", "b"]
    assert run["config"]["sample"]["prompts"] == 32


def test_mlflow_holds_one_true_history_and_goes_on_with_a_run_closed_in_peace(tmp_path):
    found = check("mlflow", tmp_path)
    assert_the_dead_branch_was_there(found["killed"])
    killed, resumed, continued = (set(found[life]) for life in ("killed", "resumed", "continued"))
    assert killed != resumed == continued
    run = the_only(found["continued"])
    assert run["name"] == NAME and run["status"] == "FINISHED"
    assert run["latest"]["reward/mean"] == TRUE
    assert run["files"] == ["recipe.yaml", "report.html"] and run["tags"] == ["a", "b", "replaces"]
    assert run["config"]["sample.prompts"] == "32" and run["config"]["loss.preset"] == "grpo"


def test_event_files_on_a_disk_that_fills_up_hold_every_record_that_was_taken(tmp_path):
    """The disk is a limit on the size of files, lifted again after the failure."""
    if not is_installed("tensorboard"):
        pytest.skip("tensorboard is not installed")
    script = ROOT / "tests" / "support" / "full_disk_events.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["failed"] > 1
    assert found["read"] == found["taken"] == list(range(1, 101))
