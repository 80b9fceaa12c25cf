"""AdamW whose moments take less device memory: kept on the host, in 8 bits, or both.

8-bit moments are codes of a logarithm: blocks of `BLOCK` values share a scale, their largest, and a code says by how
many steps of a fixed ratio a value is below it. Rounding is random and unbiased, seeded by the number of the step: a
second moment moves by a thousandth per step, which rounding to the nearest of 255 codes would never let through.
"""

from __future__ import annotations

import math
from typing import Any, Iterable

import torch
from torch import Tensor, nn

BLOCK = 256
PIECE = 2**22
"""Values whose moments are held in float32 at once."""

# Binary orders of magnitude that codes reach below a block's largest value.
FIRST_RANGE = 20.0
SECOND_RANGE = 40.0
FIRST_LEVELS = 126
SECOND_LEVELS = 254

Moments = dict[str, Tensor]
"""``first`` and ``second``, one value per weight; in 8 bits codes by block, with ``first_top`` and ``second_top``."""


class LeanAdamW:
    """``torch.optim.AdamW`` step for step (float32 moments), or with 8-bit moments.

    It has as much of torch's interface as `Optimizer` uses. With `offload` the moments are on the host between steps,
    in pinned memory where the weights are on a CUDA device.
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
        self.betas = betas
        self.eps = eps
        self.bits = bits
        self.offload = offload
        self.num_steps = 0
        self.moments: list[Moments] = []
        for group in self.param_groups:
            self.moments += [self._zeros(parameter) for parameter in group["params"]]

    def _zeros(self, parameter: nn.Parameter) -> Moments:
        device = torch.device("cpu") if self.offload else parameter.device
        size = parameter.numel()
        moments: Moments = {}
        for name in ("first", "second"):
            if self.bits == 8:
                blocks = -(-size // BLOCK)
                moments[name] = torch.zeros(blocks, BLOCK, dtype=torch.uint8, device=device)
                moments[f"{name}_top"] = torch.zeros(blocks, device=device)
            else:
                moments[name] = torch.zeros(size, dtype=parameter.dtype, device=device)
        if self.offload and parameter.device.type == "cuda":
            return {name: part.pin_memory() for name, part in moments.items()}
        return moments

    @torch.no_grad()
    def step(self) -> None:
        """One step of each parameter that has a gradient."""
        self.num_steps += 1
        moments = iter(self.moments)
        for group in self.param_groups:
            for number, parameter in enumerate(group["params"]):
                self._step(parameter, next(moments), group, number)

    def _step(
        self, parameter: nn.Parameter, moments: Moments, group: dict[str, Any], number: int
    ) -> None:
        if parameter.grad is None:
            return
        seed = self.num_steps * 1_000_003 + number
        generator = torch.Generator(parameter.device).manual_seed(seed)
        value = parameter.view(-1)
        gradient = parameter.grad.reshape(-1)
        for start in range(0, parameter.numel(), PIECE):
            piece = slice(start, min(start + PIECE, parameter.numel()))
            first, second = self._read(moments, piece, value[piece])
            self._update(value[piece], gradient[piece], first, second, group=group)
            self._write(moments, piece, {"first": first, "second": second}, generator)

    def _update(
        self,
        value: Tensor,
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        *,
        group: dict[str, Any],
    ) -> None:
        """AdamW in place, on a piece of a parameter and its moments."""
        beta1, beta2 = self.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        value.mul_(1 - group["lr"] * group["weight_decay"])
        scale = math.sqrt(1 - beta2**self.num_steps)
        rate = group["lr"] / (1 - beta1**self.num_steps)
        root = second.sqrt().div_(scale).add_(self.eps)
        value.addcdiv_(first, root, value=-rate)

    def _read(self, moments: Moments, piece: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both moments of a piece, on the device and in the dtype of `like`."""
        if self.bits != 8:
            first = moments["first"][piece]
            second = moments["second"][piece]
            return first.to(like.device), second.to(like.device)
        blocks = _blocks(piece)
        parts = {name: part[blocks].to(like.device) for name, part in moments.items()}
        first_BN = decode_signed(parts["first"], parts["first_top"])
        second_BN = decode(parts["second"], parts["second_top"], SECOND_RANGE)
        first = first_BN.view(-1)[: len(like)]
        second = second_BN.view(-1)[: len(like)]
        return first.to(like.dtype), second.to(like.dtype)

    def _write(
        self,
        moments: Moments,
        piece: slice,
        updated: dict[str, Tensor],
        generator: torch.Generator,
    ) -> None:
        if self.bits == 8:
            blocks = _blocks(piece)
            for name, encoder in (("first", encode_signed), ("second", encode)):
                moment = updated[name].float()
                padding = -len(moment) % BLOCK
                padded = nn.functional.pad(moment, (0, padding))
                code_BN, top_B = encoder(padded.view(-1, BLOCK), generator)
                moments[name][blocks] = code_BN.to(moments[name].device)
                moments[f"{name}_top"][blocks] = top_B.to(moments[name].device)
        elif self.offload:
            for name, moment in updated.items():
                moments[name][piece] = moment.to("cpu")

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments, "num_steps": self.num_steps, "bits": self.bits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["bits"] == self.bits, "a resumed run has the recipe of the run it resumes"
        for moments, saved in zip(self.moments, state["moments"]):
            for name, part in moments.items():
                part.copy_(saved[name])
        self.num_steps = state["num_steps"]


