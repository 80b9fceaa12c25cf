"""AdamW that loses nothing: gradients, moments and weights in fp32 (or finer) whatever the model's dtype.

A parameter of lower precision has an fp32 master; each backward's gradient is added to the master's and
the parameter is rounded from it once an update. float16 holds nothing below 6e-8, so its loss is scaled up
for the backward by a power of two, which `LossScale` finds, and the gradient is scaled back, exactly.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Callable, Mapping

import torch
from torch import Tensor, nn

from grpo.learner.lean_adamw import LeanAdamW
from grpo.recipe import OptimSection


class LossScale:
    """The factor of a float16 model's loss: halved when a gradient overflows, doubled after `CALM` updates without.

    A power of two, so it changes no digit of a gradient that float16 can hold. Always 1 where it is not `active`.
    """

    HIGHEST, LOWEST, CALM = 2.0**24, 2.0**-14, 200

    def __init__(self, active: bool):
        self.active, self.value, self.calm = active, 2.0**15 if active else 1.0, 0

    def lower(self) -> bool:
        """Called when a gradient was not finite; False if a lower scale can help no more."""
        if not self.active or self.value <= self.LOWEST:
            return False
        self.value, self.calm = self.value / 2, 0
        return True

    def went_well(self) -> None:
        """Called when an update was made."""
        self.calm += 1
        if self.active and self.calm >= self.CALM:
            self.value, self.calm = min(2 * self.value, self.HIGHEST), 0


class Optimizer:
    """AdamW with warm-up, schedule and clipping over a policy's trainable parameters.

    With `scale_loss` (for models that compute in float16) the learner multiplies each loss by
    ``loss_scale.value`` before its backward and calls `unscale` after the last.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        section: OptimSection,
        total_updates: int,
        *,
        scale_loss: bool = False,
    ):
        self.loss_scale = LossScale(scale_loss)
        self.parameters, self.section = dict(parameters), section
        self.masters = {
            name: p if p.dtype.itemsize >= 4 else nn.Parameter(p.detach().float())
            for name, p in self.parameters.items()
        }
        for name, p in self.parameters.items():
            if self.masters[name] is not p:
                p.register_post_accumulate_grad_hook(_into(self.masters[name]))
        self.rate = schedule(section, total_updates)
        self.num_updates = 0
        decayed = [m for m in self.masters.values() if m.dim() >= 2]
        others = [m for m in self.masters.values() if m.dim() < 2]
        groups = [
            {"params": decayed, "weight_decay": section.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        numbers = {"lr": section.lr, "betas": (section.beta1, section.beta2), "eps": section.eps}
        if section.offload or section.state == "8bit":
            self.adamw: Any = LeanAdamW(
                groups,
                **numbers,
                bits=8 if section.state == "8bit" else 32,
                offload=section.offload,
            )
        else:
            fused = all(m.device.type in ("cpu", "cuda") for m in self.masters.values())
            self.adamw = torch.optim.AdamW(groups, **numbers, fused=fused)

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self.rate(self.num_updates)

    def gradients(self) -> list[Tensor]:
        """The accumulated gradients, zeros where nothing reached a parameter."""
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in self.masters.values()]

    def accumulator(self, parameter: nn.Parameter) -> Tensor:
        """Where the gradient of one of the parameters is added up: that of its master."""
        master = next(self.masters[name] for name, p in self.parameters.items() if p is parameter)
        if master.grad is None:
            master.grad = torch.zeros_like(master)
        return master.grad

    def unscale(self) -> None:
        """Take the loss scale out of the accumulated gradients."""
        if self.loss_scale.value != 1:
            for gradient in self.gradients():
                gradient.mul_(1 / self.loss_scale.value)

    def norm(self) -> Tensor:
        """The norm of the accumulated gradient, on the device."""
        return torch.nn.utils.get_total_norm(self.gradients())

    def clip(self, norm: float | None = None) -> float:
        """Scale the gradient down to ``max_grad_norm``; returns the `norm` it had, which may be given."""
        norm = float(self.norm()) if norm is None else norm
        if self.section.max_grad_norm and norm > self.section.max_grad_norm:
            torch._foreach_mul_(self.gradients(), self.section.max_grad_norm / (norm + 1e-6))
        return norm

    @torch.no_grad()
    def step(self) -> None:
        """One update from the accumulated gradients, which are dropped."""
        for group in self.adamw.param_groups:
            group["lr"] = self.lr
        self.adamw.step()
        self.drop_gradients()
        for name, p in self.parameters.items():
            if self.masters[name] is not p:
                p.copy_(self.masters[name])
        self.num_updates += 1
        self.loss_scale.went_well()

    def drop_gradients(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs: moments, masters, and how many updates were made."""
        masters = {
            name: m.detach() for name, m in self.masters.items() if m is not self.parameters[name]
        }
        return {
            "adamw": self.adamw.state_dict(),
            "masters": masters,
            "num_updates": self.num_updates,
            "loss_scale": [self.loss_scale.value, self.loss_scale.calm],
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        self.adamw.load_state_dict(copy.deepcopy(state["adamw"]))  # torch would share the tensors
        for name, master in state["masters"].items():
            self.masters[name].copy_(master)
        self.num_updates = state["num_updates"]
        self.loss_scale.value, self.loss_scale.calm = state["loss_scale"]


def _into(master: nn.Parameter) -> Callable[[nn.Parameter], None]:
    def hook(p: nn.Parameter) -> None:
        gradient = p.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        p.grad = None

    return hook


def schedule(section: OptimSection, total_updates: int) -> Callable[[int], float]:
    """Update number (from 0) -> learning rate: a linear warm-up, then what ``optim.schedule`` says."""

    def rate(update: int) -> float:
        if update < section.warmup:
            return section.lr * (update + 1) / section.warmup
        done = (update - section.warmup) / max(1, total_updates - section.warmup)
        factor = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
        }[section.schedule]
        return section.lr * max(0.0, factor)

    return rate
