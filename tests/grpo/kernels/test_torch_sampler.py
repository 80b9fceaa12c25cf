"""The sampler of CPU rollouts: exact distributions, ties, greedy, rows that fail, and the noise's own distribution."""

from __future__ import annotations

import math

import pytest
import torch
from sampling_draws import COMBINATIONS, DRAWS, p_value, seeds
from tiny import plain_processed

from grpo.kernels.sampling.spec import Sampling, completion_seed, gumbel
from grpo.kernels.sampling.torch_sampler import draw as drawn
from grpo.kernels.sampling.torch_sampler import keep, sample

pytestmark = pytest.mark.usefixtures("kernels")


def draw(logits_V, sampling, number=DRAWS, seed_R=None, position=7):
    seed_R = seeds(number) if seed_R is None else seed_R
    return sample(
        logits_V.expand(len(seed_R), -1), seed_R, torch.full_like(seed_R, position), sampling
    )


# ------------------------------------------------------------------------------------- distribution


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.3), Sampling(2.5), *COMBINATIONS], ids=str
)
@pytest.mark.thin(11)
def test_draws_follow_the_exact_distribution(sampling):
    logits_V = 2.0 * torch.randn(37, generator=torch.Generator().manual_seed(5))
    prob_V = plain_processed(logits_V, sampling).exp()
    token_R, logp_R, _ = draw(logits_V, sampling)
    counts_V = token_R.bincount(minlength=37)
    assert not counts_V[prob_V == 0].any()
    assert p_value(counts_V, prob_V * DRAWS) > 1e-3
    torch.testing.assert_close(logp_R.double(), prob_V.log()[token_R], atol=2e-6, rtol=0)


def test_draws_at_successive_positions_of_one_completion_follow_the_distribution():
    logits_V = 2.0 * torch.randn(37, generator=torch.Generator().manual_seed(6))
    one_seed = seeds(1).expand(DRAWS)
    token_R, _, _ = sample(logits_V.expand(DRAWS, -1), one_seed, torch.arange(DRAWS), Sampling())
    assert p_value(token_R.bincount(minlength=37), logits_V.double().softmax(-1) * DRAWS) > 1e-3


def test_a_rare_token_of_a_large_vocabulary_is_drawn_as_often_as_it_should():
    logits_V = torch.zeros(5_000)
    logits_V[3_137] = math.log(5_000 * 0.01 / 0.99)
    hits = sum(
        int((draw(logits_V, Sampling(), seed_R=seeds(500, part))[0] == 3_137).sum())
        for part in range(6)
    )
    assert 30 - 4 * 30**0.5 < hits < 30 + 4 * 30**0.5


@pytest.mark.parametrize("sampling", COMBINATIONS, ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 20.0])
def test_filters_keep_what_the_plain_definition_keeps(sampling, scale, seed):
    """Logits are rounded so that ties abound; the lowest ids of a tie are kept."""
    logits_RV = (scale * torch.randn(40, 23) * 2).round() / 2
    kept_RV = keep((logits_RV / 0.9).double().log_softmax(-1), sampling)
    expected_RV = torch.stack([plain_processed(row, sampling) for row in logits_RV]).isfinite()
    assert torch.equal(kept_RV, expected_RV)


@pytest.mark.parametrize(
    "sampling, kept",
    [
        (Sampling(top_k=3), [0, 1, 2]),
        (Sampling(top_p=0.45), [0, 1, 2, 3]),
        (Sampling(min_p=1.0), list(range(8))),
        (Sampling(top_k=1), [0]),
        (Sampling(top_p=1e-9), [0]),
        (Sampling(top_k=100), list(range(8))),
        (Sampling(top_k=4, top_p=0.45), [0, 1]),
    ],
    ids=str,
)
def test_ties_keep_the_lowest_ids(sampling, kept):
    assert keep(torch.zeros(1, 8).log_softmax(-1), sampling)[0].nonzero()[:, 0].tolist() == kept


def test_top_p_acts_on_what_top_k_left_and_min_p_on_the_likeliest():
    logp = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert keep(logp, Sampling(top_k=2, top_p=0.5))[0].tolist() == [True, False, False, False]
    assert keep(logp, Sampling(top_p=0.6))[0].tolist() == [True, True, False, False]
    assert keep(logp, Sampling(min_p=0.6))[0].tolist() == [True, True, False, False]


@pytest.mark.parametrize("sampling", [s for s in COMBINATIONS if s.filters], ids=str)
def test_the_kept_mass_gives_back_the_log_prob_under_temperature_alone(sampling, seed):
    logits_RV = 3 * torch.randn(50, 31)
    token_R, logp_R, log_kept_R = sample(
        logits_RV, seeds(50, seed), torch.zeros(50, dtype=torch.long), sampling
    )
    alone_RV = (logits_RV.double() / 0.9).log_softmax(-1)
    torch.testing.assert_close(
        (logp_R + log_kept_R).double(), alone_RV[range(50), token_R], atol=3e-6, rtol=0
    )


