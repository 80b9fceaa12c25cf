"""Seconds of sampling: prompts are read, then rows decode side by side until the last completion has ended.

A decoding step takes the larger of reading the weights and multiplying by them, then reads keys and values, writes
logits, and pays for its launches. Rows that end make room for those that wait, the longest first.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Iterator

from grpo.plan.assumed import Assumed
from grpo.plan.device import Device
from grpo.plan.shape import Shape
from grpo.plan.work import Work, lengths

LOGIT_BYTES = 4
SEGMENTS = 64
"""Stretches of decoding within which the number of rows is taken to be constant."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Devices that hold one copy of the weights and sample together.

    ``kept`` are bytes of each device's memory that are taken. With ``shares_prompts`` a prompt's keys are read once for
    its group.
    """

    device: Device
    devices: int = 1
    rows: int = 256
    kept: float = 0.0
    shares_prompts: bool = True


@dataclass(frozen=True, slots=True)
class Decoding:
    """Seconds of a decoding step, or of several, by what they go to.

    ``layers`` is what reading the weights and multiplying by them take together.
    """

    layers: float = 0.0
    weights: float = 0.0
    products: float = 0.0
    keys: float = 0.0
    logits: float = 0.0
    launches: float = 0.0
    together: float = 0.0

    @property
    def seconds(self) -> float:
        """The whole; its parts follow each other."""
        return self.layers + self.keys + self.logits + self.launches + self.together

    def plus(self, other: Decoding, times: float) -> Decoding:
        """This, and `other` so many times."""
        return Decoding(
            layers=self.layers + times * other.layers,
            weights=self.weights + times * other.weights,
            products=self.products + times * other.products,
            keys=self.keys + times * other.keys,
            logits=self.logits + times * other.logits,
            launches=self.launches + times * other.launches,
            together=self.together + times * other.together,
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """What one sampler does in a step.

    ``slots`` rows decode at once at most, of which a share of ``alive`` does in the mean; ``fits`` is False where not
    even one row has room.
    """

    prefill: float
    decode: float
    parts: Decoding
    steps: float
    slots: int
    alive: float
    bytes: float
    operations: float
    fits: bool = True

    @property
    def seconds(self) -> float:
        return self.prefill + self.decode

    @property
    def bound(self) -> str:
        """What most of the time goes to, in words."""
        if self.prefill > self.decode:
            return "reading prompts"
        named = {
            "reading weights": self.parts.weights,
            "products": self.parts.products,
            "reading keys": self.parts.keys,
            "logits": self.parts.logits,
            "launches": self.parts.launches,
            "devices that decode together": self.parts.together,
        }
        most = max(named, key=lambda name: named[name])
        waits = self.alive < 0.5 and most not in ("products", "reading keys")
        return "the longest completions" if waits else most


NO_ROOM = Sampling(
    prefill=0.0,
    decode=0.0,
    parts=Decoding(),
    steps=0.0,
    slots=0,
    alive=0.0,
    bytes=0.0,
    operations=0.0,
    fits=False,
)


def step_of(
    shape: Shape, sampler: Sampler, work: Work, assumed: Assumed, *, rows: float, own: float
) -> Decoding:
    """One decoding step of `rows` sequences that have `own` tokens each after their prompts."""
    device = sampler.device
    devices = sampler.devices
    each = device.number_bytes
    prompts = rows / work.group if sampler.shares_prompts else rows
    context = rows * own + max(1.0, prompts) * work.prompt_tokens
    key_bytes = each * shape.layers * shape.key_numbers * context
    attending = 2 * shape.layers * shape.decode_scores * rows * (own + work.prompt_tokens)
    kernels = shape.layers * assumed.kernels_a_layer + assumed.kernels_a_step
    rate = device.operations * assumed.product * devices
    logits = 2 * LOGIT_BYTES * rows * shape.vocabulary
    weights = each * shape.touched(rows) / (device.bandwidth * assumed.weights * devices)
    products = 2 * rows * shape.active / rate
    return Decoding(
        layers=max(weights, products) if device.overlaps else weights + products,
        weights=weights,
        products=products,
        keys=max(key_bytes / (device.bandwidth * assumed.keys * devices), attending / rate),
        logits=logits / (device.bandwidth * assumed.weights),
        launches=kernels * assumed.kernel_seconds + rows * assumed.row_seconds,
        together=_together(shape, sampler, assumed, rows),
    )


def _together(shape: Shape, sampler: Sampler, assumed: Assumed, rows: float) -> float:
    """Two sums of hidden states a layer over the devices that share it."""
    if sampler.devices == 1:
        return 0.0
    hidden = 2 * sampler.device.number_bytes * rows * shape.hidden
    moving = hidden / (sampler.device.link * assumed.link)
    return 2 * shape.layers * (assumed.collective_seconds + moving)


def room(shape: Shape, sampler: Sampler, work: Work, assumed: Assumed) -> int:
    """How many rows of full length have room for their keys beside the weights."""
    each = sampler.device.number_bytes
    weights = each * shape.total / sampler.devices
    usable = sampler.device.memory * assumed.memory - sampler.kept - weights
    prompt = work.prompt_tokens / (work.group if sampler.shares_prompts else 1)
    per_row = each * shape.layers * shape.key_numbers * (prompt + work.longest)
    if usable <= 0:
        return 0
    return min(sampler.rows, int(usable * sampler.devices / per_row))


def sample(
    shape: Shape, sampler: Sampler, work: Work, assumed: Assumed, *, completions: int
) -> Sampling:
    """What it takes a sampler to sample so many of a step's completions."""
    slots = min(completions, room(shape, sampler, work, assumed))
    if slots < 1:
        return NO_ROOM
    known = lengths(completions, work.mean, work.longest, assumed.spread)
    times = completions / len(known)
    parts = Decoding()
    seconds = steps = row_steps = 0.0
    for span, rows, own in segments(known, slots / times):
        one = step_of(shape, sampler, work, assumed, rows=times * rows, own=own)
        parts = parts.plus(one, span)
        seconds += span * one.seconds
        steps += span
        row_steps += span * times * rows
    prompts = math.ceil(completions / work.group)
    read = prompts * work.prompt_tokens
    operations = 2 * shape.active_body * read
    rate = sampler.device.operations * assumed.training * sampler.devices
    return Sampling(
        prefill=operations / rate,
        decode=seconds,
        parts=parts,
        steps=steps,
        slots=slots,
        alive=row_steps / (steps * slots),
        bytes=(parts.weights * assumed.weights + parts.keys * assumed.keys)
        * sampler.device.bandwidth
        * sampler.devices,
        operations=operations + 2 * shape.active * row_steps,
    )


