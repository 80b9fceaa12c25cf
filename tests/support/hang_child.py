"""Runs of the quickstart into which real hangs are injected, each in a process of its own; for ``test_hangs.py``.

``python hang_child.py FOLDER NAME...`` makes a run for each name, at once, and prints as JSON how each ended: its
exit code, what it said on standard error, and the seconds from the injected fault to its end. The runs are forked
from one process that has loaded the library, and what outlives its run is found because this process adopts it.
"""

from __future__ import annotations

import asyncio  # noqa: F401  loaded before the fork, as all below
import ctypes
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable

import psutil
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

import grpo.cli  # noqa: F401
import grpo.run.failures  # noqa: F401
from grpo.train import main

QUICK = [
    "quickstart",
    "steps=3",
    "sample.prompts=4",
    "sample.group_size=2",
    "sample.max_tokens=24",
    "data.held_out=0",
    "checkpoint.every=1",
    "evaluate.every=0",
]
REWARDS = """
import os, time
def never_returns(text):
    if len(text) % 2:
        time.sleep(10**6)
    return float(len(text) % 4)
async def blocks_the_service(text, sandbox=None):
    if "run-2" in open("state").read():
        open("began", "w").write(str(time.time()))
        time.sleep(10**6)
    return float(len(text) % 4)
blocks_the_service.runs_programs = True
"""


def begin() -> None:
    """The moment of the fault, noted for the report."""
    if not Path("began").exists():
        Path("began").write_text(str(time.time()))


def stuck_in_c() -> None:
    begin()
    while True:
        ctypes.CDLL(None).pause()


def holding_the_interpreter() -> None:
    begin()
    ctypes.PyDLL(None).sleep(10**6)


def slow_once() -> None:
    if not Path("began").exists():
        begin()
        time.sleep(1.0)


def killed() -> None:
    begin()
    os.kill(os.getpid(), 9)


def dead() -> None:
    begin()
    raise RuntimeError("the device was lost")


def in_a_forward(fault: Callable[[], None], *, learning: bool) -> Callable[[], None]:
    """Injects `fault` into the second step's forwards of sampling, or of learning."""

    def inject() -> None:
        def hook(module: Any, arguments: Any) -> None:
            journal = Path("run/metrics.jsonl")
            if (
                type(module).__name__ == "Linear"
                and journal.exists()
                and journal.stat().st_size
                and learning == torch.is_grad_enabled()
                and os.environ.get("RANK", "1") == "1"
            ):
                fault()

        register_module_forward_pre_hook(hook)

    return inject


def fifo_in_place_of(name: str) -> Callable[[], None]:
    """The file `name` of the second checkpoint is a pipe that nobody reads, so opening it never returns."""

    def inject() -> None:
        def hook(event: str, arguments: Any) -> None:
            if (
                event == "open"
                and str(arguments[0]).endswith(f"step-000002/{name}")
                and "w" in str(arguments[1])
            ):
                begin()
                os.mkfifo(arguments[0])

        sys.addaudithook(hook)

    return inject


