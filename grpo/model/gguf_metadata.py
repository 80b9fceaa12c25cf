"""What a GGUF file says of rotary embedding, splitting of text, widths and ends, where transformers does not listen.

transformers reads the weights and the vocabulary. It drops the scaling of the rotary embedding, and knows the splitting
of some vocabularies only: without the first the model computes other logits, without the second it reads other tokens
than those it was trained on. It also takes some widths for granted, and a single end token. What cannot be carried over
is refused with the name of the key. A whole tokenizer in the file (``tokenizer.huggingface.json``) is used as it is.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from grpo.recipe import RecipeError

ROTARY_TENSORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
LLAMA3_DEFAULTS = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GLOBAL_LAYERS_ONLY = ("gemma3",)
"""Architectures whose scaling is that of the layers without a window."""
TOLERANCE = 1e-4  # relative; files hold the factors in fp32


@dataclass(frozen=True, slots=True, eq=False)
class GgufMetadata:
    """The parts of a file's metadata that are carried over.

    ``rope`` is what stands under ``ARCHITECTURE.rope.``, ``factors`` the tensors of `ROTARY_TENSORS` by name.
    ``tokenizer`` is the kind of vocabulary (gpt2 is byte-level BPE), ``pre`` the name of its splitting, ``num_tokens``
    its size, 0 if the file has none, ``tokenizer_json`` a whole tokenizer beside it. ``head_width`` and
    ``expert_width`` are dimensions; ``special_ids`` are the ids of special tokens by name, such as bos and eot.
    """

    file: Path
    architecture: str
    context_length: int | None
    rope: Mapping[str, Any]
    factors: Mapping[str, numpy.ndarray]
    tokenizer: str | None
    pre: str | None
    num_tokens: int
    tokenizer_json: str | None
    chat_template: str | None
    special_ids: Mapping[str, int]
    head_width: int | None
    expert_width: int | None

    def key(self, name: str) -> str:
        """The full name of a key of ``rope``."""
        return f"{self.architecture}.rope.{name}"


def read_metadata(file: Path) -> GgufMetadata:
    """The metadata of `file`, kept until it changes."""
    return _read(file.resolve(), file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(file: Path, _changed: int) -> GgufMetadata:
    from gguf import GGUFReader  # noqa: PLC0415  an optional package

    reader = GGUFReader(file)
    values = {name: _value(field) for name, field in reader.fields.items()}
    has_tokens = "tokenizer.ggml.tokens" in reader.fields
    architecture = values["general.architecture"]
    prefix = f"{architecture}.rope."
    rope = {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
    return GgufMetadata(
        file=file,
        architecture=architecture,
        context_length=values.get(f"{architecture}.context_length"),
        rope=rope,
        factors=_factors(reader),
        tokenizer=values.get("tokenizer.ggml.model"),
        pre=values.get("tokenizer.ggml.pre"),
        num_tokens=len(reader.fields["tokenizer.ggml.tokens"].data) if has_tokens else 0,
        tokenizer_json=values.get("tokenizer.huggingface.json"),
        chat_template=values.get("tokenizer.chat_template"),
        special_ids=_special_ids(values),
        head_width=values.get(f"{architecture}.attention.key_length"),
        expert_width=values.get(f"{architecture}.expert_feed_forward_length"),
    )


def _factors(reader: Any) -> dict[str, numpy.ndarray]:
    return {
        kind: numpy.array(tensor.data, dtype=numpy.float64)
        for tensor in reader.tensors
        for kind in ROTARY_TENSORS
        if tensor.name.removesuffix(".weight").endswith(kind)
    }


def _special_ids(values: Mapping[str, Any]) -> dict[str, int]:
    names = {
        name.removeprefix("tokenizer.ggml.").removesuffix("_token_id"): value
        for name, value in values.items()
        if name.startswith("tokenizer.ggml.") and name.endswith("_token_id")
    }
    return {name: int(value) for name, value in names.items() if value is not None}


def _value(field: Any) -> Any:
    """A text or number; None for lists."""
    if len(field.data) != 1 or len(field.types) != 1:
        return None
    part = field.parts[field.data[0]]
    if part.dtype == numpy.uint8 and field.types[0].name == "STRING":
        return bytes(part).decode("utf-8")
    return part.tolist()[0]


# ---- widths and end tokens --------------------------------------------------------------------------------------


def set_widths(config: PretrainedConfig, metadata: GgufMetadata) -> None:
    """Put the widths of heads and experts into the configuration, which has defaults of its own for some models."""
    text_config = config.get_text_config()
    found = {"head_dim": metadata.head_width, "moe_intermediate_size": metadata.expert_width}
    for name, width in found.items():
        if width is not None and hasattr(text_config, name):
            setattr(text_config, name, int(width))


def set_end_tokens(config: PretrainedConfig, metadata: GgufMetadata) -> None:
    """Put every token at which the file ends a completion into the configuration: of a text, a turn, a message."""
    names = ("eos", "eot", "eom")
    found = [metadata.special_ids[name] for name in names if name in metadata.special_ids]
    if len(set(found)) > 1:
        config.get_text_config().eos_token_id = list(dict.fromkeys(found))


# ---- the rotary embedding ---------------------------------------------------------------------------------------


def set_rotary_scaling(config: PretrainedConfig, metadata: GgufMetadata) -> None:
    """Put the file's rotary scaling into the configuration; `RecipeError` names a key that cannot be carried over."""
    text_config = config.get_text_config()
    found = getattr(text_config, "rope_parameters", None)
    scaling = rotary_scaling(metadata, dimensions=_num_rotated(text_config))
    if not scaling:
        return
    if not found:
        raise _refused(metadata, _key_of(metadata), "this architecture has no rotary scaling here")
    parameters = dict(found)
    if any(isinstance(part, Mapping) for part in parameters.values()):
        if metadata.architecture not in GLOBAL_LAYERS_ONLY:
            raise _refused(
                metadata, _key_of(metadata), "its layers have rotary embeddings of several kinds"
            )
        parameters["full_attention"] = {**parameters["full_attention"], **scaling}
    else:
        parameters.update(scaling)
    text_config.rope_parameters = parameters
    if scaling["rope_type"] == "longrope":  # some models read it from here
        original = scaling["original_max_position_embeddings"]
        text_config.original_max_position_embeddings = original


