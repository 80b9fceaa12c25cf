"""How a process becomes a command: ``python -m grpo.NAME`` and ``python -m grpo`` hand over to ``grpo.cli`` here.

The modules that can be run so (`train`, `evaluate`, `sample`) call `run_process` before they import anything else:
arguments are read before torch is, and the working folder is no longer first on the path. What the commands are is up
to ``grpo.cli``, which is above those modules and therefore imported by name.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from importlib import import_module

from grpo.startup import companion

TYPE_CHECKING = False
if TYPE_CHECKING:  # a user's file of that name may still be first on the path
    from typing import Sequence


LATE = (signal.SIGINT, signal.SIGTERM)
"""Signals that may come when the exit code is already known."""


def run_process(name: str | None = None) -> int:
    """What a process does that is nothing but a command: `run`, and then nothing can change the exit code any more."""
    atexit.register(_ignore_late_signals)  # registered first, so called last
    code = run(name)
    _end_by_late_signals(code)
    return code


def run(name: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """What ``python -m grpo.NAME`` does, or ``python -m grpo`` without a name; returns the exit code.

    `arguments` are by default those of the process.
    """
    commands = import_module("grpo.cli")
    code: int = commands.main(arguments) if name is None else commands.run_module(name, arguments)
    return code


def _end_by_late_signals(code: int) -> None:
    """Let Ctrl-C cut the interpreter's own end short, with the exit code of the command that is done."""

    def leave(number: int, frame: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    for number in LATE:
        signal.signal(number, leave)


def _ignore_late_signals() -> None:
    """For when Python no longer calls handlers, and a signal would end the process with a code of its own."""
    for number in LATE:
        signal.signal(number, signal.SIG_IGN)


def leave_working_folder() -> None:
    """Search the working folder, which ``python -m`` puts first, last; say so where it holds a package of our name.

    A file there called ``types.py`` or ``datasets/`` then shadows nothing, and ``package.module:function`` still finds
    the user's own.
    """
    folder = _first_folder()
    if folder is None:
        return
    sys.path.append(sys.path.pop(0))
    own = companion.shadowing(folder)
    if own is not None and os.environ.get("RANK", "0") == "0":
        print(
            f"note: {own} is not imported as the package rewards, which is grpo's own; name its functions by "
            "path, e.g. rewards.mine.use=rewards.py:function",
            file=sys.stderr,
        )


def _first_folder() -> str | None:
    """The working folder if it is first on the path, as ``python -m`` leaves it."""
    if getattr(sys.flags, "safe_path", False) or not sys.path:
        return None
    first = sys.path[0] or os.getcwd()
    return first if os.path.realpath(first) == os.path.realpath(os.getcwd()) else None
