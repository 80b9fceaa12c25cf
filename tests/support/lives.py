"""Lives of a training run: ``grpo.train`` in forked processes that are killed at a time or a place; for the tests here.

Run as a script it is the server: it imports the library once and forks for each request, so that a life costs no
import. The process is killed by the kernel or by its own SIGKILL, never by changing what the library does:

- ``after``: so many seconds after the life began;
- ``event``: at the n-th file operation (open to write, rename, remove, make a folder) in the run folder;
- ``size``: when a file that it writes reaches so many bytes (RLIMIT_FSIZE), so in the middle of a write;
- ``path``: at the first file operation on a path that holds these words; with ``signal``, by that one.

Without an end to come: ``largest`` is the size beyond which a write fails, and ``memory`` how many bytes of address
space it may take beside those of the server. ``disk`` makes the folder a small disk of that size, in this life alone,
whose files are copied to ``copy`` at the end, or a disk that is "read-only"; where that is not allowed the code is
`NO_DISK`.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NO_DISK = 99
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


class Lives:
    """The server, as the tests use it: `live` is one life."""

    def __enter__(self) -> Lives:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stdin.close()
        self._server.wait(30)

    def live(self, arguments: list[str], folder: Path, **end: Any) -> dict[str, Any]:
        """{"code": exit code or -signal, "seconds", "said": standard output and error} of a life ended by `end`."""
        request = {"arguments": arguments, "at": os.getcwd(), "folder": str(folder), "end": end}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


def be_killed_at(folder: str, event: int, path: str, number: int) -> None:
    """A signal at the n-th file operation under `folder` whose path holds `path`."""
    seen = 0

    def hook(name: str, arguments: tuple) -> None:
        nonlocal seen
        if name not in EVENTS or (name == "open" and not is_for_writing(*arguments[1:])):
            return
        place = str(arguments[0])
        if (not place.startswith("/") or place.startswith(folder)) and path in place:
            seen += 1
            if seen == event:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def is_for_writing(mode: str | None, flags: int) -> bool:
    """Whether a file is opened to be written, by Python's `open` or by `os.open`."""
    return mode[:1] != "r" if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))


def limit(size: int | None, largest: int | None, memory: int | None) -> None:
    """Let the kernel refuse, or kill for, what is too large."""
    if size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if size or largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size or largest,) * 2)
    if memory is not None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory,) * 2)


def be_on_a_disk(folder: str, kind: str) -> bool:
    """Mount a disk at `folder` for this process alone; False where that is not allowed."""
    libc, private, bind, read_only = ctypes.CDLL(None), 1 << 18 | 1 << 14, 1 << 12, 1 << 5 | 1
    if libc.unshare(0x20000) or libc.mount(None, b"/", None, private, None):
        return False
    place = folder.encode()
    if kind != "read-only":
        return not libc.mount(b"none", place, b"tmpfs", 0, f"size={kind}".encode())
    return not libc.mount(place, place, None, bind, None) and not libc.mount(
        None, place, None, bind | read_only, None
    )


def child(request: dict[str, Any], output: int) -> None:
    """Be the training process; never returns."""
    from grpo.train import main

    signal.alarm(120)  # a life that hangs is a finding, not a wait
    os.chdir(request["at"])
    os.dup2(output, 1)
    os.dup2(output, 2)
    end, code = request["end"], 70
    if "event" in end or "path" in end:
        be_killed_at(
            request["folder"],
            end.get("event", 1),
            end.get("path", ""),
            end.get("signal", signal.SIGKILL),
        )
    if "disk" in end and not be_on_a_disk(request["folder"], end["disk"]):
        os._exit(NO_DISK)
    limit(end.get("size"), end.get("largest"), end.get("memory"))
    try:
        code = main(request["arguments"])
        if "copy" in end:
            shutil.copytree(request["folder"], end["copy"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def serve() -> None:
    import grpo.cli  # noqa: F401
    import grpo.run.failures  # noqa: F401
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
            os.kill(
                pid, signal.SIGKILL
            )  # not reaped yet, so this is the child even if it has ended
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = os.pread(output, 10**6, 0).decode()
        os.close(output)
        print(
            json.dumps({"code": code, "seconds": time.monotonic() - began, "said": said[-4000:]}),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    serve()
