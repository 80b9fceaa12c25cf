"""The sets of rows that a run is evaluated on: those held out of its training data, and the sets of its recipe.

Each has its own prompts, and, where its section names them, its own rewards and sampling. A set's prompts are named by
the set, so its seeds do not change when another set is added.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

from grpo.data.columns import columns_in_common
from grpo.data.hub import Table
from grpo.data.prompts import fitting, make_prompts, prompt_limit
from grpo.data.reading import Report, read_table, to_standard_error
from grpo.data.rows import usable_rows
from grpo.data.sources import SourceRows, source_of
from grpo.data.templates import Template
from grpo.environments import EnvironmentPlan
from grpo.kernels.sampling.spec import Sampling
from grpo.model.info import ModelInfo
from grpo.recipe import EvaluationSetSection, Recipe, RecipeError, RowsSection
from grpo.recipe.benchmarks import BENCHMARKS
from grpo.recipe.shorthands import HELD_OUT
from grpo.run.accuracy import Evaluation
from grpo.run.fingerprint import rows as digest_of_prompts
from grpo.run.reward_fit import check_columns
from grpo.run.reward_specs import rewards_of_set
from grpo.types import Prompt
from rewards import RewardSpec
from rewards.spelling import many

_ROWS_KEY = re.compile(
    rf"\bdata\.(?=(?:{'|'.join(key.name for key in dataclasses.fields(RowsSection))})\b)"
)
"""What sentences on rows name keys of ``data`` by."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """Prompts that never train, how completions of them are sampled, and what scores them.

    ``own_specs`` are None where the rewards of training score the set. A completion is accurate if the reward
    ``accurate`` gives it ``threshold`` or more. ``revision`` is the commit of the hub that the rows are of, ``columns``
    those of the training data that the set is read by, since it names none. ``templates`` are those of the prompts, by
    the source of each.
    """

    name: str
    prompts: Sequence[Prompt]
    accurate: str
    threshold: float
    samples: int
    max_tokens: int
    sampling: Sampling
    own_specs: Sequence[RewardSpec] | None = None
    num_dropped: int = 0
    benchmark: str | None = None
    revision: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, Template] = field(default_factory=dict)

    def describe(self) -> str:
        """One line: the rows, what of them is sampled, what scores it."""
        greedy = "greedy" if self.sampling.temperature == 0 else f"T {self.sampling.temperature:g}"
        parts = [
            f"{many(len(self.prompts), 'prompt')} x {self.samples}",
            greedy,
            f"at most {many(self.max_tokens, 'token')}",
            f"accurate means {self.accurate} >= {self.threshold:g}",
        ]
        if self.num_dropped:
            parts.append(f"{self.num_dropped} too long and dropped")
        if self.columns:
            parts.append(self.describe_columns())
        return ", ".join(parts)

    def describe_columns(self) -> str:
        """The columns of the training data that the set is read by, since it names none; or nothing."""
        shown = ", ".join(f"{name}: {column}" for name, column in self.columns.items())
        return f"columns as in training ({shown})" if shown else ""

    def facts(self) -> dict[str, Any]:
        """What its results are comparable under, as plain values."""
        version = BENCHMARKS[self.benchmark].version if self.benchmark else None
        return {
            "benchmark": self.benchmark,
            "version": version,
            "revision": self.revision,
            "rows": digest_of_prompts(self.prompts),
            "samples_per_prompt": self.samples,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.max_tokens,
            "reward": self.accurate,
            "threshold": self.threshold,
        }


def sampling_of_evaluation(recipe: Recipe, section: EvaluationSetSection | None = None) -> Sampling:
    """How completions are drawn in an evaluation; a benchmark's protocol knows neither top-k nor min-p."""
    temperature = recipe.evaluate.temperature
    sample = recipe.sample
    if section is None:
        return Sampling(temperature, top_k=sample.top_k, top_p=sample.top_p, min_p=sample.min_p)
    is_benchmark = section.benchmark is not None
    return Sampling(
        temperature=temperature if section.temperature is None else section.temperature,
        top_k=0 if is_benchmark else sample.top_k,
        top_p=sample.top_p if section.top_p is None else section.top_p,
        min_p=0.0 if is_benchmark else sample.min_p,
    )


def held_out_set(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    accurate: str,
    templates: Mapping[str, Template] | None = None,
) -> EvaluationSet:
    """The rows held out of the training data, evaluated by the recipe's ``evaluate`` section."""
    return EvaluationSet(
        name=HELD_OUT,
        prompts=prompts,
        accurate=accurate,
        threshold=recipe.evaluate.threshold,
        samples=recipe.evaluate.samples,
        max_tokens=recipe.sample.max_tokens,
        sampling=sampling_of_evaluation(recipe),
        templates=templates or {},
    )


def check_rewards_of_sets(recipe: Recipe, specs: Sequence[RewardSpec]) -> None:
    """Refuse sets of ``evaluate.sets`` that nothing scores; raises `RecipeError`."""
    for name, section in recipe.evaluate.sets.items():
        if not specs and not section.rewards:
            raise RecipeError(
                f"recipe: evaluate.sets.{name} is scored by the recipe's rewards, and it has none; name some, for the "
                "set or for all"
            )


