"""How a process becomes a command: ``python -m grpo.NAME`` and ``python -m grpo`` hand over to ``grpo.cli`` here.

The modules that can be run so (`train`, `evaluate`, `sample`) call `run` before they import anything else: arguments
are read before torch is, and the working folder is no longer first on the path. What the commands are is up to
``grpo.cli``, which is above those modules and therefore imported by name.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from grpo.startup import companion

TYPE_CHECKING = False
if TYPE_CHECKING:  # a user's file of that name may still be first on the path
    from typing import Sequence


def run(name: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """What ``python -m grpo.NAME`` does, or ``python -m grpo`` without a name; returns the exit code.

    `arguments` are by default those of the process.
    """
    commands = import_module("grpo.cli")
    code: int = commands.main(arguments) if name is None else commands.run_module(name, arguments)
    return code


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
