"""The device-independent sampler against the torch sampler, exact distributions, and its arithmetic."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sampling_draws import COMBINATIONS, DRAWS, p_value, seeds
from tiny import plain_processed

from grpo.kernels.sampling import exact, spec, torch_sampler
from grpo.kernels.sampling.spec import Sampling

EVERY = [Sampling(), Sampling(0.3), Sampling(0.0), *COMBINATIONS]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.3), Sampling(2.5), *COMBINATIONS], ids=str
)
@pytest.mark.thin(6)
def test_draws_follow_the_exact_distribution(sampling):
    logits_V = 2.0 * torch.randn(37, generator=torch.Generator().manual_seed(5))
    prob_V = plain_processed(logits_V, sampling).exp()
    drawn = exact.reference(
        logits_V.expand(DRAWS, -1), seeds(DRAWS), torch.full((DRAWS,), 7), sampling
    )
    counts_V = drawn.token_R.bincount(minlength=37)
    assert not counts_V[prob_V == 0].any()
    assert p_value(counts_V, prob_V * DRAWS) > 1e-3
    torch.testing.assert_close(
        drawn.logp_R.double(), prob_V.log()[drawn.token_R], atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("sampling", EVERY, ids=str)
@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_it_draws_what_the_torch_sampler_draws(sampling, scale, seed):
    """Unless the two likeliest scores, or a filter's border, are closer than rounding."""
    rows = 400
    logits_RV = scale * torch.randn(rows, 61)
    logits_RV[: rows // 2] = (logits_RV[: rows // 2] * 2).round() / 2
    position_R = torch.randint(0, 9000, (rows,))
    one = exact.reference(logits_RV, seeds(rows, seed), position_R, sampling, entropy=True)
    token_R, logp_R, log_kept_R = torch_sampler.sample(
        logits_RV, seeds(rows, seed), position_R, sampling
    )
    differ = one.token_R != token_R
    near = near_border(logits_RV, sampling) | near_tie(
        logits_RV, seeds(rows, seed), position_R, sampling
    )
    assert not (differ & ~near).any() and near.float().mean() < 0.05
    alike = ~near
    torch.testing.assert_close(one.logp_R[alike], logp_R[alike], atol=2e-5, rtol=1e-6)
    if log_kept_R is None:
        assert one.log_kept_R is None
    else:
        torch.testing.assert_close(one.log_kept_R[alike], log_kept_R[alike], atol=2e-5, rtol=1e-6)


def scores(logits_RV, seed_R, position_R, sampling):
    logp_RV = (
        torch.stack([plain_processed(row, sampling) for row in logits_RV])
        if sampling.temperature
        else logits_RV
    )
    noise = (
        spec.gumbel(seed_R, position_R, logits_RV.shape[1]).double()
        if sampling.temperature
        else 0.0
    )
    return logp_RV + noise


def near_tie(logits_RV, seed_R, position_R, sampling):
    if sampling.temperature == 0:
        return torch.zeros(len(logits_RV), dtype=torch.bool)
    first, second = scores(logits_RV, seed_R, position_R, sampling).topk(2, -1).values.T
    return first - second < 1e-4


def near_border(logits_RV, sampling):
    """Rows where top-p's or min-p's border is within 1e-5 of a token's."""
    if not sampling.filters:
        return torch.zeros(len(logits_RV), dtype=torch.bool)
    order_RV = (
        (logits_RV.double() / sampling.temperature)
        .softmax(-1)
        .sort(dim=-1, descending=True, stable=True)
        .values
    )
    if sampling.top_k:
        order_RV = order_RV[:, : sampling.top_k]
    before_RV = order_RV.cumsum(-1) - order_RV
    near = ((before_RV / order_RV.sum(-1, keepdim=True) - sampling.top_p).abs() < 1e-5).any(-1) & (
        sampling.top_p < 1
    )
    return near | (
        ((order_RV / order_RV[:, :1] / max(sampling.min_p, 1e-30)).log().abs() < 1e-5).any(-1)
        & (sampling.min_p > 0)
    )


@pytest.mark.parametrize(
    "sampling, kept",
    [
        (Sampling(top_k=3), [0, 1, 2]),
        (Sampling(top_p=0.45), [0, 1, 2, 3]),
        (Sampling(top_p=0.5), [0, 1, 2, 3]),
        (Sampling(min_p=1.0), list(range(8))),
        (Sampling(top_k=1), [0]),
        (Sampling(top_p=1e-9), [0]),
        (Sampling(top_k=100), list(range(8))),
        (Sampling(top_k=4, top_p=0.45), [0, 1]),
    ],
    ids=str,
)
def test_ties_keep_the_lowest_ids(sampling, kept):
    nothing = torch.zeros(1, 8)
    assert exact.keep(nothing, nothing, sampling)[0].nonzero()[:, 0].tolist() == kept


@pytest.mark.parametrize("sampling", [s for s in COMBINATIONS if s.filters], ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 20.0])
def test_filters_keep_what_the_plain_definition_keeps(sampling, scale, seed):
    logits_RV = (scale * torch.randn(40, 23) * 2).round() / 2
    fall_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)) * exact.inverse(0.9)
    expected_RV = torch.stack([plain_processed(row, sampling) for row in logits_RV]).isfinite()
    far_R = ~near_border(logits_RV, sampling)
    assert torch.equal(exact.keep(logits_RV, fall_RV, sampling)[far_R], expected_RV[far_R])


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.0), Sampling(0.7, 5, 0.9, 0.01)], ids=str
)
def test_a_row_of_nan_or_of_nothing_finite_fails_alone(sampling, seed):
    logits_RV = torch.randn(6, 17)
    bad = logits_RV.clone()
    bad[1, 3], bad[3], bad[4, 5] = torch.nan, -torch.inf, torch.inf
    found, expected = (
        exact.reference(x, seeds(6), torch.zeros(6, dtype=torch.long), sampling, entropy=True)
        for x in (bad, logits_RV)
    )
    assert (
        found.token_R[[1, 3, 4]].tolist() == [-1, -1, -1] and found.logp_R[[1, 3, 4]].isnan().all()
    )
    assert found.entropy_R[[1, 3, 4]].isnan().all()
    assert torch.equal(found.token_R[[0, 2, 5]], expected.token_R[[0, 2, 5]])
    assert torch.equal(found.logp_R[[0, 2, 5]], expected.logp_R[[0, 2, 5]])


