"""verl: the settings that depend on each other. Its batches count prompts, as ours do, and its steps are ours."""

from __future__ import annotations

from typing import Any

from grpo.convert.data import DataSet, set_evaluation_sets, set_training_data
from grpo.convert.trackers import set_trackers
from grpo.convert.values import Draft, listed, set_steps
from rewards.spelling import agree, many

ACTOR = "actor_rollout_ref.actor"
MODEL = "actor_rollout_ref.model"
ROLLOUT = "actor_rollout_ref.rollout"
POLICY = f"{ACTOR}.policy_loss"
CORRECTION = "algorithm.rollout_correction"
RULES = {
    "grpo_vectorized": "grpo",
    "rloo": "rloo",
    "rloo_vectorized": "rloo",
    "opo": "opo",
    "gpg": "gpg",
    "grpo_passk": "pass_k",
    "gdpo": "gdpo",
    "reinforce_plus_plus": "reinforce_pp",
    "reinforce_plus_plus_baseline": "reinforce_pp_baseline",
}
EPSILON = 1e-6
"""What verl adds to the standard deviation of a group."""

POLICIES = {
    "vanilla": "clip",
    "gspo": "gspo",
    "sapo": "sapo",
    "cispo": "cispo",
    "clip_cov": "clip_cov",
    "kl_cov": "kl_cov",
    "geo_mean": "gmpo",
    "gpg": "reinforce",
    "dppo_tv": "dppo_tv",
    "dppo_kl": "dppo_kl",
}
AGGREGATIONS = {
    "token-mean": "token_mean",
    "token-sum": "token_sum",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-sum-norm": "constant",
}
KLS = {"kl": "k1", "k1": "k1", "mse": "k2", "k2": "k2", "low_var_kl": "k3", "k3": "k3"}
CUSTOM = ("custom_reward_function", "reward.custom_reward_function")


def work_out(draft: Draft) -> None:
    """Set what several settings decide together."""
    _batch(draft)
    _data(draft)
    _length(draft)
    _model(draft)
    _reward(draft)
    _advantage(draft)
    _policy(draft)
    _kl(draft)
    _filter(draft)
    _correction(draft)
    _optimizer(draft)
    _evaluation(draft)
    _tracker(draft)


