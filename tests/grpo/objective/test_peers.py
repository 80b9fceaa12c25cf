"""The same log-probs through TRL's and verl's own functions: equal where they say the same, the difference where not.

TRL 1.16 and verl 0.9 are wanted in a folder named by GRPO_PEERS (``pip install --no-deps --target FOLDER trl==1.16.0
verl==0.9.1 tensordict omegaconf pyvers``); without it these tests are skipped. Each difference that is asserted here
is explained in ``docs/objectives.md``.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import types
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from grpo.convert import convert
from grpo.convert.values import with_defaults
from grpo.objective import correction
from grpo.objective.advantage import advantages
from grpo.objective.aggregation import AGGREGATIONS
from grpo.objective.kl import KLS
from grpo.objective.policy_loss import POLICY_LOSSES
from grpo.objective.tokens import Tokens
from grpo.recipe import AdvantageSection, LossSection, Recipe
from grpo.types import Completion, Denominators, Prompt, Row, ScoredGroup
from rewards import Score

PEERS = os.environ.get("GRPO_PEERS", "")
pytestmark = pytest.mark.skipif(
    not Path(PEERS, "verl").is_dir() or not Path(PEERS, "trl").is_dir(),
    reason="TRL and verl are not installed in a folder named by GRPO_PEERS",
)
LENGTHS = [5, 1, 9, 4, 7, 3, 8, 2]
GROUP = 4
CAP = 12


class Config(dict):
    """verl's configuration objects: attributes, None where nothing was set."""

    __getattr__ = dict.get


@pytest.fixture(scope="module")
def verl() -> Any:
    """verl's algorithms from their own file; only the packages around it, which want ray, are left out."""
    sys.path.append(PEERS)

    def package(name: str, **names: Any) -> None:
        module = types.ModuleType(name)
        module.__path__ = [str(Path(PEERS, *name.split(".")))]
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__dict__.update(names)
        sys.modules[name] = module

    for name in ("verl", "verl.utils", "verl.trainer", "verl.trainer.ppo", "verl.workers"):
        package(name)
    package("verl.trainer.config", AlgoConfig=type("AlgoConfig", (), {}))
    package("verl.trainer.config.algorithm", RolloutCorrectionConfig=Config)
    package("verl.workers.config", ActorConfig=Config)
    package("verl.workers.config.actor", PolicyLossConfig=Config)
    package("verl.protocol", DataProto=Config)
    groupwise = importlib.import_module("verl.utils.groupwise")
    sys.modules["verl.utils"].__dict__.update(
        as_torch_index=groupwise.as_torch_index, group_mean_std=groupwise.group_mean_std
    )
    return importlib.import_module("verl.trainer.ppo.core_algos")


@pytest.fixture(scope="module")
def trl() -> Any:
    sys.path.append(PEERS)
    return importlib.import_module("trl.trainer.grpo_trainer")


# ---- the same numbers in both shapes ----------------------------------------------------------------------------


def padded(value_T: Tensor) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(value_T.split(LENGTHS), batch_first=True)


def mask() -> Tensor:
    return padded(torch.ones(sum(LENGTHS), dtype=torch.float64))


def random_tokens(seed: int = 0, spread: float = 0.3) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda scale: scale * torch.randn(sum(LENGTHS), generator=generator, dtype=torch.float64)  # noqa: E731
    old = -draw(1.5).abs() - 0.05
    row = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    advantage = torch.randn(len(LENGTHS), generator=generator, dtype=torch.float64)[row]
    return Tokens(
        (old + draw(spread)).clamp(max=-1e-3).requires_grad_(),
        old,
        old,
        advantage,
        row,
        torch.tensor(LENGTHS),
    )


