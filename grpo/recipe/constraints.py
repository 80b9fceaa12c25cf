"""Rules between the keys of a recipe: settings that are each in range but contradict each other, with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterable, Iterator, Mapping

from grpo.recipe.data_sections import RewardSection, RowsSection
from grpo.recipe.distill_section import TEACHER_KEYS, DistillSection
from grpo.recipe.objectives import POLICY_LOSSES, WHOLE_POLICY_LOSSES
from grpo.recipe.presets import PRESETS
from grpo.recipe.reject_section import RejectSection
from grpo.recipe.sections import (
    AdvantageSection,
    ExportSection,
    LossSection,
    OptimSection,
    RewardsServiceSection,
    SampleSection,
    Sections,
    SftSection,
)
from grpo.recipe.shorthands import HELD_OUT, HELD_OUT_LOSS, check_name
from grpo.recipe.values import RecipeError, kind
from rewards.spelling import many, nearest

Reasons = Iterator[str]


def check_combinations(recipe: Sections) -> None:
    """Refuse settings that are each in range but cannot be combined; `RecipeError` for the first."""
    _refuse_first(_all_reasons(recipe))


def check_loss(loss: LossSection, advantage: AdvantageSection) -> None:
    """Refuse terms of a loss that contradict each other; `RecipeError` for the first."""
    _refuse_first(_loss_reasons(loss, advantage))


def _refuse_first(reasons: Iterable[str]) -> None:
    for reason in reasons:
        raise RecipeError(f"recipe: {reason}")


def _all_reasons(recipe: Sections) -> Reasons:
    """Every reason to refuse `recipe`, in the order in which they are reported."""
    yield from _stage_reasons(recipe)
    yield from _environment_reasons(recipe)
    if recipe.stage == "reject":
        yield from _rejection_reasons(recipe)
    else:
        yield from _group_reasons(recipe)
        yield from _advantage_reasons(recipe)
        yield from _prompt_reasons(recipe)
        yield from _loss_reasons(recipe.loss, recipe.advantage)
        yield from _step_reasons(recipe)
    yield from _server_reasons(recipe)
    yield from _shard_reasons(recipe)
    yield from _reward_server_reasons(recipe)
    yield from _model_reasons(recipe)
    yield from _reward_reasons(recipe)
    yield from _data_reasons(recipe)


OWN_SECTIONS = {
    "sft": SftSection(),
    "reject": RejectSection(),
    "distill": DistillSection(),
    "export": ExportSection(),
}
"""Sections that one stage alone reads, with their defaults; distillation of traces reads sft's too."""
OF_STEPS = ("oversample", "over_request", "staleness")
"""Keys of ``sample`` that say how steps sample more, or otherwise, than each of them trains."""
SAMPLING_OF_STEPS = ("prompts", "group_size", "max_tokens_from", *OF_STEPS)
"""Keys of ``sample`` that say what a step of reinforcement learning samples."""


def _stage_reasons(recipe: Sections) -> Reasons:
    """Keys that are set and belong to another stage."""
    yield from _evaluation_reasons(recipe)
    for stage, default in OWN_SECTIONS.items():
        if recipe.stage == stage or (stage == "sft" and recipe.learns_rows):
            continue
        for name in _set_keys(getattr(recipe, stage), default):
            yield (
                f"{stage}.{name} is set, but the recipe's stage is {recipe.stage}; set stage: {stage}, or leave the "
                f"section {stage} out"
            )
    if recipe.learns_rows:
        yield from _learns_rows_reasons(recipe)
    if recipe.stage == "distill":
        yield from _distill_reasons(recipe)


def _stage(recipe: Sections) -> str:
    """The stage in words: ``distill of traces`` reads other sections than ``distill``."""
    return "distill of traces" if recipe.stage == "distill" and recipe.learns_rows else recipe.stage


def _unread_objective(recipe: Sections) -> list[str]:
    """The keys of ``loss`` and ``advantage`` that are set."""
    loss, advantage = _of_preset(recipe)
    unread = [f"loss.{name}" for name in _set_keys(recipe.loss, loss)]
    return unread + [f"advantage.{name}" for name in _set_keys(recipe.advantage, advantage)]


