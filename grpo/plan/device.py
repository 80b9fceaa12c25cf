"""Data sheets of devices: rates, bandwidths and memory. Figures of the makers, for products without sparsity."""

from __future__ import annotations

from dataclasses import dataclass

from grpo.recipe import RecipeError
from rewards.spelling import nearest

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device.

    ``operations`` are floating-point operations a second in bfloat16, ``bandwidth`` bytes a second of its memory,
    ``memory`` its bytes, ``link`` bytes a second and direction to another device of its machine, ``network`` to one of
    another machine. ``overlaps`` says that it reads while it multiplies and that the host launches ahead of it, so
    that the longer of each pair counts; a CPU does one after the other.
    """

    name: str
    operations: float
    bandwidth: float
    memory: float
    link: float
    network: float
    number_bytes: int = 2
    overlaps: bool = True


def _gpu(
    name: str, operations: float, bandwidth: float, memory: float, links: tuple[float, float]
) -> Device:
    """A GPU in TFLOP/s, GB/s, GB, and GB/s of its link and network."""
    link, network = links
    return Device(
        name=name,
        operations=1e12 * operations,
        bandwidth=1e9 * bandwidth,
        memory=1e9 * memory,
        link=1e9 * link,
        network=1e9 * network,
    )


DEVICES = {
    device.name: device
    for device in (
        _gpu("a100", 312, 2039, 80, (300, 25)),
        _gpu("a800", 312, 2039, 80, (200, 25)),
        _gpu("h100", 989, 3350, 80, (450, 50)),
        _gpu("h800", 989, 3350, 80, (200, 50)),
        _gpu("h200", 989, 4800, 141, (450, 50)),
        _gpu("b200", 2250, 7700, 180, (900, 50)),
        _gpu("l40s", 362, 864, 48, (32, 12.5)),
        _gpu("rtx4090", 165, 1008, 24, (32, 3.1)),
    )
}
"""By name. The SXM form where there are several; a network of 400 Gbit/s for each GPU (A100, A800: 200)."""


def device_named(name: str) -> Device:
    """The device of that name; raises `RecipeError` for an unknown one."""
    if name.lower() not in DEVICES:
        raise RecipeError(
            f"plan: --gpu is {name}, which is not among those known{nearest(name.lower(), DEVICES)}: "
            f"{', '.join(DEVICES)}"
        )
    return DEVICES[name.lower()]
