"""Training runs by the command, in one process or in several that a launcher starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def train(
    recipe: str | Path,
    *arguments: str,
    processes: int = 1,
    timeout: float = 240,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """``grpo train RECIPE`` to its end, whatever that is."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launcher += ["--master_port", free_port()]
    command = [sys.executable, *(launcher if processes > 1 else [])]
    return subprocess.run(
        [*command, "-m", "grpo.train", str(recipe), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            **environment,
        },
        text=True,
        capture_output=True,
        timeout=timeout,
    )
