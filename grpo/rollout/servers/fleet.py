"""The servers of a process: who is alive, what weights they hold, who has least to do."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

from grpo.model.adapters import save_adapters
from grpo.model.policy import Policy
from grpo.rollout.servers.connection import ServerFault, ServerLost
from grpo.rollout.servers.server import PREFIX, Server, Wanted
from rewards.spelling import many

ALIVE_SECONDS = 5.0
"""How long a server may take to say that it is well."""


class NoServerLeft(ServerFault):
    """Every server is lost; the run ends, to be resumed once one is back."""


@dataclass(slots=True, eq=False)
class Member:
    """A server of the fleet; ``lost`` says why it is not used, ``load`` how many completions it writes."""

    server: Server
    lost: str = ""
    load: int = 0


@dataclass(slots=True, eq=False)
class Fleet:
    """All servers of one process, and the folder through which weights reach them.

    ``held`` is the name of the weights that servers were brought to last, empty before the first push. They are the
    policy's as it is; with ``pinned`` those that `publish` wrote by that name, whatever the policy is by then. `kept`
    are the names that it wrote. `notes` are for the log. `publish` and `release` may be called while another thread
    pushes.
    """

    members: list[Member]
    policy: Policy
    folder: Path
    wanted: Wanted
    held: str = ""
    pinned: str = ""
    notes: list[str] = field(default_factory=list)
    version: int = -1
    _written: str = ""
    kept: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.members if not member.lost]

    def check(self) -> list[str]:
        """Everything that keeps one of them from sampling the policy, with the servers' addresses."""
        found = []
        for member in self.members:
            try:
                problems = member.server.problems(self.wanted, self.policy.tokenizer)
            except ServerFault as fault:
                found.append(str(fault))
            else:
                found += [f"{member.server.url} {problem}" for problem in problems]
        return found

    def least_busy(self) -> Member:
        """The server to send the next completion to; `NoServerLeft` if all are lost."""
        if not self.alive:
            reasons = "; ".join(member.lost for member in self.members)
            raise NoServerLeft(
                f"all of {many(len(self.members), 'server')} are lost ({reasons}); start them again and continue the "
                "run with --resume"
            )
        return min(self.alive, key=lambda member: member.load)

    def lose(self, member: Member, reason: str) -> None:
        """Use a server no more until it is found well again."""
        member.lost = reason
        member.load = 0
        left = f"{many(len(self.alive), 'server')} left"
        self.notes.append(f"servers: {member.server.url} is lost, {left}: {reason}")

    def is_well(self, member: Member) -> bool:
        return member.server.is_alive(ALIVE_SECONDS)

    # -- weights ----------------------------------------------------------------------------------------------

    def refresh(self) -> list[Member]:
        """Bring every server to the policy's weights, or to the pinned ones; those that were given them now.

        Lost ones are taken back if they are well again. One that forgot its weights, since it was started anew, gets
        them again. Raises `NoServerLeft`.
        """
        for member in self.members:
            if member.lost and self.is_well(member):
                self._take_back(member)
        self.held = self.pinned or self._current()
        behind = [member for member in self.alive if self._is_behind(member)]
        self._each(behind, lambda member: member.server.load(self._path, self.held))
        self._remove_older()
        self.least_busy()  # raises if none is left
        return [member for member in behind if not member.lost]

    def _take_back(self, member: Member) -> None:
        try:
            problems = member.server.problems(self.wanted, self.policy.tokenizer)
        except ServerFault:
            return
        if not problems:
            member.lost = ""
            self.notes.append(f"servers: {member.server.url} is back")

    def _is_behind(self, member: Member) -> bool:
        try:
            return member.server.holds() != self.held
        except ServerLost as fault:
            self.lose(member, str(fault))
            return False

    def _each(self, members: Sequence[Member], act: Callable[[Member], None]) -> None:
        """Do it for all at once; a server that is lost meanwhile costs a note, one that refuses ends the run."""
        if not members:
            return
        with ThreadPoolExecutor(len(members)) as pool:
            futures = [(member, pool.submit(act, member)) for member in members]
        for member, future in futures:
            fault = future.exception()
            if isinstance(fault, ServerLost):
                self.lose(member, str(fault))
            elif fault is not None:
                raise fault

    @property
    def _path(self) -> Path:
        return self.folder / self.held

    def publish(self) -> str:
        """Write the policy's weights as they are, and keep them until `release`; their name."""
        name = self._current()
        self.kept.add(name)
        return name

    def release(self, name: str) -> None:
        """Let go of weights that nobody will ask for any more."""
        self.kept.discard(name)

    def _current(self) -> str:
        """The name of the policy's weights as they are, which are written if they were not yet."""
        with self._lock:
            if self.version != self.policy.version or not self._written:
                self._write()
            return self._written

    def _write(self) -> None:
        """Write the weights where the servers find them; the name is never used for others."""
        policy = self.policy
        name = f"{PREFIX}{policy.version}-{policy.fingerprint():016x}"
        partial = self.folder / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if policy.model is not policy.base:
            save_adapters(policy.model, partial)
        else:
            policy.save(partial)
        shutil.rmtree(self.folder / name, ignore_errors=True)
        partial.rename(self.folder / name)
        self._written = name
        self.version = policy.version

    def _remove_older(self) -> None:
        with self._lock:
            staying = {self.held, self._written, *self.kept}
            for path in self.folder.iterdir():
                if path.name.startswith(PREFIX) and path.name not in staying:
                    shutil.rmtree(path, ignore_errors=True)
