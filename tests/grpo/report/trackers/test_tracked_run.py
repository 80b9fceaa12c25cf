"""A training run that four trackers follow, killed and resumed from an older step: each holds what the run folder holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from lives import Lives
from test_read_back import ROOT, environment
from tracker_readers import READERS

from grpo.report.metric_keys import described
from grpo.report.trackers.mlflow_run import name_of
from grpo.report.trackers.registry import KINDS, is_installed
from grpo.report.trackers.values import numbers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(is_installed(kind.package) for kind in KINDS.values()),
        reason="a tracker is not installed",
    ),
]
QUICK = [
    str(ROOT / "recipes" / "quickstart.yaml"),
    "steps=6",
    "sample.prompts=6",
    "sample.group_size=4",
    "sample.max_tokens=40",
    "data.held_out=12",
    "evaluate.samples=2",
    "evaluate.every=2",
    "checkpoint.every=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder around a run that was killed while it saved its fourth step, and resumed from its second to its end."""
    around = tmp_path_factory.mktemp("tracked")
    own = {**environment(around), "MLFLOW_TRACKING_URI": f"sqlite:///{around / 'mlflow.db'}"}
    trackers = [f"log.{name}=true" for name in KINDS]
    before = dict(os.environ)
    working_folder = Path.cwd()
    os.environ.update(own)
    os.chdir(around)  # where MLflow keeps the files of a database that names no place for them
    try:
        with Lives() as lives:
            arguments = [*QUICK, f"run_dir={around / 'run'}", *trackers]
            killed = lives.live(arguments, around / "run", path=".writing-step-000004")
            assert killed["code"] == -signal.SIGKILL, killed["said"]
            resumed = lives.live([*arguments, "--resume"], around / "run")
            assert resumed["code"] == 0, resumed["said"]
            assert "resumed after step 2" in resumed["said"] and "warning: " not in resumed["said"]
        yield around
    finally:
        os.chdir(working_folder)
        os.environ.clear()
        os.environ.update(before)


def true_history(folder: Path) -> dict[str, list[list[float]]]:
    """By key, the (step, number) pairs of ``metrics.jsonl``."""
    values: dict[str, list[list[float]]] = {}
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key, number in numbers(record).items():
            values.setdefault(key, []).append([record["step"], number])
    return values


def read_back(name: str, folder: Path) -> dict[str, Any]:
    """In a process of its own: the trackers' packages keep what a process did first."""
    script = (
        "import json, pathlib, sys, tracker_readers\n"
        "held = tracker_readers.READERS[sys.argv[1]](pathlib.Path(sys.argv[2]))\n"
        "print(json.dumps(held))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, name, str(folder / "run")],
        env={**environment(folder), "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = json.loads(done.stdout.splitlines()[-1]).values()
    return dict(run)


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_holds_every_number_of_the_run_folder_once_and_no_other(folder, name):
    truth = true_history(folder)
    assert {step for step, _ in truth["reward/mean"]} == set(range(1, 7))
    assert [step for step, _ in truth["heldout/accuracy"]] == [0, 2, 4, 6]
    run = read_back(name, folder)
    expected = {name_of(key) if name == "mlflow" else key: pairs for key, pairs in truth.items()}
    assert set(run["values"]) == set(expected)
    for key, pairs in expected.items():
        found = sorted(run["values"][key])
        assert [step for step, _ in found] == [step for step, _ in pairs], key
        for (_, number), (step, true_number) in zip(found, pairs):
            assert number == pytest.approx(true_number, rel=1e-6), (key, step)
    assert sorted(step for step, _ in run["tables"]["completions/train"]) == list(range(1, 7))
    assert sorted(step for step, _ in run["tables"]["completions/heldout"]) == [0, 2, 4, 6]


def test_every_key_of_the_run_is_described(folder):
    assert [key for key in true_history(folder) if described(key) is None] == []
