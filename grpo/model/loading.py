"""Where a model and its tokenizer come from: hub ids, folders, GGUF files, 4-bit bases.

Everything a user can get wrong about a model is refused here in a sentence. Adapters are up to ``adapters``, how the
model is then run is up to ``policy``.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import warnings
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Iterator, Mapping

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from grpo.model.adapters import stacked_weights as stacked_weights
from grpo.model.adapters import with_adapters as with_adapters
from grpo.model.gguf_metadata import (
    GgufMetadata,
    drop_strangers,
    read_metadata,
    renew_rotary,
    set_end_tokens,
    set_rotary_scaling,
    set_splitting,
    set_widths,
    stored_tokenizer,
)
from grpo.model.saved_adapter import check_adapter
from grpo.monitor.redaction import first_words as first_words
from grpo.recipe import ModelSection, RecipeError
from rewards.spelling import many

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
PLACEHOLDERS = ("image", "boi", "eoi", "audio", "boa", "eoa", "video", "vision")
"""First parts of the names of special tokens that stand for something else than text."""
_UNREACHABLE = (
    "couldn't connect",
    "connection error",
    "offline mode",
    "max retries",
    "failed to establish",
    "cannot reach",
    "timed out",
    "name resolution",
    "connection refused",
    "outgoing traffic",
    "couldn't reach",
    "offlinemode",
)

# ---- where it is ------------------------------------------------------------------------------------------------


def gguf_file(name: str) -> Path | None:
    """The GGUF file that `name` means: itself, or the only one of a folder without a config.json.

    Raises `RecipeError` if there is no such file, or several in the folder.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise RecipeError(f"recipe: model.name names {name}, but there is no such file")
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise RecipeError(
            f"recipe: model.name names the folder {name}, which holds {len(files)} GGUF files; name one "
            f"of {', '.join(file.name for file in files)}"
        )
    return files[0] if files else None


def _name_of(section: ModelSection) -> str:
    if section.name is None:
        raise RecipeError("recipe: model.name is missing; name a hub id or a folder")
    return section.name


def _source(section: ModelSection) -> tuple[str, dict[str, Any]]:
    """What transformers' ``from_pretrained`` is called with: the path or hub id, and keywords."""
    name = _name_of(section)
    file = gguf_file(name)
    if file is None:
        return name, {
            "trust_remote_code": section.trust_remote_code,
            "revision": section.revision,
        }
    if importlib.util.find_spec("gguf") is None:
        raise RecipeError(
            f"model: {file} is a GGUF file, and reading one needs the package gguf; pip install "
            "'grpo-reasoner[gguf]'"
        )
    return str(file.parent), {"gguf_file": file.name}


# ---- configuration and tokenizer --------------------------------------------------------------------------------


def load_config(section: ModelSection) -> PretrainedConfig:
    """The model's configuration, read before its weights; raises `RecipeError` if there is no such model."""
    name = _name_of(section)
    check_adapter(section)
    is_path = name.startswith((".", "/", "~"))
    if is_path and gguf_file(name) is None and not Path(name).expanduser().is_dir():
        raise RecipeError(f"recipe: model.name names {name}, but there is no such folder")
    path, options = _source(section)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, **options)
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; each is for the user to read
        otherwise = "is neither a folder with a config.json nor a model on the hub"
        raise RecipeError(refusal(name, error, otherwise)) from None
    file = gguf_file(name)
    if file is not None:
        metadata = read_metadata(file)
        set_widths(config, metadata)
        set_end_tokens(config, metadata)
        set_rotary_scaling(config, metadata)
    return config


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """The model's tokenizer; its end token also pads if it has no padding token. Raises `RecipeError`."""
    path, options = _source(section)
    file = gguf_file(_name_of(section))
    stored = None if file is None else stored_tokenizer(read_metadata(file))
    if stored is not None:
        return stored
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:  # noqa: BLE001  a damaged file can fail in any reader
        hint = "; save one into it with tokenizer.save_pretrained" if Path(path).is_dir() else ""
        otherwise = (
            f"has no tokenizer that can be loaded (tokenizer.json and tokenizer_config.json){hint}"
        )
        raise RecipeError(refusal(_name_of(section), error, otherwise)) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if file is not None:
        drop_strangers(tokenizer, read_metadata(file))
        set_splitting(tokenizer, read_metadata(file))
    return tokenizer


def load_end_ids(
    section: ModelSection,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | None = None,
) -> frozenset[int]:
    """The end tokens that the model itself declares: its generation configuration's and its tokenizer's."""
    declared = _generation_config(section) if model is None else model.generation_config
    found = getattr(declared, "eos_token_id", None)
    if found is None:
        found = getattr(config.get_text_config(), "eos_token_id", None)
    ids = [*(found if isinstance(found, (list, tuple)) else [found]), tokenizer.eos_token_id]
    return frozenset(int(token) for token in ids if token is not None)


