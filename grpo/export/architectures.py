"""Which models become GGUF files, and how: the architecture's name, its numbers, and each weight's name and layout.

A row of `ARCHITECTURES` was compared with llama.cpp itself: greedy tokens of random models (tests). What the format, or
llama.cpp, computes in another way is refused with its key: windows that cut, biases that its graph leaves out, other
activations. Formats are up to ``precision``, tokens to ``vocabulary``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

import gguf
import torch
from gguf import GGUFWriter
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from grpo.model.gguf_metadata import llama3_divisors
from grpo.recipe import RecipeError

Setting = tuple[str, Any]
"""A key of the configuration, and the value that it must have where it stands."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What GGUF calls a kind of model.

    ``interleaves`` is true where the rows of a head's query and key are stored pair by pair, as llama.cpp rotates them,
    not half by half. ``needs`` are settings that its graph takes for granted.
    """

    name: str
    interleaves: bool = False
    needs: tuple[Setting, ...] = ()


_PLAIN: tuple[Setting, ...] = (("hidden_act", "silu"),)
_NO_BIAS: tuple[Setting, ...] = (("attention_bias", False), ("mlp_bias", False))
_EXPERTS: tuple[Setting, ...] = (
    ("norm_topk_prob", True),
    ("decoder_sparse_step", 1),
    ("mlp_only_layers", []),
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", interleaves=True, needs=(*_PLAIN, *_NO_BIAS)),
    "mistral": Architecture("llama", interleaves=True, needs=(*_PLAIN, *_NO_BIAS)),
    "qwen2": Architecture("qwen2", needs=_PLAIN),
    "qwen3": Architecture("qwen3", needs=(*_PLAIN, *_NO_BIAS)),
    "qwen3_moe": Architecture("qwen3moe", needs=(*_PLAIN, *_NO_BIAS, *_EXPERTS)),
}
"""By transformers' ``model_type``."""
_HALVES = re.compile(r"(?P<stem>.*\.mlp\.experts)\.(?P<part>gate_up_proj|down_proj)")
OF_TOKENS = ("model.embed_tokens.weight", "lm_head.weight")
"""Weights with a row for each token."""
ROTARY = ("default", "linear", "yarn", "llama3")


def architecture_of(config: PretrainedConfig) -> Architecture:
    """The row of a model's kind; `RecipeError` for a kind, or a setting, that cannot be written."""
    kind = config.model_type
    architecture = ARCHITECTURES.get(kind)
    if architecture is None:
        raise _refused(f"a model of type {kind} is not written as GGUF", ", ".join(ARCHITECTURES))
    for key, value in architecture.needs:
        found = getattr(config, key, value)
        if found != value:
            raise _refused(
                f"{key} is {found!r}, and llama.cpp computes {kind} with {value!r} alone"
            )
    for reason in _unwritable(config):
        raise _refused(reason)
    return architecture


def _refused(reason: str, written: str = "") -> RecipeError:
    other = f"; written are {written}" if written else ""
    return RecipeError(f"export: {reason}{other}; export it with --to safetensors")


def _unwritable(config: Any) -> Iterator[str]:
    window = getattr(config, "sliding_window", None)
    uses_window = getattr(config, "use_sliding_window", True)
    if window and uses_window and window < config.max_position_embeddings:
        yield f"sliding_window is {window}, and llama.cpp reads this architecture without a window"
    rope = config.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    if kind not in ROTARY:
        yield f"its rotary embedding is scaled by {kind}; llama.cpp reads {', '.join(ROTARY)} as transformers does"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        yield "a part of each head is rotated (partial_rotary_factor)"
    if kind == "yarn" and not rope.get("truncate", True):
        yield "its yarn scaling is not truncated (rope_parameters.truncate)"


# ---- numbers ----------------------------------------------------------------------------------------------------


