"""A tiny Llama, random scored groups, and the learner, batch and gradient that tests of updates are made of."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grpo.learner.batch import make_batch
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.model.loading import with_adapters
from grpo.model.policy import Policy
from grpo.objective.advantage import advantages
from grpo.recipe import AdvantageSection, LoraSection, LossSection, OptimSection
from grpo.types import Batch, Completion, Prompt, ScoredGroup, Update
from rewards import Score

VOCABULARY = 61
TEMPERATURE = 0.9


def tiny_policy(
    dtype: torch.dtype = torch.float64,
    lora: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    *,
    tied: bool = False,
    checkpointing: bool = False,
) -> Policy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=1,
        initializer_range=0.2,
        attention_dropout=dropout,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).to(dtype)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", unk_token="w0")
    if lora:
        model = with_adapters(model, LoraSection(rank=4)).to(dtype)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    return Policy(model, tokenizer, gradient_checkpointing=checkpointing)


def random_groups(
    num_groups: int = 5, group_size: int = 4, longest: int = 23, stop: int | None = 1
) -> list[ScoredGroup]:
    groups = []
    for g in range(num_groups):
        prompt = Prompt(
            str(g), tuple(random.choices(range(2, VOCABULARY), k=random.randint(1, 19))), {}
        )
        completions, scores = [], []
        for _ in range(group_size):
            tokens = tuple(random.choices(range(2, VOCABULARY), k=random.randint(0, longest - 1)))
            tokens = tokens + ((stop,) if stop is not None else (2,))
            completions.append(Completion("", tokens, torch.randn(len(tokens)), "stop"))
            scores.append(Score(random.choice([0.0, 1.0, 0.3])))
        scores[0] = Score(1.5)
        groups.append(ScoredGroup(prompt, tuple(completions), tuple(scores)))
    return groups


def batch_of(
    groups: list[ScoredGroup],
    num_updates: int = 1,
    epochs: int = 1,
    kl: bool = False,
    rule: str = "group_std",
) -> Batch:
    return make_batch(
        groups,
        advantages(groups, AdvantageSection(rule=rule)),
        num_updates=num_updates,
        epochs=epochs,
        max_tokens=40,
        mask_truncated=False,
        forward_flat=kl,
    )


def learner_of(policy: Policy, /, budget: int = 10**6, lr: float = 1e-3, **loss: object) -> Learner:
    section = LossSection(**{"aggregation": "sequence_mean", "correction": "none", **loss})
    optimizer = Optimizer(policy.trainable(), OptimSection(lr=lr, max_grad_norm=0.0), 10)
    return Learner(
        policy, optimizer, section, temperature=TEMPERATURE, tokens_per_micro_batch=budget
    )


def gradient_of(learner: Learner, update: Update) -> torch.Tensor:
    """The gradient of one update as the optimizer would use it, flattened, without the optimizer's step."""
    taken: list[torch.Tensor] = []

    def take() -> None:
        parts = [g.double().flatten() for g in learner.optimizer.gradients()]
        taken.append(torch.cat(parts).clone())

    learner.optimizer.step = take
    learner.update(update)
    learner.optimizer.drop_gradients()
    return taken[0]


def gradient(
    policy: Policy,
    update: Update,
    /,
    budget: int = 10**6,
    order: list[int] | None = None,
    **loss: object,
) -> torch.Tensor:
    """The gradient of an update that is a step's first."""
    learner = learner_of(policy, budget, **loss)
    if order is not None:
        update = replace(update, rows=tuple(update.rows[i] for i in order))
    learner.begin(Batch(update.rows, (update,)))
    return gradient_of(learner, update)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()
