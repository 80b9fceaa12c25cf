"""A process that is a command: its exit code is the command's, whatever comes while the interpreter ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BEFORE = """
import os, signal, sys
from grpo.startup import command_line

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

sys.argv = ["grpo", "nosuch"]
"""
AT_ONCE = "code = command_line.run_process(); os.kill(os.getpid(), {number}); raise SystemExit(9)"
IN_A_THREAD_THAT_IS_LEFT = """
import threading, time
def late():
    time.sleep(0.2)
    os.kill(os.getpid(), {number})
    time.sleep(60)
code = command_line.run_process()
threading.Thread(target=late).start()
raise SystemExit(code)
"""
WHEN_MODULES_ARE_TAKEN_DOWN = "late = Late(); raise SystemExit(command_line.run_process())"


@pytest.mark.parametrize("number", [2, 15])
@pytest.mark.parametrize("then", [AT_ONCE, IN_A_THREAD_THAT_IS_LEFT, WHEN_MODULES_ARE_TAKEN_DOWN])
def test_a_late_signal_ends_the_process_with_the_code_of_the_command(
    then: str, number: int
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            BEFORE.replace("SIGINT", f"Signals({number})") + then.format(number=number),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 2, done.stderr
    assert "there is no command nosuch" in done.stderr and "Traceback" not in done.stderr
