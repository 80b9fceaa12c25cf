"""Every key of a recipe: a frozen dataclass for each section, with the default, help and range of each key.

A default is stated once, in its field; the help is what ``--help`` and the docs show. Rules between keys are in
``constraints``; reading values into these classes is in ``build``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

from grpo.monitor.gate_table import GATES, RUNGS
from grpo.recipe.data_sections import DataSection, EvaluateSection, RewardSection, build_rewards
from grpo.recipe.distill_section import TEACHER_DTYPES, DistillSection
from grpo.recipe.environment_section import TOOLS, EnvironmentSection
from grpo.recipe.keys import SectionBuilder, ShortSection, key
from grpo.recipe.objectives import AGGREGATIONS, KLS, LEVELS, POLICY_LOSSES, RULES
from grpo.recipe.presets import PRESETS
from grpo.recipe.reject_section import RejectSection
from grpo.recipe.values import (
    ADDRESSES,
    CAPS,
    LARGEST_SEED,
    MODULES,
    NOT_EMPTY,
    SHARE,
    Check,
    RecipeError,
    above,
    at_least,
    between,
    dotted,
    from_below,
    is_price,
    kind,
    off_or_above,
    one_of,
)
from rewards.spelling import many, nearest

STAGES = ("grpo", "sft", "reject", "distill", "evaluate", "export")
"""What a run may do; a stage that has a section of its own is named by it."""
FORMS = ("completion", "chat", "text")
"""What a row for supervised training may be."""


@dataclass(frozen=True, repr=False)
class LoraSection(ShortSection):
    """Low-rank adapters."""

    rank: int = key(16, "rank of the adapters", at_least(1))
    alpha: float = key(
        32.0, "scale of the adapters; their output is multiplied by alpha / rank", above(0)
    )
    targets: str | list[str] = key(
        "all-linear", "all-linear (every linear layer but the head), or a list of module names"
    )
    rslora: bool = key(
        False, "rank-stabilised: the adapters' output is multiplied by alpha / sqrt(rank) instead"
    )


@dataclass(frozen=True, repr=False)
class ModelSection(ShortSection):
    """The policy: which model, and in what form it trains."""

    name: str | None = key(
        None,
        "hub id, folder or .gguf file of a causal language model; quickstart_base and quickstart_small_base ship",
        NOT_EMPTY,
    )
    dtype: str = key(
        "float32",
        "dtype of the parameters; bfloat16 and float16 also keep fp32 master weights, and "
        "float16, for GPUs without bfloat16, scales the loss",
        one_of("float32", "bfloat16", "float16", "float64"),
    )
    lora: LoraSection | None = key(None, "train low-rank adapters instead of the whole model")
    adapter: str | None = key(
        None,
        "go on training the LoRA adapter of this folder or hub id (peft's adapter_config.json), whose rank, alpha "
        "and targets hold; the reference of the KL is the model with it",
        NOT_EMPTY,
    )
    quantize: str | None = key(
        None,
        "nf4 or fp4: bitsandbytes holds the base at 4 bits, adapters train (QLoRA)",
        one_of("nf4", "fp4"),
    )
    trust_remote_code: bool = key(
        False, "run the Python that comes with the model; only for sources you trust"
    )
    gradient_checkpointing: bool = key(
        False, "recompute activations in the backward: less memory, more time"
    )
    revision: str | None = key(None, "branch, tag or commit of a hub model")
    routing_replay: bool = key(
        True,
        "mixtures of experts: completion tokens train on the experts that they were sampled with; false lets the "
        "trainer choose anew",
    )


@dataclass(frozen=True, repr=False)
class SampleSection(ShortSection):
    """How completions are sampled."""

    engine: str = key(
        "embedded",
        "what samples: embedded (the trainer's own modules), or the servers of sample.servers: vllm or sglang",
        one_of("embedded", "vllm", "sglang"),
    )
    servers: list[str] = key(
        [],
        "for engines vllm and sglang: the servers' addresses, e.g. [http://127.0.0.1:8000]",
        ADDRESSES,
    )
    server_folder: str | None = key(
        None,
        "for engines vllm and sglang: a folder that the trainer and every server see under the same path, through "
        "which weights travel; default: servers in the run folder",
        NOT_EMPTY,
    )
    server_silence: float = key(
        300.0,
        "for engines vllm and sglang: seconds without a token after which a server that has work is given up",
        above(0),
    )
    server_load: float = key(
        900.0,
        "for engines vllm and sglang: seconds that a server may take to load new weights",
        above(0),
    )
    probe_every: int = key(
        1,
        "for engines vllm and sglang: after every k-th push of weights, a few tokens are compared with the trainer's "
        "log-probs; 0 trusts the servers",
        at_least(0),
    )
    staleness: int = key(
        0,
        "for engines vllm and sglang: steps that sampling may be ahead of the updates; 0 samples each step by the "
        "weights that it trains",
        at_least(0),
    )
    prompts: int = key(32, "prompts sampled a step", at_least(1))
    oversample: float = key(
        0.0,
        "additional prompts, as a share of sample.prompts, sampled at once to choose from; needs "
        "advantage.flat drop or refill",
        at_least(0),
    )
    group_size: int = key(8, "completions sampled for each prompt", at_least(1))
    max_tokens: int = key(
        1024,
        "longest completion, in tokens; {0: 512, 8200: 1024} is a schedule, the cap of training from each step on",
        at_least(1),
    )
    max_tokens_from: dict[int, int] = key(
        {},
        "the schedule that sample.max_tokens was written as; its largest cap is sample.max_tokens, for which "
        "memory is planned and which evaluations have",
        CAPS,
    )
    temperature: float = key(1.0, "divides the logits; 0 is greedy", at_least(0))
    top_k: int = key(0, "keep the k likeliest tokens; 0 keeps all", at_least(0))
    top_p: float = key(
        1.0, "keep the likeliest tokens until their mass reaches p", between(1e-6, 1)
    )
    min_p: float = key(
        0.0, "keep tokens at least min_p times as likely as the likeliest", between(0, 1)
    )
    stop: list[str] = key([], "strings that end a completion")
    max_rows: int = key(
        256,
        "completions decoded at a time; changes memory and speed, never the tokens",
        at_least(1),
    )
    kv_memory_gib: float | None = key(
        None,
        "GiB that keys and values of completions in flight may take; default: half "
        "of what is free when sampling begins",
        above(0),
    )
    keep_graphs: bool = key(
        False, "on CUDA: keep the pool of keys and the captured graphs while the policy is updated"
    )
    compile: bool = key(
        False,
        "torch.compile the layers' norms and MLPs while sampling; meant for CUDA, with Triton; "
        "on a CPU it needs a C++ compiler and does not pay off",
    )
    over_request: float = key(
        0.0,
        "additional groups in flight, as a share of those a step needs; groups unfinished "
        "when a step has enough continue in the next (partial rollouts)",
        between(0, 1),
    )

    @property
    def is_served(self) -> bool:
        """Whether servers sample, of whatever kind."""
        return self.engine != "embedded"

    def max_tokens_at(self, step: int) -> int:
        """The longest completion of a step of training, counted from 1."""
        begun = [start for start in self.max_tokens_from if start <= step]
        return self.max_tokens_from[max(begun)] if begun else self.max_tokens

    def describe_max_tokens(self) -> str:
        """``up to 512 tokens, 1024 from step 8200``."""
        first, *later = sorted(self.max_tokens_from.items()) or [(0, self.max_tokens)]
        steps = [f"{cap} from step {start}" for start, cap in later]
        return ", ".join([f"up to {many(first[1], 'token')}", *steps])


@dataclass(frozen=True, repr=False)
class AdvantageSection(ShortSection):
    """How scores become advantages, and which groups train."""

    rule: str = key(
        "group_std",
        "how scores become advantages: group_std: (R - mean) / (std + epsilon) of the group; "
        "center: R - mean; the others: docs/objectives.md",
        one_of(*RULES),
    )
    epsilon: float = key(
        1e-4, "added to a standard deviation that advantages are divided by", at_least(0)
    )
    k: int = key(
        0, "for rule pass_k: completions of which the best counts; 0: the whole group", at_least(0)
    )
    mask_truncated: bool = key(
        False, "completions cut off by length do not train and leave the denominators"
    )
    flat: str = key(
        "keep",
        "groups that teach nothing: keep (advantage 0, in every denominator), drop (out of the "
        "denominators), refill (drop, and sample other prompts in their place)",
        one_of("keep", "drop", "refill"),
    )
    flat_by: str = key(
        "score",
        "what must spread for a group to be kept by drop and refill: score (the weighted sum) "
        "or accuracy (the reward of evaluate.reward)",
        one_of("score", "accuracy"),
    )
    refills: int = key(
        3,
        "for flat: refill, how many times a step samples again; every token is counted",
        at_least(1),
    )
    retire_at: float = key(
        0.0,
        "a prompt whose pass rate so far reaches this is never sampled again; 0: none retires",
        between(0, 1),
    )


@dataclass(frozen=True, repr=False)
class LossSection(ShortSection):
    """The objective."""

    preset: str = key(
        "grpo", "a published objective; sets advantage.* and loss.*", one_of(*PRESETS)
    )
    policy: str = key(
        "clip",
        "the policy's loss: clip (PPO, GRPO, DAPO), reinforce, gspo, cispo, ...; all of them: "
        "docs/objectives.md; none leaves it out",
        one_of(*POLICY_LOSSES),
    )
    epsilon_low: float = key(
        0.2,
        "the ratio is clipped below 1 - epsilon_low (gmpo: the log-ratio below -epsilon_low)",
        at_least(0),
    )
    epsilon_high: float = key(
        0.2,
        "the ratio is clipped above 1 + epsilon_high (gmpo: the log-ratio above it)",
        at_least(0),
    )
    dual_clip: float = key(
        0.0,
        "clip, clip_cov: where A < 0 the loss is at most dual_clip |A| (PPO's dual clip: 3); "
        "0: off",
        off_or_above(1),
    )
    ratio_cap: float = key(
        0.0,
        "clip, clip_cov: the unclipped ratio is at most this (INTELLECT-2: 4); 0: off",
        off_or_above(1),
    )
    sapo_positive: float = key(1.0, "sapo: temperature of the gate where A > 0", above(0))
    sapo_negative: float = key(1.05, "sapo: temperature of the gate where A <= 0", above(0))
    divergence: float = key(
        0.2,
        "dppo_tv, dppo_kl: how far a token's probability may move from the sampler's",
        above(0),
    )
    regularizer: float = key(0.1, "kimi: tau, the weight of the squared log-ratio", at_least(0))
    cov_share: float = key(
        2e-4, "clip_cov, kl_cov: share of the update's tokens that is selected", between(0, 1)
    )
    cov_low: float = key(1.0, "clip_cov: tokens are selected above this covariance")
    cov_high: float = key(5.0, "clip_cov: and below this one")
    cov_kl: float = key(
        1.0, "kl_cov: weight of |logp - old_logp| on the selected tokens", at_least(0)
    )
    second_moment: float = key(
        0.04, "m2po: largest mean of (logp - sampled_logp)^2 over the tokens kept", above(0)
    )
    off_policy_mask: float = key(
        0.0,
        "completions with A < 0 whose mean sampled_logp - logp is above this are left "
        "out (DeepSeek-V3.2); 0: off",
        at_least(0),
    )
    aggregation: str = key(
        "sequence_mean",
        "sequence_mean: mean over completions of token means; token_mean: mean "
        "over all tokens; constant: sum / (completions x constant); prompt_mean: "
        "mean over prompts of token means; sequence_sum: mean over completions of "
        "sums; token_sum: the sum",
        one_of(*AGGREGATIONS),
    )
    constant: int | None = key(
        None, "normaliser of aggregation constant; default sample.max_tokens", at_least(1)
    )
    beta: float = key(0.0, "weight of the KL to the reference; 0 loads no reference", at_least(0))
    kl: str = key(
        "k3", "the KL's estimator: k1, k2, k3, or k3_unbiased (k3 times the ratio)", one_of(*KLS)
    )
    kl_in: str = key(
        "loss",
        "where the KL acts: in the loss, or subtracted from the reward",
        one_of("loss", "reward"),
    )
    reference_every: int = key(
        0, "replace the reference by the policy every N updates (R1: 400); 0: never", at_least(0)
    )
    old: str = key(
        "forward",
        "old_logp of later updates: forward (one more pass before the first) or sampler",
        one_of("forward", "sampler"),
    )
    correction: str = key(
        "token",
        "importance weight exp(old_logp - sampled_logp) on each loss: none, token, sequence "
        "(product over the completion) or geometric (its geometric mean)",
        one_of(*LEVELS),
    )
    correction_cap: float = key(2.0, "the weight is truncated here; 0: not at all", at_least(0))
    correction_mask: str = key(
        "none",
        "what is dropped where the ratio of that level leaves [correction_low, "
        "correction_high]: none, token, sequence or geometric",
        one_of(*LEVELS),
    )
    correction_low: float = key(0.5, "lower end of the band of correction_mask", at_least(0))
    correction_high: float = key(5.0, "upper end of the band of correction_mask", above(0))
    entropy: float = key(
        0.0,
        "weight of the mean token entropy as a bonus; with entropy_target, what it starts from",
        at_least(0),
    )
    entropy_target: float = key(
        0.0,
        "the weight of the bonus adapts to keep entropy at this (Skywork-OR1: 0.2); 0: off",
        at_least(0),
    )
    entropy_step: float = key(0.005, "change of that weight after each update", above(0))
    top_entropy: float = key(
        1.0,
        "share of the update's tokens, those of highest entropy, that the policy's loss acts on",
        SHARE,
    )
    load_balance: float = key(
        0.0,
        "mixtures of experts: weight of the model's own load-balancing loss over the trained tokens (Mixtral 0.001 "
        "to 0.02); 0: off",
        at_least(0),
    )
    teacher: str | None = key(
        None,
        "hub id or folder of a model with the same tokenizer to distil from, on the "
        "policy's own completions",
        NOT_EMPTY,
    )
    teacher_weight: float = key(1.0, "weight of that distillation", above(0))
    teacher_dtype: str | None = key(
        None, "dtype that holds the teacher; default: model.dtype", one_of(*TEACHER_DTYPES)
    )
    teacher_offload: bool = key(
        False, "on a GPU, keep the teacher in host memory but for its forward pass once a step"
    )


@dataclass(frozen=True, repr=False)
class OptimSection(ShortSection):
    """The optimizer."""

    lr: float = key(1e-6, "learning rate of AdamW", above(0))
    updates: int = key(
        1,
        "disjoint mini-batches of whole groups a step; denominators are those of each",
        at_least(1),
    )
    epochs: int = key(1, "passes over a step's completions", at_least(1))
    warmup: int = key(0, "updates over which the learning rate rises from 0", at_least(0))
    warmup_ratio: float = key(
        0.0,
        "the warm-up as a share of the run's updates, rounded up; instead of warmup",
        from_below(0, 1),
    )
    schedule: str = key(
        "constant",
        "what follows the warm-up: constant, or down to min_lr_ratio: linear, cosine",
        one_of("constant", "linear", "cosine"),
    )
    min_lr_ratio: float = key(
        0.0,
        "where the linear and the cosine schedule end, as a share of lr (R1's SFT: 0.1)",
        from_below(0, 1),
    )
    weight_decay: float = key(0.0, "decoupled weight decay", at_least(0))
    max_grad_norm: float = key(
        1.0, "the gradient is scaled down to this norm; 0 turns clipping off", at_least(0)
    )
    tokens_per_micro_batch: int = key(
        16384, "packed tokens in one forward; changes memory, never the gradient", at_least(1)
    )
    beta1: float = key(0.9, "AdamW's first decay", from_below(0, 1))
    beta2: float = key(0.999, "AdamW's second decay", from_below(0, 1))
    eps: float = key(1e-8, "AdamW's epsilon", above(0))
    state: str = key(
        "fp32",
        "AdamW's moments: fp32, or 8bit (logarithmic codes, rounded at random without bias)",
        one_of("fp32", "8bit"),
    )
    offload: bool = key(False, "keep AdamW's moments in host memory between updates")

    def warmup_updates(self, num_updates: int) -> int:
        """How many of a run's `num_updates` updates the learning rate rises."""
        return self.warmup or math.ceil(self.warmup_ratio * num_updates)


