"""What a run of supervised fine-tuning is made from, checked before a model loads: examples, evaluation sets, rewards.

Rewards are optional: without any, held-out rows give a loss and nothing is sampled.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.data.example_rows import load_example_rows
from grpo.data.examples import ExampleSet, load_examples
from grpo.data.leaks import check_leaks
from grpo.data.prompts import PromptSet, prompts_of
from grpo.data.questions import names_of, questions_of
from grpo.data.reading import Report, to_standard_error
from grpo.data.sources import GivenRows, SourceRows, check_enough_rows, load_sources
from grpo.data.templates import Template
from grpo.environments import Tools, plan_environment
from grpo.model.info import ModelInfo, load_info, load_tokenizer
from grpo.monitor import watchdog
from grpo.recipe import Recipe, RecipeError
from grpo.run.evaluation_sets import (
    EvaluationSet,
    check_rewards_of_sets,
    check_templates_of_sets,
    held_out_set,
    load_sets,
)
from grpo.run.inputs import RunInputs, Watching
from grpo.run.reward_fit import check_columns
from grpo.run.reward_specs import load_rewards
from grpo.types import Prompt
from rewards import RewardSpec
from rewards.spelling import agree, many


def load_sft_inputs(
    recipe: Recipe,
    *,
    data: GivenRows | None = None,
    rewards: Mapping[str, Callable[..., Any]] | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tools: Tools = (),
    watching: Watching = nullcontext,
    report: Report = to_standard_error,
) -> RunInputs:
    """As `grpo.run.inputs.load_inputs`, for examples in place of prompts; its ``prompts`` are the examples whole.

    Tools are offered where completions are sampled, in evaluations alone; an example is learnt as it stands.
    """
    specs: Sequence[RewardSpec] = ()
    accurate = ""
    if recipe.rewards or rewards:
        specs, accurate = load_rewards(recipe, rewards)
    check_rewards_of_sets(recipe, specs)
    load = partial(load_example_rows, form=recipe.sft.form)
    with watching(), watchdog.loading("grpo.data.examples, the data set"):
        sources = load_sources(recipe.data, data, folder=recipe.folder(), report=report, load=load)
    check_enough_rows(sources, *recipe.rows_a_step())
    if recipe.sft.chat_template is not None:
        sources = [_through_chat_template(source) for source in sources]
    with watching(), watchdog.loading("grpo.model.info, configuration and tokenizer"):
        info = load_info(recipe.model, model, _with_template(recipe, tokenizer))
    with watching(), watchdog.loading("grpo.data.examples, the tokens"):
        examples = load_examples(recipe, info, sources)
    _check_enough_examples(recipe, examples)
    environment = plan_environment(recipe, info.tokenizer, tools)
    if environment is not None:
        info = replace(info, tools=environment.shown)
    sets: list[EvaluationSet] = []
    if specs:
        sets = _sampled_held_out(recipe, sources, specs, accurate, info=info)
    with watching(), watchdog.loading("grpo.data.prompts, the evaluation sets"):
        sets += load_sets(recipe, specs, accurate, info)
    check_templates_of_sets(sets, environment, info)
    if environment is not None and not sets:
        report(
            "tools are offered in evaluations alone, and nothing is sampled here: no row is held out"
        )
    return RunInputs(
        recipe=recipe.with_steps(len(examples.train)),
        specs=specs,
        accurate=accurate,
        rows=[row for source in sources for row in source.rows],
        prompts=_as_prompts(examples),
        sets=sets,
        weights={source.name: source.weight for source in sources},
        config=info.config,
        tokenizer=info.tokenizer,
        examples=examples,
        environment=environment if sets else None,
    )


def _with_template(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template that the recipe names; one in hand is not changed."""
    file = recipe.sft.chat_template
    if tokenizer is None:
        tokenizer = load_tokenizer(recipe.model)
    elif file is not None:
        tokenizer = copy.deepcopy(tokenizer)
    if file is not None:
        try:
            tokenizer.chat_template = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"recipe: sft.chat_template names {file}, which cannot be read ({error})"
            ) from None
    return tokenizer


def _through_chat_template(source: SourceRows) -> SourceRows:
    """A source whose template is auto, shown by the chat template that the recipe gives the model."""
    if source.section.template != "auto":
        return source
    return replace(source, section=replace(source.section, template="chat"))


def _check_enough_examples(recipe: Recipe, examples: ExampleSet) -> None:
    number = len(examples.train)
    if number < recipe.sft.batch:
        dropped = examples.counts["too_long"] + examples.counts["nothing_to_learn"]
        raise RecipeError(
            f"recipe: sft.batch is {recipe.sft.batch}, but only {many(number, 'row')} {agree(number, 'are')} "
            f"left to train on, since {dropped} were dropped; lower sft.batch"
        )


def _as_prompts(examples: ExampleSet) -> PromptSet:
    """The examples' prompts, each the whole row, as streams draw them and fingerprints name them."""
    return PromptSet(
        train=tuple(example.prompt for example in examples.train),
        held_out=tuple(example.prompt for example in examples.held_out),
        num_dropped=examples.counts["too_long"],
        longest=examples.longest,
        num_left_out=examples.counts["left_out"],
    )


# ---- held-out rows that are sampled too ---------------------------------------------------------------------------


def _sampled_held_out(
    recipe: Recipe,
    sources: Sequence[SourceRows],
    specs: Sequence[RewardSpec],
    accurate: str,
    *,
    info: ModelInfo,
) -> list[EvaluationSet]:
    """The held-out rows as prompts to be sampled, as in reinforcement learning; texts have none."""
    prompts: list[Prompt] = []
    num_dropped = 0
    templates: dict[str, Template] = {}
    offered = names_of(info.tools)
    for source in sources:
        source = questions_of(replace(source, train=()), offered)
        if not source.held_out:
            continue
        check_columns(specs, source.held_out)
        check_leaks(source.held_out, source.section)
        made = prompts_of(source, info, recipe.sample.max_tokens)
        prompts += made.held_out
        num_dropped += made.num_dropped
        templates.update(made.templates)
    if not prompts:
        return []
    held_out = held_out_set(recipe, prompts, accurate, templates)
    return [replace(held_out, num_dropped=num_dropped)]
