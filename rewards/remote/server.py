"""The server: a reward service behind HTTP, for trainers that know its token and have the same rewards.

``GET /health`` answers anyone that it lives. With the token, ``GET /identity`` says which rewards it has and
``POST /judge`` judges samples by one of its lists; the answer is lines of JSON, signs of life and then the verdicts.
There is no way to name a function, a file or a setting: what judges was fixed when the server began.
"""

from __future__ import annotations

import hmac
import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

from rewards.remote.identity import Identity, OwnFile, changed_file, identity_of, own_files
from rewards.remote.wire import plain_score, samples_from
from rewards.sandbox import SandboxOptions
from rewards.service.service import RewardService
from rewards.service.ticket import Ticket
from rewards.types import RewardSpec, Sample

__all__ = ["Judges", "RewardServer"]

LARGEST_BODY = 256 << 20
BEAT_SECONDS = 2.0
"""How often a batch that is being judged gives a sign of life."""
READ_SECONDS = 60.0
"""How long a client may take to say what it wants."""


@dataclass(slots=True, eq=False)
class Judges:
    """One list of rewards that a server has; its workers start when it is first asked for.

    Rewards that see the step or log metrics (TRL's) judge one batch at a time, so that both belong to it.
    """

    specs: Sequence[RewardSpec]
    identity: Identity
    sandbox: SandboxOptions
    base_dir: str | Path | None = None
    workers: int | None = None
    files: Mapping[str, OwnFile] = field(default_factory=dict)
    _service: RewardService | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(
        specs: Sequence[RewardSpec],
        sandbox: SandboxOptions | None = None,
        *,
        base_dir: str | Path | None = None,
        workers: int | None = None,
    ) -> Judges:
        """The judges of these rewards; raises `ValueError` for rewards that cannot be served."""
        options = sandbox or SandboxOptions()
        identity = identity_of(specs, options, base_dir)
        return Judges(
            specs=tuple(specs),
            identity=identity,
            sandbox=options,
            base_dir=base_dir,
            workers=workers,
            files=own_files(specs, base_dir),
        )

    def problem(self) -> str:
        """Why they are no longer what `identity` says, which a trainer compares with files of its own."""
        name = changed_file(self.identity, self.files)
        if not name:
            return ""
        return (
            f"the file of rewards.{name}, or a module that it imports, has changed since this server began; "
            "start it again"
        )

    def service(self) -> RewardService:
        """The workers; raises `ValueError` if they cannot start."""
        with self._lock:
            if self._service is None:
                self._service = RewardService(
                    self.specs,
                    workers=self.workers,
                    base_dir=self.base_dir,
                    sandbox=self.sandbox,
                )
            return self._service

    @contextmanager
    def submitted(
        self, samples: Sequence[Sample], step: int | None, waits: Callable[[], None]
    ) -> Iterator[Ticket]:
        """The batch under way. `waits` is called every `BEAT_SECONDS` until its turn has come."""
        service = self.service()
        if not service.sees_step:
            with self._lock:
                ticket = self._submit(service, samples, step)
            yield ticket
            return
        while not self._turn.acquire(timeout=BEAT_SECONDS):
            waits()
        try:
            ticket = self._submit(service, samples, step)
            try:
                yield ticket
            finally:
                _settle(service, ticket)
        finally:
            self._turn.release()

    def _submit(
        self, service: RewardService, samples: Sequence[Sample], step: int | None
    ) -> Ticket:
        service.set_step(step)
        return service.submit(samples)

    def close(self) -> None:
        """Stop the workers."""
        if self._service is not None:
            self._service.close()


def _settle(service: RewardService, ticket: Ticket) -> None:
    """Let a batch end whose client has gone, and drop what its rewards logged: the next batch's must be its own."""
    with suppress(RuntimeError):  # the service is closed
        ticket.result()
    service.take_metrics()