def test_temperature_zero_takes_the_likeliest_with_its_unscaled_log_prob(seed):
    logits_RV = torch.randn(20, 31)
    logits_RV[0, [4, 9]] = 8.0
    token_R, logp_R, log_kept_R = sample(
        logits_RV,
        seeds(20, seed),
        torch.zeros(20, dtype=torch.long),
        Sampling(0.0, top_k=3, top_p=0.5),
    )
    assert (
        token_R.tolist() == logits_RV.argmax(-1).tolist() and token_R[0] == 4 and log_kept_R is None
    )
    torch.testing.assert_close(logp_R, logits_RV.log_softmax(-1).amax(-1), atol=1e-6, rtol=0)


def test_log_probs_of_bf16_logits_are_fp32(seed):
    logits_RV = (20 * torch.randn(30, 64)).bfloat16()
    token_R, logp_R, _ = sample(
        logits_RV, seeds(30, seed), torch.zeros(30, dtype=torch.long), Sampling()
    )
    expected = logits_RV.double().log_softmax(-1)[range(30), token_R]
    torch.testing.assert_close(logp_R.double(), expected, atol=2e-6, rtol=1e-6)


# ---------------------------------------------------------------------------------- rows that go wrong


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.0), Sampling(0.7, 5, 0.9, 0.01)], ids=str
)
def test_a_row_of_nan_or_of_nothing_finite_fails_alone(sampling, seed):
    logits_RV = torch.randn(6, 17)
    position_R = torch.zeros(6, dtype=torch.long)
    expected = sample(logits_RV, seeds(6), position_R, sampling)
    bad = logits_RV.clone()
    bad[1, 3], bad[3], bad[4, 5] = torch.nan, -torch.inf, torch.inf
    found = sample(bad, seeds(6), position_R, sampling)
    assert found[0][[1, 3, 4]].tolist() == [-1, -1, -1] and found[1][[1, 3, 4]].isnan().all()
    for one, other in zip(found, expected):
        assert one is other is None or torch.equal(one[[0, 2, 5]], other[[0, 2, 5]])


def test_tokens_that_are_ruled_out_are_never_drawn(seed):
    logits_V = torch.full((64,), -torch.inf)
    logits_V[[7, 40]] = torch.tensor([0.0, -1.0])
    token_R, logp_R, _ = draw(logits_V, Sampling(), 2000)
    assert set(token_R.tolist()) == {7, 40} and logp_R.isfinite().all()


# --------------------------------------------------------------------------------------------- noise


def test_a_draw_depends_on_seed_and_position_alone(seed):
    logits_RV, seed_R = torch.randn(40, 31), seeds(40, seed)
    position_R = torch.randint(0, 500, (40,))
    together = sample(logits_RV, seed_R, position_R, Sampling())
    order = torch.randperm(40)
    shuffled = sample(logits_RV[order], seed_R[order], position_R[order], Sampling())
    for i in range(3):
        alone = sample(logits_RV[i : i + 1], seed_R[i : i + 1], position_R[i : i + 1], Sampling())
        assert alone[0] == together[0][i] and alone[1] == together[1][i]
    assert torch.equal(shuffled[0], together[0][order]) and torch.equal(
        shuffled[1], together[1][order]
    )


def test_noise_of_a_token_does_not_depend_on_the_size_of_the_vocabulary(seed):
    seed_R, position_R = seeds(5, seed), torch.arange(5)
    assert torch.equal(gumbel(seed_R, position_R, 900)[:, :33], gumbel(seed_R, position_R, 33))


def test_seeds_differ_by_every_part_and_do_not_run_together():
    names = [
        (s, t, p, i)
        for s in (0, 1, -1)
        for t in (0, 1, 11)
        for p in ("p1", "p11", "1")
        for i in (0, 1, 11)
    ]
    assert len({completion_seed(*name) for name in names}) == len(names)
    assert completion_seed("a", "bc") != completion_seed("ab", "c")
    assert completion_seed(0, 3, "p", 1) == -5818085348811657536, "old runs would no longer repeat"


def test_neighbouring_seeds_do_not_share_noise_at_neighbouring_positions():
    seed_R, position_R = torch.cartesian_prod(torch.arange(-30, 30), torch.arange(60)).unbind(-1)
    assert len(gumbel(seed_R, position_R, 3).unique(dim=0)) == 3600


