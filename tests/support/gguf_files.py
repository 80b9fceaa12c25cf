"""GGUF files of tiny models, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from tokenizers.pre_tokenizers import ByteLevel

CHAT = "{% for m in messages %}{{ '<s>' + m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ ':' }}{% endif %}"


def write_gguf(
    path: Path,
    model,
    *,
    tied: bool = True,
    pre: str | None = "smollm",
    rope: Mapping[str, Any] | None = None,
    tensors: Mapping[str, numpy.ndarray] | None = None,
    words: Sequence[str] = ("ab", "cd"),
    merges: Sequence[str] = ("a b", "c d"),
) -> Path:
    """`model`, a tiny Llama over the bytes, as a GGUF file such as llama.cpp writes.

    `rope` are keys under ``llama.rope.``, `tensors` stand beside the model's own. `words` and `merges` are the
    vocabulary beyond the bytes; transformers 5.17 reads no list of a single merge.
    """
    gguf = pytest.importorskip("gguf")
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = ["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet()), *words]
    for key, value in (rope or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        add[type(value)](f"llama.rope.{key}", value)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    heads = {
        "self_attn.q_proj": config.num_attention_heads,
        "self_attn.k_proj": config.num_key_value_heads,
    }
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    if not tied:
        writer.add_tensor("output.weight", weights["lm_head.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            w = weights[f"model.layers.{layer}.{ours}.weight"]
            if ours in heads:  # llama.cpp interleaves the halves of a rotary head
                w = w.view(heads[ours], 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", w.contiguous().numpy())
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