def weights(aggregation: str) -> Tensor:
    rows = [
        Row(i, i // GROUP, (1,), tuple(range(n)), torch.zeros(n), 1.0, True, True, "trained")
        for i, n in enumerate(LENGTHS)
    ]
    sums = {g: sum(LENGTHS[g * GROUP : (g + 1) * GROUP]) for g in range(len(LENGTHS) // GROUP)}
    denominators = Denominators(len(LENGTHS), sum(LENGTHS), CAP, sums)
    return torch.tensor(
        [AGGREGATIONS[aggregation](row, denominators, None) for row in rows], dtype=torch.float64
    ).repeat_interleave(torch.tensor(LENGTHS))


def ours(name: str, tokens: Tokens, settings: LossSection, aggregation: str) -> Tensor:
    return (weights(aggregation) * POLICY_LOSSES[name].loss(tokens, settings)).sum()


def assert_same_gradient(
    mine: Tensor, theirs: Tensor, logp: Tensor, tolerance: float = 1e-10
) -> None:
    a, b = (torch.autograd.grad(x, logp, retain_graph=True)[0] for x in (mine, theirs))
    assert (a - b).abs().max() < tolerance * max(1.0, float(b.abs().max()))


def through_verl(verl: Any, name: str, tokens: Tokens, mode: str, **config: Any) -> Tensor:
    policy = Config(
        clip_cov_ratio=0.1, clip_cov_lb=0.05, clip_cov_ub=4.0, kl_cov_ratio=0.1, ppo_kl_coef=1.0
    )
    full = Config(
        {
            "clip_ratio": 0.2,
            "clip_ratio_low": 0.2,
            "clip_ratio_high": 0.28,
            "clip_ratio_c": 1e6,
            "tau_pos": 1.0,
            "tau_neg": 1.05,
            "policy_loss": policy,
            "global_batch_info": {},
            **config,
        }
    )
    return verl.get_policy_loss_fn(name)(
        padded(tokens.old_logp_T),
        padded(tokens.logp_T),
        padded(tokens.advantage_T),
        mask(),
        mode,
        full,
        None,
    )[0]


# ---- verl -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "settings", "config"),
    [
        ("clip", "vanilla", {"epsilon_high": 0.28}, {}),
        ("clip", "vanilla", {"epsilon_high": 0.28, "dual_clip": 1.5}, {"clip_ratio_c": 1.5}),
        ("cispo", "cispo", {"epsilon_high": 0.28}, {}),
        ("gspo_token", "gspo", {"epsilon_high": 0.28}, {}),
        (
            "dppo_tv",
            "dppo_tv",
            {"divergence": 0.05},
            {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05},
        ),
        (
            "dppo_kl",
            "dppo_kl",
            {"divergence": 0.01},
            {"clip_ratio_low": 0.01, "clip_ratio_high": 0.01},
        ),
        ("reinforce", "gpg", {}, {}),
    ],
    ids=["clip", "dual clip", "cispo", "gspo", "dppo tv", "dppo kl", "reinforce"],
)
@pytest.mark.parametrize(
    ("aggregation", "mode"),
    [
        ("token_mean", "token-mean"),
        ("sequence_mean", "seq-mean-token-mean"),
        ("sequence_sum", "seq-mean-token-sum"),
        ("token_sum", "token-sum"),
    ],
)
def test_policy_losses_have_verls_gradient(
    verl: Any, mine, theirs, settings, config, aggregation, mode
) -> None:
    tokens = random_tokens()
    # verl adds 1e-8 to a completion's length, and to both probabilities of its binary KL
    assert_same_gradient(
        ours(mine, tokens, LossSection(epsilon_low=0.2, **settings), aggregation),
        through_verl(verl, theirs, tokens, mode, **config),
        tokens.logp_T,
        1e-7 if mode == "seq-mean-token-mean" else 1e-10,
    )


def test_sapo_and_gmpo_have_verls_gradient(verl: Any) -> None:
    tokens, settings = random_tokens(1), LossSection(epsilon_low=0.2, epsilon_high=0.28)
    for mine, theirs in (("sapo", "sapo"), ("gmpo", "geo_mean")):
        assert_same_gradient(
            ours(mine, tokens, settings, "sequence_mean"),
            through_verl(verl, theirs, tokens, "seq-mean-token-mean"),
            tokens.logp_T,
            1e-7,
        )


def test_gmpo_in_verl_is_a_mean_of_the_micro_batch_and_changes_with_the_split(verl: Any) -> None:
    tokens = random_tokens(1)
    whole = through_verl(verl, "geo_mean", tokens, "")
    logp, old, adv, m = (
        padded(x)
        for x in (
            tokens.logp_T,
            tokens.old_logp_T,
            tokens.advantage_T,
            torch.ones(sum(LENGTHS)).double(),
        )
    )
    config = Config(clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.28)
    parts = [
        verl.get_policy_loss_fn("geo_mean")(
            old[part], logp[part], adv[part], m[part], "", config, None
        )[0]
        for part in (slice(0, 3), slice(3, 8))
    ]
    assert abs(sum(parts) / 2 - whole) > 1e-3  # the mean of unequal micro-batches is not the mean


def test_kl_cov_has_verls_gradient_on_the_whole_update(verl: Any) -> None:
    tokens, settings = random_tokens(2), LossSection(cov_share=0.1)
    flag = POLICY_LOSSES["kl_cov"].select(
        Tokens(
            tokens.logp_T.detach(),
            *(
                getattr(tokens, name)
                for name in ("old_logp_T", "sampled_logp_T", "advantage_T", "row_T", "length_R")
            ),
        ),
        settings,
        0,
    )
    chosen = Tokens(
        tokens.logp_T,
        tokens.old_logp_T,
        tokens.old_logp_T,
        tokens.advantage_T,
        tokens.row_T,
        tokens.length_R,
        flag,
    )
    assert_same_gradient(
        ours("kl_cov", chosen, settings, "token_mean"),
        through_verl(verl, "kl_cov", tokens, "token-mean"),
        tokens.logp_T,
    )


def test_clip_cov_detaches_as_many_tokens_as_verl_on_the_whole_update(verl: Any) -> None:
    tokens = random_tokens(3)
    settings = LossSection(
        epsilon_low=0.2, epsilon_high=0.28, cov_share=0.1, cov_low=0.05, cov_high=4.0
    )
    flag = POLICY_LOSSES["clip_cov"].select(tokens, settings, 0)
    torch.manual_seed(0)
    (theirs,) = torch.autograd.grad(
        through_verl(verl, "clip_cov", tokens, "token-mean"), tokens.logp_T
    )
    (plain,) = torch.autograd.grad(
        through_verl(verl, "vanilla", tokens, "token-mean"), tokens.logp_T
    )
    detached = (theirs == 0) & (plain != 0)
    assert flag.sum() == detached.sum() > 0


def rewards_and_groups(seed: int = 0) -> tuple[Tensor, list[ScoredGroup], numpy.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(len(LENGTHS), generator=generator, dtype=torch.float64)
    groups = [
        ScoredGroup(
            Prompt(str(g), (1,), {}),
            tuple(
                Completion("", tuple(range(n)), torch.zeros(n), "stop")
                for n in LENGTHS[g * GROUP : (g + 1) * GROUP]
            ),
            tuple(Score(v) for v in score[g * GROUP : (g + 1) * GROUP].tolist()),
        )
        for g in range(len(LENGTHS) // GROUP)
    ]
    by_token = mask() * 0
    by_token[torch.arange(len(LENGTHS)), torch.tensor(LENGTHS) - 1] = score
    return by_token, groups, numpy.array([str(i // GROUP) for i in range(len(LENGTHS))])


@pytest.mark.parametrize(
    ("rule", "theirs", "options"),
    [
        ("group_std", "grpo", {}),
        ("center", "grpo", {"norm_adv_by_std_in_grpo": False}),
        ("rloo", "rloo", {}),
        ("opo", "opo", {}),
        ("gpg", "gpg", {}),
        ("pass_k", "grpo_passk", {"config": {}}),
    ],
)
def test_advantages_are_verls(verl: Any, rule: str, theirs: str, options: dict) -> None:
    by_token, groups, index = rewards_and_groups()
    actual, _ = verl.get_adv_estimator_fn(theirs)(by_token.clone(), mask(), index, **options)
    mine = torch.tensor(
        sum(advantages(groups, AdvantageSection(rule=rule, epsilon=1e-6)), []), dtype=torch.float64
    )
    assert (actual[:, 0] - mine).abs().max() < 1e-10


def test_reinforce_pp_is_verls(verl: Any) -> None:
    by_token, groups, _ = rewards_and_groups()
    penalties = {
        (g, i): torch.rand(n, dtype=torch.float64)
        for g, group in enumerate(groups)
        for i, n in enumerate(len(c.token_ids) for c in group.completions)
    }
    off = padded(torch.cat([penalties[g, i] for g in range(2) for i in range(GROUP)]))
    actual, _ = verl.get_adv_estimator_fn("reinforce_plus_plus")(
        by_token - off, mask(), Config(gamma=1.0)
    )
    mine = advantages(groups, AdvantageSection(rule="reinforce_pp", epsilon=0.0), None, penalties)
    # the whitening of verl adds 1e-8 under the root
    assert (actual - padded(torch.cat([part for row in mine for part in row]))).abs().max() < 1e-6


def test_verl_whitens_reinforce_pp_baseline_by_tokens_and_we_by_completions(verl: Any) -> None:
    by_token, groups, index = rewards_and_groups()
    actual, _ = verl.get_adv_estimator_fn("reinforce_plus_plus_baseline")(
        by_token.clone(), mask(), index
    )
    mine = torch.tensor(
        sum(advantages(groups, AdvantageSection(rule="reinforce_pp_baseline", epsilon=0.0)), []),
        dtype=torch.float64,
    )
    assert (actual[:, 0] - mine).abs().max() > 1e-3
    assert abs(mine.sum()) < 1e-9 and abs(actual[:, 0].sum()) > 1e-3


def test_gpg_counts_completions_of_flat_groups_and_verl_scores_of_zero(verl: Any) -> None:
    by_token, groups, index = rewards_and_groups()
    by_token[0] = 0.0
    groups[0] = ScoredGroup(
        groups[0].prompt, groups[0].completions, (Score(0.0), *groups[0].scores[1:])
    )
    actual, _ = verl.get_adv_estimator_fn("gpg")(by_token, mask(), index)
    mine = torch.tensor(
        sum(advantages(groups, AdvantageSection(rule="gpg")), []), dtype=torch.float64
    )
    assert torch.allclose(
        actual[:, 0], mine * 8 / 7
    )  # no group is flat, so nothing is to be made up for


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimators_are_verls(verl: Any, estimator: str) -> None:
    tokens = random_tokens(4)
    ref = tokens.old_logp_T
    assert torch.allclose(
        KLS[estimator](tokens, ref), verl.kl_penalty(tokens.logp_T, ref, estimator), atol=1e-12
    )


def test_k3_unbiased_has_on_policy_the_gradient_that_verl_gives_k3_plus(verl: Any) -> None:
    tokens = random_tokens(5)
    fresh = Tokens(
        tokens.logp_T,
        tokens.logp_T.detach(),
        tokens.old_logp_T,
        tokens.advantage_T,
        tokens.row_T,
        tokens.length_R,
    )
    assert_same_gradient(
        KLS["k3_unbiased"](fresh, tokens.old_logp_T).sum(),
        verl.kl_penalty(tokens.logp_T, tokens.old_logp_T, "k3+").sum(),
        tokens.logp_T,
    )


@pytest.mark.parametrize(
    ("level", "threshold", "settings"),
    [
        ("token", 1.2, {"correction_cap": 1.2}),
        ("sequence", 1.2, {"correction_cap": 1.2}),
        (
            "token",
            "0.8_1.2",
            {
                "correction_cap": 0.0,
                "correction_mask": "token",
                "correction_low": 0.8,
                "correction_high": 1.2,
            },
        ),
    ],
)
def test_the_samplers_weights_are_verls(
    verl: Any, level: str, threshold: Any, settings: dict
) -> None:
    helper = importlib.import_module("verl.trainer.ppo.rollout_corr_helper")
    tokens = random_tokens(6)
    tokens = Tokens(
        tokens.logp_T,
        tokens.old_logp_T,
        tokens.logp_T.detach(),
        tokens.advantage_T,
        tokens.row_T,
        tokens.length_R,
    )
    theirs, _ = helper.compute_rollout_correction_weights(
        padded(tokens.old_logp_T - tokens.sampled_logp_T), mask(), level, threshold
    )
    mine = correction.weights(tokens, LossSection(correction=level, **settings)).weight_T
    assert (padded(mine) - theirs * mask()).abs().max() < 1e-10


# ---- TRL --------------------------------------------------------------------------------------------------------


class OneProcess:
    """What TRL's loss asks its accelerator for, in one process."""

    num_processes, sync_gradients = 1, True

    def gather(self, value: Tensor) -> Tensor:
        return value

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value

    def pad_across_processes(self, value: Tensor, **_: Any) -> Tensor:
        return value


def through_trl(
    trl: Any,
    tokens: Tokens,
    loss_type: str,
    *,
    ref: Tensor | None = None,
    entropies: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """TRL's own `_compute_loss` on our log-probs; only the model's forward is left out."""
    logp, m = padded(tokens.logp_T), mask()
    entropies = padded(entropies) if entropies is not None else m
    args = SimpleNamespace(
        **{
            "delta": None,
            "use_bias_correction_kl": False,
            "sapo_temperature_pos": 1.0,
            "sapo_temperature_neg": 1.05,
            "steps_per_generation": 1,
            **options.pop("args", {}),
        }
    )
    trainer = SimpleNamespace(
        **{
            "args": args,
            "beta": 0.0,
            "epsilon_low": 0.2,
            "epsilon_high": 0.28,
            "importance_sampling_level": "token",
            "top_entropy_quantile": 1.0,
            "off_policy_mask_threshold": None,
            "use_vllm": False,
            "aux_loss_enabled": False,
            "vllm_importance_sampling_correction": False,
            "current_gradient_accumulation_steps": 1,
            "max_completion_length": CAP,
            "accelerator": OneProcess(),
            "_entropy_bonus_enabled": False,
            "use_adaptive_entropy": False,
            "_metrics": defaultdict(lambda: defaultdict(list)),
            "model": SimpleNamespace(training=True),
            "loss_type": loss_type,
            "get_off_policy_mask": trl.GRPOTrainer.get_off_policy_mask,
            "_get_per_token_logps_and_entropies": lambda *a, **k: (logp, entropies, None),
            **options,
        }
    )
    trainer.get_high_entropy_mask = lambda *a: trl.GRPOTrainer.get_high_entropy_mask(trainer, *a)
    ids = m.long()
    first = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()[:-1]])
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": m,
        "advantages": tokens.advantage_T[first],
        "old_per_token_logps": padded(tokens.old_logp_T),
        "sampling_per_token_logps": padded(tokens.sampled_logp_T),
        "num_items_in_batch": m.sum(),
    }
    if ref is not None:
        inputs["ref_per_token_logps"] = padded(ref)
    return trl.GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize(
    ("loss_type", "aggregation"),
    [
        ("grpo", "sequence_mean"),
        ("dapo", "token_mean"),
        ("bnpo", "token_mean"),
        ("dr_grpo", "constant"),
    ],
)
@pytest.mark.parametrize("cap", [0.0, 1.4])
def test_the_clip_and_its_aggregations_have_trls_gradient(
    trl: Any, loss_type, aggregation, cap
) -> None:
    tokens = random_tokens(10, spread=0.6)
    assert_same_gradient(
        ours(
            "clip",
            tokens,
            LossSection(epsilon_low=0.2, epsilon_high=0.28, ratio_cap=cap),
            aggregation,
        ),
        through_trl(trl, tokens, loss_type, args={"delta": cap or None}),
        tokens.logp_T,
    )


def test_gspo_and_luspo_have_trls_gradient(trl: Any) -> None:
    tokens, settings = random_tokens(11), LossSection(epsilon_low=0.2, epsilon_high=0.28)
    for loss_type, aggregation in (("grpo", "sequence_mean"),):
        assert_same_gradient(
            ours("gspo", tokens, settings, aggregation),
            through_trl(trl, tokens, loss_type, importance_sampling_level="sequence"),
            tokens.logp_T,
        )
    assert_same_gradient(
        ours("gspo", tokens, settings, "sequence_sum"),
        through_trl(trl, tokens, "luspo", importance_sampling_level="sequence"),
        tokens.logp_T,
    )


def test_sapo_has_trls_gradient(trl: Any) -> None:
    tokens = random_tokens(12)
    assert_same_gradient(
        ours("sapo", tokens, LossSection(), "sequence_mean"),
        through_trl(trl, tokens, "sapo"),
        tokens.logp_T,
        1e-6,
    )  # TRL keeps the temperatures in fp32


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo"])
@pytest.mark.parametrize("high", [None, 0.28, 3.0])
def test_a_converted_objective_has_trls_gradient(trl: Any, loss_type, level, high) -> None:
    settings = {"loss_type": loss_type, "importance_sampling_level": level, "epsilon_high": high}
    draft = with_defaults("trl", {"max_steps": 1, **settings})
    converted = convert(settings, "trl")
    if "without a counterpart" in "\n".join(converted.report):
        return  # said, so the recipe need not be the same
    loss = Recipe.from_mapping({**converted.values, "rewards": {"a": {"use": "math_answer"}}}).loss
    tokens = random_tokens(10, spread=0.6)
    assert_same_gradient(
        ours(loss.policy, tokens, loss, loss.aggregation),
        through_trl(
            trl,
            tokens,
            loss_type,
            importance_sampling_level=level,
            epsilon_low=draft["epsilon"],
            epsilon_high=high or draft["epsilon"],
        ),
        tokens.logp_T,
        1e-6 if loss_type == "sapo" else 1e-10,
    )


def test_trls_cispo_cap_is_absolute_and_ours_a_width(trl: Any) -> None:
    tokens = random_tokens(13, spread=0.8)
    same = LossSection(epsilon_low=1.0, epsilon_high=0.5)
    assert_same_gradient(
        ours("cispo", tokens, same, "token_mean"),
        through_trl(trl, tokens, "cispo", epsilon_high=1.5),
        tokens.logp_T,
    )
    (theirs,) = torch.autograd.grad(
        through_trl(trl, tokens, "cispo", epsilon_high=0.2), tokens.logp_T
    )
    low = tokens.ratio_T > 0.2
    constant = -0.2 * tokens.advantage_T / sum(LENGTHS)
    assert low.double().mean() > 0.9 and torch.allclose(
        theirs[low], constant[low]
    )  # its fallback: every weight is 0.2


@pytest.mark.parametrize(("unbiased", "estimator"), [(False, "k3"), (True, "k3_unbiased")])
def test_the_kl_in_the_loss_has_trls_gradient(trl: Any, unbiased: bool, estimator: str) -> None:
    tokens = random_tokens(14)
    ref = tokens.old_logp_T + 0.3 * torch.randn(sum(LENGTHS), dtype=torch.float64)
    mine = (
        ours("clip", tokens, LossSection(epsilon_low=0.2, epsilon_high=0.28), "token_mean")
        + 0.1 * (weights("token_mean") * KLS[estimator](tokens, ref)).sum()
    )
    assert_same_gradient(
        mine,
        through_trl(
            trl, tokens, "dapo", ref=ref, beta=0.1, args={"use_bias_correction_kl": unbiased}
        ),
        tokens.logp_T,
    )


def test_the_off_policy_mask_is_trls(trl: Any) -> None:
    tokens = random_tokens(15)
    tokens = Tokens(
        tokens.logp_T,
        tokens.old_logp_T,
        tokens.old_logp_T + 0.1,
        tokens.advantage_T,
        tokens.row_T,
        tokens.length_R,
    )
    loss = POLICY_LOSSES["clip"].loss(tokens, LossSection(epsilon_low=0.2, epsilon_high=0.28))
    kept = correction.on_policy_enough(tokens, 0.05)
    assert not kept.all()
    assert_same_gradient(
        (weights("token_mean") * loss * kept).sum(),
        through_trl(trl, tokens, "dapo", off_policy_mask_threshold=0.05),
        tokens.logp_T,
    )


def test_the_top_entropy_mask_is_trls_and_counts_the_other_tokens_too(trl: Any) -> None:
    from grpo.objective.policy_loss import select_top_entropy

    tokens, entropies = random_tokens(16), torch.rand(sum(LENGTHS), dtype=torch.float64)
    loss = POLICY_LOSSES["clip"].loss(tokens, LossSection(epsilon_low=0.2, epsilon_high=0.28))
    keep = select_top_entropy(entropies, 0.2)
    assert_same_gradient(
        (weights("token_mean") * loss * keep).sum(),
        through_trl(trl, tokens, "dapo", entropies=entropies, top_entropy_quantile=0.2),
        tokens.logp_T,
    )