@dataclass(frozen=True, repr=False)
class SftSection(ShortSection):
    """Supervised fine-tuning: what of a row is learnt."""

    batch: int = key(128, "rows an update, and updates are steps", at_least(1))
    form: str = key(
        "auto",
        "what a row is: completion (columns prompt and completion), chat (messages) or text; auto: the first "
        "of these whose columns the data has",
        one_of("auto", *FORMS),
    )
    train_on: str = key(
        "assistant",
        "what of a chat is learnt: assistant (every turn of the assistant's), last (its last one) or all; "
        "of a prompt and its completion, all learns the prompt too",
        one_of("assistant", "last", "all"),
    )
    aggregation: str = key(
        "token_mean",
        "token_mean: each learnt token of an update counts the same; sequence_mean: each row does",
        one_of("token_mean", "sequence_mean"),
    )
    max_tokens: int | None = key(
        None, "longest row in tokens; default: the model's context", at_least(2)
    )
    too_long: str = key(
        "refuse",
        "what becomes of longer rows: refuse (the run does not begin) or drop (they are counted); none is cut",
        one_of("refuse", "drop"),
    )
    chat_template: str | None = key(
        None,
        "file with a Jinja chat template, in place of the tokenizer's; final/ keeps it",
        NOT_EMPTY,
    )


