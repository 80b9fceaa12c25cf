"""What can be known of a run before its first step: ``python -m grpo.train RECIPE --preflight``.

The order of the checks, each of which needs the one before: recipe and data, rewards on gold answers, memory, the model
with each tool, a sample of its completions
and one update that is thrown away. Every mistake has a name (docs/preflight.md).
Rewards are scored by the run's own scorer, and nothing is written to disk.
"""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import Callable, Iterator

from grpo.environments import check_pauses
from grpo.monitor import watchdog
from grpo.preflight.baseline import check_baseline
from grpo.preflight.checks import refusal, run_checks, run_policy_checks
from grpo.preflight.facts import (
    NOTE,
    WARNING,
    WRONG,
    Finding,
    RunFacts,
    collect_facts,
    collect_partial_facts,
)
from grpo.preflight.gold import check_gold
from grpo.preflight.memory_fit import check_memory
from grpo.preflight.tools import check_tools
from grpo.recipe import Recipe, RecipeError
from grpo.run.setup import (
    default_device,
    hide_progress_bars,
    open_learner,
    open_policy,
    prepare_torch,
)

Report = Iterator[Finding | str]


def run(recipe: Recipe, say: Callable[[str], None]) -> bool:
    """Say everything that can be found out about `recipe`, a line at a time; True if nothing is certainly wrong."""
    levels: Counter[str] = Counter()
    for item in _report(recipe):
        if isinstance(item, Finding):
            levels[item.level] += 1
            say(_line(item))
        else:
            say(item)
    verdict = "; the run would not work as it stands" if levels[WRONG] else ""
    say(
        f"preflight: {levels[WRONG]} wrong, {levels[WARNING]} warnings, {levels[NOTE]} notes{verdict}"
    )
    return not levels[WRONG]


def _line(finding: Finding) -> str:
    level = finding.level.upper() if finding.level == WRONG else finding.level
    return f"{level:<8} {finding.name}: {finding.message}"


def _report(recipe: Recipe) -> Report:
    try:
        with watchdog.doing("checking data and rewards"):
            facts = collect_facts(recipe)
    except RecipeError as error:
        yield refusal(error)
        if recipe.stage != "distill":
            yield from run_checks(collect_partial_facts(recipe))
        return
    yield from _data_lines(facts)
    if recipe.stage == "distill":
        yield from _named("predicting memory", check_memory(facts))
        yield "sample   left out: no reward decides what a distillation learns"
        return
    yield from run_checks(facts)
    yield from _named("checking rewards on gold answers", check_gold(facts))
    fits = True
    for item in _named("predicting memory", check_memory(facts)):
        if isinstance(item, Finding) and item.level == WRONG:
            fits = False
        yield item
    if fits:
        yield from _check_model(facts)
    else:
        yield "sample   left out: the model would not fit"


def _data_lines(facts: RunFacts) -> Iterator[str]:
    prompts = facts.prompts
    lengths = sorted(len(prompt.token_ids) for prompt in prompts.train)
    data = facts.recipe.data
    source = data.source or ", ".join(data.sources)
    yield (
        f"data     {source}: {len(prompts.train)} train, {len(prompts.held_out)} held "
        f"out; prompts have {median(lengths):.0f} tokens (median), at most {lengths[-1]}"
    )
    millions = (facts.num_parameters or 0) / 1e6
    yield f"model    {facts.recipe.model.name}: {millions:.1f} million parameters"


def _check_model(facts: RunFacts) -> Report:
    """Load the policy, check it, and see what it does."""
    prepare_torch(facts.recipe)
    hide_progress_bars()
    begun = time.perf_counter()
    try:
        policy = open_policy(facts.recipe, default_device(), facts.loaded_tokenizer())
        check_pauses(facts.answers, policy)
        learner = open_learner(facts.recipe, policy)
    except RecipeError as error:
        yield refusal(error)
        return
    load_seconds = time.perf_counter() - begun
    yield from _named("checking the model", run_policy_checks(facts, policy))
    yield from _named("calling each tool", check_tools(facts, policy.stop_ids))
    baseline = check_baseline(facts, learner, load_seconds)
    yield from _named("sampling base completions, one update", baseline)


def _named(what: str, report: Iterator[Finding | str]) -> Report:
    """A part of the report, and what is shown while it is made."""
    with watchdog.doing(what):
        yield from report