def rotary_scaling(metadata: GgufMetadata, dimensions: int | None = None) -> dict[str, Any]:
    """The file's scaling as transformers' ``rope_parameters``; empty if there is none.

    `dimensions` of a head are rotated. Raises `RecipeError` with the name of a key that has no counterpart.
    """
    rope = metadata.rope
    factors = metadata.factors
    kind = rope.get("scaling.type")
    factor = rope.get("scaling.factor") or rope.get("scale_linear") or 1.0
    if kind not in (None, "none", "linear", "yarn", "longrope"):
        raise _refused(metadata, metadata.key("scaling.type"), f"its value {kind} is not known")
    for name in ("scaling.alpha", "scaling.yarn_log_multiplier"):
        if rope.get(name):
            raise _refused(metadata, metadata.key(name), "it has no counterpart in transformers")
    if "rope_freqs" in factors and (factors["rope_freqs"] != 1).any():
        if kind not in (None, "none") and factor != 1:
            raise _refused(
                metadata, "rope_freqs.weight", f"it stands beside {metadata.key('scaling.type')}"
            )
        return _llama3(metadata, dimensions)
    if kind == "longrope" or "rope_factors_long" in factors:
        return _longrope(metadata)
    if kind == "none" or factor == 1:
        return {}
    return _yarn(metadata, factor) if kind == "yarn" else _linear(metadata, factor)


def _refused(metadata: GgufMetadata, key: str, reason: str) -> RecipeError:
    return RecipeError(
        f"model: {metadata.file} scales its rotary embedding by {key}, which cannot be carried over: {reason}; "
        "take the model as safetensors"
    )