@dataclass(frozen=True, repr=False)
class ExportSection(ShortSection):
    """What a stage export writes of the model that it starts from: the options of ``grpo export``."""

    to: str = key("gguf", "the form of the files", one_of("gguf", "safetensors", "int8"))
    precision: list[str] = key(
        [],
        "gguf: F32, F16 (default), BF16, Q8_0, Q4_K, one or more; safetensors: F32, F16 or BF16",
    )
    compare: bool = key(
        False, "measure log-probs and held-out accuracy at each precision beside the model's"
    )
    license: str | None = key(None, "the licence that the card states, e.g. apache-2.0", NOT_EMPTY)
    pre: str | None = key(
        None,
        "gguf: how llama.cpp splits text (tokenizer.ggml.pre), where it is not found by itself",
        NOT_EMPTY,
    )


@dataclass(frozen=True, repr=False)
class CheckpointSection(ShortSection):
    """What is kept to resume from."""

    every: int = key(20, "steps between checkpoints; 0: only when stopped", at_least(0))
    keep: int = key(2, "checkpoints kept, the last ones", at_least(1))
    keep_best: int = key(
        1,
        "further checkpoints kept, those of the highest accuracy evaluated at their step",
        at_least(0),
    )
    best_by: str | None = key(
        None,
        "what keep_best compares: heldout or a set of evaluate.sets by its accuracy, NAME/reward by "
        "its mean reward; default: heldout, or the first set where no row is held out",
        NOT_EMPTY,
    )
    background: bool = key(
        True,
        "copy what a checkpoint holds to host memory and write it while training continues; "
        "false, or too little memory: the run waits while it is written",
    )