def _learns_rows_reasons(recipe: Sections) -> Reasons:
    """Keys of sampling and scoring, in a recipe that learns rows."""
    unread = _unread_objective(recipe)
    sampled = _set_keys(recipe.sample, SampleSection())
    unread += [f"sample.{name}" for name in sampled if name in SAMPLING_OF_STEPS]
    for name in unread:
        yield (
            f"{name} is set, but stage {_stage(recipe)} does not read it: its loss is -log p of the tokens that "
            "sft.train_on names, over rows of data; remove it"
        )
    for name in ("updates", "epochs"):
        if name in _set_keys(recipe.optim, OptimSection()):
            yield (
                f"optim.{name} is set, but a step of stage {_stage(recipe)} is one update of sft.batch rows; passes "
                "over the data are counted by epochs, at the top level"
            )


def _of_preset(recipe: Sections) -> tuple[LossSection, AdvantageSection]:
    """The loss and the advantage of a recipe that sets neither."""
    preset = PRESETS[LossSection().preset]
    return (
        replace(LossSection(), **preset.loss),
        replace(AdvantageSection(), **preset.advantage),
    )


def _distill_reasons(recipe: Sections) -> Reasons:
    """What distillation by either method lacks or does not read."""
    distill = recipe.distill
    if distill.method == "traces":
        for name in TEACHER_KEYS:
            if name in _set_keys(distill, DistillSection()):
                yield (
                    f"distill.{name} is set, but the method traces loads no teacher: it learns the completions in "
                    "data; sample them from the teacher first (grpo reject, or grpo sample), or set distill.method: "
                    "on_policy"
                )
        return
    if distill.teacher is None:
        yield "distill.teacher is missing; name the model to learn from, or set distill.method: traces"
    yield from _on_policy_reasons(recipe)


def _on_policy_reasons(recipe: Sections) -> Reasons:
    loss = recipe.loss
    if loss.policy != "none":
        yield (
            f"loss.policy is {loss.policy}, but stage distill learns from its teacher alone; remove it, or set stage: "
            "grpo with loss.teacher to learn from rewards too"
        )
    for name, in_loss in TEACHER_KEYS.items():
        ours = getattr(recipe.distill, name)
        theirs = getattr(loss, in_loss)
        if ours != theirs:
            yield f"loss.{in_loss} is {theirs}, but distill.{name} is {ours}; set distill.{name} alone"
    if loss.kl_in == "reward":
        yield "loss.kl_in is reward, but stage distill learns from no reward; set loss.kl_in to loss"
    _, advantage = _of_preset(recipe)
    for name in _set_keys(recipe.advantage, advantage):
        if name != "mask_truncated":
            yield (
                f"advantage.{name} is set, but stage distill compares no completions by their scores; remove it"
            )


def _evaluation_reasons(recipe: Sections) -> Reasons:
    """What only an evaluation reads, and what it needs."""
    models = recipe.evaluate.models
    if recipe.stage == "evaluate" and not models:
        yield "evaluate.models is empty, so stage evaluate has no model; write e.g. {base: gpt2, mine: runs/mine/final}"
    if recipe.stage != "evaluate" and models:
        yield (
            f"evaluate.models is set, but the recipe's stage is {recipe.stage}, which evaluates its own model; set "
            "stage: evaluate, or remove it"
        )
    for name, model in models.items():
        check_name(str(name), "evaluate.models")
        if not isinstance(model, str) or not model:
            yield f"evaluate.models.{name} must be a hub id, a folder or a .gguf file, not {kind(model)}"


def _environment_reasons(recipe: Sections) -> Reasons:
    """Tools where nothing is sampled with them, and two ways to say who answers."""
    environment = recipe.environment
    name = "tools" if recipe.tools else "environment.use"
    if recipe.has_environment and recipe.stage in ("reject", "export"):
        yield (
            f"{name} is set, but stage {_stage(recipe)} does not read it; tools are offered by the stages grpo, "
            "evaluate, distill and sft: name them there"
        )
    if recipe.has_environment and recipe.learns_rows and not recipe.has_rewards:
        yield (
            f"{name} is set, but stage {_stage(recipe)} learns rows as they stand and offers tools in evaluations "
            "alone, which no reward scores here; name rewards, or remove it"
        )
    if environment.args and environment.use is None:
        yield (
            "environment.args is set, but environment.use names nothing that takes them; name an environment, e.g. "
            "environment: {use: python, args: {session: true}}"
        )


