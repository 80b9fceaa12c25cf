"""Two hosts joined by one cable, as namespaces of this machine; and runs of a process on each.

A host has a network, a hostname and a loopback of its own, and sees the files of this machine. It lives as long as the
process that holds its namespaces, so nothing is left behind.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator

NEWUTS = 0x04000000
NEWNET = 0x40000000
NOWHERE = "02:00:00:00:00:99"
"""The address of a network card that nobody has."""
HOLDER = """
import ctypes, os, socket, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x40000000 | 0x04000000):
    sys.exit(os.strerror(ctypes.get_errno()))
socket.sethostname(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


class NoHosts(OSError):
    """This machine does not let us make namespaces, or a cable between them."""


@dataclass(frozen=True)
class Host:
    """A machine: the process that holds its namespaces, its card and its address."""

    name: str
    process: int
    card: str
    address: str

    def ip(self, *words: str) -> None:
        """Run ``ip`` on this host."""
        call("nsenter", f"--net=/proc/{self.process}/ns/net", "ip", *words)

    def enter(self) -> None:
        """Move this process, which must have one thread, to the host."""
        library = ctypes.CDLL(None, use_errno=True)
        for kind, flag in (("net", NEWNET), ("uts", NEWUTS)):
            descriptor = os.open(f"/proc/{self.process}/ns/{kind}", os.O_RDONLY)
            if library.setns(descriptor, flag):
                raise OSError(ctypes.get_errno(), "setns")
            os.close(descriptor)


@dataclass(frozen=True)
class Cable:
    """What joins two hosts."""

    hosts: tuple[Host, Host]

    def cut(self) -> None:
        """No packet passes from now on; the first host's card notices that it has no carrier."""
        self.hosts[1].ip("link", "set", self.hosts[1].card, "down")

    def cut_one_way(self) -> None:
        """What the first host sends is lost, without a word; what the second sends arrives."""
        first, second = self.hosts
        words = ("neighbour", "replace", second.address, "lladdr", NOWHERE, "nud", "permanent")
        first.ip(*words, "dev", first.card)

    def mend(self) -> None:
        """Undo what was cut."""
        first, second = self.hosts
        second.ip("link", "set", second.card, "up")
        first.ip("neighbour", "flush", "nud", "permanent", "dev", first.card)


def call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise NoHosts(f"{' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def two_hosts() -> Iterator[Cable]:
    """Two hosts that reach each other. Raises `NoHosts` where that is not allowed."""
    missing = [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]
    if missing:
        raise NoHosts(f"{' and '.join(missing)} not found")
    holders = []
    try:
        for name in ("one", "two"):
            holders.append(held(name))
        cable = joined(*(holder.pid for holder in holders))
        yield cable
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def held(name: str) -> subprocess.Popen[str]:
    """A process in namespaces of its own, with that hostname."""
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLDER, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    if holder.stdout.readline() != "ready\n":
        raise NoHosts(f"no namespace of its own: {holder.communicate()[1].strip()}")
    return holder


def joined(first: int, second: int) -> Cable:
    """A cable between the hosts that two processes hold."""
    one = Host("one", first, "eth-one", "10.77.0.1")
    two = Host("two", second, "eth-two", "10.77.0.2")
    one.ip(
        *("link", "add", one.card, "type", "veth", "peer", "name", two.card, "netns", str(second))
    )
    for host in (one, two):
        host.ip("addr", "add", f"{host.address}/24", "dev", host.card)
        host.ip("link", "set", host.card, "up")
        host.ip("link", "set", "lo", "up")
    return Cable((one, two))
