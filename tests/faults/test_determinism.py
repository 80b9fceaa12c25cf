"""The same recipe and seed: the same tokens, rewards and weights, bit for bit, in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lives import ROOT, Lives
from small_runs import TINY, assert_same, outcome

COMMAND = [
    sys.executable,
    "-m",
    "grpo.train",
    "quickstart",
    *TINY,
    "deterministic=true",
    "optim.updates=2",
    "steps=3",
    "sample.prompts=6",
    "sample.max_tokens=24",
    "loss.beta=0.01",
]


def processes(folders: dict[Path, list[str]]) -> None:
    """A fresh process for each folder, side by side."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [*COMMAND, f"run_dir={folder}", *overrides],
            env=environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for folder, overrides in folders.items()
    ]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_two_lives_make_the_same_run_to_the_bit(lives: Lives, reward: Path) -> None:
    for name in ("a", "b"):
        assert lives.live([*COMMAND[3:], f"run_dir={reward / name}"], reward / name)["code"] == 0
    assert_same(reward / "a", reward / "b")


@pytest.mark.slow  # two processes, whose hashes of text differ too
def test_two_fresh_processes_make_the_same_run_to_the_bit(reward: Path) -> None:
    processes({reward / "a": [], reward / "b": []})
    assert_same(reward / "a", reward / "b")


@pytest.mark.slow  # four processes
def test_two_threads_repeat_themselves(reward: Path) -> None:
    processes({reward / "a": ["threads=2"], reward / "b": ["threads=2"]})
    assert_same(reward / "a", reward / "b")


@pytest.mark.slow  # a process of its own
def test_deterministic_mode_asks_torch_for_it_and_refuses_what_cannot_repeat(reward: Path) -> None:
    script = (
        "import torch\nfrom grpo.train import main\n"
        f"code = main({[*COMMAND[3:], 'steps=1', f'run_dir={reward}/run']!r})\n"
        "import json, os\n"
        "print(json.dumps([code, torch.are_deterministic_algorithms_enabled(), os.environ['CUBLAS_WORKSPACE_CONFIG']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        text=True,
        capture_output=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, True, ":4096:8"], done.stderr
    steps = [row for row in outcome(reward / "run")["metrics"] if "reward/mean" in row]
    assert len(steps) == 1
