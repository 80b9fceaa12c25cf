"""The processes that train together: who this one is, and what they exchange.

Completions are gathered as objects, so that every rank sees the whole step; gradients and statistics are summed. In a
single process every method returns at once.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Iterable

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from grpo.monitor.waits import collective
from grpo.monitor.watchdog import Watchdog
from grpo.recipe import RecipeError
from rewards.spelling import many

TIMEOUT = timedelta(days=1)
"""The process group's own limit. It cannot name the culprit, so the watchdog's shorter one applies first."""
OWNER = "grpo.distributed.process_group"


def keep_to_this_machine() -> None:
    """If all ranks are on this machine, let them talk over the loopback alone."""
    world = os.environ.get("WORLD_SIZE")
    is_local = world is not None and world == os.environ.get("LOCAL_WORLD_SIZE")
    if sys.platform == "linux" and is_local:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")


def find_other_machines() -> None:
    """If ranks are on several machines, and this one's name leads to its loopback, let gloo take the card to the first.

    Where the name leads to a real address gloo listens there by itself.
    """
    first = os.environ.get("MASTER_ADDR")
    world = os.environ.get("WORLD_SIZE")
    is_local = world is None or world == os.environ.get("LOCAL_WORLD_SIZE")
    if is_local or first is None or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = "127.0.0.1"
    card = card_towards(first) if own.startswith("127.") else None
    if card is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = card


def card_towards(host: str) -> str | None:
    """The name of the network card over which this machine reaches `host`; None if it has no way there."""
    try:
        family, *_, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # chooses a way, and sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if own in [one.address for one in addresses]:
            return name
    return None


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all; rank 0 writes the run folder."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @staticmethod
    def start() -> Ranks:
        """Join the process group that ``accelerate launch`` or ``torchrun`` set up, and pick the device.

        Raises `RecipeError` if the environment contradicts itself or would change the gradient.
        """
        if int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")) > 1:
            raise RecipeError(
                "environment: ACCELERATE_GRADIENT_ACCUMULATION_STEPS would divide the gradient a second "
                "time; unset it, and set optim.tokens_per_micro_batch for memory"
            )
        from accelerate import PartialState  # noqa: PLC0415  heavy, and only needed to train

        keep_to_this_machine()
        find_other_machines()
        with collective(f"{OWNER}, joining the process group"):
            state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != started:
            raise RecipeError(
                f"environment: WORLD_SIZE says {many(started, 'process')}, but accelerate joined "
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
        with collective(f"{OWNER}, gather"):
            dist.all_gather_object(lists, items)
        return [item for part in lists for item in part]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""
        if self.world > 1:
            with collective(f"{OWNER}, sum"):
                for tensor in tensors:
                    dist.all_reduce(tensor)

    def max(self, tensor: Tensor) -> None:
        """Replace the tensor by its element-wise maximum over the ranks."""
        if self.world > 1:
            with collective(f"{OWNER}, max"):
                dist.all_reduce(tensor, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank."""
        if self.world == 1:
            return flag
        total = torch.tensor(float(flag), device=self.device)
        with collective(f"{OWNER}, any"):
            dist.all_reduce(total)
            return bool(total > 0)

    def wait(self) -> None:
        """Return once every rank has called this."""
        if self.world > 1:
            with collective(f"{OWNER}, wait"):
                dist.barrier()

    def watched_by(self, watchdog: Watchdog) -> None:
        """Let the ranks' watchdogs tell each other where they are, through the process group's store."""
        if self.world > 1:
            store = dist.distributed_c10d._get_default_store()
            copy = store.clone()  # type: ignore[attr-defined]  # missing in torch's stubs
            watchdog.join(self.rank, self.world, dist.PrefixStore("watchdog", copy))
