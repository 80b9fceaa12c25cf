"""The same work on one device up to thousands: what a step takes, and from where on another phase is the longest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterator, Sequence

from grpo.plan.assumed import Assumed
from grpo.plan.shape import Shape
from grpo.plan.step import Site, Step, plan_step
from grpo.plan.work import Work

LARGEST = 4096


def counts(devices: int) -> list[int]:
    """Powers of two up to `LARGEST`, and the number asked for."""
    powers = {2**power for power in range(LARGEST.bit_length())}
    return sorted(powers | {devices})


def scaled(site: Site, devices: int) -> Site:
    """The site with another number of devices, of which the same share only samples."""
    servers = round(site.servers * devices / site.devices)
    if site.servers and devices > 1:
        servers = min(max(servers, 1), devices - 1)
    return replace(site, devices=devices, servers=servers)


def scaling(shape: Shape, work: Work, site: Site, assumed: Assumed) -> list[Step]:
    """A step on each number of devices, ascending."""
    return [
        plan_step(shape, work, scaled(site, devices), assumed) for devices in counts(site.devices)
    ]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Numbers of devices over which the same is the bottleneck."""

    first: int
    last: int
    bottleneck: str

    def sentence(self) -> str:
        if self.first == self.last:
            return f"{self.first}: {self.bottleneck}"
        return f"{self.first} to {self.last}: {self.bottleneck}"


def stretches(steps: Sequence[Step]) -> Iterator[Stretch]:
    """What is the bottleneck where; a step that does not fit is left out."""
    current: Stretch | None = None
    for step in steps:
        if step.problem:
            continue
        devices = step.site.devices
        if current is not None and step.bottleneck == current.bottleneck:
            current = replace(current, last=devices)
            continue
        if current is not None:
            yield current
        current = Stretch(devices, devices, step.bottleneck)
    if current is not None:
        yield current


def largest_useful(steps: Sequence[Step]) -> int | None:
    """The largest number of devices that still makes a step at least 1.5 times as fast as half of them.

    At least the fewest that the work fits on; None where it fits on none.
    """
    fitting = {step.site.devices: step.seconds for step in steps if not step.problem}
    useful = [
        devices
        for devices, seconds in fitting.items()
        if devices % 2 == 0 and fitting.get(devices // 2, 0.0) >= 1.5 * seconds
    ]
    return max(useful, default=min(fitting, default=None))


def verdict_limit(step: Step, assumed: Assumed) -> float:
    """Processor seconds a verdict may take before judging lasts longer than sampling."""
    return step.sample_seconds * assumed.cores * step.site.devices / step.work.completions
