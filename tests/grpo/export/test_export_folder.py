"""8-bit folders: read by transformers through compressed-tensors, and by nothing else of ours, as the same weights."""

from __future__ import annotations

import warnings

import pytest
import torch
from exports import random_policy
from transformers import AutoModelForCausalLM

from grpo.export.folder import packed, quantized, unpacked, unpacked_weight, write_int8
from grpo.recipe import RecipeError


@pytest.mark.parametrize("columns", [1, 3, 4, 10, 64])
def test_packing_gives_the_integers_back_whatever_the_width(columns, seed):
    weight = torch.randn(5, columns)
    weight[2] = 0.0
    values, scale = quantized(weight)
    found = unpacked_weight(packed(values), scale, torch.tensor(weight.shape))
    torch.testing.assert_close(found, values * scale, rtol=0, atol=0)
    assert bool(((found - weight).abs() <= 0.5001 * scale).all())
    assert values.abs().amax(1).tolist() == [127, 127, 0, 127, 127]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_reads_what_the_plain_copy_holds(tmp_path, dtype):
    pytest.importorskip("compressed_tensors")
    policy = random_policy("qwen2", hidden_size=64, tie_word_embeddings=True)
    policy.base.to(dtype)
    write_int8(policy, tmp_path / "int8")
    unpacked(tmp_path / "int8", tmp_path / "plain")
    ids = torch.randint(3, 400, (1, 20))
    logits = []
    for name in ("int8", "plain"):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model, report = AutoModelForCausalLM.from_pretrained(
                tmp_path / name, dtype=dtype, output_loading_info=True
            )
            assert not report["missing_keys"] and not report["unexpected_keys"]
            logits.append(model(ids).logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
    with policy.own_attention(), torch.no_grad():
        exact = policy.model(input_ids=ids).logits
    assert 0 < float((logits[0] - exact).abs().mean()) < 0.2
    whole = sum(p.numel() * p.element_size() for p in policy.base.parameters())
    size = (tmp_path / "int8" / "model.safetensors").stat().st_size
    assert size < 0.8 * whole


def test_stacked_experts_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="holds stacked experts"):
        write_int8(random_policy("qwen3_moe"), tmp_path / "int8")
