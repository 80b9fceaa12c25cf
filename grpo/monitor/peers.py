"""Where the other ranks are: each rank's watchdog reports its own position through the process group's store."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from typing import Any, Protocol, Sequence

import psutil

from grpo.monitor.stacks import location_of
from grpo.monitor.waits import PROCESS, Wait

MAX_REASON_LENGTH = 200  # characters of an error that are shown

Note = dict[str, Any]
"""What a rank reports of itself, as JSON: see `Peers._note`."""


class Store(Protocol):
    """The part of torch's distributed store that is used here."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


class Peers:
    """The position of each rank, as its own watchdog reports it with every tick.

    One that reported nothing for ``silence_seconds`` is said not to be heard from: where it was is then no news.
    """

    def __init__(self, store: Store, rank: int, world: int, silence_seconds: float = math.inf):
        self.store = store
        self.rank = rank
        self.silence_seconds = silence_seconds
        self.others = [other for other in range(world) if other != rank]
        self.notes: dict[int, Note] = {}
        self.heard: dict[int, float] = {}  # when the note of a rank came, by this machine's clock
        self.lost = ""
        self._main = threading.main_thread().ident or 0
        self._moves = 0
        self._location = ""
        self._helper: threading.Thread | None = None
        self._addresses = _own_addresses()

    def exchange(self, waits: Sequence[Wait]) -> None:
        """Report where this rank's main thread is and read where the others' are, in a thread nobody waits for."""
        if self.lost or self._is_unanswered():
            return
        note = self._note(next((wait for wait in waits if wait.thread == self._main), None))
        self._helper = threading.Thread(
            target=self._exchange, args=(note,), name="watchdog's exchange", daemon=True
        )
        self._helper.start()

    def _note(self, wait: Wait | None) -> Note:
        """What this rank reports, given the innermost wait of its main thread."""
        location = location_of(self._main)
        has_moved = wait.idle_seconds == 0 if wait else location != self._location
        in_collective = wait is not None and wait.name == "collective"
        self._location = location
        self._moves += has_moved and not in_collective
        return {
            "at": time.time(),
            "host": socket.gethostname(),
            "addresses": self._addresses,
            "process": os.getpid(),
            "wait": str(wait) if wait else "",
            "location": location,
            "collectives": PROCESS.num_collectives,
            "in_collective": in_collective,
            "moves": self._moves,
            "idle": wait.idle_seconds if wait else 0.0,
        }

    def _exchange(self, note: Note) -> None:
        try:
            self.store.set(f"rank{self.rank}", json.dumps(note))
            for other in self.others:
                if self.store.check([f"rank{other}"]):
                    self._hear(other, json.loads(self.store.get(f"rank{other}")))
        except RuntimeError as error:  # the store is gone with the rank that hosted it
            self.lost = " ".join(str(error).split())[:MAX_REASON_LENGTH]

    def _hear(self, rank: int, note: Note) -> None:
        if self.notes.get(rank) != note:
            self.notes[rank] = note
            self.heard[rank] = time.monotonic()

    def progress(self) -> Any:
        """Changes as long as some other rank makes progress outside of collectives, or reaches the next one."""
        return [
            (rank, note["moves"], note["collectives"]) for rank, note in sorted(self.notes.items())
        ]

    def lines(self) -> list[str]:
        """Where every other rank was last seen: those not heard from, those that have not arrived, the others."""
        silent = [rank for rank in self.others if self._is_silent(rank)]
        speaking = [rank for rank in self.others if rank not in silent]
        arrived = [rank for rank in speaking if self._has_arrived(rank)]
        missing = [rank for rank in speaking if rank not in arrived]
        lines = [self._last_heard(rank) for rank in silent]
        lines += [f"rank {rank} has NOT arrived: {self._seen(rank)}" for rank in missing]
        lines += [f"rank {rank} has arrived: {self._seen(rank)}" for rank in arrived]
        if silent and self._is_unanswered():
            lines.append(
                "the store that the ranks share, on the machine of rank 0, does not answer, so nothing newer is known "
                "of any rank"
            )
        if self.lost:
            lines.append(f"the store that the ranks share cannot be reached: {self.lost}")
        return lines

    def ended(self) -> list[int]:
        """The ranks on this machine whose process has ended since it reported where it is."""
        here = socket.gethostname()
        notes = sorted(self.notes.items())
        return [
            rank for rank, note in notes if note["host"] == here and _has_ended(note["process"])
        ]

    def broken_off(self, message: str) -> list[tuple[int, str]]:
        """(rank, host) of each rank on other machines of which an error's `message` gives the address in brackets."""
        here = socket.gethostname()
        found = []
        for rank, note in sorted(self.notes.items()):
            is_named = any(f"[{address}]" in message for address in note["addresses"])
            if is_named and note["host"] != here:
                found.append((rank, note["host"]))
        return found

    def _has_arrived(self, rank: int) -> bool:
        """Whether `rank` is in the collective in which this rank waits, or past it."""
        note = self.notes.get(rank)
        if note is None:
            return False
        if note["collectives"] == PROCESS.num_collectives:
            return bool(note["in_collective"])
        return bool(note["collectives"] > PROCESS.num_collectives)

    def _is_unanswered(self) -> bool:
        return self._helper is not None and self._helper.is_alive()

    def _quiet_seconds(self, rank: int) -> float:
        return time.monotonic() - self.heard[rank]

    def _is_silent(self, rank: int) -> bool:
        return rank in self.heard and self._quiet_seconds(rank) >= self.silence_seconds

    def _last_heard(self, rank: int) -> str:
        note = self.notes[rank]
        return (
            f"rank {rank} (process {note['process']} on {note['host']}) has NOT been heard from for "
            f"{self._quiet_seconds(rank):.0f} s, look at its machine and the network; when last heard from, it was in "
            f"{note['wait'] or 'no named wait'} at {note['location']}"
        )

    def _seen(self, rank: int) -> str:
        note = self.notes.get(rank)
        if note is None:
            return "it never reported where it is"
        doing = f"it waits for {note['wait']}" if note["wait"] else "it is in no named wait"
        return (
            f"{doing}, {note['idle']:.3g} s without progress, at {note['location']} (reported "
            f"{self._quiet_seconds(rank):.0f} s ago)"
        )


def _own_addresses() -> list[str]:
    """The addresses of this machine by which others reach it."""
    cards = [card for name, card in psutil.net_if_addrs().items() if name != "lo"]
    kinds = (socket.AF_INET, socket.AF_INET6)
    return [one.address for card in cards for one in card if one.family in kinds]


def _has_ended(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:  # it is there, and another user's
        return False
