"""What a run was made of beside its recipe: data, model, rewards, processes, versions; and what a change of it means.

A checkpoint carries the fingerprint. A change of what the run learns from is refused at resume; a change that the
run can go on under, though not bit for bit, is said.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping

import torch
import transformers
from torch import Tensor, nn

import rewards
from grpo import __version__
from grpo.kernels.cpu import ops as native
from grpo.recipe import RecipeError
from grpo.types import Prompt

if TYPE_CHECKING:
    from grpo.train import Trainer

SAMPLED = 4096  # values of each frozen parameter that the fingerprint sees
REFUSED = {
    "train": "data: the prompts that train are not those that the run began with: {old}, now {new}",
    "held_out": "data: the held-out prompts are not those that the run began with: {old}, now {new}",
    "tokens": "data: the same rows become other tokens than when the run began; the tokenizer changed",
    "model": "model: the weights that do not train are not those that the run began with; its model's files changed",
    "teacher": "model: the weights of loss.teacher are not those that the run began with; its files changed",
}
NOTED = {
    "processes": "by {old} process(es), now {new}: sums over them round otherwise",
    "device": "on {old}, now on {new}",
    "grpo": "by grpo {old}, now {new}",
    "torch": "by torch {old}, now {new}",
    "transformers": "by transformers {old}, now {new}",
    "sampled": "with completions sampled {old}, now {new}",
    "rewards": "by rewards whose files have changed since ({new})",
}


def fingerprint(trainer: Trainer) -> dict[str, Any]:
    """The fingerprint of an opened run: plain values."""
    teacher = trainer.learner.teacher
    return {
        "train": rows(trainer.prompts.train),
        "held_out": rows(trainer.prompts.held_out),
        "tokens": digest(
            json.dumps(prompt.token_ids).encode()
            for part in (trainer.prompts.train, trainer.prompts.held_out)
            for prompt in part
        ),
        "model": frozen(trainer.policy.model),
        "teacher": None if teacher is None else frozen(teacher.model),
        "processes": trainer.ranks.world,
        "device": _device(trainer.policy.device),
        "grpo": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sampled": _sampled(trainer.policy.device),
        "rewards": {spec.name: found for spec in trainer.specs if (found := _source(spec.use))},
    }


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a reader should know of the differences; `RecipeError` for those under which the run cannot go on."""
    changed = [name for name in [*REFUSED, *NOTED] if old.get(name) != new.get(name)]
    refused = [
        REFUSED[name].format(**_counts(old.get(name), new.get(name)))
        for name in changed
        if name in REFUSED
    ]
    if refused:
        raise RecipeError(
            f"{refused[0]}; resume with what the run began with, or choose another run_dir"
        )
    if "rewards" in changed:
        names = [
            f"rewards.{name}"
            for name, value in new["rewards"].items()
            if old["rewards"].get(name) != value
        ]
        new = {**new, "rewards": ", ".join(names)}
    noted = [
        NOTED[name].format(old=old.get(name), new=new.get(name))
        for name in changed
        if name in NOTED
    ]
    return (
        [f"the checkpoint was made {'; '.join(noted)}; the run goes on, but not bit for bit"]
        if noted
        else []
    )


def _sampled(device: torch.device) -> str:
    if device.type != "cpu":
        return "by Triton's kernels"
    if native.reads_fast():
        return "by native kernels"
    return (
        "by torch's attention and the native sampler"
        if native.available()
        else "by torch's operations"
    )


def _counts(old: Any, new: Any) -> dict[str, str]:
    """How many rows a part had and has, in words."""
    numbers = [str(value).partition(" ")[0] for value in (old, new)]
    return {
        "old": f"{numbers[0]} rows",
        "new": f"{numbers[1]}" if len(set(numbers)) > 1 else "as many, but others",
    }


def rows(prompts: Iterable[Prompt]) -> str:
    """``"number digest"`` of the rows that prompts were made of, with their names and order."""
    prompts = list(prompts)
    texts = (
        json.dumps([prompt.id, prompt.text, prompt.truth], sort_keys=True, default=_plain)
        for prompt in prompts
    )
    return f"{len(prompts)} " + digest(text.encode() for text in texts)


def _plain(value: Any) -> str:
    """What JSON cannot hold, by its value where that is plain."""
    return repr(value) if type(value).__repr__ is not object.__repr__ else type(value).__name__


def frozen(model: nn.Module) -> str:
    """A digest of the parameters that do not train: their shapes, and `SAMPLED` values of each, evenly spread."""
    return digest(
        part
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
        for part in _seen(name, parameter.detach())
    )


def _seen(name: str, parameter: Tensor) -> Iterator[bytes]:
    yield f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode()
    values = parameter.reshape(-1)
    yield (
        values[:: max(1, len(values) // SAMPLED)]
        .contiguous()
        .cpu()
        .view(torch.uint8)
        .numpy()
        .tobytes()
    )


def digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:32]


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _source(use: Any) -> str | None:
    """A digest of the file in which a reward of the user's own stands; None for what this library brings."""
    try:
        function = rewards.load(use)
        file = inspect.getsourcefile(function)
        own = sys.modules[rewards.__name__].__file__
        if file is None or Path(file).resolve().is_relative_to(Path(own).resolve().parent):
            return None
        return digest([Path(file).read_bytes()])
    except (TypeError, OSError, ValueError):
        return None
