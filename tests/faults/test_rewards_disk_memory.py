"""What goes wrong in the middle of a run: rewards, disks and memory, each as a new user meets it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grpo.run import checkpoint
from grpo.run.failures import out_of_memory_advice
from grpo.train import main

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "steps=1",
    "data.args.count=400",
    "sample.prompts=2",
    "sample.group_size=4",
    "sample.max_tokens=12",
    "data.held_out=0",
    "checkpoint.every=1",
]
REWARDS = """
import time
def raises(text): raise KeyError("no column of that name")
def nan(text): return float("nan")
def infinite(text): return float("inf")
def says(text): return "good"
def short(completions, **columns): return [1.0] * (len(completions) + 1)
def nothing_to_judge(text): return None
def hangs(text): time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "function, words",
    [
        ("raises", "no column of that name"),
        ("nan", "nan"),
        ("infinite", "inf"),
        ("says", "'good'"),
        ("short", "5 values for 4 completions"),
    ],
)
def test_a_reward_that_fails_stops_the_run_and_is_named_with_its_reason(
    folder, capsys, function, words
):
    assert (
        main(
            [
                "quickstart",
                *QUICK,
                "run_dir=run",
                "rewards.correct.weight=0",
                f"rewards.mine.use=mine.py:{function}",
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "8 of 8 completions could not be judged, most of them by rewards.mine" in said
    )
    assert words in said
    rows = [
        json.loads(line) for line in (folder / "run" / "samples.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 8 and not any(row["reward"] == 0 for row in rows)


def test_a_reward_that_hangs_is_cut_off_counted_and_waited_for_no_longer(folder):
    assert (
        main(
            [
                "quickstart",
                *QUICK,
                "sample.group_size=2",
                "sample.prompts=1",
                "run_dir=run",
                "rewards.mine.use=mine.py:hangs",
                "rewards.mine.timeout_seconds=0.2",
            ]
        )
        == 0
    )
    (record,) = [
        json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert record["reward/timeouts"] == 2 and record["seconds/step"] < 30


def test_a_reward_for_which_nothing_counts_is_masked_and_no_fault(folder):
    assert (
        main(["quickstart", *QUICK, "run_dir=run", "rewards.mine.use=mine.py:nothing_to_judge"])
        == 0
    )


@pytest.mark.slow  # a process of its own
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stands(folder):
    def smallest_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "grpo.train", "quickstart", *QUICK, "run_dir=run"]
    assert (
        subprocess.run([*command, "steps=1"], env=environment, capture_output=True).returncode == 0
    )
    done = subprocess.run(
        [*command, "steps=2", "--resume"],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=smallest_files,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "cannot be written" in done.stderr and "the checkpoint of step 1 stands" in done.stderr
    assert [p.name for p in (folder / "run" / "checkpoints").iterdir()] == ["step-000001"]
    assert checkpoint.load(folder / "run" / "checkpoints" / "step-000001").step == 1


def test_no_memory_is_told_from_other_faults_and_says_which_keys_to_lower():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    for error in (found.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        said = out_of_memory_advice(error)
        assert said and all(
            key in said for key in ("optim.tokens_per_micro_batch", "sample.max_rows")
        )
    assert out_of_memory_advice(RuntimeError("size mismatch")) is None
