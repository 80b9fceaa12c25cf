"""The first and the last lines of a run on the console: what runs on what, and how it ended."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, Mapping

import torch

from grpo import __version__
from grpo.distributed.process_group import Ranks
from grpo.kernels.cpu import ops
from grpo.model.policy import Policy
from grpo.objective.formula import describe_objective
from grpo.recipe import Recipe
from grpo.recipe.describe import step_size
from grpo.recipe.values import TEMPLATES
from grpo.run.log import interval
from grpo.run.setup import RunInputs, RunParts

MARGIN = " " * 12


def header(recipe: Recipe, inputs: RunInputs, parts: RunParts, num_steps: int) -> list[str]:
    """What runs on what, after `num_steps` steps."""
    policy = parts.policy
    weights = ", ".join(f"{spec.weight:g} x {spec.name}" for spec in inputs.specs)
    objective = next(iter(describe_objective(recipe))).splitlines()
    lines = [
        f"grpo {__version__}  {recipe.name}  ->  {recipe.folder()}",
        f"  policy    {policy.describe()}{_workers(parts.ranks)}",
        f"{MARGIN}{policy.describe_head()}",
    ]
    lines += [f"{MARGIN}{line}" for line in [*policy.describe_fallback(), *_decoding(policy)]]
    lines.append(f"  prompts   {_prompts(recipe, inputs)}")
    lines += [f"{MARGIN}{line}" for line in _sources(inputs)]
    lines += [
        f"{'  sets' if not number else '':<12}{of.name}: {of.describe()}"
        for number, of in enumerate(inputs.sets)
    ]
    lines.append(f"  rewards   {weights}; accurate means {inputs.accurate} = 1")
    lines.append(f"  objective {objective[0]}")
    lines += [f"{MARGIN}{line}" for line in objective[1:]]
    lines += [f"  {line}" for line in step_size(recipe)]
    if num_steps:
        lines.append(f"  resumed after step {num_steps}")
    return lines


def _workers(ranks: Ranks) -> str:
    if ranks.world > 1:
        return f", {ranks.world} processes"
    return f", {torch.get_num_threads()} threads"


def _prompts(recipe: Recipe, inputs: RunInputs) -> str:
    prompts = inputs.prompts
    counts = f"{len(prompts.train)} train, {len(prompts.held_out)} held out"
    dropped = f", {prompts.num_dropped} too long and dropped" if prompts.num_dropped else ""
    left_out = f", {prompts.num_left_out} left out by where" if prompts.num_left_out else ""
    source = recipe.data.source or ", ".join(recipe.data.sources) or "data in memory"
    templates = {template.pattern for template in prompts.templates.values()}
    shown = ", ".join(name if name in TEMPLATES else "a template of your own" for name in templates)
    return f"{source}: {counts}{dropped}{left_out}, template {shown}"


def _sources(inputs: RunInputs) -> Iterator[str]:
    """The share of each source of a mixture."""
    if len(inputs.weights) < 2:
        return
    total = sum(inputs.weights.values())
    counts = Counter(prompt.source for prompt in inputs.prompts.train)
    for name, weight in inputs.weights.items():
        yield f"{name}: {weight / total:.0%} of a step's prompts, {counts[name]} to draw from"


def _decoding(policy: Policy) -> Iterator[str]:
    """Which kernels sample on a CPU, and why if not the fast ones."""
    if policy.device.type != "cpu" or policy.unsupported_reason:
        return
    reason = ops.reason()
    if not reason and policy.base.dtype != torch.float32:
        reason = f"the model is in {policy.base.dtype}"
    if reason:
        yield f"decoding: torch's operations, since {reason}"
    elif ops.reads_fast():
        yield "decoding: native kernels"
    else:
        yield "decoding: the native sampler, and torch's attention, since the processor has no AVX-512"


def closing(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """The last lines of a run: before and after, examples of both, the ledger, the cost."""
    lines = list(_losses(summary.get("loss")))
    lines += _comparison("held-out accuracy", summary["before"], summary["after"])
    for name, both in summary["sets"].items():
        lines += _comparison(f"{name} accuracy", both["before"], both["after"])
    for when, examples in summary["examples"].items():
        for example in examples:
            text = f"{example['prompt']} {example['completion']}"
            lines.append(f"{when:>6} | {text}   ({example['reward']})")
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in summary["ledger"].items())
    lines.append(f"ledger: {outcomes}")
    does = "trained" if summary["stage"] == "sft" else "sampled"
    lines.append(
        f"{summary['steps']} steps, {summary['seconds']:.0f} s, {summary['tokens'][does]} tokens "
        f"{does}; the model is in {folder / 'final'}"
    )
    return lines


def _losses(both: Mapping[str, Any] | None) -> Iterator[str]:
    """The held-out loss of supervised training, before and after."""
    shown = []
    for loss in (both or {}).values():
        if loss:
            bounds = ", ".join(_bound(loss[end]) for end in ("low", "high"))
            shown.append(f"{loss['loss']:.4f} [{bounds}]")
    if shown:
        yield f"held-out loss      {'  ->  '.join(shown)}"


def _bound(value: float | None) -> str:
    """An end of an interval; one row alone bounds nothing."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _comparison(
    what: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> Iterator[str]:
    if not after:
        return
    if not before:
        yield f"{what:<18} {interval(after)}"
        return
    yield f"{what:<18} {interval(before)}  ->  {interval(after)}"
    if before.get("reward") is not None and after.get("reward") is not None:
        yield f"mean reward        {_reward(before)}  ->  {_reward(after)}"
    yield f"length             {before['length']:.1f}  ->  {after['length']:.1f} tokens"
    for name in sorted({*before["details"], *after["details"]}):
        old = before["details"].get(name)
        new = after["details"].get(name)
        if old is not None and new is not None:
            yield f"{name:<18} {old:.3f}  ->  {new:.3f}"


def _reward(evaluation: Mapping[str, Any]) -> str:
    mean, low, high = (evaluation[key] for key in ("reward", "reward_low", "reward_high"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def many_hours(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
