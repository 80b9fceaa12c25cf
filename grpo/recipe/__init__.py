"""A run, fully described: frozen dataclasses filled from YAML and ``key=value``, checked before anything loads.

Precedence: field defaults < preset < YAML < overrides. A default stands once, in its field. Relative paths
are taken from the recipe's folder in YAML and from the working folder in overrides. Loading a recipe
executes nothing: the YAML is read by a safe loader under YAML 1.2's rules (``1e-6`` is a number, ``no`` is
text), and a key that is unknown or stands twice is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import yaml

from grpo.monitor.gates import GATES, RUNGS
from grpo.recipe.objectives import (
    AGGREGATIONS,
    KLS,
    LEVELS,
    POLICY_LOSSES,
    RULES,
    WHOLE_POLICY_LOSSES,
)
from grpo.recipe.presets import PRESETS
from rewards.tasks import TASKS

Check = Callable[[Any], "str | None"]
TEMPLATES = ("r1", "chat", "plain")
LARGEST_SEED = 2**63 - 1
PATH_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gguf")


class RecipeError(ValueError):
    """A recipe that cannot be run as it stands; the message says where, what was found and what would do."""


# ---- what a value may be ------------------------------------------------------------------------------------


def at_least(low: float) -> Check:
    return lambda value: None if value >= low else f"must be at least {low}"


def above(low: float) -> Check:
    return lambda value: None if value > low else f"must be above {low}"


def between(low: float, high: float) -> Check:
    return lambda value: None if low <= value <= high else f"must lie between {low} and {high}"


def from_below(low: float, high: float) -> Check:
    return lambda value: None if low <= value < high else f"must be at least {low} and below {high}"


def nothing_or_above(low: float) -> Check:
    return lambda value: None if value == 0 or value > low else f"must be 0 (off) or above {low}"


def share(value: float) -> str | None:
    return None if 0 < value <= 1 else "must be above 0 and at most 1"


def not_empty(value: str) -> str | None:
    return None if value.strip() else "must not be empty"


def a_template(value: str) -> str | None:
    if value in TEMPLATES or "{prompt}" in value:
        return None
    return f"must be {', '.join(TEMPLATES)} or a string with {{prompt}} in it{nearest(value, TEMPLATES)}"


def one_of(*names: str) -> Check:
    def check(value: Any) -> str | None:
        return (
            None
            if value in names
            else f"must be one of {', '.join(names)}{nearest(str(value), names)}"
        )

    return check


def nearest(word: str, names: typing.Iterable[str]) -> str:
    """``; did you mean x?`` for the closest of `names`, or nothing."""
    found = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def key(default: Any, help: str, check: Check | None = None) -> Any:
    """A field of the recipe: its default, its help, and the range of its value."""
    metadata = {"help": help, "check": check}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


# ---- the sections -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoraSection:
    rank: int = key(16, "rank of the adapters", at_least(1))
    alpha: float = key(
        32.0, "scale of the adapters; their output is multiplied by alpha / rank", above(0)
    )
    targets: str | list = key(
        "all-linear", "all-linear (every linear layer but the head), or a list of module names"
    )


@dataclass(frozen=True)
class ModelSection:
    name: str | None = key(
        None, "hub id, folder or .gguf file of a causal language model", not_empty
    )
    dtype: str = key(
        "float32",
        "parameters' dtype; bfloat16 and float16 keep fp32 master weights beside them, and "
        "float16, for GPUs without bfloat16, scales the loss",
        one_of("float32", "bfloat16", "float16", "float64"),
    )
    lora: LoraSection | None = key(None, "train low-rank adapters instead of the whole model")
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


@dataclass(frozen=True)
class DataSection:
    source: str | None = key(
        None, "hub id, .jsonl/.csv/.parquet file, or a procedural task's name", not_empty
    )
    subset: str | None = key(None, "configuration of a hub data set")
    split: str = key("train", "split of a hub data set")
    args: dict = key({}, "arguments of a procedural task")
    columns: dict = key(
        {},
        "our column: the data set's column, e.g. {prompt: question}, or text with "
        "columns in braces, e.g. {prompt: '{Body}. {Question}'}",
    )
    template: str = key(
        "r1",
        "r1 (think/answer tags), chat (the tokenizer's), plain, or a string with {prompt}",
        a_template,
    )
    held_out: int = key(0, "rows kept for evaluation; they never train", at_least(0))
    pass_low: float = key(
        0.0, "prompts passed at a lower rate when last sampled wait (see pass_again)", between(0, 1)
    )
    pass_high: float = key(
        1.0, "prompts passed at a higher rate when last sampled wait", between(0, 1)
    )
    pass_again: int = key(
        3, "epochs a prompt outside pass_low to pass_high waits before another try", at_least(1)
    )
    max_prompt_tokens: int | None = key(
        None,
        "longer prompts are dropped and counted; default: what the context "
        "leaves beside sample.max_tokens",
        at_least(1),
    )


@dataclass(frozen=True)
class SampleSection:
    engine: str = key(
        "embedded", "who samples: embedded (the trainer's own modules)", one_of("embedded")
    )
    prompts: int = key(32, "prompts sampled a step", at_least(1))
    oversample: float = key(
        0.0,
        "share of further prompts sampled at once, to choose those that teach from; needs "
        "advantage.flat drop or refill",
        at_least(0),
    )
    group_size: int = key(8, "completions sampled for each prompt", at_least(1))
    max_tokens: int = key(1024, "longest completion, in tokens", at_least(1))
    temperature: float = key(1.0, "divides the logits; 0 is greedy", at_least(0))
    top_k: int = key(0, "keep the k likeliest tokens; 0 keeps all", at_least(0))
    top_p: float = key(
        1.0, "keep the likeliest tokens until their mass reaches p", between(1e-6, 1)
    )
    min_p: float = key(
        0.0, "keep tokens at least min_p times as likely as the likeliest", between(0, 1)
    )
    stop: list = key([], "strings that end a completion")
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
        "on a CPU, with a C++ compiler, it does not pay",
    )
    over_request: float = key(
        0.0,
        "share of further groups in flight beside those a step needs; what is unfinished "
        "when a step has enough goes on in the next",
        between(0, 1),
    )


@dataclass(frozen=True)
class RewardSection:
    use: str | None = key(
        None, "name from the table, package.module:function or path/file.py:function"
    )
    weight: float = key(1.0, "factor of this part in the sum")
    args: dict = key({}, "arguments passed to the function by name")
    when: dict = key({}, "column: value; the part counts only for rows that match")
    style: str | None = key(
        None, "calling convention; default: recognised by the parameters' names"
    )
    timeout_seconds: float | None = key(
        None,
        "longest time for one completion; default 2 for the built-in rewards, 10 for others",
        above(0),
    )
    workers: int | None = key(
        None, "worker processes of its own, for a reward that holds a model", at_least(1)
    )


@dataclass(frozen=True)
class AdvantageSection:
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
        False, "completions cut by length are not learnt from and leave the denominators"
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
        3, "for flat: refill, how often a step samples anew; every token is charged", at_least(1)
    )
    retire_at: float = key(
        0.0,
        "a prompt whose pass rate so far reaches this is never sampled again; 0: none retires",
        between(0, 1),
    )


@dataclass(frozen=True)
class LossSection:
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
        nothing_or_above(1),
    )
    ratio_cap: float = key(
        0.0,
        "clip, clip_cov: the unclipped ratio is at most this (INTELLECT-2: 4); 0: off",
        nothing_or_above(1),
    )
    sapo_positive: float = key(1.0, "sapo: temperature of the gate where A > 0", above(0))
    sapo_negative: float = key(1.05, "sapo: temperature of the gate where A <= 0", above(0))
    divergence: float = key(
        0.2,
        "dppo_tv, dppo_kl: furthest a token's probability may move from the sampler's",
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
        0.04, "m2po: largest mean of (logp - sampled_logp)^2 over those kept", above(0)
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
        "loss", "where the KL acts: in the loss, or taken off the reward", one_of("loss", "reward")
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
        "the bonus's weight is led to keep entropy at this (Skywork-OR1: 0.2); 0: off",
        at_least(0),
    )
    entropy_step: float = key(0.005, "change of that weight after each update", above(0))
    top_entropy: float = key(
        1.0,
        "share of the update's tokens, of highest entropy, that the policy's loss acts on",
        share,
    )
    teacher: str | None = key(
        None,
        "hub id or folder of a model with the same tokenizer to distil from, on the "
        "policy's own completions",
        not_empty,
    )
    teacher_weight: float = key(1.0, "weight of that distillation", above(0))


@dataclass(frozen=True)
class OptimSection:
    lr: float = key(1e-6, "learning rate of AdamW", above(0))
    updates: int = key(
        1,
        "disjoint mini-batches of whole groups a step; denominators are those of each",
        at_least(1),
    )
    epochs: int = key(1, "passes over a step's completions", at_least(1))
    warmup: int = key(0, "updates over which the learning rate rises from 0", at_least(0))
    schedule: str = key(
        "constant",
        "what follows the warm-up: constant, linear (to 0) or cosine (to 0)",
        one_of("constant", "linear", "cosine"),
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
    offload: bool = key(False, "keep AdamW's moments in the host's memory between updates")


@dataclass(frozen=True)
class EvaluateSection:
    every: int = key(
        20, "steps between held-out evaluations; 0: only before and after", at_least(0)
    )
    samples: int = key(4, "completions for each held-out prompt", at_least(1))
    temperature: float = key(
        1.0, "temperature of every evaluation, before, during and after", at_least(0)
    )
    reward: str | None = key(
        None, "the reward whose full score counts as accurate; default: the first one"
    )


@dataclass(frozen=True)
class CheckpointSection:
    every: int = key(20, "steps between checkpoints; 0: only when stopped", at_least(0))
    keep: int = key(2, "checkpoints kept, the last ones", at_least(1))
    keep_best: int = key(
        1,
        "checkpoints kept beside those, of the highest held-out accuracy evaluated at their step",
        at_least(0),
    )
    background: bool = key(
        True,
        "copy what a checkpoint holds in the host's memory and write it beside the training; "
        "false, or too little memory: the run waits while it is written",
    )


@dataclass(frozen=True)
class WatchdogSection:
    action: str = key(
        "stop",
        "what follows when a wait makes no progress for its deadline: stop (report, exit code 1; "
        "the last checkpoint stands), warn (report, wait on), off",
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
        1800.0, "longest time that ranks wait for one that does not get on", above(0)
    )
    checkpoint_seconds: float = key(
        1800.0, "longest time in which a checkpoint or the final model grows by nothing", above(0)
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


@dataclass(frozen=True)
class GateSection:
    """One gate, also written as the highest rung alone: ``gates: {flat: off}``."""

    upto: str = key(
        "stop",
        "highest rung of the ladder that the gate may reach: off, note, warn, skip, stop",
        one_of("off", *RUNGS),
    )
    note: float | None = key(
        None,
        "the gate's number from which a note is in the record; default: docs/gates.md",
        at_least(0),
    )
    warn: float | None = key(None, "the number from which a warning is said", at_least(0))
    skip: float | None = key(
        None,
        "the number from which the rows at fault are masked, or the update is not made",
        at_least(0),
    )
    stop: float | None = key(
        None, "the number from which the run stops, with exit code 1", at_least(0)
    )


@dataclass(frozen=True)
class WandbSection:
    project: str = key("grpo", "wandb project")
    entity: str | None = key(None, "wandb entity")
    mode: str = key(
        "online", "online, offline or disabled", one_of("online", "offline", "disabled")
    )
    tags: list = key([], "wandb tags")


@dataclass(frozen=True)
class LogSection:
    wandb: WandbSection | None = key(
        None, "log to Weights & Biases, e.g. {project: mine, mode: offline}"
    )


@dataclass(frozen=True)
class SandboxSection:
    min_isolation: str = key(
        "L2",
        "weakest isolation under which a reward may run programs",
        one_of("L1", "L2", "L3", "L4"),
    )
    allow_unsafe: bool = key(
        False, "run programs below min_isolation all the same; warned of at every start"
    )
    engine: str = key(
        "local",
        "where programs run: local, or a server that speaks sandboxfusion or piston",
        one_of("local", "sandboxfusion", "piston"),
    )
    url: str | None = key(None, "the server's address, e.g. http://localhost:8080", not_empty)
    slots: int | None = key(
        None, "programs that run at once; default: one more than there are cores", at_least(1)
    )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. Make one with `Recipe.load` or `Recipe.from_mapping`; it never changes."""

    name: str = key("run", "name of the run; default: the file's name", not_empty)
    seed: int = key(0, "decides data order and every sampled token", between(0, LARGEST_SEED))
    steps: int = key(100, "passes of the loop", at_least(0))
    run_dir: str | None = key(None, "folder of the run; default runs/<name>", not_empty)
    deterministic: bool = key(False, "refuse operations whose result may differ between runs")
    threads: int | None = key(None, "CPU threads of the model; default: torch's own", at_least(1))
    model: ModelSection = key(ModelSection(), "the policy")
    data: DataSection = key(DataSection(), "the prompts")
    sample: SampleSection = key(SampleSection(), "how completions are drawn")
    rewards: dict = key({}, "metric name: {use, weight, args, when}")
    advantage: AdvantageSection = key(AdvantageSection(), "how scores become advantages")
    loss: LossSection = key(LossSection(), "the objective")
    optim: OptimSection = key(OptimSection(), "the optimizer")
    evaluate: EvaluateSection = key(EvaluateSection(), "held-out evaluation")
    checkpoint: CheckpointSection = key(CheckpointSection(), "what is kept to resume from")
    log: LogSection = key(LogSection(), "where records go beside the console and metrics.jsonl")
    sandbox: SandboxSection = key(
        SandboxSection(), "for rewards that run programs, such as code_tests"
    )
    watchdog: WatchdogSection = key(
        WatchdogSection(), "how long each wait may last without progress"
    )
    gates: dict = key(
        {},
        f"what is checked of each step: gate: {{upto, note, warn, skip, stop}}, or upto alone, for "
        f"{', '.join(GATES)}",
    )

    @staticmethod
    def load(path: str | os.PathLike[str], *overrides: str) -> Recipe:
        """The recipe in the YAML file `path` with ``a.b=value`` overrides applied, checked."""
        file = find_recipe(path)
        values = resolve_paths(read_yaml(file), file.parent)
        values.setdefault("name", file.stem)
        return Recipe.from_mapping(values, *overrides)

    @staticmethod
    def from_mapping(values: Mapping[str, Any], *overrides: str) -> Recipe:
        """The recipe that a nested mapping describes, with ``a.b=value`` overrides applied, checked."""
        layered = dict(values)
        for override in overrides:
            layered = merge(layered, parse_override(override), empties=True)
        recipe = build(Recipe, merge(preset_values(layered), layered), "")
        check_combinations(recipe)
        return recipe

    def to_mapping(self) -> dict[str, Any]:
        """The resolved recipe as plain values; `from_mapping` of it gives the same recipe."""
        return plain(self)

    def folder(self) -> Path:
        """The run folder, absolute."""
        return Path(self.run_dir or Path("runs") / self.name).expanduser().absolute()


