"""Decoding steps without the host: k of them between two reads, on CUDA each one the replay of a graph.

A `DecodeStep` is the whole step as one function of device tensors: forward, sampler, and what is recorded (token,
log-prob, whether the row has ended) in rings of k steps. `GraphRunner` runs it, eagerly or as CUDA graphs, one for
each bucket of rows and shape of the cache, captured again only when an address that it reads has moved. What a finished
row means, and which sequence takes its place, is up to the decoder.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Callable, Protocol, Sequence

import torch
from torch import Tensor

from grpo.kernels.sampling.exact import sample
from grpo.kernels.sampling.spec import Sampling
from grpo.model.routing import Routing

BUCKETS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
RUNNING = 0
STOPPED = 1
LIMIT = 2
FAILED = 3
FNV_OFFSET = 14695981039346656037
FNV_PRIME = 1099511628211
_log = logging.getLogger(__name__)


class StepCache(Protocol):
    """What a step needs of the keys and values; `grpo.rollout.paged_cache.PagedCache` has it."""

    @property
    def position_R(self) -> Tensor: ...

    @property
    def signature(self) -> tuple[int, ...]: ...

    def addresses(self) -> list[int]: ...

    def advance_device(self, moving_R: Tensor | None = None) -> None: ...

    def advance_host(self, steps: int = 1) -> None: ...


def bucket(num_rows: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds `num_rows`; beyond the largest, the next multiple of it."""
    for size in buckets:
        if num_rows <= size:
            return size
    return -(-num_rows // buckets[-1]) * buckets[-1]


@dataclass(frozen=True, slots=True, eq=False)
class HostReadback:
    """What the host reads after K steps, on the CPU: rings [K, R], and each row's state.

    ``routing_KRLK`` are the experts that the tokens read went to, None where they are not recorded.
    A row's entries count up to the step in which it ended, `steps_R` of them. ``state_R`` is RUNNING, STOPPED by a
    stop id, LIMIT reached, or FAILED: its logits held nothing to draw from, and its last token is -1.
    """

    token_KR: Tensor
    logp_KR: Tensor
    log_kept_KR: Tensor | None
    steps_R: Tensor
    state_R: Tensor
    routing_KRLK: Tensor | None = None


class DecodeStep:
    """The rows' device state, at fixed addresses, and the step that advances it.

    `forward` maps (token_R1, position_R1) to logits [R, V]: the model with its cache. `stop_ids` end a row, as does its
    `limit`-th token. `ring` is how many steps may pass between two reads. `routing` are the routers whose choices are
    recorded.
    """

    def __init__(
        self,
        forward: Callable[[Tensor, Tensor], Tensor],
        cache: StepCache,
        sampling: Sampling,
        *,
        max_rows: int,
        ring: int,
        stop_ids: Sequence[int],
        vocab_size: int | None = None,
        device: torch.device | str = "cpu",
        routing: Routing | None = None,
    ):
        self.routing = routing
        self.forward = forward
        self.cache = cache
        self.sampling = sampling
        self.vocab_size = vocab_size
        self.max_rows = max_rows
        self.ring = ring
        self.stop_ids = torch.tensor(sorted(set(stop_ids)), dtype=torch.long, device=device)

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.token_R = zeros(max_rows)
        self.seed_R = zeros(max_rows)
        self.drawn_R = zeros(max_rows)
        self.limit_R = zeros(max_rows)
        self.state_R = torch.full_like(self.token_R, STOPPED)
        self.ring_index = zeros(1)
        self.steps_R = zeros(max_rows)
        self.token_KR = zeros(ring, max_rows)
        self.logp_KR = zeros(ring, max_rows, dtype=torch.float32)
        self.log_kept_KR = zeros(ring, max_rows, dtype=torch.float32)
        record_shape = (0,) if routing is None else (ring, max_rows, *routing.shape)
        record_dtype = torch.uint8 if routing is None else routing.dtype
        self.routing_KRLK = zeros(*record_shape, dtype=record_dtype)

    def start(
        self,
        rows: Sequence[int],
        tokens: Sequence[int],
        seeds: Sequence[int],
        limits: Sequence[int],
        drawn: Sequence[int] | None = None,
    ) -> None:
        """Start `rows` with the tokens to read first; `drawn` tokens (default 0) of each were sampled before."""
        index = self._index(rows)
        self.token_R[index] = self._index(tokens)
        self.seed_R[index] = self._index(seeds)
        self.limit_R[index] = self._index(limits)
        self.drawn_R[index] = self._index(drawn or [0] * len(rows))
        self.state_R[index] = RUNNING

    def end(self, rows: Sequence[int]) -> None:
        """Rows are filler from here on."""
        index = self._index(rows)
        self.state_R[index] = STOPPED
        self.token_R[index] = 0

    def select(self, rows: Sequence[int]) -> None:
        """Move `rows` to the front, in that order; those behind are filler."""
        index = self._index(rows)
        for store in (self.token_R, self.seed_R, self.drawn_R, self.limit_R, self.state_R):
            store[: len(rows)] = store[index]
        self.end(range(len(rows), self.max_rows))

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=self.token_R.device)

    def __call__(self, num_rows: int) -> None:
        """One step of the first `num_rows` rows; issues device work only."""
        token_R = self.token_R[:num_rows]
        drawn_R = self.drawn_R[:num_rows]
        state_R = self.state_R[:num_rows]
        logits_RV = self.forward(token_R[:, None], self.cache.position_R[:, None])
        if self.routing is not None:
            self._record(self.routing_KRLK, self.routing.chosen(self.routing.last))
        sampled = sample(
            logits_RV, self.seed_R[:num_rows], drawn_R, self.sampling, vocab_size=self.vocab_size
        )
        is_running_R = state_R == RUNNING
        self._record(self.token_KR, sampled.token_R)
        self._record(self.logp_KR, sampled.logp_R)
        if sampled.log_kept_R is not None:
            self._record(self.log_kept_KR, sampled.log_kept_R)
        self.steps_R[:num_rows] += is_running_R
        drawn_R += is_running_R
        is_stop_R = (sampled.token_R[:, None] == self.stop_ids).any(-1)
        is_limit_R = drawn_R >= self.limit_R[:num_rows]
        next_state_R = torch.where(is_stop_R, STOPPED, torch.where(is_limit_R, LIMIT, RUNNING))
        next_state_R = torch.where(sampled.token_R < 0, FAILED, next_state_R)
        state_R.copy_(torch.where(is_running_R, next_state_R, state_R))
        token_R.copy_(torch.where(is_running_R, sampled.token_R.clamp_min(0), token_R))
        # One that stops keeps the key that it has just stored: behind an observation it may go on.
        self.cache.advance_device(is_running_R & ~is_limit_R)
        self.ring_index += 1

    def _record(self, ring_KR: Tensor, new_R: Tensor) -> None:
        row_1R = new_R[None].to(ring_KR.dtype)
        ring_KR[:, : len(new_R)].index_copy_(0, self.ring_index, row_1R)

    def read(self, num_rows: int, steps: int) -> HostReadback:
        """Bring the last `steps` steps to the host, in one transfer but for experts, and reset the rings."""
        parts = [
            self.token_KR[:steps, :num_rows],
            self.logp_KR[:steps, :num_rows],
            self.log_kept_KR[:steps, :num_rows],
            self.steps_R[None, :num_rows],
            self.state_R[None, :num_rows],
        ]
        flat = torch.cat(
            [part.double() for part in parts]
        ).cpu()  # ids and counts are exact in fp64
        token, logp, log_kept, count, state = flat.split([steps, steps, steps, 1, 1])
        self.ring_index.zero_()
        self.steps_R.zero_()
        return HostReadback(
            token_KR=token.long(),
            logp_KR=logp.float(),
            log_kept_KR=log_kept.float() if self.sampling.filters else None,
            steps_R=count[0].long(),
            state_R=state[0].long(),
            routing_KRLK=None if self.routing is None else self._routing(num_rows, steps),
        )

    def _routing(self, num_rows: int, steps: int) -> Tensor:
        return self.routing_KRLK[:steps, :num_rows].cpu()

    def addresses(self) -> list[int]:
        """Addresses of all the tensors that a step reads or writes, except the model's parameters."""
        tensors = (
            self.token_R,
            self.seed_R,
            self.drawn_R,
            self.limit_R,
            self.state_R,
            self.ring_index,
            self.steps_R,
            self.token_KR,
            self.logp_KR,
            self.log_kept_KR,
            self.stop_ids,
            self.routing_KRLK,
        )
        return [x.data_ptr() for x in tensors] + self.cache.addresses()