def test_padding_is_never_drawn_and_counts_nowhere(seed):
    logits_RV = torch.randn(50, 40)
    logits_RV[:, 33:] = 9.0
    for sampling in EVERY:
        one, other = (
            exact.reference(x, seeds(50), torch.arange(50), sampling, vocab_size=33, entropy=True)
            for x in (logits_RV, logits_RV[:, :33])
        )
        assert one.token_R.max() < 33 and torch.equal(one.token_R, other.token_R)
        assert torch.equal(one.logp_R, other.logp_R)


def test_entropy_is_that_of_the_distribution_drawn_from(seed):
    logits_RV = 3 * torch.randn(20, 31)
    for sampling in (Sampling(0.8), Sampling(0.9, 9, 0.85, 0.06)):
        logp = torch.stack([plain_processed(row, sampling) for row in logits_RV])
        expected = -torch.where(logp.isfinite(), logp.exp() * logp, 0.0).sum(-1)
        drawn = exact.reference(logits_RV, seeds(20), torch.arange(20), sampling, entropy=True)
        torch.testing.assert_close(drawn.entropy_R.double(), expected, atol=3e-6, rtol=1e-6)


# ---------------------------------------------------------------------------------------- arithmetic


def test_the_noise_is_the_torch_samplers_to_fp32_precision(seed):
    seed_R, position_R = torch.randint(-(2**62), 2**62, (40,)), torch.randint(0, 100_000, (40,))
    one, other = exact.gumbel(seed_R, position_R, 50_000), spec.gumbel(seed_R, position_R, 50_000)
    torch.testing.assert_close(one, other, atol=4e-7, rtol=4e-7)


def test_the_exponential_is_fine_at_both_ends():
    hash_R = torch.tensor(
        [0, 1, 2, 77, 2**24 + 1, 2**31 - 1, -(2**31), -(2**31) + 1, -77, -2, -1], dtype=torch.int32
    )
    u_R = ((hash_R.long() % 2**32).double() + 0.5) / 2.0**32
    expected = torch.where(
        u_R < 0.5,
        -torch.log1p(-u_R),
        -torch.log((2.0**32 - (hash_R.long() % 2**32).double() - 0.5) / 2.0**32),
    )
    torch.testing.assert_close(exact.exponential(hash_R).double(), expected, atol=0, rtol=3e-7)


def test_the_polynomials_approximate_their_functions(seed):
    x = torch.exp(torch.empty(200_000, dtype=torch.float64).uniform_(-23, 4)).float()
    torch.testing.assert_close(exact.log32(x).double(), x.double().log(), atol=1e-7, rtol=2.5e-7)
    fall = -torch.empty(200_000).uniform_(0, 59)
    torch.testing.assert_close(exact.exp32(fall).double(), fall.double().exp(), atol=0, rtol=3e-7)
    assert exact.exp32(torch.tensor([0.0, -0.0, -70.0, -torch.inf])).tolist() == [1, 1, 0, 0]


def test_masses_of_the_largest_vocabulary_do_not_overflow():
    assert int(exact.mass(torch.zeros(1, 2**18)).sum()) == 2 ** (44 + 18)
    assert math.isclose(
        float(exact.mass(torch.tensor([[-20.0]])).double() / 2.0**44), math.exp(-20), rel_tol=1e-4
    )


def test_top_p_near_its_ends():
    fall = torch.linspace(0, -12, 50)[None]
    for top_p, least in itertools.product((1 - 1e-12, 1e-12), (1, 50)):
        number = int(exact.keep(fall, fall, Sampling(top_p=top_p)).sum())
        assert number == (50 if top_p > 0.5 else 1), least