# ---- reading ------------------------------------------------------------------------------------------------


def find_recipe(path: str | os.PathLike[str]) -> Path:
    """The file that `path` names: as given, or a recipe that ships with the library."""
    given = Path(path).expanduser()
    if given.is_file():
        return given.absolute()
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "recipes", package / "recipes"):
        for name in (given.name, given.name + ".yaml"):
            if (
                len(given.parts) <= 2
                and given.parts[:-1] in ((), ("recipes",))
                and (folder / name).is_file()
            ):
                return folder / name
    raise RecipeError(f"recipe: there is no file {given}; give the path of a YAML file")


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, and no key twice."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"^(?:{_pattern})$"),
        [*_first.replace("\0", ""), *([""] if "\0" in _first else [])],
    )


def _mapping_without_duplicates(
    loader: _Loader, node: yaml.MappingNode, deep: bool = False
) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        name = (
            "<<"
            if key_node.tag.endswith(":merge")
            else loader.construct_object(key_node, deep=True)
        )
        if not isinstance(name, str):
            raise RecipeError(
                f"recipe: line {key_node.start_mark.line + 1}: a key must be text, not {kind(name)}"
                f"{in_quotes(name)}"
            )
        if name in seen:
            raise RecipeError(
                f"recipe: line {key_node.start_mark.line + 1}: the key {name} stands twice in one "
                "section; remove one of them"
            )
        seen.add(name)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(k, deep=True): loader.construct_object(v, deep=True)
        for k, v in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(node.value.replace("_", ""))
)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"recipe: {file} is not UTF-8 text ({error.reason} at byte {error.start}); save it as "
            "UTF-8"
        ) from None
    except OSError as error:
        raise RecipeError(f"recipe: {file} cannot be read: {error.strerror}") from None
    values = parse_yaml(text, file.name)
    if not isinstance(values, dict):
        raise RecipeError(f"recipe: {file.name} holds {kind(values)}, not a mapping of keys")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """The value that `text` spells; what is wrong with it is said with its line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tab = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        raise RecipeError(
            f"recipe: {where}{f', line {mark.line + 1}' if mark else ''}: not valid YAML: "
            f"{', '.join(filter(None, (error.context, error.problem)))}{tab}"
        ) from None
    except yaml.reader.ReaderError as error:
        raise RecipeError(
            f"recipe: {where}, character {error.position + 1}: not valid YAML: {error.reason}"
        ) from None
    except RecipeError:
        raise
    except (
        ValueError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:  # a !!tag that its text does not fit
        raise RecipeError(
            f"recipe: {where}: a number or a !!tag in it cannot be read: {error}"
        ) from None


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML version would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()),
        *_Loader.yaml_implicit_resolvers.get(first, ()),
    ]
    for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_Loader.yaml_implicit_resolvers}
}


def to_yaml(values: Mapping[str, Any]) -> str:
    """`values` as YAML that `read_yaml` reads back as the same."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_override(override: str) -> dict[str, Any]:
    """``"a.b=1"`` as a nested mapping; the value is read as YAML, a path is taken from the working folder."""
    path, sign, text = override.partition("=")
    names = [name.strip() for name in path.split(".")]
    if not sign or not all(names):
        raise RecipeError(f"recipe: {override!r} is not an override; write section.key=value")
    value = parse_yaml(text, f"the value of {path}")
    for name in reversed(names):
        value = {name: value}
    return resolve_paths(value, Path.cwd())