def head_width(config: Any) -> int:
    """Dimensions of one attention head."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(width)


def write_numbers(writer: GGUFWriter, config: Any, vocab_size: int) -> None:
    """The sizes of a model that knows `vocab_size` tokens, its rotary embedding and its experts."""
    width = head_width(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(vocab_size)
    _write_rotary(writer, config, width)
    if getattr(config, "num_experts", None):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _write_rotary(writer: GGUFWriter, config: Any, width: int) -> None:
    rope = config.rope_parameters or {}
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        _write_yarn(writer, config, rope)


def _write_yarn(writer: GGUFWriter, config: Any, rope: Mapping[str, Any]) -> None:
    length = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    factor = float(rope.get("factor") or config.max_position_embeddings / length)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(int(length))
    writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32.0))
    writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1.0))
    own = _attention_factor(rope, factor) / (1.0 + 0.1 * math.log(factor))
    if abs(own - 1.0) > 1e-6:
        writer.add_rope_scaling_attn_factors(own)


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What yarn multiplies the rotated queries and keys by, as transformers computes it."""

    def scaled(strength: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * strength * math.log(factor) + 1.0

    given = rope.get("attention_factor")
    if given is not None:
        return float(given)
    strength = rope.get("mscale")
    whole = rope.get("mscale_all_dim")
    if strength and whole:
        return scaled(strength) / scaled(whole)
    return scaled(1.0)


# ---- weights ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class NamedTensor:
    """One tensor of a file: its name, its shape, and how to get its values."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Tensor]


def tensors_of(
    model: PreTrainedModel, architecture: Architecture, vocab_size: int
) -> list[NamedTensor]:
    """Every tensor of the file in its order; a tied output layer is left out, as the format wants it.

    Rows beyond `vocab_size`, which no token has, are left out too: llama.cpp would sample them. Raises `RecipeError`
    for a weight that the architecture has no name for.
    """
    config: Any = model.config
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture.name], config.num_hidden_layers)
    found = []
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        halves = _HALVES.fullmatch(name)
        if halves is not None:
            found += _expert_tensors(halves, weight)
            continue
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written is None:
            raise _refused(f"its weight {name} has no name in {architecture.name}'s GGUF files")
        if name in OF_TOKENS:
            weight = weight[:vocab_size]
        num_heads = _num_heads(name, config) if architecture.interleaves else None
        found.append(_named(written, weight, num_heads))
    rope = config.rope_parameters or {}
    if rope.get("rope_type") == "llama3":
        divisor_F = _divisors(config, rope)
        found.append(NamedTensor("rope_freqs.weight", tuple(divisor_F.shape), lambda: divisor_F))
    return found


def _num_heads(name: str, config: Any) -> int | None:
    """How many heads a projection of queries or keys makes; None for other weights."""
    heads: Mapping[str, int] = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }
    return heads.get(name.split(".")[-2])


def _named(name: str, weight: Tensor, num_heads: int | None) -> NamedTensor:
    """A tensor as it is, or with the rows of its heads interleaved."""
    shape = tuple(weight.shape)
    if num_heads is None:
        return NamedTensor(name, shape, lambda: weight)
    heads = num_heads
    return NamedTensor(name, shape, lambda: interleaved(weight, heads))


def interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """The rows of each head with its two halves pair by pair: 0, n, 1, n + 1, ..."""
    halves = weight.view(num_heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _expert_tensors(match: re.Match[str], weight: Tensor) -> list[NamedTensor]:
    """The stacked experts of a layer: gate and up, which transformers keeps as one, apart."""
    layer = match["stem"].split(".")[2]
    stem = f"blk.{layer}.ffn"
    if match["part"] == "down_proj":
        return [NamedTensor(f"{stem}_down_exps.weight", tuple(weight.shape), lambda: weight)]
    half = weight.shape[1] // 2
    shape = (weight.shape[0], half, weight.shape[2])
    return [
        NamedTensor(f"{stem}_gate_exps.weight", shape, lambda: weight[:, :half]),
        NamedTensor(f"{stem}_up_exps.weight", shape, lambda: weight[:, half:]),
    ]


def _divisors(config: Any, rope: Mapping[str, Any]) -> Tensor:
    """By what Llama 3.1's scaling divides each frequency, which the format keeps as a tensor."""
    width = head_width(config)
    exponent_F = torch.arange(width // 2, dtype=torch.float64) * 2 / width
    return llama3_divisors(float(rope["rope_theta"]) ** -exponent_F, rope).float()
