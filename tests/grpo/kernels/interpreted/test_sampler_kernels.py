"""The sampler's kernels against the reference: the same tokens to the bit, the same sets kept, at odd shapes."""

from __future__ import annotations

import itertools

import pytest
import torch
from sampling_draws import DRAWS, p_value, seeds
from tiny import plain_processed

from grpo.kernels.sampling import exact, triton_kernels
from grpo.kernels.sampling.spec import Sampling

COMBINATIONS = [
    Sampling(0.9, k, p, m) for k, p, m in itertools.product((0, 9), (1.0, 0.85), (0.0, 0.06))
]
EVERY = [Sampling(), Sampling(0.3), Sampling(0.0), *COMBINATIONS[1:]]
SOME = [Sampling(), Sampling(0.0), Sampling(0.9, 9), Sampling(0.9, 200, 0.85, 0.06)]


def both(logits_RV, sampling, seed_R=None, position=11, **options):
    rows = len(logits_RV)
    inputs = (
        logits_RV,
        seeds(rows) if seed_R is None else seed_R,
        torch.arange(rows) + position,
        sampling,
    )
    return exact.sample(*inputs, entropy=True, **options), exact.reference(
        *inputs, entropy=True, **options
    )


def check(found, expected):
    assert torch.equal(found.token_R, expected.token_R)
    for one, other in (
        (found.logp_R, expected.logp_R),
        (found.log_kept_R, expected.log_kept_R),
        (found.entropy_R, expected.entropy_R),
    ):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, atol=4e-6, rtol=2e-6, equal_nan=True)


@pytest.mark.parametrize("sampling", EVERY, ids=str)
@pytest.mark.parametrize(
    "rows, vocab, dtype",
    [(33, 37, torch.float32), pytest.param(7, 1003, torch.bfloat16, marks=pytest.mark.slow)],
)
def test_the_kernels_draw_what_the_reference_draws(rows, vocab, dtype, sampling, seed):
    scale_R1 = torch.linspace(0.5, 6, rows)[:, None]
    check(*both((scale_R1 * torch.randn(rows, vocab)).to(dtype), sampling, seeds(rows, seed)))


@pytest.mark.parametrize("sampling", SOME, ids=str)
def test_chunks_of_a_large_vocabulary_are_merged(sampling, seed, monkeypatch):
    """Small chunks, so that a vocabulary of 300 is split over several; with ties across their borders."""
    monkeypatch.setattr(triton_kernels, "CHUNK", 128)
    monkeypatch.setattr(
        triton_kernels, "tiles", lambda rows, vocab, search=False: (8, 128 if search else 64)
    )
    logits_RV = (2 * torch.randn(5, 300)).round() / 2
    logits_RV[3] = 1.5
    logits_RV[4, 100:] = -torch.inf
    check(*both(logits_RV, sampling, seeds(5, seed)))
    logits_RV[:, 257:] = torch.nan  # read with the columns before it, and never used
    check(*both(logits_RV, sampling, seeds(5, seed), vocab_size=257))


@pytest.mark.parametrize(
    "sampling",
    [pytest.param(s, marks=pytest.mark.slow) for s in COMBINATIONS[1:]]
    + [
        Sampling(1.0, top_p=1 - 1e-9),
        Sampling(1.0, top_k=70),
        Sampling(1.0, 4, 0.45),
        Sampling(1.0, min_p=1.0),
    ]
    + [
        pytest.param(s, marks=pytest.mark.slow)
        for s in (
            Sampling(1.0, top_k=1),
            Sampling(1.0, top_p=1e-9),
            Sampling(1.0, top_k=69),
            Sampling(0.01, 5, 0.99),
        )
    ],
    ids=str,
)
def test_what_is_kept_is_what_the_reference_keeps(sampling, seed):
    """The kept mass tells; and of 400 draws none falls outside, nor is a likely token of the set missed."""
    logits_RV = torch.stack(
        [(scale * torch.randn(70) * 2).round() / 2 for scale in (0.0, 0.3, 1.0, 3.0, 30.0)]
    )
    logits_RV[2, 5:20] = -0.0
    logits_RV[2, 20:30] = 0.0
    logits_RV[3, 60:] = -torch.inf
    check(*both(logits_RV, sampling, seeds(5, seed)))
    fall_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)) * exact.inverse(sampling.temperature)
    kept_RV = (
        exact.keep(logits_RV, fall_RV, sampling)
        if sampling.filters
        else torch.ones_like(fall_RV).bool()
    )
    prob_RV = (
        (logits_RV * exact.inverse(sampling.temperature))
        .masked_fill(~kept_RV, -torch.inf)
        .softmax(-1)
    )
    many = logits_RV.repeat_interleave(400, 0)
    drawn = exact.sample(many, seeds(2000, seed), torch.arange(2000), sampling)
    seen_RV = torch.stack(
        [token_D.bincount(minlength=70) > 0 for token_D in drawn.token_R.view(5, 400)]
    )
    assert not seen_RV[~kept_RV].any() and seen_RV[prob_RV > 0.05].all()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, min_p=0.06)], ids=str)
def test_draws_follow_the_exact_distribution(sampling):
    """Every other combination draws what the reference draws, whose 1e5 draws are tested without the interpreter."""
    logits_V = 2.0 * torch.randn(37, generator=torch.Generator().manual_seed(5))
    prob_V = plain_processed(logits_V, sampling).exp()
    drawn = exact.sample(
        logits_V.expand(DRAWS, -1), seeds(DRAWS), torch.full((DRAWS,), 7), sampling
    )
    counts_V = drawn.token_R.bincount(minlength=37)
    assert not counts_V[prob_V == 0].any()
    assert p_value(counts_V, prob_V * DRAWS) > 1e-3
    torch.testing.assert_close(
        drawn.logp_R.double(), prob_V.log()[drawn.token_R], atol=2e-6, rtol=0
    )


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.0), Sampling(0.7, 5, 0.9, 0.01)], ids=str
)
def test_a_row_of_nan_or_of_nothing_finite_fails_alone(sampling, seed):
    logits_RV = torch.randn(6, 117)
    bad = logits_RV.clone()
    bad[1, 3], bad[3], bad[4, 5] = torch.nan, -torch.inf, torch.inf
    (found, expected), (good, _) = both(bad, sampling), both(logits_RV, sampling)
    assert (
        found.token_R[[1, 3, 4]].tolist() == [-1, -1, -1] and found.logp_R[[1, 3, 4]].isnan().all()
    )
    check(found, expected)
    for one, other in ((found.token_R, good.token_R), (found.logp_R, good.logp_R)):
        assert torch.equal(one[[0, 2, 5]], other[[0, 2, 5]])


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SOME, ids=str)
def test_a_vocabulary_of_several_tiles(sampling, seed):
    check(*both((3 * torch.randn(6, 2500)).half(), sampling, seeds(6, seed)))


def test_rows_do_not_depend_on_the_batch_and_may_be_strided(seed):
    wide = torch.randn(9, 150)
    for sampling in (Sampling(), Sampling(0.7, 5, 0.9, 0.01)):
        together, _ = both(wide[:, :101], sampling, seeds(9, seed), position=0)
        alone = exact.sample(wide[4:5, :101], seeds(9, seed)[4:5], torch.tensor([4]), sampling)
        assert together.token_R[4] == alone.token_R[0] and together.logp_R[4] == alone.logp_R[0]
