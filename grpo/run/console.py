"""The first lines of a run on the console: what runs on what, in five lines or with everything that was resolved."""

from __future__ import annotations

from collections import Counter
from typing import Iterator

import torch

from grpo.distributed.process_group import Ranks
from grpo.kernels.cpu import ops
from grpo.model.policy import Policy
from grpo.objective.formula import describe_objective
from grpo.recipe import Recipe
from grpo.recipe.describe import step_size
from grpo.recipe.shorthands import HELD_OUT
from grpo.recipe.values import TEMPLATES
from grpo.rollout.servers.kinds import KINDS
from grpo.run.setup import RunInputs, RunParts
from rewards import RewardSpec
from rewards.spelling import many

MARGIN = " " * 12


def header(recipe: Recipe, inputs: RunInputs, parts: RunParts, num_steps: int) -> list[str]:
    """The four lines after the title, after `num_steps` steps; further ones for tools, slow models, a resumed run."""
    sample = recipe.sample
    completions = (
        f"{sample.prompts} x {many(sample.group_size, 'completion')} {sample.describe_max_tokens()}"
    )
    loss = recipe.loss.preset or f"{recipe.loss.policy} loss"
    lines = [
        f"  policy    {parts.policy.describe()}{_workers(parts.ranks, parts.policy)}",
        f"  data      {_prompts(recipe, inputs)}",
        f"  rewards   {_weights(inputs, recipe.evaluate.threshold)}",
        f"  training  {many(recipe.steps, 'step')} of {completions}, {loss}, lr {recipe.optim.lr:g}",
    ]
    if inputs.environment is not None:
        lines.insert(3, f"  answers   {inputs.environment.describe()}")
    further = [*parts.policy.describe_fallback(), *parts.policy.describe_routing()]
    if sample.servers:
        ahead = f", up to {many(sample.staleness, 'step')} ahead" if sample.staleness else ""
        kind = KINDS[sample.engine].name
        further.append(f"sampled by {many(len(sample.servers), f'{kind} server')}{ahead}")
    lines += [f"{MARGIN}{line}" for line in further]
    if num_steps:
        lines.append(f"  resumed after step {num_steps}")
    return lines


def internals(recipe: Recipe, inputs: RunInputs, parts: RunParts) -> list[str]:
    """What was resolved besides: the objective as a formula, kernels, sources, sets, the size of a step."""
    policy = parts.policy
    objective = next(iter(describe_objective(recipe))).splitlines()
    lines = [f"  kernels   {policy.describe_head()}"]
    lines += [f"{MARGIN}{line}" for line in _decoding(policy)]
    lines += [f"  source    {line}" for line in _sources(inputs)]
    lines += [f"  set       {of.name}: {of.describe()}" for of in inputs.sets]
    lines.append(f"  objective {objective[0]}")
    lines += [f"{MARGIN}{line}" for line in objective[1:]]
    lines += [f"  {line}" for line in step_size(recipe)]
    return lines


def _weights(inputs: RunInputs, threshold: float) -> str:
    weights = ", ".join(_weight(spec) for spec in inputs.specs)
    means = "= 1" if threshold == 1 else f">= {threshold:g}"
    return f"{weights}; accurate means {inputs.accurate} {means}"


def _weight(spec: RewardSpec) -> str:
    later = f" from step {spec.from_step}" if spec.from_step > 1 else ""
    return f"{spec.weight:g} x {spec.name}{later}"


def _workers(ranks: Ranks, policy: Policy) -> str:
    if ranks.world > 1:
        divided = ", weights divided" if policy.shards is not None else ""
        return f", {ranks.world} processes{divided}"
    return f", {many(torch.get_num_threads(), 'thread')}"


def _prompts(recipe: Recipe, inputs: RunInputs) -> str:
    prompts = inputs.prompts
    counts = f"{len(prompts.train)} train, {len(prompts.held_out)} held out"
    further = [of.name for of in inputs.sets if of.name != HELD_OUT]
    counts += "".join(f", set {name}" for name in further)
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
        yield "decoding: the native sampler, and torch's attention, since the processor has neither AVX-512 nor AVX2"


def many_hours(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
