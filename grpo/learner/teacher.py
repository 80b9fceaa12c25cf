"""A model that a policy learns from: its log-probs of the policy's completions, taken once a step.

Which model that is, and whether it fits the policy, is up to ``grpo.run.teacher``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from grpo.learner.selection import by_row
from grpo.model.packing import pack
from grpo.model.policy import Policy
from grpo.types import Row


class Teacher:
    """A frozen model. Its log-probs are fp32 (fp64 in fp64) whatever dtype holds it.

    With `offload` its weights lie in host memory, and are copied to the GPU for its forward passes alone; on a CPU
    that changes nothing.
    """

    def __init__(self, policy: Policy, offload: bool = False):
        self.policy = policy
        policy.model.requires_grad_(False)
        self._weights = list(policy.model.parameters())
        self._on_host: list[Tensor] = []
        if offload and policy.device.type == "cuda":
            self._on_host = [p.detach().cpu().pin_memory() for p in self._weights]
            self._leave()

    @torch.no_grad()
    def logps(self, chunks: Iterable[Sequence[Row]], temperature: float) -> dict[int, Tensor]:
        """By row, the log-prob of each token [T], in host memory. `chunks` are micro-batches.

        Raises `FloatingPointError` if one is not finite.
        """
        logps: dict[int, Tensor] = {}
        with self._at_hand():
            for chunk in chunks:
                packed = pack(chunk, self.policy.device)
                logp_T = self.policy.token_stats(packed, temperature).logp_T.cpu()
                _check_finite(logp_T, self.policy)
                logps |= by_row(packed.rows, logp_T)
        return logps

    @contextmanager
    def _at_hand(self) -> Iterator[None]:
        """Inside the block the weights are on the device."""
        for parameter, weight in zip(self._weights, self._on_host):
            parameter.data = weight.to(self.policy.device, non_blocking=True)
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        for parameter, weight in zip(self._weights, self._on_host):
            parameter.data = weight


def _check_finite(logp_T: Tensor, policy: Policy) -> None:
    if not bool(logp_T.isfinite().all()):
        dtype = str(policy.base.dtype).removeprefix("torch.")
        raise FloatingPointError(
            f"the teacher's log-prob of a completion is not finite, held in {dtype}; the policy's weights were not "
            "touched. Hold the teacher in float32"
        )
