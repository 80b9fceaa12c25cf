"""The memory that a plan counts by formula is that which the planner of preflight counts tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from grpo.plan.shape import shape_of_config
from grpo.plan.update import activation_bytes, held_bytes
from grpo.plan.work import Work
from grpo.preflight.memory import example_rows, predict
from grpo.recipe import LossSection, ModelSection, OptimSection

BASE = Path(__file__).resolve().parents[3] / "recipes" / "quickstart_base"
BYTES = {"float32": 4, "bfloat16": 2}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "family, hidden, wide, layers, dtype",
    [
        ("llama", 256, 1024, 4, "float32"),
        pytest.param("qwen2", 512, 1408, 6, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_weights_states_and_activations_agree(family, hidden, wide, layers, dtype, checkpointing):
    config = AutoConfig.for_model(
        family,
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=2000,
        tie_word_embeddings=False,
    )
    exact = predict(
        config,
        AutoTokenizer.from_pretrained(BASE),
        ModelSection(name="x", dtype=dtype, gradient_checkpointing=checkpointing),
        OptimSection(tokens_per_micro_batch=1024),
        LossSection(),
        example_rows(8, 4, 64, 192),
        device="cuda",
    )
    work = Work(
        prompts=8,
        group=4,
        prompt_tokens=64,
        mean=192,
        longest=192,
        micro_batch=1024,
        checkpointing=checkpointing,
    )
    shape = shape_of_config(config, family)
    held = exact.weights + exact.masters + exact.all_gradients + exact.moments
    assert held_bytes(shape, work, BYTES[dtype], shards=1) == pytest.approx(held, rel=0.01)
    found = activation_bytes(shape, work, BYTES[dtype])
    assert found == pytest.approx(exact.activations, rel=0.15)