def merge(
    low: Mapping[str, Any], high: Mapping[str, Any], *, empties: bool = False
) -> dict[str, Any]:
    """`high` laid over `low`, section by section; with `empties`, ``{}`` in `high` takes out what stands there."""
    result = dict(low)
    for name, value in high.items():
        old = result.get(name)
        both = (
            isinstance(old, Mapping) and isinstance(value, Mapping) and not (empties and not value)
        )
        result[name] = merge(old, value, empties=empties) if both else value
    return result


def preset_values(values: Mapping[str, Any]) -> dict[str, Any]:
    loss = values.get("loss")
    name = (
        loss.get("preset", LossSection().preset)
        if isinstance(loss, Mapping)
        else LossSection().preset
    )
    if not isinstance(name, str) or name not in PRESETS:
        return {}  # `build` says what is wrong with it
    return {
        "advantage": dict(PRESETS[name].advantage),
        "loss": {"preset": name, **PRESETS[name].loss},
    }


def resolve_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`values` with the keys that may be paths made absolute from `folder`."""
    values = dict(values)
    if isinstance(values.get("run_dir"), str) and values["run_dir"].strip():
        values["run_dir"] = str((folder / Path(values["run_dir"]).expanduser()).resolve())
    for section, name in (("model", "name"), ("data", "source"), ("loss", "teacher")):
        if isinstance(values.get(section), dict) and name in values[section]:
            values[section] = {**values[section], name: _absolute(values[section][name], folder)}
    if isinstance(values.get("rewards"), dict):
        values["rewards"] = {
            name: _reward_path(part, folder) for name, part in values["rewards"].items()
        }
    return values


def _absolute(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value.strip() or value in TASKS:
        return value
    path = Path(value).expanduser()
    is_path = (
        value.startswith((".", "/", "~"))
        or path.suffix in PATH_SUFFIXES
        or (folder / path).exists()
    )
    return str((folder / path).resolve()) if is_path else value


def _reward_path(part: Any, folder: Path) -> Any:
    use = part.get("use") if isinstance(part, dict) else None
    if not isinstance(use, str) or ".py:" not in use:
        return part
    file, _, function = use.rpartition(":")
    return {**part, "use": f"{(folder / Path(file).expanduser()).resolve()}:{function}"}


# ---- from plain values to dataclasses and back --------------------------------------------------------------


def build(cls: type, values: Any, where: str) -> Any:
    """An instance of the section `cls` from a mapping, each value checked by type and range."""
    if not isinstance(values, Mapping):
        nothing = "; put keys under it, or leave it out" if values is None else ""
        raise RecipeError(
            f"recipe: {where or 'the file'} must be a section of keys, not {kind(values)}{nothing}"
        )
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise RecipeError(
                f"recipe: unknown key {dotted(where, name)}"
                + (
                    nearest(str(name), fields)
                    or elsewhere(str(name))
                    or f"; the keys there are {', '.join(fields)}"
                )
            )
    hints = typing.get_type_hints(cls)
    return cls(
        **{
            name: convert(hints[name], value, dotted(where, name), fields[name].metadata["check"])
            for name, value in values.items()
        }
    )


def elsewhere(name: str) -> str:
    """``; did you mean optim.lr?`` for a key that stands in another section, or nothing."""
    found = [path for path, _, _ in describe_keys() if path.rpartition(".")[2] == name]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def convert(hint: Any, value: Any, where: str, check: Check | None) -> Any:
    """`value` as the type `hint`, or a sentence that says what stands there instead."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    if where == "gates" and isinstance(value, Mapping):
        return {name: gate_section(name, part) for name, part in value.items()}
    if where == "rewards":
        if not isinstance(value, Mapping):
            raise RecipeError(f"recipe: {where} must be a section of keys, not {kind(value)}")
        for name in value:
            if not isinstance(name, str):
                raise RecipeError(
                    f"recipe: {where}: a reward's name must be text, not {kind(name)}{in_quotes(name)}"
                )
        return {
            name: build(RewardSection, part, dotted(where, name)) for name, part in value.items()
        }
    for option in options:
        if dataclasses.is_dataclass(option):
            return build(option, value, where)
    for option in options:
        if fits(option, value):
            value = float(value) if option is float else value
            problem = check(value) if check else None
            if problem:
                raise RecipeError(f"recipe: {where} is {value!r}; it {problem}")
            return value
    raise RecipeError(
        f"recipe: {where} must be {' or '.join(KINDS[o] for o in options)}, not {kind(value)}"
        f"{hint_for(options, value)}"
    )


