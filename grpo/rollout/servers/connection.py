"""HTTP to one server: JSON there and back, and answers that come in pieces. What is said is another's business."""

from __future__ import annotations

import http.client
import json
import os
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping
from urllib.parse import SplitResult, urlsplit

from grpo.monitor.redaction import first_words

KEY = "VLLM_API_KEY"
"""The environment variable with vLLM servers' key, if they ask for one; a recipe holds no secrets."""
READ_BYTES = 2**16


class ServerFault(RuntimeError):
    """A server did not do what it was asked; the message says which, and what came instead."""


class ServerLost(ServerFault):
    """A server does not answer, or stopped in the middle of an answer."""


class ServerRefused(ServerFault):
    """A server answered, and said no; ``status`` is HTTP's."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass(slots=True, eq=False)
class Address:
    """A server's URL, ``http://host:port``, perhaps with a path before the endpoints'.

    ``key`` is the environment variable with the servers' key.
    """

    url: str
    key: str = KEY
    parts: SplitResult = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self.parts = urlsplit(self.url)

    def get(self, path: str, timeout_seconds: float) -> Any:
        """What the server answers, read as JSON where it is."""
        with self._asked("GET", path, None, timeout_seconds) as answer:
            return _decoded(answer.read())

    def post(self, path: str, body: Mapping[str, Any], timeout_seconds: float) -> Any:
        """What the server answers to `body`. Never sent twice: whether it was heard cannot be known."""
        with self._asked("POST", path, body, timeout_seconds) as answer:
            return _decoded(answer.read())

    @contextmanager
    def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection(timeout_seconds)
        try:
            with self.speaking(path):
                yield self.answer(connection, method, path, body)
        finally:
            connection.close()

    @contextmanager
    def speaking(self, path: str) -> Iterator[None]:
        """Inside the block, what goes wrong on the way is a `ServerLost`."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ServerLost(f"{self.url} does not answer {path}: {reason}") from error

    def _connection(self, timeout_seconds: float | None) -> http.client.HTTPConnection:
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if self.parts.scheme == "https":
            kind = http.client.HTTPSConnection
        assert self.parts.hostname is not None, "the recipe's URLs were checked"
        return kind(self.parts.hostname, self.parts.port, timeout=timeout_seconds)

    def answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
    ) -> http.client.HTTPResponse:
        """The beginning of the answer; `ServerRefused` unless it is a yes."""
        headers = {"Accept": "application/json, text/event-stream"}
        if os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        connection.request(method, self.parts.path + path, body=data, headers=headers)
        answer = connection.getresponse()
        if answer.status >= 400:
            said = _reason(_decoded(answer.read()))
            message = f"{self.url} refuses {path} with {answer.status}: {said}"
            raise ServerRefused(message, answer.status)
        return answer


class Stream:
    """An answer in pieces (server-sent events), one JSON value each; `close` may be called by another thread."""

    def __init__(self, address: Address, path: str, body: Mapping[str, Any]):
        self.address = address
        self.path = path
        self.body = body
        self.is_closed = False
        self._socket: socket.socket | None = None

    def __iter__(self) -> Iterator[Any]:
        """The pieces, until the server says that there are no more; `ServerLost` if it stops before."""
        connection = self.address._connection(None)
        try:
            with self.address.speaking(self.path):
                connection.connect()
                self._socket = connection.sock
                if self.is_closed:
                    return
                answer = self.address.answer(connection, "POST", self.path, self.body)
                for data in _events(answer):
                    if data == "[DONE]":
                        return
                    yield json.loads(data)
            raise ServerLost(f"{self.address.url} broke off in the middle of an answer")
        finally:
            connection.close()

    def close(self) -> None:
        """Stop listening; the server notices and ends its work."""
        self.is_closed = True
        if self._socket is not None:
            with suppress(OSError):  # the other side may have been quicker
                self._socket.shutdown(socket.SHUT_RDWR)


def _events(answer: http.client.HTTPResponse) -> Iterator[str]:
    """The data of each event."""
    left = b""
    while piece := answer.read1(READ_BYTES):
        *lines, left = (left + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode()


def _decoded(data: bytes) -> Any:
    """JSON, or the text itself."""
    text = data.decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _reason(answer: Any) -> str:
    """A server's words for what is wrong, short."""
    for name in ("error", "message", "detail", "error_message"):
        if isinstance(answer, dict) and name in answer:
            return _reason(answer[name])
    return first_words(Exception(str(answer) or "no reason given"))
