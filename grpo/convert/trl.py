"""TRL: the settings that depend on each other. Numbers of optimizer steps become numbers of passes of the loop.

TRL counts completions per device and optimizer steps; a generation of ``steps_per_generation`` micro-batches serves
``steps_per_generation / gradient_accumulation_steps`` updates, ``num_iterations`` times. One device is assumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.convert.data import DataSet, set_evaluation_sets, set_training_data
from grpo.convert.trackers import set_trackers
from grpo.convert.values import Draft, listed, num_rows, set_steps, whole
from rewards.readers import can_read
from rewards.spelling import many

REWARDS = {
    "accuracy_reward": "math_answer",
    "reasoning_accuracy_reward": "math_answer",
    "think_format_reward": "think_format",
    "get_soft_overlong_punishment": "soft_overlong",
}
"""TRL's own reward functions and ours."""

AGGREGATION_OF = {
    "grpo": "sequence_mean",
    "sapo": "sequence_mean",
    "dapo": "token_mean",
    "bnpo": "token_mean",
    "cispo": "token_mean",
    "dr_grpo": "constant",
    "luspo": "sequence_sum",
}
OPTIMS: Mapping[str, Mapping[str, Any]] = {
    "adamw_8bit": {"optim.state": "8bit"},
    "adamw_bnb_8bit": {"optim.state": "8bit"},
    "adamw_torch_8bit": {"optim.state": "8bit"},
    "paged_adamw_8bit": {"optim.state": "8bit", "optim.offload": True},
    "paged_adamw": {"optim.offload": True},
    "paged_adamw_32bit": {"optim.offload": True},
}
PLAIN_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw")
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "auto": "bfloat16"}
DTYPE_NAMES = ("dtype", "torch_dtype", "bf16", "fp16")
MIXTURE_KEYS = {"path", "name", "split", "data_files", "columns", "fraction", "weight"}
"""Keys of an entry of ``datasets`` that are read; ``columns`` only leaves columns out, which nothing here needs."""

LENGTH_OF_RUN = ("max_steps", "num_train_epochs")


def work_out(draft: Draft) -> None:
    """Set what several settings decide together."""
    updates = _batch(draft)
    _data(draft)
    _length(draft, updates)
    _intervals(draft, updates)
    _evaluation_sets(draft)
    _model(draft)
    _adapters(draft)
    _rewards(draft)
    _loss(draft)
    _kl(draft)
    _entropy(draft)
    _correction(draft)
    _optimizer(draft)
    _tracker(draft)


# ---- counts -----------------------------------------------------------------------------------------------------


