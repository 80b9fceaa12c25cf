"""AdamW whose moments take less of the device: kept on the host, in 8 bits, or both.

8-bit moments are codes of a logarithm: blocks of `BLOCK` values share a scale, their largest, and a code says by
how many steps of a fixed ratio a value lies below it. Rounding is random and unbiased, drawn from the number of the
step: a second moment moves by a thousandth a step, which rounding to the nearest of 255 codes would never let pass.
"""

from __future__ import annotations

import math
from typing import Any, Iterable

import torch
from torch import Tensor, nn

BLOCK = 256
PIECE = 2**22  # values whose moments are held in float32 at once
FIRST_RANGE, SECOND_RANGE = (
    20.0,
    40.0,
)  # binary orders of magnitude that codes reach below a block's largest


class LeanAdamW:
    """``torch.optim.AdamW`` step for step (float32 moments), or with 8-bit moments; the interface of its use here.

    With `offload` the moments are on the host between steps, in pinned memory beside a CUDA device.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        bits: int,
        offload: bool,
    ):
        self.param_groups = [{**group, "lr": lr} for group in groups]
        self.betas, self.eps, self.bits, self.offload = betas, eps, bits, offload
        self.num_steps = 0
        self.moments = [self._zeros(p) for group in self.param_groups for p in group["params"]]

    def _zeros(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        device = torch.device("cpu") if self.offload else parameter.device
        size = parameter.numel()
        if self.bits == 8:
            blocks = -(-size // BLOCK)
            made = {
                name: torch.zeros(blocks, BLOCK, dtype=torch.uint8, device=device)
                for name in ("first", "second")
            }
            made |= {
                f"{name}_top": torch.zeros(blocks, device=device) for name in ("first", "second")
            }
        else:
            made = {
                name: torch.zeros(size, dtype=parameter.dtype, device=device)
                for name in ("first", "second")
            }
        pin = self.offload and parameter.device.type == "cuda"
        return {name: part.pin_memory() if pin else part for name, part in made.items()}

    @torch.no_grad()
    def step(self) -> None:
        """One step of each parameter that has a gradient."""
        self.num_steps += 1
        moments = iter(self.moments)
        for group in self.param_groups:
            for number, parameter in enumerate(group["params"]):
                kept = next(moments)
                if parameter.grad is not None:
                    generator = torch.Generator(parameter.device).manual_seed(
                        self.num_steps * 1_000_003 + number
                    )
                    for start in range(0, parameter.numel(), PIECE):
                        self._piece(parameter, kept, start, group, generator)

    def _piece(
        self,
        parameter: nn.Parameter,
        kept: dict[str, Tensor],
        start: int,
        group: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        part = slice(start, min(start + PIECE, parameter.numel()))
        value, gradient = parameter.view(-1)[part], parameter.grad.reshape(-1)[part]
        first, second = self._read(kept, part, value)
        first.lerp_(gradient, 1 - self.betas[0])
        second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        value.mul_(1 - group["lr"] * group["weight_decay"])
        scale = math.sqrt(1 - self.betas[1] ** self.num_steps)
        rate = group["lr"] / (1 - self.betas[0] ** self.num_steps)
        value.addcdiv_(first, second.sqrt().div_(scale).add_(self.eps), value=-rate)
        self._write(kept, part, first, second, generator)

    def _read(self, kept: dict[str, Tensor], part: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.bits == 8:
            blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
            codes = [
                kept[name][blocks].to(like.device)
                for name in ("first", "first_top", "second", "second_top")
            ]
            first, second = (
                decoded_signed(codes[0], codes[1]),
                decoded(codes[2], codes[3], SECOND_RANGE),
            )
            return first.view(-1)[: len(like)].to(like.dtype), second.view(-1)[: len(like)].to(
                like.dtype
            )
        return kept["first"][part].to(like.device), kept["second"][part].to(like.device)

    def _write(
        self,
        kept: dict[str, Tensor],
        part: slice,
        first: Tensor,
        second: Tensor,
        generator: torch.Generator,
    ) -> None:
        if self.bits == 8:
            blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
            for name, moment, code in (("first", first, coded_signed), ("second", second, coded)):
                padded = nn.functional.pad(moment.float(), (0, -len(moment) % BLOCK)).view(
                    -1, BLOCK
                )
                for key, found in zip((name, f"{name}_top"), code(padded, generator)):
                    kept[key][blocks] = found.to(kept[key].device)
        elif self.offload:
            kept["first"][part], kept["second"][part] = first.to("cpu"), second.to("cpu")

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments, "num_steps": self.num_steps, "bits": self.bits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["bits"] == self.bits, "a resumed run has the recipe of the run it resumes"
        for own, given in zip(self.moments, state["moments"]):
            for name, part in own.items():
                part.copy_(given[name])
        self.num_steps = state["num_steps"]


def coded(
    value_BN: Tensor, generator: torch.Generator, levels: int = 254, reach: float = SECOND_RANGE
) -> tuple[Tensor, Tensor]:
    """(codes, tops) of blocks of values >= 0: 0 for 0, else 1 + level, the top's level being `levels`."""
    top_B = value_BN.amax(-1)
    share_BN = value_BN / top_B.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    level_BN = (share_BN.clamp_min(2.0**-reach).log2() / reach + 1) * levels
    low_BN = level_BN.floor().clamp(0, levels - 1)
    bounds = [((low_BN + i) / levels - 1).mul(reach).exp2() for i in (0, 1)]
    chance_BN = ((share_BN - bounds[0]) / (bounds[1] - bounds[0])).clamp(0, 1)
    drawn_BN = torch.rand(chance_BN.shape, generator=generator, device=chance_BN.device)
    code_BN = low_BN + (drawn_BN < chance_BN) + 1
    alive_BN = (share_BN >= bounds[0]) | (
        drawn_BN * 2.0**-reach < share_BN
    )  # what lies below the least level
    return torch.where(alive_BN, code_BN, 0).to(torch.uint8), top_B


def decoded(code_BN: Tensor, top_B: Tensor, reach: float, levels: int = 254) -> Tensor:
    value_BN = ((code_BN.float() - 1) / levels - 1).mul_(reach).exp2_().mul_(top_B[:, None])
    return torch.where(code_BN == 0, 0.0, value_BN)


def coded_signed(value_BN: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As `coded` in 7 bits, the eighth the sign."""
    code_BN, top_B = coded(value_BN.abs(), generator, 126, FIRST_RANGE)
    return code_BN + 128 * (value_BN < 0).to(torch.uint8), top_B


def decoded_signed(code_BN: Tensor, top_B: Tensor) -> Tensor:
    value_BN = decoded(code_BN % 128, top_B, FIRST_RANGE, 126)
    return torch.where(code_BN >= 128, -value_BN, value_BN)
