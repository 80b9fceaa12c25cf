"""A model whose weights are divided over the ranks, by PyTorch's ``fully_shard`` (FSDP2).

There are two views of one model. `Shards.model` is for learning: each rank holds a slice of each parameter, of its
gradient and of its moments; a layer's weights are gathered for its forward and again for its backward, and gradients
are summed into the slices. `Shards.plain` is the model as it was loaded, whose weights are gathered for sampling,
evaluating and saving, and dropped before the next update.

The output head is not called as a layer: its weight is gathered where the log-probs are taken, and its gradient,
added up in float32 or finer over the chunks of a micro-batch, is summed into the slices by `Shards.add_head_gradient`.
"""

from __future__ import annotations

import copy
import types
import warnings
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.distributed.process_group import Ranks
from grpo.monitor.waits import collective

OWNER = "grpo.distributed.fsdp"
# the names since torch 2.13; the older ones warn there
_all_gather: Any = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
BODY = "run_body"
"""The name under which a divided model has the forward of everything below its head."""


class Shards:
    """The slices that this rank holds of a model, and what the ranks do together with them.

    ``parameters`` are all parameters by name, as distributed tensors. Every method but `drop`, `swapped` and `slice_of`
    must be called by all ranks in the same order.
    """

    def __init__(self, plain: nn.Module, ranks: Ranks):
        """Divide `plain`, all of whose weights are in memory."""
        self.ranks = ranks
        self.plain = plain
        self.mesh = init_device_mesh(ranks.device.type, (ranks.world,))
        self.model = _twin(plain)
        self.base = _base_of(self.model)
        self._units = _divide(self.base, self.mesh)
        self.parameters: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        self._plain_parameters = dict(plain.named_parameters())
        self._head: Any = self.base.get_output_embeddings()
        self._head_parameters = (self._head.weight, self._head.bias)
        self.is_whole = True

    # -- the whole model --------------------------------------------------------------------------------------

    @torch.no_grad()
    def gather(self) -> None:
        """Let `plain` have its weights, as they are now."""
        if self.is_whole:
            return
        for name, parameter in self.parameters.items():
            self._plain_parameters[name].data = self.whole(parameter)
        self.is_whole = True

    def drop(self) -> None:
        """Free the weights of `plain`."""
        if self.is_whole:
            for parameter in self._plain_parameters.values():
                parameter.data = parameter.data.new_empty(0)
            self.is_whole = False

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, as distributed tensors."""
        return {name: p for name, p in self.parameters.items() if p.requires_grad}

    @torch.no_grad()
    def whole(self, parameter: Tensor, part: Tensor | None = None) -> Tensor:
        """All of a parameter; or of a tensor like it, such as a moment, of which `part` is this rank's slice."""
        sharded: Any = parameter.detach()
        if part is not None:
            sharded = DTensor.from_local(
                part.view_as(local_part(parameter)),
                device_mesh=sharded.device_mesh,
                placements=sharded.placements,
                run_check=False,
                shape=sharded.shape,
                stride=sharded.stride(),
            )
        with collective(f"{OWNER}, gather"):
            full: Tensor = sharded.full_tensor()
            return full

    def slice_of(self, whole: Tensor) -> Tensor:
        """This rank's part of a tensor that is divided as parameters are: equal runs of rows, the last ones short."""
        size = -(-len(whole) // self.ranks.world)
        return whole[size * self.ranks.rank : size * (self.ranks.rank + 1)]

    # -- one pass of learning ---------------------------------------------------------------------------------

    def body(self, **inputs: Any) -> Any:
        """The forward of everything below the head; the head's weight is then at hand until `end_pass`."""
        output = getattr(self.base, BODY)(**inputs)
        self._owner_of_head().unshard()
        return output

    def end_pass(self) -> None:
        """Free what a forward, and its backward if there was one, have gathered."""
        self.base.reshard()  # type: ignore[operator]  # a method that `fully_shard` has added
        self.end_head()

    def end_head(self) -> None:
        """Free the head's weight, unless it is the embedding's too."""
        if self.has_own_head:
            self._head.reshard()

    @property
    def has_own_head(self) -> bool:
        """Whether the head's weight is its own, not the embedding's."""
        return self._head in self._units

    def _owner_of_head(self) -> Any:
        return self._head if self.has_own_head else self.base

    @contextmanager
    def swapped(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block, slices of `weights` in place of this rank's own; they trade places, so none is copied."""
        self._swap(weights)
        try:
            yield
        finally:
            self._swap(weights)

    @torch.no_grad()
    def _swap(self, weights: Mapping[str, Tensor]) -> None:
        self.end_pass()
        for name, other in weights.items():
            own = local_part(self.parameters[name])
            kept = own.clone()
            own.copy_(other)
            other.copy_(kept)

    # -- the head's gradient ----------------------------------------------------------------------------------

    def head_gradient(self) -> list[Tensor]:
        """Zeros to add the gradient of the head's weight [.., D] up in, and of its bias if it has one.

        They have rows to spare, so that the ranks' slices are equal.
        """
        zeros = []
        for parameter in self._head_parameters:
            if parameter is not None:
                rows = -(-len(parameter) // self.ranks.world) * self.ranks.world
                shape = (rows, *parameter.shape[1:])
                dtype = torch.promote_types(parameter.dtype, torch.float32)
                zeros.append(torch.zeros(shape, dtype=dtype, device=self.ranks.device))
        return zeros

    def add_head_gradient(self, gradients: Sequence[Tensor], sums: Sequence[Tensor]) -> None:
        """Add the sum over the ranks of what `head_gradient` gave to `sums`, of which each rank has its slice."""
        for gradient, total in zip(gradients, sums):
            part = gradient.new_empty(len(gradient) // self.ranks.world, *gradient.shape[1:])
            with collective(f"{OWNER}, the head's gradient"):
                _reduce_scatter(part, gradient)
            total += part[: len(total)]

    def zero_head_gradient(self) -> None:
        """Let the backward that follows reach a head of its own with a gradient of 0, as autograd does elsewhere."""
        if self.has_own_head:
            for parameter in self._head.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)

    def head_parameters(self) -> list[nn.Parameter]:
        """The head's weight, and its bias if it has one, as distributed tensors."""
        return [parameter for parameter in self._head_parameters if parameter is not None]


def local_part(parameter: Tensor) -> Tensor:
    """This rank's slice of a distributed tensor, without a copy; another tensor as it is, without gradient."""
    value = parameter.detach()
    return value.to_local() if isinstance(value, DTensor) else value


# ---- how a model is divided -------------------------------------------------------------------------------------


class _AllGather:
    """An all-gather that the watchdog knows of; what `fully_shard` asks for."""

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> Any:
        with collective(f"{OWNER}, a layer's weights"):
            return _all_gather(output_tensor, input_tensor, group=group, async_op=async_op)


class _ReduceScatter(_AllGather):
    """A reduce-scatter that the watchdog knows of."""

    def __call__(  # type: ignore[override]  # another operation, as `fully_shard` calls it
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> Any:
        with collective(f"{OWNER}, a layer's gradients"):
            return _reduce_scatter(
                output_tensor, input_tensor, op=op, group=group, async_op=async_op
            )


def _twin(plain: nn.Module) -> nn.Module:
    """The same modules once more, over the same weights."""
    memo: dict[int, Any] = {}
    for parameter in plain.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
    return copy.deepcopy(plain, memo)


def _base_of(model: Any) -> PreTrainedModel:
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def _divide(base: PreTrainedModel, mesh: DeviceMesh) -> list[nn.Module]:
    """Divide the layers, embedding, head and what else there is; returns what is gathered by itself."""
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    head: Any = base.get_output_embeddings()
    embedding: Any = base.get_input_embeddings()
    units: list[Any] = list(layers)
    if head.weight is not embedding.weight:
        units += [embedding, head]
    policy = MixedPrecisionPolicy(reduce_dtype=_sum_dtype(base), cast_forward_inputs=False)
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    fully_shard(base, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
    if embedding in units:
        embedding.set_unshard_in_backward(False)  # its backward needs the token ids alone
    for unit in [*units, base]:
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_custom_all_gather(_AllGather())
        unit.set_custom_reduce_scatter(_ReduceScatter())
    # what a body returns is read, never written
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    setattr(base, BODY, types.MethodType(_run_body, base))
    register_fsdp_forward_method(base, BODY)
    return units


def _run_body(self: PreTrainedModel, **inputs: Any) -> Any:
    return self.base_model(**inputs)


def _sum_dtype(base: PreTrainedModel) -> torch.dtype | None:
    """Gradients are summed in float32 where the weights have less."""
    return torch.float32 if base.dtype.itemsize < 4 else None
