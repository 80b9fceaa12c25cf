"""A step on a given number of devices: who samples, who trains, what each phase takes, and which of them is longest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from grpo.plan.assumed import Assumed
from grpo.plan.device import GIB, Device
from grpo.plan.exchange import (
    Network,
    Push,
    gather_seconds,
    push_by_folder,
    push_within,
    shard_seconds,
    sum_seconds,
)
from grpo.plan.sampling import Sampler, Sampling, room, sample
from grpo.plan.shape import Shape
from grpo.plan.update import (
    Trainer,
    Update,
    activation_bytes,
    fewest_shards,
    held_bytes,
    update,
)
from grpo.plan.work import Work

MAX_TOGETHER = 64
"""Devices that hold one copy of a sampler's weights, at most."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a step runs: how many devices, and how many of them are in each machine.

    ``servers`` are those that only sample, 0 where every device samples and trains. ``together`` is how many hold one
    server's weights, 0 for as few as do. With ``ahead`` the next step is sampled beside the update.
    """

    device: Device
    devices: int
    per_machine: int = 8
    servers: int = 0
    together: int = 0
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of a step by phase. ``problem`` says why the work does not fit; then there are no seconds."""

    site: Site
    work: Work
    problem: str = ""
    sampler: Sampler | None = None
    trainer: Trainer | None = None
    sampling: Sampling | None = None
    update: Update | None = None
    judging: float = 0.0
    left_to_judge: float = 0.0
    sums: float = 0.0
    shards: float = 0.0
    gather: float = 0.0
    push: Push = Push(0.0, 0.0, "")
    other: float = 0.0

    @property
    def sample_seconds(self) -> float:
        return self.sampling.seconds if self.sampling else math.nan

    @property
    def update_seconds(self) -> float:
        """Products, launches, optimizer, sums of gradients, and what split weights cost beyond the products."""
        if self.update is None:
            return math.nan
        return max(self.update.seconds, self.shards) + self.sums

    @property
    def seconds(self) -> float:
        """The whole step; with sampling ahead, the longer of both halves."""
        updating = self.update_seconds + self.gather + self.other
        if self.site.ahead:
            return max(self.sample_seconds + self.left_to_judge, updating) + self.push.seconds
        return self.sample_seconds + self.left_to_judge + updating + self.push.seconds

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens a second and device."""
        return self.work.sampled / self.seconds / self.site.devices

    def phases(self) -> dict[str, float]:
        """Seconds by phase. Those of the update's parts are in it."""
        return {
            "sampling": self.sample_seconds,
            "judging": self.left_to_judge,
            "gathering": self.gather,
            "update": self.update_seconds,
            "push": self.push.seconds,
            "other": self.other,
        }

    @property
    def bottleneck(self) -> str:
        """The longest phase, and what most of it goes to."""
        phases = self.phases()
        longest = max(phases, key=lambda name: phases[name])
        if longest == "sampling" and self.sampling:
            return f"sampling: {self.sampling.bound}"
        if longest == "update" and self.update:
            exchanged = self.sums + max(0.0, self.shards - self.update.seconds)
            bound = "exchange" if exchanged > self.update_seconds / 2 else self.update.bound
            return f"update: {bound}"
        return {"judging": "judging", "gathering": "gathering completions"}.get(longest, longest)


def plan_step(shape: Shape, work: Work, site: Site, assumed: Assumed) -> Step:
    """What a step takes there, or why it does not fit."""
    trainers = site.devices - site.servers
    shards = fewest_shards(shape, site.device, work, assumed)
    problem = _training_problem(shape, work, site, shards)
    if problem or shards is None:
        return Step(site, work, problem)
    trainer = Trainer(site.device, devices=trainers, shards=shards)
    if site.servers:
        sampler = _server(shape, work, site, assumed)
    else:
        sampler = _own_sampler(shape, work, trainer, assumed)
    if sampler is None:
        return Step(site, work, _sampling_problem(shape, work, site))
    return _timed(Step(site, work, sampler=sampler, trainer=trainer), shape, assumed)