def _rejection_reasons(recipe: Sections) -> Reasons:
    """What rejection sampling does not read, and limits that no completion could keep."""
    sampled = _set_keys(recipe.sample, SampleSection())
    unread = _unread_objective(recipe)
    unread += [f"optim.{name}" for name in _set_keys(recipe.optim, OptimSection())]
    unread += [f"sample.{name}" for name in sampled if name in OF_STEPS]
    if recipe.epochs is not None:
        unread.append("epochs")
    for name in unread:
        yield (
            f"{name} is set, but stage reject does not read it: it samples each prompt sample.group_size times and "
            "trains nothing; remove it"
        )
    if not recipe.sample.temperature and recipe.sample.group_size > 1:
        yield (
            f"sample.temperature is 0, so the {recipe.sample.group_size} completions of a prompt would all be the "
            "same; set it above 0, or sample.group_size to 1"
        )
    reject = recipe.reject
    if reject.min_tokens and reject.max_tokens and reject.min_tokens > reject.max_tokens:
        yield (
            f"reject.min_tokens is {reject.min_tokens}, above reject.max_tokens ({reject.max_tokens}); no completion "
            "could have so many"
        )
    if reject.language and not reject.min_language:
        yield "reject.language is set, but reject.min_language is 0, so nothing counts its words"


def _set_keys(section: Any, default: Any) -> list[str]:
    """The keys of a section that are not as in `default`."""
    return [name for name, value in vars(section).items() if value != getattr(default, name)]


def _group_reasons(recipe: Sections) -> Reasons:
    rule = recipe.advantage.rule
    if recipe.stage == "distill":
        return
    if recipe.sample.group_size < 2 and rule != "reinforce_pp":
        yield (
            f"sample.group_size is 1, but advantage.rule {rule} compares the "
            "completions of a group; set it to 2 or more"
        )


def _advantage_reasons(recipe: Sections) -> Reasons:
    advantage = recipe.advantage
    group_size = recipe.sample.group_size
    if advantage.k == 1 or advantage.k > group_size:
        yield (
            f"advantage.k is {advantage.k}; the best of k compares 2 to sample.group_size "
            f"({group_size}) completions"
        )
    if advantage.k and advantage.rule != "pass_k":
        yield (
            f"advantage.k is set but advantage.rule {advantage.rule} does not read it; only "
            "pass_k does"
        )


def _prompt_reasons(recipe: Sections) -> Reasons:
    """Filters of prompts and groups."""
    sample = recipe.sample
    flat = recipe.advantage.flat
    if sample.oversample and flat == "keep":
        yield (
            "sample.oversample samples more prompts to choose from, but advantage.flat keep "
            "chooses none; set advantage.flat to drop or refill"
        )
    if sample.over_request and (sample.oversample or flat == "refill"):
        yield (
            "sample.over_request ends a step's sampling early, which cannot be combined with "
            "sample.oversample or advantage.flat refill, which sample more; drop one of them"
        )
    if flat != "keep" and sample.group_size < 2:
        yield (
            f"advantage.flat is {flat}, but a group of one is always flat; set "
            "sample.group_size to 2 or more, or advantage.flat to keep"
        )
    data = recipe.data
    if data.pass_low > data.pass_high:
        yield (
            f"data.pass_low is {data.pass_low:g}, above data.pass_high ({data.pass_high:g}); no "
            "prompt could lie between them"
        )
    has_bounds = data.pass_low > 0 or data.pass_high < 1 or recipe.advantage.retire_at > 0
    if data.pass_column is not None and not has_bounds:
        yield (
            "data.pass_column is set, but no prompt waits or retires by its pass rate; set data.pass_low, "
            "data.pass_high or advantage.retire_at"
        )


def _step_reasons(recipe: Sections) -> Reasons:
    updates = recipe.optim.updates
    prompts = recipe.sample.prompts
    if updates > prompts:
        yield (
            f"optim.updates is {updates} but sample.prompts is {prompts}; each "
            "update needs a group of its own, so lower optim.updates or raise sample.prompts"
        )
    if recipe.optim.warmup and recipe.optim.warmup_ratio:
        yield (
            f"optim.warmup is {many(recipe.optim.warmup, 'update')} and optim.warmup_ratio "
            f"{recipe.optim.warmup_ratio:g} "
            "of the run; set one of them"
        )
    yield from _schedule_reasons(recipe.optim)
    caps = recipe.sample.max_tokens_from
    if caps and max(caps.values()) != recipe.sample.max_tokens:
        yield (
            f"sample.max_tokens is {recipe.sample.max_tokens}, but the largest cap of its schedule is "
            f"{max(caps.values())}; write the schedule into sample.max_tokens, or set sample.max_tokens_from to {{}}"
        )
    if recipe.sample.temperature == 0:
        yield (
            "sample.temperature is 0; greedy completions of one prompt are all the same, so "
            "no group could teach anything; set it above 0"
        )


