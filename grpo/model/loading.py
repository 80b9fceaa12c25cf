"""Where a model and its tokenizer come from: hub ids, folders, GGUF files; adapters and 4-bit bases.

Everything a user can get wrong about a model is refused here in a sentence. How the model is then run is up to
``policy``.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import warnings
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from grpo.model.saved_adapter import check_adapter
from grpo.monitor.redaction import redacted
from grpo.recipe import LoraSection, ModelSection, RecipeError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
MAX_MESSAGE_LENGTH = 300  # characters of an error that are shown
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
        return AutoConfig.from_pretrained(path, **options)
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; each is for the user to read
        otherwise = "is neither a folder with a config.json nor a model on the hub"
        raise RecipeError(refusal(name, error, otherwise)) from None


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """The model's tokenizer; its end token also pads if it has no padding token. Raises `RecipeError`."""
    path, options = _source(section)
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
    return tokenizer


def refusal(name: str, error: BaseException, otherwise: str) -> str:
    """Why the model `name` cannot be loaded and what to do: gated, hub unreachable, ..., or `otherwise`."""
    message = " ".join(str(error).split()).lower()
    if "gated repo" in message or ("401" in message and "restricted" in message):
        return (
            f"model: {name} is gated: accept its terms on its page, then log in with `hf auth login`, or name a "
            "folder that holds it"
        )
    if not Path(name).exists() and any(phrase in message for phrase in _UNREACHABLE):
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


def first_words(error: BaseException) -> str:
    """The beginning of an error's message, in one line, without secrets."""
    message = redacted(" ".join(str(error).split()))
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 3] + "..."
    return message or type(error).__name__


# ---- weights ----------------------------------------------------------------------------------------------------


def load_model(section: ModelSection, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The model that `section` names, in its dtype; a 4-bit base is loaded onto `device` at once.

    Raises `RecipeError` if it cannot be loaded or lacks weights.
    """
    path, options = _source(section)
    is_gguf = "gguf_file" in options
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
    return rebuilt(model) if is_gguf else model


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


def rebuilt(model: PreTrainedModel) -> PreTrainedModel:
    """A model read from GGUF as one that can be saved: the same weights under a configuration without quantization.

    transformers keeps the file's quantization in the configuration although the weights are dequantized, and refuses
    to save them. Tied weights are tied again.
    """
    config = copy.deepcopy(model.config)
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


# ---- adapters ---------------------------------------------------------------------------------------------------


def with_adapters(model: PreTrainedModel, lora: LoraSection) -> nn.Module:
    """`model` with fresh low-rank adapters; nothing else of it trains.

    Experts whose weights are stacked in one parameter get adapters too: by ``all-linear``, or by the parameter's name.
    The router stays as it is. Raises `RecipeError` if a target does not exist in the model.
    """
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  heavy, and only needed for adapters

    modules, parameters = _targets(model, lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number works; peft only divides by the rank
        target_modules=modules,
        target_parameters=parameters,
        lora_dropout=0.0,
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise RecipeError(
            f"model: lora.targets {lora.targets!r} does not fit this model: {first_words(error)}"
        ) from None


def _targets(
    model: PreTrainedModel, wanted: str | Sequence[str]
) -> tuple[str | list[str], list[str] | None]:
    """(modules, parameters) that get adapters."""
    stacked = stacked_weights(model)
    if wanted == "all-linear":
        return "all-linear", stacked or None
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    modules = [name for name in names if _names_one_of(name, linear)]
    parameters = [path for path in stacked if _is_named_by(path, names)]
    unknown = [name for name in names if name not in modules and not _names_one_of(name, stacked)]
    if unknown:
        known = dict.fromkeys(path.rpartition(".")[2] for path in (*linear, *stacked))
        raise RecipeError(
            f"model: lora.targets names {', '.join(map(str, unknown))}, which this model does not have; its "
            f"linear layers are {', '.join(known)}"
        )
    return modules, parameters or None


def _names_one_of(name: str, paths: Sequence[str]) -> bool:
    return any(_names(name, path) for path in paths)


def _is_named_by(path: str, names: Sequence[str]) -> bool:
    return any(_names(name, path) for name in names)


def _names(name: str, path: str) -> bool:
    """Whether `name` is a path or its last parts."""
    return path == name or path.endswith(f".{name}")


def stacked_weights(model: nn.Module) -> list[str]:
    """Names, within their layer, of parameters that hold the weights of all experts of a layer in one tensor."""
    names = [
        ".".join(path.split(".")[-3:])
        for path, p in model.named_parameters()
        if p.dim() == 3 and "expert" in path
    ]
    return list(dict.fromkeys(names))


def merged(adapted: Any, adapter: Path) -> PreTrainedModel:
    """A plain model with the adapters' changes merged into its weights; `adapted` stays as it is.

    ``adapted`` is a model of the package peft. A 4-bit base is dequantized first, so the result holds what the policy
    computed with, in its dtype.
    """
    if not getattr(adapted.get_base_model(), "is_quantized", False):
        return copy.deepcopy(adapted).merge_and_unload()
    from peft import PeftModel  # noqa: PLC0415  heavy, and only needed for adapters

    plain = copy.deepcopy(adapted).unload().dequantize()
    merged_model: Any = PeftModel.from_pretrained(plain, adapter).merge_and_unload()
    return merged_model
