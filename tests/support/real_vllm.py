"""A real vLLM on a CPU as the tests start it, with the settings of ``grpo serve``; and what it says of its work."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo import Recipe
from grpo.rollout.servers.vllm import VllmServer
from grpo.run.serving import Serving

PYTHON = os.environ.get("GRPO_VLLM_PYTHON", "")
MARKS = [
    pytest.mark.server,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PYTHON, reason="GRPO_VLLM_PYTHON names no Python with vLLM"),
]
ON_A_SMALL_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
START_SECONDS = 900
REST_SECONDS = 120


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealServer(SimpleNamespace):
    """A process that serves, at ``url``."""

    def end(self) -> None:
        """Kill it and all that it started, at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def begun(recipe: Recipe, log: Path, *arguments: str, without: str = "") -> RealServer:
    """A server that is starting; `without` is a setting with a value that it does not get."""
    more = ("--enforce-eager", "--max-num-seqs", "16", *arguments)
    serving = Serving(PYTHON, port=free_port(), on_cpu=True, arguments=more)
    words = serving.command(recipe)
    if without:
        place = words.index(without)
        del words[place : place + 2]
    process = subprocess.Popen(
        words,
        env={**os.environ, **serving.variables(), **ON_A_SMALL_CPU},
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return RealServer(process=process, url=serving.url, serving=serving, recipe=recipe, log=log)


def ready(server: RealServer) -> RealServer:
    """The server once it answers."""
    deadline = time.monotonic() + START_SECONDS
    while not VllmServer(server.url).is_alive(2.0):
        if server.process.poll() is not None or time.monotonic() > deadline:
            server.end()
            pytest.fail("vLLM did not start:\n" + server.log.read_text(errors="replace")[-3000:])
        time.sleep(1.0)
    return server


def started(recipe: Recipe, log: Path, *arguments: str, without: str = "") -> RealServer:
    """A server that answers."""
    return ready(begun(recipe, log, *arguments, without=without))


def num_running(url: str) -> int:
    """How many requests the server works on, or would if it had room."""
    text = str(VllmServer(url).address.get("/metrics", 30.0))
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE)
    assert len(found) >= 2, "the server counts them"
    return int(sum(map(float, found)))


def wait_until_it_rests(url: str) -> None:
    """Return once the server works on nothing; fail if it goes on for long."""
    deadline = time.monotonic() + REST_SECONDS
    while num_running(url):
        assert time.monotonic() < deadline, "requests that were broken off are still computed"
        time.sleep(0.1)
