"""Objectives by name: what ``loss.preset`` sets, where it is from, and what its paper leaves open.

A preset sets ``advantage.*`` and ``loss.*`` only. The scale that its paper trained at (learning rate,
group, lengths) is never applied: it is printed next to the recipe, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping


@dataclass(frozen=True)
class Preset:
    """One published objective, as settings of ``advantage`` and ``loss``."""

    source: str
    advantage: Mapping[str, Any]
    loss: Mapping[str, Any]
    paper_scale: str
    choices: tuple[str, ...] = field(default=())


STD_CHOICE = "std with n - 1 (the paper does not say which)"

R1_LOSS = {
    "policy": "clip",
    "epsilon_low": 10.0,
    "epsilon_high": 10.0,
    "aggregation": "sequence_mean",
    "beta": 0.001,
    "kl": "k3",
    "kl_in": "loss",
    "reference_every": 400,
}

PRESETS: Mapping[str, Preset] = {
    "grpo": Preset(
        source="DeepSeekMath, arXiv 2402.03300, eq. 3 with 1/|o_i| as printed there; KL off as in most later work",
        advantage={"rule": "group_std", "epsilon": 1e-4, "mask_truncated": False},
        loss={
            "policy": "clip",
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "aggregation": "sequence_mean",
            "beta": 0.0,
        },
        paper_scale="lr 1e-6, 16 prompts x 64, 1,024 tokens, one update a step, beta 0.04",
        choices=(
            "beta 0 (the paper: 0.04; set loss.beta to use it)",
            "clip 0.2 (the paper does not state it)",
            STD_CHOICE,
        ),
    ),
    "deepseekmath": Preset(
        source="DeepSeekMath, arXiv 2402.03300, eqs. 3 and 4, section 4.2",
        advantage={"rule": "group_std", "epsilon": 1e-4, "mask_truncated": False},
        loss={
            "policy": "clip",
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "aggregation": "sequence_mean",
            "beta": 0.04,
            "kl": "k3",
            "kl_in": "loss",
        },
        paper_scale="lr 1e-6, 16 prompts x 64, 1,024 tokens, one update a step, a learned reward model",
        choices=(
            "clip 0.2 (the paper does not state it; with one update a step it never acts)",
            STD_CHOICE,
        ),
    ),
    "r1_zero": Preset(
        source="DeepSeek-R1, arXiv 2501.12948v2, supplement B.4 (R1-Zero)",
        advantage={"rule": "group_std", "epsilon": 1e-4, "mask_truncated": False},
        loss=R1_LOSS,
        paper_scale="lr 3e-6, 32 prompts x 16 an update, 16 updates a rollout of 8,192, temperature 1, 32,768 tokens, "
        "from step 8,200 65,536; accuracy + format reward",
        choices=(
            "1/length and a ratio per token, as DeepSeekMath prints and every open implementation has it (R1 prints "
            "one ratio per completion and no 1/length)",
            "clip 10 as stated for R1's first RL stage (not stated for R1-Zero); below, the ratio is not clipped",
            STD_CHOICE,
        ),
    ),
    "r1": Preset(
        source="DeepSeek-R1, arXiv 2501.12948v2, supplement B.4 (R1, first RL stage)",
        advantage={"rule": "group_std", "epsilon": 1e-4, "mask_truncated": False},
        loss=R1_LOSS,
        paper_scale="lr 3e-6, 32 prompts x 16 an update, 16 updates a rollout of 8,192, temperature 1 (second stage "
        "0.7), 32,768 tokens; accuracy + format + language-consistency reward",
        choices=(
            "1/length and a ratio per token, as DeepSeekMath prints and every open implementation has it (R1 prints "
            "one ratio per completion and no 1/length)",
            "epsilon 10 on both sides, as one epsilon is printed: below, the ratio is not clipped",
            STD_CHOICE,
        ),
    ),
    "dr_grpo": Preset(
        source="Understanding R1-Zero-Like Training, arXiv 2503.20783",
        advantage={"rule": "center", "mask_truncated": False},
        loss={
            "policy": "clip",
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "aggregation": "constant",
            "beta": 0.0,
        },
        paper_scale="lr 1e-6 constant, 16 prompts x 8, 3,000 tokens",
        choices=(
            "clip 0.2 (the paper does not state it)",
            "the constant is sample.max_tokens, the generation cap",
        ),
    ),
    "dapo": Preset(
        source="DAPO, arXiv 2503.14476, eq. 8 and section 4.1",
        advantage={
            "rule": "group_std",
            "epsilon": 1e-4,
            "mask_truncated": True,
            "flat": "refill",
            "flat_by": "accuracy",
        },
        loss={
            "policy": "clip",
            "epsilon_low": 0.2,
            "epsilon_high": 0.28,
            "aggregation": "token_mean",
            "beta": 0.0,
        },
        paper_scale="lr 1e-6 after 20 steps of warm-up, 512 prompts x 16, 16 updates a step, 20,480 tokens, reward +-1",
        choices=(
            "token mean over the whole update, as every implementation has it (the paper prints it per group: "
            "loss.aggregation prompt_mean)",
            "truncated completions are masked; the soft overlong penalty is a reward, not part of the loss",
            "at most 3 refills a step (the paper samples until the batch is full)",
        ),
    ),
    "gspo": Preset(
        source="GSPO, arXiv 2507.18071, eqs. 5 and 7, section 5.1",
        advantage={"rule": "group_std", "epsilon": 1e-4, "mask_truncated": False},
        loss={
            "policy": "gspo",
            "epsilon_low": 3e-4,
            "epsilon_high": 4e-4,
            "aggregation": "sequence_mean",
            "beta": 0.0,
            "correction": "geometric",
        },
        paper_scale="4 updates a rollout; lr, group and lengths are not stated",
        choices=(
            "no KL (the paper's objective leaves it out for brevity)",
            "sampler and trainer are reconciled by the completion's geometric mean ratio, truncated at 2 (the paper "
            "says that the sampler's log-probs may serve as old_logp)",
        ),
    ),
    "cispo": Preset(
        source="MiniMax-M1, arXiv 2506.13585, eqs. 4 and 5",
        advantage={
            "rule": "group_std",
            "epsilon": 1e-4,
            "mask_truncated": False,
            "flat": "refill",
            "flat_by": "accuracy",
        },
        loss={
            "policy": "cispo",
            "epsilon_low": 1.0,
            "epsilon_high": 4.0,
            "aggregation": "prompt_mean",
            "beta": 0.0,
        },
        paper_scale="AdamW betas 0.9, 0.95, eps 1e-15; 40K to 80K tokens in stages; lr and group are not stated; fp32 "
        "head",
        choices=(
            "epsilon_high 4 (the paper tunes it and states no value; ScaleRL finds caps of 4 to 8 alike)",
            "no lower clip, as the paper's large epsilon_low",
            "1 / tokens of the prompt's group, as printed",
            "at most 3 refills a step",
        ),
    ),
    "rloo": Preset(
        source="Back to Basics, arXiv 2402.14740: REINFORCE with the leave-one-out baseline, the completion as "
        "one action",
        advantage={"rule": "rloo", "mask_truncated": False},
        loss={
            "policy": "reinforce",
            "aggregation": "sequence_sum",
            "beta": 0.03,
            "kl": "k1",
            "kl_in": "reward",
        },
        paper_scale="lr 1e-6, batch 512, 2 or 4 completions a prompt, a learned reward model",
        choices=(
            "beta 0.03 (the paper reports several)",
            "weights of the sampler's correction are per token (loss.correction)",
        ),
    ),
    "scalerl": Preset(
        source="The Art of Scaling RL Compute for LLMs, arXiv 2510.13786, section 4 and appendix A.3",
        advantage={
            "rule": "batch_std_centered",
            "epsilon": 1e-4,
            "mask_truncated": False,
            "flat": "drop",
            "flat_by": "score",
            "retire_at": 0.9,
        },
        loss={
            "policy": "cispo",
            "epsilon_low": 1.0,
            "epsilon_high": 4.0,
            "aggregation": "prompt_mean",
            "beta": 0.0,
        },
        paper_scale="lr 5e-7 after 100 steps of warm-up, weight decay 0.01, eps 1e-15, 48 prompts x 16, 12k tokens of "
        "thought + 2k, up to 8 steps behind, fp32 head, reward +-1",
        choices=(
            "epsilon_high 4, an absolute cap of 5 (the paper finds 4 to 8 alike)",
            "forced interruption of thoughts is sampling, not part of the objective",
            "groups without spread are dropped and not refilled; prompts passed at 0.9 or more retire, as in the paper",
        ),
    ),
    "reinforce_pp": Preset(
        source="REINFORCE++, arXiv 2501.03262v9, eqs. 8 to 10",
        advantage={"rule": "reinforce_pp", "epsilon": 1e-8, "mask_truncated": False},
        loss={
            "policy": "clip",
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "aggregation": "token_mean",
            "beta": 0.001,
            "kl": "k1",
            "kl_in": "reward",
        },
        paper_scale="one completion a prompt; reward model or rules",
        choices=(
            "beta 0.001 (the paper varies it)",
            "statistics over all tokens of the step, as its authors' OpenRLHF has it",
            "second variant, with groups: advantage.rule reinforce_pp_baseline, loss.kl k2, loss.kl_in loss",
        ),
    ),
}
