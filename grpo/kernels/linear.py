"""Matrix products in fp32 on AMD processors: oneDNN's where they are faster than MKL's.

torch computes fp32 products on x86 with MKL, whose kernels for other vendors' processors use half of AVX-512's width:
oneDNN's, which torch ships too, ran 1.7 to 2.4 times as fast on an EPYC with AVX-512, without a copy of the weights. On
an EPYC without it MKL's are as fast or faster (32 rows 576 -> 192: 51 to 38 GFLOP/s a core), but for weights beyond
the caches (32 rows 576 -> 49,152: 31 to 44, 53 packed). Neither's bits of a row depend on the number of rows from four
up, but the bits of the two differ: the choice depends on the processor and the weight's size alone, never on the rows
nor on a timing, so that a run is repeatable.

This module takes over ``forward`` of plain ``nn.Linear`` instances (`use_in`) and calls the private operators
``torch.ops.mkldnn._linear_pointwise`` and ``_reorder_linear_weight``.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

if sys.platform == "linux":
    import resource

# Elements of a weight, by the instructions that torch uses: oneDNN takes those of at least so many. With AVX-512 what a
# product saves below goes into the code that oneDNN makes, and keeps, for each number of rows it meets: a step of the
# quickstart takes 1.1 CPU-seconds either way, and its 20 steps 670 MiB with this limit, 1,040 with a quarter of it.
MIN_WEIGHT_SIZE = {"AVX512": 256 * 256}
MIN_WEIGHT_SIZE_ELSEWHERE = 2**21
CAPABILITY = torch.backends.cpu.get_cpu_capability()  # asked here: torch.compile cannot trace it
MAX_PACKED_ROWS = 256  # above, a packed weight is no faster than a dense one
# Bytes of address space: oneDNN aborts the process if its own small allocations are refused.
MIN_ADDRESS_SPACE = 32 * 2**20


@functools.cache
def available() -> bool:
    """Whether this process has oneDNN's products, and a processor on which some of MKL's are slow."""
    is_linux_x86 = sys.platform == "linux" and platform.machine() == "x86_64"
    if not torch.backends.mkldnn.is_available() or not is_linux_x86:
        return False
    try:
        if "AuthenticAMD" not in Path("/proc/cpuinfo").read_text():
            return False
        return onednn(torch.ones(2, 3), torch.ones(4, 3), None).shape == (2, 4)
    except (OSError, AttributeError, RuntimeError):
        return False


def min_weight_size() -> int:
    """The smallest weight whose products oneDNN computes, in elements."""
    return MIN_WEIGHT_SIZE.get(CAPABILITY, MIN_WEIGHT_SIZE_ELSEWHERE)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` in fp32 without gradient; either matrix may be a transposed view.

    Raises MemoryError if a limit of the address space (``ulimit -v``) leaves too little of it.
    """
    require_address_space()
    return torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, attr="none", scalars=[], algorithm=""
    )


