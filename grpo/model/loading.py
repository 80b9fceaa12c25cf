"""A model's weights: read in the recipe's dtype, from folders, the hub or GGUF files, whole or as a 4-bit base.

Where they are is up to ``location``, what is read before them to ``info``, adapters to ``adapters``, and how the model
is then run to ``policy``.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import threading
import warnings
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any, Iterator, Mapping

import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from grpo.model.adapters import stacked_weights as stacked_weights
from grpo.model.adapters import with_adapters as with_adapters
from grpo.model.gguf_metadata import (
    GgufMetadata,
    read_metadata,
    renew_rotary,
    set_rotary_scaling,
)
from grpo.model.info import load_config
from grpo.model.location import locate, refusal
from grpo.monitor.redaction import first_words as first_words
from grpo.recipe import ModelSection, RecipeError

# transformers (5.23) switches the tying of weights off for the whole process while it loads: two loads at once would
# leave it off.
ONE_AT_A_TIME = threading.RLock()

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load_model(section: ModelSection, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The model that `section` names, in its dtype; a 4-bit base is loaded onto `device` at once.

    Raises `RecipeError` if it cannot be loaded or lacks weights.
    """
    files = locate(section)
    options = dict(files.options)
    if files.gguf is not None:
        options["config"] = load_config(section)
    if section.quantize:
        options |= {
            "quantization_config": _four_bits(section),
            "device_map": {"": torch.device(device)},
        }
    try:
        with ONE_AT_A_TIME, _quietly(hide_progress=files.gguf is not None):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.path,
                dtype=DTYPES[section.dtype],
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged file can fail in any reader
        raise RecipeError(refusal(files.name, error, "cannot be loaded")) from None
    model, report = loaded
    check_report(files.name, type(model).__name__, report)
    return model if files.gguf is None else rebuilt(model, read_metadata(files.gguf))


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
