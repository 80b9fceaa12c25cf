"""What TRL's and verl's settings are called here: one table, for answers to unknown keys, the docs and `grpo convert`.

Read from TRL 1.16 (GRPOConfig with transformers' TrainingArguments, ModelConfig, ScriptArguments) and verl 0.9.1
(ppo_trainer.yaml with FSDP). How values that depend on each other are worked out is up to ``grpo.convert``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Iterator, Literal, Mapping

Fate = Literal["same", "joint", "none needed", "not here"]
"""What becomes of a setting: a key of ours with the same value or one from a list of values; worked out together with
others; nothing to set, since it changes no result here; or not offered, with the reason."""

PRODUCTS = {"trl": "TRL", "verl": "verl", "peft": "peft"}
UNSET = object()


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of another trainer.

    ``ours`` are our keys, in words; ``values`` maps its values to ours where they are called otherwise; ``default`` is
    its own default; ``note`` says what a reader must know, or the reason why there is none here. A name that ends in
    ``.*`` stands for all settings below.
    """

    trainer: str
    name: str
    fate: Fate
    ours: str = ""
    default: Any = UNSET
    values: Mapping[Any, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


class _Rows:
    """Makes rows of one trainer."""

    def __init__(self, trainer: str):
        self.trainer = trainer

    def same(
        self,
        name: str,
        ours: str,
        default: Any = UNSET,
        values: Mapping[Any, Any] | None = None,
        note: str = "",
    ) -> Setting:
        row = Setting(trainer=self.trainer, name=name, fate="same", ours=ours, default=default)
        return replace(row, values=values or {}, note=note)

    def joint(self, name: str, ours: str, default: Any = UNSET, note: str = "") -> Setting:
        row = self.same(name, ours, default)
        return replace(row, fate="joint", note=note)

    def needless(self, why: str, **defaults: Any) -> Iterator[Setting]:
        """Settings with their defaults that change no result here."""
        for name, default in defaults.items():
            dotted = name.replace("__", ".")
            yield Setting(self.trainer, dotted, "none needed", default=default, note=why)

    def absent(self, why: str, **defaults: Any) -> Iterator[Setting]:
        """Settings with their defaults that are not offered."""
        for name, default in defaults.items():
            dotted = name.replace("__", ".")
            yield Setting(self.trainer, dotted, "not here", default=default, note=why)


NULL_IS_0 = {None: 0}
ONE_PROCESS = "one process samples and trains, on the trainer's own modules"
ALWAYS_LOGGED = (
    "every step goes to the console and metrics.jsonl, every completion to samples.jsonl"
)
ROWS_ARE_PACKED = "rows are packed, and memory is set by optim.tokens_per_micro_batch"
DIVIDED_MODEL = (
    "distributed.shard: true divides the model over processes by FSDP2, and has no further settings"
)
NO_DROPOUT = (
    "a token's log-prob in training must be that of the weights that sampled it; dropout would make their "
    "ratio differ from 1, so it is off"
)
NO_COPIES = (
    "only low-rank matrices train beside a frozen base; name linear layers in model.lora.targets, or train "
    "the whole model"
)
OWN_ATTENTION = (
    "the library brings its own attention, and keeps the model's own where it cannot serve"
)
NO_UPLOAD = "upload the folder final/ when the run is done: hf upload REPO runs/NAME/final"
IN_UPDATES = "counted in updates (optimizer steps)"
NO_CRITIC = "GRPO has no critic"

# ---- TRL --------------------------------------------------------------------------------------------------------

_trl = _Rows("trl")
LOSS_TYPE = (
    "grpo: loss.aggregation sequence_mean; dapo, bnpo: token_mean; dr_grpo: constant; luspo: loss.policy gspo with "
    "sequence_sum; cispo, sapo: loss.policy"
)
TRL: tuple[Setting, ...] = (
    # model
    _trl.same("model_name_or_path", "model.name"),
    _trl.same("model_revision", "model.revision", "main", {"main": None}),
    _trl.same("trust_remote_code", "model.trust_remote_code", False),
    _trl.joint("dtype", "model.dtype", "float32"),
    _trl.joint("torch_dtype", "model.dtype", None, "the older name of dtype"),
    _trl.joint("bf16", "model.dtype", None, "bfloat16 keeps fp32 masters; TRL's default is true"),
    _trl.joint("fp16", "model.dtype", False, "float16, with a loss scale"),
    _trl.joint("model_init_kwargs", "model.dtype, model.revision, model.trust_remote_code", None),
    _trl.same("gradient_checkpointing", "model.gradient_checkpointing", True),
    _trl.joint("use_peft", "model.lora", False),
    _trl.joint("lora_r", "model.lora.rank", 16),
    _trl.joint("lora_alpha", "model.lora.alpha", 32),
    _trl.joint("lora_target_modules", "model.lora.targets", None),
    _trl.joint("lora_target_parameters", "model.lora.targets", None),
    _trl.joint("use_rslora", "model.lora.rslora", False),
    _trl.joint("load_in_4bit", "model.quantize", False),
    _trl.joint("bnb_4bit_quant_type", "model.quantize", "nf4"),
    *_trl.absent(NO_DROPOUT, lora_dropout=0.05),
    *_trl.absent(NO_COPIES, lora_modules_to_save=None),
    *_trl.absent("adapters are plain LoRA or rsLoRA", use_dora=False),
    *_trl.absent("bases are held at 4 bits or not at all: model.quantize", load_in_8bit=False),
    *_trl.needless(OWN_ATTENTION, attn_implementation=None),
    *_trl.needless("4-bit constants are always quantized too", use_bnb_nested_quant=False),
    *_trl.needless("the base stays in its own storage", bnb_4bit_quant_storage=None),
    *_trl.needless("every task here is causal language modelling", lora_task_type="CAUSAL_LM"),
    # data
    _trl.same("dataset_name", "data.source"),
    _trl.same("dataset_config", "data.subset", None),
    _trl.same("dataset_train_split", "data.split", "train"),
    _trl.joint(
        "datasets",
        "data.sources",
        None,
        "laid end to end there: a source's weight is its number of rows",
    ),
    _trl.joint("dataset_test_split", "evaluate.sets", "test", "read with eval_strategy"),
    _trl.joint("eval_dataset", "evaluate.sets", None, "GRPOTrainer's argument"),
    *_trl.absent("data sets are read whole", dataset_streaming=False, streaming=False),
    _trl.joint("test_split_size", "data.held_out", None, "a number of rows here"),
    _trl.joint("chat_template_kwargs", "data.template_args", None),
    *_trl.absent("prompts are drawn in a seeded random order", shuffle_dataset=True),
    *_trl.needless(
        "rewards get the columns that they name",
        remove_unused_columns=False,
        label_names=None,
        length_column_name="length",
        train_sampling_strategy="random",
        group_by_length=False,
    ),
    # sampling
    _trl.same("num_generations", "sample.group_size", 8),
    _trl.joint(
        "per_device_train_batch_size",
        "sample.prompts",
        8,
        "with gradient_accumulation_steps: "
        "prompts = size x accumulation x devices / num_generations; memory is optim.tokens_per_micro_batch",
    ),
    _trl.joint("gradient_accumulation_steps", "sample.prompts, optim.updates", 1),
    _trl.joint("steps_per_generation", "sample.prompts, optim.updates", None),
    _trl.joint("generation_batch_size", "sample.prompts", None, "completions there, prompts here"),
    _trl.same("max_completion_length", "sample.max_tokens", 512),
    _trl.same(
        "max_prompt_length",
        "data.max_prompt_tokens",
        None,
        note="longer ones are dropped and counted",
    ),
    _trl.same("temperature", "sample.temperature", 1.0),
    _trl.same("top_p", "sample.top_p", 1.0),
    _trl.same("top_k", "sample.top_k", 0, {None: 0, -1: 0}),
    _trl.same("min_p", "sample.min_p", None, NULL_IS_0),
    *_trl.absent(
        "it would sample from another distribution than the one that is trained",
        repetition_penalty=1.0,
        generation_kwargs=None,
    ),
    *_trl.needless(
        f"there is no vLLM engine yet; {ONE_PROCESS}",
        use_vllm=False,
        vllm_mode="colocate",
        vllm_model_impl="vllm",
        vllm_enable_sleep_mode=False,
        vllm_server_base_url=None,
        vllm_server_host="0.0.0.0",
        vllm_server_port=8000,
        vllm_server_timeout=240.0,
        vllm_group_port=51216,
        vllm_gpu_memory_utilization=0.3,
        vllm_max_model_length=None,
        vllm_tensor_parallel_size=1,
    ),
    *_trl.absent("sampling is free", vllm_structured_outputs_regex=None),
    *_trl.needless(
        "the engine batches continuously by itself",
        cache_implementation=None,
        use_transformers_continuous_batching=False,
        transformers_continuous_batching_config=None,
        use_transformers_paged=False,
        ds3_gather_for_generation=True,
        use_cache=False,
    ),
    *_trl.absent(
        "name tools in the recipe (docs/tools.md) and set environment.max_turns",
        max_tool_calling_iterations=None,
    ),
    # rewards
    _trl.joint("reward_funcs", "rewards.<name>.use", None),
    _trl.joint("reward_weights", "rewards.<name>.weight", None),
    *_trl.absent(
        "write a reward that holds the model: examples/03_reward_model.py",
        reward_model_name_or_path=None,
    ),
    # objective
    _trl.joint("loss_type", "loss.aggregation, loss.policy", "dapo", LOSS_TYPE),
    _trl.joint(
        "importance_sampling_level",
        "loss.policy",
        "token",
        "sequence: gspo, or gspo_token with token_mean",
    ),
    _trl.same(
        "scale_rewards",
        "advantage.rule",
        "group",
        {
            "group": "group_std",
            "batch": "batch_std",
            "none": "center",
            True: "group_std",
            False: "center",
        },
    ),
    _trl.joint(
        "multi_objective_aggregation",
        "advantage.rule",
        "sum_then_normalize",
        "normalize_then_sum: gdpo",
    ),
    _trl.same("beta", "loss.beta", 0.0),
    _trl.joint("use_bias_correction_kl", "loss.kl", True, "k3_unbiased, else k3"),
    _trl.joint("epsilon", "loss.epsilon_low, loss.epsilon_high", 0.2),
    _trl.joint(
        "epsilon_high", "loss.epsilon_high", None, "for cispo less 1: TRL's is the cap itself"
    ),
    _trl.same("delta", "loss.ratio_cap", None, NULL_IS_0),
    _trl.same("num_iterations", "optim.epochs", 1, note="passes over a step's completions"),
    _trl.same("sapo_temperature_pos", "loss.sapo_positive", 1.0),
    _trl.same("sapo_temperature_neg", "loss.sapo_negative", 1.05),
    *_trl.absent("vespo is not among loss.policy", vespo_k_pos=2.0, vespo_lambda_pos=3.0),
    *_trl.absent("vespo is not among loss.policy", vespo_k_neg=3.0, vespo_lambda_neg=2.0),
    _trl.same("mask_truncated_completions", "advantage.mask_truncated", False),
    _trl.same("top_entropy_quantile", "loss.top_entropy", 1.0),
    _trl.same("entropy_coef", "loss.entropy", 0.0),
    _trl.joint("use_adaptive_entropy", "loss.entropy_target", False),
    _trl.joint("entropy_target", "loss.entropy_target", 0.2),
    _trl.joint("entropy_coef_delta", "loss.entropy_step", 0.005),
    *_trl.absent("the adaptive weight has no ends", entropy_coef_min=0.0, entropy_coef_max=1.0),
    _trl.same("off_policy_mask_threshold", "loss.off_policy_mask", None, NULL_IS_0),
    _trl.joint("sync_ref_model", "loss.reference_every", False, IN_UPDATES),
    _trl.joint("ref_model_sync_steps", "loss.reference_every", 512, IN_UPDATES),
    _trl.joint(
        "ref_model_mixup_alpha",
        "loss.reference_every",
        0.6,
        "the reference is replaced (1.0), not mixed",
    ),
    _trl.joint(
        "vllm_importance_sampling_correction", "loss.correction", True, "read with use_vllm"
    ),
    _trl.joint(
        "vllm_importance_sampling_mode",
        "loss.correction, loss.correction_mask",
        "sequence_mask",
        "truncate: correction; mask: correction_mask",
    ),
    _trl.joint(
        "vllm_importance_sampling_clip_max", "loss.correction_cap, loss.correction_high", 3.0
    ),
    _trl.joint("vllm_importance_sampling_clip_min", "loss.correction_low", None),
    _trl.joint(
        "vllm_importance_sampling_cap",
        "loss.correction_cap, loss.correction_high",
        None,
        "the older name",
    ),
    _trl.same(
        "router_aux_loss_coef",
        "loss.load_balance",
        None,
        NULL_IS_0,
        "over the whole update, not each micro-batch",
    ),
    *_trl.absent("no label smoothing: there are no labels", label_smoothing_factor=0.0),
    *_trl.absent("embeddings get no noise", neftune_noise_alpha=None),
    *_trl.needless("dropout is off wherever a log-prob is taken", disable_dropout=False),
    *_trl.needless(
        "log-probs are taken in fp32 from the head's product", cast_lm_head_to_fp32=False
    ),
    # optimizer
    _trl.same("learning_rate", "optim.lr", 1e-6),
    _trl.joint(
        "warmup_steps",
        "optim.warmup, optim.warmup_ratio",
        0,
        f"{IN_UPDATES}; below 1 a share of the run",
    ),
    _trl.same("warmup_ratio", "optim.warmup_ratio", None, NULL_IS_0),
    _trl.same(
        "lr_scheduler_type",
        "optim.schedule",
        "linear",
        {
            "linear": "linear",
            "cosine": "cosine",
            "constant": "constant",
            "constant_with_warmup": "constant",
        },
    ),
    *_trl.absent("schedules have no further arguments", lr_scheduler_kwargs=None),
    _trl.joint(
        "optim",
        "optim.state, optim.offload",
        "adamw_torch_fused",
        "AdamW; 8bit and paged forms by these keys",
    ),
    *_trl.absent("AdamW has the keys of section optim", optim_args=None, optim_target_modules=None),
    _trl.same("weight_decay", "optim.weight_decay", 0.0),
    _trl.same("adam_beta1", "optim.beta1", 0.9),
    _trl.same("adam_beta2", "optim.beta2", 0.999),
    _trl.same("adam_epsilon", "optim.eps", 1e-8),
    _trl.same("max_grad_norm", "optim.max_grad_norm", 1.0),
    _trl.joint("max_steps", "steps", -1, "optimizer steps there, passes of the loop here"),
    _trl.joint("num_train_epochs", "epochs", 3.0, "steps where the rows can be counted"),
    *_trl.needless(
        ROWS_ARE_PACKED,
        pad_to_multiple_of="auto",
        auto_find_batch_size=False,
        average_tokens_across_devices=True,
        gradient_checkpointing_kwargs=None,
        activation_checkpointing=None,
        activation_checkpointing_kwargs=None,
        torch_empty_cache_steps=None,
    ),
    *_trl.needless(
        "kernels are chosen by themselves", use_liger_kernel=False, liger_kernel_config=None
    ),
    *_trl.needless("see sample.compile", torch_compile=False, torch_compile_backend=None),
    *_trl.needless("see sample.compile", torch_compile_mode=None, tf32=None),
    # evaluation, checkpoints, logs
    _trl.joint("eval_strategy", "evaluate.every, evaluate.sets", "no"),
    _trl.joint(
        "eval_steps", "evaluate.every", None, "optimizer steps there, passes of the loop here"
    ),
    _trl.same("num_generations_eval", "evaluate.samples", None),
    _trl.joint("eval_on_start", "evaluate.before", False),
    *_trl.needless("evaluation comes before, during and after", do_eval=False, do_train=False),
    *_trl.needless("evaluation comes every so many steps, from the first on", eval_delay=0),
    *_trl.needless(
        "evaluation is batched by the engine",
        per_device_eval_batch_size=8,
        prediction_loss_only=False,
        eval_do_concat_batches=True,
        eval_use_gather_object=False,
        eval_accumulation_steps=None,
        include_for_metrics=[],
        batch_eval_metrics=False,
        bf16_full_eval=False,
        fp16_full_eval=False,
        do_predict=False,
    ),
    _trl.joint("save_strategy", "checkpoint.every", "steps"),
    _trl.joint(
        "save_steps", "checkpoint.every", 500, "optimizer steps there, passes of the loop here"
    ),
    _trl.same("save_total_limit", "checkpoint.keep", None),
    *_trl.needless(
        "checkpoint.keep_best keeps the best beside the last, checkpoint.best_by says by what",
        load_best_model_at_end=False,
        metric_for_best_model=None,
        greater_is_better=None,
    ),
    *_trl.needless(
        "a checkpoint holds all that an exact resume needs; final/ is the model alone",
        save_only_model=False,
        save_on_each_node=False,
        enable_jit_checkpoint=False,
        ignore_data_skip=False,
        restore_callback_states_from_checkpoint=False,
    ),
    *_trl.needless("on the command line: --resume, --resume=auto", resume_from_checkpoint=None),
    _trl.same("output_dir", "run_dir", None),
    _trl.same("run_name", "name", None),
    _trl.joint("report_to", "log.wandb", "none", "or log.tensorboard, log.trackio, log.mlflow"),
    _trl.joint("project", "log.wandb.project", "huggingface"),
    _trl.joint("trackio_space_id", "log.trackio.space", None),
    *_trl.absent(
        "trackio chooses its bucket", trackio_bucket_id=None, trackio_static_space_id=None
    ),
    *_trl.needless(
        ALWAYS_LOGGED,
        logging_strategy="steps",
        logging_steps=10,
        logging_first_step=False,
        logging_dir=None,
        log_on_each_node=True,
        logging_nan_inf_filter=True,
        include_num_input_tokens_seen="no",
        log_level="passive",
        log_level_replica="warning",
        disable_tqdm=None,
        log_completions=False,
        log_multimodal=True,
        num_completions_to_print=None,
        log_unique_prompts=False,
        skip_memory_metrics=True,
    ),
    *_trl.absent(
        NO_UPLOAD,
        push_to_hub=False,
        hub_token=None,
        hub_private_repo=None,
        hub_model_id=None,
        hub_strategy="every_save",
        hub_always_push=False,
        hub_revision=None,
        log_completions_hub_repo=None,
        push_to_hub_token=None,
    ),
    # the machine
    _trl.same("seed", "seed", 42),
    _trl.same("full_determinism", "deterministic", False),
    *_trl.needless("one seed decides data order and every token", data_seed=None),
    *_trl.needless("a GPU is used if there is one; CUDA_VISIBLE_DEVICES= hides it", use_cpu=False),
    *_trl.needless("torchrun sets it", local_rank=-1, ddp_backend=None, ddp_timeout=1800),
    *_trl.needless(
        "gradients are reduced by the library",
        ddp_find_unused_parameters=None,
        ddp_bucket_cap_mb=None,
        ddp_broadcast_buffers=None,
        ddp_static_graph=None,
        accelerator_config=None,
        debug="",
        ignore_bias_buffers=False,
    ),
    *_trl.absent(
        DIVIDED_MODEL, fsdp=None, fsdp_config=None, deepspeed=None, parallelism_config=None
    ),
    *_trl.needless(
        "data is read once, and prompts are drawn from memory",
        dataloader_drop_last=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=True,
        dataloader_persistent_workers=False,
        dataloader_prefetch_factor=None,
        dataloader_multiprocessing_context=None,
        dataloader_in_order=True,
    ),
)

# ---- verl -------------------------------------------------------------------------------------------------------

_verl = _Rows("verl")
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"
POLICY = f"{ACTOR}.policy_loss"
CORRECTION = "algorithm.rollout_correction"
ENGINE = f"settings of vLLM and SGLang; {ONE_PROCESS}"
RAY = "there is no Ray"


def _under(prefix: str, **defaults: Any) -> dict[str, Any]:
    """Defaults by name, below `prefix`; a double underscore is a dot."""
    return {f"{prefix}.{name}": default for name, default in defaults.items()}


VERL: tuple[Setting, ...] = (
    # model
    _verl.same(f"{MODEL}.path", "model.name"),
    _verl.same(f"{MODEL}.trust_remote_code", "model.trust_remote_code", False),
    _verl.same(f"{MODEL}.enable_gradient_checkpointing", "model.gradient_checkpointing", True),
    _verl.joint(f"{MODEL}.lora_rank", "model.lora.rank", 0),
    _verl.joint(f"{MODEL}.lora_alpha", "model.lora.alpha", 16),
    _verl.joint(f"{MODEL}.target_modules", "model.lora.targets", "all-linear"),
    _verl.same(f"{MODEL}.lora_adapter_path", "model.adapter", None),
    _verl.joint(f"{ACTOR}.fsdp_config.dtype", "model.dtype", "bfloat16", "with fp32 masters"),
    *_verl.absent("the targets name what gets adapters", **_under(MODEL, exclude_modules=None)),
    *_verl.absent(NO_DROPOUT, **_under(MODEL, lora__dropout=0.0)),
    *_verl.absent(
        "the tokenizer and configuration are those of model.name",
        **_under(MODEL, hf_config_path=None, tokenizer_path=None, custom_chat_template=None),
        **_under(MODEL, override_config={}, external_lib=None),
        data__tokenizer=None,
    ),
    *_verl.needless(
        ROWS_ARE_PACKED,
        **_under(MODEL, use_remove_padding=True, enable_activation_offload=False, use_shm=False),
        **_under(MODEL, use_liger=False, use_fused_kernels=False),
        **_under(ACTOR, use_prefix_grouper=False, use_dynamic_bsz=False, use_fused_kernels=False),
        **_under(ACTOR, ppo_micro_batch_size=None, ppo_micro_batch_size_per_gpu=None),
        **_under(ACTOR, use_torch_compile=True, use_remove_padding=False),
        **_under(ACTOR, calculate_entropy=False, calculate_sum_pi_squared=False),
    ),
    _verl.same(f"{ACTOR}.ppo_max_token_len_per_gpu", "optim.tokens_per_micro_batch", 16384),
    # data
    _verl.joint(
        "data.train_files", "data.source, data.sources", note="several files make a mixture"
    ),
    _verl.same(
        "data.prompt_key", "data.columns.prompt", "prompt", note="messages need data.template: chat"
    ),
    _verl.same(
        "data.max_prompt_length",
        "data.max_prompt_tokens",
        512,
        note="longer ones are dropped and counted",
    ),
    _verl.same("data.max_response_length", "sample.max_tokens", 512),
    _verl.joint("data.train_batch_size", "sample.prompts, optim.updates", 1024),
    _verl.joint("data.gen_batch_size", "sample.oversample", None),
    _verl.joint("data.seed", "seed", None),
    _verl.joint("data.val_files", "evaluate.sets"),
    _verl.joint("data.val_max_samples", "evaluate.sets", -1, "limit: the first rows"),
    *_verl.absent("take the rows that you want into a file", data__train_max_samples=-1),
    *_verl.absent("prompts are drawn in a seeded random order", data__shuffle=True),
    _verl.same("data.apply_chat_template_kwargs", "data.template_args", {}),
    *_verl.absent("data sets of one's own are files, or tasks", data__custom_cls__path=None),
    *_verl.needless("prompts that are too long are dropped and counted", data__truncation="error"),
    *_verl.needless(
        "data is read once, and prompts are drawn from memory",
        data__filter_overlong_prompts=False,
        data__filter_overlong_prompts_workers=1,
        data__reward_fn_key="data_source",
        data__val_batch_size=None,
        data__return_raw_input_ids=False,
        data__return_raw_chat=True,
        data__return_full_prompt=False,
        data__dataloader_num_workers=8,
        data__validation_shuffle=False,
        data__use_shm=False,
        data__trust_remote_code=False,
        data__custom_cls__name=None,
        data__image_key="images",
        data__video_key="videos",
        data__audio_key="audios",
        data__image_patch_size=14,
        data__return_multi_modal_inputs=True,
        data__mm_processor_kwargs={},
        data__function_tool_path=None,
        data__tool_config_path=None,
    ),
    # sampling
    _verl.same(f"{ROLLOUT}.n", "sample.group_size", 1),
    _verl.same(f"{ROLLOUT}.temperature", "sample.temperature", 1.0),
    _verl.same(f"{ROLLOUT}.top_k", "sample.top_k", -1, {-1: 0}),
    _verl.same(f"{ROLLOUT}.top_p", "sample.top_p", 1),
    _verl.same(f"{ROLLOUT}.max_num_seqs", "sample.max_rows", 256),
    _verl.same(f"{ROLLOUT}.val_kwargs.n", "evaluate.samples", 1),
    _verl.joint(f"{ROLLOUT}.val_kwargs.temperature", "evaluate.temperature", 0),
    _verl.joint(f"{ROLLOUT}.val_kwargs.do_sample", "evaluate.temperature", False),
    *_verl.absent(
        "sampling is free and ends at the stop token",
        **_under(ROLLOUT, do_sample=True, ignore_eos=False),
    ),
    *_verl.absent("evaluation filters as training does", **_under(ROLLOUT, val_kwargs__top_k=-1)),
    _verl.joint(f"{ROLLOUT}.val_kwargs.top_p", "evaluate.sets", 1.0, "top_p of each set"),
    *_verl.absent(
        "name tools in the recipe: docs/tools.md", **_under(ROLLOUT, multi_turn__enable=False)
    ),
    *_verl.absent("see sample.over_request", **_under(ROLLOUT, over_sample_rate=0)),
    *_verl.needless(
        ENGINE,
        **{
            f"{ROLLOUT}.{name}": UNSET
            for name in (
                "name",
                "mode",
                "nnodes",
                "n_gpus_per_node",
                "full_determinism",
                "seed",
                "prompt_length",
                "response_length",
                "dtype",
                "gpu_memory_utilization",
                "enforce_eager",
                "cudagraph_capture_sizes",
                "free_cache_engine",
                "tensor_model_parallel_size",
                "data_parallel_size",
                "expert_parallel_size",
                "pipeline_model_parallel_size",
                "max_num_batched_tokens",
                "max_model_len",
                "enable_chunked_prefill",
                "enable_prefix_caching",
                "logprobs_mode",
                "scheduling_policy",
                "load_format",
                "layered_summon",
                "log_prob_micro_batch_size",
                "log_prob_micro_batch_size_per_gpu",
                "log_prob_use_dynamic_bsz",
                "log_prob_max_token_len_per_gpu",
                "disable_log_stats",
                "multi_stage_wake_up",
                "engine_kwargs.*",
                "router_config_path",
                "multi_turn.*",
                "calculate_log_probs",
                "agent.*",
                "checkpoint_engine.*",
                "trace.*",
                "skip_tokenizer_init",
                "enable_rollout_routing_replay",
                "moe_load_balance_metrics_interval",
                "prometheus.*",
                "quantization",
                "quantization_config_file",
                "qat",
                "disaggregation.*",
                "_target_",
                "val_kwargs._target_",
            )
        },
    ),
    # rewards
    _verl.joint("custom_reward_function.path", "rewards.<name>.use", None),
    _verl.joint("custom_reward_function.name", "rewards.<name>.use", None),
    _verl.joint("reward.custom_reward_function.path", "rewards.<name>.use", None),
    _verl.joint("reward.custom_reward_function.name", "rewards.<name>.use", "compute_score"),
    *_verl.absent(
        "write a reward that holds the model: examples/03_reward_model.py",
        reward_model__enable=None,
        reward__reward_model__enable=False,
    ),
    *_verl.absent(
        "sum rewards by their weights; soft_overlong is a reward",
        reward_model__reward_manager=None,
        reward__reward_manager__name="naive",
    ),
    *_verl.needless(
        "rewards run in worker processes", reward__num_workers=8, reward_model__num_workers=None
    ),
    # objective
    _verl.joint(
        "algorithm.adv_estimator",
        "advantage.rule",
        "gae",
        "grpo, rloo, opo, gpg, grpo_passk, gdpo, reinforce_plus_plus(_baseline)",
    ),
    _verl.joint(
        "algorithm.norm_adv_by_std_in_grpo", "advantage.rule", True, "group_std, else center"
    ),
    _verl.joint(f"{ACTOR}.use_kl_loss", "loss.beta", False),
    _verl.joint(f"{ACTOR}.kl_loss_coef", "loss.beta", 0.001, "with use_kl_loss"),
    _verl.joint(
        f"{ACTOR}.kl_loss_type", "loss.kl", "low_var_kl", "kl: k1, mse: k2, low_var_kl: k3"
    ),
    _verl.joint("algorithm.use_kl_in_reward", "loss.kl_in", False, "reward"),
    _verl.joint("algorithm.kl_ctrl.kl_coef", "loss.beta", 0.001, "with use_kl_in_reward"),
    _verl.joint("algorithm.kl_penalty", "loss.kl", "kl", "with use_kl_in_reward"),
    *_verl.absent("the weight of the KL is fixed", algorithm__kl_ctrl__type="fixed"),
    *_verl.needless("read by the adaptive KL only", algorithm__kl_ctrl__horizon=10000),
    *_verl.needless("read by the adaptive KL only", algorithm__kl_ctrl__target_kl=0.1),
    _verl.joint(f"{ACTOR}.clip_ratio", "loss.epsilon_low, loss.epsilon_high", 0.2),
    _verl.joint(f"{ACTOR}.clip_ratio_low", "loss.epsilon_low", 0.2),
    _verl.joint(f"{ACTOR}.clip_ratio_high", "loss.epsilon_high", 0.2),
    _verl.joint(f"{ACTOR}.clip_ratio_c", "loss.dual_clip", 3.0),
    _verl.joint(
        f"{ACTOR}.loss_agg_mode",
        "loss.aggregation",
        "token-mean",
        "token-mean: token_mean; seq-mean-token-mean: sequence_mean; seq-mean-token-sum: sequence_sum; "
        "seq-mean-token-sum-norm: constant; token-sum: token_sum",
    ),
    _verl.joint(f"{ACTOR}.loss_scale_factor", "loss.constant", None),
    _verl.joint(
        f"{POLICY}.loss_mode",
        "loss.policy",
        "vanilla",
        "vanilla: clip; gpg: reinforce; geo_mean: gmpo; gspo, sapo, cispo, clip_cov, kl_cov, dppo_tv, dppo_kl",
    ),
    _verl.joint(f"{POLICY}.clip_cov_ratio", "loss.cov_share", 0.0002, "for clip_cov"),
    _verl.same(f"{POLICY}.clip_cov_lb", "loss.cov_low", 1.0),
    _verl.same(f"{POLICY}.clip_cov_ub", "loss.cov_high", 5.0),
    _verl.joint(f"{POLICY}.kl_cov_ratio", "loss.cov_share", 0.0002, "for kl_cov"),
    _verl.joint(f"{POLICY}.ppo_kl_coef", "loss.cov_kl", 0.1, "for kl_cov"),
    *_verl.absent("dro is not among loss.policy", **_under(POLICY, dro_beta=None)),
    _verl.same(f"{ACTOR}.tau_pos", "loss.sapo_positive", 1.0),
    _verl.same(f"{ACTOR}.tau_neg", "loss.sapo_negative", 1.05),
    _verl.same(f"{ACTOR}.entropy_coeff", "loss.entropy", 0),
    _verl.joint("algorithm.filter_groups.enable", "advantage.flat", False, "refill"),
    _verl.joint(
        "algorithm.filter_groups.metric", "advantage.flat_by", "reward", "acc: accuracy, else score"
    ),
    _verl.joint("algorithm.filter_groups.max_num_gen_batches", "advantage.refills", 0, "less 1"),
    *_verl.needless(
        "sampling is synchronous", algorithm__filter_groups__max_inflight_gen_batches=1
    ),
    _verl.joint(f"{CORRECTION}.rollout_is", "loss.correction", None, "token, sequence"),
    _verl.joint(f"{CORRECTION}.rollout_is_threshold", "loss.correction_cap", 2.0),
    *_verl.absent(
        "see loss.correction_mask", **_under(CORRECTION, rollout_rs=None, rollout_rs_threshold=None)
    ),
    *_verl.absent(
        "see loss.old: sampler", **_under(CORRECTION, bypass_mode=False, loss_type="ppo_clip")
    ),
    *_verl.absent(
        "weights are not normalised", **_under(CORRECTION, rollout_is_batch_normalize=False)
    ),
    *_verl.absent(
        "a completion has one reward at its end", algorithm__gamma=1.0, algorithm__lam=1.0
    ),
    *_verl.absent("completions are not reweighted", algorithm__use_pf_ppo=False),
    *_verl.needless("read with use_pf_ppo", **{"algorithm.pf_ppo.*": UNSET}),
    # optimizer
    _verl.same(f"{ACTOR}.optim.lr", "optim.lr", 1e-6),
    _verl.joint(
        f"{ACTOR}.optim.lr_warmup_steps",
        "optim.warmup",
        -1,
        "steps of the loop there, updates here",
    ),
    _verl.joint(f"{ACTOR}.optim.lr_warmup_steps_ratio", "optim.warmup_ratio", 0.0),
    _verl.same(
        f"{ACTOR}.optim.lr_scheduler_type",
        "optim.schedule",
        "constant",
        {"constant": "constant", "cosine": "cosine"},
    ),
    _verl.same(
        f"{ACTOR}.optim.warmup_style",
        "optim.schedule",
        None,
        {None: None, "constant": "constant", "cosine": "cosine"},
        "the older name of lr_scheduler_type",
    ),
    _verl.same(f"{ACTOR}.optim.weight_decay", "optim.weight_decay", 0.01),
    _verl.joint(f"{ACTOR}.optim.betas", "optim.beta1, optim.beta2", [0.9, 0.999]),
    _verl.same(f"{ACTOR}.grad_clip", "optim.max_grad_norm", 1.0),
    _verl.joint(f"{ACTOR}.ppo_mini_batch_size", "optim.updates", 256, "data.train_batch_size / it"),
    _verl.same(f"{ACTOR}.ppo_epochs", "optim.epochs", 1),
    _verl.same(f"{ACTOR}.optim.min_lr_ratio", "optim.min_lr_ratio", 0.0, NULL_IS_0),
    *_verl.absent("the cosine is half a wave", **_under(f"{ACTOR}.optim", num_cycles=0.5)),
    *_verl.absent("the optimizer is AdamW", **_under(f"{ACTOR}.optim", optimizer="AdamW")),
    *_verl.absent(
        "the optimizer is AdamW", **_under(f"{ACTOR}.optim", override_optimizer_config=None)
    ),
    *_verl.needless(
        "the optimizer is AdamW, over all of the run",
        **_under(
            f"{ACTOR}.optim", _target_=UNSET, optimizer_impl="torch.optim", total_training_steps=-1
        ),
        **_under(f"{ACTOR}.optim", clip_grad=1.0, zero_indexed_step=True),
        **_under(ACTOR, shuffle=False, freeze_vision_tower=False),
    ),
    _verl.joint(f"{ACTOR}.data_loader_seed", "seed", 42),
    # the run
    _verl.joint("trainer.total_epochs", "epochs", 30, "steps where the rows can be counted"),
    _verl.joint("trainer.total_training_steps", "steps", None),
    _verl.joint("trainer.save_freq", "checkpoint.every", -1),
    _verl.joint("trainer.test_freq", "evaluate.every", -1),
    _verl.same("trainer.max_actor_ckpt_to_keep", "checkpoint.keep", None),
    _verl.same("trainer.default_local_dir", "run_dir", UNSET),
    _verl.same("trainer.experiment_name", "name", "gsm8k"),
    _verl.joint("trainer.project_name", "log.wandb.project", "verl_examples"),
    _verl.joint(
        "trainer.logger",
        "log.wandb",
        ["console", "wandb"],
        "or log.tensorboard, log.trackio, log.mlflow",
    ),
    *_verl.needless("on the command line: --resume, --resume=auto", trainer__resume_mode="auto"),
    *_verl.needless("a run resumes from its own folder", trainer__resume_from_path=None),
    *_verl.needless(
        "processes are those of torchrun", trainer__nnodes=1, trainer__n_gpus_per_node=8
    ),
    _verl.same("trainer.val_before_train", "evaluate.before", True),
    *_verl.absent("grpo evaluate does that", trainer__val_only=False),
    *_verl.needless(
        ALWAYS_LOGGED,
        trainer__log_val_generations=0,
        trainer__rollout_data_dir=None,
        trainer__validation_data_dir=None,
    ),
    *_verl.needless(
        NO_CRITIC,
        **{"critic.*": UNSET, "trainer.critic_warmup": 0, "trainer.max_critic_ckpt_to_keep": None},
    ),
    *_verl.needless(
        RAY,
        trainer__balance_batch=True,
        trainer__device="cuda",
        trainer__esi_redundant_time=0,
        trainer__ray_wait_register_center_timeout=300,
        trainer__default_hdfs_dir=None,
        trainer__del_local_ckpt_after_load=False,
        trainer__checkpoint_callback_class=None,
        trainer__use_v1=True,
        **{
            "ray_kwargs.*": UNSET,
            "ray_init.*": UNSET,
            "transfer_queue.*": UNSET,
            "trainer.v1.*": UNSET,
        },
        **{
            "actor_rollout_ref.hybrid_engine": True,
            "actor_rollout_ref.nccl_timeout": 600,
            "model_engine": "dp",
        },
    ),
    *_verl.needless(
        DIVIDED_MODEL,
        **{
            f"{ACTOR}.fsdp_config.*": UNSET,
            "actor_rollout_ref.ref.*": UNSET,
            f"{ACTOR}.checkpoint.*": UNSET,
        },
        **_under(ACTOR, strategy="fsdp", ulysses_sequence_parallel_size=1, rollout_n=UNSET),
        **_under(ACTOR, entropy_from_logits_with_chunking=False, entropy_checkpointing=False),
        **_under(
            ACTOR,
            entropy_from_logits_chunk_size=2048,
            pad_to_length=False,
            use_rollout_log_probs=UNSET,
        ),
    ),
    *_verl.needless(
        "nothing is profiled",
        **{
            f"{ACTOR}.profiler.*": UNSET,
            f"{ROLLOUT}.profiler.*": UNSET,
            "global_profiler.*": UNSET,
        },
    ),
    *_verl.absent("weights train in their own dtype", **_under(ACTOR, qat__enable=False)),
    *_verl.needless("read with qat.enable", **{f"{ACTOR}.qat.*": UNSET}),
    *_verl.needless(
        "read with multi-token prediction", **{f"{MODEL}.mtp.*": UNSET, f"{ROLLOUT}.mtp": UNSET}
    ),
    *_verl.needless(
        "Megatron's form of these settings",
        **{f"{MODEL}.lora.*": UNSET, f"{ACTOR}.megatron.*": UNSET},
    ),
    *_verl.needless(
        "kernels are chosen by themselves",
        **{f"{MODEL}.fused_kernel_options.*": UNSET, f"{MODEL}.tiled_mlp.*": UNSET},
    ),
    *_verl.absent("name the teacher in loss.teacher", distillation__enabled=False),
    *_verl.needless("read with distillation.enabled", **{"distillation.*": UNSET}),
    *_verl.needless(
        "read with a reward model", **{"reward.reward_model.*": UNSET, "reward_model.*": UNSET}
    ),
    *_verl.needless("rewards are summed", **{"reward.reward_manager.*": UNSET}),
    *_verl.needless(
        "see section sandbox", **{"reward.sandbox_fusion.*": UNSET, "sandbox_fusion.*": UNSET}
    ),
    *_verl.needless("nothing is skipped", **{"skip.*": UNSET}),
)

# ---- peft, whose LoraConfig TRL takes ----------------------------------------------------------------------------

_peft = _Rows("peft")
PEFT: tuple[Setting, ...] = (
    _peft.same("r", "model.lora.rank", 8),
    _peft.same("lora_alpha", "model.lora.alpha", 8),
    _peft.same("target_modules", "model.lora.targets", None),
    _peft.same("target_parameters", "model.lora.targets", None),
    _peft.same("use_rslora", "model.lora.rslora", False),
    *_peft.absent(NO_DROPOUT, lora_dropout=0.0),
    *_peft.absent(NO_COPIES, modules_to_save=None, bias="none", trainable_token_indices=None),
    *_peft.absent("adapters are plain LoRA or rsLoRA", use_dora=False, use_qalora=False),
    *_peft.absent(
        "all adapters have one rank and one scale, in every layer",
        rank_pattern={},
        alpha_pattern={},
        layers_to_transform=None,
        layers_pattern=None,
        exclude_modules=None,
        layer_replication=None,
    ),
    *_peft.absent("adapters begin as peft's usual ones", init_lora_weights=True),
    *_peft.needless("every task here is causal language modelling", task_type=None),
    *_peft.needless("adapters train here", inference_mode=False),
)

TABLE = {"trl": TRL, "verl": VERL, "peft": PEFT}
ANYWHERE = (
    "*",
    "name",
    "path",
    "type",
    "enable",
    "enabled",
    "mode",
    "metric",
    "strategy",
    "device",
)
"""Last parts of names that say nothing by themselves."""


# ---- look-up ----------------------------------------------------------------------------------------------------


@cache
def _by_name(trainer: str) -> dict[str, Setting]:
    return {setting.name: setting for setting in TABLE[trainer]}


def find(trainer: str, name: str) -> Setting | None:
    """The setting called `name`: itself, or the group that it belongs to."""
    settings = _by_name(trainer)
    if name in settings:
        return settings[name]
    parents = [name[:end] for end in range(len(name)) if name[end] == "."]
    groups = [f"{parent}.*" for parent in reversed(parents)]
    return next((settings[group] for group in groups if group in settings), None)


def advice(name: str) -> str:
    """What another trainer's setting, by its full name, is here, as the end of a sentence; empty if it is nobody's.

    >>> advice("num_generations")
    "; TRL's num_generations is sample.group_size here"
    """
    found = next(filter(None, (find(trainer, name) for trainer in TABLE)), None)
    return "" if found is None else f"; {_sentence(found)}"


def advice_on_last_part(name: str) -> str:
    """The same for the last part of a dotted name, unless many settings end so.

    >>> advice_on_last_part("kl_loss_coef")
    "; verl's actor_rollout_ref.actor.kl_loss_coef is loss.beta here (with use_kl_loss)"
    """
    if name in ANYWHERE:
        return ""
    same_end = [setting for setting in (*TRL, *VERL, *PEFT) if setting.leaf == name]
    found = next(iter(sorted(same_end, key=_is_no_key)), None)
    return "" if found is None else f"; {_sentence(found)}"


def _is_no_key(setting: Setting) -> bool:
    return not setting.ours


def _sentence(setting: Setting) -> str:
    whose = f"{PRODUCTS[setting.trainer]}'s {setting.name}"
    if setting.fate == "not here":
        return f"{whose} has no counterpart: {setting.note}"
    if setting.fate == "none needed":
        return f"{whose} is not needed: {setting.note}"
    keys = " and ".join(setting.ours.split(", "))
    verb = "is set by" if " and " in keys else "is"
    note = f" ({setting.note})" if setting.note else ""
    values = "".join(
        f"; {_word(old)}: {_word(new)}" for old, new in setting.values.items() if new is not None
    )
    return f"{whose} {verb} {keys} here{note}{values}"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
