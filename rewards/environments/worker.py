"""A worker process for tools and environments: operations come in as the parent's pickles, messages go out as JSON.

Started by ``rewards.service.process`` in a fresh interpreter. It enforces no deadline but that of async calls: a tool
may be stuck in C code, so the parent watches the clock and kills.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO, Callable, Mapping

from rewards.environments.executor import Executor
from rewards.own_modules import serve
from rewards.service.worker import die_with

__all__ = ["main"]


def main(descriptor: int, parent: int) -> None:
    """Serve until the parent closes its end of the socket."""
    die_with(parent)
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    inbox = connection.makefile("rb")
    hosted, path, folder = pickle.load(inbox)
    sys.path[:] = path
    os.chdir(folder)
    for one in hosted:
        serve(one.sources.modules if one.sources else None)
    asyncio.run(_serve(connection, inbox, hosted))


async def _serve(connection: socket.socket, inbox: BinaryIO, hosted: Any) -> None:
    """Operations are read by a thread, so that the loop is never held up by a parent that writes slowly."""
    loop = asyncio.get_running_loop()
    executor = Executor(hosted, _sender(connection))
    reader = threading.Thread(target=_read, args=(inbox, loop, executor), daemon=True)
    reader.start()
    await asyncio.Event().wait()


def _read(inbox: BinaryIO, loop: asyncio.AbstractEventLoop, executor: Executor) -> None:
    try:
        while True:
            loop.call_soon_threadsafe(executor.begin, pickle.load(inbox))
    except (EOFError, ConnectionError, pickle.UnpicklingError):
        os._exit(0)  # the parent is done with us; a tool's stray threads must not keep us alive


def _sender(connection: socket.socket) -> Callable[[Mapping[str, Any]], None]:
    """Sends from any thread."""
    owner = os.getpid()
    turn = threading.Lock()

    def send(message: Mapping[str, Any]) -> None:
        if os.getpid() != owner:
            return  # a child that a tool has forked is not the worker
        line = json.dumps(message).encode() + b"\n"
        with turn, suppress(OSError):  # the parent may be gone
            connection.sendall(line)

    return send
