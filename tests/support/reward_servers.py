"""Reward servers in this process or in one of their own, and rewards that say who judged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from rewards.remote.server import Judges, RewardServer
from rewards.sandbox import SandboxOptions
from rewards.types import RewardSpec

TOKEN = "a token of the tests"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(
    *lists: Sequence[RewardSpec], sandbox: SandboxOptions | None = None, workers: int = 1
) -> Iterator[RewardServer]:
    """A server with these lists of rewards, in a thread."""
    judges = [Judges.of(specs, sandbox, workers=workers) for specs in lists]
    server = RewardServer(judges, TOKEN)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def served_by_command(
    recipe: str | Path, *overrides: str, cwd: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(the process of ``grpo serve-rewards``, its URL), ready to judge; ended afterwards."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRPO_REWARDS_TOKEN": TOKEN}
    command = [sys.executable, "-m", "grpo", "serve-rewards", str(recipe), *overrides]
    process = subprocess.Popen(
        [*command, "--port", "0", "--workers", "1"],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("ready: "):
                yield process, line.partition("servers=[")[2].partition("]")[0]
                return
        raise AssertionError(f"the server ended with {process.wait()}")
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)