def silent_server() -> str:
    """The address of a server that takes connections and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.listen(64)
    silent_server.kept = listener  # type: ignore[attr-defined]
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def silent_hub() -> None:
    begin()
    import huggingface_hub.constants as constants
    from huggingface_hub.hf_api import api

    constants.ENDPOINT = api.endpoint = silent_server()
    constants.HUGGINGFACE_CO_URL_TEMPLATE = (
        constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )


def silent_wandb() -> None:
    begin()
    os.environ |= {"WANDB_BASE_URL": silent_server(), "WANDB_API_KEY": "0" * 40}


def slow_service() -> None:
    Path("state").write_text("run-1")

    def hook(event: str, arguments: Any) -> None:
        if (
            event == "open"
            and str(arguments[0]).endswith("samples.jsonl")
            and "a" in str(arguments[1])
        ):
            with open("state", "w") as out:
                out.write("run-2")

    sys.addaudithook(hook)


RUNS: dict[str, tuple[Callable[[], None], list[str]]] = {
    "engine": (in_a_forward(stuck_in_c, learning=False), ["watchdog.engine_seconds=2"]),
    "interpreter": (
        in_a_forward(holding_the_interpreter, learning=False),
        ["watchdog.interpreter_seconds=3"],
    ),
    "engine dies": (in_a_forward(dead, learning=False), []),
    "update": (in_a_forward(stuck_in_c, learning=True), ["watchdog.update_seconds=2"]),
    "checkpoint": (fifo_in_place_of("state.json"), ["watchdog.checkpoint_seconds=2"]),
    "judge": (
        slow_service,
        [
            "watchdog.judge_seconds=2",
            "rewards.mine.use=mine.py:blocks_the_service",
            "rewards.mine.timeout_seconds=0.1",
            "rewards.correct.timeout_seconds=0.1",
            "sandbox.min_isolation=L1",
        ],
    ),
    "reward": (
        begin,
        [
            "rewards.mine.use=mine.py:never_returns",
            "rewards.mine.timeout_seconds=0.1",
            "watchdog.judge_seconds=2",
            "steps=1",
        ],
    ),
    "server": (silent_wandb, ["watchdog.server_seconds=2", "log.wandb={}"]),
    "loading": (
        silent_hub,
        ["watchdog.loading_seconds=2", "data.source=someone/something", "data.args={}"],
    ),
    "warn": (
        in_a_forward(slow_once, learning=False),
        ["watchdog.engine_seconds=0.4", "watchdog.action=warn"],
    ),
    "collective": (
        in_a_forward(stuck_in_c, learning=False),
        ["watchdog.collective_seconds=3", "optim.updates=2"],
    ),
    "divided weights": (
        in_a_forward(stuck_in_c, learning=True),
        ["watchdog.collective_seconds=3", "distributed.shard=true"],
    ),
    "rank killed": (
        in_a_forward(killed, learning=True),
        ["watchdog.collective_seconds=3", "distributed.shard=true"],
    ),
}
OF_TWO_RANKS = ("collective", "divided weights", "rank killed")
"""Runs of two processes, of which the second has the fault."""


def run(folder: Path, name: str, environment: dict[str, str]) -> int:
    """In a forked process: one run, which may or may not end."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    Path("mine.py").write_text(REWARDS)
    for number, file in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ |= environment
    inject, further = RUNS[name]
    inject()
    return main([*QUICK, "run_dir=run", *further])


def start(folder: Path, name: str, environment: dict[str, str]) -> int:
    number = os.fork()
    if not number:
        code = 70
        try:
            code = run(folder, name, environment)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return number


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def begun(folder: Path) -> dict[int, tuple[Path, bool]]:
    """Process numbers of the runs, with their folder and whether they are one whose end counts."""
    found = {}
    for name in sys.argv[2:]:
        place = folder / name.replace(" ", "-")
        if name not in OF_TWO_RANKS:
            found[start(place, name, {})] = place, True
            continue
        shared = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "ACCELERATE_USE_CPU": "true",
        }
        for rank in (0, 1):
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            found[start(place, name, environment)] = place, rank == 0
    return found


def await_all(runs: dict[int, tuple[Path, bool]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while runs:
        number, status = os.wait()
        if number not in runs:
            continue
        place, counts = runs.pop(number)
        if counts:
            began = place / "began"
            found[place.name] = {
                "code": os.waitstatus_to_exitcode(status),
                "said": (place / "err.txt").read_text(),
                "seconds": time.time() - float(began.read_text()) if began.exists() else None,
            }
            if place.name.replace("-", " ") in OF_TWO_RANKS:
                for other in [other for other, (where, _) in runs.items() if where == place]:
                    os.kill(other, 9)  # what the launcher of ranks does
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become ours
    found = await_all(begun(Path(sys.argv[1])))
    time.sleep(0.5)
    left = [
        process
        for process in psutil.Process().children()
        if process.status() != psutil.STATUS_ZOMBIE
    ]
    found["orphans"] = [" ".join(process.cmdline()) for process in left]
    for process in left:
        process.kill()
    print(json.dumps(found))