def _key_of(metadata: GgufMetadata) -> str:
    """The key that says how the rotary embedding is scaled."""
    for kind in ROTARY_TENSORS:
        if kind in metadata.factors:
            return f"{kind}.weight"
    return metadata.key("scaling.type")


def _linear(metadata: GgufMetadata, factor: float) -> dict[str, Any]:
    if metadata.rope.get("scaling.attn_factor", 1.0) != 1.0:
        raise _refused(
            metadata, metadata.key("scaling.attn_factor"), "it has no counterpart beside linear"
        )
    return {"rope_type": "linear", "factor": factor}


def _yarn(metadata: GgufMetadata, factor: float) -> dict[str, Any]:
    rope = metadata.rope
    if rope.get("scaling.yarn_ext_factor", 1.0) != 1.0:
        raise _refused(
            metadata, metadata.key("scaling.yarn_ext_factor"), "transformers mixes in full or not"
        )
    own = rope.get("scaling.attn_factor", 1.0) * rope.get("scaling.yarn_attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _original_length(metadata),
        "attention_factor": own * (1.0 + 0.1 * math.log(factor)),
        "beta_fast": rope.get("scaling.yarn_beta_fast", 32.0),
        "beta_slow": rope.get("scaling.yarn_beta_slow", 1.0),
    }


def _longrope(metadata: GgufMetadata) -> dict[str, Any]:
    missing = {"rope_factors_long", "rope_factors_short"} - set(metadata.factors)
    if missing:
        raise _refused(
            metadata, metadata.key("scaling.type"), f"the file lacks {min(missing)}.weight"
        )
    scaling = {
        "rope_type": "longrope",
        "long_factor": metadata.factors["rope_factors_long"].tolist(),
        "short_factor": metadata.factors["rope_factors_short"].tolist(),
        "original_max_position_embeddings": _original_length(metadata),
    }
    attention_factor = metadata.rope.get("scaling.attn_factor")
    if attention_factor is not None:
        scaling["attention_factor"] = attention_factor
    return scaling


def _original_length(metadata: GgufMetadata) -> int:
    """The context that the model was first trained with; as in llama.cpp its own context if nothing else is said."""
    length = metadata.rope.get("scaling.original_context_length") or metadata.context_length
    if not length:
        key = metadata.key("scaling.original_context_length")
        raise _refused(metadata, key, "it is missing")
    return int(length)


def _llama3(metadata: GgufMetadata, dimensions: int | None) -> dict[str, Any]:
    """The scaling of Llama 3.1 whose divisors of each frequency the file holds.

    Divisors run from 1 to ``factor``; between, 1/divisor is linear in the number of turns that fit into the original
    context, which gives the two limits (`fitted`).
    """
    divisor_F = torch.from_numpy(metadata.factors["rope_freqs"]).reshape(-1)
    theta = metadata.rope.get("freq_base", 10000.0)
    num = len(divisor_F)
    if dimensions is not None and num != dimensions // 2:
        raise _refused(
            metadata, "rope_freqs.weight", f"it has {num} values for {dimensions} dimensions"
        )
    frequency_F = theta ** (-torch.arange(num, dtype=torch.float64) / num)
    factor = float(divisor_F.max())
    guesses: list[dict[str, Any]] = [{"factor": round(factor, 6), **LLAMA3_DEFAULTS}]
    guesses += fitted(divisor_F, frequency_F)
    for guess in guesses:
        off_F = (llama3_divisors(frequency_F, guess) / divisor_F - 1).abs()
        if float(off_F.max()) <= TOLERANCE:
            return {"rope_type": "llama3", **guess}
    raise _refused(
        metadata, "rope_freqs.weight", "its values are not those of the scaling of Llama 3.1"
    )


def llama3_divisors(frequency_F: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """By what Llama 3.1 divides each frequency (radians a token)."""
    turns_F = scaling["original_max_position_embeddings"] * frequency_F / (2 * math.pi)
    low = scaling["low_freq_factor"]
    high = scaling["high_freq_factor"]
    share_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - share_F) / scaling["factor"] + share_F)


