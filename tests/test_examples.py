"""The examples and the README's commands, as a reader would run them; the notebooks are in ``test_notebooks.py``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "sample.prompts=4",
    "sample.group_size=4",
    "sample.max_tokens=30",
    "data.held_out=8",
    "evaluate.samples=1",
]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_quickstart_example_runs_from_any_folder(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "01_quickstart.py"), "steps=10", *SMALL)
    assert re.search(r"accuracy \d+\.\d% -> \d+\.\d% on 8 held-out problems", printed)
    assert len(list((tmp_path / "runs").glob("example-*/summary.json"))) == 1


@pytest.mark.slow
def test_the_reward_example_trains_on_the_reward_it_writes(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "02_write_a_reward.py"), "steps=2", *SMALL)
    assert len(re.findall(r"correct \d\.\d+ +few_tries 0\.\d+", printed)) == 2


@pytest.mark.slow
def test_the_reward_model_example_trains_on_a_model_held_by_a_worker(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "03_reward_model.py"), "steps=1", *SMALL)
    fluency = re.findall(r"correct \d\.\d+ +fluency (\d\.\d+)", printed)
    assert len(fluency) == 1 and 0.1 < float(fluency[0]) < 1.0
    assert " 0 faulted" in printed


@pytest.mark.slow
def test_a_reward_in_a_file_can_be_named_by_its_path(tmp_path: Path) -> None:
    printed = run(
        ROOT,
        "-m",
        "grpo.train",
        "recipes/quickstart.yaml",
        f"run_dir={tmp_path / 'run'}",
        "steps=1",
        *SMALL,
        "rewards.few_tries.use=examples/02_write_a_reward.py:few_tries",
    )
    assert "1 x few_tries" in printed


@pytest.mark.slow
def test_a_run_can_be_plotted(tmp_path: Path) -> None:
    run(
        tmp_path, "-m", "grpo.train", "quickstart", "steps=2", f"run_dir={tmp_path / 'run'}", *SMALL
    )
    script = str(ROOT / "examples" / "04_plot_a_run.py")
    assert "written to" in run(tmp_path, script, "run", "run", "--out", "run.svg")
    picture = (tmp_path / "run.svg").read_text()
    assert "<svg" in picture and picture.count("<path") > 20
