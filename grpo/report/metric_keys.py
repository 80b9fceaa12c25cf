"""The keys of ``metrics.jsonl`` and of every tracker: what each means, and what TRL and verl call it.

The other trainers' names are those of TRL 1.16.0 and verl 0.9.1. A name in capitals stands for one of the recipe's; the
page of the docs is made from this table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAMES = {
    "NAME": r"[^/]+",
    "SET": r"(heldout|eval/[^/]+)(/[^/]+)?",
    "SOURCE": r"[^/]+",
    "DETAIL": r".+",
    "GATE": r"[a-z0-9_]+",
}
"""What may stand for a name in capitals: a pattern."""


@dataclass(frozen=True, slots=True)
class MetricKey:
    """A key, or all keys of its form; ``trl`` and ``verl`` are empty where those trainers have nothing like it."""

    form: str
    meaning: str
    trl: str = ""
    verl: str = ""

    def stands_for(self, key: str) -> bool:
        """Whether `key` is of this form.

        >>> MetricKey("rewards/NAME", "").stands_for("rewards/correct")
        True
        """
        parts = re.split(r"([A-Z]{3,})", self.form)
        pattern = "".join(NAMES.get(part, re.escape(part)) for part in parts)
        return re.fullmatch(pattern, key) is not None


def described(key: str) -> MetricKey | None:
    """The first row of `METRIC_KEYS` that stands for `key`; None for a key that no row knows."""
    return next((row for row in METRIC_KEYS if row.stands_for(key)), None)


METRIC_KEYS = (
    MetricKey("reward/mean", "mean weighted reward", "reward", "critic/score/mean"),
    MetricKey("reward/std", "its standard deviation over the step", "reward_std"),
    MetricKey("reward/faults", "completions that a reward could not judge"),
    MetricKey("reward/timeouts", "completions that exhausted a reward's budget"),
    MetricKey("reward/no_answer", "completions without an answer to judge"),
    MetricKey("rewards/NAME", "mean of one reward", "rewards/NAME/mean"),
    MetricKey("rewards/NAME/DETAIL", "mean of a number that the reward reports of a completion"),
    MetricKey("metric/DETAIL", "mean of what rewards log by `log_metric`", "the name itself"),
    MetricKey(
        "group/flat",
        "share of zero-variance groups: all completions have one reward",
        "frac_reward_zero_std",
    ),
    MetricKey("group/sampled", "groups sampled"),
    MetricKey("group/trained", "groups with a completion that trains"),
    MetricKey(
        "completion/length",
        "mean tokens of a completion",
        "completions/mean_length",
        "response_length/mean",
    ),
    MetricKey(
        "completion/longest",
        "tokens of the longest",
        "completions/max_length",
        "response_length/max",
    ),
    MetricKey(
        "completion/truncated",
        "share that was cut off",
        "completions/clipped_ratio",
        "response_length/clip_ratio",
    ),
    MetricKey("completion/tokens", "tokens of all completions"),
    MetricKey("completion/surprisal", "mean of -log p of the sampled tokens, by the sampler"),
    MetricKey("completion/carried", "completions that began in an earlier step"),
    MetricKey(
        "tool/calls",
        "with tools: mean calls of a completion",
        "tools/call_frequency",
        "num_turns/mean (of turns)",
    ),
    MetricKey("tool/share", "share of completions that call"),
    MetricKey(
        "tool/errors", "share of calls that gave nothing but an error", "tools/failure_frequency"
    ),
    MetricKey(
        "tool/seconds",
        "mean wall-clock time of an answer",
        "",
        "timing_s/agent_loop/tool_calls/mean",
    ),
    MetricKey("tool/turns", "mean turns of a completion that were answered"),
    MetricKey(
        "tool/observation_tokens", "mean tokens of a completion that were given, not sampled"
    ),
    MetricKey(
        "policy/entropy", "mean entropy of a token's distribution", "entropy", "actor/entropy"
    ),
    MetricKey("policy/entropy_weight", "weight of the entropy bonus", "entropy_coef"),
    MetricKey("policy/kl", "KL to the reference", "kl", "actor/kl_loss"),
    MetricKey("policy/teacher_kl", "KL to the teacher"),
    MetricKey(
        "policy/clipped",
        "share of tokens whose ratio is clipped",
        "clip_ratio/region_mean",
        "actor/pg_clipfrac",
    ),
    MetricKey("policy/ratio_max", "largest ratio of an update"),
    MetricKey("policy/version", "updates made so far"),
    MetricKey(
        "staleness/mean",
        "with `sample.staleness`: how many steps old the weights are that wrote a token, mean over tokens",
    ),
    MetricKey("staleness/max", "of the oldest token; never above `sample.staleness`"),
    MetricKey(
        "policy/drift",
        "sampler–trainer mismatch: mean |difference| of log-probs of the same tokens",
        "sampling/sampling_logp_difference/mean",
        "training/rollout_probs_diff_mean (of probabilities)",
    ),
    MetricKey(
        "policy/drift_max",
        "its largest",
        "sampling/sampling_logp_difference/max",
        "training/rollout_probs_diff_max (of probabilities)",
    ),
    MetricKey("policy/drift_p99", "its 99th percentile"),
    MetricKey(
        "policy/drift_k3", "estimate of the KL from sampler to trainer", "", "rollout_corr/k3_kl"
    ),
    MetricKey("policy/drift_ess", "effective share of samples under the ratio of both"),
    MetricKey("policy/drift_signed", "mean difference with its sign", "", "rollout_corr/kl"),
    MetricKey(
        "policy/drift_weight", "mean ratio of trainer to sampler; 1 unless their supports differ"
    ),
    MetricKey("policy/drift_weight_error", "its standard error"),
    MetricKey("policy/drift_tilt", "slope of the difference on the log-prob: another temperature"),
    MetricKey("policy/drift_tilt_error", "its standard error"),
    MetricKey("policy/drift_tilt_share", "share of the difference that it explains"),
    MetricKey("policy/drift_missing", "share of tokens without the sampler's log-prob"),
    MetricKey(
        "correction/weight",
        "mean weight of the sampler's correction",
        "sampling/importance_sampling_ratio/mean",
        "rollout_corr/rollout_is_mean",
    ),
    MetricKey(
        "correction/raw_max",
        "largest weight before truncation",
        "",
        "rollout_corr/rollout_is_max (after it)",
    ),
    MetricKey(
        "correction/ess",
        "effective share of samples under the weights",
        "",
        "rollout_corr/rollout_is_eff_sample_size",
    ),
    MetricKey(
        "correction/dropped",
        "share of tokens with weight 0",
        "",
        "rollout_corr/rollout_rs_masked_fraction",
    ),
    MetricKey("correction/lost", "share of the update's mass that the weights take away"),
    MetricKey(
        "experts/entropy",
        "mixtures of experts: entropy of the experts' load, as a share of the even one's",
    ),
    MetricKey("experts/max_share", "largest share of a layer's choices that fall on one expert"),
    MetricKey(
        "experts/balance",
        "load-balancing loss without its weight; experts a token where the load is even",
        "aux_loss",
    ),
    MetricKey("update/made", "updates made in the step"),
    MetricKey("update/skipped", "updates that a gate skipped"),
    MetricKey("update/masked", "rows masked since their numbers could not be right"),
    MetricKey("update/overflows", "updates given up since a gradient was not finite"),
    MetricKey("update/tokens", "tokens trained"),
    MetricKey("update/grad_norm", "gradient norm before clipping", "grad_norm", "actor/grad_norm"),
    MetricKey("update/packed", "tokens forwarded by an update of supervised training"),
    MetricKey("epoch", "in supervised training: passes over the rows so far", "epoch"),
    MetricKey("row/length", "in supervised training: mean tokens of a row"),
    MetricKey("row/longest", "tokens of the longest row"),
    MetricKey("row/learnt", "mean tokens of a row that are learnt"),
    MetricKey("update/lr", "learning rate", "learning_rate", "actor/lr"),
    MetricKey("update/loss", "loss: near 0 by construction", "loss", "actor/pg_loss"),
    MetricKey("ledger/NAME", "completions by outcome; the outcomes sum to `ledger/sampled`"),
    MetricKey("prompt/retired", "prompts that are solved and no longer sampled"),
    MetricKey("source/SOURCE/DETAIL", "reward, length, groups, ... of one source of a mixture"),
    MetricKey("gate/level", "the highest level of a gate: 1 note, 2 warn, 3 skip, 4 stop"),
    MetricKey("gate/GATE", "level of that gate"),
    MetricKey("seconds/step", "wall-clock time of the step", "step_time", "timing_s/step"),
    MetricKey("seconds/sample", "of it, sampling", "", "timing_s/gen"),
    MetricKey(
        "seconds/wait", "with `sample.staleness`: waiting for completions that are sampled ahead"
    ),
    MetricKey("seconds/judge", "waiting for rewards after sampling", "", "timing_s/reward"),
    MetricKey("seconds/update", "updates", "", "timing_s/update_actor"),
    MetricKey(
        "SET/accuracy",
        "share of held-out completions that are right",
        "eval_rewards/NAME/mean",
        "val-core/SOURCE/acc/mean@N",
    ),
    MetricKey("SET/low", "lower end of its 95 % interval"),
    MetricKey("SET/high", "upper end"),
    MetricKey("SET/reward", "mean weighted reward", "eval_reward", "val-core/SOURCE/reward/mean@N"),
    MetricKey("SET/reward_low", "lower end of its 95 % interval"),
    MetricKey("SET/reward_high", "upper end"),
    MetricKey("SET/loss", "in supervised training: loss a token of the rows held out", "eval_loss"),
    MetricKey("SET/loss_low", "lower end of its 95 % interval"),
    MetricKey("SET/loss_high", "upper end"),
    MetricKey("SET/length", "mean tokens of a completion", "eval_completions/mean_length"),
    MetricKey("SET/truncated", "share that was cut off", "eval_completions/clipped_ratio"),
    MetricKey("SET/no_answer", "share without an answer to judge"),
    MetricKey("SET/faults", "completions that could not be judged"),
)

TABLE_HEAD = """\
| key | meaning | TRL | verl |
|---|---|---|---|
"""


def metric_keys_markdown() -> str:
    """The table of the docs."""
    return TABLE_HEAD + "".join(_row(row) for row in METRIC_KEYS)


def _row(row: MetricKey) -> str:
    theirs = [f"`{name}`" if name else "" for name in (row.trl, row.verl)]
    meaning = row.meaning.replace("|", "\\|")
    return f"| `{row.form}` | {' | '.join([meaning, *theirs])} |\n"