def fitted(divisor_F: Tensor, frequency_F: Tensor) -> list[dict[str, Any]]:
    """The scaling, as a list of one, whose divisors pass through the first and last that lie between; else empty.

    Only the ratios of the two limits and the original context matter; it is given for a lower limit of 1.
    """
    factor = float(divisor_F.max())
    between = ((divisor_F > 1 + TOLERANCE) & (divisor_F < factor * (1 - TOLERANCE))).nonzero()
    if len(between) < 2:
        return []
    ends = torch.stack([between[0, 0], between[-1, 0]])
    share_2 = (1 / divisor_F[ends] - 1 / factor) / (1 - 1 / factor)
    slope = float((share_2[1] - share_2[0]) / (frequency_F[ends[1]] - frequency_F[ends[0]]))
    zero_at = float(frequency_F[ends[0]] - share_2[0] / slope)
    if slope <= 0 or zero_at <= 0:
        return []
    one_at = zero_at + 1 / slope
    length = round(2 * math.pi / zero_at)
    return [
        {
            "factor": factor,
            "low_freq_factor": length * zero_at / (2 * math.pi),
            "high_freq_factor": length * one_at / (2 * math.pi),
            "original_max_position_embeddings": length,
        }
    ]


def _num_rotated(config: Any) -> int | None:
    """How many dimensions of a head are rotated; None if the configuration does not tell in one number."""
    rope = getattr(config, "rope_parameters", None) or {}
    width = getattr(config, "head_dim", None)
    if width is None and getattr(config, "num_attention_heads", None):
        width = config.hidden_size // config.num_attention_heads
    share = rope.get("partial_rotary_factor", 1.0)
    return None if width is None else int(width * share)


def renew_rotary(model: PreTrainedModel, metadata: GgufMetadata) -> None:
    """Compute the frequencies of `model` again from its configuration, and refuse it if they do not follow the file."""
    rotary = [module for module in model.modules() if hasattr(module, "inv_freq")]
    for module in rotary:
        fresh: Any = type(module)(_config_of(module, model))
        for name, buffer in fresh.named_buffers(recurse=False):
            module._buffers[name] = buffer
        module.__dict__.update(_scalings(fresh))
    if not rotary and rotary_scaling(metadata):
        raise _refused(metadata, _key_of(metadata), "this architecture has no rotary scaling here")
    rotated = metadata.rope.get("dimension_count")
    counts = {2 * int(module.inv_freq.shape[0]) for module in rotary}  # type: ignore[union-attr,index]
    if rotated and counts and int(rotated) not in counts:
        raise RecipeError(
            f"model: {metadata.file} rotates {rotated} dimensions of each head "
            f"({metadata.key('dimension_count')}), but transformers rotates {max(counts)} of them; take the model "
            "as safetensors"
        )


def _config_of(module: nn.Module, model: PreTrainedModel) -> Any:
    return getattr(module, "config", None) or model.config.get_text_config()


def _scalings(rotary: nn.Module) -> dict[str, Any]:
    """The factors of a rotary embedding that are plain numbers."""
    return {
        name: value for name, value in vars(rotary).items() if name.endswith("attention_scaling")
    }


# ---- the tokenizer ----------------------------------------------------------------------------------------------