@dataclass(frozen=True, repr=False)
class WatchdogSection(ShortSection):
    """How long each wait may last without progress."""

    action: str = key(
        "stop",
        "what to do when a wait makes no progress within its deadline: stop (report, exit code 1; "
        "the last checkpoint remains), warn (report, keep waiting), off",
        one_of("stop", "warn", "off"),
    )
    engine_seconds: float = key(1800.0, "longest time in which sampling decodes no token", above(0))
    judge_seconds: float = key(
        600.0,
        "longest time without a verdict; never less than the rewards' own deadlines need",
        above(0),
    )
    update_seconds: float = key(3600.0, "longest time for one micro-batch of an update", above(0))
    collective_seconds: float = key(
        1800.0, "longest time that ranks wait for one that makes no progress", above(0)
    )
    checkpoint_seconds: float = key(
        1800.0, "longest time in which a checkpoint or the final model does not grow", above(0)
    )
    server_seconds: float = key(
        900.0, "longest time that a server such as wandb's takes to answer", above(0)
    )
    loading_seconds: float = key(
        1800.0, "longest time in which nothing of a data set or model is read", above(0)
    )
    interpreter_seconds: float = key(
        1800.0, "longest time in which no Python runs at all", above(0)
    )


@dataclass(frozen=True, repr=False)
class GateSection(ShortSection):
    """One gate, also written as the highest rung alone: ``gates: {flat: off}``."""

    upto: str = key(
        "stop",
        "highest rung of the ladder that the gate may reach: off, note, warn, skip, stop",
        one_of("off", *RUNGS),
    )
    note: float | None = key(
        None,
        "the gate's value from which a note is recorded; default: docs/gates.md",
        at_least(0),
    )
    warn: float | None = key(None, "the value from which a warning is printed", at_least(0))
    skip: float | None = key(
        None,
        "the value from which the rows at fault are masked, or the update is not made",
        at_least(0),
    )
    stop: float | None = key(
        None, "the value from which the run stops, with exit code 1", at_least(0)
    )

    def limits(self) -> list[tuple[str, float]]:
        """(rung, value) for each rung that has a value, from the lowest rung up."""
        limits = [(rung, getattr(self, rung)) for rung in RUNGS]
        return [(rung, value) for rung, value in limits if value is not None]


