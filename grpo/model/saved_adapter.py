"""A LoRA adapter that exists: read from a folder of peft's, checked, put into its model to be trained further.

Fresh adapters are made in ``loading``. What this library cannot train beside low-rank matrices is refused here.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from grpo.recipe import ModelSection, RecipeError

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG_FILE = "adapter_config.json"


def check_adapter(section: ModelSection) -> None:
    """Refuse an adapter folder that is none, and one in the place of the model; `RecipeError`."""
    name = Path(section.name or "").expanduser()
    if (name / CONFIG_FILE).is_file() and not (name / "config.json").is_file():
        base = _config_of(str(name)).base_model_name_or_path or "its base model"
        raise RecipeError(
            f"recipe: model.name names {section.name}, which is an adapter; set model.adapter to it and "
            f"model.name to {base}"
        )
    if section.adapter is None:
        return
    folder = Path(section.adapter).expanduser()
    if folder.is_absolute() and not (folder / CONFIG_FILE).is_file():
        raise RecipeError(
            f"recipe: model.adapter names {section.adapter}, but there is no {CONFIG_FILE} in it"
        )
    _config_of(section.adapter)


def load_adapter(model: PreTrainedModel, adapter: str) -> nn.Module:
    """`model` with the adapter of a folder (or of the hub) in it, which trains; its dropout is off.

    Raises `RecipeError` if the adapter is of a kind that cannot be trained here or does not fit the model.
    """
    from peft import PeftModel  # noqa: PLC0415  heavy, and only needed for adapters

    config = _config_of(adapter)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, adapter, is_trainable=True, config=config)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise RecipeError(
            f"model: the adapter {adapter} does not fit the model: {_first_words(error)}"
        ) from None
    for warning in caught:
        if "missing adapter keys" in str(warning.message):
            raise RecipeError(
                f"model: the adapter {adapter} lacks weights for the modules that its {CONFIG_FILE} "
                f"names: {_first_words(warning.message)}"
            )
    return adapted


def without_weights(model: PreTrainedModel, adapter: str) -> nn.Module:
    """`model` with matrices of the adapter's shapes, to predict memory."""
    from peft import get_peft_model  # noqa: PLC0415  heavy, and only needed for adapters

    return get_peft_model(model, _config_of(adapter))


def _config_of(adapter: str) -> LoraConfig:
    """The adapter's configuration; `RecipeError` if it cannot be read or holds what cannot be trained here."""
    from peft import LoraConfig, PeftConfig  # noqa: PLC0415  heavy, and only needed for adapters

    try:
        config = PeftConfig.from_pretrained(adapter)
    except Exception as error:  # noqa: BLE001  a damaged file can fail in any reader, the hub client in many ways
        raise RecipeError(
            f"recipe: model.adapter names {adapter}, whose {CONFIG_FILE} cannot be read: {_first_words(error)}"
        ) from None
    if not isinstance(config, LoraConfig):
        raise RecipeError(
            f"recipe: model.adapter names {adapter}, an adapter of the kind {_kind(config)}; only LoRA can be "
            "trained here"
        )
    for what, is_there in _untrainable(config).items():
        if is_there:
            raise RecipeError(
                f"recipe: model.adapter names {adapter}, which has {what}; only low-rank matrices are trained "
                "here: merge it into its base (peft's merge_and_unload) and name that as model.name"
            )
    config.lora_dropout = 0.0
    config.inference_mode = False  # as it was saved, nothing of it would train
    return config


def _untrainable(config: LoraConfig) -> dict[str, Any]:
    return {
        "whole copies of modules (modules_to_save)": config.modules_to_save,
        "trained biases": config.bias != "none",
        "trained rows of the embedding": getattr(config, "trainable_token_indices", None),
        "replicated layers": getattr(config, "layer_replication", None),
    }


def _kind(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def _first_words(error: object) -> str:
    return " ".join(str(error).split())[:300]
