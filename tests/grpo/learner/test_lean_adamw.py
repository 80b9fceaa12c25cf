"""AdamW with lean moments: torch's own step for step in float32, near it in 8 bits, bit for bit after a restart."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from grpo.learner import lean_adamw
from grpo.learner.lean_adamw import (
    FIRST_RANGE,
    LeanAdamW,
    decode,
    decode_signed,
    encode,
    encode_signed,
)

NUMBERS = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-8}


def parameters(seed: int, dtype=torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for shape in ((37, 19), (5,), (1,), (300, 3))
    ]


def groups(made):
    return [{"params": made[:2], "weight_decay": 0.1}, {"params": made[2:], "weight_decay": 0.0}]


def walk(optimizer, made, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in made:
            p.grad = p.detach() + torch.randn(p.shape, generator=generator)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("offload", [False, True])
def test_float32_moments_take_torchs_steps(offload, seed, monkeypatch):
    monkeypatch.setattr(lean_adamw, "PIECE", 256)
    ours, theirs = parameters(seed, torch.float64), parameters(seed, torch.float64)
    walk(LeanAdamW(groups(ours), **NUMBERS, bits=32, offload=offload), ours, 7, seed)
    walk(torch.optim.AdamW(groups(theirs), **NUMBERS), theirs, 7, seed)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_eight_bits_stay_near_and_go_where_float32_goes(seed):
    ours, theirs, start = parameters(seed), parameters(seed), parameters(seed)
    walk(LeanAdamW(groups(ours), **NUMBERS, bits=8, offload=True), ours, 60, seed)
    walk(torch.optim.AdamW(groups(theirs), **NUMBERS), theirs, 60, seed)
    flat = [torch.cat([p.detach().flatten() for p in made]) for made in (ours, theirs, start)]
    assert (flat[0] - flat[1]).norm() < 0.1 * (flat[1] - flat[2]).norm()


@pytest.mark.parametrize("bits", [8, 32])
def test_a_restart_continues_bit_for_bit(bits, seed):
    whole, first = parameters(seed), parameters(seed)
    walk(made := LeanAdamW(groups(whole), **NUMBERS, bits=bits, offload=False), whole, 3, seed)
    walk(part := LeanAdamW(groups(first), **NUMBERS, bits=bits, offload=False), first, 3, seed)
    resumed = LeanAdamW(groups(first), **NUMBERS, bits=bits, offload=False)
    resumed.load_state_dict(copy.deepcopy(part.state_dict()))
    walk(made, whole, 3, seed + 1)
    walk(resumed, first, 3, seed + 1)
    assert all(torch.equal(one, other) for one, other in zip(whole, first))


def test_codes_are_unbiased_and_within_a_step_of_their_value(seed):
    value_BN = torch.randn(6, 256).exp() * torch.tensor([1e-12, 1.0, 1e9, 1e-3, 0.0, 1.0])[:, None]
    value_BN[5, 3:] = 0.0
    generator = torch.Generator().manual_seed(seed)
    actual = torch.stack(
        [decode(*encode(value_BN, generator), lean_adamw.SECOND_RANGE) for _ in range(400)]
    )
    real = value_BN > 0
    assert (actual[:, ~real] == 0).all()
    assert ((actual - value_BN).abs() / value_BN)[:, real].max() < 2 ** (
        lean_adamw.SECOND_RANGE / 254
    ) - 1 + 1e-3
    assert ((actual.mean(0) - value_BN).abs() / value_BN)[real].mean() < 0.01


def test_signs_and_values_below_the_reach_survive_on_average(seed):
    value_BN = torch.randn(2, 256)
    value_BN[0, :128] = 2.0 ** -(FIRST_RANGE + 1) * value_BN[0, 128:].abs().max()
    generator = torch.Generator().manual_seed(seed)
    actual = torch.stack([decode_signed(*encode_signed(value_BN, generator)) for _ in range(400)])
    assert (actual[:, 1].sign() == value_BN[1].sign()).all()
    assert 0.6 < actual[:, 0, :128].mean() / value_BN[0, :128].mean() < 1.4