def gate_section(name: str, part: Any) -> GateSection:
    """The section of the gate `name`, which may be its highest rung alone."""
    if name not in GATES:
        raise RecipeError(
            f"recipe: gates: there is no gate {name}{nearest(str(name), GATES)}; the gates are "
            f"{', '.join(GATES)}"
        )
    if isinstance(part, str):
        part = {"upto": part}
    section = build(GateSection, part, f"gates.{name}")
    given = [(rung, limit) for rung in RUNGS if (limit := getattr(section, rung)) is not None]
    for (low, first), (high, second) in zip(given, given[1:]):
        if first > second:
            raise RecipeError(
                f"recipe: gates.{name}.{low} is {first:g}, above its {high} ({second:g}); a ladder rises"
            )
    return section


KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


def fits(option: Any, value: Any) -> bool:
    if option is float:
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max
        )
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, option)


def kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, (Mapping, list)):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    return (
        "nothing"
        if value is None
        else ("true" if value is True else "false" if value is False else f"{value}")
    )


def hint_for(options: tuple[Any, ...], value: Any) -> str:
    """How to write `value` so that it is what it seems to be meant as."""
    if isinstance(value, str) and (int in options or float in options) and is_number(value):
        return "; write it without quotes"
    if (
        isinstance(value, str)
        and bool in options
        and value.lower() in ("yes", "no", "on", "off", "y", "n")
    ):
        return f"; write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}"
    if isinstance(value, float) and int in options and value.is_integer():
        return f"; write {int(value)}"
    return in_quotes(value) if str in options else ""