@dataclass(frozen=True, repr=False)
class WandbSection(ShortSection):
    """Weights & Biases."""

    project: str = key("grpo", "wandb project")
    entity: str | None = key(None, "wandb entity")
    mode: str = key(
        "online", "online, offline or disabled", one_of("online", "offline", "disabled")
    )
    tags: list[str] = key([], "wandb tags, beside those of log.tags")


@dataclass(frozen=True, repr=False)
class TensorboardSection(ShortSection):
    """TensorBoard."""

    folder: str | None = key(
        None,
        "folder of event files, in which the run has one of its own; default: tensorboard in the run folder",
        NOT_EMPTY,
    )


@dataclass(frozen=True, repr=False)
class TrackioSection(ShortSection):
    """trackio: on this machine unless a space or a server is named."""

    project: str = key("grpo", "trackio project", NOT_EMPTY)
    space: str | None = key(None, "Hugging Face Space that shows the run, e.g. me/runs", NOT_EMPTY)
    server: str | None = key(
        None, "address of a trackio server; TRACKIO_WRITE_TOKEN holds its token", NOT_EMPTY
    )


@dataclass(frozen=True, repr=False)
class MlflowSection(ShortSection):
    """MLflow."""

    experiment: str = key("grpo", "MLflow experiment", NOT_EMPTY)
    uri: str | None = key(
        None,
        "tracking server or database, e.g. sqlite:///mlflow.db; default: MLFLOW_TRACKING_URI, or MLflow's own",
        NOT_EMPTY,
    )


