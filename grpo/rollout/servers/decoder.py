"""Completions from servers: each sequence is one request, with a seed of its own, at the server that has least to do.

Answers come in pieces, so that what is cut off keeps its tokens, and so that a server that hangs is told from one that
is slow. A sequence whose server is lost begins again at another one, with the same seed; what it had is forgotten, so
nothing counts twice. A sequence that an earlier step began goes on with a seed of its own, since a server draws from
the beginning of a seed's noise.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

from grpo.kernels.sampling.spec import Sampling, completion_seed
from grpo.rollout.decoder import Unwanted, in_unwanted_groups
from grpo.rollout.memory import EngineStats
from grpo.rollout.sequence import RolloutSequence, Stops
from grpo.rollout.servers.connection import ServerFault, ServerLost, ServerRefused
from grpo.rollout.servers.fleet import Fleet, Member
from grpo.rollout.servers.server import Answer, Asked, Piece, Server, unknown_ids
from grpo.rollout.waiting import Waiting
from grpo.types import Prompt
from rewards.spelling import many

POLL_SECONDS = 0.1
"""How often interruptions are looked for while no piece comes."""
MOST_TRIES = 3
"""How often a request may fail at servers that are well."""
AfterPush = Callable[[Sequence[Server], Sequence[Prompt], Sampling], None]
"""Called with the servers that were given new weights and the prompts to be sampled; raises if they must not be."""


def probe_nothing(servers: Sequence[Server], prompts: Sequence[Prompt], sampling: Sampling) -> None:
    """An `AfterPush` that trusts them."""


@dataclass(slots=True, eq=False)
class _Request:
    """One attempt at one sequence."""

    sequence: RolloutSequence
    member: Member
    answer: Answer
    tries: int

    def read(self, events: queue.SimpleQueue[tuple[_Request, Piece | ServerFault | None]]) -> None:
        """Put every piece into `events`, then None, or what went wrong."""
        try:
            for piece in self.answer:
                events.put((self, piece))
        except ServerFault as fault:
            events.put((self, fault))
        else:
            events.put((self, None))


class ServerDecoder:
    """Samples sequences at the servers of `fleet`, at most ``max_rows`` at a time.

    ``silence_seconds`` is how long a server that has work may send nothing before it is given up.
    """

    def __init__(
        self,
        fleet: Fleet,
        stats: EngineStats,
        *,
        max_rows: int,
        silence_seconds: float,
        after_push: AfterPush = probe_nothing,
    ):
        self.fleet = fleet
        self.stats = stats
        self.max_rows = max_rows
        self.silence_seconds = silence_seconds
        self.after_push = after_push
        self.call: _Call | None = None

    def run(
        self,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        unwanted: Unwanted,
        waiting: Waiting,
    ) -> Iterator[RolloutSequence]:
        """Yield each sequence as it ends, cancelled if its group is `unwanted`; servers get new weights first."""
        self._push(sequences, sampling)
        self.call = _Call(self, sequences, sampling, stops, unwanted=unwanted)
        try:
            yield from self.call.run()
        finally:
            self.call.close()
            self.stats.notes += self.fleet.notes
            self.fleet.notes.clear()

    def _push(self, sequences: Sequence[RolloutSequence], sampling: Sampling) -> None:
        prompts = {sequence.prompt.id: sequence.prompt for sequence in sequences}
        while True:
            changed = self.fleet.refresh()
            if not changed:
                return
            try:
                servers = [member.server for member in changed]
                self.after_push(servers, list(prompts.values()), sampling)
                return
            except ServerLost as fault:
                for member in changed:
                    if not self.fleet.is_well(member):
                        self.fleet.lose(member, str(fault))

    def describe(self) -> list[str]:
        """How much each server does."""
        in_flight = 0 if self.call is None else len(self.call.requests)
        servers = f"{len(self.fleet.alive)} of {many(len(self.fleet.members), 'server')}"
        return [f"{many(in_flight, 'completion')} at {servers}"]

    def release(self) -> None:
        """Nothing is held between calls but the servers' own weights."""


