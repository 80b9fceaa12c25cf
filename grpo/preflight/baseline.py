"""What the untrained policy does: a sample of its completions, scored, and the time of one update that is thrown away.

From it follow advice on difficulty, length and rewards, and the cost of a step and of the run.
"""

from __future__ import annotations

import gc
import math
import time
from contextlib import nullcontext
from typing import ContextManager, Iterator, Sequence

from torch import Tensor

from grpo.cost import processor
from grpo.data.stream import PromptStream
from grpo.environments import RunEnvironment, open_environment, turns_of
from grpo.learner.batch import make_batch
from grpo.learner.learner import Learner
from grpo.model.policy import Policy
from grpo.objective.advantage import advantages
from grpo.objective.policy_loss import forwards_flat_groups
from grpo.preflight import forecast
from grpo.preflight.baseline_sample import BaselineSample
from grpo.preflight.checks import MAX_REWARD
from grpo.preflight.facts import MAX_FAULTS, Finding, RunFacts, warning, wrong
from grpo.preflight.tools import call_each
from grpo.recipe import Recipe
from grpo.report.console.numbers import interval
from grpo.run.accuracy import summarise
from grpo.run.setup import open_engine, open_scorer, sampling_of
from grpo.types import Batch, Group, Prompt, ScoredGroup
from rewards.spelling import many

MAX_COMPLETIONS = 64
MAX_TRUNCATED = 0.3
TOO_HARD = 0.0
TOO_EASY = 0.8


def check_baseline(
    facts: RunFacts, learner: Learner, load_seconds: float = 0.0
) -> Iterator[Finding | str]:
    """Lines and findings on a sample of completions, and the cost of a run.

    The policy of `learner` is changed: discard both. `load_seconds` is what loading them took.
    """
    baseline = sample_baseline(facts, learner)
    yield from baseline_lines(facts, baseline)
    yield from advice(facts.recipe, baseline)
    yield from cost(facts, baseline, load_seconds)


# ---- sampling -------------------------------------------------------------------------------------------------