@dataclass(frozen=True, repr=False)
class LogSection(ShortSection):
    """Where records go: to the run folder always, and to each tracker that has a section or ``true``; what is shown."""

    show_every: int = key(
        10,
        "on a terminal or in a notebook, show one completion with its reward after the first step and after "
        "every so many; 0: never",
        at_least(0),
    )

    wandb: WandbSection | None = key(
        None, "log to Weights & Biases: true, or e.g. {project: mine, mode: offline}"
    )
    tensorboard: TensorboardSection | None = key(None, "log to TensorBoard: true, or {folder: ...}")
    trackio: TrackioSection | None = key(None, "log to trackio: true, or e.g. {project: mine}")
    mlflow: MlflowSection | None = key(None, "log to MLflow: true, or e.g. {experiment: mine}")
    tags: list[str] = key([], "words by which trackers find the run again")
    completions: int = key(
        8,
        "completions of a step, and of each set of an evaluation, that trackers get as a table; 0: none",
        between(0, 1000),
    )
    report: bool = key(True, "write report.html into the run folder when the run ends")
    token_logprobs: int = key(
        4,
        "how many completions of a step keep each token's log-prob in samples.jsonl, those with the greatest "
        "advantages; 0: none",
        at_least(0),
    )


@dataclass(frozen=True, repr=False)
class SandboxSection(ShortSection):
    """How rewards run programs: the fields of `rewards.sandbox.SandboxOptions`."""

    min_isolation: str = key(
        "L2",
        "weakest isolation under which a reward may run programs",
        one_of("L1", "L2", "L3", "L4"),
    )
    allow_unsafe: bool = key(False, "run programs even below min_isolation; warns at every start")
    engine: str = key(
        "local",
        "where programs run: local, or a server that speaks sandboxfusion or piston",
        one_of("local", "sandboxfusion", "piston"),
    )
    url: str | None = key(None, "the server's address, e.g. http://localhost:8080", NOT_EMPTY)
    slots: int | None = key(
        None, "programs that run at once; default: one more than there are cores", at_least(1)
    )
    packages: list[str] = key(
        [],
        "installed packages that programs and tests may import besides the standard library, e.g. "
        "[numpy]",
        MODULES,
    )


