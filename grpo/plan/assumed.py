"""What data sheets and recipes do not say: shares of rates that are reached, costs of launches, lengths, disks.

Every value is printed beside a prediction. None of those for GPUs was measured by this project.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Iterator


def _says(default: float, text: str) -> Any:
    """A field with what it is in words; ``{}`` stands for the value."""
    return field(default=default, metadata={"text": text})


@dataclass(frozen=True, slots=True)
class Assumed:
    """Shares of a data sheet's figures, seconds, and bytes."""

    weights: float = _says(0.8, "decoding reads weights at {:.0%} of the memory's bandwidth")
    keys: float = _says(0.7, "attention reads keys and values at {:.0%} of it")
    product: float = _says(0.7, "products in decoding reach {:.0%} of the rate of operations")
    training: float = _says(
        0.5, "products of forward and backward, and of reading prompts, reach {:.0%} of it"
    )
    element_passes: float = _says(
        6, "what autograd keeps of the layers crosses memory {:g} times, all else included"
    )
    logit_bytes: float = _says(10, "and {:g} bytes a logit do")
    head: float = _says(0.6, "the output layer's products in training reach {:.0%} of it")
    kernel_seconds: float = _says(2e-6, "a small kernel of a decoding step takes {:.2g} s")
    kernels_a_layer: float = _says(22, "a decoding step has {:g} of them a layer")
    kernels_a_step: float = _says(25, "and {:g} more")
    row_seconds: float = _says(5e-6, "the host takes {:.2g} s a token that is decoded")
    launch_seconds: float = _says(8e-6, "training launches a kernel in {:.2g} s")
    launches_a_layer: float = _says(
        90, "forward and backward of a micro-batch launch {:g} kernels a layer"
    )
    collective_seconds: float = _says(
        12e-6, "devices that hold a layer together agree in {:.2g} s, twice a layer"
    )
    link: float = _says(0.75, "links and networks reach {:.0%} of their figures")
    memory: float = _says(0.9, "{:.0%} of a device's memory is usable")
    optimizer_bytes: float = _says(30, "AdamW reads and writes {:g} bytes a trained parameter")
    write: float = _says(2e9, "the shared folder takes {:.2g} bytes a second")
    read: float = _says(2e9, "each server reads {:.2g} bytes a second from it")
    read_together: float = _says(2e10, "and all servers together {:.2g}")
    object_bytes: float = _says(14, "a token of a completion is {:g} bytes when ranks gather it")
    object_rate: float = _says(2e8, "a rank takes in {:.2g} bytes of completions a second")
    spread: float = _says(
        0.6, "lengths are log-normal with a spread of {:g} in their logarithm, cut at the longest"
    )
    verdict_seconds: float = _says(5e-3, "a verdict takes {:.2g} processor seconds")
    cores: float = _says(8, "{:g} cores a device judge")
    other: float = _says(0.2, "making batches, gates and records take {:g} s a step, and")
    other_row: float = _says(2e-4, "{:.2g} s a completion")

    def lines(self) -> Iterator[str]:
        """Each assumption in words."""
        for part in fields(self):
            yield part.metadata["text"].format(getattr(self, part.name))