def kolmogorov_smirnov(values: torch.Tensor) -> float:
    """Largest distance to the Gumbel distribution, in units of 1/sqrt(n); 1.95 has probability 1e-3."""
    cdf = (-(-values.double().flatten().sort().values).exp()).exp()
    steps = torch.arange(len(cdf) + 1, dtype=torch.float64) / len(cdf)
    return max((cdf - steps[:-1]).max().item(), (steps[1:] - cdf).max().item()) * len(cdf) ** 0.5


@pytest.mark.parametrize(
    "name, seed_R, position_R, tokens",
    [
        ("seeds", seeds(4000), torch.zeros(4000, dtype=torch.long), 64),
        ("small seeds", torch.arange(-2000, 2000), torch.zeros(4000, dtype=torch.long), 64),
        ("positions", seeds(1).expand(4000), torch.arange(4000), 64),
        ("tokens", seeds(2), torch.zeros(2, dtype=torch.long), 128_000),
    ],
)
def test_noise_has_the_law_of_gumbel_and_no_neighbour_knows_another(
    name, seed_R, position_R, tokens
):
    noise_RV = gumbel(seed_R, position_R, tokens)
    assert noise_RV.dtype == torch.float32 and noise_RV.isfinite().all()
    assert kolmogorov_smirnov(noise_RV) < 1.95
    number = noise_RV.numel()
    assert abs(noise_RV.double().mean().item() - 0.5772157) < 4 * 1.2825 / number**0.5
    assert (
        abs(noise_RV.double().var().item() - math.pi**2 / 6) < 4 * (1.6449**2 * 4.4 / number) ** 0.5
    )
    uniform_RV = (-(-noise_RV.double()).exp()).exp() - 0.5
    pairs = [
        (uniform_RV[:, :-1], uniform_RV[:, 1:]),
        (uniform_RV[:, :-7], uniform_RV[:, 7:]),
        (uniform_RV[:, :-32], uniform_RV[:, 32:]),
    ]
    if len(seed_R) > 100:
        pairs += [(uniform_RV[:-1], uniform_RV[1:]), (uniform_RV[:-1, :-1], uniform_RV[1:, 1:])]
    for a, b in pairs:
        correlation = (a * b).mean().item() * 12
        assert abs(correlation) < 4 / a.numel() ** 0.5


def test_noise_is_fine_enough_to_reach_far_into_the_tail():
    """The largest of n Gumbel variables is about log n; coarse noise would stop short, or repeat itself."""
    noise_V = gumbel(seeds(20), torch.zeros(20, dtype=torch.long), 150_000)
    top_R = noise_V.amax(-1)
    assert abs(top_R.mean().item() - math.log(150_000) - 0.5772) < 4 * 1.2825 / 20**0.5
    assert len(top_R.unique()) == 20


def test_successive_tokens_of_a_completion_are_independent():
    logits_V = torch.zeros(5)
    token_R = sample(
        logits_V.expand(DRAWS, -1), seeds(1).expand(DRAWS), torch.arange(DRAWS), Sampling()
    )[0]
    pairs = (token_R[:-1] * 5 + token_R[1:]).bincount(minlength=25)
    assert p_value(pairs, torch.full((25,), (DRAWS - 1) / 25, dtype=torch.float64)) > 1e-3


def test_completions_of_one_group_are_independent():
    logits_V = torch.zeros(5)
    first, second = (
        draw(
            logits_V,
            Sampling(),
            seed_R=torch.tensor([completion_seed(0, s, "p", i) for s in range(20_000)]),
        )[0]
        for i in (0, 1)
    )
    pairs = (first * 5 + second).bincount(minlength=25)
    assert p_value(pairs, torch.full((25,), 20_000 / 25, dtype=torch.float64)) > 1e-3


@pytest.mark.parametrize("peak", [0.01, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("size", [2, 37, 5000])
def test_drawing_few_logarithms_finds_the_largest_noisy_log_prob_of_all(size, peak, seed):
    rows = 2000 if size < 100 else 300
    logp_RV = (torch.randn(rows, size) * peak).log_softmax(-1)
    logp_RV[::3, ::2] = float("-inf")  # as filters leave it
    logp_RV[::3] = logp_RV[::3].log_softmax(-1)
    logp_RV[1::3] = torch.full((size,), 1 / size).log()  # all alike
    seed_R, position_R = seeds(rows, seed), torch.arange(rows)
    expected = (logp_RV + gumbel(seed_R, position_R, size)).argmax(-1)
    assert torch.equal(drawn(logp_RV, seed_R, position_R), expected)


def test_drawing_keeps_the_lowest_of_equal_scores():
    seed_R, position_R = torch.tensor([5]), torch.tensor([0])
    noise_V = gumbel(seed_R, position_R, 50)[0]
    logp_RV = (3.0 - noise_V.double()).float()[None]
    scores = logp_RV[0] + noise_V
    assert (scores == scores.max()).sum() > 1
    assert drawn(logp_RV, seed_R, position_R).item() == int(scores.argmax())