@dataclass(frozen=True)
class DistributedSection:
    """How several processes share the work (docs/distributed.md)."""

    shard: bool = key(
        False,
        "divide weights, gradients and optimizer states over the processes (FSDP2) in place of a copy on each; a "
        "process alone has nothing to divide",
    )


@dataclass(frozen=True)
class RewardsServiceSection:
    """Where rewards are judged: by this machine's workers, or by servers that ``grpo serve-rewards`` has started."""

    servers: list[str] = key(
        [],
        "addresses of reward servers, e.g. [http://10.0.0.2:8100]; empty: this machine judges",
        ADDRESSES,
    )
    silence: float = key(
        30.0,
        "seconds without a sign of life after which a reward server that has work is given up",
        above(0),
    )


PRICED = ("gpu", "cpu", "machine")


def _are_prices(prices: Mapping[str, Any]) -> bool:
    return all(name in PRICED and is_price(price) for name, price in prices.items())


@dataclass(frozen=True, repr=False)
class CostSection(ShortSection):
    """At which price the costs of a run are reckoned; without one they are hours (docs/cost.md)."""

    price_per_hour: dict[str, float] = key(
        {},
        "{gpu: of a device that is held, cpu: of a core that computes, machine: of a machine by the clock}, each a "
        "price for an hour; name only what is paid for",
        Check(_are_prices, f"must have prices of at least 0 for some of {', '.join(PRICED)}"),
    )
    currency: str = key("USD", "what prices are in", NOT_EMPTY)


