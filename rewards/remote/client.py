"""One reward server, as a trainer talks to it: what it is, and verdicts on a batch."""

from __future__ import annotations

import http.client
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, Mapping
from urllib.parse import urlsplit

from rewards.remote.identity import Identity, difference

__all__ = ["TOKEN", "RemoteServer", "ServerLost"]

TOKEN = "GRPO_REWARDS_TOKEN"
"""The environment variable with the servers' token; a recipe holds no secrets."""
ASK_SECONDS = 10.0
LARGEST_LINE = 256 << 20


class ServerLost(ConnectionError):
    """A server does not answer, broke off, or no longer is what it was; the message names it."""


@dataclass(slots=True, eq=False)
class RemoteServer:
    """A server by its URL. ``silence_seconds`` is how long it may give no sign of life."""

    url: str
    token: str
    silence_seconds: float = 30.0

    def problem(self, ours: Identity) -> str:
        """Why it cannot judge by our rewards, with its address; empty if it can."""
        try:
            with self._asked("GET", "/identity", None, ASK_SECONDS) as answer:
                found = _object(answer.read(LARGEST_LINE))
        except ServerLost as lost:
            return str(lost)
        lists = found.get("lists")
        if not isinstance(lists, dict):
            return f"{self.url} is no reward server"
        if ours.digest in lists:
            return ""
        return f"{self.url} {difference(ours, list(lists.values()))}"

    def judge(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The server's last line on a batch: ``verdicts`` and ``metrics``. Raises `ServerLost`.

        Never sent twice to the same server: whether it was heard cannot be known.
        """
        with self._asked("POST", "/judge", body, self.silence_seconds) as answer:
            while line := answer.readline(LARGEST_LINE):
                found = _object(line)
                if "verdicts" in found:
                    return found
        raise ServerLost(f"{self.url} broke off")

    @contextmanager
    def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        """The beginning of a yes; inside the block too, what goes wrong on the way is a `ServerLost`."""
        connection = self._connection(seconds)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            folder = urlsplit(self.url).path.rstrip("/")
            connection.request(method, f"{folder}{path}", data, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                said = _object(answer.read(1 << 16)).get("error", "")
                raise ServerLost(f"{self.url} says {answer.status}: {self._hint(answer, said)}")
            yield answer
        except ServerLost:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ServerLost(f"{self.url} does not answer: {reason}") from error
        finally:
            connection.close()

    def _hint(self, answer: http.client.HTTPResponse, said: str) -> str:
        if answer.status == 401:
            return f"{said}; set {TOKEN} to the server's"
        return str(said)

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            kind = http.client.HTTPSConnection
        return kind(parts.hostname or "", parts.port, timeout=seconds)


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object, empty for anything else."""
    found = json.loads(data) if data else {}
    return found if isinstance(found, dict) else {}


def token_of_environment() -> str:
    """The token that the environment names; empty without one."""
    return os.environ.get(TOKEN, "")
