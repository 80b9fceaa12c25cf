"""Two processes that are stopped continue as the same two, each with its own random generators; one alone says what differs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lives import ROOT
from small_runs import TINY, assert_same

from grpo.run import checkpoint

pytestmark = pytest.mark.slow  # processes of its own


def run(folder: Path, *overrides: str, processes: int = 2) -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launcher = (
        ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
        if processes == 2
        else []
    )
    command = [
        sys.executable,
        *launcher,
        "-m",
        "grpo.train",
        "quickstart",
        *TINY,
        "sample.prompts=5",
        "optim.updates=2",
        "sample.over_request=0.4",
        "sample.max_rows=8",
        "sample.max_tokens=24",
        f"run_dir={folder}",
        *overrides,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_processes_go_on_as_the_two_that_they_were(reward: Path) -> None:
    run(reward / "whole", "steps=4")
    run(reward / "cut", "steps=2")
    saved = checkpoint.load(checkpoint.newest_whole(reward / "cut")[0])
    assert len(saved.generators) == 2 and any(saved.state["carried"])
    run(reward / "cut", "steps=4", "--resume")
    assert_same(reward / "whole", reward / "cut")


def test_another_number_of_processes_goes_on_and_says_what_differs(reward: Path) -> None:
    run(reward / "cut", "steps=2")
    said = run(reward / "cut", "steps=3", "--resume", processes=1)
    assert (
        "the checkpoint was made by 2 process(es), now 1: sums over them round differently" in said
    )
    assert "the run continues, but not bit for bit" in said
