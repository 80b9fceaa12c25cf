"""AdamW that loses nothing: gradients, moments and weights in fp32 (or finer) whatever the model's dtype.

A parameter of lower precision has an fp32 master; each backward's gradient is added to the master's, and the parameter
is rounded from it once per update. float16 holds nothing below 6e-8, so its loss is scaled up for the backward by a
power of two, which `LossScale` finds, and the gradient is scaled back, exactly.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from grpo.distributed.fsdp import Shards, local_part
from grpo.learner.lean_adamw import LeanAdamW
from grpo.recipe import OptimSection


class LossScale:
    """The factor of a float16 model's loss: halved when a gradient overflows, doubled after `CALM` updates without.

    A power of two, so it changes no digit of a gradient that float16 can hold. Always 1 where it is not `active`.
    """

    HIGHEST = 2.0**24
    LOWEST = 2.0**-14
    CALM = 200

    def __init__(self, active: bool):
        self.active = active
        self.value = 2.0**15 if active else 1.0
        self.calm = 0

    def lower(self) -> bool:
        """Called when a gradient was not finite; False if a lower scale can no longer help."""
        if not self.active or self.value <= self.LOWEST:
            return False
        self.value = self.value / 2
        self.calm = 0
        return True

    def went_well(self) -> None:
        """Called when an update was made."""
        self.calm += 1
        if self.active and self.calm >= self.CALM:
            self.value = min(2 * self.value, self.HIGHEST)
            self.calm = 0


class Optimizer:
    """AdamW with warm-up, schedule and clipping over a policy's trainable parameters.

    With `scale_loss` (for models that compute in float16) the learner multiplies each loss by ``loss_scale.value``
    before its backward and calls `unscale` after the last.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        section: OptimSection,
        total_updates: int,
        *,
        scale_loss: bool = False,
        shards: Shards | None = None,
    ):
        """`shards` are what distributed `parameters` are slices of; each rank then has the moments of its slices."""
        self.shards = shards
        self.loss_scale = LossScale(scale_loss)
        self.parameters = dict(parameters)
        self.section = section
        self.masters = {name: _master(p) for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.register_post_accumulate_grad_hook(_add_to(self.masters[name]))
        self.rate = schedule(section, total_updates)
        self.num_updates = 0
        self.adamw = _adamw(list(self.masters.values()), section)

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.rate(self.num_updates)

    def gradients(self) -> list[Tensor]:
        """The accumulated gradients, zeros where no gradient reached a parameter."""
        return [_gradient(master) for master in self.masters.values()]

    def accumulator(self, parameter: Tensor) -> Tensor:
        """Where the gradient of one of the parameters is added up: that of its master."""
        for name, candidate in self.parameters.items():
            if candidate is parameter:
                return _gradient(self.masters[name])
        raise AssertionError("only a parameter of this optimizer has an accumulator")

    def unscale(self) -> None:
        """Take the loss scale out of the accumulated gradients."""
        if self.loss_scale.value != 1:
            for gradient in self.gradients():
                gradient.mul_(1 / self.loss_scale.value)

    def norm(self) -> Tensor:
        """The norm of the accumulated gradient, on the device."""
        norm = torch.nn.utils.get_total_norm(self.gradients())
        if self.shards is None:
            return norm
        square = norm.square()
        self.shards.ranks.sum([square])
        return square.sqrt()

    def clip(self, norm: float | None = None) -> float:
        """Scale the gradient down to ``max_grad_norm``; returns the `norm` it had, which may be passed if known."""
        norm = float(self.norm()) if norm is None else norm
        limit = self.section.max_grad_norm
        if limit and norm > limit:
            torch._foreach_mul_(self.gradients(), limit / (norm + 1e-6))
        return norm

    @torch.no_grad()
    def step(self) -> None:
        """One update from the accumulated gradients, which are dropped."""
        for group in self.adamw.param_groups:
            group["lr"] = self.lr
        self.adamw.step()
        self.drop_gradients()
        for name, parameter in self.parameters.items():
            part = local_part(parameter)
            if self.masters[name].data_ptr() != part.data_ptr():
                part.copy_(self.masters[name])
        self.num_updates += 1
        self.loss_scale.went_well()

    def drop_gradients(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs: moments, masters, and how many updates were made.

        Divided parameters give what whole ones give: all ranks call it, and the first has the tensors.
        """
        masters: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            if self.parameters[name].dtype.itemsize < 4:
                masters[name] = self._whole(name, master.detach())
        return {
            "adamw": self._map_moments(self.adamw.state_dict(), self._whole),
            "masters": masters,
            "num_updates": self.num_updates,
            "loss_scale": [self.loss_scale.value, self.loss_scale.calm],
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        own = self._map_moments(state["adamw"], self._own_part)
        self.adamw.load_state_dict(copy.deepcopy(own))  # torch would share the tensors
        for name, master in state["masters"].items():
            self.masters[name].copy_(self._own_part(name, master))
        self.num_updates = state["num_updates"]
        self.loss_scale.value, self.loss_scale.calm = state["loss_scale"]

    def _whole(self, name: str, part: Tensor) -> Tensor:
        """A tensor like a parameter from the slices of all ranks; nothing on other ranks than the first."""
        if self.shards is None:
            return part
        whole = self.shards.whole(self.parameters[name], part)
        if not self.shards.ranks.main:
            return whole.new_empty(0)
        return whole if part.dim() == whole.dim() else whole.view(-1)

    def _own_part(self, name: str, whole: Tensor) -> Tensor:
        """What this rank holds of a tensor like a parameter."""
        if self.shards is None:
            return whole
        part = self.shards.slice_of(whole.view(self.parameters[name].shape))
        return part if whole.dim() == part.dim() else part.reshape(-1)

    def _map_moments(
        self, state: Mapping[str, Any], change: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Any]:
        """The state of either AdamW with each of its moments changed, given the name of its parameter."""
        names = [name for name, master in self.masters.items() if master.dim() >= 2]
        names += [name for name, master in self.masters.items() if master.dim() < 2]
        if "moments" in state:
            moments = [
                _changed(parts, names[number], change)
                for number, parts in enumerate(state["moments"])
            ]
            return {**state, "moments": moments}
        by_number = {
            number: _changed(parts, names[number], change)
            for number, parts in state["state"].items()
        }
        return {**state, "state": by_number}


def _changed(
    parts: Mapping[str, Tensor], name: str, change: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The moments of the parameter `name`, changed; the count of its steps is none."""
    return {part: value if part == "step" else change(name, value) for part, value in parts.items()}


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter itself, or this rank's slice of it; its fp32 copy where it is of lower precision."""
    part = local_part(parameter)
    if parameter.dtype.itemsize < 4:
        return nn.Parameter(part.float())
    return nn.Parameter(part) if isinstance(parameter, DTensor) else parameter


def _gradient(master: nn.Parameter) -> Tensor:
    """The gradient of a master, which is zero until something is added."""
    if master.grad is None:
        master.grad = torch.zeros_like(master)
    return master.grad


def _add_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that moves a parameter's gradient to its master's."""

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None, "the hook is called once a gradient is accumulated"
        gradient = local_part(parameter.grad).to(master.dtype)
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    return hook


def _adamw(masters: list[nn.Parameter], section: OptimSection) -> LeanAdamW | torch.optim.AdamW:
    """PyTorch's AdamW, or one with lean moments if the recipe asks for it; only matrices decay."""
    matrices = [master for master in masters if master.dim() >= 2]
    others = [master for master in masters if master.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (section.beta1, section.beta2)
    if section.offload or section.state == "8bit":
        return LeanAdamW(
            groups,
            lr=section.lr,
            betas=betas,
            eps=section.eps,
            bits=8 if section.state == "8bit" else 32,
            offload=section.offload,
        )
    fused = all(master.device.type in ("cpu", "cuda") for master in masters)
    return torch.optim.AdamW(groups, lr=section.lr, betas=betas, eps=section.eps, fused=fused)


def schedule(section: OptimSection, total_updates: int) -> Callable[[int], float]:
    """Update number (from 0) -> learning rate: a linear warm-up, then ``optim.schedule``.

    The schedule would reach ``min_lr_ratio`` of the rate one update after the last.
    """
    warmup = section.warmup_updates(total_updates)
    least = section.min_lr_ratio

    def rate(update: int) -> float:
        if update < warmup:
            return section.lr * (update + 1) / warmup
        done = (update - warmup) / max(1, total_updates - warmup)
        factors = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
        }
        share = max(0.0, factors[section.schedule])
        return section.lr * (least + (1 - least) * share)

    return rate
