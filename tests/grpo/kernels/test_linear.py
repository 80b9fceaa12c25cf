"""oneDNN's products: values and gradients as torch's own, and bits of a row that do not depend on other rows."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys

import pytest
import torch
from tiny import random_prompts, tiny_policy
from torch import nn

from grpo.kernels import linear

needs_onednn = pytest.mark.skipif(
    not linear.available(), reason="torch's own products are the fast ones here"
)


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch):
    """Small weights are oneDNN's here whatever the processor, so that its products are tested on each."""
    monkeypatch.setattr(linear, "min_weight_size", lambda: 128 * 128)


def odd_shape(seed: int) -> tuple[int, int, int]:
    drawn = random.Random(seed)
    return drawn.randint(2, 300), drawn.randint(128, 400), drawn.randint(128, 700)


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_values_and_gradients_are_those_of_the_definition(bias, batched, seed):
    rows, width, out = odd_shape(seed)
    shape = (3, rows, width) if batched else (rows, width)
    x, weight = torch.randn(shape), torch.randn(out, width) / width**0.5
    b = torch.randn(out) if bias else None
    inputs = [t.requires_grad_() for t in (x, weight, b) if t is not None]
    y = linear.fast_linear(x, weight, b)
    assert type(y.grad_fn).__name__ == "_LinearBackward"
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, inputs, g)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    z = nn.functional.linear(*exact)
    for one, other in ((y, z), *zip(found, torch.autograd.grad(z, exact, g.double()))):
        assert one.shape == other.shape
        assert (one - other).norm() <= 3e-6 * other.norm()


@needs_onednn
@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_no_product_is_computed_for_a_gradient_that_is_not_needed(frozen, seed):
    x, weight = torch.randn(9, 200), torch.randn(300, 200)
    wanted, other = (weight, x) if frozen == "x" else (x, weight)
    wanted.requires_grad_()
    linear.fast_linear(x, weight).square().sum().backward()
    assert wanted.grad is not None and other.grad is None


@needs_onednn
def test_bits_of_a_row_do_not_depend_on_how_many_there_are(seed):
    _, width, out = odd_shape(seed)
    x, weight = torch.randn(1500, width), torch.randn(out, width)
    whole = linear.fast_linear(x, weight)
    for rows in (2, 3, 8, 17, 64, 200, 512, 1024, 1499):
        assert torch.equal(linear.fast_linear(x[:rows], weight), whole[:rows])
    order = torch.randperm(1500)
    assert torch.equal(linear.fast_linear(x[order], weight), whole[order])


def test_other_types_small_weights_and_no_rows_use_torchs_own_product(seed):
    for x, weight in (
        (torch.randn(5, 200).double(), torch.randn(300, 200).double()),
        (torch.randn(5, 200).bfloat16(), torch.randn(300, 200).bfloat16()),
        (torch.randn(5, 8), torch.randn(9, 8)),
        (torch.randn(0, 200), torch.randn(300, 200)),
    ):
        assert not linear.suits(x, weight)
        assert torch.equal(linear.fast_linear(x, weight), nn.functional.linear(x, weight))


@pytest.mark.parametrize(
    "capability, least", [("AVX512", 256 * 256), ("AVX2", 2**21), ("DEFAULT", 2**21)]
)
def test_the_processors_instructions_say_how_large_a_weight_is_onednns(
    capability, least, monkeypatch
):
    monkeypatch.undo()
    monkeypatch.setattr(linear, "CAPABILITY", capability)
    monkeypatch.setattr(linear, "available", lambda: True)
    for size, expected in ((least, True), (least - 128, False)):
        assert linear.suits(torch.ones(3, 128), torch.empty(size // 128, 128)) is expected


@needs_onednn
def test_a_model_and_its_copies_use_it_and_each_its_own_weights(seed):
    policy = tiny_policy("qwen2", seed, vocabulary=640)
    (prompt,) = random_prompts(seed, [20])
    twin = copy.deepcopy(policy.model)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.zero_()
    head = twin.lm_head
    assert head.forward.__self__ is head and head.weight.abs().sum() > 0
    x = torch.randn(4, head.in_features)
    assert linear.suits(x, head.weight)
    torch.testing.assert_close(head(x), x @ head.weight.T, rtol=1e-5, atol=1e-5)
    assert not policy.model.lm_head(x).any()


@needs_onednn
@pytest.mark.parametrize("rows", [8, 24, 64, 256, 264])
def test_packed_weights_give_the_same_bits_and_never_old_ones(rows, seed):
    _, width, out = odd_shape(seed)
    model = nn.Sequential(nn.Linear(width, out), nn.Linear(out, 200, bias=False), nn.Linear(4, 5))
    linear.use_in(model)
    x = torch.randn(rows, width)
    with torch.no_grad():
        expected = model[:2](x)
        packed = linear.pack(model)
        assert packed == [*model[:2]] and linear.packed_bytes(model) == 4 * (
            width * out + out * 200
        )
        assert torch.equal(model[:2](x), expected)
        model[0].weight.mul_(2)
        fresh = model[1](linear.fast_linear(x, model[0].weight, model[0].bias))
        assert torch.equal(model[:2](x), fresh) and not torch.equal(fresh, expected)
    model[:2](x).sum().backward()
    assert model[0].weight.grad is not None
    linear.unpack(packed)
    assert "packed" not in {*model[0].__dict__, *model[1].__dict__}


@needs_onednn
def test_a_model_that_uses_it_can_be_pickled():
    model = nn.Sequential(nn.Linear(256, 200), nn.ReLU(), nn.Linear(200, 128))
    assert linear.use_in(model)
    again, x = pickle.loads(pickle.dumps(model)), torch.randn(9, 256)
    torch.testing.assert_close(again(x), model(x))


@needs_onednn
def test_too_little_memory_is_refused_before_onednn_would_abort_the_process():
    limited = """
import resource, torch
from pathlib import Path
from torch import nn
from grpo.kernels import linear as products

model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 512))
products.min_weight_size = lambda: 128 * 128
assert products.use_in(model)
x, taken = torch.randn(8, 256), int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for room, refused in ((2**30, False), (products.MIN_ADDRESS_SPACE // 2, True), (0, True), (2**30, False)):
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, resource.RLIM_INFINITY))
    for work in (lambda: model(x), lambda: products.unpack(products.pack(model))):
        try:
            work()
            assert not refused, room
        except MemoryError as error:
            assert refused and "MiB are left" in str(error), error
    assert not any("packed" in module.__dict__ for module in model)
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert not done.returncode, done.stderr
