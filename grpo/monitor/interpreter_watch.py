"""A process that notices when its parent's interpreter runs no Python any more; started by ``watchdog``.

A line on standard input says that Python runs, and what it waits for. If none comes for the limit, the parent's stacks
are dumped by a signal whose handler needs no interpreter and written to standard error and to the run folder, and the
parent is killed. The limit counts this process's own ticks, without those in which the parent is stopped. It ends
with the parent. It runs as a script without site-packages, so it imports little.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

DUMP_SIGNAL = signal.SIGRTMAX - 5 if hasattr(signal, "SIGRTMAX") else getattr(signal, "SIGUSR2", 0)
"""The signal that dumps stacks: not SIGUSR1 or SIGUSR2, with which schedulers warn a job."""
TICKS = 20
MAX_TICK_SECONDS = 5.0
MAX_STACK_BYTES = 10**6


def main(parent: int, limit_seconds: float, stacks: int) -> int:
    """Watch until standard input is closed. `stacks` is the file that the signal dumps the stacks to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    tick = min(MAX_TICK_SECONDS, limit_seconds / TICKS)
    message = ["nothing yet"]
    silent_seconds = 0.0
    while silent_seconds < limit_seconds:
        if select.select([0], [], [], tick)[0]:
            data = os.read(0, 65536)
            if not data:
                return 0
            silent_seconds = 0.0
            message = last_message(data) or message
        elif os.getppid() != parent:  # gone, though a process that it forked may hold the pipe open
            return 0
        elif state(parent) not in "Tt":
            silent_seconds += tick
    waited_for, *files = message
    kill(parent, alarm(limit_seconds, waited_for, dump_stacks(parent, stacks)), files)
    return 1


def last_message(data: bytes) -> list[str]:
    """The last whole line of `data`: what is waited for, then the files to write to; empty if there is none."""
    lines = data.split(b"\n")
    if len(lines) < 2 or not lines[-2].startswith(b"["):
        return []
    message: list[str] = json.loads(lines[-2])
    return message


def state(process: int) -> str:
    """The state of a process as Linux shows it; ? if it cannot be read."""
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
        return status.rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "?"


def dump_stacks(parent: int, stacks: int) -> str:
    """The stacks of the parent's threads."""
    os.kill(parent, DUMP_SIGNAL)
    time.sleep(1.0)
    return os.pread(stacks, MAX_STACK_BYTES, 0).decode(errors="replace")


def alarm(limit_seconds: float, waited_for: str, stacks: str) -> str:
    return (
        f"watchdog: the interpreter ran no Python for {limit_seconds:g} s (watchdog.interpreter_seconds); when "
        f"last heard from, the run was waiting for {waited_for}\n{stacks}"
        "watchdog: killed, since code that holds the interpreter cannot be stopped; what was saved before is "
        "intact\n"
    )


def kill(parent: int, text: str, files: list[str]) -> None:
    """Write `text` to standard error and to the files, and kill the parent."""
    for file in files:
        try:
            with Path(file).open("a", encoding="utf-8") as out:
                out.write(text)
        except OSError:
            pass  # standard error still gets it
    sys.stderr.write(text)
    sys.stderr.flush()
    os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
