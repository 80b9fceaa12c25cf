"""What code asks of torch, counted: operations by name, floating-point operations, copies, the largest tensor, host reads.

Counts are the same on any machine, idle or busy, so a test can assert them where it cannot assert seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "_linear_pointwise", "linear")
COPIES = ("clone", "_to_copy", "copy_")


class Operations(TorchDispatchMode):
    """Counts operations; ``made`` has the shapes of all new tensors, ``copied`` those of what is copied.

    What native kernels and operations of our own (`torch.library`) do inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.made: set[tuple[int, ...]] = set()
        self.copied: list[tuple[int, ...]] = []

    @property
    def largest(self) -> int:
        """The number of elements of the largest new tensor."""
        return max(map(math.prod, self.made))

    @property
    def products(self) -> int:
        return sum(self.calls[name] for name in PRODUCTS)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        outputs = [one for one in tree_iter(result) if isinstance(one, Tensor)]
        if name in COPIES:
            self.copied += [tuple(one.shape) for one in outputs]
        known = {_memory(one) for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)}
        self.made |= {tuple(one.shape) for one in outputs if _memory(one) not in known}
        return result


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def flop_counter() -> FlopCounterMode:
    """torch's counter of the operations of products; it leaves out attention's flash kernel and all that is no product."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _of_addmm})


def _of_addmm(total: Sequence[int], left: Sequence[int], right: Sequence[int], **_: Any) -> int:
    """Operations of adding a product [left[0], right[1]]; without the sum, as torch counts `addmm`."""
    return 2 * left[0] * left[1] * right[1]


def copies_of(shapes: Iterable[tuple[int, ...]], operations: Operations) -> int:
    """How often something of one of these shapes was copied."""
    wanted = set(shapes)
    return sum(shape in wanted for shape in operations.copied)


def weight_shapes(model: torch.nn.Module) -> set[tuple[int, ...]]:
    """The shapes of a model's matrices."""
    return {tuple(weight.shape) for weight in model.parameters() if weight.dim() > 1}


class HostReads(TorchFunctionMode):
    """Names what would make the host wait for a device. `nonzero`, of the host's packing, counts on a GPU alone."""

    NAMES = {
        "item",
        "tolist",
        "cpu",
        "numpy",
        "__bool__",
        "__float__",
        "__int__",
        "__index__",
        "is_nonzero",
    }

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.NAMES:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def tokens_read(model: torch.nn.Module) -> Iterator[list[int]]:
    """How many tokens each forward of a model reads, counted at its embedding."""
    seen: list[int] = []

    def count(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].numel())

    handle = model.get_input_embeddings().register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def counted(monkeypatch: Any, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """A list that grows by the arguments of each call of a function or method."""
    calls: list[tuple[Any, ...]] = []
    original: Callable[..., Any] = getattr(owner, name)

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counting)
    return calls
