"""Prompts from rows: rendered by a template and tokenized.

Where rows come from is up to ``sources``, in which order prompts are drawn to ``stream``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Collection, Mapping, Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from grpo.data.sources import SourceRows
from grpo.data.templates import Template, check_questions, template_of
from grpo.model.loading import check_vocabulary
from grpo.model.policy import longest_sequence
from grpo.recipe import Recipe, RecipeError
from grpo.types import Prompt
from rewards.spelling import agree, many

# ---- prompts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts to train on and those held out.

    ``num_dropped`` is how many were dropped as too long, ``longest`` the number of tokens of the longest prompt,
    dropped ones included; ``templates`` are those of the sources by name, and ``num_left_out`` rows did not match a
    source's ``where``.
    """

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    num_dropped: int
    longest: int
    templates: Mapping[str, Template] = field(default_factory=dict)
    num_left_out: int = 0


def load_prompts(
    recipe: Recipe,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[SourceRows],
    *,
    end_ids: Collection[int],
    at_least: int = 0,
) -> PromptSet:
    """The prompts that the rows of `sources` become; those that leave no room for ``sample.max_tokens`` are dropped.

    `end_ids` are the tokens that end a completion. Raises `RecipeError` if fewer than `at_least` training prompts are
    left, or if the model has no embedding for some token of the tokenizer or of a prompt.
    """
    check_vocabulary(tokenizer, config)
    context = longest_sequence(config.get_text_config())
    max_tokens = recipe.sample.max_tokens
    found = [
        make_prompts(source, tokenizer, context=context, max_tokens=max_tokens, end_ids=end_ids)
        for source in sources
    ]
    prompts = PromptSet(
        train=tuple(prompt for part in found for prompt in part.train),
        held_out=tuple(prompt for part in found for prompt in part.held_out),
        num_dropped=sum(part.num_dropped for part in found),
        longest=max(part.longest for part in found),
        templates={
            source.name: part.templates[source.name] for source, part in zip(sources, found)
        },
        num_left_out=sum(source.num_left_out for source in sources),
    )
    if len(prompts.train) < at_least:
        raise RecipeError(
            f"data: {many(prompts.num_dropped, 'prompt')} {agree(prompts.num_dropped, 'are')} too long, "
            f"which leaves {len(prompts.train)}, fewer than sample.prompts ({at_least}); lower sample.max_tokens "
            "or sample.prompts"
        )
    _check_tokens(prompts, tokenizer, config.get_text_config().vocab_size)
    return prompts


def _check_tokens(prompts: PromptSet, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Refuse prompts with a token that the model has no embedding for, such as an image's placeholder."""
    for prompt in (*prompts.train, *prompts.held_out):
        number = max(prompt.token_ids, default=0)
        if number >= size:
            token = tokenizer.convert_ids_to_tokens(number)
            raise RecipeError(
                f"data: the prompt {prompt.id} holds the token {token!r} ({number}), which the model has no embedding "
                f"for, since its vocabulary has {size}; remove it from the row or the template"
            )


def make_prompts(
    source: SourceRows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int | None,
    max_tokens: int,
    end_ids: Collection[int] = (),
) -> PromptSet:
    """Tokenized prompts of one source; those that leave no room for ``max_tokens`` are dropped.

    ``context`` is the model's longest sequence in tokens, None if it has no limit. Raises `RecipeError` if no prompt
    is left.
    """
    limit = prompt_limit(source.section.max_prompt_tokens, context, max_tokens)
    template = template_of(source.section, tokenizer, end_ids)
    check_questions([*source.train, *source.held_out], template, tokenizer)
    stem = f"{source.name}:" if source.name else ""
    train = _tokenize(source.train, f"{stem}train", template, tokenizer)
    held_out = _tokenize(source.held_out, f"{stem}held", template, tokenizer)
    fitting_train = _within(limit, train)
    fitting_held = _within(limit, held_out)
    everything = [*train, *held_out]
    longest = max((len(prompt.token_ids) for prompt in everything), default=0)
    num_fitting = len(fitting_train) + len(fitting_held)
    if (train and not fitting_train) or not num_fitting:
        raise RecipeError(
            f"data: every prompt is longer than {many(limit or 0, 'token')} (the longest has {longest}); lower "
            "sample.max_tokens, raise data.max_prompt_tokens, or choose a shorter template"
        )
    return PromptSet(
        train=fitting_train,
        held_out=fitting_held,
        num_dropped=len(everything) - num_fitting,
        longest=longest,
        templates={source.name: template},
        num_left_out=source.num_left_out,
    )


def prompt_limit(limit: int | None, context: int | None, max_tokens: int) -> int | None:
    """The longest prompt in tokens: ``data.max_prompt_tokens``, or what the context leaves; None for no limit."""
    if context is None:
        return limit
    room = context - max_tokens
    if room < 1:
        raise RecipeError(
            f"recipe: sample.max_tokens is {max_tokens}, but the model's context is {context} "
            "tokens; lower sample.max_tokens to leave room for the prompt"
        )
    return room if limit is None else min(limit, room)


def _within(limit: int | None, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    if limit is None:
        return tuple(prompts)
    return tuple(prompt for prompt in prompts if len(prompt.token_ids) <= limit)


def _tokenize(
    rows: Sequence[Mapping[str, Any]],
    stem: str,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Prompt]:
    """The prompts of `rows`, numbered ``stem-0``, ``stem-1``, ... before any of them is dropped."""
    return [
        _prompt(row, f"{stem}-{number}", template, tokenizer) for number, row in enumerate(rows)
    ]


def _prompt(
    row: Mapping[str, Any],
    id: str,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
) -> Prompt:
    source = id.rpartition(":")[0]
    text, add_special = template.render(row["prompt"], tokenizer)
    tokens = tokenizer(text, add_special_tokens=add_special)["input_ids"]
    if add_special and len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]
    if not tokens:
        raise RecipeError(f"data: the model's tokenizer makes no token of the prompt {text[:60]!r}")
    return Prompt(id, tuple(tokens), row, text=text, source=source)
