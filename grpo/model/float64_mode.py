"""Lets a float64 model compute in float64 throughout. Only the proofs use float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Float64Mode(TorchFunctionMode):
    """Skips the casts to float32 in a float64 model, as its norms make them.

    A cast in the middle would hide differences below 1e-7.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not args or not is_float64(args[0]):
            return func(*args, **kwargs)
        if casts_to_float32(func, args, kwargs):
            return args[0]
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is Tensor.matmul and args[1].dtype == torch.float32:
            args = (args[0], args[1].double())  # rotary angles, whose positions are float32
        return func(*args, **kwargs)


def is_float64(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float64


def casts_to_float32(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call of ``tensor.float``, ``tensor.to`` or ``tensor.type`` asks for float32."""
    if func is Tensor.float:
        return True
    return func in (Tensor.to, Tensor.type) and torch.float32 in (*args[1:], kwargs.get("dtype"))
