"""How preflight builds what a run works with."""

from __future__ import annotations

from typing import Sequence

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from grpo.kernels.sampling.spec import Sampling
from grpo.learner.optimizer import Optimizer
from grpo.model.policy import Policy
from grpo.recipe import Recipe, SampleSection
from grpo.rollout.engine import Engine
from grpo.scoring import Scorer
from grpo.train import prepare_torch as prepare_torch
from rewards import RewardSpec


def hide_progress_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sampling_of(section: SampleSection) -> Sampling:
    return Sampling(
        temperature=section.temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        min_p=section.min_p,
    )


def open_policy(recipe: Recipe, device: torch.device, tokenizer: PreTrainedTokenizerBase) -> Policy:
    return Policy.load(recipe.model, device, tokenizer=tokenizer)


def open_engine(recipe: Recipe, policy: Policy) -> Engine:
    sample = recipe.sample
    return Engine(
        policy,
        max_rows=sample.max_rows,
        stop=sample.stop,
        kv_memory_gib=sample.kv_memory_gib,
        deterministic=recipe.deterministic,
    )


def open_scorer(recipe: Recipe, specs: Sequence[RewardSpec]) -> Scorer:
    return Scorer(specs, sandbox=recipe.sandbox)


def open_optimizer(recipe: Recipe, policy: Policy, num_updates: int) -> Optimizer:
    is_half = policy.base.dtype == torch.float16
    return Optimizer(policy.trainable(), recipe.optim, num_updates, scale_loss=is_half)
