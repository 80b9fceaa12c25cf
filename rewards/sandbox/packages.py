"""Installed packages that programs may import besides the standard library, by name.

Fork servers import them in advance (``fork_server``), so that a program's ``import numpy`` takes no time and needs no
folder of packages to be shown: only those of the modules that were loaded are.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Sequence

from rewards.sandbox.isolation import IsolationError

__all__ = ["folders_of"]


def folders_of(names: Sequence[str]) -> list[str]:
    """The folders in which the packages of these names lie; raises `IsolationError` for one that is not installed."""
    folders: dict[str, None] = {}
    for name in names:
        if name in sys.stdlib_module_names:
            continue
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise IsolationError(
                f"sandbox.packages names {name}, which cannot be imported here; install it, or take it out"
            )
        place = Path(spec.origin).resolve()
        folders[str(place.parents[1] if spec.submodule_search_locations else place.parent)] = None
    return list(folders)
