"""What a run was made of apart from its recipe: data, model, rewards, processes, versions; and what a change means.

A checkpoint carries the fingerprint. At resume, a change of what the run learns from is refused; a change under which
the run can continue, though not bit for bit, is reported.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

import torch
import transformers
from torch import Tensor, nn

import rewards
from grpo import __version__
from grpo.data.prompts import PromptSet
from grpo.kernels.cpu import ops
from grpo.model.policy import Policy
from grpo.recipe import RecipeError
from grpo.types import Prompt
from rewards import RewardSpec
from rewards.environments import EnvironmentSpec
from rewards.own_modules import digest_of

FINGERPRINT_VALUES = 4096  # values of each frozen parameter that go into the fingerprint
REFUSED = {
    "train": "data: the prompts that train are not those that the run began with: {old}, now {new}",
    "held_out": "data: the held-out prompts are not those that the run began with: {old}, now {new}",
    "tokens": "data: the same rows become other tokens than when the run began; the tokenizer changed",
    "model": "model: the weights that do not train are not those that the run began with; its model's files changed",
    "samples": "reject.samples: the stored completions are not those that the run began with",
    "teacher": "model: the weights of the teacher are not those that the run began with; its files changed",
}
NOTED = {
    "processes": "by {old} process(es), now {new}: sums over them round differently",
    "device": "on {old}, now on {new}",
    "grpo": "by grpo {old}, now {new}",
    "torch": "by torch {old}, now {new}",
    "transformers": "by transformers {old}, now {new}",
    "sampled": "with completions sampled {old}, now {new}",
    "rewards": "by rewards whose files have changed since ({new})",
    "tools": "with tools whose files have changed since ({new})",
}


def fingerprint(
    prompts: PromptSet,
    specs: Sequence[RewardSpec],
    policy: Policy,
    teacher: Policy | None,
    num_processes: int,
    environment: EnvironmentSpec | None = None,
) -> dict[str, Any]:
    """The fingerprint of an open run: plain values. Tools and environments have an entry where they come from files."""
    sources = {spec.name: _source(spec.use) for spec in specs}
    learned_from = {
        "train": rows(prompts.train),
        "held_out": rows(prompts.held_out),
        "tokens": tokens([*prompts.train, *prompts.held_out]),
        "model": frozen(policy.model),
        "teacher": None if teacher is None else frozen(teacher.model),
    }
    return {
        **learned_from,
        "processes": num_processes,
        "device": _device(policy.device),
        **_versions(),
        "sampled": _sampled(policy.device),
        "rewards": {name: source for name, source in sources.items() if source},
        **files_of_tools(environment),
    }


def files_of_tools(environment: EnvironmentSpec | None) -> dict[str, Any]:
    """Digests of the files of a user's tools and environment; empty without any."""
    if environment is None:
        return {}
    used = [*environment.tools, *([] if environment.use is None else [environment.use])]
    sources = {_name(use): _source(use) for use in used}
    found = {name: source for name, source in sources.items() if source}
    return {"tools": found} if found else {}


def _name(use: Any) -> str:
    """The name of a function or class, as its recipe or itself says."""
    if isinstance(use, str):
        return use.rpartition(":")[2]
    return str(getattr(use, "__name__", type(use).__name__))


def _versions() -> dict[str, str]:
    return {
        "grpo": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def tokens(prompts: Iterable[Prompt]) -> str:
    """A digest of the tokens of `prompts`."""
    return digest(json.dumps(prompt.token_ids).encode() for prompt in prompts)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Notes on the differences; `RecipeError` for those under which the run cannot continue."""
    changed = [name for name in [*REFUSED, *NOTED] if old.get(name) != new.get(name)]
    for name in changed:
        if name in REFUSED:
            reason = REFUSED[name].format(**_counts(old.get(name), new.get(name)))
            raise RecipeError(
                f"{reason}; resume with what the run began with, or choose another run_dir"
            )
    if "tools" in changed and not (old.get("tools") and new.get("tools")):
        changed.remove(
            "tools"
        )  # saved by a version that did not look, or by tools that were named otherwise
    if "rewards" in changed:
        new = {**new, "rewards": _changed_rewards(old["rewards"], new["rewards"])}
    if "tools" in changed:
        new = {**new, "tools": ", ".join(_changed(old["tools"], new["tools"]))}
    notes = [NOTED[name].format(old=old.get(name), new=new.get(name)) for name in changed]
    if not notes:
        return []
    return [f"the checkpoint was made {'; '.join(notes)}; the run continues, but not bit for bit"]


def _changed_rewards(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    return ", ".join(f"rewards.{name}" for name in _changed(old, new))


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [name for name, source in new.items() if old.get(name) != source]


def _sampled(device: torch.device) -> str:
    if device.type != "cpu":
        return "by Triton's kernels"
    if ops.reads_fast():
        return "by native kernels"
    if ops.available():
        return "by torch's attention and the native sampler"
    return "by torch's operations"


def _counts(old: Any, new: Any) -> dict[str, str]:
    """How many rows a part had and has."""
    before, after = (str(value).partition(" ")[0] for value in (old, new))
    return {
        "old": f"{before} rows",
        "new": after if before != after else "as many, but others",
    }


def rows(prompts: Iterable[Prompt]) -> str:
    """``"number digest"`` of the rows behind `prompts`, with their ids and order."""
    prompts = list(prompts)
    texts = (
        json.dumps([prompt.id, prompt.text, prompt.truth], sort_keys=True, default=_plain)
        for prompt in prompts
    )
    return f"{len(prompts)} " + digest(text.encode() for text in texts)


def prompts(prompt_set: PromptSet) -> str:
    """One digest of all prompts: their rows, ids, order and tokens."""
    everything = [*prompt_set.train, *prompt_set.held_out]
    return f"{rows(prompt_set.train)} {rows(prompt_set.held_out)} {tokens(everything)}"


def _plain(value: Any) -> str:
    """What JSON cannot hold, by its value where that is plain."""
    if isinstance(value, (set, frozenset)):
        return repr(sorted(map(repr, value)))  # their own order is another in every process
    return repr(value) if type(value).__repr__ is not object.__repr__ else type(value).__name__


def frozen(model: nn.Module) -> str:
    """A digest of the parameters that do not train: their shapes, and `FINGERPRINT_VALUES` values of each."""
    return digest(_frozen_parts(model))


def _frozen_parts(model: nn.Module) -> Iterator[bytes]:
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            yield from _seen(name, parameter.detach())


def _seen(name: str, parameter: Tensor) -> Iterator[bytes]:
    yield f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode()
    values = parameter.reshape(-1)
    stride = max(1, len(values) // FINGERPRINT_VALUES)
    chosen = values[::stride].contiguous().cpu()
    yield chosen.view(torch.uint8).numpy().tobytes()


def digest(parts: Iterable[bytes]) -> str:
    """The start of a SHA-256 over `parts` and their lengths."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "little") + part)
    return sha256.hexdigest()[:32]


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _source(use: Any) -> str | None:
    """A digest of the file of a user's reward and of what it imports; None for what this library ships."""
    try:
        function = rewards.load(use)
        file = inspect.getsourcefile(function)
        package = Path(str(sys.modules[rewards.__name__].__file__)).resolve().parent
        if file is None or Path(file).resolve().is_relative_to(package):
            return None
        return digest_of(Path(file), getattr(function, "__module__", None) or "")
    except (TypeError, OSError, ValueError):
        return None
