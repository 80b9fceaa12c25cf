"""Seconds in which devices exchange something: gradients, split weights, completions, and new weights for samplers."""

from __future__ import annotations

from dataclasses import dataclass

from grpo.plan.assumed import Assumed
from grpo.plan.device import Device
from grpo.plan.shape import Shape
from grpo.plan.update import GRADIENT_BYTES, Trainer, trained_parameters
from grpo.plan.work import Work

TENSORS_A_LAYER = 9
ADAPTER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Network:
    """How devices are joined: so many are in one machine."""

    device: Device
    per_machine: int = 8
    assumed: Assumed = Assumed()

    def rate(self, devices: int) -> float:
        """Bytes a second through each of so many in a ring: of the link, or of a machine's network together."""
        share = self.assumed.link
        if devices <= self.per_machine:
            return self.device.link * share
        return min(self.device.link, self.per_machine * self.device.network) * share


def sum_seconds(shape: Shape, trainer: Trainer, work: Work, network: Network) -> float:
    """Sums of gradients over the groups of devices that each hold all weights; tensor by tensor, in float32."""
    replicas = trainer.devices // trainer.shards
    if replicas == 1:
        return 0.0
    number = trained_parameters(shape, work) / trainer.shards
    moved = 2 * (replicas - 1) / replicas * GRADIENT_BYTES * number
    tensors = shape.layers * TENSORS_A_LAYER * network.assumed.collective_seconds
    once = moved / network.rate(trainer.devices) + tensors
    return work.updates * work.epochs * once


def shard_seconds(shape: Shape, trainer: Trainer, work: Work, network: Network) -> float:
    """Of split weights: gathered for forward and backward of each micro-batch, gradients summed to their owners.

    It runs beside the products of other layers, so what counts is what exceeds them.
    """
    shards = trainer.shards
    if shards == 1:
        return 0.0
    tokens = work.forwarded / work.updates / trainer.devices
    passes = max(1.0, tokens / work.micro_batch) * work.updates * (work.epochs + work.forwards / 2)
    gathered = 2 * trainer.device.number_bytes * shape.total
    moved = gathered + GRADIENT_BYTES * trained_parameters(shape, work)
    return passes * moved * (shards - 1) / shards / network.rate(shards)


def gather_seconds(work: Work, ranks: int, assumed: Assumed) -> float:
    """Every rank gets every rank's completions, as Python objects."""
    if ranks == 1:
        return 0.0
    return assumed.object_bytes * work.sampled / assumed.object_rate


# ---- weights to those that sample -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Push:
    """Seconds from an update to samplers that hold its weights, the bytes that one of them gets, and how."""

    seconds: float
    bytes: float
    way: str


def push_within(shape: Shape, trainer: Trainer, network: Network) -> Push:
    """Of weights that the samplers share with the trainer: nothing, or a gathered copy where they are split."""
    shards = trainer.shards
    if shards == 1:
        return Push(0.0, 0.0, "the trainer's own weights sample")
    size = trainer.device.number_bytes * shape.total
    moved = size * (shards - 1) / shards
    return Push(moved / network.rate(shards), size, "split weights are gathered")


def push_by_folder(
    shape: Shape, work: Work, network: Network, *, writers: int, servers: int
) -> Push:
    """By files: each writing process writes the weights, or the adapters, once, and its servers read them."""
    assumed = network.assumed
    full = work.lora is None
    size = network.device.number_bytes * shape.total if full else ADAPTER_BYTES * (work.lora or 0)
    written = writers * size / assumed.write
    read = max(size / assumed.read, servers * size / assumed.read_together)
    what = "weights" if full else "adapters"
    return Push(written + read, size, f"{what} by a shared folder")