def _batch(draft: Draft) -> None:
    full = draft.full
    prompts = int(full["data.train_batch_size"])
    mini = int(full[f"{ACTOR}.ppo_mini_batch_size"])
    names = ("data.train_batch_size", f"{ACTOR}.ppo_mini_batch_size")
    draft.set("sample.prompts", prompts, names[0])
    draft.set("optim.updates", max(1, prompts // mini), *names)
    if prompts % mini:
        draft.to_do.append(
            f"{many(prompts, 'prompt')} {agree(prompts, 'are')} no whole number of mini-batches of {mini}: "
            "optim.updates is rounded down"
        )
    more = full["data.gen_batch_size"]
    draft.settle("data.gen_batch_size")
    if more and int(more) > prompts:
        draft.set("sample.oversample", round(int(more) / prompts - 1, 6), "data.gen_batch_size")
    seed = draft.given.get("data.seed", draft.given.get(f"{ACTOR}.data_loader_seed"))
    draft.settle("data.seed", f"{ACTOR}.data_loader_seed")
    if seed is not None:
        draft.set("seed", int(seed), "data.seed")


def _length(draft: Draft) -> None:
    steps = draft.full["trainer.total_training_steps"]
    draft.settle("trainer.total_epochs", "trainer.total_training_steps")
    if steps:
        draft.set("steps", int(steps), "trainer.total_training_steps")
        return
    set_steps(draft, "trainer.total_epochs", float(draft.full["trainer.total_epochs"]))


def _model(draft: Draft) -> None:
    full = draft.full
    rank = int(full[f"{MODEL}.lora_rank"] or 0)
    names = ("lora_rank", "lora_alpha", "target_modules")
    draft.settle(*(f"{MODEL}.{name}" for name in names), f"{ACTOR}.fsdp_config.dtype")
    if rank and not full[f"{MODEL}.lora_adapter_path"]:
        draft.set("model.lora.rank", rank, f"{MODEL}.lora_rank")
        draft.set("model.lora.alpha", float(full[f"{MODEL}.lora_alpha"]), f"{MODEL}.lora_alpha")
        draft.set("model.lora.targets", full[f"{MODEL}.target_modules"], f"{MODEL}.target_modules")
    dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    name = str(full[f"{ACTOR}.fsdp_config.dtype"])
    draft.set("model.dtype", dtype.get(name, name), f"{ACTOR}.fsdp_config.dtype")


def _data(draft: Draft) -> None:
    files = listed(draft.full.get("data.train_files"))
    draft.settle("data.train_files")
    if files:
        set_training_data(draft, [DataSet(str(file)) for file in files], "data.train_files")
    draft.assume("data.template", "chat", "prompts as messages")


def _reward(draft: Draft) -> None:
    draft.settle(*(f"{name}.{part}" for name in CUSTOM for part in ("path", "name")))
    for name in CUSTOM:
        path = draft.full[f"{name}.path"]
        if path:
            function = draft.full[f"{name}.name"] or "compute_score"
            draft.set("rewards.correct.use", f"{path}:{function}", f"{name}.path")
            return
    draft.assume("rewards.correct.use", "math_answer", "verl's own scorers")
    draft.assume("data.columns.answer", "reward_model.ground_truth", "verl's own scorers")
    draft.to_do.append(
        "rewards: verl chooses its scorer by the column data_source; math_answer suits its mathematics "
        "(openai/gsm8k, MATH, AIME), code_tests its programs"
    )


def _advantage(draft: Draft) -> None:
    full = draft.full
    names = ("algorithm.adv_estimator", "algorithm.norm_adv_by_std_in_grpo")
    draft.settle(*names)
    estimator = str(full[names[0]])
    if estimator in ("grpo", "grpo_vectorized"):
        rule = "group_std" if full[names[1]] else "center"
    elif estimator in RULES:
        rule = RULES[estimator]
    else:
        rule = "group_std"
        draft.lost[names[0]] = f"{estimator} is not among advantage.rule; the recipe has group_std"
        if names[0] not in draft.given:
            draft.to_do.append(
                "algorithm.adv_estimator is not set, and verl's default, gae, needs a critic"
            )
    draft.set("advantage.rule", rule, names[0])
    if rule in ("group_std", "gdpo", "pass_k"):
        draft.set("advantage.epsilon", EPSILON, names[0])


def _policy(draft: Draft) -> None:
    full = draft.full
    mode_name = f"{POLICY}.loss_mode"
    aggregation_name = f"{ACTOR}.loss_agg_mode"
    mode = str(full[mode_name])
    draft.settle(mode_name, aggregation_name, f"{ACTOR}.loss_scale_factor")
    if mode not in POLICIES:
        draft.lost[mode_name] = f"{mode} is not among loss.policy; the recipe has clip"
        mode = "vanilla"
    draft.set("loss.policy", POLICIES[mode], mode_name)
    aggregation = str(full[aggregation_name])
    if mode in ("gspo", "sapo", "geo_mean"):
        aggregation = "seq-mean-token-mean"  # whatever the configuration says
    if aggregation not in AGGREGATIONS:
        draft.lost[aggregation_name] = (
            f"{aggregation} is not among loss.aggregation; the recipe has token_mean"
        )
        aggregation = "token-mean"
    draft.set("loss.aggregation", AGGREGATIONS[aggregation], aggregation_name)
    if full[f"{ACTOR}.loss_scale_factor"] and aggregation == "seq-mean-token-sum-norm":
        draft.set(
            "loss.constant", int(full[f"{ACTOR}.loss_scale_factor"]), f"{ACTOR}.loss_scale_factor"
        )
    if POLICIES[mode] in ("gspo", "gmpo"):
        draft.set("loss.correction", "geometric", mode_name)
    _clip(draft, mode)
    _covariance(draft, mode)


def _clip(draft: Draft, mode: str) -> None:
    full = draft.full
    names = [f"{ACTOR}.clip_ratio{end}" for end in ("", "_low", "_high")]
    draft.settle(*names, f"{ACTOR}.clip_ratio_c")
    low = _end_of_clip(draft, names[1], names[0])
    high = _end_of_clip(draft, names[2], names[0])
    if mode in ("dppo_tv", "dppo_kl"):
        draft.set("loss.divergence", low, names[1])
        if low != high:
            draft.lost[names[2]] = "loss.divergence is the same on both sides"
    elif mode not in ("sapo", "gpg", "kl_cov"):
        draft.set("loss.epsilon_low", low, names[1] if names[1] in draft.given else names[0])
        draft.set("loss.epsilon_high", high, names[2] if names[2] in draft.given else names[0])
    if mode == "vanilla":
        draft.set("loss.dual_clip", float(full[f"{ACTOR}.clip_ratio_c"]), f"{ACTOR}.clip_ratio_c")


def _end_of_clip(draft: Draft, name: str, both: str) -> float:
    """What is given for one end, or for both, or verl's default."""
    for candidate in (name, both):
        if draft.is_given(candidate):
            return float(draft.given[candidate])
    return float(draft.full[name])


def _covariance(draft: Draft, mode: str) -> None:
    full = draft.full
    draft.settle(f"{POLICY}.clip_cov_ratio", f"{POLICY}.kl_cov_ratio", f"{POLICY}.ppo_kl_coef")
    if mode in ("clip_cov", "kl_cov"):
        name = f"{POLICY}.{mode}_ratio"
        draft.set("loss.cov_share", float(full[name]), name)
    if mode == "kl_cov":
        draft.set("loss.cov_kl", float(full[f"{POLICY}.ppo_kl_coef"]), f"{POLICY}.ppo_kl_coef")


def _kl(draft: Draft) -> None:
    full = draft.full
    loss = [f"{ACTOR}.{name}" for name in ("use_kl_loss", "kl_loss_coef", "kl_loss_type")]
    reward = ["algorithm.use_kl_in_reward", "algorithm.kl_ctrl.kl_coef", "algorithm.kl_penalty"]
    draft.settle(*loss, *reward)
    if full[loss[0]]:
        _set_kl(draft, "loss", loss)
        if full[reward[0]]:
            draft.lost[reward[0]] = (
                "the KL is in the loss already (use_kl_loss), and has one place here"
            )
    elif full[reward[0]]:
        _set_kl(draft, "reward", reward)


def _set_kl(draft: Draft, place: str, names: list[str]) -> None:
    switch, coefficient, estimator = names
    draft.set("loss.beta", float(draft.full[coefficient]), switch, coefficient)
    draft.set("loss.kl_in", place, switch)
    kl = str(draft.full[estimator])
    if kl in KLS:
        draft.set("loss.kl", KLS[kl], estimator)
    else:
        draft.lost[estimator] = f"{kl} is not among loss.kl; the recipe has k3"


def _filter(draft: Draft) -> None:
    full = draft.full
    prefix = "algorithm.filter_groups"
    names = [f"{prefix}.{name}" for name in ("enable", "metric", "max_num_gen_batches")]
    draft.settle(*names)
    if not full[names[0]]:
        return
    draft.set("advantage.flat", "refill", names[0])
    by_accuracy = full[names[1]] in ("acc", "accuracy")
    draft.set("advantage.flat_by", "accuracy" if by_accuracy else "score", names[1])
    batches = int(full[names[2]] or 0)
    if batches > 1:
        draft.set("advantage.refills", batches - 1, names[2])
    elif names[2] in draft.given:
        draft.lost[names[2]] = "sampling again is always bounded here: advantage.refills"


def _correction(draft: Draft) -> None:
    level = draft.full[f"{CORRECTION}.rollout_is"]
    cap = draft.full[f"{CORRECTION}.rollout_is_threshold"]
    draft.settle(f"{CORRECTION}.rollout_is", f"{CORRECTION}.rollout_is_threshold")
    if level is None:
        return
    if level not in ("token", "sequence"):
        draft.lost[f"{CORRECTION}.rollout_is"] = f"{level} is not a form of loss.correction"
        return
    draft.set("loss.correction", level, f"{CORRECTION}.rollout_is")
    try:
        draft.set("loss.correction_cap", float(cap), f"{CORRECTION}.rollout_is_threshold")
    except (TypeError, ValueError):
        draft.lost[f"{CORRECTION}.rollout_is_threshold"] = f"{cap}: see loss.correction_mask"


def _optimizer(draft: Draft) -> None:
    full = draft.full
    names = [
        f"{ACTOR}.optim.{name}" for name in ("lr_warmup_steps", "lr_warmup_steps_ratio", "betas")
    ]
    draft.settle(*names)
    per_step = draft.values["optim.updates"] * int(full[f"{ACTOR}.ppo_epochs"])
    warmup = int(full[names[0]] or 0)
    if warmup > 0:
        draft.set("optim.warmup", warmup * per_step, names[0])
    elif full[names[1]]:
        draft.set("optim.warmup_ratio", float(full[names[1]]), names[1])
    beta1, beta2 = full[names[2]]
    draft.set("optim.beta1", float(beta1), names[2])
    draft.set("optim.beta2", float(beta2), names[2])
    older = f"{ACTOR}.optim.warmup_style"
    if full[older] is None:
        draft.settle(older)


def _evaluation(draft: Draft) -> None:
    names = [f"{ROLLOUT}.val_kwargs.{name}" for name in ("do_sample", "temperature")]
    draft.settle(*names, "trainer.save_freq", "trainer.test_freq")
    sampled = draft.full[names[0]]
    temperature = float(draft.full[names[1]]) if sampled else 0.0
    draft.set("evaluate.temperature", temperature, *names)
    for name, key in (
        ("trainer.save_freq", "checkpoint.every"),
        ("trainer.test_freq", "evaluate.every"),
    ):
        draft.set(key, max(0, int(draft.full[name])), name)
    _evaluation_sets(draft)


def _evaluation_sets(draft: Draft) -> None:
    files = listed(draft.full.get("data.val_files"))
    names = ("data.val_max_samples", f"{ROLLOUT}.val_kwargs.top_p")
    draft.settle("data.val_files", *names)
    if not files:
        return
    limit = int(draft.full[names[0]] or -1)
    top_p = float(draft.full[names[1]])
    set_evaluation_sets(
        draft,
        [DataSet(str(file)) for file in files],
        "data.val_files",
        *filter(draft.is_given, names),
        columns=_columns(draft),
        limit=limit if limit > 0 else None,
        top_p=top_p if top_p != float(draft.full[f"{ROLLOUT}.top_p"]) else None,
    )
    if limit > 0:
        draft.lose(names[0], "it became limit: the first rows, where verl draws them")


def _columns(draft: Draft) -> dict[str, Any]:
    """The columns of the training data, which a set does not take over by itself."""
    prompt = str(draft.full["data.prompt_key"])
    columns = {"prompt": prompt} if prompt != "prompt" else {}
    answer = draft.values.get("data.columns.answer")
    return {**columns, "answer": answer} if answer else columns


def _tracker(draft: Draft) -> None:
    trackers: list[Any] = listed(draft.full["trainer.logger"])
    draft.settle("trainer.logger", "trainer.project_name")
    asked = [str(name) for name in trackers if name != "console"]
    if draft.is_given("trainer.logger"):
        project = str(draft.full["trainer.project_name"])
        set_trackers(draft, asked, "trainer.logger", project)
