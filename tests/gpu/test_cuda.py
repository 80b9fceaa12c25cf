"""The same promises on a CUDA device: log-probs agree, the update is the CPU's, a run learns and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_policy

from grpo import Recipe, Trainer
from grpo.rollout.engine import Engine
from grpo.rollout.sampler import Sampling
from grpo.types import Prompt

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def cuda_policy(family: str, **options):
    policy = tiny_policy(family, **options)
    return type(policy)(policy.model, policy.tokenizer, "cuda")


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "qwen3_moe"])
def test_sampled_logps_are_those_of_a_plain_forward(family: str, lora: bool, seed: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    policy = cuda_policy(family, seed=seed % 1000, lora=lora)
    prompts = [Prompt(str(n), tuple(torch.randint(3, 80, (n,)).tolist()), {}) for n in (1, 5, 70)]
    groups = [group for _, group in Engine(policy).sample(prompts, group_size=3, max_tokens=80, sampling=Sampling(),
                                                          seed=(seed,))]
    policy.base.set_attn_implementation("eager")
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt.token_ids, *completion.token_ids]], device="cuda")
            with torch.no_grad():
                logp = policy.model(input_ids=ids).logits[0, :-1, :policy.vocab_size].float().log_softmax(-1)
            taken = logp.gather(-1, ids[0, 1:, None])[len(group.prompt.token_ids) - 1:, 0].cpu()
            assert (taken - completion.sampled_logps).abs().max() <= 1e-4


def test_a_run_on_the_gpu_learns_and_drift_stays_small(tmp_path: Path) -> None:
    recipe = Recipe.load(ROOT / "recipes" / "quickstart.yaml", "steps=20", "evaluate.every=0",
                         f"run_dir={tmp_path / 'run'}")
    records = list(Trainer(recipe))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"]
    assert max(record["policy/drift"] for record in records) < 1e-3
