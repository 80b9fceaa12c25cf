"""The processes that train together: who this one is, and the two things they exchange.

Completions are gathered as objects so that every rank sees the whole step; gradients and statistics are
summed. A single process takes part in nothing and pays nothing.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from grpo.monitor import watchdog
from grpo.recipe import RecipeError

LONGEST = timedelta(days=1)
"""The process group's own limit; it names nobody, so the watchdog's shorter one comes first."""


def keep_to_this_machine() -> None:
    """Where all ranks are on this machine, let them talk over the loopback alone."""
    world = os.environ.get("WORLD_SIZE")
    if (
        sys.platform == "linux"
        and world is not None
        and world == os.environ.get("LOCAL_WORLD_SIZE")
    ):
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")


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
            raise RecipeError(
                "environment: ACCELERATE_GRADIENT_ACCUMULATION_STEPS would divide the gradient a second "
                "time; unset it, and set optim.tokens_per_micro_batch for memory"
            )
        from accelerate import PartialState

        keep_to_this_machine()
        with watchdog.collective("grpo.distributed.process_group, joining the process group"):
            state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST)
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != started:
            raise RecipeError(
                f"environment: WORLD_SIZE says {started} processes, but accelerate joined "
                f"{state.num_processes}; start them with accelerate launch or torchrun"
            )
        return Ranks(state.process_index, state.num_processes, state.device)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all ranks, in rank order, on every rank."""
        if self.world == 1:
            return items
        lists: list[Any] = [None] * self.world
        with watchdog.collective("grpo.distributed.process_group, gather"):
            dist.all_gather_object(lists, items)
        return [item for part in lists for item in part]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""
        if self.world > 1:
            with watchdog.collective("grpo.distributed.process_group, sum"):
                for tensor in tensors:
                    dist.all_reduce(tensor)

    def max(self, tensor: Tensor) -> None:
        """Replace the tensor by its largest values over the ranks."""
        if self.world > 1:
            with watchdog.collective("grpo.distributed.process_group, max"):
                dist.all_reduce(tensor, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank."""
        if self.world == 1:
            return flag
        total = torch.tensor(float(flag), device=self.device)
        with watchdog.collective("grpo.distributed.process_group, any"):
            dist.all_reduce(total)
            return bool(total > 0)

    def wait(self) -> None:
        if self.world > 1:
            with watchdog.collective("grpo.distributed.process_group, wait"):
                dist.barrier()

    def watched_by(self, dog: watchdog.Watchdog) -> None:
        """Let the ranks' watchdogs tell each other where they are, through the process group's store."""
        if self.world > 1:
            store = dist.distributed_c10d._get_default_store()
            dog.join(self.rank, self.world, dist.PrefixStore("watchdog", store.clone()))