def sample_baseline(facts: RunFacts, learner: Learner) -> BaselineSample:
    """Sample some groups as the first step would, score them, and time one update by `learner`."""
    recipe = facts.recipe
    policy = learner.policy
    group_size = min(recipe.sample.group_size, MAX_COMPLETIONS)
    num_prompts = max(1, min(recipe.sample.prompts, MAX_COMPLETIONS // group_size))
    prompts = PromptStream(facts.prompts.train, recipe.seed).take(num_prompts)
    opened = open_environment(recipe, facts.answers, policy)
    context: ContextManager[RunEnvironment | None] = opened or nullcontext()
    with open_scorer(recipe, facts.specs) as scorer, context as environment:
        call_each(facts, environment)  # starts the workers, which a run does once
        busy = processor.own_seconds() + processor.children_seconds()
        begun = time.perf_counter()
        pending = []
        for index, group in _sampled(facts, policy, prompts, group_size, environment=environment):
            pending.append((index, scorer.submit(group)))
        sampled = time.perf_counter()
        pending.sort(key=lambda item: item[0])
        groups = tuple(waiting.result() for _, waiting in pending)
        scored = time.perf_counter()
        busy = processor.own_seconds() + processor.children_seconds() - busy
    threshold = recipe.evaluate.threshold
    evaluation = summarise(groups, facts.accurate, tokens=0, seconds=0.0, threshold=threshold)
    return BaselineSample(
        groups=groups,
        pass_rate=evaluation.accuracy,
        stuck=evaluation.stuck(),
        truncated=evaluation.truncated,
        flat=_share_flat(groups, recipe.advantage.mask_truncated),
        length=evaluation.length,
        sample_seconds=sampled - begun,
        judge_seconds=scored - sampled,
        cores=busy / (scored - begun),
        update_seconds=_update_seconds(facts, learner, groups),
    )


def _sampled(
    facts: RunFacts,
    policy: Policy,
    prompts: Sequence[Prompt],
    group_size: int,
    *,
    environment: RunEnvironment | None,
) -> Iterator[tuple[int, Group]]:
    """(index of the prompt, group) in the order in which groups are complete."""
    recipe = facts.recipe
    return open_engine(recipe, policy).sample(
        prompts,
        group_size=group_size,
        max_tokens=recipe.sample.max_tokens,
        sampling=sampling_of(recipe.sample),
        seed=("preflight", recipe.seed),
        turns=turns_of(environment, facts.prompts.templates),
    )


def _share_flat(groups: Sequence[ScoredGroup], mask_truncated: bool) -> float:
    return sum(group.is_flat(mask_truncated) for group in groups) / len(groups)


def _update_seconds(facts: RunFacts, learner: Learner, groups: Sequence[ScoredGroup]) -> float:
    """The time of one update on `groups`, which changes the policy."""
    batch = _batch_that_trains(facts, groups)
    begun = time.perf_counter()
    learner.begin(batch)
    learner.update(batch.updates[0])
    seconds = time.perf_counter() - begun
    gc.collect()
    return seconds


def _batch_that_trains(facts: RunFacts, groups: Sequence[ScoredGroup]) -> Batch:
    """The batch of `groups`; if all of them are flat and nothing would train, with made-up advantages."""
    recipe = facts.recipe
    values = advantages(groups, recipe.advantage, weights=facts.weights())
    batch = _batch(recipe, groups, values, forward_flat=forwards_flat_groups(recipe.loss))
    if any(row.forwarded for row in batch.updates[0].rows):
        return batch
    made_up = [_alternating(len(group.completions)) for group in groups]
    return _batch(recipe, groups, made_up, forward_flat=True)


def _alternating(number: int) -> list[float]:
    return [1.0 if i % 2 else -1.0 for i in range(number)]


def _batch(
    recipe: Recipe,
    groups: Sequence[ScoredGroup],
    values: Sequence[Sequence[float | Tensor]],
    forward_flat: bool,
) -> Batch:
    return make_batch(
        groups,
        values,
        num_updates=1,
        epochs=1,
        max_tokens=recipe.sample.max_tokens,
        mask_truncated=False,
        forward_flat=forward_flat,
    )


# ---- what it says ---------------------------------------------------------------------------------------------


def baseline_lines(facts: RunFacts, baseline: BaselineSample) -> Iterator[str]:
    evaluation = summarise(
        baseline.groups,
        facts.accurate,
        tokens=0,
        seconds=0.0,
        threshold=facts.recipe.evaluate.threshold,
    )
    yield (
        f"sample   {many(baseline.num_completions, 'base completion')} of {many(len(baseline.groups), 'prompt')}: "
        f"{interval(evaluation.to_mapping())} pass rewards.{facts.accurate}, "
        f"{baseline.truncated:.0%} truncated, {baseline.flat:.0%} zero-variance groups, "
        f"{baseline.length:.0f} tokens on average"
    )


def advice(recipe: Recipe, baseline: BaselineSample) -> Iterator[Finding]:
    """What a sample of base completions says about the run, in plain words."""
    yield from _faults(baseline)
    yield from _truncation(recipe, baseline)
    yield from _difficulty(baseline)
    yield from _flatness(baseline)
    yield from _reward_scale(baseline)


def _faults(baseline: BaselineSample) -> Iterator[Finding]:
    number = baseline.num_completions
    faults = [score for score in baseline.scores() if score.status == "fault"]
    if len(faults) > MAX_FAULTS * number:
        yield wrong(
            "too-many-faults",
            f"{len(faults)} of {many(number, 'completion')} could not be judged; above "
            f"{MAX_FAULTS:.0%} a step ends the run: {faults[0].detail[:160]}",
        )


def _truncation(recipe: Recipe, baseline: BaselineSample) -> Iterator[Finding]:
    if baseline.truncated <= MAX_TRUNCATED:
        return
    is_masked = recipe.advantage.mask_truncated
    masked = " and, by advantage.mask_truncated, not learnt from" if is_masked else ""
    yield warning(
        "truncated",
        f"{baseline.truncated:.0%} of the completions were cut off at {recipe.sample.max_tokens} "
        f"tokens{masked}: what is cut off has no answer and earns nothing; raise sample.max_tokens",
    )


def _difficulty(baseline: BaselineSample) -> Iterator[Finding]:
    number = baseline.num_completions
    if math.isnan(baseline.pass_rate):
        return
    if baseline.stuck:
        yield warning("accuracy-cannot-move", baseline.stuck)
    elif baseline.pass_rate == TOO_HARD and baseline.flat == 1:
        yield warning(
            "too-hard",
            f"0 % of {number} pass, and no other reward tells completions apart: too hard, nothing "
            "could be learnt; take easier prompts, a stronger model, a longer sample.max_tokens, or a reward "
            "that pays for part of the way",
        )
    elif baseline.pass_rate == TOO_HARD:
        yield warning(
            "too-hard",
            f"0 % of {number} pass: too hard for now; only the other rewards teach until one does",
        )
    elif baseline.pass_rate >= TOO_EASY:
        yield warning(
            "too-easy",
            f"{baseline.pass_rate:.0%} of {number} pass: too easy, most groups will have zero variance; take "
            "harder prompts, or data.pass_high below 1",
        )


def _flatness(baseline: BaselineSample) -> Iterator[Finding]:
    if baseline.flat > 0.8 and TOO_HARD < baseline.pass_rate < TOO_EASY:
        yield warning(
            "mostly-flat",
            f"{baseline.flat:.0%} of the groups have no spread of reward and teach nothing; raise "
            "sample.group_size or sample.temperature, or set advantage.flat: refill",
        )


def _reward_scale(baseline: BaselineSample) -> Iterator[Finding]:
    values = [abs(score.value) for score in baseline.scores() if score.value is not None]
    if values and max(values) > MAX_REWARD:
        yield warning(
            "reward-scale",
            f"rewards reach {max(values):g}; scale them to about 1, which clip, KL and the "
            "presets' rates are made for",
        )


def cost(facts: RunFacts, baseline: BaselineSample, load_seconds: float = 0.0) -> Iterator[str]:
    """What a step and the run will take."""
    recipe = facts.recipe
    yield forecast.step_line(facts, baseline)
    whole = forecast.of_baseline(facts, baseline, load_seconds)
    first, *others = whole.lines(forecast.prices_of(recipe))
    evaluated = [f"{len(of.prompts)} x {of.samples}" for of in facts.sets]
    evaluations = many(forecast.num_evaluations(recipe), "evaluation")
    yield f"{first}: {many(recipe.steps, 'step')} and {evaluations} of {' + '.join(evaluated) or 'nothing'}"
    yield from others