def require_address_space() -> None:
    """MemoryError if a limit leaves this process less than `MIN_ADDRESS_SPACE`.

    Memory that was freed counts as left where the allocator keeps it for the next request, as a heap does.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    taken = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    left = limit - taken
    if left >= MIN_ADDRESS_SPACE:
        return
    if not _is_allocatable(MIN_ADDRESS_SPACE):
        number = max(left, 0) / 2**20
        raise MemoryError(f"{number:.0f} MiB are left of this process's limit of memory")


def _is_allocatable(num_bytes: int) -> bool:
    """Whether the process's own allocator has `num_bytes` in one piece."""
    allocator = ctypes.CDLL(None)
    allocator.malloc.restype = ctypes.c_void_p
    allocator.malloc.argtypes = [ctypes.c_size_t]
    allocator.free.argtypes = [ctypes.c_void_p]
    address = allocator.malloc(num_bytes + resource.getpagesize())
    allocator.free(address)
    return address is not None


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether ``x @ weight.T`` is a product that oneDNN computes here."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and weight.numel() >= min_weight_size()
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
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = onednn(flat, weight.t(), None).view(x.shape)
        if needs_weight:
            grad_weight = onednn(flat.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if needs_bias and ctx.has_bias:
            grad_bias = flat.sum(0)
        return grad_x, grad_weight, grad_bias


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` with gradients, by the faster of the two libraries."""
    if not suits(x, weight):
        return linear(x, weight, bias)
    inputs = [x, weight] if bias is None else [x, weight, bias]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Linear.apply(x, weight, bias)
    return onednn(x, weight, bias)


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight's copy in oneDNN's order, the weight's version when it was copied, and its address."""

    copy: Tensor
    version: int
    address: int

    def is_current(self, weight: Tensor) -> bool:
        return self.version == weight._version


# torch.compile sees the product as one opaque operation: weights change and are packed between calls.
_opaque = torch.library.Library("grpo", "FRAGMENT")
_opaque.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_packed: dict[int, PackedWeight] = {}  # by the weight's address


def _has_few_rows(x: Tensor) -> bool:
    return x.numel() <= MAX_PACKED_ROWS * x.shape[-1]


def _opaque_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed = _packed.get(weight.data_ptr()) if _has_few_rows(x) else None
    if packed is not None and packed.is_current(weight):
        return onednn(x, packed.copy, bias)
    return onednn(x, weight, bias)


def _opaque_linear_shape(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


_opaque.impl("linear", _opaque_linear, "CPU")
torch.library.register_fake("grpo::linear", _opaque_linear_shape, lib=_opaque)


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    weight = self.weight
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():
        if x.dtype == weight.dtype == torch.float32 and weight.numel() >= min_weight_size():
            return torch.ops.grpo.linear(x, weight, self.bias)
        return linear(x, weight, self.bias)
    packed = self.__dict__.get("packed")
    if packed is None or torch.is_grad_enabled() or not _has_few_rows(x):
        return fast_linear(x, weight, self.bias)
    if packed.is_current(weight) and suits(x, weight):
        return onednn(x, packed.copy, self.bias)
    return fast_linear(x, weight, self.bias)


_forward.__name__ = "forward"  # the name under which pickle finds it again


def use_in(model: nn.Module) -> bool:
    """Let every plain ``nn.Linear`` of `model` compute this way; returns whether that changes anything here."""
    if not available():
        return False
    for module in model.modules():
        if type(module) is nn.Linear:
            instance: Any = (
                module  # a class's method cannot be assigned, an instance's attribute can
            )
            instance.forward = types.MethodType(_forward, module)
    return True


def pack(model: nn.Module) -> list[nn.Linear]:
    """Keep a copy of each large fp32 weight of `model` in oneDNN's order; returns the modules, for `unpack`.

    Products of few rows without gradient then run 1.1 to 1.7 times as fast, with the same bits. A weight that changes
    afterwards is read itself, not its copy. The copies take as much memory as the weights.
    """
    modules = _fast_modules(model)
    try:
        for module in modules:
            require_address_space()
            copy = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), 32)
            packed = PackedWeight(copy, module.weight._version, module.weight.data_ptr())
            module.__dict__["packed"] = packed
            _packed[packed.address] = packed
    except BaseException:
        unpack(modules)
        raise
    return modules


def unpack(modules: Iterable[nn.Linear]) -> None:
    """Free what `pack` made."""
    for module in modules:
        packed = module.__dict__.pop("packed", None)
        if packed is not None:
            _packed.pop(packed.address, None)


def packed_bytes(model: nn.Module) -> int:
    """How much memory `pack` would take."""
    return sum(module.weight.numel() * 4 for module in _fast_modules(model))


def _fast_modules(model: nn.Module) -> list[nn.Linear]:
    """The modules of `use_in` whose products oneDNN computes; none if it is not available."""
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" in module.__dict__
        and suits(module.weight, module.weight)
    ]