class _Call:
    """The requests of one call."""

    def __init__(
        self,
        decoder: ServerDecoder,
        sequences: Sequence[RolloutSequence],
        sampling: Sampling,
        stops: Stops,
        *,
        unwanted: Unwanted,
    ):
        self.fleet = decoder.fleet
        self.stats = decoder.stats
        self.decoder = decoder
        self.sampling = sampling
        self.stops = stops
        self.unwanted = unwanted
        self.queue = list(sequences)
        self.requests: dict[RolloutSequence, _Request] = {}
        self.tries: dict[RolloutSequence, int] = {}
        self.events: queue.SimpleQueue[tuple[_Request, Piece | ServerFault | None]] = (
            queue.SimpleQueue()
        )
        self.heard: dict[str, float] = {}
        self.bias = unknown_ids(decoder.fleet.policy)

    def run(self) -> Iterator[RolloutSequence]:
        """Yield each sequence as it ends."""
        while self.queue or self.requests:
            yield from self._cancelled()
            self._send()
            if not self.requests:
                continue
            for request, event in self._next_events():
                if self.requests.get(request.sequence) is not request:
                    continue  # of an attempt that was given up
                self.heard[request.member.server.url] = time.monotonic()
                if self._take(request, event):
                    self._end(request)
                    yield request.sequence
            self._give_up_silent()

    def close(self) -> None:
        """Break off what is still in flight."""
        for request in self.requests.values():
            request.answer.close()
        self.requests.clear()

    # -- sending ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        while self.queue and len(self.requests) < self.decoder.max_rows:
            member = self.fleet.least_busy()
            self._start(self.queue.pop(0), member)

    def _start(self, sequence: RolloutSequence, member: Member) -> None:
        sequence.num_computed = len(sequence.tokens)
        asked = self._asked(sequence)
        request = _Request(
            sequence=sequence,
            member=member,
            answer=member.server.ask(asked),
            tries=self.tries.get(sequence, 0),
        )
        self.requests[sequence] = request
        if not member.load:
            self.heard[member.server.url] = time.monotonic()
        member.load += 1
        self.stats.prefill_tokens += len(asked.prompt_ids)
        name = f"completion at {member.server.url}"
        threading.Thread(target=request.read, args=[self.events], name=name, daemon=True).start()

    def _asked(self, sequence: RolloutSequence) -> Asked:
        seed = sequence.seed
        if sequence.tokens:
            seed = completion_seed(seed, "from", len(sequence.tokens))
        return Asked(
            prompt_ids=(*sequence.prompt.token_ids, *sequence.tokens),
            max_tokens=sequence.limit - len(sequence.tokens),
            seed=seed,
            sampling=self.sampling,
            stop_ids=tuple(sorted(self.stops.policy.stop_ids)),
            stop_strings=self.stops.strings,
            bias=self.bias,
        )

    # -- receiving --------------------------------------------------------------------------------------------

    def _next_events(self) -> Iterator[tuple[_Request, Piece | ServerFault | None]]:
        """What has come, after a short wait for it."""
        try:
            yield self.events.get(timeout=POLL_SECONDS)
            while True:
                yield self.events.get_nowait()
        except queue.Empty:
            return

    def _take(self, request: _Request, event: Piece | ServerFault | None) -> bool:
        """Record what came; whether the sequence has ended."""
        if isinstance(event, ServerFault):
            self._failed(request, event)
            return False
        if event is None:
            ended = ServerLost(f"{request.member.server.url} ended an answer without a reason")
            self._failed(request, ended)
            return False
        sequence = request.sequence
        self.stats.steps += 1
        for token, logp in zip(event.token_ids, event.logps):
            self.stats.rows_alive += 1
            self.stats.rows_computed += 1
            sequence.append(token, logp, None, self.stops)
            if sequence.finish:
                return True
        if not event.finish:
            return False
        if event.finish == "abort":
            self._failed(request, ServerLost(f"{request.member.server.url} broke off a completion"))
            return False
        return self._ended_by_server(request, event)

    def _ended_by_server(self, request: _Request, event: Piece) -> bool:
        """The server saw an end where we see none: a stop string that it decodes otherwise, or a limit of its own."""
        sequence = request.sequence
        if event.finish == "stop" and event.stop is not None:
            sequence.finish = "stop"
            sequence.stop = event.stop
            return True
        raise ServerFault(
            f"{request.member.server.url} ended a completion by {event.finish} after "
            f"{many(sequence.num_written, 'token')}, of {sequence.limit - sequence.num_given} that it may have"
        )

    def _end(self, request: _Request) -> None:
        del self.requests[request.sequence]
        request.member.load -= 1
        request.answer.close()

    # -- what goes wrong --------------------------------------------------------------------------------------

    def _failed(self, request: _Request, fault: ServerFault) -> None:
        """Try again: at other servers if this one is lost, here or there if it is well. A refusal ends the run."""
        if isinstance(fault, ServerRefused) and fault.status < 500:
            raise fault
        if not self.fleet.is_well(request.member):
            self._lose(request.member, str(fault))
            return
        self._again(request)
        tries = self.tries.get(request.sequence, 0) + 1
        self.tries[request.sequence] = tries
        if tries >= MOST_TRIES:
            raise ServerFault(f"a completion failed {tries} times, the last time since {fault}")

    def _lose(self, member: Member, reason: str) -> None:
        """Begin its completions anew at other servers."""
        for request in [one for one in self.requests.values() if one.member is member]:
            self._again(request)
        self.fleet.lose(member, reason)

    def _again(self, request: _Request) -> None:
        self._end(request)
        sequence = request.sequence
        self.stats.replayed += len(sequence.tokens) - sequence.num_resumed
        sequence.restart()
        self.queue.insert(0, sequence)

    def _give_up_silent(self) -> None:
        """Lose servers that have work and have sent nothing for too long."""
        now = time.monotonic()
        for member in self.fleet.alive:
            silent = now - self.heard.get(member.server.url, now)
            if member.load and silent > self.decoder.silence_seconds:
                self._lose(member, f"{member.server.url} has sent nothing for {silent:.0f} s")

    # -- what is not wanted -----------------------------------------------------------------------------------

    def _cancelled(self) -> Iterator[RolloutSequence]:
        """Yield what is unwanted, as cancelled."""
        group_indices = self.unwanted()
        for sequence in in_unwanted_groups([*self.requests, *self.queue], group_indices):
            if sequence in self.requests:
                self._end(self.requests[sequence])
            else:
                self.queue.remove(sequence)
            sequence.finish = "cancelled"
            yield sequence