def _blocks(piece: slice) -> slice:
    """The blocks that hold a piece, which starts at the first value of one."""
    return slice(piece.start // BLOCK, -(-piece.stop // BLOCK))


def encode(
    value_BN: Tensor,
    generator: torch.Generator,
    levels: int = SECOND_LEVELS,
    reach: float = SECOND_RANGE,
) -> tuple[Tensor, Tensor]:
    """(codes [B, N], tops [B]) of blocks of values >= 0: 0 for 0, else 1 + level, the top's level being `levels`."""
    tiny = torch.finfo(torch.float32).tiny
    top_B = value_BN.amax(-1)
    share_BN = value_BN / top_B.clamp_min(tiny)[:, None]
    exponent_BN = share_BN.clamp_min(2.0**-reach).log2()
    level_BN = (exponent_BN / reach + 1) * levels
    below_BN = level_BN.floor().clamp(0, levels - 1)
    low_BN = _share_of(below_BN, levels, reach)
    high_BN = _share_of(below_BN + 1, levels, reach)
    chance_BN = ((share_BN - low_BN) / (high_BN - low_BN)).clamp(0, 1)
    drawn_BN = torch.rand(chance_BN.shape, generator=generator, device=chance_BN.device)
    code_BN = below_BN + (drawn_BN < chance_BN) + 1
    # A value below the least level becomes that level or 0, at random.
    positive_BN = (share_BN >= low_BN) | (drawn_BN * 2.0**-reach < share_BN)
    return torch.where(positive_BN, code_BN, 0).to(torch.uint8), top_B


def _share_of(level_BN: Tensor, levels: int, reach: float) -> Tensor:
    """What a level stands for, as a share of its block's largest value."""
    return (level_BN / levels - 1).mul(reach).exp2()


def decode(code_BN: Tensor, top_B: Tensor, reach: float, levels: int = SECOND_LEVELS) -> Tensor:
    share_BN = ((code_BN.float() - 1) / levels - 1).mul_(reach).exp2_()
    return torch.where(code_BN == 0, 0.0, share_BN.mul_(top_B[:, None]))


def encode_signed(value_BN: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As `encode` in 7 bits, the eighth is the sign."""
    code_BN, top_B = encode(value_BN.abs(), generator, FIRST_LEVELS, FIRST_RANGE)
    return code_BN + 128 * (value_BN < 0).to(torch.uint8), top_B


def decode_signed(code_BN: Tensor, top_B: Tensor) -> Tensor:
    value_BN = decode(code_BN % 128, top_B, FIRST_RANGE, FIRST_LEVELS)
    return torch.where(code_BN >= 128, -value_BN, value_BN)
