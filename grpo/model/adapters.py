"""Low-rank adapters: which layers get them, how they are put in, and how they become part of the weights.

Which layers is decided here, by listing the model's own, and verified after the package peft has put the adapters in:
left to itself it adapts the routers of mixtures of experts and leaves out their dense layers.
"""

from __future__ import annotations

import copy
import json
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from grpo.model.routing import is_router_name
from grpo.monitor.redaction import first_words
from grpo.recipe import LoraSection, RecipeError

STACKED_NAMES = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("w2",),),
}
"""Weights of all experts that are one tensor here, and under which names other versions of a model keep their parts."""
REWRITTEN_BY_PEFT = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Names of layers that peft takes for those of experts when it reads an adapter of a mixture of experts."""


def with_adapters(model: PreTrainedModel, lora: LoraSection) -> nn.Module:
    """`model` with fresh low-rank adapters; nothing else of it trains.

    ``all-linear`` is every linear layer but the output layer and the routers of experts, and the experts whose weights
    are stacked in one parameter, all at one rank. An output layer that gets an adapter is no longer tied to the input
    embedding. Raises `RecipeError` if a target does not exist in the model.
    """
    from peft import LoraConfig  # noqa: PLC0415  heavy, and only needed for adapters

    modules, parameters = targets_of(model, lora.targets)
    untie(model, modules)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number works; peft only divides by the rank
        target_modules=list(modules),
        target_parameters=list(parameters) or None,
        lora_dropout=0.0,
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = _inject(model, config)
    except ValueError as error:
        raise RecipeError(
            f"model: lora.targets {lora.targets!r} does not fit this model: {first_words(error)}"
        ) from None
    _check(adapted, {*modules, *parameters}, lora.rank)
    return adapted


def _inject(model: PreTrainedModel, config: Any) -> Any:
    from peft import get_peft_model  # noqa: PLC0415

    with peft_kept_to_its_targets(), peft_silenced():
        return get_peft_model(model, config)


@contextmanager
def peft_kept_to_its_targets() -> Iterator[None]:
    """Inside the block peft adapts what it is told to; else it rewrites the targets for mixtures of experts."""
    from peft.utils import transformers_weight_conversion as conversion  # noqa: PLC0415

    name = "convert_peft_config_for_transformers"
    rewrite = getattr(conversion, name, None)
    setattr(conversion, name, lambda *arguments, **keywords: None)
    try:
        yield
    finally:
        setattr(conversion, name, rewrite)


@contextmanager
def peft_silenced() -> Iterator[None]:
    """Inside the block peft's warnings are dropped: they are about choices that this module makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check(adapted: Any, wanted: set[str], rank: int) -> None:
    """Refuse a model in which other layers got adapters than those `wanted`, or some at another rank."""
    ranks = adapter_ranks(adapted)
    wrong = sorted(wanted ^ set(ranks)) + sorted(path for path in ranks if ranks[path] != rank)
    if wrong:
        import peft  # noqa: PLC0415

        raise RecipeError(
            f"model: peft {peft.__version__} does not put adapters of rank {rank} where lora.targets asks for them "
            f"in {type(adapted.get_base_model()).__name__}, such as {wrong[0]}; install a version that setup.cfg names"
        )


def adapter_ranks(adapted: Any) -> dict[str, int]:
    """The rank of each adapter, by the name of the layer or parameter that it changes."""
    ranks = {}
    for name, module in adapted.get_base_model().named_modules():
        if not getattr(module, "lora_A", None):
            continue
        path = name.replace(".base_layer", "")
        parameter = getattr(module, "parameter_name", None)
        ranks[f"{path}.{parameter}" if parameter else path] = module.r[adapted.active_adapter]
    return ranks


# ---- which layers -----------------------------------------------------------------------------------------------


def targets_of(
    model: PreTrainedModel, wanted: str | Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """(linear layers, stacked weights of experts) that get adapters, by their full names."""
    linear = linear_layers(model)
    stacked = stacked_parameters(model)
    if wanted == "all-linear":
        left_alone = {*routers(model), *_output_layer(model)}
        return [path for path in linear if path not in left_alone], stacked
    names = [wanted] if isinstance(wanted, str) else list(map(str, wanted))
    names += _stacked_names(names, stacked)
    unknown = [name for name in names if not _is_known(name, [*linear, *stacked])]
    unknown = [name for name in unknown if not _is_part_of_one(name, names)]
    if unknown:
        known = dict.fromkeys(path.rpartition(".")[2] for path in (*linear, *stacked))
        raise RecipeError(
            f"model: lora.targets names {', '.join(unknown)}, which this model does not have; its "
            f"linear layers are {', '.join(known)}"
        )
    return _named_by(names, linear), _named_by(names, stacked)


def _is_known(name: str, paths: Sequence[str]) -> bool:
    return any(_names(name, path) for path in paths)


def _named_by(names: Sequence[str], paths: Sequence[str]) -> list[str]:
    return [path for path in paths if _is_named(path, names)]


def _is_named(path: str, names: Sequence[str]) -> bool:
    return any(_names(name, path) for name in names)


def _names(name: str, path: str) -> bool:
    """Whether `name` is a path or its last parts."""
    return path == name or path.endswith(f".{name}")


def _stacked_names(names: Sequence[str], stacked: Sequence[str]) -> list[str]:
    """The stacked weights whose parts are named; a part alone is refused, since it cannot be adapted alone."""
    found = []
    leaves = {path.rpartition(".")[2] for path in stacked}
    for leaf in leaves & set(STACKED_NAMES):
        for parts in STACKED_NAMES[leaf]:
            named = set(parts) & set(names)
            if named == set(parts):
                found.append(leaf)
            elif named and leaf not in names:
                raise RecipeError(
                    f"model: lora.targets names {min(named)}, but the experts of this model hold "
                    f"{' and '.join(parts)} in one tensor; name both, or {leaf}"
                )
    return found


def _is_part_of_one(name: str, names: Sequence[str]) -> bool:
    """Whether `name` is a part of a stacked weight that is named."""
    parts = [part for leaf in names for kind in STACKED_NAMES.get(leaf, ()) for part in kind]
    return name in parts


def linear_layers(model: nn.Module) -> list[str]:
    """The names of all linear layers."""
    return [
        name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    ]


def _output_layer(model: PreTrainedModel) -> list[str]:
    output = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if module is output]


