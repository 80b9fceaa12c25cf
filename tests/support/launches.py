"""Training runs by the command, in one process or in several, one run after the other.

As a program it reads runs as JSON and forks their processes from one that has loaded the library, as a launcher would
start them; see `train_all`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a run ended: the exit codes of its processes, what the first printed, and what went wrong in any."""

    codes: list[int]
    out: str
    err: str


def train_all(*runs: tuple[int, list[str]], timeout: float = 280) -> list[Ended]:
    """Make runs, each of so many processes with these arguments of ``grpo train``; how each ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(runs),
        env=environment,
        text=True,
        capture_output=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [Ended(**ended) for ended in json.loads(done.stdout.splitlines()[-1])]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start(rank: int, variables: dict[str, str], arguments: list[str], folder: Path) -> int:
    """Fork a process of a run; its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.environ |= variables
        if variables:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT), number)
        code = main(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def made(processes: int, arguments: list[str], folder: Path) -> dict[str, Any]:
    """One run to its end."""
    variables: dict[str, str] = {}
    if processes > 1:
        variables = {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "ACCELERATE_USE_CPU": "true",
        }
    folder.mkdir()
    children = [start(rank, variables, arguments, folder) for rank in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {
        "codes": codes,
        "out": (folder / "out-0").read_text(),
        "err": "\n".join((folder / f"err-{rank}").read_text() for rank in range(processes)),
    }


if __name__ == "__main__":
    import torch

    import grpo.cli
    import grpo.run.failures  # noqa: F401  loaded before the fork, as all above
    from grpo.train import main

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        ended = []
        for processes, arguments in json.load(sys.stdin):
            ended.append(made(processes, arguments, Path(name) / str(len(ended))))
    print(json.dumps(ended))
