"""What a worker prints, passed on line by line to where this process's standard error goes now.

A worker inherits standard error. That is where a person looks, unless this process shows something else there: a
notebook, a capture, or a live display that must not be written over. Then its output comes through here.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager, suppress
from typing import Any, Iterator

MAX_LINE_BYTES = 65_536


def is_redirected() -> bool:
    """Whether ``sys.stderr`` is something else than the standard error that a child inherits."""
    return sys.stderr is not sys.__stderr__


class Relay(asyncio.Protocol):
    """One worker's output."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._transport: Any = None
        self._partial = b""

    @classmethod
    async def open(cls) -> Relay:
        """A relay in the running loop."""
        reading, writing = os.pipe()
        relay = cls()
        relay._descriptor = writing
        pipe = os.fdopen(reading, "rb", buffering=0)
        loop = asyncio.get_running_loop()
        relay._transport, _ = await loop.connect_read_pipe(lambda: relay, pipe)
        return relay

    @contextmanager
    def handing_over(self) -> Iterator[int]:
        """The descriptor to start a worker with; after the block nobody else has it, and without a worker it ends."""
        try:
            yield self._descriptor
        except BaseException:
            self._transport.close()
            raise
        finally:
            os.close(self._descriptor)

    def close(self) -> None:
        """Pass on what is there, and read no more."""
        pipe = self._transport.get_extra_info("pipe")
        with suppress(OSError, ValueError):  # nothing there, or closed already
            self.data_received(os.read(pipe.fileno(), MAX_LINE_BYTES))
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            _write(line)

    def connection_lost(self, error: Exception | None) -> None:
        if self._partial:
            _write(self._partial)


def _write(line: bytes) -> None:
    with suppress(OSError, ValueError):  # whoever looked has gone
        sys.stderr.write(line.decode("utf-8", "replace") + "\n")
        sys.stderr.flush()