def _schedule_reasons(optim: OptimSection) -> Reasons:
    if optim.min_lr_ratio and optim.schedule == "constant":
        yield (
            f"optim.min_lr_ratio is {optim.min_lr_ratio:g}, but optim.schedule constant does not fall; set it to "
            "cosine or linear"
        )


SERVER_KEYS = (
    "servers",
    "server_folder",
    "server_silence",
    "server_load",
    "probe_every",
    "staleness",
)
EMBEDDED_KEYS = ("kv_memory_gib", "keep_graphs", "compile")
"""Keys of ``sample`` that the engine in the trainer's own process reads alone."""
FILTERS = ("top_k", "top_p", "min_p")


def _reward_server_reasons(recipe: Sections) -> Reasons:
    service = recipe.rewards_service
    if len(set(service.servers)) < len(service.servers):
        yield "rewards_service.servers names a server twice; name each once"
    if not service.servers and _set_keys(service, RewardsServiceSection()):
        yield (
            "rewards_service.silence is set, but rewards_service.servers is empty; name a server, or remove it"
        )


def _server_reasons(recipe: Sections) -> Reasons:
    """What sampling by servers needs, and cannot do."""
    sample = recipe.sample
    changed = _set_keys(sample, SampleSection())
    if sample.engine == "embedded":
        for name in changed:
            if name in SERVER_KEYS:
                yield (
                    f"sample.{name} is set, but sample.engine is embedded; set sample.engine: vllm or sglang, or "
                    "remove it"
                )
        return
    if not sample.servers:
        yield (
            f"sample.engine is {sample.engine}, but sample.servers is empty; start one with grpo serve RECIPE and "
            "name it, e.g. [http://127.0.0.1:8000]"
        )
    if len(set(sample.servers)) < len(sample.servers):
        yield "sample.servers names a server twice; each has one set of weights, so name each once"
    for name in changed:
        if name in EMBEDDED_KEYS:
            yield (
                f"sample.{name} is set, but servers sample (sample.engine {sample.engine}), which do not read it; "
                "remove it"
            )
        if name in FILTERS:
            yield (
                f"sample.{name} is set, but servers do not tell how much probability a filter keeps, which the update "
                "needs; remove it, or set sample.engine: embedded"
            )
    if recipe.has_environment:
        name = "tools" if recipe.tools else "environment.use"
        yield (
            f"{name} is set, but a server's completion ends with its first turn (sample.engine {sample.engine}); set "
            "sample.engine: embedded"
        )
    yield from _served_model_reasons(recipe)
    if sample.staleness:
        yield from _staleness_reasons(recipe)


def _staleness_reasons(recipe: Sections) -> Reasons:
    """What sampling ahead of the updates needs."""
    sample = recipe.sample
    ahead = f"sample.staleness is {sample.staleness}"
    if recipe.loss.correction == "none":
        yield (
            f"{ahead}, but loss.correction is none, so that what older weights wrote would train as if the policy had; "
            "set loss.correction to token, sequence or geometric"
        )
    if not sample.probe_every:
        yield (
            f"{ahead}, but sample.probe_every is 0, and the drift of what older weights wrote cannot tell a server "
            "that holds others; set sample.probe_every to 1"
        )
    if sample.over_request and sample.staleness < 2:
        yield (
            f"{ahead}, but sample.over_request is {sample.over_request:g}, and what goes on in the next step is one "
            "step older there; set sample.staleness to 2 or more, or sample.over_request to 0"
        )


def _served_model_reasons(recipe: Sections) -> Reasons:
    model = recipe.model
    if model.dtype == "float64":
        yield "model.dtype is float64, which no server computes in; set it to float32 or bfloat16"
    if model.quantize:
        yield (
            f"model.quantize is {model.quantize}, but a server would hold another base than the trainer's; remove it, "
            "or set sample.engine: embedded"
        )


