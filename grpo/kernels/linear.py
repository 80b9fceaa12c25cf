"""Matrix products in fp32 on CPUs: oneDNN's where MKL's leave half of the machine unused.

torch computes fp32 products on x86 with MKL, whose kernels for other makers' processors use half of the vector
width. oneDNN's, which torch carries too, ran 1.7 to 2.4 times as fast on an AMD EPYC with AVX-512 (README, "Numbers"),
without a copy of the weights, and a row's bits do not depend on how many rows there are beside it. The choice
hangs on the processor's maker and the weight's size alone, never on a timing, so that a run can be repeated.
"""

from __future__ import annotations

import functools
import platform
import sys
import types
from pathlib import Path
from typing import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

if sys.platform == "linux":
    import resource

SMALLEST = 128 * 128  # below, the call costs more than the product saves
MOST_ROWS = 256  # above, a packed weight is no faster than a dense one
LEAST_ROOM = (
    32 * 2**20
)  # bytes of address space: oneDNN ends the process where its own small requests are refused


@functools.cache
def available() -> bool:
    """Whether this process has oneDNN's products, and a processor on which MKL's are slow."""
    if (
        not torch.backends.mkldnn.is_available()
        or sys.platform != "linux"
        or platform.machine() != "x86_64"
    ):
        return False
    try:
        made_by_amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
        return made_by_amd and onednn(torch.ones(2, 3), torch.ones(4, 3), None).shape == (2, 4)
    except (OSError, AttributeError, RuntimeError):
        return False


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` in fp32 without gradient; either matrix may be a transposed view.

    Raises MemoryError where a limit of the address space (``ulimit -v``) leaves little of it.
    """
    refuse_without_room()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def refuse_without_room() -> None:
    """MemoryError where this process may not take `LEAST_ROOM` more; nothing where it has no such limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        taken = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
        if limit - taken < LEAST_ROOM:
            raise MemoryError(
                f"{max(limit - taken, 0) / 2**20:.0f} MiB are left of this process's limit of memory"
            )


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether ``x @ weight.T`` is a product that oneDNN computes here."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and weight.numel() >= SMALLEST
        and x.numel() > 0
        and available()
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            onednn(flat, weight.t(), None).view(x.shape) if needs_x else None,
            onednn(flat.t(), x.reshape(-1, x.shape[-1]).t(), None) if needs_weight else None,
            flat.sum(0) if needs_bias and ctx.has_bias else None,
        )


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` with gradients, by the faster of the two libraries."""
    if not suits(x, weight):
        return linear(x, weight, bias)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias)
    ):
        return _Linear.apply(x, weight, bias)
    return onednn(x, weight, bias)


# To torch.compile the product is one operation into which it does not look: weights change, and are packed, meanwhile.
_opaque = torch.library.Library("grpo", "FRAGMENT")
_opaque.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_packed: dict[
    int, tuple[Tensor, int, int]
] = {}  # by the weight's address: its packed copy, of which version, address


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed = _packed.get(weight.data_ptr()) if x.numel() <= MOST_ROWS * x.shape[-1] else None
    return onednn(x, weight if packed is None or packed[1] != weight._version else packed[0], bias)


_opaque.impl("linear", _linear, "CPU")
torch.library.register_fake(
    "grpo::linear", lambda x, weight, _: x.new_empty(*x.shape[:-1], len(weight)), lib=_opaque
)


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():
        if x.dtype == self.weight.dtype == torch.float32 and self.weight.numel() >= SMALLEST:
            return torch.ops.grpo.linear(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias)
    packed = self.__dict__.get("packed")
    if (
        packed is not None
        and not torch.is_grad_enabled()
        and x.numel() <= MOST_ROWS * x.shape[-1]
        and packed[1] == self.weight._version
        and suits(x, self.weight)
    ):
        return onednn(x, packed[0], self.bias)
    return fast_linear(x, self.weight, self.bias)


_forward.__name__ = "forward"  # by which pickle finds it again


def use_in(model: nn.Module) -> bool:
    """Let every plain ``nn.Linear`` of `model` compute this way; whether that changes anything here."""
    if not available():
        return False
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = types.MethodType(_forward, module)
    return True


def pack(model: nn.Module) -> list[nn.Linear]:
    """Keep a copy of each large fp32 weight of `model` in the order in which oneDNN reads it; give them to `unpack`.

    Products of few rows without gradient then run 1.1 to 1.7 times as fast, with the same bits. A weight that changes
    afterwards is read as it is. The copies take as much memory as the weights.
    """
    packed = [module for module in _linears(model) if available()]
    try:
        for module in packed:
            refuse_without_room()
            copy = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), 32)
            address = module.weight.data_ptr()
            module.__dict__["packed"] = _packed[address] = copy, module.weight._version, address
    except BaseException:
        unpack(packed)
        raise
    return packed


def unpack(modules: Iterable[nn.Linear]) -> None:
    """Give back what `pack` made."""
    for module in modules:
        _packed.pop(module.__dict__.pop("packed", (None, 0, 0))[2], None)


def packed_bytes(model: nn.Module) -> int:
    """What `pack` would take."""
    return sum(module.weight.numel() * 4 for module in _linears(model) if available())


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" in module.__dict__
        and suits(module.weight, module.weight)
    ]
