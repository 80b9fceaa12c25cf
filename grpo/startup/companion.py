"""The package ``rewards`` is the one installed beside ``grpo``, whatever else is called so on the path.

``python -m`` puts the working folder first on the path, and a folder of one's own rewards is often named ``rewards``.
Such a file stays usable by its path (``use: rewards.py:function``). Moving the rest of the working folder out of the
way is up to ``grpo.startup.command_line``.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

NAME = "rewards"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OURS = os.path.join(ROOT, NAME, "__init__.py")


class BesideGrpo:
    """A finder of one package, asked before those that search the path."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(NAME, [ROOT]) if name == NAME else None


def pin() -> None:
    """Make ``import rewards`` mean this library's; `ImportError` if another package of that name is loaded already."""
    loaded = sys.modules.get(NAME)
    if not os.path.exists(OURS):
        return
    if loaded is None:
        sys.meta_path.insert(0, BesideGrpo)
        return
    file = getattr(loaded, "__file__", None) or ""
    if os.path.realpath(file) != os.path.realpath(OURS):
        raise ImportError(
            f"grpo needs its own package rewards, but {file or 'a folder'} was imported under that name "
            "before; import grpo first, and name your functions in a recipe by path: rewards.py:function"
        )


def shadowing(folder: str) -> str | None:
    """The file in `folder` that ``import rewards`` would otherwise mean, if it is not ours."""
    for candidate in (f"{NAME}/__init__.py", f"{NAME}.py"):
        file = os.path.join(folder, candidate)
        if os.path.isfile(file):
            is_ours = os.path.realpath(file) == os.path.realpath(OURS)
            return None if is_ours else file
    return None
