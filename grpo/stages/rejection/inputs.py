"""What rejection sampling is made from, checked before a model loads: prompts or stored completions, and rewards."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.data.prompts import load_prompts
from grpo.data.reading import Report, to_standard_error
from grpo.data.sources import GivenRows, load_sources
from grpo.data.templates import template_of
from grpo.model.info import ModelInfo, load_info
from grpo.monitor import watchdog
from grpo.recipe import Recipe, RowsSection
from grpo.run import fingerprint
from grpo.run.inputs import Watching
from grpo.run.reward_fit import check_columns
from grpo.run.reward_specs import load_rewards
from grpo.stages.rejection.stored import StoredSamples, open_samples
from grpo.types import Prompt
from rewards import RewardSpec


@dataclass(frozen=True, slots=True, eq=False)
class RejectInputs:
    """The checked inputs.

    ``recipe`` has its steps, of ``sample.prompts`` prompts each. ``sections`` say how the prompts of each source are
    shown, ``counts`` what became of the rows. With ``stored`` completions and no ``specs`` these keep the verdicts of
    their runs, else they are judged by `specs`, of which ``accurate`` means accuracy.
    """

    recipe: Recipe
    specs: Sequence[RewardSpec]
    accurate: str
    prompts: tuple[Prompt, ...]
    info: ModelInfo
    sections: Mapping[str, RowsSection]
    counts: Mapping[str, int]
    rows: Sequence[Mapping[str, Any]] = ()
    stored: StoredSamples | None = None

    def chunk(self, step: int) -> tuple[Prompt, ...]:
        """The prompts of a step, the first of which is 1."""
        size = self.recipe.sample.prompts
        return self.prompts[(step - 1) * size : step * size]

    def section_of(self, prompt: Prompt) -> RowsSection:
        """How the source of a prompt shows it."""
        return self.sections[prompt.source]

    def shown_by(self) -> dict[str, Any] | None:
        """The keys of ``data`` under which a model reads the rows as they were sampled; None if sources differ."""
        ways = []
        for section in self.sections.values():
            template = template_of(section, self.info.tokenizer, self.info.end_ids)
            ways.append(
                {
                    "template": template.pattern,
                    "system": section.system,
                    "template_args": dict(section.template_args),
                }
            )
        return ways[0] if all(way == ways[0] for way in ways) else None

    def default_template(self) -> str:
        """The template by which rows are shown where a recipe names none."""
        return template_of(RowsSection(), self.info.tokenizer, self.info.end_ids).pattern

    def fingerprint(self) -> dict[str, Any]:
        """What the rows and stored completions are, for a resume that needs no weights."""
        made: dict[str, Any] = {
            "train": fingerprint.rows(self.prompts),
            "tokens": fingerprint.tokens(self.prompts),
        }
        if self.stored is not None:
            made["samples"] = self.stored.digest
        return made


def load_reject_inputs(
    recipe: Recipe,
    *,
    data: GivenRows | None = None,
    rewards: Mapping[str, Callable[..., Any]] | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    watching: Watching = nullcontext,
    report: Report = to_standard_error,
) -> RejectInputs:
    """Everything that needs no weights; arguments as `grpo.run.inputs.load_inputs` has them. Raises `RecipeError`."""
    if recipe.reject.samples:
        return _from_samples(recipe, rewards, watching)
    specs, accurate = load_rewards(recipe, rewards)
    with watching(), watchdog.loading("grpo.data.rows, the data set"):
        sources = load_sources(recipe.data, data, folder=recipe.folder(), report=report)
    rows = [row for source in sources for row in source.rows]
    check_columns(specs, rows)
    with watching(), watchdog.loading("grpo.model.info, configuration and tokenizer"):
        info = load_info(recipe.model, model, tokenizer)
    found = load_prompts(sources, info, max_tokens=recipe.sample.max_tokens)
    return RejectInputs(
        recipe=_with_steps(recipe, found.train),
        specs=specs,
        accurate=accurate,
        prompts=_first(recipe, found.train),
        info=info,
        sections={source.name: source.section for source in sources},
        counts={
            "left_out": found.num_left_out,
            "too_long": found.num_dropped,
            "held_out": len(found.held_out),
            "not_taken": len(found.train) - len(_first(recipe, found.train)),
            "prompts": len(_first(recipe, found.train)),
        },
        rows=rows,
    )


def _from_samples(
    recipe: Recipe, rewards: Mapping[str, Callable[..., Any]] | None, watching: Watching
) -> RejectInputs:
    specs: Sequence[RewardSpec] = ()
    accurate = ""
    if recipe.rewards or rewards:
        specs, accurate = load_rewards(recipe, rewards)
    with watching(), watchdog.loading("grpo.stages.rejection.stored, the stored completions"):
        stored = open_samples(recipe.reject.samples)
    check_columns(specs, [prompt.truth for prompt in stored.prompts])
    sections: dict[str, RowsSection] = {}
    for run in reversed(stored.runs):
        sections.update(run.sections)
    prompts = _first(recipe, stored.prompts)
    return RejectInputs(
        recipe=_with_steps(recipe, stored.prompts),
        specs=specs,
        accurate=accurate,
        prompts=prompts,
        info=stored.runs[0].info,
        sections=sections,
        counts={"not_taken": len(stored.prompts) - len(prompts), "prompts": len(prompts)},
        stored=stored,
    )


def _first(recipe: Recipe, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    return tuple(prompts[: recipe.reject.prompts])


def _with_steps(recipe: Recipe, prompts: Sequence[Prompt]) -> Recipe:
    """The recipe with as many steps as its prompts need."""
    number = len(_first(recipe, prompts))
    return replace(recipe, steps=-(-number // recipe.sample.prompts))