class GraphRunner:
    """Runs a `DecodeStep` k times between two reads, as CUDA graphs where device and model allow it.

    `parameters` are the tensors that a graph reads besides the step's own, buffers included. A model whose step cannot
    be captured (a mixture of experts that asks the host which expert takes which token) runs eagerly; the reason is
    logged once and kept in `eager_because`.
    """

    def __init__(
        self,
        step: DecodeStep,
        parameters: Callable[[], Sequence[Tensor]],
        *,
        capture: bool | None = None,
    ):
        self.step = step
        self.parameters = parameters
        self.eager_because = ""
        if capture is None and not step.token_R.is_cuda:
            self.eager_because = "the device is no CUDA device"
        elif capture is False:
            self.eager_because = "it was asked for"
        self.captures = 0
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        self._pool: Any = (
            None  # torch's handle of the memory that graphs share; its type is private
        )
        self._captured_addresses: tuple[int, int] | None = None

    def run(self, num_rows: int, steps: int) -> HostReadback:
        """`steps` steps (at most the ring's) of the first `num_rows` rows; the cache has pages for them."""
        assert 0 < steps <= self.step.ring, "a ring holds the steps between two reads"
        done = 0 if self.eager_because else self._replay(num_rows, steps)
        for _ in range(steps - done):
            self.step(num_rows)
        self.step.cache.advance_host(steps)
        return self.step.read(num_rows, steps)

    def release(self) -> None:
        """Free the graphs' memory; they are captured again when next needed."""
        self._graphs.clear()
        self._pool = None
        self._captured_addresses = None

    def _replay(self, num_rows: int, steps: int) -> int:
        """How many of the steps were done: all of them by graphs, or one if no graph could be captured."""
        parameters = [p.data_ptr() for p in self.parameters()]
        addresses = checksum([*parameters, *self.step.addresses()])
        if addresses != self._captured_addresses:
            self.release()
            self._captured_addresses = addresses
        key = (num_rows, *self.step.cache.signature)
        done = 0
        if key not in self._graphs:
            self.step(num_rows)  # compiles kernels outside the capture; it counts as a step
            done = 1
            if not self._capture(key, num_rows):
                return done
        for _ in range(steps - done):
            self._graphs[key].replay()
        return steps

    def _capture(self, key: tuple[int, ...], num_rows: int) -> bool:
        """Record the step's launches without running them; whether that worked."""
        try:
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, pool=self._pool):
                self.step(num_rows)
        except RuntimeError as error:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.release()
            if _hides_out_of_memory(error):
                raise  # fewer rows may be captured
            self.eager_because = f"the step cannot be captured: {str(error).splitlines()[0]}"
            _log.warning("decoding runs without CUDA graphs: %s", self.eager_because)
            return False
        self._pool = self._pool or graph.pool()
        self._graphs[key] = graph
        self.captures += 1
        return True


def _hides_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: ending a capture that failed may raise over the error that broke it."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__context__
    return False


def checksum(addresses: Sequence[int]) -> tuple[int, int]:
    """(count, FNV-1a) of addresses in order; different lists practically never agree."""
    total = FNV_OFFSET
    for address in addresses:
        total = (total ^ address) * FNV_PRIME % 2**64
    return len(addresses), total