def is_number(text: str) -> bool:
    return (
        type(yaml.load(text, Loader=_Loader)) in (int, float)
        if re.fullmatch(r"[-+\w.]+", text)
        else False
    )


def in_quotes(value: Any) -> str:
    return (
        f'; write "{str(value).lower()}" in quotes' if isinstance(value, (bool, int, float)) else ""
    )


def dotted(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


# ---- what must hold between keys ----------------------------------------------------------------------------


def check_combinations(recipe: Recipe) -> None:
    """Refuse settings that are each in range but cannot stand together."""
    sample, optim, loss = recipe.sample, recipe.optim, recipe.loss
    if sample.group_size < 2 and recipe.advantage.rule != "reinforce_pp":
        raise RecipeError(
            f"recipe: sample.group_size is 1, but advantage.rule {recipe.advantage.rule} compares the "
            "completions of a group; set it to 2 or more"
        )
    check_advantage(recipe)
    check_loss(loss, recipe.advantage)
    if optim.updates > sample.prompts:
        raise RecipeError(
            f"recipe: optim.updates is {optim.updates} but sample.prompts is {sample.prompts}; each "
            "update needs a group of its own, so lower optim.updates or raise sample.prompts"
        )
    if sample.temperature == 0:
        raise RecipeError(
            "recipe: sample.temperature is 0; greedy completions of one prompt are all the same, so "
            "no group could teach anything; set it above 0"
        )
    if recipe.model.quantize and recipe.model.lora is None:
        raise RecipeError(
            "recipe: model.quantize freezes the base at 4 bits, so only adapters can train; set "
            "model.lora, e.g. {rank: 16}"
        )
    if loss.reference_every and not loss.beta:
        raise RecipeError(
            "recipe: loss.reference_every is set but loss.beta is 0, so there is no reference; set "
            "loss.beta above 0 or loss.reference_every to 0"
        )
    if not all(isinstance(text, str) and text for text in sample.stop):
        raise RecipeError("recipe: sample.stop must be a list of non-empty strings")
    for name, part in recipe.rewards.items():
        if part.use is None:
            raise RecipeError(
                f"recipe: rewards.{name}.use is missing; name a function, e.g. math_answer"
            )
    if (
        recipe.evaluate.reward is not None
        and recipe.rewards
        and recipe.evaluate.reward not in recipe.rewards
    ):
        raise RecipeError(
            f"recipe: evaluate.reward names {recipe.evaluate.reward}, which is not among rewards"
            f"{nearest(recipe.evaluate.reward, recipe.rewards)}"
        )
    for ours, theirs in recipe.data.columns.items():
        if not isinstance(theirs, str):
            raise RecipeError(
                f"recipe: data.columns.{ours} must name a column of the data set, not {kind(theirs)}"
            )


def check_advantage(recipe: Recipe) -> None:
    """Refuse advantage rules and group filters that contradict each other."""
    advantage, sample = recipe.advantage, recipe.sample
    if advantage.k == 1 or advantage.k > sample.group_size:
        raise RecipeError(
            f"recipe: advantage.k is {advantage.k}; the best of k compares 2 to sample.group_size "
            f"({sample.group_size}) completions"
        )
    if advantage.k and advantage.rule != "pass_k":
        raise RecipeError(
            f"recipe: advantage.k is set but advantage.rule {advantage.rule} does not read it; only "
            "pass_k does"
        )
    if sample.oversample and advantage.flat == "keep":
        raise RecipeError(
            "recipe: sample.oversample samples more prompts to choose from, but advantage.flat keep "
            "chooses none; set advantage.flat to drop or refill"
        )
    if sample.over_request and (sample.oversample or advantage.flat == "refill"):
        raise RecipeError(
            "recipe: sample.over_request ends a step's sampling early, which cannot be combined with "
            "sample.oversample or advantage.flat refill, which sample more; drop one of them"
        )
    if advantage.flat != "keep" and sample.group_size < 2:
        raise RecipeError(
            f"recipe: advantage.flat is {advantage.flat}, but a group of one is always flat; set "
            "sample.group_size to 2 or more, or advantage.flat to keep"
        )
    if recipe.data.pass_low > recipe.data.pass_high:
        raise RecipeError(
            f"recipe: data.pass_low is {recipe.data.pass_low:g}, above data.pass_high "
            f"({recipe.data.pass_high:g}); no prompt could lie between them"
        )


def check_loss(loss: LossSection, advantage: AdvantageSection) -> None:
    """Refuse terms of a loss that contradict each other, each with the reason."""
    for refused, reason in [*_refused_levels(loss, advantage), *_refused_terms(loss, advantage)]:
        if refused:
            raise RecipeError(f"recipe: {reason}")


def _refused_levels(loss: LossSection, advantage: AdvantageSection) -> Iterator[tuple[bool, str]]:
    """(whether it is so, the reason): a ratio of whole completions beside something that acts on single tokens."""
    whole = loss.policy in WHOLE_POLICY_LOSSES
    fits = WHOLE_POLICY_LOSSES.get(loss.policy, ())
    ratio = f"loss.policy {loss.policy} has one ratio for a whole completion"
    other = f"; or use {loss.policy}_token" if f"{loss.policy}_token" in POLICY_LOSSES else ""
    yield (
        whole and loss.aggregation not in fits,
        (
            f"{ratio}, which loss.aggregation {loss.aggregation} would weight by its tokens; set "
            f"{' or '.join(fits)}{other}"
        ),
    )
    yield (
        whole and "token" in (loss.correction, loss.correction_mask),
        (
            f"{ratio}, but the correction is per token, a token-level trust region around a sequence-level ratio; set "
            f"loss.correction (and loss.correction_mask) to sequence, geometric or none{other}"
        ),
    )
    yield (
        whole and loss.top_entropy < 1,
        (f"{ratio}, but loss.top_entropy takes single tokens out of it; set it to 1{other}"),
    )
    yield (
        whole and advantage.rule == "reinforce_pp" and loss.kl_in == "reward" and loss.beta > 0,
        (
            f"loss.policy {loss.policy} reads one advantage a completion, but advantage.rule reinforce_pp with the KL in "
            "the reward gives each token its own; use clip, or loss.kl_in loss"
        ),
    )


def _refused_terms(loss: LossSection, advantage: AdvantageSection) -> Iterator[tuple[bool, str]]:
    for name in ("dual_clip", "ratio_cap"):
        yield (
            bool(getattr(loss, name)) and loss.policy not in ("clip", "clip_cov"),
            (
                f"loss.{name} is set, but loss.policy {loss.policy} does not read it; only clip and clip_cov do"
            ),
        )
    yield (
        loss.constant is not None and loss.aggregation != "constant",
        (
            f"loss.constant is set, but loss.aggregation {loss.aggregation} does not read it; only constant does"
        ),
    )
    yield (
        loss.policy == "none" and loss.teacher is None,
        (
            "loss.policy is none and there is no loss.teacher, so nothing would be learnt; name a teacher or a policy loss"
        ),
    )
    yield (
        loss.kl_in == "reward" and loss.kl == "k3_unbiased",
        (
            "loss.kl k3_unbiased is k3 times a ratio that carries gradient, and a reward carries none; use k1, k2 or k3 in "
            "the reward"
        ),
    )
    yield (
        loss.kl_in == "reward" and loss.beta > 0 and advantage.rule == "gdpo",
        (
            "advantage.rule gdpo normalises each reward by itself, and the KL in the reward is part of none; set "
            "loss.kl_in to loss"
        ),
    )
    yield (
        loss.cov_low >= loss.cov_high,
        (
            f"loss.cov_low is {loss.cov_low:g}, not below loss.cov_high ({loss.cov_high:g}); no token could lie "
            "between them"
        ),
    )
    yield (
        loss.correction_mask != "none" and loss.correction_low >= loss.correction_high,
        (
            f"loss.correction_low is {loss.correction_low:g}, not below loss.correction_high ({loss.correction_high:g}); "
            "every token would be dropped"
        ),
    )


# ---- what a reader is shown ---------------------------------------------------------------------------------


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two resolved recipes differ, as (dotted key, old value, new value)."""
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, dotted(where, name))
        elif a != b:
            yield dotted(where, name), a, b


def describe_keys(cls: type = Recipe, where: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key of the recipe as (dotted name, default, help), in the order of the file."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        name, options = dotted(where, f.name), typing.get_args(hints[f.name]) or (hints[f.name],)
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
        inner = next((o for o in options if dataclasses.is_dataclass(o)), None)
        if inner is None or default is None:
            yield name, default, f.metadata["help"]
        if inner is not None:
            yield from describe_keys(inner, name)
        if name == "rewards":
            yield from describe_keys(RewardSection, "rewards.<name>")
        if name == "gates":
            yield from describe_keys(GateSection, "gates.<name>")