class RewardServer:
    """Listens at ``host:port`` (0: any free one, see `url`) from its making on; `serve` answers until `close`.

    `judges` are the lists of rewards that may be asked for. Raises OSError if the address is taken.
    """

    def __init__(
        self, judges: Sequence[Judges], token: str, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        if not token:
            raise ValueError("a reward server needs a token")
        self.judges = {one.identity.digest: one for one in judges}
        self.token = token
        self.num_batches = 0
        self.num_samples = 0
        self._http = ThreadingHTTPServer((host, port), self._handler())
        self._http.daemon_threads = True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_Handler,), {"owner": self})

    @property
    def url(self) -> str:
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    def serve(self) -> None:
        """Answer, until `close` is called from another thread."""
        self._http.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stop answering, and stop the workers."""
        self._http.shutdown()
        self._http.server_close()
        for one in self.judges.values():
            one.close()


class _Refusal(Exception):
    """An answer other than yes."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    owner: RewardServer
    timeout = READ_SECONDS
    server_version = "grpo-rewards"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802  the name that http.server calls
        self._answered(self._get)

    def do_POST(self) -> None:  # noqa: N802
        self._answered(self._post)

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing is logged: addresses and paths are of no use here."""

    def _answered(self, answer: Any) -> None:
        try:
            answer()
        except _Refusal as refusal:
            self._send(refusal.status, {"error": str(refusal)})
        except (OSError, TimeoutError):
            self.close_connection = True  # the client has gone

    def _get(self) -> None:
        if self.path == "/health":
            self._send(200, {"ok": True})
            return
        self._check_token()
        if self.path != "/identity":
            raise _Refusal(404, f"there is no {self.path}")
        for one in self.owner.judges.values():
            _check_unchanged(one)
        lists = {digest: one.identity.to_mapping() for digest, one in self.owner.judges.items()}
        self._send(200, {"lists": lists, "batches": self.owner.num_batches})

    def _post(self) -> None:
        self._check_token()
        if self.path != "/judge":
            raise _Refusal(404, f"there is no {self.path}")
        body = self._body()
        judges = self.owner.judges.get(str(body.get("rewards")))
        if judges is None:
            raise _Refusal(409, "the rewards here are others")
        _check_unchanged(judges)
        try:
            samples = samples_from(body)
            step = _step_of(body)
            judges.service()
        except ValueError as error:
            raise _Refusal(400, str(error)) from None
        self._begin_stream()
        waits = partial(self._line, {"open": len(samples) * len(judges.specs)})
        with suppress(
            RuntimeError
        ):  # the server is being closed; the client sees that it broke off
            with judges.submitted(samples, step, waits) as ticket:
                self._stream(judges.service(), ticket)

    def _check_token(self) -> None:
        wanted = f"Bearer {self.owner.token}".encode()
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(wanted, given):
            raise _Refusal(401, "the token is missing or wrong")

    def _body(self) -> Mapping[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            raise _Refusal(
                413, f"a body of at most {LARGEST_BODY} bytes is needed, with its length"
            )
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise _Refusal(400, "the body is no JSON object")
        return body

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/jsonl")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def _stream(self, service: RewardService, ticket: Ticket) -> None:
        """Signs of life while the batch is judged, then its verdicts and what its rewards logged."""
        while not ticket.done():
            self._line({"open": ticket.num_open})
            try:
                ticket.result(timeout=BEAT_SECONDS)
            except TimeoutError:
                continue
        judged = ticket.result()
        self.owner.num_batches += 1
        self.owner.num_samples += len(judged)
        metrics = service.take_metrics() if service.sees_step else {}
        self._line({"verdicts": list(map(_verdict, judged)), "metrics": metrics})

    def _line(self, value: Any) -> None:
        self.wfile.write(json.dumps(value).encode() + b"\n")
        self.wfile.flush()


def _check_unchanged(judges: Judges) -> None:
    problem = judges.problem()
    if problem:
        raise _Refusal(409, problem)


def _step_of(body: Mapping[str, Any]) -> int | None:
    step = body.get("step")
    if step is not None and not isinstance(step, int):
        raise ValueError("step is no whole number")
    return step


def _verdict(judged: Any) -> dict[str, Any]:
    """Each reward's score; sums are the trainer's."""
    parts = {name: plain_score(score) for name, score in judged.parts.items()}
    return {"parts": parts, "seconds": judged.seconds}
