"""Whole runs of mixtures of experts: replayed routing over partial rollouts, several updates, and a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from expert_rows import mixture
from quick_runs import ROOT, assert_same_run, recipe, records, run
from tiny import tiny_model, tiny_policy
from transformers import AutoTokenizer

from grpo import Trainer
from grpo.recipe import RecipeError
from grpo.run.setup import check_load_balance

RUNS = {
    "qwen3_moe": ["loss.load_balance=0.01", "model.lora.rank=2"],
    "mixtral": ["loss.load_balance=0.01"],
    "deepseek_v3": [],
}


def model_folder(folder: Path, family: str) -> Path:
    """A tiny mixture of experts with the quickstart's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes" / "quickstart_base")
    tokenizer.save_pretrained(folder)
    tiny_model(family, 0, vocabulary=len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", RUNS)
def test_a_resumed_run_of_experts_equals_one_never_stopped(tmp_path: Path, family: str) -> None:
    overrides = [
        f"model.name={model_folder(tmp_path / 'model', family)}",
        "steps=3",
        "sample.prompts=2",
        "sample.over_request=0.5",
        "sample.max_rows=8",
        "sample.max_tokens=10",
        "loss.beta=0.01",
        "optim.updates=2",
        "data.args.count=40",
        "data.held_out=2",
        "evaluate.samples=1",
        "evaluate.every=0",
        "checkpoint.every=1",
        "log.report=false",
        *RUNS[family],
    ]
    run(tmp_path / "whole", *overrides)
    trainer = Trainer(recipe(tmp_path / "cut", *overrides))
    for record in trainer:
        if record["step"] == 2:
            break
    trainer.close()
    run(tmp_path / "cut", *overrides, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    steps = records(tmp_path / "whole")
    assert all(step["policy/drift"] < 1e-5 for step in steps)
    assert all(0 < step["experts/entropy"] <= 1 for step in steps)
    assert not any("routing" in row for row in records(tmp_path / "whole", "samples.jsonl"))


def test_a_load_balancing_loss_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "loss.load_balance=0.01")
    check_load_balance(asked, mixture("mixtral"))
    with pytest.raises(RecipeError, match="even by a bias"):
        check_load_balance(asked, mixture("deepseek_v3"))
    with pytest.raises(RecipeError, match="LlamaForCausalLM has no experts"):
        check_load_balance(asked, tiny_policy("llama"))


def test_a_run_says_who_chooses_the_experts() -> None:
    policy = mixture("mixtral")
    assert "the trainer repeats the sampler's choice" in policy.describe_routing()[0]
    policy.routing.is_replayed = False
    assert "the trainer chooses its own" in policy.describe_routing()[0]
    assert tiny_policy("llama").describe_routing() == []
