"""The process beside a run that notices when its interpreter runs no Python any more. Started by ``watchdog.py``.

A line on standard input says that it does, and what it waits for. When none came for the limit, the run's stacks
are dumped by a signal whose handler needs no interpreter, written to standard error and to the run folder, and the
run is killed. It counts its own ticks and leaves out those in which the run is stopped, and ends with it.
"""

import json
import os
import select
import signal
import sys
import time

DUMP = signal.SIGRTMAX - 5 if hasattr(signal, "SIGRTMAX") else getattr(signal, "SIGUSR2", 0)
"""The signal that dumps stacks: not SIGUSR1 or SIGUSR2, by which schedulers warn a job."""
TICKS = 20


def main(parent: int, limit_seconds: float, stacks: int) -> int:
    """Watch until standard input is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run
    silent, said, tick = 0.0, ["nothing yet"], min(5.0, limit_seconds / TICKS)
    while silent < limit_seconds:
        if select.select([0], [], [], tick)[0]:
            data = os.read(0, 65536)
            if not data:
                return 0
            silent, lines = 0.0, data.split(b"\n")
            said = json.loads(lines[-2]) if len(lines) > 1 and lines[-2].startswith(b"[") else said
        elif os.getppid() != parent:  # gone, though a process that it forked may hold the pipe open
            return 0
        elif state(parent) not in "Tt":
            silent += tick
    end(parent, limit_seconds, stacks, *said)
    return 1


def state(process: int) -> str:
    """The state of a process as Linux has it; ? where it cannot be read."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "?"


def end(parent: int, limit_seconds: float, stacks: int, waited_for: str, *files: str) -> None:
    """Say who held the interpreter, and kill the run."""
    os.kill(parent, DUMP)
    time.sleep(1.0)
    text = (
        f"watchdog: the interpreter ran no Python for {limit_seconds:g} s (watchdog.interpreter_seconds); when "
        f"last heard of, the run waited for {waited_for}\n{os.pread(stacks, 10**6, 0).decode(errors='replace')}"
        "watchdog: killed, since code that holds the interpreter cannot be stopped; what was saved before "
        "stands\n"
    )
    for file in files:
        try:
            with open(file, "a", encoding="utf-8") as out:
                out.write(text)
        except OSError:
            pass
    sys.stderr.write(text)
    sys.stderr.flush()
    os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
