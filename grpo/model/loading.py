"""Where a model and its tokenizer come from: hub ids, folders, GGUF files; adapters and 4-bit bases.

Everything a user can get wrong about a model is refused here in a sentence. How the model is then run is
the matter of ``policy``.
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

from grpo.monitor.redaction import redacted
from grpo.recipe import LoraSection, ModelSection, RecipeError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
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


# ---- where it is ----------------------------------------------------------------------------------------------


def gguf_file(name: str) -> Path | None:
    """The GGUF file that `name` means: itself, or the only one of a folder without a config.json."""
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


def _source(section: ModelSection) -> tuple[str, dict[str, Any]]:
    """What transformers' ``from_pretrained`` is called with: the place, and keywords."""
    file = gguf_file(section.name)
    if file is not None:
        if importlib.util.find_spec("gguf") is None:
            raise RecipeError(
                f"model: {file} is a GGUF file, and reading one needs the package gguf; pip install "
                "'grpo-reasoner[gguf]'"
            )
        return str(file.parent), {"gguf_file": file.name}
    return section.name, {
        "trust_remote_code": section.trust_remote_code,
        "revision": section.revision,
    }


# ---- configuration and tokenizer --------------------------------------------------------------------------------


def load_config(section: ModelSection) -> PretrainedConfig:
    """The model's configuration, read before its weights; a model that cannot be found is refused."""
    if section.name.startswith((".", "/", "~")) and gguf_file(section.name) is None:
        if not Path(section.name).expanduser().is_dir():
            raise RecipeError(
                f"recipe: model.name names {section.name}, but there is no such folder"
            )
    place, options = _source(section)
    try:
        return AutoConfig.from_pretrained(place, **options)
    except Exception as error:  # the hub client raises many kinds; each is the reader's to know
        raise RecipeError(
            refusal(
                section.name,
                error,
                "is neither a folder with a config.json nor a model that the hub gives",
            )
        ) from None


