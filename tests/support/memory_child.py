"""Predicts an update's memory, makes the update, and prints both as JSON; run in a fresh process by ``test_memory.py``.

The peak is that of the process less what it held after a tiny update, which loads all code and tables.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Iterable

import torch
from tiny import tiny_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3MoeConfig

from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.model.loading import with_adapters
from grpo.model.policy import Policy
from grpo.preflight.facts import collect_facts
from grpo.preflight.memory import Memory, example_rows, predict
from grpo.preflight.memory_fit import largest_update
from grpo.recipe import LoraSection, LossSection, ModelSection, OptimSection, Recipe
from grpo.rollout.compatibility import check_support
from grpo.types import Batch, Denominators, Row, Update


def config_of(case: dict) -> PretrainedConfig:
    if "experts" in case:
        return Qwen3MoeConfig(
            vocab_size=16000,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=8,
            head_dim=32,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            num_experts=case["experts"],
            num_experts_per_tok=2,
            moe_intermediate_size=384,
        )
    return LlamaConfig(
        vocab_size=case.get("V", 16000),
        hidden_size=case.get("D", 256),
        intermediate_size=case.get("I", 768),
        num_hidden_layers=case.get("L", 8),
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def sections(case: dict) -> tuple[ModelSection, OptimSection, LossSection]:
    return (
        ModelSection(
            name="x",
            dtype=case.get("dtype", "float32"),
            gradient_checkpointing=case.get("recompute", False),
            lora=LoraSection(rank=8) if case.get("lora") else None,
        ),
        OptimSection(
            tokens_per_micro_batch=case.get("micro", 10**6), state=case.get("state", "fp32")
        ),
        LossSection(beta=case.get("beta", 0.0)),
    )


def model_of(case: dict, config: PretrainedConfig) -> nn.Module:
    section, _, _ = sections(case)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, section.dtype))
    return with_adapters(model, section.lora) if section.lora else model


def with_tokens(rows: Iterable[Row], ids: range, longest: int | None = None) -> tuple[Row, ...]:
    """Rows with random tokens and advantages; with `longest`, all prompts are that long."""
    rng = random.Random(0)
    return tuple(
        replace(
            row,
            prompt_ids=tuple(rng.choices(ids, k=longest or len(row.prompt_ids))),
            token_ids=tuple(rng.choices(ids, k=row.num_tokens)),
            advantage=rng.random() - 0.5,
        )
        for row in rows
    )


def update_of(case: dict) -> Update:
    """The update of a case, whose rows are in three groups."""
    rows = with_tokens(rows_of(case), range(3, 60))
    tokens = sum(row.num_tokens for row in rows)
    return Update(rows, Denominators(len(rows), tokens, 100, {g: tokens // 3 for g in range(3)}))


def make_updates(case: dict, config: PretrainedConfig, tokenizer, number: int) -> None:
    model_section, optim, loss = sections(case)
    policy = Policy(
        model_of(case, config),
        tokenizer,
        case.get("device", "cpu"),
        gradient_checkpointing=model_section.gradient_checkpointing,
    )
    update = update_of(case)
    learner = Learner(
        policy,
        Optimizer(policy.trainable(), optim, 10),
        loss,
        temperature=1.0,
        tokens_per_micro_batch=optim.tokens_per_micro_batch,
    )
    make_them(learner, update, number)


def make_them(learner: Learner, update: Update, number: int) -> None:
    """Make the same update so many times."""
    for _ in range(number):
        learner.begin(Batch(update.rows, (update,)))
        assert learner.update(update).made


def of_recipe(file: str, overrides: list[str]) -> None:
    """The largest update of a recipe's own model: what preflight predicts, and the peak of two such updates."""
    recipe = Recipe.load(file, *overrides)
    facts = collect_facts(recipe)
    predicted, before = largest_update(facts), resident_bytes()
    policy = Policy.load(recipe.model, tokenizer=facts.tokenizer, device="cpu")
    check_support(policy)
    longest = max(len(prompt.token_ids) for prompt in facts.prompts.train)
    examples = example_rows(
        recipe.sample.prompts, recipe.sample.group_size, 1, recipe.sample.max_tokens
    )
    rows = with_tokens(examples, range(policy.vocab_size), longest)
    update = Update(
        rows, Denominators(len(rows), sum(row.num_tokens for row in rows), 100, {0: 100})
    )
    learner = Learner(
        policy,
        Optimizer(policy.trainable(), recipe.optim, 10),
        recipe.loss,
        temperature=1.0,
        tokens_per_micro_batch=recipe.optim.tokens_per_micro_batch,
    )
    make_them(learner, update, 2)
    report(predicted, before)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(predicted: Memory, before: int) -> None:
    status = Path(
        "/proc/self/status"
    ).read_text()  # ru_maxrss would be that of whoever started this process
    measured = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before
    print(
        json.dumps(
            {"predicted": predicted.peak, "measured": measured, "terms": list(predicted.lines())}
        )
    )


def rows_of(case: dict):
    return example_rows(case.get("prompts", 3), 4, case.get("prompt", 100), case.get("T", 100))


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer(80)
    make_updates(
        {**case, "prompts": 1}, config_of({"V": 200, "D": 32, "I": 64, "L": 1}), tokenizer, 2
    )
    if "recipe" in case:
        return of_recipe(case["recipe"], case["overrides"])
    config = config_of(case)
    tokenizer.add_tokens([f"<f{i}>" for i in range(config.vocab_size - len(tokenizer))])
    predicted = predict(config, tokenizer, *sections(case), rows_of(case))
    before = resident_bytes()
    make_updates(case, config, tokenizer, 2)
    report(predicted, before)


if __name__ == "__main__":
    main()
