"""Attention that shares prompts without copies, against an explicit mask over every query and key."""

from __future__ import annotations

import random

import pytest
import torch

from grpo.model.shared_prefix import plan, shared_attention


def layout(groups):
    """(stretches, across, rows): prompts with their completions by length; rows are lists of packed indices."""
    stretches, across, rows, at = [], [], [], 0
    for prompt, lengths in groups:
        first = at
        stretches.append((at, at + prompt))
        rows.append([*range(at, at + prompt)])
        at += prompt
        for length in lengths:
            stretches.append((at, at + length))
            across.append((at, at + length, first, first + prompt))
            rows.append([*range(first, first + prompt), *range(at, at + length)])
            at += length
    return stretches, across, rows, at


GROUPS = {
    "two groups": [(5, (1, 17, 3)), (16, (40, 15, 16, 17))],
    "one token each": [(1, (1,)), (1, (1, 1))],
    "a prompt without completions": [(9, ()), (3, (2,))],
    "an empty completion": [(4, (3, 0, 2))],
    "long": [(130, (70, 3)), (2, (300,))],
}


def expected_of(rows, query, key, value, scaling):
    """Each row alone; a prompt's outputs are its own."""
    out = torch.zeros_like(query)
    for index in rows:
        q, k, v = (part[index].transpose(0, 1) for part in (query, key, value))
        k, v = (part.repeat_interleave(len(q) // len(part), 0) for part in (k, v))
        later = torch.ones(len(index), len(index), dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(-1, -2) * scaling).masked_fill(later, -torch.inf).softmax(-1)
        out = out.index_copy(
            0, torch.tensor(index, dtype=torch.long), (weights @ v).transpose(0, 1)
        )
    return out


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_values_and_gradients_are_those_of_each_row_alone(name, kv_heads, seed):
    stretches, across, rows, number = layout(GROUPS[name])
    made = plan(stretches, across, 1000)
    inputs = [
        torch.randn(number, heads, 8, dtype=torch.float64, requires_grad=True)
        for heads in (6, kv_heads, kv_heads)
    ]
    weight = torch.randn(number, 6, 8, dtype=torch.float64)
    actual, expected = shared_attention(*inputs, made, 0.3), expected_of(rows, *inputs, 0.3)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    for one, other in zip(
        *(torch.autograd.grad((out * weight).sum(), inputs) for out in (actual, expected))
    ):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_random_layouts_with_strided_inputs_in_float32_and_bfloat16(seed):
    groups = [
        (
            random.Random(seed + i).randint(1, 60),
            tuple(random.Random(seed - i - j).randint(1, 50) for j in range(4)),
        )
        for i in range(3)
    ]
    stretches, across, rows, number = layout(groups)
    wide = torch.randn(number, 10, 16)
    inputs = (wide[:, :6], wide[:, 6:8], wide[:, 8:])
    exact = expected_of(rows, *(part.double() for part in inputs), 0.25)
    for dtype, apart in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        actual = shared_attention(
            *(part.to(dtype) for part in inputs), plan(stretches, across, 1000), 0.25
        )
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), exact, atol=apart, rtol=0)


def test_a_neighbouring_group_of_infinities_is_not_met(seed):
    stretches, across, _, number = layout(GROUPS["two groups"])
    made = plan(stretches, across, 1000)
    inputs = [torch.randn(number, heads, 8, dtype=torch.float64) for heads in (4, 2, 2)]
    expected = shared_attention(*inputs, made, 0.3)[:26]
    for part in inputs:
        part[26:] = torch.nan
    assert torch.equal(shared_attention(*inputs, made, 0.3)[:26], expected)


def test_logits_of_hundreds_merge_without_overflow(seed):
    stretches, across, rows, number = layout(GROUPS["two groups"])
    inputs = [30 * torch.randn(number, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    actual = shared_attention(*inputs, plan(stretches, across, 1000), 1.0)
    torch.testing.assert_close(actual, expected_of(rows, *inputs, 1.0), atol=1e-2, rtol=1e-3)
    assert all(part.isfinite().all() for part in torch.autograd.grad(actual.sum(), inputs))
