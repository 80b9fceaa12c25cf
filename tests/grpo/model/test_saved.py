"""A saved model is loaded back and compared; whatever is changed in its folder is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, tiny_model, tiny_policy, tiny_tokenizer
from transformers import AutoTokenizer, GenerationConfig

from grpo.model.loading import with_adapters
from grpo.model.policy import Policy
from grpo.model.saved import check_saved
from grpo.recipe import LoraSection, ModelSection


def small_policy(**options) -> Policy:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return tiny_policy("llama", tokenizer=tokenizer, **options)


@pytest.mark.parametrize(
    "family, options",
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"lora": True}),
        ("llama", {"lora": True, "tie_word_embeddings": True}),
        ("llama", {"dtype": torch.bfloat16}),
        ("llama", {"dtype": torch.bfloat16, "lora": True}),
        ("llama", {"dtype": torch.float16, "lora": True}),
        ("llama", {"dtype": torch.float64}),
        ("llama", {"vocabulary": 300}),
        ("gemma3_text", {"lora": True}),
        ("gemma2", {}),
        ("granite", {}),
        ("gpt2", {"lora": True}),
        ("qwen3_moe", {"lora": True}),
        ("mixtral", {}),
        ("smollm3", {}),
        ("phi3", {"lora": True}),
    ],
)
def test_what_is_saved_loads_back_as_the_policy(tmp_path, family, options, seed):
    policy = tiny_policy(family, seed, **options)
    policy.save(tmp_path)
    found = check_saved(policy, tmp_path)
    assert not found.problems and not found.unchecked
    half = options.get("dtype") in (torch.bfloat16, torch.float16)
    assert 0 <= found.difference < (0.15 if half else 2e-5)


def test_embeddings_that_are_two_in_spite_of_the_configuration_are_saved_as_two(tmp_path):
    model = tiny_model("llama", 0, tie_word_embeddings=True)
    model.lm_head.weight = torch.nn.Parameter(2 * model.lm_head.weight.detach())
    policy = Policy(model, tiny_tokenizer())
    policy.save(tmp_path)
    assert not check_saved(policy, tmp_path).problems


# ---- tampering --------------------------------------------------------------------------------------------------


def change_json(file: Path, **values) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **values}), encoding="utf-8")


def change_tensor(file: Path, name: str, change) -> None:
    tensors = load_file(file)
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, file, metadata={"format": "pt"})


def one_bit(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the lowest bit of its last value flipped."""
    flat = tensor.reshape(-1)
    flat[-1:].view(torch.int32).bitwise_xor_(1)
    return tensor


WEIGHTS = "model.safetensors"
NORM = "model.norm.weight"
TAMPERING = {
    "a bit of the head": (
        lambda f: change_tensor(f / WEIGHTS, "lm_head.weight", one_bit),
        "1 of .* such as lm_head",
    ),
    "a norm": (
        lambda f: change_tensor(f / WEIGHTS, NORM, lambda w: 1.001 * w),
        "model.norm.weight",
    ),
    "other numbers": (
        lambda f: change_tensor(f / WEIGHTS, NORM, torch.zeros_like),
        "log-probs differ",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "cannot be loaded"),
    "half a file": (lambda f: (f / WEIGHTS).write_bytes(b"{}"), "cannot be loaded"),
    "rotary base": (
        lambda f: change_json(
            f / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 5.0}
        ),
        "log-probs differ",
    ),
    "tied": (lambda f: change_json(f / "config.json", tie_word_embeddings=True), "ties the output"),
    "fewer layers": (
        lambda f: change_json(f / "config.json", num_hidden_layers=1),
        "tensors hold other values, such as model.layers.1",
    ),
    "end tokens": (
        lambda f: change_json(f / "generation_config.json", eos_token_id=2),
        "lacks the end token 7",
    ),
    "padding": (
        lambda f: change_json(f / "generation_config.json", pad_token_id=5),
        "another pad_token_id",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    "other tokenizer": (lambda f: byte_tokenizer().save_pretrained(f), "another vocabulary"),
    "template": (
        lambda f: (f / "chat_template.jinja").write_text("{{ 1 }}"),
        "another chat_template",
    ),
    "adapters": (
        lambda f: change_tensor(
            f / "adapter" / "adapter_model.safetensors",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
            one_bit,
        ),
        "adapters hold other values",
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_a_folder_that_was_tampered_with_is_not_the_policy(tmp_path, what):
    policy = small_policy(lora=True)
    policy.stop_ids = frozenset({2, 7})
    policy.save(tmp_path)
    tamper, message = TAMPERING[what]
    tamper(tmp_path)
    found = check_saved(policy, tmp_path)
    assert found.problems
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found.describe(tmp_path))


def test_weights_that_have_changed_since_are_not_those_saved(tmp_path):
    policy = small_policy()
    policy.save(tmp_path)
    with torch.no_grad():
        policy.model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-3
    assert "layers.1.mlp.up_proj" in check_saved(policy, tmp_path).problems[0]


def test_memory_that_runs_out_is_said_and_no_verdict(tmp_path, monkeypatch):
    policy = small_policy()
    policy.save(tmp_path)

    def full(*arguments, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    found = check_saved(policy, tmp_path)
    assert not found.problems and "was not loaded back, since memory ran out" in found.describe(
        tmp_path
    )


# ---- end tokens, padding, template ------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_every_end_token_is_in_the_generation_config_beside_padding_and_template(tmp_path, lora):
    model = tiny_model("llama", 0)
    model.generation_config.eos_token_id = [7, 11]
    model.generation_config.temperature = 0.6  # without do_sample, as published ones have it
    if lora:
        model = with_adapters(model, LoraSection())
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages }}"
    policy = Policy(model, tokenizer)
    policy.save(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config.eos_token_id == [2, 7, 11] and config.temperature == 0.6
    assert config.pad_token_id == tokenizer.pad_token_id == 0
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.chat_template, again.pad_token) == ("{{ messages }}", "<pad>")
    assert not check_saved(policy, tmp_path).problems
    assert policy.base.generation_config.eos_token_id == [7, 11]


def test_a_four_bit_base_is_saved_as_what_the_policy_computes(tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny_model("llama", 0, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    section = ModelSection(name=str(tmp_path / "base"), quantize="nf4", lora=LoraSection(rank=4))
    policy = Policy.load(section)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(0.05)
    policy.save(tmp_path / "final")
    assert not check_saved(policy, tmp_path / "final").problems
