"""Lives of a training run: ``grpo.train`` in forked processes that are killed at a time or a place; for the tests here.

Run as a script it is the server: it imports the library once and forks for each request, so that a life costs no
import. The process is killed by the kernel or by its own SIGKILL, never by changing what the library does:

- ``after``: so many seconds after the life began;
- ``event``: at the n-th file operation (open to write, rename, remove, make a folder) in the run folder;
- ``size``: when a file that it writes reaches so many bytes (RLIMIT_FSIZE), so in the middle of a write.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


class Lives:
    """The server, as the tests use it: `live` is one life."""

    def __enter__(self) -> Lives:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=environment, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stdin.close()
        self._server.wait(30)

    def live(self, arguments: list[str], folder: Path, **end: float) -> dict[str, Any]:
        """{"code": exit code or -signal, "seconds", "said": standard output and error} of a life ended by `end`."""
        request = {"arguments": arguments, "at": os.getcwd(), "folder": str(folder), "end": end}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


def be_killed_at(event: int, folder: str) -> None:
    """SIGKILL at the n-th file operation under `folder`."""
    seen = 0

    def hook(name: str, arguments: tuple) -> None:
        nonlocal seen
        if name not in EVENTS or (name == "open" and (not isinstance(arguments[1], str) or arguments[1][:1] == "r")):
            return
        if not str(arguments[0]).startswith("/") or str(arguments[0]).startswith(folder):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def be_killed_by_size(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def child(request: dict[str, Any], output: int) -> None:
    """Be the training process; never returns."""
    from grpo.train import main

    os.chdir(request["at"])
    os.dup2(output, 1)
    os.dup2(output, 2)
    end, code = request["end"], 70
    if "event" in end:
        be_killed_at(int(end["event"]), request["folder"])
    if "size" in end:
        be_killed_by_size(int(end["size"]))
    try:
        code = main(request["arguments"])
    finally:
        sys.stdout.flush()
        os._exit(code)


def serve() -> None:
    import grpo.train  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request, began = json.loads(line), time.monotonic()
        output = os.memfd_create("output")
        pid = os.fork()
        if not pid:
            child(request, output)
        if "after" in request["end"]:
            time.sleep(request["end"]["after"])
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so this is the child even if it has ended
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = os.pread(output, 10**6, 0).decode()
        os.close(output)
        print(json.dumps({"code": code, "seconds": time.monotonic() - began, "said": said[-4000:]}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
