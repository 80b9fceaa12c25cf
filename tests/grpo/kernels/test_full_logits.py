"""The log-prob head against its specification, in float64 and where float32 is tight."""

from __future__ import annotations

import pytest
import torch

from grpo.kernels.log_prob.full_logits import reference, token_logprob


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (13, 1), (5, 33), (64, 501)])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0])
def test_values_and_gradient_are_those_of_the_specification(shape, temperature, seed):
    logits_TV = (4 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    target_T = torch.randint(shape[1], shape[:1])
    weight_T = torch.randn(shape[0], dtype=torch.float64)
    results = []
    for head in (token_logprob, reference):
        logp_T, entropy_T = head(logits_TV, target_T, temperature)
        (gradient,) = torch.autograd.grad((weight_T * logp_T).sum(), logits_TV)
        results.append((logp_T, entropy_T.detach(), gradient))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_the_gradient_is_the_numerical_one(seed):
    logits_TV = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    target_T = torch.randint(6, (4,))
    assert torch.autograd.gradcheck(lambda x: token_logprob(x, target_T, 0.7)[0], logits_TV)


@pytest.mark.parametrize("offset", [0.0, 50.0, -300.0, 2000.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_float32_stays_within_2e_5_wherever_the_logits_lie(scale, offset, seed):
    """All logits may be far from zero; only their differences mean something."""
    logits_TV = scale * torch.randn(40, 1000) + offset
    target_T = torch.randint(1000, (40,))
    logp_T, entropy_T = token_logprob(logits_TV, target_T)
    expected, entropy = reference(logits_TV.double(), target_T)
    assert logp_T.dtype == torch.float32
    torch.testing.assert_close(logp_T.double(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(entropy_T.double(), entropy, atol=2e-5, rtol=0)


def test_confident_rows_have_log_prob_and_entropy_near_zero_and_almost_no_gradient(seed):
    logits_TV = torch.randn(8, 300).requires_grad_()
    target_T = torch.randint(300, (8,))
    sure_TV = logits_TV + 40.0 * torch.nn.functional.one_hot(target_T, 300)
    logp_T, entropy_T = token_logprob(sure_TV, target_T)
    assert (logp_T <= 0).all() and (logp_T > -1e-6).all()
    assert (entropy_T > -1e-6).all() and (entropy_T < 1e-6).all()
    logp_T.sum().backward()
    assert logits_TV.grad.abs().max() < 1e-6


def test_an_unlikely_target_of_a_confident_row_keeps_its_digits(seed):
    logits_TV = torch.randn(8, 300)
    logits_TV[:, 0] = 60.0
    target_T = torch.randint(1, 300, (8,))
    expected, _ = reference(logits_TV.double(), target_T)
    torch.testing.assert_close(
        token_logprob(logits_TV, target_T)[0].double(), expected, atol=2e-5, rtol=0
    )


def test_impossible_tokens_spoil_neither_entropy_nor_gradient(seed):
    logits_TV = torch.randn(5, 20)
    logits_TV[:, 4:9] = -torch.inf
    logits_TV.requires_grad_()
    target_T = torch.tensor([0, 1, 2, 3, 10])
    logp_T, entropy_T = token_logprob(logits_TV, target_T)
    some = [*range(4), *range(9, 20)]
    expected, entropy = reference(
        logits_TV.detach().double()[:, some], torch.tensor([0, 1, 2, 3, 5])
    )
    torch.testing.assert_close(logp_T.detach().double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy_T.double(), entropy, atol=1e-5, rtol=0)
    logp_T.sum().backward()
    assert logits_TV.grad.isfinite().all() and (logits_TV.grad[:, 4:9] == 0).all()


def test_bf16_logits_are_taken_up_in_float32(seed):
    logits_TV = (8 * torch.randn(6, 50)).bfloat16().requires_grad_()
    target_T = torch.randint(50, (6,))
    logp_T, _ = token_logprob(logits_TV, target_T)
    expected, _ = reference(logits_TV.double(), target_T)
    assert logp_T.dtype == torch.float32
    torch.testing.assert_close(logp_T.double(), expected, atol=2e-5, rtol=0)
    logp_T.sum().backward()
    assert logits_TV.grad.dtype == torch.bfloat16


def test_entropy_carries_no_gradient_and_the_logits_are_left_as_they_were(seed):
    logits_TV = torch.randn(4, 9, requires_grad=True)
    before = logits_TV.detach().clone()
    logp_T, entropy_T = token_logprob(logits_TV, torch.randint(9, (4,)))
    assert logp_T.requires_grad and not entropy_T.requires_grad and torch.equal(logits_TV, before)


def test_no_tokens_give_no_log_probs():
    logp_T, entropy_T = token_logprob(
        torch.zeros(0, 9, requires_grad=True), torch.zeros(0, dtype=torch.long)
    )
    assert logp_T.shape == entropy_T.shape == (0,)
    logp_T.sum().backward()


def test_the_entropy_of_a_uniform_row_is_the_logarithm_of_its_size():
    _, entropy_T = token_logprob(torch.full((2, 1000), 7.0), torch.tensor([3, 999]))
    torch.testing.assert_close(entropy_T, torch.full((2,), 1000.0).log(), atol=2e-6, rtol=0)