def _model_reasons(recipe: Sections) -> Reasons:
    model = recipe.model
    if model.adapter is not None and model.lora is not None:
        yield (
            "model.adapter names an adapter, whose own configuration sets rank, alpha and targets, and "
            "model.lora would make another; remove one of them"
        )
    if model.quantize and model.lora is None and model.adapter is None:
        yield (
            "model.quantize freezes the base at 4 bits, so only adapters can train; set "
            "model.lora, e.g. {rank: 16}"
        )
    if recipe.loss.reference_every and not recipe.loss.beta:
        yield (
            "loss.reference_every is set but loss.beta is 0, so there is no reference; set "
            "loss.beta above 0 or loss.reference_every to 0"
        )
    if not all(isinstance(text, str) and text for text in recipe.sample.stop):
        yield "sample.stop must be a list of non-empty strings"


def _reward_reasons(recipe: Sections) -> Reasons:
    evaluate = recipe.evaluate
    yield from _named_reward_reasons("rewards", recipe.rewards, "evaluate.reward", evaluate.reward)
    for name, section in evaluate.sets.items():
        where = f"evaluate.sets.{name}"
        rewards = section.rewards or recipe.rewards
        yield from _named_reward_reasons(
            f"{where}.rewards" if section.rewards else "rewards",
            rewards,
            f"{where}.reward",
            section.reward,
        )


def _named_reward_reasons(
    where: str, rewards: Mapping[str, RewardSection], key: str, accurate: str | None
) -> Reasons:
    for name, part in rewards.items():
        if part.use is None:
            yield f"{where}.{name}.use is missing; name a function, e.g. math_answer"
    if accurate is not None and rewards and accurate not in rewards:
        yield f"{key} names {accurate}, which is not among {where}{nearest(accurate, rewards)}"


def _shard_reasons(recipe: Sections) -> Reasons:
    """What cannot be done with weights that are divided over processes."""
    if not recipe.distributed.shard:
        return
    is_set = "distributed.shard is true, but"
    if recipe.stage in ("reject", "evaluate", "export"):
        yield f"{is_set} stage {recipe.stage} trains nothing, so it divides nothing; remove it"
    if recipe.model.quantize:
        yield (
            f"{is_set} the 4-bit base of model.quantize has no rows that could be divided; remove one of the two"
        )
    if recipe.optim.state == "8bit":
        yield (
            f"{is_set} 8-bit moments are scaled in blocks that the processes' slices would cut, so a checkpoint would "
            "not fit another number of them; set optim.state to fp32, or optim.offload: true"
        )
    for name in ("keep_graphs", "compile"):
        if getattr(recipe.sample, name):
            yield (
                f"{is_set} sample.{name} relies on weights that stay where they are, and gathered ones are freed after "
                "sampling; remove one of the two"
            )
    if recipe.sample.staleness:
        yield (
            f"{is_set} sample.staleness samples while the weights are in slices, and whole ones are pushed; set one of "
            "the two to its default"
        )
    if recipe.loss.load_balance:
        yield f"{is_set} loss.load_balance needs a mixture of experts, which is not divided; remove one of the two"


def _data_reasons(recipe: Sections) -> Reasons:
    data = recipe.data
    if data.sources and data.source is not None:
        yield "data.source and data.sources are both set; name one source, or several"
    for name, source in data.each().items():
        yield from _rows_reasons(f"data.sources.{name}" if name else "data", source)
    for name, section in recipe.evaluate.sets.items():
        yield from _rows_reasons(f"evaluate.sets.{name}", section)
        if section.source is None:
            yield f"evaluate.sets.{name} names no source; give source: or benchmark:"
    best_by = recipe.checkpoint.best_by
    if best_by is not None:
        known = [HELD_OUT, *recipe.evaluate.sets]
        if recipe.learns_rows and best_by == HELD_OUT_LOSS:
            return
        if best_by.removesuffix("/reward") not in known:
            yield (
                f"checkpoint.best_by is {best_by}; it must be one of {', '.join(known)}, by itself or "
                f"with /reward{nearest(best_by, known)}"
            )


