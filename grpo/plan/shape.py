"""How many numbers a model has, and what of them a token takes part in, by its configuration alone.

Counted are the matrices; norms and biases, below a thousandth of a model, are left out. Known are dense decoders,
mixtures of experts, and latent attention (DeepSeek-V2 and V3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from grpo.recipe import RecipeError
from rewards.spelling import nearest

UNGATED = frozenset(
    {
        "gpt2",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "opt",
        "phi",
        "bloom",
        "falcon",
        "starcoder2",
        "nemotron",
    }
)
"""Model types whose MLPs are two matrices and not three."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder. Counts of numbers are for one layer; `scores` is the width of queries with values.

    ``key_numbers`` are what a token leaves in one layer's cache, ``decode_scores`` the width that decoding attends
    with; ``..._widths`` are inputs and outputs of the matrices together, which is what adapters are as long as.
    """

    name: str
    layers: int
    hidden: int
    vocabulary: int
    tied: bool
    attention: int
    key_numbers: int
    scores: int
    decode_scores: int
    mlp: int
    dense_layers: int
    attention_widths: int = 0
    mlp_widths: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert: int = 0
    expert_widths: int = 0
    shared_experts: int = 0

    @property
    def expert_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def head(self) -> int:
        """Numbers of the output layer."""
        return self.hidden * self.vocabulary

    @property
    def fixed(self) -> int:
        """Numbers of all layers that every token goes through."""
        router = self.hidden * self.experts + self.shared_experts
        return (
            self.layers * self.attention
            + self.dense_layers * self.mlp
            + self.expert_layers * router
        )

    @property
    def body(self) -> int:
        """Numbers of all layers."""
        return self.fixed + self.expert_layers * self.experts * self.expert

    @property
    def active_body(self) -> int:
        """Numbers of all layers that one token goes through."""
        return self.fixed + self.expert_layers * self.experts_per_token * self.expert

    @property
    def total(self) -> int:
        """All numbers, embeddings included."""
        return self.body + self.head * (1 if self.tied else 2)

    @property
    def active(self) -> int:
        """Numbers that one token goes through, the output layer included."""
        return self.active_body + self.head

    def adapters(self, rank: int) -> int:
        """Numbers of low-rank adapters of all matrices of the layers; shared experts are left out."""
        widths = self.layers * self.attention_widths + self.dense_layers * self.mlp_widths
        return rank * (widths + self.expert_layers * self.experts * self.expert_widths)

    def touched(self, rows: float) -> float:
        """Numbers that are read when so many tokens go through the layers and the head together.

        Experts are taken to be chosen at random: of E, each token chooses k, and 1 - (1 - k / E)^rows of them are read.
        """
        if not self.experts:
            return self.body + self.head
        untouched = (1 - self.experts_per_token / self.experts) ** rows
        read = self.expert_layers * self.experts * self.expert * (1 - untouched)
        return self.fixed + read + self.head


# ---- from a configuration -----------------------------------------------------------------------------------------


def shape_of_config(config: Any, name: str) -> Shape:
    """The shape that a configuration of transformers means; raises `RecipeError` where a size is missing."""
    values = config.get_text_config() if hasattr(config, "get_text_config") else config
    return shape_of(_Values(values), name)


class _Values:
    """A configuration's values by name; with the first that is there of several names."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def get(self, *names: str) -> Any:
        """The first value that is neither missing nor None."""
        for name in names:
            if isinstance(self._config, Mapping):
                value = self._config.get(name)
            else:
                value = getattr(self._config, name, None)
            if value is not None:
                return value
        return None

    def need(self, *names: str) -> int:
        """The same, but it must be there."""
        value = self.get(*names)
        if value is None:
            raise RecipeError(
                f"plan: the model's configuration has no {names[0]}; plan knows decoders whose configuration names "
                "hidden_size, num_hidden_layers, num_attention_heads, vocab_size"
            )
        return _size(value, names[0])

    def size(self, *names: str) -> int:
        """The same; 0 where it is missing."""
        value = self.get(*names)
        return 0 if value is None else _size(value, names[0])


def _size(value: Any, name: str) -> int:
    """A size, which some models have for each layer."""
    if isinstance(value, (list, tuple)) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, (int, float)) or value < 0:
        raise RecipeError(
            f"plan: the model's configuration has {name} {value}, which is no size of all its layers"
        )
    return int(value)


def shape_of(values: _Values, name: str) -> Shape:
    """The shape of a configuration's values."""
    if values.get("is_encoder_decoder"):
        raise RecipeError(f"plan: {name} is an encoder with a decoder; plan knows decoders alone")
    hidden = values.need("hidden_size", "n_embd")
    layers = values.need("num_hidden_layers", "n_layer")
    matrices = 2 if values.get("model_type") in UNGATED else 3
    width = values.size("intermediate_size", "n_inner") or 4 * hidden
    experts = _experts(values, hidden, layers)
    return Shape(
        name=name,
        layers=layers,
        hidden=hidden,
        vocabulary=values.need("vocab_size"),
        tied=bool(values.get("tie_word_embeddings")),
        mlp=matrices * hidden * width,
        mlp_widths=matrices * (hidden + width),
        **{"dense_layers": layers, **experts},
        **_attention(values, hidden),
    )