def load_tokenizer(section: ModelSection) -> PreTrainedTokenizerBase:
    """The model's tokenizer; where it has no padding token, its end token serves."""
    place, options = _source(section)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:  # a damaged file can fail in any reader
        hint = "; save one into it with tokenizer.save_pretrained" if Path(place).is_dir() else ""
        raise RecipeError(
            refusal(
                section.name,
                error,
                "has no tokenizer that can be loaded (tokenizer.json and "
                f"tokenizer_config.json){hint}",
            )
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def refusal(name: str, error: BaseException, otherwise: str) -> str:
    """Why the model `name` cannot be loaded and what would do: a gate, no way to the hub, or `otherwise`."""
    said = " ".join(str(error).split()).lower()
    if "gated repo" in said or "401" in said and "restricted" in said:
        return (
            f"model: {name} is gated: accept its terms on its page, then log in with `hf auth login`, or name a "
            "folder that holds it"
        )
    if not Path(name).exists() and any(words in said for words in _UNREACHABLE):
        return (
            f"model: {name} is no folder here, and the hub cannot be reached; check the connection, or name a "
            "folder that holds it"
        )
    if "trust_remote_code" in said:
        return (
            f"model: {name} comes with Python code of its own, which was not run; if you trust its source, set "
            "model.trust_remote_code: true"
        )
    if "weights_only" in said or "unpickling" in said or "vulnerability" in said:
        return (
            f"model: {name} holds its weights as a pickle, which may run code when it is read, and was not read in "
            "full; convert it to safetensors, or take a source that has it as safetensors"
        )
    return f"model: {name} {otherwise}: {first_words(error)}"


def first_words(error: BaseException) -> str:
    """The beginning of what an error says, in one line."""
    words = redacted(" ".join(str(error).split()))
    return (words if len(words) <= 300 else words[:297] + "...") or type(error).__name__


# ---- weights ----------------------------------------------------------------------------------------------------


def load_model(section: ModelSection, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The model that `section` names, in its dtype; 4-bit bases are placed on `device` at once."""
    place, options = _source(section)
    if section.quantize:
        options |= {
            "quantization_config": _four_bits(section),
            "device_map": {"": torch.device(device)},
        }
    try:
        with _in_silence("gguf_file" in options):
            model, report = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=DTYPES[section.dtype],
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file can fail in any reader
        raise RecipeError(refusal(section.name, error, "cannot be loaded")) from None
    check_report(section.name, type(model).__name__, report)
    return rebuilt(model) if "gguf_file" in options else model


@contextmanager
def _in_silence(bars_too: bool) -> Iterator[None]:
    """Keeps transformers' report of a load, which `check_report` puts in words, off the console."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with (
            redirect_stderr(io.StringIO()) if bars_too else nullcontext()
        ):  # GGUF's bar heeds no setting
            yield
    finally:
        logging.set_verbosity(verbosity)


def check_report(name: str, kind: str, report: Mapping[str, Any]) -> None:
    """Refuse a model whose files lack weights, or hold others than its configuration asks for."""
    missing, left = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    for weight, found, asked in sorted(report["mismatched_keys"]):
        raise RecipeError(
            f"model: {weight} has the shape {list(found)} in {name}, but its config.json asks for "
            f"{list(asked)}"
        )
    if missing:
        raise RecipeError(
            f"model: {name} lacks {len(missing)} of the weights that its config.json asks for, "
            f"{missing[0]} among them; they would start as random numbers"
        )
    if left:
        warnings.warn(
            f"model: {len(left)} weights of {name} have no place in {kind} and are left out, {left[0]} "
            "among them",
            stacklevel=3,
        )


def rebuilt(model: PreTrainedModel) -> PreTrainedModel:
    """A model read from GGUF as one that can be saved: the same weights under a configuration that says plain.

    transformers keeps the file's quantisation in the configuration although the weights are de-quantised, and
    refuses to save them. Tied weights are tied again.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    weights = model.state_dict()
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    buffers = {name: buffer for name, buffer in model.named_buffers()}
    plain.load_state_dict(weights, assign=True)
    for name, buffer in buffers.items():  # those that no state dict holds, as rotary frequencies
        owner, _, last = name.rpartition(".")
        plain.get_submodule(owner)._buffers[last] = buffer
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain.eval()


def _four_bits(section: ModelSection) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "recipe: model.quantize needs the package bitsandbytes, which is not installed; pip install "
            "bitsandbytes, or take model.quantize out"
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

    Experts whose weights are stacked in one parameter are reached too: by ``all-linear``, or by the parameter's
    name. The router stays as it is.
    """
    from peft import LoraConfig, get_peft_model

    modules, parameters = _targets(model, lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=modules,
        target_parameters=parameters,
        lora_dropout=0.0,
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
    """(modules, parameters) that adapters go to; a name that fits nothing in the model is refused."""
    stacked = stacked_weights(model)
    if wanted == "all-linear":
        return "all-linear", stacked or None
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    of_parameters = [path for path in stacked if any(_ends(path, name) for name in names)]
    of_modules = [name for name in names if any(_ends(path, name) for path in modules)]
    lost = [
        name
        for name in names
        if name not in of_modules and not any(_ends(path, name) for path in stacked)
    ]
    if lost:
        known = dict.fromkeys(path.rpartition(".")[2] for path in (*modules, *stacked))
        raise RecipeError(
            f"model: lora.targets names {', '.join(map(str, lost))}, which this model does not have; its "
            f"linear layers are {', '.join(known)}"
        )
    return of_modules, of_parameters or None


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def stacked_weights(model: nn.Module) -> list[str]:
    """Names, below their layer, of parameters that hold the weights of all experts of a layer in one."""
    found = {}
    for path, p in model.named_parameters():
        if p.dim() == 3 and "expert" in path:
            found[".".join(path.split(".")[-3:])] = None
    return list(found)


def merged(adapted: nn.Module, adapter: Path) -> PreTrainedModel:
    """A plain model with the adapters' changes in its weights; `adapted` stays as it is.

    A 4-bit base is de-quantised first, so the result holds what the policy computed with, at its dtype.
    """
    if not getattr(adapted.get_base_model(), "is_quantized", False):
        return copy.deepcopy(adapted).merge_and_unload()
    from peft import PeftModel

    plain = copy.deepcopy(adapted).unload().dequantize()
    return PeftModel.from_pretrained(plain, adapter).merge_and_unload()
