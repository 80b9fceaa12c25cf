"""What is known of a model before its weights load: how it reads text, what ends a completion, its longest sequence.

Where its files are is up to ``location``, its weights to ``loading``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from grpo.model.gguf_metadata import (
    drop_strangers,
    read_metadata,
    set_end_tokens,
    set_rotary_scaling,
    set_splitting,
    set_widths,
    stored_tokenizer,
)
from grpo.model.location import Location, locate, refusal
from grpo.model.saved_adapter import check_adapter
from grpo.recipe import ModelSection, RecipeError
from rewards.spelling import many

PLACEHOLDERS = ("image", "boi", "eoi", "audio", "boa", "eoa", "video", "vision")
"""First parts of the names of special tokens that stand for something else than text."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelInfo:
    """A model's configuration and tokenizer, and the tokens that by its own word end a completion.

    ``tools`` are what its chat template is to tell it of, each as the schema of a function.
    """

    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int] = frozenset()
    tools: Sequence[Mapping[str, Any]] = ()

    @property
    def context(self) -> int | None:
        """The longest sequence in tokens; None if the model sets no limit."""
        return longest_sequence(self.config.get_text_config())

    @property
    def num_embeddings(self) -> int:
        """How many tokens the model has embeddings for."""
        return num_embeddings(self.config)


def load_info(
    section: ModelSection,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> ModelInfo:
    """What is known of the model that `section` names; a `model` or `tokenizer` in hand is asked instead of its files.

    Raises `RecipeError` if they cannot be read, or the tokenizer has tokens that the model has no embedding for.
    """
    generation: GenerationConfig | None
    if model is not None:
        config = model.config
        generation = model.generation_config
    else:
        config = load_config(section)
        generation = _load_generation(locate(section))
    if tokenizer is None:
        tokenizer = load_tokenizer(section)
    check_vocabulary(tokenizer, config)
    return ModelInfo(config, tokenizer, end_ids_of(config, tokenizer, generation))


# ---- from its files ---------------------------------------------------------------------------------------------


def load_config(section: ModelSection) -> PretrainedConfig:
    """The model's configuration, read before its weights; raises `RecipeError` if there is no such model."""
    files = locate(section)
    check_adapter(section)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(files.path, **files.options)
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; each is for the user to read
        otherwise = "is neither a folder with a config.json nor a model on the hub"
        raise RecipeError(refusal(files.name, error, otherwise)) from None
    if files.gguf is not None:
        metadata = read_metadata(files.gguf)
        set_widths(config, metadata)
        set_end_tokens(config, metadata)
        set_rotary_scaling(config, metadata)
    return config


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """The model's tokenizer; its end token also pads if it has no padding token. Raises `RecipeError`."""
    files = locate(section)
    stored = None if files.gguf is None else stored_tokenizer(read_metadata(files.gguf))
    if stored is not None:
        return stored
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.path, **files.options)
    except Exception as error:  # noqa: BLE001  a damaged file can fail in any reader
        is_folder = Path(files.path).is_dir()
        hint = "; save one into it with tokenizer.save_pretrained" if is_folder else ""
        otherwise = (
            f"has no tokenizer that can be loaded (tokenizer.json and tokenizer_config.json){hint}"
        )
        raise RecipeError(refusal(files.name, error, otherwise)) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if files.gguf is not None:
        drop_strangers(tokenizer, read_metadata(files.gguf))
        set_splitting(tokenizer, read_metadata(files.gguf))
    return tokenizer


def _load_generation(files: Location) -> GenerationConfig | None:
    """The model's generation configuration; None where it has none."""
    if files.gguf is not None:
        return None
    try:
        revision = files.options["revision"] or "main"
        return GenerationConfig.from_pretrained(files.path, revision=revision)
    except OSError:
        return None


# ---- what they say ----------------------------------------------------------------------------------------------


def end_ids_of(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig | None,
) -> frozenset[int]:
    """The end tokens that the model itself declares: its generation configuration's and its tokenizer's."""
    found = getattr(generation, "eos_token_id", None)
    if found is None:
        found = getattr(config.get_text_config(), "eos_token_id", None)
    ids = [*(found if isinstance(found, (list, tuple)) else [found]), tokenizer.eos_token_id]
    return frozenset(int(token) for token in ids if token is not None)


def longest_sequence(config: Any) -> int | None:
    """How many tokens a sequence may have; None if the configuration sets no limit.

    Rotary embeddings of type dynamic and longrope change for a whole batch once one row is longer than the original
    context, so the limit is that context: beyond it a row's log-probs would depend on its neighbours.
    """
    context: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *rope.values()):
        if isinstance(part, Mapping) and part.get("rope_type") in ("dynamic", "longrope"):
            limits = (context, part.get("original_max_position_embeddings"))
            context = min((limit for limit in limits if limit), default=None)
    return context


def num_embeddings(config: PretrainedConfig) -> int:
    """How many tokens a model of this configuration has embeddings for."""
    number: int = config.get_text_config().vocab_size
    return number


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Refuse a tokenizer with tokens that the model has no row for; placeholders of images and sounds may be such."""
    size = num_embeddings(config)
    placeholders = {
        token
        for name, token in tokenizer.special_tokens_map.items()
        if name.partition("_")[0] in PLACEHOLDERS
    }
    beyond = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if number >= size and token not in placeholders
    )
    if beyond:
        number, token = beyond[0]
        raise RecipeError(
            f"model: its tokenizer has {many(len(beyond), 'token')} that the model has no embedding for, "
            f"such as {token!r} "
            f"({number}), since the model's vocabulary has {size}; use the tokenizer that came with the model, or "
            "enlarge the model with resize_token_embeddings and save both"
        )
