"""An exported file is loaded back and compared: what is the model passes, what is another is refused."""

from __future__ import annotations

import pytest
import torch
from exports import byte_level, random_policy
from tiny import tiny_model, tiny_policy

from grpo.export.check import Written, check_export, drift, loaded_back
from grpo.model.policy import Policy
from grpo.model.saved import SavedModelDiffers
from grpo.recipe import RecipeError

pytest.importorskip("gguf")
from grpo.export.gguf_file import About, write_gguf  # noqa: E402
from grpo.export.precision import PRECISIONS  # noqa: E402

WIDE = {"hidden_size": 64}
MODELS = {
    "llama": ("llama", WIDE),
    "qwen2, tied": ("qwen2", {**WIDE, "tie_word_embeddings": True}),
    "qwen3 with wide heads": ("qwen3", {**WIDE, "head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", {**WIDE, "head_dim": 32}),
    "mistral": ("mistral", {**WIDE, "sliding_window": None}),
}


def write(policy: Policy, folder, precision: str = "F32") -> Written:
    return write_gguf(policy, folder / "m.gguf", PRECISIONS[precision], about=About("tiny"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.thin(13)
def test_what_was_written_loads_back_as_the_model(tmp_path, name, precision):
    family, options = MODELS[name]
    policy = random_policy(family, **options)
    written = write(policy, tmp_path, precision)
    found = check_export(policy, loaded_back(written.path), written)
    assert found.mean <= written.limit
    assert (found.mean < 1e-5) == (precision == "F32")


def test_a_bfloat16_model_is_kept_exactly_at_f32_and_bf16(tmp_path):
    policy = random_policy("qwen2", **WIDE)
    for parameter in policy.base.parameters():
        parameter.data = parameter.data.bfloat16().float()
    for precision in ("F32", "BF16"):
        written = write(policy, tmp_path, precision)
        assert check_export(policy, loaded_back(written.path), written).largest < 1e-4


@torch.no_grad()
def swapped_heads(policy: Policy) -> None:
    weight = policy.base.model.layers[1].self_attn.q_proj.weight
    weight.copy_(weight.view(4, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape))


def other_end(policy: Policy) -> None:
    policy.stop_ids = frozenset({2})


def other_template(policy: Policy) -> None:
    policy.tokenizer.chat_template = "{{ messages[0].content }}"


OTHERS = {
    "rows of a weight in another order": (swapped_heads, "1 of .* weights differ .*q_proj"),
    "one end token fewer": (other_end, "its end tokens are"),
    "another chat template": (other_template, "its chat template is another"),
}


@pytest.mark.parametrize("precision", ["F32", "Q4_K"])
@pytest.mark.parametrize("case", OTHERS)
def test_another_model_is_found_at_any_precision(tmp_path, case, precision):
    change, reason = OTHERS[case]
    policy = random_policy("llama", **WIDE)
    written = write(policy, tmp_path, precision)
    other = loaded_back(written.path)
    change(other)
    with pytest.raises(SavedModelDiffers, match=reason):
        check_export(policy, other, written)


def test_a_model_that_a_precision_breaks_is_refused_with_what_would_do(tmp_path):
    policy = random_policy("llama", peak=60.0, **WIDE)
    written = write(policy, tmp_path, "Q8_0")
    with pytest.raises(RecipeError, match="at Q8_0 the log-probs .* take a finer one"):
        check_export(policy, loaded_back(written.path), written)


def test_drift_is_the_mean_and_largest_difference_of_the_tokens_log_probs(seed):
    first = random_policy("llama", 1, **WIDE)
    second = random_policy("llama", 2, tokenizer=first.tokenizer, **WIDE)
    ids = torch.randint(3, 400, (1, 12))
    off = []
    for policy in (first, second):
        with policy.own_attention(), torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0, :, : policy.vocab_size]
        off.append(logits.log_softmax(-1)[3:-1].gather(1, ids[0, 4:, None])[:, 0])
    expected = (off[0] - off[1]).abs()
    row = ids[0].tolist()
    found = drift(first, second, [(row[:4], row[4:])])
    assert found.tokens == 8
    assert found.mean == pytest.approx(float(expected.mean()), rel=1e-4)
    assert found.largest == pytest.approx(float(expected.max()), rel=1e-4)


REFUSED = {
    "another kind of model": ("gemma", {"head_dim": 8}, "a model of type gemma is not written"),
    "a window that cuts": ("mistral", {"sliding_window": 9}, "sliding_window is 9"),
    "a bias": ("llama", {"attention_bias": True}, "attention_bias is True"),
    "another activation": ("qwen2", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "shares of experts as they are": (
        "qwen3_moe",
        {"norm_topk_prob": False},
        "norm_topk_prob is F",
    ),
    "scaling by the length of the text": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "scaled by dynamic",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused_and_nothing_is_left(tmp_path, case):
    family, options, reason = REFUSED[case]
    policy = random_policy(family, **options)
    with pytest.raises(RecipeError) as refused:
        write(policy, tmp_path)
    assert reason in str(refused.value) and "--to safetensors" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_adapters_are_merged_into_the_file(tmp_path):
    tokenizer = byte_level()
    policy = tiny_policy("llama", lora=True, tokenizer=tokenizer, vocabulary=len(tokenizer), **WIDE)
    written = write(policy, tmp_path)
    other = loaded_back(written.path)
    assert check_export(policy, other, written).mean < 1e-4
    bare = Policy(tiny_model("llama", 0, vocabulary=len(tokenizer), **WIDE), tokenizer)
    with pytest.raises(SavedModelDiffers, match="weights differ"):
        check_export(bare, other, written)