def _generation_config(section: ModelSection) -> GenerationConfig | None:
    """The model's generation configuration; None where it has none."""
    path, options = _source(section)
    if "gguf_file" in options:
        return None
    try:
        return GenerationConfig.from_pretrained(path, revision=section.revision or "main")
    except OSError:
        return None


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Refuse a tokenizer with tokens that the model has no row for; placeholders of images and sounds may be such."""
    size = config.get_text_config().vocab_size
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


def is_unreachable(message: str) -> bool:
    """Whether a message of the hub's client says that it cannot be reached."""
    return any(phrase in message.lower() for phrase in _UNREACHABLE)


def refusal(name: str, error: BaseException, otherwise: str) -> str:
    """Why the model `name` cannot be loaded and what to do: gated, hub unreachable, ..., or `otherwise`."""
    message = " ".join(str(error).split()).lower()
    if "gated repo" in message or ("401" in message and "restricted" in message):
        return (
            f"model: {name} is gated: accept its terms on its page, then log in with `hf auth login`, or name a "
            "folder that holds it"
        )
    if not Path(name).exists() and is_unreachable(message):
        return (
            f"model: {name} is not a folder here, and the hub cannot be reached; check the connection, or name a "
            "folder that holds it"
        )
    if "trust_remote_code" in message:
        return (
            f"model: {name} comes with Python code of its own, which was not run; if you trust its source, set "
            "model.trust_remote_code: true"
        )
    if any(phrase in message for phrase in ("weights_only", "unpickling", "vulnerability")):
        return (
            f"model: {name} holds its weights as a pickle, which may run code when it is read, and was not fully "
            "read; convert it to safetensors, or take a source that has it as safetensors"
        )
    return f"model: {name} {otherwise}: {first_words(error)}"


# ---- weights ----------------------------------------------------------------------------------------------------


def load_model(section: ModelSection, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The model that `section` names, in its dtype; a 4-bit base is loaded onto `device` at once.

    Raises `RecipeError` if it cannot be loaded or lacks weights.
    """
    path, options = _source(section)
    is_gguf = "gguf_file" in options
    if is_gguf:
        options["config"] = load_config(section)
    if section.quantize:
        options |= {
            "quantization_config": _four_bits(section),
            "device_map": {"": torch.device(device)},
        }
    try:
        with _quietly(hide_progress=is_gguf):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=DTYPES[section.dtype],
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged file can fail in any reader
        raise RecipeError(refusal(_name_of(section), error, "cannot be loaded")) from None
    model, report = loaded
    check_report(_name_of(section), type(model).__name__, report)
    file = gguf_file(_name_of(section))
    return model if file is None else rebuilt(model, read_metadata(file))


@contextmanager
def _quietly(hide_progress: bool) -> Iterator[None]:
    """Keeps transformers' report of a load, which `check_report` turns into sentences, off the console."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        # the progress bar of a GGUF file ignores every setting
        with redirect_stderr(io.StringIO()) if hide_progress else nullcontext():
            yield
    finally:
        logging.set_verbosity(verbosity)


def check_report(name: str, kind: str, report: Mapping[str, Any]) -> None:
    """Refuse a model whose files lack weights or have other shapes than its configuration asks for."""
    missing = sorted(report["missing_keys"])
    unexpected = sorted(report["unexpected_keys"])
    for weight, shape, expected in sorted(report["mismatched_keys"]):
        raise RecipeError(
            f"model: {weight} has the shape {list(shape)} in {name}, but its config.json asks for "
            f"{list(expected)}"
        )
    if missing:
        raise RecipeError(
            f"model: {name} lacks {len(missing)} of the weights that its config.json asks for, such as "
            f"{missing[0]}; they would start as random numbers"
        )
    if unexpected:
        warnings.warn(
            f"model: {len(unexpected)} weights of {name} are not part of {kind} and are left out, such as "
            f"{unexpected[0]}",
            stacklevel=3,
        )


def rebuilt(model: PreTrainedModel, metadata: GgufMetadata) -> PreTrainedModel:
    """A model read from GGUF as one that can be saved: the same weights under a configuration without quantization.

    transformers keeps the file's quantization in the configuration although the weights are dequantized, and refuses
    to save them. Tied weights are tied again, and the rotary embedding is scaled as the file says.
    """
    config = copy.deepcopy(model.config)
    set_rotary_scaling(config, metadata)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    weights = model.state_dict()
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    buffers = dict(model.named_buffers())
    plain.load_state_dict(weights, assign=True)
    for name, buffer in buffers.items():  # a state dict lacks some, such as rotary frequencies
        module_name, _, buffer_name = name.rpartition(".")
        plain.get_submodule(module_name)._buffers[buffer_name] = buffer
    plain.tie_weights()
    plain.generation_config = model.generation_config
    renew_rotary(plain, metadata)
    return plain.eval()


def _four_bits(section: ModelSection) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "recipe: model.quantize needs the package bitsandbytes, which is not installed; pip install "
            "bitsandbytes, or remove model.quantize"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[section.dtype],
    )
