"""Ranks as forks of one process that has loaded everything."""

from __future__ import annotations

import os
import traceback
from typing import Callable


def fork_ranks(world: int, job: Callable[[int], None]) -> None:
    """Run ``job(rank)`` in `world` processes at once; an error in any of them is printed and fails all."""
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            code = 1
            try:
                job(rank)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), codes
