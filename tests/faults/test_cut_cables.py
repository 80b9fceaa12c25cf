"""Two hosts whose cable is cut: each rank ends in time and names the other, and the run goes on as if nothing had been.

The hosts are namespaces of this machine (``two_hosts.py``); what is cut when stands in ``cable_child.py``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from cable_child import as_text
from small_runs import REWARDS, assert_same
from two_hosts import Cable, Host, NoHosts, two_hosts

pytestmark = [
    pytest.mark.slow,  # processes of their own
    pytest.mark.skipif(sys.platform != "linux", reason="hosts are namespaces of Linux"),
]
HERE = Path(__file__).resolve().parents[1] / "support"
DEADLINE = 5  # seconds, as in cable_child.py
SLACK = 40.0  # seconds that a busy machine may add; a hang that nobody ends takes for ever
SILENT = r"rank {} \(process \d+ on {}\) has NOT been heard from for \d+ s"


@pytest.fixture(scope="module", autouse=True)
def hosts_are_allowed() -> None:
    try:
        with two_hosts():
            pass
    except NoHosts as error:
        pytest.skip(f"no two hosts on this machine: {error}")


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(HERE.parent.parent), str(HERE)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def made(folder: Path, how: str, when: str = "sampling") -> list[dict[str, Any]]:
    """How the run in `folder` ended, and the one that went on from it, if it had to."""
    folder.mkdir()
    (folder / "mine.py").write_text(REWARDS)
    done = subprocess.run(
        [sys.executable, str(HERE / "cable_child.py"), str(folder), how, when],
        env=environment(),
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the same hosts whose cable was never cut."""
    folder = tmp_path_factory.mktemp("cables") / "whole"
    (run,) = made(folder, "whole")
    assert run["codes"] == [0, 0], run["said"]
    return folder / "run"


def the_line(said: str) -> str:
    return next((line for line in said.splitlines() if line.startswith("watchdog: ")), said)


@pytest.mark.parametrize(
    "how, when",
    [
        ("cut", "sampling"),
        ("cut", "learning"),
        ("cut", "exchange"),
        ("cut_one_way", "learning"),
        ("cut_one_way", "exchange"),
    ],
)
def test_each_rank_names_the_one_that_it_no_longer_hears_and_the_run_goes_on_exactly(
    whole: Path, tmp_path: Path, how: str, when: str
) -> None:
    cut, resumed = made(tmp_path / "cut", how, when)
    assert cut["codes"] == [1, 1], cut["said"]
    assert max(cut["seconds"]) < DEADLINE + SLACK
    for said, other in zip(cut["said"], ("rank 1 on two", "rank 0 on one")):
        line = the_line(said)
        assert line.startswith("watchdog: collective (grpo.distributed.process_group, "), line
        _, rank, _, host = other.split()
        assert re.search(SILENT.format(rank, host), line), line
        assert "has arrived" not in line and "has NOT arrived" not in line
    folder = tmp_path / "cut" / "run"
    assert (folder / "watchdog.txt").exists() and (folder / "watchdog-rank1.txt").exists()
    assert resumed["codes"] == [0, 0], resumed["said"]
    assert "step-000001" in resumed["out"][0] or "step 1" in resumed["out"][0]
    assert_same(whole, folder)


def test_a_cable_that_is_mended_within_the_deadline_costs_nothing(
    whole: Path, tmp_path: Path
) -> None:
    (run,) = made(tmp_path / "cut", "mended", "learning")
    assert run["codes"] == [0, 0], run["said"]
    assert (tmp_path / "cut" / "began").exists()
    assert_same(whole, tmp_path / "cut" / "run")


def test_a_process_killed_on_another_host_is_named_with_its_host(
    whole: Path, tmp_path: Path
) -> None:
    killed, resumed = made(tmp_path / "cut", "killed", "learning")
    assert killed["codes"] == [1, -9]
    said = killed["said"][0]
    (last,) = [line for line in said.splitlines() if line.startswith("stopped: ")] or [said]
    assert last.startswith("stopped: collective (grpo.distributed.process_group, "), last
    assert "without rank 1 on two, to which the connection broke, died of RuntimeError" in last
    stands = r"the checkpoint of step 1 stands\. To resume: |no checkpoint was saved yet\. To begin again: "
    assert re.search(stands, last), last  # it is written while the next step goes on
    assert resumed["codes"] == [0, 0], resumed["said"]
    assert_same(whole, tmp_path / "cut" / "run")


def test_ranks_under_torchrun_on_two_hosts_end_too(tmp_path: Path) -> None:
    """On the host without the rendezvous torchrun itself goes on trying to reach it for minutes."""
    (tmp_path / "mine.py").write_text(REWARDS)
    with two_hosts() as cable:
        variables = {**environment(), "HOSTS": as_text(cable), "ACCELERATE_USE_CPU": "true"}
        agents = [
            subprocess.Popen(
                [*torchrun(cable, host), f"watchdog.collective_seconds={DEADLINE}"],
                env=variables,
                cwd=tmp_path,
                stderr=(tmp_path / f"err-{host.name}").open("w"),
            )
            for host in cable.hosts
        ]
        try:
            assert agents[0].wait(240) == 1
            others = psutil.Process(agents[1].pid).children()
            while agents[1].poll() is None and any(map(is_alive, others)):
                time.sleep(0.1)
        finally:
            for agent in agents:
                agent.kill()
                agent.wait()
    for host, other in (("one", SILENT.format(1, "two")), ("two", SILENT.format(0, "one"))):
        said = (tmp_path / f"err-{host}").read_text()
        assert re.search(other, the_line(said)), said[-2000:]
    assert (tmp_path / "run" / "checkpoints" / "step-000001").exists()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; torchrun, which asks for the rendezvous in vain, may not have taken notice of its end."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def torchrun(cable: Cable, host: Host) -> list[str]:
    """The command on `host` of a run whose cable is cut while it learns."""
    is_first = int(host is cable.hosts[0])  # these hostnames have no address to tell it by
    return [
        *("nsenter", f"--net=/proc/{host.process}/ns/net", f"--uts=/proc/{host.process}/ns/uts"),
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{cable.hosts[0].address}:29500"),
        *("--rdzv-id", "cut", "--rdzv-conf", f"is_host={is_first}", "--local-addr", host.address),
        *(str(HERE / "cable_child.py"), "worker", "cut", "learning"),
    ]
