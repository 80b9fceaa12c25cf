"""Objectives by name: what ``loss.preset`` sets, where it is from, and what its paper leaves open.

A preset sets ``advantage.*`` and ``loss.*`` only. The scale that its paper trained at (learning rate,
group, lengths) is never applied: it is printed beside the recipe, so that a reader can compare.
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


PRESETS: Mapping[str, Preset] = {
    "grpo": Preset(
        source="DeepSeekMath, arXiv 2402.03300, eq. 3 with 1/|o_i| as printed there; KL off as in most later work",
        advantage={"rule": "group_std", "epsilon": 1e-4, "mask_truncated": False},
        loss={"epsilon_low": 0.2, "epsilon_high": 0.2, "aggregation": "sequence_mean", "beta": 0.0},
        paper_scale="lr 1e-6, 16 prompts x 64, 1,024 tokens, one update a step, beta 0.04",
        choices=(
            "beta 0 (the paper: 0.04; set loss.beta to use it)",
            "clip 0.2 (the paper does not state it)",
            "std with n - 1 (the paper does not say which)",
        ),
    ),
    "dr_grpo": Preset(
        source="Understanding R1-Zero-Like Training, arXiv 2503.20783",
        advantage={"rule": "center", "mask_truncated": False},
        loss={"epsilon_low": 0.2, "epsilon_high": 0.2, "aggregation": "constant", "beta": 0.0},
        paper_scale="lr 1e-6 constant, 16 prompts x 8, 3,000 tokens",
        choices=("clip 0.2 (the paper does not state it)", "the constant is sample.max_tokens, the generation cap"),
    ),
    "dapo": Preset(
        source="DAPO, arXiv 2503.14476",
        advantage={"rule": "group_std", "epsilon": 1e-4, "mask_truncated": True},
        loss={"epsilon_low": 0.2, "epsilon_high": 0.28, "aggregation": "token_mean", "beta": 0.0},
        paper_scale="lr 1e-6 after 20 steps of warm-up, 512 prompts x 16, 16 updates a step, 20,480 tokens",
        choices=(
            "token mean over the whole update, as every implementation has it (the paper prints it per group)",
            "truncated completions are masked; the soft overlong penalty is a reward, not part of the loss",
            "dynamic sampling is not part of this preset: flat groups stay, with advantage 0",
        ),
    ),
}
