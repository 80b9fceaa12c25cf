"""AdamW against torch's own in fp32, master weights in bf16, schedules against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from grpo.learner.optimizer import Optimizer, schedule
from grpo.recipe import OptimSection


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    torch.manual_seed(3)
    return {
        "weight": nn.Parameter(torch.randn(5, 7).to(dtype)),
        "bias": nn.Parameter(torch.randn(7).to(dtype)),
    }


def backward(weights: dict[str, nn.Parameter], seed: int) -> None:
    torch.manual_seed(seed)
    loss = sum((p.float() * torch.randn(p.shape)).sum() for p in weights.values())
    loss.backward()


def test_it_is_adamw_with_decay_on_matrices_alone() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = Optimizer(ours, OptimSection(lr=0.01, weight_decay=0.1, max_grad_norm=0.0), 10)
    peer = torch.optim.AdamW(
        [
            {"params": [theirs["weight"]], "weight_decay": 0.1},
            {"params": [theirs["bias"]], "weight_decay": 0.0},
        ],
        lr=0.01,
    )
    for step in range(5):
        for weights, apply in ((ours, optimizer), (theirs, peer)):
            backward(weights, step)
            apply.step()
        peer.zero_grad()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-6)


def test_bf16_parameters_lose_nothing_with_fp32_masters() -> None:
    half, full = parameters(torch.bfloat16), {}
    full = {name: nn.Parameter(p.detach().float()) for name, p in half.items()}
    section = OptimSection(lr=1e-5, max_grad_norm=0.0)
    in_half, in_full = Optimizer(half, section, 100), Optimizer(full, section, 100)
    for step in range(50):
        for weights, optimizer in ((half, in_half), (full, in_full)):
            backward(weights, step)
            optimizer.step()
    for name in half:
        assert torch.allclose(in_half.masters[name], full[name], atol=1e-6)
        assert (
            torch.equal(half[name], full[name].bfloat16())
            or (half[name].float() - full[name]).abs().max() <= full[name].abs().max() * 2**-8
        )
        assert not torch.equal(in_half.masters[name], half[name].float())


def test_gradients_of_micro_batches_add_up_in_fp32_for_bf16_parameters() -> None:
    weights = {"weight": nn.Parameter(torch.zeros(4, 4, dtype=torch.bfloat16))}
    optimizer = Optimizer(weights, OptimSection(), 1)
    for value in (1.0, 2.0**-9, 2.0**-9):
        (weights["weight"] * value).sum().backward()
    assert optimizer.gradients()[0][0, 0].item() == 1.0 + 2 * 2.0**-9


def test_the_gradient_is_scaled_down_to_the_norm_and_its_own_norm_reported() -> None:
    weights = parameters()
    optimizer = Optimizer(weights, OptimSection(max_grad_norm=0.5), 1)
    backward(weights, 0)
    true = math.sqrt(sum(p.grad.square().sum().item() for p in weights.values()))
    assert optimizer.clip() == pytest.approx(true, rel=1e-5)
    clipped = math.sqrt(sum(g.square().sum().item() for g in optimizer.gradients()))
    assert clipped == pytest.approx(0.5, rel=1e-4)


def test_a_restored_optimizer_continues_bit_for_bit() -> None:
    ours, section = parameters(torch.bfloat16), OptimSection(lr=0.01)
    optimizer = Optimizer(ours, section, 10)
    backward(ours, 0)
    optimizer.step()
    copied = {name: nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    restored = Optimizer(copied, section, 10)
    restored.restore(optimizer.state())
    for weights, each in ((ours, optimizer), (copied, restored)):
        backward(weights, 1)
        each.step()
    assert restored.num_updates == 2
    assert all(torch.equal(ours[name], copied[name]) for name in ours)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        (
            "cosine",
            [
                0.5,
                1.0,
                1.0,
                (1 + math.cos(math.pi / 4)) / 2,
                0.5,
                (1 + math.cos(3 * math.pi / 4)) / 2,
            ],
        ),
    ],
)
def test_schedules_warm_up_and_follow_their_formula(name: str, expected: list[float]) -> None:
    rate = schedule(OptimSection(lr=1.0, warmup=2, schedule=name), 6)
    assert [rate(update) for update in range(6)] == pytest.approx(expected)
    share = schedule(OptimSection(lr=1.0, warmup_ratio=0.3, schedule=name), 6)
    assert [share(update) for update in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_schedule_ends_at_the_share_of_the_rate_that_it_is_given(name: str) -> None:
    to_zero = schedule(OptimSection(lr=5e-5, schedule=name), 1000)
    rate = schedule(OptimSection(lr=5e-5, schedule=name, min_lr_ratio=0.1), 1000)
    assert rate(0) == 5e-5 and rate(1000) == pytest.approx(5e-6)
    assert rate(400) == pytest.approx(5e-6 + 0.9 * to_zero(400))


@pytest.mark.parametrize(
    "ratio, updates, warmup",
    [(0.0, 10, 0), (0.05, 10, 1), (0.1, 10, 1), (0.11, 100, 11), (0.5, 0, 0)],
)
def test_a_warm_up_as_a_share_is_rounded_up(ratio: float, updates: int, warmup: int) -> None:
    assert OptimSection(warmup_ratio=ratio).warmup_updates(updates) == warmup