def check_templates_of_sets(
    sets: Sequence[EvaluationSet], environment: EnvironmentPlan | None, info: ModelInfo
) -> None:
    """Refuse sets whose chat template cannot tell a conversation with tools; raises `RecipeError`."""
    if environment is None:
        return
    for of in sets:
        environment.check_templates(info.tokenizer, of.templates.values(), info.end_ids)


def load_sets(
    recipe: Recipe, specs: Sequence[RewardSpec], accurate: str, info: ModelInfo
) -> list[EvaluationSet]:
    """The sets of ``evaluate.sets``; `specs` score those without rewards of their own.

    Raises `RecipeError`, which names the set that cannot be loaded.
    """
    sets = []
    for name, section in recipe.evaluate.sets.items():
        try:
            sets.append(_load_set(recipe, name, section, specs=specs, accurate=accurate, info=info))
        except RecipeError as error:
            raise RecipeError(_of_set(name, str(error))) from None
    return sets


def _of_set(name: str, sentence: str) -> str:
    """A sentence on the rows of training data, about those of a set."""
    return f"evaluate.sets.{name}: {_ROWS_KEY.sub(f'evaluate.sets.{name}.', sentence)}"


def _load_set(
    recipe: Recipe,
    name: str,
    section: EvaluationSetSection,
    *,
    specs: Sequence[RewardSpec],
    accurate: str,
    info: ModelInfo,
) -> EvaluationSet:
    def say(sentence: str) -> None:
        to_standard_error(_of_set(name, sentence))

    table = read_table(section, report=say)
    _check_number(section, len(table.rows), say)
    columns = _columns_of_training(recipe, section, table)
    if columns:
        section = replace(section, columns=columns)
    empty = _described(recipe, name, section, section.reward or accurate)
    empty = replace(empty, revision=table.revision, columns=columns)
    if section.rewards:
        own_specs, accurate = rewards_of_set(section, recipe)
        empty = replace(empty, own_specs=own_specs, accurate=accurate)
    source = source_of(name, section, usable_rows(table.rows, section, say))
    source = replace(source, held_out=source.rows[: section.limit])
    check_columns(empty.own_specs or specs, source.held_out)
    return _with_prompts(empty, section, source, info)


def _columns_of_training(
    recipe: Recipe, section: EvaluationSetSection, table: Table
) -> dict[str, Any]:
    """The columns of the training data by which a set is read that names none."""
    if section.columns or section.benchmark is not None:
        return {}
    trained = [source.columns for source in recipe.data.each().values()]
    return columns_in_common(table.rows[0], trained)


def _with_prompts(
    empty: EvaluationSet, section: EvaluationSetSection, source: SourceRows, info: ModelInfo
) -> EvaluationSet:
    """The set with its prompts; a benchmark's length is cut to what the context leaves after its longest prompt."""
    every_prompt = make_prompts(source, info)
    max_tokens = empty.max_tokens
    if _is_length_of_benchmark(section) and info.context is not None:
        max_tokens = max(1, min(max_tokens, info.context - every_prompt.longest))
    limit = prompt_limit(section.max_prompt_tokens, info.context, max_tokens)
    prompts = fitting(every_prompt, limit, info)
    return replace(
        empty,
        prompts=prompts.held_out,
        max_tokens=max_tokens,
        num_dropped=prompts.num_dropped,
        templates=prompts.templates,
    )


def _described(
    recipe: Recipe, name: str, section: EvaluationSetSection, accurate: str
) -> EvaluationSet:
    """What the recipe says of a set, before its rows are read; what its section leaves out is as in training."""
    evaluate = recipe.evaluate
    return EvaluationSet(
        name=name,
        prompts=(),
        accurate=accurate,
        threshold=evaluate.threshold if section.threshold is None else section.threshold,
        samples=section.samples or evaluate.samples,
        max_tokens=section.max_tokens or recipe.sample.max_tokens,
        sampling=sampling_of_evaluation(recipe, section),
        benchmark=section.benchmark,
    )


def _check_number(section: EvaluationSetSection, found: int, say: Report) -> None:
    """Say so if a benchmark's own source has another number of rows than its definition."""
    if section.benchmark is None:
        return
    benchmark = BENCHMARKS[section.benchmark]
    keys = benchmark.keys
    is_own = section.source == keys["source"] and section.args == keys.get("args", {})
    if is_own and benchmark.num_rows not in (None, found):
        say(
            f"{section.source} has {many(found, 'row')}, where {section.benchmark} has {benchmark.num_rows}: "
            "results do not "
            "compare with others of that name"
        )


def _is_length_of_benchmark(section: EvaluationSetSection) -> bool:
    """Whether the recipe leaves the length to the benchmark."""
    if section.benchmark is None:
        return False
    keys: Mapping[str, Any] = BENCHMARKS[section.benchmark].keys
    return section.max_tokens == keys["max_tokens"]


def ranking(results: Mapping[str, Evaluation], best_by: str | None) -> float | None:
    """What checkpoints are compared by: the accuracy of a set, or ``NAME/reward`` its mean reward."""
    if best_by is None:
        return next(iter(results.values())).accuracy
    name, _, quantity = best_by.partition("/")
    if name not in results:
        return None
    return results[name].reward if quantity else results[name].accuracy