def build_gates(values: Any, where: str, build: SectionBuilder) -> dict[str, GateSection]:
    """The ``gates`` section: a `GateSection` for each gate named, which may be its highest rung alone."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"recipe: {where} must be a mapping, not {kind(values)}")
    gates = {}
    for name, part in values.items():
        if name not in GATES:
            raise RecipeError(
                f"recipe: {where}: there is no gate {name}{nearest(str(name), GATES)}; the gates are "
                f"{', '.join(GATES)}"
            )
        shown = dotted(where, name)
        part = {"upto": part} if isinstance(part, str) else part
        gates[name] = build(GateSection, part, shown)
        _check_ladder(gates[name], shown)
    return gates


def _check_ladder(gate: GateSection, where: str) -> None:
    limits = gate.limits()
    for (low, first), (high, second) in zip(limits, limits[1:]):
        if first > second:
            raise RecipeError(
                f"recipe: {where}.{low} is {first:g}, above its {high} ({second:g}); the limits of a "
                "gate must not fall from rung to rung"
            )


@dataclass(frozen=True)
class Sections:
    """Every key of a recipe. `grpo.recipe.Recipe` adds how one is read and written."""

    name: str = key("run", "name of the run; default: the file's name", NOT_EMPTY)
    stage: str = key(
        "grpo",
        "what the run does: grpo (sample, score, update), sft (docs/sft.md), reject (docs/reject.md), distill "
        "(docs/distill.md), evaluate or export (docs/stages.md); a recipe with the section sft, reject or distill and "
        "no stage is of that stage",
        one_of(*STAGES),
    )
    seed: int = key(0, "decides data order and every sampled token", between(0, LARGEST_SEED))
    steps: int = key(100, "passes of the loop", at_least(0))
    epochs: float | None = key(
        None, "passes over the training prompts, in place of steps", above(0)
    )
    run_dir: str | None = key(None, "folder of the run; default runs/<name>", NOT_EMPTY)
    deterministic: bool = key(False, "refuse operations whose result may differ between runs")
    threads: int | None = key(None, "CPU threads of the model; default: torch's own", at_least(1))
    model: ModelSection = key(ModelSection(), "the policy")
    data: DataSection = key(
        DataSection(), "the prompts; a list makes a mixture: [{name, weight, source, ...}, ...]"
    )
    sample: SampleSection = key(SampleSection(), "how completions are sampled")
    rewards: dict[str, RewardSection] = key(
        {},
        "metric name: {use, weight, args, when}",
        entry=RewardSection,
        build=build_rewards,
    )
    rewards_service: RewardsServiceSection = key(
        RewardsServiceSection(), "which machines judge (docs/cluster.md)"
    )
    tools: list[str] = key(
        [],
        "what the policy may call while it writes: names (python, calculator), package.module:function or "
        "path/file.py:function, whose type hints and docstring are its description",
        TOOLS,
    )
    environment: EnvironmentSection = key(
        EnvironmentSection(),
        "who answers the policy between its turns; a name alone is short for {use: name}",
    )
    advantage: AdvantageSection = key(AdvantageSection(), "how scores become advantages")
    loss: LossSection = key(LossSection(), "the objective")
    sft: SftSection = key(
        SftSection(), "supervised fine-tuning, read by the stage sft and by distill of traces"
    )
    export: ExportSection = key(ExportSection(), "files to export, read by the stage export alone")
    reject: RejectSection = key(
        RejectSection(), "rejection sampling, read by the stage reject alone"
    )
    distill: DistillSection = key(DistillSection(), "distillation, read by the stage distill alone")
    optim: OptimSection = key(OptimSection(), "the optimizer")
    distributed: DistributedSection = key(
        DistributedSection(), "how several processes share the work"
    )
    evaluate: EvaluateSection = key(EvaluateSection(), "evaluation on rows that never train")
    checkpoint: CheckpointSection = key(CheckpointSection(), "what is kept to resume from")
    log: LogSection = key(
        LogSection(), "where records go in addition to the console and metrics.jsonl"
    )
    sandbox: SandboxSection = key(
        SandboxSection(), "for rewards that run programs, such as code_tests"
    )
    watchdog: WatchdogSection = key(
        WatchdogSection(), "how long each wait may last without progress"
    )
    cost: CostSection = key(CostSection(), "prices of the hours that a run takes")
    gates: dict[str, GateSection] = key(
        {},
        f"what is checked of each step: gate: {{upto, note, warn, skip, stop}}, or upto alone, for "
        f"{', '.join(GATES)}",
        entry=GateSection,
        build=build_gates,
    )

    @property
    def learns_rows(self) -> bool:
        """Whether the run learns rows of data as they stand, and samples for evaluation alone."""
        is_traces = self.stage == "distill" and self.distill.method == "traces"
        return self.stage == "sft" or is_traces

    @property
    def samples_to_learn(self) -> bool:
        """Whether the run learns from completions of its own policy."""
        return self.stage in ("grpo", "distill") and not self.learns_rows

    @property
    def has_environment(self) -> bool:
        """Whether something answers the policy while it writes."""
        return bool(self.tools) or self.environment.use is not None

    @property
    def has_rewards(self) -> bool:
        """Whether the recipe names a reward, if only for a set that is evaluated."""
        return bool(self.rewards) or any(of.rewards for of in self.evaluate.sets.values())

    def folder(self) -> Path:
        """The run folder, absolute."""
        return Path(self.run_dir or Path("runs") / self.name).expanduser().absolute()
