"""ContiguousDecoder steps without the host: k of them between two reads, on CUDA each one a graph that is replayed.

A `DecodeStep` is the whole step as one function of device tensors: forward, sampler, and the books (token,
log-prob, whether the row has ended) in rings of k steps. `GraphRunner` runs it, eagerly or as CUDA graphs, one for
each bucket of rows and shape of the cache, captured again only when an address that it reads has moved. What
a finished row means, and who takes its slot, is the engine's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Callable, Protocol, Sequence

import torch
from torch import Tensor

from grpo.kernels.sampling.exact import sample
from grpo.kernels.sampling.spec import Sampling

BUCKETS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
RUNNING, STOPPED, LIMIT, FAILED = 0, 1, 2, 3
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
    """What the host reads after `steps` steps, on the CPU: rings [steps, rows], and each row's state.

    A row's entries count up to the step in which it ended, `steps_R` of them. ``state_R`` is RUNNING, STOPPED by a
    stop id, LIMIT reached, or FAILED: its logits held nothing to draw from, and its last token is -1.
    """

    token_KR: Tensor
    logp_KR: Tensor
    log_kept_KR: Tensor | None
    steps_R: Tensor
    state_R: Tensor


class DecodeStep:
    """The rows' device state, at fixed addresses, and the step that moves it.

    `forward` maps (token_R1, position_R1) to logits [rows, V]: the model with its cache. `stop_ids` end a row, as
    does its `limit`-th token. `ring` is how many steps may pass between two reads.
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
    ):
        self.forward, self.cache, self.sampling, self.vocab_size = (
            forward,
            cache,
            sampling,
            vocab_size,
        )
        self.max_rows, self.ring = max_rows, ring
        self.stop_ids = torch.tensor(sorted(set(stop_ids)), dtype=torch.long, device=device)

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.token_R, self.seed_R, self.drawn_R, self.limit_R = (zeros(max_rows) for _ in range(4))
        self.state_R = torch.full_like(self.token_R, STOPPED)
        self.at, self.steps_R = zeros(1), zeros(max_rows)
        self.token_KR = zeros(ring, max_rows)
        self.logp_KR, self.log_kept_KR = (
            zeros(ring, max_rows, dtype=torch.float32) for _ in range(2)
        )

    def start(
        self,
        rows: Sequence[int],
        tokens: Sequence[int],
        seeds: Sequence[int],
        limits: Sequence[int],
        drawn: Sequence[int] | None = None,
    ) -> None:
        """Start `rows` with the tokens to be read first; `drawn` tokens (0) of each have been sampled before."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.token_R.device)
        for store, values in (
            (self.token_R, tokens),
            (self.seed_R, seeds),
            (self.limit_R, limits),
            (self.drawn_R, drawn or [0] * len(rows)),
        ):
            store[index] = torch.tensor(list(values), dtype=torch.long, device=index.device)
        self.state_R[index] = RUNNING

    def end(self, rows: Sequence[int]) -> None:
        """Rows go on as filler."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.token_R.device)
        self.state_R[index], self.token_R[index] = STOPPED, 0

    def select(self, rows: Sequence[int]) -> None:
        """Move `rows` to the front, in that order; those behind are filler."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.token_R.device)
        for store in (self.token_R, self.seed_R, self.drawn_R, self.limit_R, self.state_R):
            store[: len(rows)] = store[index]
        self.end(range(len(rows), self.max_rows))

    def __call__(self, num_rows: int) -> None:
        """One step of the first `num_rows` rows; issues device work alone."""
        token_R, drawn_R, state_R = (
            x[:num_rows] for x in (self.token_R, self.drawn_R, self.state_R)
        )
        logits_RV = self.forward(token_R[:, None], self.cache.position_R[:, None])
        drawn = sample(
            logits_RV, self.seed_R[:num_rows], drawn_R, self.sampling, vocab_size=self.vocab_size
        )
        running_R = state_R == RUNNING
        self._ring(self.token_KR, drawn.token_R)
        self._ring(self.logp_KR, drawn.logp_R)
        if drawn.log_kept_R is not None:
            self._ring(self.log_kept_KR, drawn.log_kept_R)
        self.steps_R[:num_rows] += running_R
        drawn_R += running_R
        ended_R = torch.where(
            (drawn.token_R[:, None] == self.stop_ids).any(-1),
            STOPPED,
            torch.where(drawn_R >= self.limit_R[:num_rows], LIMIT, RUNNING),
        )
        state_R.copy_(
            torch.where(running_R, torch.where(drawn.token_R < 0, FAILED, ended_R), state_R)
        )
        token_R.copy_(torch.where(running_R, drawn.token_R.clamp_min(0), token_R))
        self.cache.advance_device(state_R == RUNNING)
        self.at += 1

    def _ring(self, ring_KR: Tensor, new_R: Tensor) -> None:
        ring_KR[:, : len(new_R)].index_copy_(0, self.at, new_R[None].to(ring_KR.dtype))

    def read(self, num_rows: int, steps: int) -> HostReadback:
        """Bring the last `steps` steps to the host, and start the rings anew."""
        packed = [
            self.token_KR[:steps, :num_rows],
            self.logp_KR[:steps, :num_rows].double(),
            self.log_kept_KR[:steps, :num_rows].double(),
            self.steps_R[None, :num_rows],
            self.state_R[None, :num_rows],
        ]
        flat = torch.cat(
            [x.double() for x in packed]
        ).cpu()  # one transfer; ids and counts are exact in fp64
        token, logp, kept, count, state = flat.split([steps, steps, steps, 1, 1])
        self.at.zero_()
        self.steps_R.zero_()
        return HostReadback(
            token.long(),
            logp.float(),
            kept.float() if self.sampling.filters else None,
            count[0].long(),
            state[0].long(),
        )

    def addresses(self) -> list[int]:
        """Of all the tensors that a step reads or writes, but the model's parameters."""
        own = (
            self.token_R,
            self.seed_R,
            self.drawn_R,
            self.limit_R,
            self.state_R,
            self.at,
            self.steps_R,
            self.token_KR,
            self.logp_KR,
            self.log_kept_KR,
            self.stop_ids,
        )
        return [x.data_ptr() for x in own] + self.cache.addresses()


