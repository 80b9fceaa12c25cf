"""Runs of two processes on two hosts, whose cable is cut after the first step; for ``test_cut_cables.py``.

``python cable_child.py FOLDER HOW WHEN`` makes a run in which the cable is cut, mends it, and lets the run go on from
its checkpoint. It prints as JSON how each process of the two runs ended. The processes are forked from one that has
loaded the library. HOW is a method of `two_hosts.Cable`, "killed" for a second process that is killed instead, "mended"
for a cable that is out for a while, or "whole".
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

import torch
from torch.distributed import distributed_c10d
from torch.nn.modules.module import register_module_forward_pre_hook
from two_hosts import Cable, Host, two_hosts

import grpo.cli  # noqa: F401  loaded before the fork
import grpo.run.failures  # noqa: F401
from grpo.train import main

ARGUMENTS = [
    "quickstart",
    "steps=3",
    "data.args.count=400",
    "sample.prompts=4",
    "sample.group_size=3",
    "sample.max_tokens=24",
    "data.held_out=3",
    "evaluate.samples=1",
    "evaluate.every=1",
    "checkpoint.every=1",
    "loss.beta=0.01",
    "optim.updates=2",
    "optim.tokens_per_micro_batch=64",
    "rewards.correct.use=mine.py:mixed",
    "run_dir=run",
]
PORT = "29511"
OUT_SECONDS = 4.0
"""How long a cable is out that is mended."""


def once_after_the_first_step(act: Callable[[], None]) -> Callable[[], None]:
    """Calls `act` once, when the checkpoint of the first step is complete."""
    done: list[bool] = []

    def maybe() -> None:
        if done or not Path("run/checkpoints/step-000001").exists():
            return
        done.append(True)
        Path("began").write_text(str(time.time()))
        act()

    return maybe


def on_forwards(act: Callable[[], None], *, learning: bool) -> None:
    """Let `act` be called before the forwards of learning, or of sampling."""

    def hook(module: Any, arguments: Any) -> None:
        if type(module).__name__ == "Linear" and learning == torch.is_grad_enabled():
            act()

    register_module_forward_pre_hook(hook)


def amid_an_exchange(act: Callable[[], None]) -> None:
    """Let `act` be called between the two exchanges of a gather of objects: their sizes are known, they are not."""
    exchange = distributed_c10d.all_gather
    calls: list[bool] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(True)
        if len(calls) % 2 == 0:
            act()
        return exchange(*arguments, **options)

    distributed_c10d.all_gather = counted


def action(cable: Cable, how: str) -> Callable[[], None]:
    def kill() -> None:
        os.kill(os.getpid(), 9)

    def cut_for_a_while() -> None:
        cable.cut()
        if not os.fork():
            time.sleep(OUT_SECONDS)
            cable.mend()
            os._exit(0)

    acts = {"killed": kill, "mended": cut_for_a_while}
    return acts.get(how) or getattr(cable, how)


def inject(cable: Cable, how: str, when: str) -> None:
    """Arm this process, which is the second of its run."""
    act = once_after_the_first_step(action(cable, how))
    if when == "exchange":
        amid_an_exchange(act)
    else:
        on_forwards(act, learning=when == "learning")


def started(cable: Cable, rank: int, how: str, when: str, further: list[str]) -> int:
    """Fork a process of a run on its host; its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: no run outlives this program
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        cable.hosts[rank].enter()
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": cable.hosts[0].address}
        os.environ |= {"MASTER_PORT": PORT, "ACCELERATE_USE_CPU": "true"}
        if rank and how != "whole":
            inject(cable, how, when)
        code = main([*ARGUMENTS, *further])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(cable: Cable, how: str, when: str, further: list[str]) -> dict[str, Any]:
    """One run to its end: by rank the exit codes, what was said, and when it ended after the cut."""
    children = [started(cable, rank, how, when, further) for rank in (0, 1)]
    codes = [0, 0]
    ends = [0.0, 0.0]
    for _ in children:
        number, status = os.wait()
        rank = children.index(number)
        codes[rank] = os.waitstatus_to_exitcode(status)
        ends[rank] = time.time()
    began = Path("began")
    since = float(began.read_text()) if began.exists() else time.time()
    return {
        "codes": codes,
        "seconds": [end - since for end in ends],
        "out": [Path(f"out-{rank}").read_text() for rank in (0, 1)],
        "said": [Path(f"err-{rank}").read_text() for rank in (0, 1)],
    }


def as_worker(how: str, when: str) -> int:
    """In a process that a launcher started: the run, armed if it is the second process."""
    hosts = [Host(**values) for values in json.loads(os.environ["HOSTS"])]
    if os.environ["RANK"] == "1" and how != "whole":
        inject(Cable((hosts[0], hosts[1])), how, when)
    return main([*ARGUMENTS, *sys.argv[4:]])


def as_text(cable: Cable) -> str:
    """The hosts of a cable, for the environment of a worker."""
    return json.dumps([asdict(host) for host in cable.hosts])


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, how, when = sys.argv[1:4]
    if folder == "worker":
        sys.exit(as_worker(how, when))
    os.chdir(folder)
    deadline = "watchdog.collective_seconds=" + ("120" if how in ("mended", "whole") else "5")
    with two_hosts() as cable:
        runs = [ended(cable, how, when, [deadline])]
        if any(runs[0]["codes"]):
            cable.mend()
            runs.append(ended(cable, "whole", "", ["--resume", deadline.replace("=5", "=120")]))
    print(json.dumps(runs))
