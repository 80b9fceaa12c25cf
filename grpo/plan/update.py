"""Seconds and memory of an update: operations of forward and backward, the optimizer's bytes, what a device holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grpo.plan.assumed import Assumed
from grpo.plan.device import Device
from grpo.plan.shape import Shape
from grpo.plan.work import Work

FORWARD = 2
BACKWARD_INPUTS = 2
BACKWARD_WEIGHTS = 2
"""Operations a number and token."""
MASTER_BYTES = 4
GRADIENT_BYTES = 4
HIDDEN_KEPT = 8
WIDE_KEPT = 4
"""How many vectors of the model's width, and of the MLP's, autograd keeps of a token and layer."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """Devices that update together: each holds all weights, or its share of them over ``shards``."""

    device: Device
    devices: int = 1
    shards: int = 1


@dataclass(frozen=True, slots=True)
class Update:
    """What an update of a step takes: ``layers`` and ``head`` are products, ``elements`` all that is done by element.

    ``launches`` are the host's, ``optimizer`` its bytes.
    """

    layers: float
    head: float
    elements: float
    launches: float
    optimizer: float
    operations: float
    overlaps: bool

    @property
    def seconds(self) -> float:
        work = self.layers + self.head + self.elements
        if self.overlaps:
            return max(work, self.launches) + self.optimizer
        return work + self.launches + self.optimizer

    @property
    def bound(self) -> str:
        products = self.layers + self.head
        named = {
            "products": products,
            "element by element": self.elements,
            "launches": self.launches,
            "the optimizer": self.optimizer,
        }
        return max(named, key=lambda name: named[name])


def trained_parameters(shape: Shape, work: Work) -> int:
    return shape.total if work.lora is None else work.lora


def update(shape: Shape, trainer: Trainer, work: Work, assumed: Assumed) -> Update:
    """What a step's updates take on the device that has most to do: they share whole micro-batches."""
    device = trainer.device
    passes = _operations_a_number(work)
    body = passes * shape.active_body * work.forwarded + _attention_operations(shape, work, passes)
    head_passes = work.epochs * (3 if work.lora is None else 2) + work.forwards
    head = 2 * head_passes * shape.head * work.learnt
    own = micro_batches(work, trainer.devices)
    share = own / micro_batches(work, 1)
    launched = own * shape.layers * assumed.launches_a_layer * assumed.launch_seconds
    moved = _element_bytes(shape, work, device.number_bytes, assumed) * passes / 6
    updated = work.updates * work.epochs * trained_parameters(shape, work) / trainer.shards
    bandwidth = device.bandwidth * assumed.weights
    return Update(
        layers=share * body / (device.operations * assumed.training),
        head=share * head / (device.operations * assumed.head),
        elements=share * moved / bandwidth,
        launches=launched * passes / 6,
        optimizer=assumed.optimizer_bytes * updated / bandwidth,
        operations=body + head,
        overlaps=device.overlaps,
    )


def _element_bytes(shape: Shape, work: Work, number_bytes: int, assumed: Assumed) -> float:
    """Bytes that cross memory in forward and backward beside the products' own: activations, and rows of logits."""
    activations = assumed.element_passes * number_bytes * _kept(shape) * shape.layers
    logits = assumed.logit_bytes * shape.vocabulary
    return activations * work.forwarded + logits * work.learnt


def _kept(shape: Shape) -> float:
    """Numbers that autograd keeps of a token and layer."""
    wide = (shape.active_body / shape.layers - shape.attention) / (3 * shape.hidden)
    return HIDDEN_KEPT * shape.hidden + WIDE_KEPT * wide


def _operations_a_number(work: Work) -> float:
    """Operations a number of the layers and token: of the epochs, of recomputing, and of forward passes beside."""
    once = FORWARD + BACKWARD_INPUTS
    once += BACKWARD_WEIGHTS if work.lora is None else 0
    once += FORWARD if work.checkpointing else 0
    return work.epochs * once + work.forwards * FORWARD


def _attention_operations(shape: Shape, work: Work, passes: float) -> float:
    """Scores and weighted values: a token attends to its prompt and to half of its completion."""
    context = work.prompt_tokens + work.mean / 2
    return passes * shape.layers * shape.scores * work.learnt * context


def micro_batches(work: Work, devices: int) -> int:
    """How many micro-batches the device with the most has in a step, over all its updates."""
    of_update = math.ceil(work.forwarded / work.updates / work.micro_batch)
    return work.updates * math.ceil(max(of_update, 1) / devices)


# ---- memory -------------------------------------------------------------------------------------------------------


def held_bytes(shape: Shape, work: Work, number_bytes: int, shards: int) -> float:
    """Bytes of weights, master weights, gradients and moments on a device of so many that share them."""
    trained = trained_parameters(shape, work)
    masters = MASTER_BYTES if number_bytes < MASTER_BYTES else 0
    state = (masters + GRADIENT_BYTES + work.moment_bytes) * trained
    return (number_bytes * shape.total + state) / shards


def activation_bytes(shape: Shape, work: Work, number_bytes: int) -> float:
    """Bytes that autograd keeps of a micro-batch; with checkpointing each layer's input, and all of one layer."""
    tokens = max(work.micro_batch, work.longest + work.prompt_tokens)
    layer = number_bytes * tokens * _kept(shape)
    if work.checkpointing:
        return layer + number_bytes * tokens * shape.hidden * shape.layers
    return layer * shape.layers


def fewest_shards(shape: Shape, trainer: Device, work: Work, assumed: Assumed) -> int | None:
    """The smallest power of two of devices that hold training together; None where activations alone are too much."""
    room = trainer.memory * assumed.memory - activation_bytes(shape, work, trainer.number_bytes)
    if room <= 0:
        return None
    needed = held_bytes(shape, work, trainer.number_bytes, 1) / room
    return 2 ** max(0, math.ceil(math.log2(max(needed, 1e-9))))