def _experts(values: _Values, hidden: int, layers: int) -> dict[str, int]:
    """What of a shape only a mixture of experts has; empty for a dense model."""
    number = values.size("n_routed_experts", "num_local_experts", "num_experts")
    if not number:
        return {}
    width = values.size("moe_intermediate_size", "intermediate_size")
    return {
        "dense_layers": _dense_layers(values, layers),
        "experts": number,
        "experts_per_token": values.size("num_experts_per_tok"),
        "expert": 3 * hidden * width,
        "expert_widths": 3 * (hidden + width),
        "shared_experts": _shared_experts(values, hidden, width),
    }


def _attention(values: _Values, hidden: int) -> dict[str, int]:
    """Numbers of a layer's projections, of a token's keys and values, and the widths that attention multiplies."""
    heads = values.need("num_attention_heads", "n_head")
    if values.get("kv_lora_rank"):
        return _latent_attention(values, hidden, heads)
    kv_heads = values.size("num_key_value_heads") or heads
    width = values.size("head_dim") or hidden // heads
    return {
        "attention": hidden * width * (2 * heads + 2 * kv_heads),
        "attention_widths": 4 * hidden + width * (2 * heads + 2 * kv_heads),
        "key_numbers": 2 * kv_heads * width,
        "scores": 2 * heads * width,
        "decode_scores": 2 * heads * width,
    }


def _latent_attention(values: _Values, hidden: int, heads: int) -> dict[str, int]:
    """DeepSeek's: keys and values are made from one vector a token, which is all that is cached."""
    latent = values.need("kv_lora_rank")
    rotary = values.need("qk_rope_head_dim")
    key = values.need("qk_nope_head_dim")
    value = values.need("v_head_dim")
    query_rank = values.get("q_lora_rank")
    query = heads * (key + rotary)
    queries = query_rank * (hidden + query) if query_rank else hidden * query
    keys = hidden * (latent + rotary) + latent * heads * (key + value)
    query_widths = 2 * (query_rank or 0) + hidden + query
    key_widths = hidden + 2 * latent + rotary + heads * (key + value)
    return {
        "attention": queries + keys + heads * value * hidden,
        "attention_widths": query_widths + key_widths + heads * value + hidden,
        "key_numbers": latent + rotary,
        "scores": heads * (key + rotary + value),
        "decode_scores": heads * (2 * latent + rotary),
    }


def _dense_layers(values: _Values, layers: int) -> int:
    """How many layers of a mixture have no experts."""
    if values.get("first_k_dense_replace"):
        return values.size("first_k_dense_replace")
    every = values.size("decoder_sparse_step") or 1
    dense = {layer for layer in range(layers) if (layer + 1) % every}
    return len(dense | set(values.get("mlp_only_layers") or ()))


def _shared_experts(values: _Values, hidden: int, expert_width: int) -> int:
    """Numbers of the experts that every token goes through."""
    if values.get("shared_expert_intermediate_size"):
        return 3 * hidden * values.size("shared_expert_intermediate_size")
    return 3 * hidden * expert_width * values.size("n_shared_experts")


# ---- known by name ------------------------------------------------------------------------------------------------

_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)
_DENSE = {
    "smollm2-135m": (576, 1536, 30, 9, 3, 64, 49152, True),
    "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 64, 151936, True),
    "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 128, 151936, True),
    "qwen2.5-3b": (2048, 11008, 36, 16, 2, 128, 151936, True),
    "qwen2.5-7b": (3584, 18944, 28, 28, 4, 128, 152064, False),
    "qwen2.5-14b": (5120, 13824, 48, 40, 8, 128, 152064, False),
    "qwen2.5-32b": (5120, 27648, 64, 40, 8, 128, 152064, False),
    "qwen2.5-72b": (8192, 29568, 80, 64, 8, 128, 152064, False),
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, 128, 151936, True),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, 128, 151936, True),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128, 151936, True),
    "qwen3-8b": (4096, 12288, 36, 32, 8, 128, 151936, False),
    "qwen3-14b": (5120, 17408, 40, 40, 8, 128, 151936, False),
    "qwen3-32b": (5120, 25600, 64, 64, 8, 128, 151936, False),
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128, 128256, False),
    "llama-3.1-70b": (8192, 28672, 80, 64, 8, 128, 128256, False),
}
KNOWN: dict[str, Mapping[str, Any]] = {name: dict(zip(_KEYS, row)) for name, row in _DENSE.items()}
"""Sizes of published models, by the name that their hub id contains; for machines without their configuration."""
KNOWN["qwen3-30b-a3b"] = {
    **dict(zip(_KEYS, (2048, 6144, 48, 32, 4, 128, 151936, False))),
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
KNOWN["deepseek-v3"] = {
    **dict(zip(_KEYS, (7168, 18432, 61, 128, 128, 128, 129280, False))),
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def known_shape(name: str) -> Shape | None:
    """The shape of a published model by its name or hub id; None for another."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    fitting = [known for known in KNOWN if last == known or last.startswith(f"{known}-")]
    if not fitting:
        return None
    return shape_of(_Values(KNOWN[max(fitting, key=len)]), name)


def suggestion(name: str) -> str:
    """``; did you mean qwen2.5-7b?`` or nothing."""
    return nearest(name.rpartition("/")[2].lower(), KNOWN)
