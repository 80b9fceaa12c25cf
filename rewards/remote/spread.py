"""A reward service whose workers are elsewhere: batches spread over servers, and go to another when one is lost.

It is used as `rewards.service.service.RewardService` is. The verdict on a completion is combined here, from the scores
of one server's whole answer: what a lost server had judged is forgotten, so that nothing counts twice. A server that
is lost is asked again at the next step.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable, Iterable, Mapping, Sequence

from rewards.conventions import fault
from rewards.remote.client import RemoteServer, ServerLost, token_of_environment
from rewards.remote.identity import identity_of
from rewards.remote.wire import plain_samples, score_from
from rewards.sandbox import SandboxOptions
from rewards.service.functions import check_specs, function_of
from rewards.service.ticket import Judged, Ticket
from rewards.spelling import many
from rewards.types import RewardSpec, Sample, Score

__all__ = ["NoRewardServerLeft", "RemoteRewards"]

BATCHES_A_SERVER = 16
"""How many batches are sent to a server at a time."""


class NoRewardServerLeft(ConnectionError):
    """Every server is lost; the run ends, to be resumed once one is back."""


@dataclass(slots=True, eq=False)
class _Member:
    """A server; ``lost`` says why it is not used, ``num_open`` how many batches it has."""

    server: RemoteServer
    lost: str = ""
    num_open: int = 0
    num_judged: int = 0


class _Threads:
    """Daemon threads that call what they are given; a process that ends does not wait for them."""

    def __init__(self, number: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._number = number
        for _ in range(number):
            threading.Thread(target=self._work, name="reward servers", daemon=True).start()

    def submit(self, function: Callable[..., Any], *values: Any) -> Future[Any]:
        """Call the function in some thread; its result, or what it raised, is the future's."""
        future: Future[Any] = Future()

        def call() -> None:
            try:
                future.set_result(function(*values))
            except BaseException as error:  # noqa: BLE001  whoever asks for the result gets it
                future.set_exception(error)

        self._calls.put(call)
        return future

    def _work(self) -> None:
        while call := self._calls.get():
            call()

    def close(self) -> None:
        """Let each thread end after what it is doing, and after what was submitted before."""
        for _ in range(self._number):
            self._calls.put(None)


