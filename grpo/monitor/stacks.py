"""The stacks of this process's threads, as text."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path


def stacks() -> list[str]:
    """The stack of every thread of this process but the calling one, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for number, frame in sys._current_frames().items():
        if number == threading.get_ident():
            continue
        lines.append(f"thread {names.get(number, number)}:")
        for part in traceback.format_stack(frame):
            lines += part.rstrip().splitlines()
    return lines


def location_of(thread: int) -> str:
    """Where a thread is, as ``file:line in function``."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "nowhere"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
