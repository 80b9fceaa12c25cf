"""What a run is made from, read and checked before its model loads: rewards, data, configuration and tokenizer.

Everything that works on the model is opened by ``setup``.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Callable, ContextManager, Mapping, Sequence

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from grpo.data.examples import ExampleSet
from grpo.data.prompts import PromptSet, load_prompts
from grpo.data.reading import Report, to_standard_error
from grpo.data.sources import GivenRows, Rows, check_enough_rows, load_sources
from grpo.environments import EnvironmentPlan, Tools, Used, plan_environment
from grpo.model.info import load_info
from grpo.monitor import watchdog
from grpo.monitor.redaction import secret_keys
from grpo.recipe import Recipe, RecipeError
from grpo.report.trackers import check_installed
from grpo.rollout.compiled import check_compiler
from grpo.run.evaluation_sets import (
    EvaluationSet,
    check_rewards_of_sets,
    check_templates_of_sets,
    held_out_set,
    load_sets,
)
from grpo.run.folder import check_folder
from grpo.run.reward_fit import check_columns
from grpo.run.reward_specs import load_rewards
from grpo.run.teacher import check_teacher
from rewards import RewardSpec

Watching = Callable[[], ContextManager[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class RunInputs:
    """What a run is made from, checked: rewards (``accurate`` names the one that means accuracy), data, tokenizer.

    ``recipe`` has its steps, also where it counts in epochs. ``rows`` are all rows of the data, ``prompts`` those that
    are short enough, divided into training and held-out; ``sets`` are evaluated, the held-out rows first; ``weights``
    are the shares of a mixture's sources. Of supervised training there may be no rewards, and ``examples`` are what
    ``prompts`` name. ``environment`` says who answers the policy between its turns, None where nobody does.
    """

    recipe: Recipe
    specs: Sequence[RewardSpec]
    accurate: str
    rows: Rows
    prompts: PromptSet
    sets: Sequence[EvaluationSet]
    weights: Mapping[str, float]
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    examples: ExampleSet = field(default_factory=ExampleSet)
    environment: EnvironmentPlan | None = None


def check_given(model: Any, tokenizer: Any) -> None:
    """Refuse a model or a tokenizer that is not loaded, and a model without its tokenizer."""
    for name, value in (("model", model), ("tokenizer", tokenizer)):
        if isinstance(value, (str, os.PathLike)):
            raise RecipeError(
                f"trainer: {name}= takes one that is loaded, not {os.fspath(value)!r}; name it in the recipe: "
                f"Recipe(model={{'name': {os.fspath(value)!r}}})"
            )
    if model is not None and tokenizer is None:
        raise RecipeError("trainer: a model was given without its tokenizer; pass tokenizer= too")


def check_recipe(recipe: Recipe, *, resume: bool, has_model: bool) -> None:
    """Refuse a recipe without a model, with a taken folder or a secret, that cannot be compiled or lacks a tracker."""
    if recipe.model.name is None and not has_model:
        raise RecipeError("recipe: model.name is missing; name a hub id or a folder")
    if is_first_rank():  # other ranks may start after rank 0 has made it
        check_folder(recipe.folder(), recipe, resume)
    check_settings(recipe)


def check_settings(recipe: Recipe) -> None:
    """Refuse a recipe that holds a secret, that cannot be compiled, or whose tracker is not installed."""
    for key in secret_keys(recipe.to_mapping()):
        raise RecipeError(
            f"recipe: {key} holds a key or token, which the run folder would keep; let whoever needs "
            "it read it from the environment"
        )
    check_compiler(recipe)
    check_installed(recipe.log)


def is_first_rank() -> bool:
    """Whether this process is the first of its run, as its launcher has said."""
    return os.environ.get("RANK", "0") == "0"


def load_inputs(
    recipe: Recipe,
    *,
    data: GivenRows | None = None,
    rewards: Mapping[str, Callable[..., Any]] | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tools: Tools = (),
    environment: Used | None = None,
    watching: Watching = nullcontext,
    report: Report = to_standard_error,
    needs_rewards: bool = True,
) -> RunInputs:
    """Everything of a training run that needs no weights. `RecipeError` for what a user can fix.

    Without ``needs_rewards`` there may be none; held-out rows are then not evaluated.

    ``rewards`` and ``tools`` are callables added to the recipe's, an ``environment`` takes the place of its own;
    ``data``, a ``model`` or ``tokenizer`` in hand are used instead of loading them. Slow reads happen inside
    ``watching()``; ``report`` gets a sentence on what was changed in the rows.
    """
    specs: Sequence[RewardSpec] = ()
    accurate = ""
    if needs_rewards or recipe.rewards or rewards:
        specs, accurate = load_rewards(recipe, rewards)
    check_rewards_of_sets(recipe, specs)
    with watching(), watchdog.loading("grpo.data.rows, the data set"):
        sources = load_sources(recipe.data, data, folder=recipe.folder(), report=report)
    rows = [row for source in sources for row in source.rows]
    check_columns(specs, rows)
    check_enough_rows(sources, *recipe.rows_a_step())
    with watching(), watchdog.loading("grpo.model.info, configuration and tokenizer"):
        info = load_info(recipe.model, model, tokenizer)
    answers = plan_environment(recipe, info.tokenizer, tools, environment)
    if answers is not None:
        info = replace(info, tools=answers.shown)
    prompts = load_prompts(
        sources, info, max_tokens=recipe.sample.max_tokens, at_least=recipe.sample.prompts
    )
    if answers is not None:
        answers.check_templates(info.tokenizer, prompts.templates.values(), info.end_ids)
    check_teacher(recipe, info.tokenizer, prompts)
    sets = []
    if specs and prompts.held_out:
        sets.append(held_out_set(recipe, prompts.held_out, accurate, prompts.templates))
    with watching(), watchdog.loading("grpo.data.prompts, the evaluation sets"):
        sets += load_sets(recipe, specs, accurate, info)
    check_templates_of_sets(sets, answers, info)
    return RunInputs(
        recipe=recipe.with_steps(len(prompts.train)),
        specs=specs,
        accurate=accurate,
        rows=rows,
        prompts=prompts,
        sets=sets,
        weights={source.name: source.weight for source in sources},
        config=info.config,
        tokenizer=info.tokenizer,
        environment=answers,
    )