def stacked_parameters(model: nn.Module) -> list[str]:
    """The names of parameters that hold the weights of all experts of a layer in one tensor."""
    found = []
    for module_name, module in model.named_modules():
        of_experts = "expert" in f"{module_name} {type(module).__name__}".lower()
        for name, p in module.named_parameters(recurse=False):
            if of_experts and p.dim() == 3:
                found.append(f"{module_name}.{name}")
    return found


def stacked_weights(model: nn.Module) -> list[str]:
    """The last three parts of the names of `stacked_parameters`, each once."""
    names = [".".join(path.split(".")[-3:]) for path in stacked_parameters(model)]
    return list(dict.fromkeys(names))


def routers(model: nn.Module) -> list[str]:
    """The names of linear layers that choose experts: called gate or router, in a block that has experts."""
    found = []
    modules = dict(model.named_modules())
    for path in linear_layers(model):
        parts = path.split(".")
        at = next((i for i, part in enumerate(parts) if is_router_name(part)), None)
        if at is not None and _has_experts(modules[".".join(parts[:at])]):
            found.append(path)
    return found


def _has_experts(block: nn.Module) -> bool:
    return any(
        "expert" in f"{name} {type(module).__name__}".lower()
        for name, module in block.named_modules()
        if name
    )


# ---- tied embeddings --------------------------------------------------------------------------------------------


def untie(model: PreTrainedModel, modules: Sequence[str]) -> None:
    """Give the output layer weights of its own if it is one of `modules`: an adapter must not change the embedding."""
    embedding: Any = model.get_input_embeddings()
    for name in set(modules) & set(_output_layer(model)):
        output: Any = model.get_submodule(name)
        if output.weight is embedding.weight:
            output.weight = nn.Parameter(output.weight.detach().clone())
            forget_tie(model)


def forget_tie(model: PreTrainedModel) -> None:
    """Let the configuration say that input and output embeddings are two."""
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}


def tell_tie(model: PreTrainedModel) -> None:
    """Correct a configuration that says tied of embeddings that are two: loading would drop one of them."""
    output: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if output is None or not model.config.get_text_config().tie_word_embeddings:
        return
    if output.weight.data_ptr() != embedding.weight.data_ptr():
        forget_tie(model)


# ---- as part of the weights -------------------------------------------------------------------------------------


def save_adapters(adapted: Any, folder: Path) -> None:
    """Write the adapters alone into `folder`, so that peft puts them where they are."""
    with peft_silenced():
        adapted.save_pretrained(folder, save_embedding_layers=False)
    if not stacked_parameters(adapted):
        return
    file = folder / "adapter_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    rewritten = [
        path for path in written["target_modules"] if path.rpartition(".")[2] in REWRITTEN_BY_PEFT
    ]
    kept = set(written["target_modules"]) - set(rewritten)
    weights = [f"{path}.weight" for path in rewritten]
    written["target_modules"] = sorted(kept)
    written["target_parameters"] = sorted([*written["target_parameters"], *weights])
    file.write_text(json.dumps(written, indent=2), encoding="utf-8")


@torch.no_grad()
def merged(adapted: Any) -> PreTrainedModel:
    """A plain model with the adapters' changes merged into its weights; `adapted` stays as it is.

    ``adapted`` is a model of the package peft. A 4-bit base is dequantized first, so the result holds what the policy
    computed with, in its dtype.
    """
    with peft_silenced():
        whole = copy.deepcopy(adapted)
        if getattr(adapted.get_base_model(), "is_quantized", False):
            whole = _dequantized(whole)
        model: PreTrainedModel = whole.merge_and_unload()
    tell_tie(model)
    return model


def _dequantized(adapted: Any) -> Any:
    """`adapted` with the same adapters on a base that is not quantized."""
    adapters = {name: tensor for name, tensor in adapted.state_dict().items() if "lora_" in name}
    config = adapted.peft_config[adapted.active_adapter]
    whole = _inject(adapted.unload().dequantize(), config)
    whole.load_state_dict(adapters, strict=False)
    return whole