def _batch(draft: Draft) -> int:
    """Prompts and updates a step; returns optimizer steps a step of ours, over all epochs."""
    full = draft.full
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations")
    size, accumulation, group = (int(full[name]) for name in names)
    micro_batches = full["steps_per_generation"]
    completions = full["generation_batch_size"]
    if completions is None:
        micro_batches = int(micro_batches or accumulation)
        completions = size * micro_batches
    else:
        completions = int(completions)
        micro_batches = max(1, completions // size)
    if completions % group:
        draft.to_do.append(
            f"TRL's step of {many(completions, 'completion')} is no whole number of groups of {group}, which "
            "TRL refuses "
            "on one device: sample.prompts is rounded up; set it to what you mean"
        )
    updates = max(1, micro_batches // accumulation)
    prompts = whole(completions / group)
    origin = [*names, *filter(draft.is_given, ("steps_per_generation", "generation_batch_size"))]
    draft.set("sample.prompts", prompts, *origin)
    draft.values["sample.group_size"] = group
    draft.origin["sample.group_size"] = "num_generations"
    if updates > prompts:
        draft.to_do.append(
            f"TRL makes {many(updates, 'update')} from {many(prompts, 'prompt')}; here each update has whole "
            "groups, so "
            f"optim.updates is {prompts}"
        )
    draft.set("optim.updates", min(updates, prompts), *origin)
    draft.settle("steps_per_generation", "generation_batch_size")
    return min(updates, prompts) * int(full["num_iterations"])


def _length(draft: Draft, updates: int) -> None:
    max_steps = int(draft.full["max_steps"] or -1)
    draft.settle(*LENGTH_OF_RUN)
    if max_steps > 0:
        draft.set("steps", whole(max_steps / updates), "max_steps")
        return
    set_steps(draft, "num_train_epochs", float(draft.full["num_train_epochs"]))


def _intervals(draft: Draft, updates: int) -> None:
    full = draft.full
    names = ("eval_strategy", "eval_steps")
    if full["eval_strategy"] == "epoch":
        _every_epoch(draft)
    elif _evaluates(draft):
        draft.set("evaluate.every", _in_steps(draft, full["eval_steps"] or 10, updates), *names)
    else:
        draft.set("evaluate.every", 0, "eval_strategy")
        draft.settle("eval_steps")
    if full["save_strategy"] == "no":
        draft.set("checkpoint.every", 0, "save_strategy")
    elif full["save_strategy"] in ("epoch", "best"):
        draft.lose("save_strategy", "checkpoints come every so many steps: checkpoint.every")
    else:
        draft.set("checkpoint.every", _in_steps(draft, full["save_steps"], updates), "save_steps")
    draft.settle("save_steps", "save_strategy")


def _evaluates(draft: Draft) -> bool:
    """Whether evaluations are asked for; an interval alone asks, too."""
    asks = draft.is_given("eval_steps") and not draft.is_given("eval_strategy")
    return asks or draft.full["eval_strategy"] in ("steps", "epoch")


def _every_epoch(draft: Draft) -> None:
    draft.settle("eval_steps")
    rows = num_rows(draft)
    if rows:
        every = whole(rows / draft.values["sample.prompts"])
        draft.set("evaluate.every", every, "eval_strategy")
    else:
        draft.lose("eval_strategy", "evaluations come every so many steps: evaluate.every")


def _in_steps(draft: Draft, number: Any, updates: int) -> int:
    """An interval in optimizer steps, or a share of the run if below 1, in steps of ours."""
    share = float(number)
    if 0 < share < 1:
        if "steps" not in draft.values:
            draft.to_do.append(
                f"an interval is the share {share:g} of a run whose steps are not known here: 100 are taken; set "
                "evaluate.every and checkpoint.every"
            )
        return whole(share * draft.values.get("steps", 100))
    return whole(share / updates)


# ---- model ------------------------------------------------------------------------------------------------------


def _model(draft: Draft) -> None:
    options = draft.full["model_init_kwargs"] or {}
    draft.settle("model_init_kwargs", *DTYPE_NAMES)
    if not isinstance(options, dict):
        draft.lose("model_init_kwargs", "it is no mapping")
        options = {}
    dtype = options.get("dtype", options.get("torch_dtype")) or draft.given.get(
        "dtype", draft.given.get("torch_dtype")
    )
    taken = {
        "dtype",
        "torch_dtype",
        "revision",
        "trust_remote_code",
        "attn_implementation",
        "use_cache",
    }
    for name in ("revision", "trust_remote_code"):
        if options.get(name) is not None:
            draft.set(f"model.{name}", options[name], "model_init_kwargs")
    left = sorted(set(options) - taken)
    if left:
        draft.lost["model_init_kwargs"] = f"{', '.join(left)} are not passed on to the model"
    draft.set("model.dtype", _dtype(draft, dtype), *_dtype_origin(draft, options, dtype))


def _dtype(draft: Draft, dtype: Any) -> str:
    """bfloat16 also for weights in fp32 under autocast: masters are fp32 here too."""
    if dtype not in (None, "float32", "fp32"):
        return DTYPES.get(str(dtype), str(dtype).removeprefix("torch."))
    if draft.full["fp16"]:
        return "float16"
    return "float32" if draft.full["bf16"] is False else "bfloat16"


def _dtype_origin(draft: Draft, options: dict[str, Any], dtype: Any) -> list[str]:
    if dtype is not None:
        return ["model_init_kwargs" if "dtype" in options or "torch_dtype" in options else "dtype"]
    return [name for name in ("fp16", "bf16") if name in draft.given] or ["bf16"]


def _adapters(draft: Draft) -> None:
    full = draft.full
    names = (
        "use_peft",
        "lora_r",
        "lora_alpha",
        "lora_target_modules",
        "lora_target_parameters",
        "use_rslora",
    )
    draft.settle(*names, "load_in_4bit", "bnb_4bit_quant_type")
    if not full["use_peft"]:
        return
    rank = int(full["lora_r"])
    draft.set("model.lora.rank", rank, "lora_r")
    draft.set("model.lora.alpha", float(full["lora_alpha"]), "lora_alpha")
    targets = [*listed(full["lora_target_modules"]), *listed(full["lora_target_parameters"])]
    if targets:
        chosen = "all-linear" if "all-linear" in targets else targets
        draft.set("model.lora.targets", chosen, "lora_target_modules")
    else:
        draft.to_do.append(
            "model.lora.targets: peft's own choice for the architecture (often q_proj and v_proj) is not known "
            "here; all-linear is taken"
        )
    if full["use_rslora"]:
        draft.set("model.lora.rslora", True, "use_rslora")
    if full["load_in_4bit"]:
        draft.set("model.quantize", full["bnb_4bit_quant_type"], "load_in_4bit")


# ---- data and rewards -------------------------------------------------------------------------------------------


def _data(draft: Draft) -> None:
    entries = listed(draft.full["datasets"])
    draft.settle("datasets")
    parts = _mixed(draft, entries) if entries else _single(draft)
    if parts:
        set_training_data(draft, parts, "datasets" if entries else "dataset_name")
    _template(draft, parts)
    _held_out(draft, parts)


def _single(draft: Draft) -> list[DataSet]:
    """The data set of ``dataset_name``; its configuration and split are taken by the table."""
    source = draft.full.get("dataset_name")
    if source is None:
        return []
    if can_read(str(source)):
        draft.settle("dataset_train_split")
    return [DataSet(str(source), columns=draft.columns)]


def _mixed(draft: Draft, entries: Sequence[Any]) -> list[DataSet]:
    """The entries of ``datasets``; files one by one, since a source is one file or one data set."""
    draft.settle("dataset_name", "dataset_config", "dataset_train_split")  # TRL ignores them then
    parts: list[DataSet] = []
    unknown: set[str] = set()
    for entry in entries:
        if not isinstance(entry, Mapping):
            unknown.add(str(entry))
            continue
        unknown |= set(entry) - MIXTURE_KEYS
        share = float(entry.get("fraction") or entry.get("weight") or 1.0)
        split = entry.get("split")
        files = entry.get("data_files")
        if isinstance(files, Mapping):
            files = files.get(split or "train", list(files.values()))
            split = None
        if files:
            parts += [DataSet(str(file), share=share) for file in listed(files)]
        else:
            parts.append(DataSet(str(entry.get("path")), entry.get("name"), split, share))
    if unknown:
        draft.lost["datasets"] = f"left out: {', '.join(sorted(unknown))}"
    return parts


def _held_out(draft: Draft, parts: Sequence[DataSet]) -> None:
    """``test_split_size``: a number of rows, or a share of all; of a mixture the same from each source."""
    size = draft.full["test_split_size"]
    draft.settle("test_split_size")
    if not size:
        return
    counts = [part.num_rows() for part in parts]
    if size < 1 and not (counts and all(counts)):
        draft.lose("test_split_size", "data.held_out is a number of rows, not a share")
        return
    rows = size * sum(counts) if size < 1 else size
    draft.set("data.held_out", whole(rows / max(1, len(parts))), "test_split_size")


def _evaluation_sets(draft: Draft) -> None:
    """The set that TRL evaluates on, if it does: GRPOTrainer's, or the test split of the data set."""
    full = draft.full
    draft.settle("dataset_test_split", "eval_dataset", "eval_on_start")
    if not _evaluates(draft) and not draft.is_given("eval_dataset"):
        return
    parts = [_evaluated(entry) for entry in listed(full["eval_dataset"])]
    origin = "eval_dataset" if parts else "dataset_test_split"
    if not parts and not full["test_split_size"]:
        parts = _test_split(draft)
    if parts:
        set_evaluation_sets(draft, parts, origin)
    elif not full["test_split_size"]:
        draft.to_do.append("name a set to evaluate on in evaluate.sets, or set data.held_out")
    draft.set("evaluate.before", bool(full["eval_on_start"]), "eval_on_start")


def _test_split(draft: Draft) -> list[DataSet]:
    """The test split of the data set on the hub that trains; a mixture and files have none."""
    full = draft.full
    source = full.get("dataset_name")
    if source is None or full["datasets"] or can_read(str(source)):
        return []
    return [DataSet(str(source), full["dataset_config"], full["dataset_test_split"])]


def _evaluated(entry: Any) -> DataSet:
    """GRPOTrainer's ``eval_dataset``, as a path or as load_dataset's arguments."""
    if not isinstance(entry, Mapping):
        return DataSet(str(entry))
    source = str(entry.get("path"))
    return DataSet(
        source,
        subset=entry.get("name"),
        split=None if can_read(source) else entry.get("split"),
        columns=entry.get("columns") or {},
    )


def _template(draft: Draft, parts: Sequence[DataSet]) -> None:
    """TRL puts prompts that are messages through the chat template, and takes text as it is."""
    rows = [row for part in parts for row in part.rows()[:1]]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    template = "chat"
    if not rows:
        draft.assume("data.template", "chat", "prompts as messages")
        draft.to_do.append(
            "data.template is chat, as TRL does for prompts that are messages; for text set plain"
        )
    elif all("prompt" in row for row in rows):
        is_text = all(isinstance(row["prompt"], str) for row in rows)
        template = "plain" if is_text else "chat"
        draft.assume("data.template", template, "the prompts in the file")
    else:
        draft.to_do.append(
            f"set data.columns.prompt to one of the columns {', '.join(map(str, columns))}, in evaluate.sets too"
        )
    _template_args(draft, template)


def _template_args(draft: Draft, template: str) -> None:
    args = draft.full["chat_template_kwargs"]
    draft.settle("chat_template_kwargs")
    if args and template == "chat":
        draft.set("data.template_args", args, "chat_template_kwargs")
    elif args:
        draft.lose("chat_template_kwargs", "prompts that are text get no chat template")


def _rewards(draft: Draft) -> None:
    functions = listed(draft.full["reward_funcs"])
    weights = listed(draft.full["reward_weights"])
    draft.settle("reward_funcs", "reward_weights")
    if weights and len(weights) != len(functions):
        draft.lose(
            "reward_weights", f"{many(len(weights), 'weight')} for {many(len(functions), 'reward')}"
        )
        weights = []
    for index, function in enumerate(map(str, functions)):
        use = _use(function)
        name = _metric_name(function, draft)
        draft.set(f"rewards.{name}.use", use, "reward_funcs")
        if weights:
            draft.set(f"rewards.{name}.weight", float(weights[index]), "reward_weights")
        if ":" not in use and function not in REWARDS:
            draft.to_do.append(
                f"rewards.{name}.use: say where {function} is, as path/file.py:function; a model that scores "
                "goes into a function, see examples/03_reward_model.py"
            )


def _use(function: str) -> str:
    """A reward as ``use`` takes it: TRL's own by ours, ``module.function`` as ``module:function``."""
    if function in REWARDS:
        return REWARDS[function]
    module, dot, name = function.rpartition(".")
    is_import_path = bool(dot) and ":" not in function and "/" not in function
    return f"{module}:{name}" if is_import_path else function


def _metric_name(function: str, draft: Draft) -> str:
    last = (
        Path(function.rpartition(":")[2]).name.rpartition(".")[2].removesuffix("_reward")
        or "reward"
    )
    taken = {key.split(".")[1] for key in draft.values if key.startswith("rewards.")}
    return last if last not in taken else f"{last}_{len(taken) + 1}"


# ---- objective --------------------------------------------------------------------------------------------------


def _loss(draft: Draft) -> None:
    full = draft.full
    loss_type = full["loss_type"]
    level = full["importance_sampling_level"]
    names = ("loss_type", "importance_sampling_level")
    draft.settle("epsilon", "epsilon_high", *names, "multi_objective_aggregation")
    if loss_type not in AGGREGATION_OF:
        draft.lost["loss_type"] = (
            f"{loss_type} is not among loss.policy; the recipe has clip with token_mean"
        )
        loss_type = "dapo"
    aggregation = AGGREGATION_OF[loss_type]
    draft.set("loss.aggregation", aggregation, "loss_type")
    policy = loss_type if loss_type in ("cispo", "sapo") else "clip"
    if level == "sequence":
        policy = _sequence_policy(draft, loss_type)
    elif loss_type == "luspo":
        draft.lost["importance_sampling_level"] = (
            "luspo is for whole completions; the recipe has one ratio for each"
        )
        policy = "gspo"
    draft.set("loss.policy", policy, *names)
    if policy == "gspo":
        draft.set("loss.correction", "geometric", *names)
    _clip(draft, loss_type)
    if loss_type == "bnpo":
        draft.to_do.append(
            "bnpo divides by the tokens of a micro-batch in TRL; token_mean by those of the update"
        )
    if full["multi_objective_aggregation"] == "normalize_then_sum":
        draft.set("advantage.rule", "gdpo", "multi_objective_aggregation")
        draft.settle("scale_rewards")


def _sequence_policy(draft: Draft, loss_type: str) -> str:
    if loss_type in ("cispo", "sapo"):
        draft.lost["importance_sampling_level"] = f"{loss_type} has a ratio per token here"
        return loss_type
    return "gspo" if loss_type in ("grpo", "luspo") else "gspo_token"


def _clip(draft: Draft, loss_type: str) -> None:
    low = draft.full["epsilon"]
    high = draft.full["epsilon_high"] if draft.full["epsilon_high"] is not None else low
    if loss_type == "cispo":
        draft.set("loss.epsilon_low", 1.0, "loss_type")  # no clip from below
        draft.set("loss.epsilon_high", max(0.0, float(high) - 1), "epsilon_high")
        if float(high) < 1:
            draft.lost["epsilon_high"] = (
                f"TRL caps cispo's ratio at {high} itself, below 1, so that every weight is constant; the "
                "recipe caps it at 1 (loss.epsilon_high is the width above 1; 4 is usual)"
            )
    elif loss_type != "sapo":
        draft.set("loss.epsilon_low", float(low), "epsilon")
        draft.set(
            "loss.epsilon_high",
            float(high),
            "epsilon_high" if draft.is_given("epsilon_high") else "epsilon",
        )
    if loss_type in ("cispo", "sapo"):
        draft.lose("delta", f"TRL does not read it for {loss_type}")


def _kl(draft: Draft) -> None:
    full = draft.full
    draft.settle(
        "use_bias_correction_kl", "sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha"
    )
    if not full["beta"]:
        return
    kl = "k3_unbiased" if full["use_bias_correction_kl"] else "k3"
    draft.set("loss.kl", kl, "use_bias_correction_kl")
    if not full["sync_ref_model"]:
        return
    if float(full["ref_model_mixup_alpha"]) == 1.0:
        draft.set("loss.reference_every", int(full["ref_model_sync_steps"]), "ref_model_sync_steps")
    else:
        draft.lost["sync_ref_model"] = (
            f"TRL mixes the reference with weight {full['ref_model_mixup_alpha']}; here it is replaced or kept "
            "(loss.reference_every)"
        )


def _entropy(draft: Draft) -> None:
    full = draft.full
    draft.settle("use_adaptive_entropy", "entropy_target", "entropy_coef_delta")
    if full["use_adaptive_entropy"]:
        draft.set("loss.entropy_target", float(full["entropy_target"]), "entropy_target")
        draft.set("loss.entropy_step", float(full["entropy_coef_delta"]), "entropy_coef_delta")


def _correction(draft: Draft) -> None:
    full = draft.full
    prefix = "vllm_importance_sampling_"
    names = [f"{prefix}{name}" for name in ("correction", "mode", "clip_max", "clip_min", "cap")]
    draft.settle(*names)
    if not full["use_vllm"]:
        return
    if not full[f"{prefix}correction"]:
        draft.set("loss.correction", "none", f"{prefix}correction")
        return
    mode = str(full[f"{prefix}mode"])
    level, _, kind = mode.rpartition("_")
    high = full[f"{prefix}cap"] or full[f"{prefix}clip_max"]
    low = full[f"{prefix}clip_min"]
    if kind == "truncate" and level in ("token", "sequence"):
        draft.set("loss.correction", level, f"{prefix}mode")
        if high is not None:
            draft.set("loss.correction_cap", float(high), f"{prefix}clip_max")
        if low is not None:
            draft.lose(f"{prefix}clip_min", "weights are truncated from above only")
    elif kind == "mask" and level in ("token", "sequence"):
        draft.set("loss.correction_mask", level, f"{prefix}mode")
        draft.set("loss.correction_high", float(high or 1e9), f"{prefix}clip_max")
        draft.set("loss.correction_low", float(low or 0.0), f"{prefix}clip_min")
    else:
        draft.lost[f"{prefix}mode"] = f"{mode} is not a form of loss.correction"


# ---- optimizer and tracker --------------------------------------------------------------------------------------


def _optimizer(draft: Draft) -> None:
    full = draft.full
    warmup = float(full["warmup_steps"] or 0)
    draft.settle("warmup_steps", "optim")
    if warmup >= 1:
        draft.set("optim.warmup", int(warmup), "warmup_steps")
        draft.settle("warmup_ratio")
    elif warmup:
        draft.set("optim.warmup_ratio", warmup, "warmup_steps")
        draft.settle("warmup_ratio")
    optim = str(full["optim"])
    for key, value in OPTIMS.get(optim, {}).items():
        draft.set(key, value, "optim")
    if optim not in OPTIMS and optim not in PLAIN_ADAMW:
        draft.lose("optim", f"the optimizer is AdamW, not {optim}")


def _tracker(draft: Draft) -> None:
    trackers = [name for name in listed(draft.full["report_to"]) if name not in ("none", "all")]
    draft.settle("report_to", "project", "trackio_space_id")
    set_trackers(draft, trackers, "report_to", str(draft.full["project"]))
    space = draft.full["trackio_space_id"]
    if space is not None and "trackio" in trackers:
        draft.set("log.trackio.space", space, "trackio_space_id")