class GraphRunner:
    """Runs a `DecodeStep` k times between two reads, as CUDA graphs where the device and the model allow it.

    `parameters` are the tensors whose addresses a graph binds besides the step's own, buffers too. A model whose
    step cannot be captured (a mixture of experts that asks the host how its tokens fall) runs eagerly; the reason is
    logged once and kept in `eager_because`.
    """

    def __init__(
        self,
        step: DecodeStep,
        parameters: Callable[[], Sequence[Tensor]],
        *,
        capture: bool | None = None,
    ):
        self.step, self.parameters = step, parameters
        wanted = step.token_R.is_cuda if capture is None else capture
        self.eager_because = (
            ""
            if wanted
            else "the device is no CUDA device"
            if capture is None
            else "it was asked for"
        )
        self.captures = 0
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        self._pool: object = None
        self._bound: tuple[int, int] | None = None

    def run(self, num_rows: int, steps: int) -> HostReadback:
        """`steps` steps (at most the ring's) of the first `num_rows` rows; the cache has pages for them."""
        assert 0 < steps <= self.step.ring, "a ring holds the steps between two reads"
        done = 0 if self.eager_because else self._replay(num_rows, steps)
        for _ in range(steps - done):
            self.step(num_rows)
        self.step.cache.advance_host(steps)
        return self.step.read(num_rows, steps)

    def release(self) -> None:
        """Give the graphs' memory back; they are captured again when next needed."""
        self._graphs.clear()
        self._pool = self._bound = None

    def _replay(self, num_rows: int, steps: int) -> int:
        """How many of the steps were done by graphs: all, or none if none can be had."""
        bound = checksum([*(p.data_ptr() for p in self.parameters()), *self.step.addresses()])
        if bound != self._bound:
            self.release()
            self._bound = bound
        key, done = (num_rows, *self.step.cache.signature), 0
        if key not in self._graphs:
            self.step(
                num_rows
            )  # compiles kernels and fills caches outside the capture; it is a step like any other
            done = 1
            if not self._capture(key, num_rows):
                return done
        for _ in range(steps - done):
            self._graphs[key].replay()
        return steps

    def _capture(self, key: tuple[int, ...], num_rows: int) -> bool:
        """Record the step's launches; recording runs none of them."""
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
                raise  # with fewer rows it may be captured
            self.eager_because = f"the step cannot be captured: {str(error).splitlines()[0]}"
            _log.warning("decoding runs without CUDA graphs: %s", self.eager_because)
            return False
        self._pool = self._pool or graph.pool()
        self._graphs[key] = graph
        self.captures += 1
        return True


def _hides_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out; what ends a capture that broke off may hide the error that broke it."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__context__
    return False


def checksum(addresses: Sequence[int]) -> tuple[int, int]:
    """Of a list of addresses, in order; equal lists have equal sums, others practically never."""
    total = 14695981039346656037
    for address in addresses:
        total = (total ^ address) * 1099511628211 % 2**64
    return len(addresses), total