def segments(known: list[float], slots: float) -> Iterator[tuple[float, float, float]]:
    """(decoding steps, rows, tokens that a row has on average) of stretches; rows wait until one of `slots` is free.

    >>> [tuple(map(round, part)) for part in segments([2.0, 4.0], slots=2)]
    [(2, 2, 1), (2, 1, 3)]
    >>> [tuple(map(round, part)) for part in segments([2.0, 2.0], slots=1)]
    [(2, 1, 1), (2, 1, 1)]
    """
    waiting = sorted(known)  # the longest is taken first, from the end
    running: list[tuple[float, float]] = []
    now = 0.0
    while waiting or running:
        while waiting and (len(running) < slots or not running):
            heapq.heappush(running, (now + waiting.pop(), now))
        until = _until(running, now, full=bool(waiting))
        own = sum((now + until) / 2 - begun for _, begun in running) / len(running)
        yield until - now, len(running), max(own, 0.5)
        now = until
        while running and running[0][0] <= now:
            heapq.heappop(running)


def _until(running: list[tuple[float, float]], now: float, full: bool) -> float:
    """When the next row ends; once none waits, stretches are not shorter than a 64th of what is left."""
    if full:
        return running[0][0]
    last = max(end for end, _ in running)
    return min(last, max(running[0][0], now + (last - now) / SEGMENTS))