class RemoteRewards:
    """Judges completions by the rewards of a recipe at servers that have the same.

    ``token`` is by default that of the environment. Raises `ValueError` naming every server that does not answer or
    whose rewards are not ours, and every reward that no server can have.
    """

    num_from_cache = 0

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        urls: Sequence[str],
        *,
        token: str | None = None,
        base_dir: str | Path | None = None,
        sandbox: SandboxOptions | None = None,
        silence_seconds: float = 30.0,
    ) -> None:
        check_specs(specs, workers=None)
        self.specs = tuple(specs)
        self.num_judged = 0
        self._step: int | None = None
        self._conventions = [function_of(spec, base_dir).convention for spec in specs]
        self._identity = identity_of(specs, sandbox or SandboxOptions(), base_dir)
        secret = token_of_environment() if token is None else token
        self._members = [_Member(RemoteServer(url, secret, silence_seconds)) for url in urls]
        self._lock = threading.Lock()
        self._metrics: dict[str, list[float]] = {}
        self._open: set[Ticket] = set()
        self._is_closed = False
        self._threads = _Threads(BATCHES_A_SERVER * len(self._members) + 1)
        weakref.finalize(self, self._threads.close)
        self._check()

    def _check(self) -> None:
        ask = [self._threads.submit(self._problem, one) for one in self._members]
        problems = [found for future in ask if (found := future.result())]
        if problems:
            self._threads.close()
            raise ValueError(f"rewards_service.servers: {'; '.join(problems)}")

    @property
    def isolation(self) -> list[str]:
        """Where the rewards are judged, in a line for the log."""
        urls = ", ".join(member.server.url for member in self._members)
        return [f"rewards: judged at {urls}, in the sandbox of each"]

    # ---- what a reward service does

    def submit(self, samples: Sequence[Sample]) -> Ticket:
        """Send the samples to a server and return at once; they are one batch."""
        if self._is_closed:
            raise RuntimeError("the reward service is closed")
        ticket = Ticket(self.specs, len(samples))
        if not samples:
            return ticket
        body, unsendable = plain_samples(samples)
        body["rewards"] = self._identity.digest
        body["step"] = self._step
        faults = {
            (index, spec.name): score
            for index, (sample, problems) in enumerate(zip(samples, unsendable))
            for spec, score in self._refused(sample, problems)
        }
        self.num_judged += len(samples) * len(self.specs)
        with self._lock:
            self._open.add(ticket)
        ticket.future.add_done_callback(lambda _: self._forget(ticket))
        self._threads.submit(self._judged_somewhere, ticket, body, faults)
        return ticket

    def _refused(
        self, sample: Sample, problems: Mapping[str, str]
    ) -> Iterable[tuple[RewardSpec, Score]]:
        """The rewards that would see a column which cannot be sent."""
        for spec, convention in zip(self.specs, self._conventions if problems else ()):
            seen = [name for name in convention.trim(sample).columns if name in problems]
            if seen:
                why = f"the row's column {seen[0]} cannot be sent to a server: {problems[seen[0]]}"
                yield spec, fault(f"{convention.name}: {why}")

    def judge(self, samples: Sequence[Sample]) -> list[Judged]:
        """Judge the samples and wait for the verdicts, in order."""
        return self.submit(samples).result()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """The combined score of each sample, in order."""
        return [judged.score for judged in self.judge(samples)]

    def set_step(self, step: int) -> None:
        """The step of what is submitted from now on; servers that were lost are asked whether they are back."""
        self._step = step
        for member in self._members:
            if member.lost:
                self._threads.submit(self._take_back, member)

    def take_metrics(self) -> dict[str, list[float]]:
        """What rewards logged by ``log_metric`` since the last call, of batches whose verdicts have arrived."""
        with self._lock:
            taken = self._metrics
            self._metrics = {}
        return taken

    @property
    def num_open(self) -> int:
        """How many verdicts of all submissions are still missing."""
        with self._lock:
            return sum(ticket.num_open for ticket in self._open)

    def describe(self) -> list[str]:
        """What each server does, in lines."""
        return [_described(member) for member in self._members]

    def close(self) -> None:
        """Wait for no more verdicts. Tickets still open fail with `RuntimeError`."""
        self._is_closed = True
        with self._lock:
            left = list(self._open)
        for ticket in left:
            _fail(ticket, RuntimeError("the reward service was closed"))
        self._threads.close()

    def __enter__(self) -> RemoteRewards:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- in threads

    def _judged_somewhere(
        self, ticket: Ticket, body: Mapping[str, Any], faults: Mapping[tuple[int, str], Score]
    ) -> None:
        """Let servers judge the batch until one has; the first whole answer counts."""
        if ticket.done():  # closed before it began
            return
        try:
            answer = self._answer(body)
            self._deliver(ticket, answer, faults)
        except Exception as error:  # noqa: BLE001  whoever waits for the ticket is told
            _fail(ticket, error)

    def _answer(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        while True:
            member = self._least_busy()
            try:
                answer = member.server.judge(body)
                if len(answer["verdicts"]) != len(body["samples"]):
                    raise ServerLost(f"{member.server.url}: the verdicts are on other samples")
                member.num_judged += 1
                return answer
            except ServerLost as lost:
                member.lost = str(lost)
            finally:
                with self._lock:
                    member.num_open -= 1

    def _least_busy(self) -> _Member:
        """The server for the next batch, which is counted; `NoRewardServerLeft` if all are lost."""
        with self._lock:
            alive = [member for member in self._members if not member.lost]
            if not alive:
                reasons = "; ".join(member.lost for member in self._members)
                raise NoRewardServerLeft(
                    f"no reward server is left ({reasons}); start them again and continue the run with --resume"
                )
            chosen = min(alive, key=lambda member: member.num_open)
            chosen.num_open += 1
            return chosen

    def _deliver(
        self, ticket: Ticket, answer: Mapping[str, Any], faults: Mapping[tuple[int, str], Score]
    ) -> None:
        with self._lock:
            for name, values in answer.get("metrics", {}).items():
                self._metrics.setdefault(name, []).extend(values)
        for index, verdict in enumerate(answer["verdicts"]):
            seconds = verdict["seconds"]
            for spec in self.specs:
                score = faults.get((index, spec.name)) or score_from(verdict["parts"][spec.name])
                ticket.deliver(index, spec.name, score, seconds)
                seconds = 0.0

    def _problem(self, member: _Member) -> str:
        return member.server.problem(self._identity)

    def _take_back(self, member: _Member) -> None:
        if not self._problem(member):
            member.lost = ""

    def _forget(self, ticket: Ticket) -> None:
        with self._lock:
            self._open.discard(ticket)


def _fail(ticket: Ticket, error: BaseException) -> None:
    with suppress(InvalidStateError):  # it has its verdicts
        ticket.future.set_exception(error)


def _described(member: _Member) -> str:
    if member.lost:
        return f"reward server {member.server.url}: lost ({member.lost})"
    return (
        f"reward server {member.server.url}: {many(member.num_open, 'batch')} under way, "
        f"{many(member.num_judged, 'batch')} judged"
    )