def stored_tokenizer(metadata: GgufMetadata) -> PreTrainedTokenizerBase | None:
    """The whole tokenizer that the file keeps, with its special tokens and chat template; None if it keeps none."""
    if metadata.tokenizer_json is None:
        return None
    backend = Tokenizer.from_str(metadata.tokenizer_json)
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    special = {
        names[name]: backend.id_to_token(number)
        for name, number in metadata.special_ids.items()
        if name in names
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = metadata.chat_template
    return tokenizer


# ---- how text is split ------------------------------------------------------------------------------------------

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_OR_PATH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_THREE_DIGITS = r"\p{N}{1,3}"
_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_HAN_AND_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
_ASCII_SIGN = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def _any(*patterns: str) -> str:
    return "|".join(patterns)


_LLAMA3 = (_any(_ENDINGS, _WORD, _THREE_DIGITS, _SIGNS, _SPACES),)
_QWEN2 = (_any(_ENDINGS, _WORD, _DIGIT, _SIGNS, _SPACES),)
_QWEN35 = (
    _any(
        _ENDINGS,
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        _DIGIT,
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        _SPACES,
    ),
)
_TEKKEN = (_any(*_CASED, _DIGIT, _SIGNS_OR_PATH, _SPACES),)
_GPT4O = (_any(*(f"{w}{_ENDINGS}?" for w in _CASED), _THREE_DIGITS, _SIGNS_OR_PATH, _SPACES),)
_DEEPSEEK3 = (
    _THREE_DIGITS,
    _HAN_AND_KANA,
    _any(
        rf"{_ASCII_SIGN}[A-Za-z]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        _SPACES,
    ),
)
_SEED_CODER = (_any(_ENDINGS, _WORD, _DIGIT, r" ?[^\s\p{L}\p{N}\r\n]+", _SPACES),)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")

SPLITS: dict[tuple[str, ...], tuple[str, ...]] = {
    (
        "gpt-2",
        "gpt2",
        "mpt",
        "olmo",
        "jais",
        "trillion",
        "granite-docling",
        "phi-2",
        "roberta-bpe",
    ): (_GPT2,),
    (
        "smollm",
        "starcoder",
        "refact",
        "command-r",
        "codeshell",
        "exaone",
        "minerva-7b",
        "mellum2",
    ): (_DIGIT, _GPT2),
    (
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "dbrx",
        "smaug-bpe",
        "glm4",
        "chatglm-bpe",
    ): _LLAMA3,
    (
        "qwen2",
        "deepseek-r1-qwen",
        "kormo",
        "megrez",
        "stablelm2",
        "hunyuan",
        "solar-open",
        "grok-2",
    ): _QWEN2,
    ("qwen35",): _QWEN35,
    ("tekken",): _TEKKEN,
    ("gpt-4o", "llama4", "kanana2", "minimax-m2"): _GPT4O,
    ("deepseek-v3", "hunyuan-dense"): _DEEPSEEK3,
    ("seed-coder",): _SEED_CODER,
    ("falcon",): _FALCON,
}
"""By the names of ``tokenizer.ggml.pre``: patterns by which a text is split, one after the other."""


def split_patterns(pre: str | None) -> tuple[str, ...] | None:
    """The patterns by which text is split under the name `pre`; None if it is not known."""
    return next((patterns for names, patterns in SPLITS.items() if pre in names), None)


def set_splitting(tokenizer: PreTrainedTokenizerBase, metadata: GgufMetadata) -> None:
    """Let a byte-level tokenizer split text as the file asks; warn where its way is not known."""
    if metadata.tokenizer != "gpt2":
        return
    patterns = split_patterns(metadata.pre)
    if patterns is None:
        named = f"as {metadata.pre}" if metadata.pre else "in a way that it does not name"
        warnings.warn(
            f"model: {metadata.file} splits text {named} (tokenizer.ggml.pre), which is not known here, so some "
            "texts become other tokens than those it was trained on; take the tokenizer as tokenizer.json",
            stacklevel=3,
        )
        return
    backend: Any = tokenizer
    backend.backend_tokenizer.pre_tokenizer = splitting(patterns)


def drop_strangers(tokenizer: PreTrainedTokenizerBase, metadata: GgufMetadata) -> None:
    """Take out of a tokenizer what reading it has added to the file's vocabulary: the model has no row for it."""
    if not 0 < metadata.num_tokens < len(tokenizer):
        return
    backend: Any = tokenizer
    state = json.loads(backend.backend_tokenizer.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["id"] < metadata.num_tokens
    ]
    backend._tokenizer = Tokenizer.from_str(json.dumps(state))


def splitting(patterns: Sequence[str]) -> pre_tokenizers.Sequence:
    """The pre-tokenizer that splits by each pattern in turn and spells bytes as letters."""
    steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*steps, spell])
