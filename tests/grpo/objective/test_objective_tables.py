"""Every objective against ten plain lines written from its paper, in fp64, on ragged random groups.

The references are loops over completions and tokens with Python floats; ``autograd`` of each loss is compared with
a numeric derivative of its reference, stop-gradients held where the paper holds them.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from types import SimpleNamespace

import pytest
import torch

from grpo.kernels.log_prob.full_logits import entropy, reference
from grpo.objective import correction
from grpo.objective.advantage import advantages, best_of_k_gain
from grpo.objective.aggregation import AGGREGATIONS
from grpo.objective.entropy import EntropyBonus
from grpo.objective.kl import KLS, distillation, k1, k2, k3
from grpo.objective.policy_loss import POLICY_LOSSES, select_top_entropy
from grpo.objective.tokens import Tokens
from grpo.recipe import AdvantageSection, LossSection
from grpo.recipe.objectives import POLICY_LOSS_SPECS, RULE_SPECS
from grpo.types import Completion, Denominators, Prompt, Row, ScoredGroup
from rewards import Score

pytestmark = pytest.mark.usefixtures("seed")  # all that is random is drawn from it

TOLERANCE = 1e-10


# ---- advantages -------------------------------------------------------------------------------------------------


def groups_of(
    values: list[list[float]],
    lengths: list[list[int]] | None = None,
    parts: list[list[dict[str, float | None]]] | None = None,
) -> list[ScoredGroup]:
    result = []
    for g, scores in enumerate(values):
        sizes = lengths[g] if lengths else [3] * len(scores)
        completions = tuple(Completion("", tuple(range(n)), torch.zeros(n), "stop") for n in sizes)
        verdicts = (
            tuple(
                {
                    name: Score(value, status="scored" if value is not None else "not_applicable")
                    for name, value in row.items()
                }
                for row in parts[g]
            )
            if parts
            else ()
        )
        result.append(
            ScoredGroup(
                Prompt(str(g), (1,), {}), completions, tuple(Score(v) for v in scores), verdicts
            )
        )
    return result


def ragged(seed: int) -> tuple[list[list[float]], list[list[int]]]:
    rng = random.Random(seed)
    sizes = [rng.randint(2, 9) for _ in range(7)]
    values = [[rng.choice([0.0, 1.0, rng.uniform(-1, 2)]) for _ in range(n)] for n in sizes]
    values[2] = [1.0] * sizes[2]
    values[5] = [0.0] * sizes[5]
    for g in (0, 1, 3, 4, 6):
        values[g][0], values[g][1] = 1.25, 0.5
    return values, [[rng.randint(1, 30) for _ in range(n)] for n in sizes]


def flat(scores: list[float]) -> bool:
    return max(scores) - min(scores) == 0


def slow(
    rule: str, values: list[list[float]], lengths: list[list[int]], eps: float
) -> list[list[float]]:
    every = [v for scores in values for v in scores]
    centred = [[v - statistics.fmean(s) for v in s] for s in values]
    all_centred = [c for row in centred for c in row]
    teaching = sum(len(s) for s in values if not flat(s))
    result = []
    for scores, off, sizes in zip(values, centred, lengths):
        n, mean = len(scores), statistics.fmean(scores)
        formula = {
            "group_std": lambda i: off[i] / (statistics.stdev(scores) + eps),
            "center": lambda i: off[i],
            "rloo": lambda i: scores[i] - sum(scores[j] for j in range(n) if j != i) / (n - 1),
            "batch_std": lambda i: off[i] / (statistics.stdev(every) + eps),
            "batch_std_centered": lambda i: off[i] / (statistics.stdev(all_centred) + eps),
            "reinforce_pp_baseline": lambda i: (
                (off[i] - statistics.fmean(all_centred)) / (statistics.stdev(all_centred) + eps)
            ),
            "opo": lambda i: scores[i] - sum(s * v for s, v in zip(sizes, scores)) / sum(sizes),
            "gpg": lambda i: len(every) / teaching * off[i],
            "maxrl": lambda i: off[i] / mean if mean > 0 else 0.0,
            "pass_k": lambda i: (
                (max(scores) - max(scores[:i] + scores[i + 1 :])) / (statistics.stdev(scores) + eps)
            ),
        }[rule]
        result.append([0.0 if flat(scores) else formula(i) for i in range(n)])
    return result


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "rule", [name for name, rule in RULE_SPECS.items() if rule.in_group and not rule.by_part]
)
def test_a_rule_is_its_papers_formula_on_ragged_groups(rule: str, seed: int) -> None:
    values, lengths = ragged(seed)
    actual = advantages(groups_of(values, lengths), AdvantageSection(rule=rule, epsilon=1e-6))
    expected = slow(rule, values, lengths, 1e-6)
    for mine, theirs in zip(actual, expected):
        assert mine == pytest.approx(theirs, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_reinforce_pp_whitens_the_rewards_to_go_over_all_tokens(seed: int) -> None:
    values, lengths = ragged(seed)
    generator = torch.Generator().manual_seed(seed)
    penalties = {
        (g, i): torch.rand(n, generator=generator, dtype=torch.float64)
        for g, sizes in enumerate(lengths)
        for i, n in enumerate(sizes)
    }
    actual = advantages(
        groups_of(values, lengths),
        AdvantageSection(rule="reinforce_pp", epsilon=1e-8),
        None,
        penalties,
    )
    returns = [
        [
            [values[g][i] - sum(penalties[g, i][t:].tolist()) for t in range(n)]
            for i, n in enumerate(sizes)
        ]
        for g, sizes in enumerate(lengths)
    ]
    every = [x for group in returns for row in group for x in row]
    mean, std = statistics.fmean(every), statistics.stdev(every)
    for g, i in penalties:
        expected = [(x - mean) / (std + 1e-8) for x in returns[g][i]]
        assert actual[g][i].tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_reinforce_pp_without_penalties_weighs_each_score_by_its_tokens() -> None:
    values, lengths = ragged(1)
    every = [
        v for scores, sizes in zip(values, lengths) for v, n in zip(scores, sizes) for _ in range(n)
    ]
    actual = advantages(
        groups_of(values, lengths), AdvantageSection(rule="reinforce_pp", epsilon=0.0)
    )
    expected = [
        [(v - statistics.fmean(every)) / statistics.stdev(every) for v in scores]
        for scores in values
    ]
    assert all(
        mine == pytest.approx(theirs, abs=TOLERANCE) for mine, theirs in zip(actual, expected)
    )
    assert actual[2][0] != 0.0  # no group is compared, so a flat one teaches too


@pytest.mark.parametrize(
    "rule", [name for name, rule in RULE_SPECS.items() if rule.in_group and not rule.by_part]
)
def test_the_kl_in_the_reward_is_taken_off_a_completions_score(rule: str) -> None:
    values, lengths = ragged(2)
    penalties = {
        (g, i): torch.rand(n, dtype=torch.float64)
        for g, sizes in enumerate(lengths)
        for i, n in enumerate(sizes)
    }
    actual = advantages(
        groups_of(values, lengths), AdvantageSection(rule=rule, epsilon=1e-6), None, penalties
    )
    reduced = [
        [v - penalties[g, i].sum().item() for i, v in enumerate(scores)]
        for g, scores in enumerate(values)
    ]
    for mine, theirs in zip(actual, slow(rule, reduced, lengths, 1e-6)):
        assert mine == pytest.approx(theirs, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_gdpo_normalises_each_reward_before_the_sum(seed: int) -> None:
    rng = random.Random(seed)
    weights = {"a": 1.0, "b": 0.25, "c": 0.0}
    parts = [
        [
            {"a": rng.choice([0.0, 1.0]), "b": rng.choice([None, rng.random()]), "c": rng.random()}
            for _ in range(rng.randint(3, 6))
        ]
        for _ in range(5)
    ]
    for rows in parts:
        rows[0] |= {"a": 1.0, "b": 0.3}
        rows[1] |= {"a": 0.0, "b": 0.9}
    parts[3] = [{"a": 1.0, "b": 0.5, "c": rng.random()} for _ in range(4)]
    scores = [
        [sum(weights[k] * v for k, v in row.items() if v is not None) for row in rows]
        for rows in parts
    ]
    actual = advantages(
        groups_of(scores, None, parts), AdvantageSection(rule="gdpo", epsilon=1e-4), weights
    )
    totals = []
    for rows in parts:
        total = [0.0] * len(rows)
        for name in ("a", "b"):
            known = [row[name] for row in rows if row[name] is not None]
            mean, std = statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0
            for i, row in enumerate(rows):
                if row[name] is not None:
                    total[i] += weights[name] * (row[name] - mean) / (std + 1e-4)
        totals.append(total)
    every = [x for row in totals for x in row]
    mean, std = statistics.fmean(every), statistics.stdev(every)
    for g, row in enumerate(totals):
        expected = [0.0] * len(row) if g == 3 else [(x - mean) / (std + 1e-4) for x in row]
        assert actual[g] == pytest.approx(expected, abs=TOLERANCE)


def test_gdpo_sees_a_spread_that_the_sum_hides() -> None:
    parts = [[{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 0.0}]]
    actual = advantages(
        groups_of([[1.0] * 3], None, parts), AdvantageSection(rule="gdpo"), {"a": 1.0, "b": 0.9}
    )
    assert any(actual[0])


@pytest.mark.parametrize("k", [2, 3, 5, 7])
def test_best_of_k_is_the_mean_gain_over_all_subsets(k: int) -> None:
    scores = torch.rand(7, dtype=torch.float64)
    scores[3] = scores[5]
    expected = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        gains = [
            max(0.0, (scores[i] - max(scores[j] for j in chosen)).item())
            for chosen in itertools.combinations(others, k - 1)
        ]
        expected.append(statistics.fmean(gains))
    assert best_of_k_gain(scores, k).tolist() == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    "rule",
    [
        "group_std",
        "center",
        "rloo",
        "batch_std",
        "batch_std_centered",
        "gpg",
        "maxrl",
        "reinforce_pp_baseline",
    ],
)
def test_advantages_of_a_group_sum_to_zero(rule: str) -> None:
    values, lengths = ragged(8)
    for row in advantages(groups_of(values, lengths), AdvantageSection(rule=rule, epsilon=1e-4)):
        assert sum(row) == pytest.approx(0.0, abs=1e-9)


def test_opos_advantages_weighted_by_length_sum_to_zero() -> None:
    values, lengths = ragged(9)
    for row, sizes in zip(
        advantages(groups_of(values, lengths), AdvantageSection(rule="opo")), lengths
    ):
        assert sum(a * n for a, n in zip(row, sizes)) == pytest.approx(0.0, abs=1e-9)


def test_groups_left_out_are_in_no_statistic() -> None:
    values, lengths = ragged(3)
    groups = groups_of(values, lengths)
    actual = advantages(groups, AdvantageSection(rule="batch_std_centered"), left_out=(2, 5))
    alone = advantages(
        [g for i, g in enumerate(groups) if i not in (2, 5)],
        AdvantageSection(rule="batch_std_centered"),
    )
    assert [row for i, row in enumerate(actual) if i not in (2, 5)] == alone
    assert actual[2] == [0.0] * len(values[2])


# ---- policy losses ----------------------------------------------------------------------------------------------


def random_tokens(seed: int, spread: float = 0.3, requires_grad: bool = True) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 15, (9,), generator=generator)
    number = int(lengths.sum())
    draw = lambda scale: scale * torch.randn(number, generator=generator, dtype=torch.float64)  # noqa: E731
    old = -draw(1.5).abs() - 0.05
    logp = (old + draw(spread)).clamp(max=-1e-3).requires_grad_(requires_grad)
    row = torch.arange(9).repeat_interleave(lengths)
    advantage = torch.randn(9, generator=generator, dtype=torch.float64)[row]
    return Tokens(logp, old, (old + draw(spread)).clamp(max=-1e-3), advantage, row, lengths)


SETTINGS = LossSection(
    epsilon_low=0.2,
    epsilon_high=0.28,
    cov_share=0.1,
    cov_low=0.05,
    cov_high=2.0,
    second_moment=0.04,
    divergence=0.05,
)


def slow_policy(
    name: str,
    tokens: Tokens,
    s: LossSection,
    logp: list[float],
    held: list[float],
    flag: list[bool],
) -> float:
    """The sum over tokens of a loss, written from the paper; `held` is logp where the paper stops the gradient."""
    old, mu, adv, row = (
        x.tolist()
        for x in (tokens.old_logp_T, tokens.sampled_logp_T, tokens.advantage_T, tokens.row_T)
    )
    tokens_of = {i: [t for t, r in enumerate(row) if r == i] for i in set(row)}
    low, high = 1 - s.epsilon_low, 1 + s.epsilon_high
    clip = lambda x, a, b: min(max(x, a), b)  # noqa: E731
    total = 0.0
    for t, (lp, hold, o, m, a) in enumerate(zip(logp, held, old, mu, adv)):
        members = tokens_of[row[t]]
        r, hr = math.exp(lp - o), math.exp(hold - o)
        mean = sum(logp[u] - old[u] for u in members) / len(members)
        held_mean = sum(held[u] - old[u] for u in members) / len(members)
        if name == "clip":
            loss = -min(r * a, clip(r, low, high) * a)
        elif name == "reinforce":
            loss = -a * lp
        elif name == "gspo":
            loss = -min(math.exp(mean) * a, clip(math.exp(mean), low, high) * a)
        elif name == "gspo_token":
            ratio = math.exp(held_mean) * math.exp(lp - hold)
            loss = -min(ratio * a, clip(ratio, low, high) * a)
        elif name == "cispo":
            loss = -clip(hr, low, high) * a * lp
        elif name == "gmpo":
            sign = (a > 0) - (a < 0)
            inner = [
                sign
                * min(
                    sign * (logp[u] - old[u]),
                    sign * clip(logp[u] - old[u], -s.epsilon_low, s.epsilon_high),
                )
                for u in members
            ]
            loss = -a * math.exp(sum(inner) / len(members))
        elif name == "sapo":
            tau = s.sapo_positive if a > 0 else s.sapo_negative
            loss = -4 / tau / (1 + math.exp(-tau * (r - 1))) * a
        elif name == "dppo_tv":
            away = math.exp(hold) - math.exp(m)
            loss = (
                0.0
                if (a > 0 and away > s.divergence) or (a < 0 and away < -s.divergence)
                else -a * r
            )
        elif name == "dppo_kl":
            p, q = math.exp(m), math.exp(hold)
            kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            loss = 0.0 if kl > s.divergence and ((a > 0 and q > p) or (a < 0 and q < p)) else -a * r
        elif name == "topr":
            loss = -a * lp * (1.0 if a >= 0 else min(1.0, math.exp(held_mean * len(members))))
        elif name == "topr_token":
            loss = -a * lp * (1.0 if a >= 0 else min(1.0, hr))
        elif name == "kimi":
            loss = -a * lp + s.regularizer / 2 * (mean * len(members)) ** 2 / len(members)
        elif name == "kimi_token":
            loss = -a * lp + s.regularizer / 2 * (lp - o) ** 2
        elif name == "clip_cov":
            loss = (
                -min(hr * a, clip(hr, low, high) * a)
                if flag[t]
                else -min(r * a, clip(r, low, high) * a)
            )
        elif name == "kl_cov":
            loss = -r * a + (s.cov_kl * abs(lp - o) if flag[t] else 0.0)
        elif name == "m2po":
            loss = 0.0 if flag[t] else -r * a
        else:
            loss = 0.0
        total += loss
    return total


def flagged(name: str, tokens: Tokens) -> Tokens:
    select = POLICY_LOSSES[name].select
    if select is None:
        return tokens
    return Tokens(
        tokens.logp_T,
        tokens.old_logp_T,
        tokens.sampled_logp_T,
        tokens.advantage_T,
        tokens.row_T,
        tokens.length_R,
        select(
            SimpleNamespace(
                **{
                    k: v.detach()
                    for k, v in (
                        ("logp_T", tokens.logp_T),
                        ("old_logp_T", tokens.old_logp_T),
                        ("sampled_logp_T", tokens.sampled_logp_T),
                        ("advantage_T", tokens.advantage_T),
                        ("ratio_T", tokens.ratio_T),
                    )
                }
            ),
            SETTINGS,
            0,
        ),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_policy_loss_is_its_papers_formula_in_value(name: str, seed: int) -> None:
    tokens = flagged(name, random_tokens(seed))
    logp = tokens.logp_T.tolist()
    flag = tokens.flag_T.tolist() if tokens.flag_T is not None else []
    expected = slow_policy(name, tokens, SETTINGS, logp, logp, flag)
    assert POLICY_LOSSES[name].loss(tokens, SETTINGS).sum().item() == pytest.approx(
        expected, abs=TOLERANCE
    )


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_policy_loss_has_the_gradient_of_its_papers_formula(name: str) -> None:
    tokens = flagged(name, random_tokens(4))
    (actual,) = torch.autograd.grad(POLICY_LOSSES[name].loss(tokens, SETTINGS).sum(), tokens.logp_T)
    logp = tokens.logp_T.tolist()
    flag = tokens.flag_T.tolist() if tokens.flag_T is not None else []
    step = 1e-5
    for t in range(len(logp)):

        def at(change: float) -> float:
            moved = logp[:t] + [logp[t] + change] + logp[t + 1 :]
            return slow_policy(name, tokens, SETTINGS, moved, logp, flag)

        slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
        assert actual[t].item() == pytest.approx(slope, abs=2e-8), (name, t)


@pytest.mark.parametrize("name", sorted(set(POLICY_LOSSES) - {"none"}))
def test_at_ratio_one_the_gradient_is_minus_the_advantage(name: str) -> None:
    tokens = random_tokens(5, spread=0.0)
    fresh = Tokens(
        tokens.logp_T,
        tokens.logp_T.detach(),
        tokens.logp_T.detach(),
        tokens.advantage_T,
        tokens.row_T,
        tokens.length_R,
        torch.zeros_like(tokens.logp_T, dtype=torch.bool),
    )
    (actual,) = torch.autograd.grad(POLICY_LOSSES[name].loss(fresh, SETTINGS).sum(), tokens.logp_T)
    assert torch.allclose(actual, -fresh.advantage_T, atol=1e-12)


def test_dual_clip_and_the_cap_bound_what_a_bad_sample_can_do() -> None:
    tokens = random_tokens(6, spread=3.0)
    for dual, cap in ((3.0, 0.0), (0.0, 4.0), (3.0, 4.0)):
        s = LossSection(epsilon_low=0.2, epsilon_high=0.28, dual_clip=dual, ratio_cap=cap)
        expected = []
        for r, a in zip(tokens.ratio_T.tolist(), tokens.advantage_T.tolist()):
            loss = -min((min(r, cap) if cap else r) * a, min(max(r, 0.8), 1.28) * a)
            expected.append(min(loss, -dual * a) if dual and a < 0 else loss)
        assert POLICY_LOSSES["clip"].loss(tokens, s).tolist() == pytest.approx(
            expected, abs=TOLERANCE
        )


def test_every_policy_with_limits_reports_where_its_gradient_is_cut() -> None:
    tokens = random_tokens(7, spread=0.8)
    for name in ("clip", "dppo_tv", "dppo_kl", "m2po"):
        flagged_tokens = flagged(name, tokens)
        (gradient,) = torch.autograd.grad(
            POLICY_LOSSES[name].loss(flagged_tokens, SETTINGS).sum(), tokens.logp_T
        )
        assert torch.equal(gradient == 0, POLICY_LOSSES[name].limits(flagged_tokens, SETTINGS)), (
            name
        )


# ---- what is selected over the update ---------------------------------------------------------------------------


def test_clip_cov_detaches_its_share_among_unclipped_tokens_of_high_covariance() -> None:
    tokens = random_tokens(11, spread=0.2, requires_grad=False)
    flag = POLICY_LOSSES["clip_cov"].select(tokens, SETTINGS, 3)
    logp, adv = tokens.logp_T.tolist(), tokens.advantage_T.tolist()
    cov = [(a - statistics.fmean(adv)) * (p - statistics.fmean(logp)) for a, p in zip(adv, logp)]
    clipped = [
        (r > 1.28 and a > 0) or (r < 0.8 and a < 0) for r, a in zip(tokens.ratio_T.tolist(), adv)
    ]
    fit = {t for t in range(len(cov)) if 0.05 < cov[t] < 2.0 and not clipped[t]}
    chosen = set(flag.nonzero()[:, 0].tolist())
    assert chosen <= fit and len(chosen) == min(len(fit), max(1, int(0.1 * len(cov))))
    assert not torch.equal(flag, POLICY_LOSSES["clip_cov"].select(tokens, SETTINGS, 4))


def test_kl_cov_takes_the_largest_covariances() -> None:
    tokens = random_tokens(12, requires_grad=False)
    logp, adv = tokens.logp_T.tolist(), tokens.advantage_T.tolist()
    cov = [(a - statistics.fmean(adv)) * (p - statistics.fmean(logp)) for a, p in zip(adv, logp)]
    largest = sorted(range(len(cov)), key=lambda t: -cov[t])[: max(1, int(0.1 * len(cov)))]
    assert set(POLICY_LOSSES["kl_cov"].select(tokens, SETTINGS, 0).nonzero()[:, 0].tolist()) == set(
        largest
    )


def test_m2po_drops_the_largest_squares_until_the_mean_is_small_enough() -> None:
    tokens = random_tokens(13, requires_grad=False)
    near = [(x * x, t) for t, x in enumerate((tokens.logp_T - tokens.sampled_logp_T).tolist())]
    while near and statistics.fmean(x for x, _ in near) > 0.04:
        near.remove(max(near))
    flag = POLICY_LOSSES["m2po"].select(tokens, SETTINGS, 0)
    assert set((~flag).nonzero()[:, 0].tolist()) == {t for _, t in near}
    assert flag.any() and (~flag).any()


def test_the_top_entropy_tokens_are_a_share_of_all() -> None:
    values = torch.rand(57, dtype=torch.float64)
    keep = select_top_entropy(values, 0.2)
    assert keep.sum() == 11 and values[keep].min() > values[~keep].max()


def test_the_off_policy_mask_drops_bad_completions_that_drifted() -> None:
    dropped = 0
    for seed in range(5):
        tokens = random_tokens(seed, requires_grad=False)
        sampled = tokens.sampled_logp_T.clone()
        sampled[3] = torch.nan
        tokens = Tokens(
            tokens.logp_T,
            tokens.old_logp_T,
            sampled,
            tokens.advantage_T,
            tokens.row_T,
            tokens.length_R,
        )
        near = correction.on_policy_enough(tokens, 0.02)
        for row in range(9):
            mine = tokens.row_T == row
            apart = [
                0.0 if math.isnan(s) else s - p
                for s, p in zip(sampled[mine].tolist(), tokens.logp_T[mine].tolist())
            ]
            drops = bool(tokens.advantage_T[mine][0] < 0) and statistics.fmean(apart) > 0.02
            assert (near[mine] == (not drops)).all()
        dropped += int((~near).sum())
    assert dropped


# ---- KL, entropy, distillation ----------------------------------------------------------------------------------


def exact_kl(logits: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
    p, q = logits.log_softmax(-1), ref.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize(("estimator", "unbiased"), [(k1, True), (k3, True), (k2, False)])
def test_the_expectation_of_an_estimator_is_the_kl_where_it_is_unbiased(
    estimator, unbiased: bool
) -> None:
    logits, ref = torch.randn(2, 6, dtype=torch.float64)
    p, q = logits.log_softmax(-1), ref.log_softmax(-1)
    expected = (p.exp() * estimator(p, q)).sum()
    assert bool(abs(expected - exact_kl(logits, ref)) < TOLERANCE) is unbiased


@pytest.mark.parametrize(
    ("name", "exact"), [("k2", True), ("k3_unbiased", True), ("k3", False), ("k1", False)]
)
def test_the_expected_gradient_is_the_kls_where_the_docs_say_so(name: str, exact: bool) -> None:
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(6, dtype=torch.float64)
    logp, q = logits.log_softmax(-1), ref.log_softmax(-1)
    row = torch.arange(6)
    tokens = Tokens(
        logp,
        logp.detach(),
        logp.detach(),
        torch.zeros(6).double(),
        row,
        torch.ones(6, dtype=torch.long),
    )
    (actual,) = torch.autograd.grad(
        (logp.detach().exp() * KLS[name](tokens, q)).sum(), logits, retain_graph=True
    )
    (truth,) = torch.autograd.grad(exact_kl(logits, ref), logits)
    assert torch.allclose(actual, truth, atol=1e-12) is exact


def test_the_unbiased_estimator_holds_off_policy_in_value_and_gradient() -> None:
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    old, ref = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    logp = logits.log_softmax(-1)
    tokens = Tokens(
        logp, old, old, torch.zeros(6).double(), torch.arange(6), torch.ones(6, dtype=torch.long)
    )
    value = (old.exp() * KLS["k3_unbiased"](tokens, ref)).sum()
    truth = exact_kl(logits, ref)
    assert value.item() == pytest.approx(truth.item(), abs=TOLERANCE)
    assert torch.allclose(
        *(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (value, truth)), atol=1e-12
    )


@pytest.mark.parametrize("name", ["k2", "k3", "k3_unbiased"])
def test_a_kl_of_equal_policies_is_zero_with_zero_gradient(name: str) -> None:
    tokens = random_tokens(21, spread=0.0)
    value = KLS[name](tokens, tokens.logp_T.detach())
    (gradient,) = torch.autograd.grad(value.sum(), tokens.logp_T)
    assert (value == 0).all() and (gradient == 0).all()


def test_distillation_has_the_expected_gradient_of_the_reverse_kl() -> None:
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, dtype=torch.float64)
    logp = logits.log_softmax(-1)
    tokens = Tokens(
        logp,
        logp.detach(),
        logp.detach(),
        torch.zeros(6).double(),
        torch.arange(6),
        torch.ones(6, dtype=torch.long),
    )
    loss = (logp.detach().exp() * distillation(tokens, teacher.log_softmax(-1))).sum()
    (actual,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (truth,) = torch.autograd.grad(exact_kl(logits, teacher), logits)
    assert torch.allclose(actual, truth, atol=1e-12)


def test_the_entropy_with_gradient_is_the_references() -> None:
    logits = torch.randn(11, 30, dtype=torch.float64).mul(4).requires_grad_()
    mine = entropy(logits, 0.7)
    theirs = reference(logits, torch.zeros(11, dtype=torch.long), 0.7)[1]
    assert torch.allclose(mine, theirs, atol=1e-12)
    weight = torch.randn(11, dtype=torch.float64)
    assert torch.allclose(
        *(
            torch.autograd.grad((weight * x).sum(), logits, retain_graph=True)[0]
            for x in (mine, theirs)
        ),
        atol=1e-12,
    )


def test_the_adaptive_bonus_follows_skywork_and_survives_a_checkpoint() -> None:
    bonus = EntropyBonus(0.0, 0.2, 0.005)
    seen = [bonus.coefficient(h) for h in (0.1, 0.1, 0.3, 0.15, 0.2, 0.1)]
    assert seen == pytest.approx([0.0, 0.005, 0.0, 0.005, 0.01, 0.005])
    other = EntropyBonus(0.0, 0.2, 0.005)
    other.restore(bonus.state())
    assert other.coefficient(0.1) == bonus.coefficient(0.1)
    top = EntropyBonus(1.0, 0.2, 0.005)
    assert [top.coefficient(0.1) for _ in range(3)] == [1.0] * 3
    assert EntropyBonus(0.01, 0.0, 0.005).coefficient(None) == 0.01


# ---- correction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["none", "token", "sequence", "geometric"])
@pytest.mark.parametrize("mask", ["none", "token", "sequence", "geometric"])
@pytest.mark.parametrize("cap", [0.0, 1.3])
def test_weights_are_truncated_and_masked_at_the_level_asked_for(
    level: str, mask: str, cap: float
) -> None:
    tokens = random_tokens(31, requires_grad=False)
    s = LossSection(
        correction=level,
        correction_mask=mask,
        correction_cap=cap,
        correction_low=0.8,
        correction_high=1.4,
    )
    actual = correction.weights(tokens, s).weight_T.tolist()
    log = (tokens.old_logp_T - tokens.sampled_logp_T).tolist()
    for t, row in enumerate(tokens.row_T.tolist()):
        logs = [x for x, r in zip(log, tokens.row_T.tolist()) if r == row]
        ratio = {
            "none": 1.0,
            "token": math.exp(log[t]),
            "sequence": math.exp(sum(logs)),
            "geometric": math.exp(statistics.fmean(logs)),
        }
        weight = min(ratio[level], cap) if cap and not (level == mask == "none") else ratio[level]
        expected = weight if mask == "none" or 0.8 <= ratio[mask] <= 1.4 else 0.0
        assert actual[t] == pytest.approx(expected, abs=TOLERANCE)


def test_a_token_without_a_sampled_log_prob_weighs_nothing_and_spoils_nothing() -> None:
    tokens = random_tokens(32, requires_grad=False)
    sampled = tokens.sampled_logp_T.clone()
    sampled[5] = torch.nan
    broken = Tokens(
        tokens.logp_T, tokens.old_logp_T, sampled, tokens.advantage_T, tokens.row_T, tokens.length_R
    )
    for level in ("token", "sequence", "geometric"):
        weight = correction.weights(broken, LossSection(correction=level)).weight_T
        assert weight[5] == 0 and weight.isfinite().all()


@pytest.mark.parametrize(("noise", "length"), [(0.02, 8000), (0.05, 4000)])
def test_the_default_does_not_collapse_with_length_and_a_sequence_mask_does(
    noise: float, length: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 64
    log = (
        noise * torch.randn(rows * length, generator=generator, dtype=torch.float64) - noise**2 / 2
    )
    zero = torch.zeros_like(log)
    tokens = Tokens(
        zero,
        zero,
        -log,
        zero,
        torch.arange(rows).repeat_interleave(length),
        torch.full((rows,), length),
    )

    def ess(settings: LossSection) -> float:
        w = correction.weights(tokens, settings)
        total, squares, units = ((w.weight_T**p * w.unit_T).sum().item() for p in (1, 2, 0))
        return correction.effective_share(total, squares, units)

    assert ess(LossSection()) > 0.99
    assert (
        ess(
            LossSection(
                correction="sequence",
                correction_cap=0.0,
                correction_mask="sequence",
                correction_low=0.0,
                correction_high=3.0,
            )
        )
        < 0.5
    )


# ---- aggregation ------------------------------------------------------------------------------------------------


def test_each_aggregation_is_its_formula_on_ragged_groups() -> None:
    rng = random.Random(3)
    rows = [
        Row(
            i,
            i // 3,
            (1,),
            tuple(range(rng.randint(1, 20))),
            torch.zeros(1),
            1.0,
            True,
            True,
            "trained",
        )
        for i in range(12)
    ]
    losses = {row.index: [rng.gauss(0, 1) for _ in row.token_ids] for row in rows}
    sums = {i: sum(x) for i, x in losses.items()}
    lengths = {row.index: row.num_tokens for row in rows}
    group_tokens = {g: sum(lengths[3 * g + i] for i in range(3)) for g in range(4)}
    expected = {
        "sequence_mean": sum(sums[i] / lengths[i] for i in sums) / 12,
        "token_mean": sum(sums.values()) / sum(lengths.values()),
        "constant": sum(sums.values()) / (12 * 50),
        "prompt_mean": sum(
            sum(sums[3 * g + i] for i in range(3)) / group_tokens[g] for g in range(4)
        )
        / 4,
        "sequence_sum": sum(sums.values()) / 12,
        "token_sum": sum(sums.values()),
    }
    denominators = Denominators(12, sum(lengths.values()), 50, group_tokens)
    assert set(expected) == set(AGGREGATIONS)
    for name, weight in AGGREGATIONS.items():
        total = sum(weight(row, denominators, None) * sums[row.index] for row in rows)
        assert total == pytest.approx(expected[name], abs=TOLERANCE)


# ---- the table ----------------------------------------------------------------------------------------------------


class Recorded:
    """Settings that note which keys are read."""

    def __init__(self, settings: LossSection) -> None:
        self._settings = settings
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self._settings, name)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_policy_loss_reads_the_keys_that_its_row_names(name: str) -> None:
    tokens = flagged(name, random_tokens(41))
    loss = POLICY_LOSSES[name]
    settings = Recorded(SETTINGS)
    loss.loss(tokens, settings)
    loss.limits(tokens, settings)
    if loss.select is not None:
        loss.select(random_tokens(41, requires_grad=False), settings, 0)
    assert settings.read == set(POLICY_LOSS_SPECS[name].reads)


def test_a_loss_with_one_ratio_for_a_completion_couples_its_tokens() -> None:
    for spec in POLICY_LOSS_SPECS.values():
        assert spec.couples_tokens or not spec.aggregations, spec.name
        assert set(spec.aggregations) <= set(AGGREGATIONS), spec.name