def _training_problem(shape: Shape, work: Work, site: Site, shards: int | None) -> str:
    trainers = site.devices - site.servers
    if trainers < 1:
        return f"{site.servers} of {site.devices} devices sample, and none is left to train"
    if shards is None:
        size = activation_bytes(shape, work, site.device.number_bytes) / GIB
        return (
            f"the activations of a micro-batch take about {size:,.0f} GiB a device; set "
            "model.gradient_checkpointing: true, or lower optim.tokens_per_micro_batch"
        )
    if shards > trainers:
        size = held_bytes(shape, work, site.device.number_bytes, 1) / GIB
        return f"training holds about {size:,.0f} GiB, for which {shards} devices are needed"
    return ""


def _sampling_problem(shape: Shape, work: Work, site: Site) -> str:
    size = site.device.number_bytes * shape.total / GIB
    if not site.servers:
        return (
            f"each device samples with all {size:,.0f} GiB of weights beside what it trains, which is too much; "
            "let servers sample (--servers N)"
        )
    return f"{site.servers} devices cannot hold {size:,.0f} GiB of weights and the keys of a completion"


def _own_sampler(shape: Shape, work: Work, trainer: Trainer, assumed: Assumed) -> Sampler | None:
    """A device that samples with what it trains, or with a gathered copy beside its share; None without room."""
    each = trainer.device.number_bytes
    held = held_bytes(shape, work, each, trainer.shards)
    kept = held - each * shape.total if trainer.shards == 1 else held
    sampler = Sampler(trainer.device, rows=work.max_rows, kept=kept)
    return sampler if room(shape, sampler, work, assumed) else None


def _server(shape: Shape, work: Work, site: Site, assumed: Assumed) -> Sampler | None:
    """As few devices as hold the weights and some rows; None without room. vLLM reads a prompt's keys for each row."""
    devices = site.together or 1
    while devices <= min(site.servers, MAX_TOGETHER):
        sampler = Sampler(site.device, devices=devices, rows=work.max_rows, shares_prompts=False)
        if room(shape, sampler, work, assumed) >= min(work.max_rows, 8):
            return sampler
        if site.together:
            return None
        devices *= 2
    return None


def _timed(step: Step, shape: Shape, assumed: Assumed) -> Step:
    """The step with its seconds."""
    site = step.site
    work = step.work
    sampler = step.sampler
    trainer = step.trainer
    assert sampler is not None and trainer is not None
    network = Network(site.device, site.per_machine, assumed)
    samplers = (site.servers or site.devices) // sampler.devices
    groups = math.ceil(work.prompts / samplers)
    completions = min(groups * work.group, work.completions)
    sampling = sample(shape, sampler, work, assumed, completions=completions)
    judging = assumed.verdict_seconds * work.completions / (assumed.cores * site.devices)
    updated = update(shape, trainer, work, assumed)
    return replace(
        step,
        sampling=sampling,
        update=updated,
        judging=judging,
        left_to_judge=max(0.0, judging - sampling.seconds),
        sums=sum_seconds(shape, trainer, work, network),
        shards=shard_seconds(shape, trainer, work, network),
        gather=gather_seconds(work, trainer.devices, assumed),
        push=_push(shape, step, network, samplers),
        other=assumed.other + assumed.other_row * work.completions,
    )


def _push(shape: Shape, step: Step, network: Network, samplers: int) -> Push:
    trainer = step.trainer
    assert trainer is not None
    if not step.site.servers:
        return push_within(shape, trainer, network)
    writers = min(trainer.devices, samplers)
    return push_by_folder(shape, step.work, network, writers=writers, servers=samplers)


def as_mapping(step: Step) -> dict[str, Any]:
    """Plain values, for JSON."""
    site = step.site
    values: dict[str, Any] = {"gpus": site.devices, "servers": site.servers}
    if step.problem:
        return {**values, "problem": step.problem}
    assert step.sampler and step.trainer and step.sampling and step.update
    return {
        **values,
        "seconds": step.seconds,
        "phases": step.phases(),
        "bottleneck": step.bottleneck,
        "tokens_per_second_per_gpu": step.tokens_per_second,
        "sampler_gpus": step.sampler.devices,
        "rows": step.sampling.slots,
        "rows_alive": step.sampling.alive,
        "decoding_steps": step.sampling.steps,
        "decoding_bytes_per_sampler": step.sampling.bytes,
        "sampling_flops_per_sampler": step.sampling.operations,
        "shards": step.trainer.shards,
        "update_flops": step.update.operations,
        "push_bytes": step.push.bytes,
        "judging_seconds_alongside": step.judging,
    }
