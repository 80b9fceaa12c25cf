"""The processes that train together: who this one is, and the two things they exchange.

Completions are gathered as objects so that every rank sees the whole step; gradients and statistics are
summed. A single process takes part in nothing and pays nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from grpo.recipe import RecipeError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all; rank 0 writes the run folder."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @staticmethod
    def start() -> Ranks:
        """Join the process group that ``accelerate launch`` or ``torchrun`` set up, and pick the device."""
        if int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")) > 1:
            raise RecipeError("environment: ACCELERATE_GRADIENT_ACCUMULATION_STEPS would divide the gradient a second "
                              "time; unset it, and set optim.tokens_per_micro_batch for memory")
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != started:
            raise RecipeError(f"environment: WORLD_SIZE says {started} processes, but accelerate joined "
                              f"{state.num_processes}; start them with accelerate launch or torchrun")
        return Ranks(state.process_index, state.num_processes, state.device)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all ranks, in rank order, on every rank."""
        if self.world == 1:
            return items
        lists: list[Any] = [None] * self.world
        dist.all_gather_object(lists, items)
        return [item for part in lists for item in part]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""
        if self.world > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def max(self, tensor: Tensor) -> None:
        """Replace the tensor by its largest values over the ranks."""
        if self.world > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank."""
        if self.world == 1:
            return flag
        total = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(total)
        return bool(total > 0)

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()