def _rows_reasons(where: str, section: RowsSection) -> Reasons:
    for ours, theirs in section.columns.items():
        if not isinstance(theirs, str):
            yield f"{where}.columns.{ours} must name a column of the data set, not {kind(theirs)}"
    for column, wanted in section.where.items():
        if isinstance(wanted, Mapping):
            yield (
                f"{where}.where.{column} must be a value, a list of values or a comparison such as "
                "'>= 3', not a mapping"
            )
    if section.template in ("chat", "auto"):
        return
    for name in ("system", "template_args"):
        if getattr(section, name):
            yield (
                f"{where}.{name} is read by the chat template, but {where}.template is "
                f"{section.template!r}; set it to chat"
            )


# ---- terms of the loss --------------------------------------------------------------------------------------


def _loss_reasons(loss: LossSection, advantage: AdvantageSection) -> Reasons:
    if loss.policy in WHOLE_POLICY_LOSSES:
        yield from _whole_completion_reasons(loss, advantage)
    yield from _unread_reasons(loss)
    yield from _kl_in_reward_reasons(loss, advantage)
    yield from _band_reasons(loss)


def _whole_completion_reasons(loss: LossSection, advantage: AdvantageSection) -> Reasons:
    """A ratio of whole completions next to something that acts on single tokens."""
    ratio = f"loss.policy {loss.policy} has one ratio for a whole completion"
    aggregations = WHOLE_POLICY_LOSSES[loss.policy]
    by_token = f"{loss.policy}_token"
    other = f"; or use {by_token}" if by_token in POLICY_LOSSES else ""
    if loss.aggregation not in aggregations:
        yield (
            f"{ratio}, which loss.aggregation {loss.aggregation} would weight by its tokens; set "
            f"{' or '.join(aggregations)}{other}"
        )
    if "token" in (loss.correction, loss.correction_mask):
        yield (
            f"{ratio}, but the correction is per token, a token-level trust region around a "
            "sequence-level ratio; set loss.correction (and loss.correction_mask) to sequence, "
            f"geometric or none{other}"
        )
    if loss.top_entropy < 1:
        yield f"{ratio}, but loss.top_entropy takes single tokens out of it; set it to 1{other}"
    if advantage.rule == "reinforce_pp" and loss.kl_in == "reward" and loss.beta > 0:
        yield (
            f"loss.policy {loss.policy} reads one advantage a completion, but advantage.rule "
            "reinforce_pp with the KL in the reward gives each token its own; use clip, or "
            "loss.kl_in loss"
        )


def _unread_reasons(loss: LossSection) -> Reasons:
    """Keys that are set and would not be read, and a loss without a term."""
    for name in ("dual_clip", "ratio_cap"):
        if getattr(loss, name) and loss.policy not in ("clip", "clip_cov"):
            yield (
                f"loss.{name} is set, but loss.policy {loss.policy} does not read it; only clip "
                "and clip_cov do"
            )
    if loss.constant is not None and loss.aggregation != "constant":
        yield (
            f"loss.constant is set, but loss.aggregation {loss.aggregation} does not read it; only "
            "constant does"
        )
    for name in ("teacher_dtype", "teacher_offload"):
        if getattr(loss, name) and loss.teacher is None:
            yield f"loss.{name} is set, but there is no loss.teacher; name one, or remove it"
    if loss.policy == "none" and loss.teacher is None:
        yield (
            "loss.policy is none and there is no loss.teacher, so nothing would be learnt; name a "
            "teacher or a policy loss"
        )


def _kl_in_reward_reasons(loss: LossSection, advantage: AdvantageSection) -> Reasons:
    if loss.kl_in != "reward":
        return
    if loss.kl == "k3_unbiased":
        yield (
            "loss.kl k3_unbiased is k3 times a ratio that carries gradient, and a reward carries "
            "none; use k1, k2 or k3 in the reward"
        )
    if loss.beta > 0 and advantage.rule == "gdpo":
        yield (
            "advantage.rule gdpo normalises each reward by itself, and the KL in the reward is "
            "part of none; set loss.kl_in to loss"
        )


def _band_reasons(loss: LossSection) -> Reasons:
    if loss.cov_low >= loss.cov_high:
        yield (
            f"loss.cov_low is {loss.cov_low:g}, not below loss.cov_high ({loss.cov_high:g}); no "
            "token could lie between them"
        )
    if loss.correction_mask != "none" and loss.correction_low >= loss.correction_high:
        yield (
            f"loss.correction_low is {loss.correction_low:g}, not below loss.correction_high "
            f"({loss.correction_high:g}); every token would be dropped"
        )
