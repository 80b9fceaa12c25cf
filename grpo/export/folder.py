"""A model as a folder of safetensors: whole, or with the weights of its linear layers as 8-bit integers.

The integers are in the form ``pack-quantized`` of the package compressed-tensors: one scale for each row of a weight,
activations as they are (W8A16). transformers reads it where that package is installed, and so does vLLM; without
either, `unpacked` makes a plain folder of it. What GGUF keeps is up to ``gguf_file``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Iterator, Mapping

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from grpo.model.policy import Policy
from grpo.model.saved import SavedModelDiffers, check_saved
from grpo.recipe import RecipeError
from grpo.run.folder import disk_errors

LARGEST = 127
PACKED = 4
"""Integers in one 32-bit word."""
QUANTIZATION: Mapping[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
        }
    },
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
}


def write_folder(policy: Policy, folder: Path) -> None:
    """Write `policy`, adapters merged, as `AutoModelForCausalLM.from_pretrained` reads it, and check that it is it.

    Raises `SavedModelDiffers`.
    """
    with disk_errors(folder):
        policy.save(folder)
    saved = check_saved(policy, folder)
    if saved.problems:
        raise SavedModelDiffers(saved.describe(folder))
    shutil.rmtree(folder / "adapter", ignore_errors=True)  # which is merged


def write_int8(policy: Policy, folder: Path) -> None:
    """Write `policy` with 8-bit linear layers; `RecipeError` for stacked experts, which the form has no place for."""
    model = policy.plain_model()
    head: Any = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    stacked = [name for name, p in model.named_parameters() if p.dim() == 3]
    if stacked:
        raise RecipeError(
            f"export: {stacked[0]} holds stacked experts, and int8 is written for linear layers alone; export with "
            "--to gguf or --to safetensors"
        )
    ignored = [name for name, module in model.named_modules() if module is head]
    with disk_errors(folder):
        _write_configuration(policy, folder, ignored)
        state = _packed_state(model.state_dict(), set(names), tied=model.config.tie_word_embeddings)
        save_torch_state_dict(dict(state), folder)


def _write_configuration(policy: Policy, folder: Path, ignored: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    policy.plain_model().config.save_pretrained(folder)
    policy.generation_config().save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["quantization_config"] = {**QUANTIZATION, "ignore": ignored}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _packed_state(
    state: Mapping[str, Tensor], names: set[str], *, tied: bool
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        module = name.removesuffix(".weight")
        if tied and name == "lm_head.weight":
            continue
        if module not in names or module == name:
            yield name, tensor.detach().clone()
            continue
        values, scale = quantized(tensor.detach())
        yield f"{module}.weight_packed", packed(values)
        yield f"{module}.weight_scale", scale
        yield f"{module}.weight_shape", torch.tensor(tensor.shape)


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values of a weight [N, K] and the scale [N, 1] of each row in the weight's dtype, to which it is rounded."""
    scale = (weight.float().abs().amax(dim=1, keepdim=True) / LARGEST).to(weight.dtype)
    divisor = torch.where(scale == 0, 1.0, scale.float())
    values = (weight.float() / divisor).round().clamp(-LARGEST - 1, LARGEST)
    return values.to(torch.int8), scale


def packed(values: Tensor) -> Tensor:
    """int8 values [N, K] as 32-bit words [N, ceil(K / 4)], each value 128 higher, the first in the lowest byte."""
    raised = (values.to(torch.int16) + 128).to(torch.uint8)
    whole = pad(raised, (0, -raised.shape[1] % PACKED))
    return whole.contiguous().view(torch.int32)


def unpacked_weight(words: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """The weight that `quantized` and `packed` came to, in the dtype of its scale."""
    rows, columns = shape.tolist()
    raised = words.contiguous().view(torch.uint8)[:rows, :columns]
    return (raised.to(torch.int16) - 128).to(scale.dtype) * scale


def unpacked(folder: Path, into: Path) -> Path:
    """A plain copy of an 8-bit folder, as any program reads it; returns its path."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors*"))
    file = into / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["quantization_config"]
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state: dict[str, Tensor] = {}
    for part in sorted(folder.glob("*.safetensors")):
        state |= load_file(part)
    plain = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            scale = state[f"{module}.weight_scale"]
            plain[f"{module}.weight"] = unpacked_weight(
                tensor, scale, state[f"{module}.weight_shape"]
            )
        elif kind not in ("weight_scale", "weight_shape"):
            plain[name] = tensor
    save_torch_state_dict(plain, into)
    return into
