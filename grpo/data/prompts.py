"""Prompts from rows: rendered by a template and tokenized; those that are too long are dropped.

Where rows come from is up to ``sources``, in which order prompts are drawn to ``stream``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.data.sources import SourceRows
from grpo.data.templates import Rendered, Template, render_rows
from grpo.model.info import ModelInfo
from grpo.recipe import RecipeError
from grpo.types import Prompt
from rewards.spelling import agree, many

NUM_AT_ONCE = 1000
"""So many texts are handed to the tokenizer together: several times as fast as one by one, and memory stays small."""


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
    sources: Sequence[SourceRows], info: ModelInfo, *, max_tokens: int, at_least: int = 0
) -> PromptSet:
    """The prompts of all `sources` that leave room for a completion of ``max_tokens``; the others are dropped.

    Raises `RecipeError` if fewer than `at_least` training prompts are left, and as `fitting`.
    """
    prompts = _joined([prompts_of(source, info, max_tokens) for source in sources])
    if len(prompts.train) < at_least:
        raise RecipeError(
            f"data: {many(prompts.num_dropped, 'prompt')} {agree(prompts.num_dropped, 'are')} too long, "
            f"which leaves {len(prompts.train)}, fewer than sample.prompts ({at_least}); lower sample.max_tokens "
            "or sample.prompts"
        )
    return prompts


def prompts_of(source: SourceRows, info: ModelInfo, max_tokens: int) -> PromptSet:
    """The prompts of one source that leave room for a completion of ``max_tokens``.

    Raises `RecipeError`, as `make_prompts` and `fitting`.
    """
    limit = prompt_limit(source.section.max_prompt_tokens, info.context, max_tokens)
    every_prompt = make_prompts(source, info)
    return fitting(every_prompt, limit, info)


def _joined(parts: Sequence[PromptSet]) -> PromptSet:
    templates: dict[str, Template] = {}
    for part in parts:
        templates.update(part.templates)
    return PromptSet(
        train=tuple(prompt for part in parts for prompt in part.train),
        held_out=tuple(prompt for part in parts for prompt in part.held_out),
        num_dropped=sum(part.num_dropped for part in parts),
        longest=max(part.longest for part in parts),
        templates=templates,
        num_left_out=sum(part.num_left_out for part in parts),
    )


# ---- one source -------------------------------------------------------------------------------------------------


def make_prompts(source: SourceRows, info: ModelInfo) -> PromptSet:
    """All prompts of one source, whatever their length.

    Raises `RecipeError` where the template does not suit the tokenizer or a row.
    """
    stem = f"{source.name}:" if source.name else ""
    names = [f"{stem}train-{number}" for number in range(len(source.train))]
    names += [f"{stem}held-{number}" for number in range(len(source.held_out))]
    rows = [*source.train, *source.held_out]
    rendered = render_rows(rows, source.section, info.tokenizer, info.end_ids, tools=info.tools)
    prompts = [
        Prompt(name, token_ids, row, text=text, source=source.name)
        for name, row, text, token_ids in zip(
            names, rows, rendered.texts, _tokenize(rendered, info.tokenizer)
        )
    ]
    num_train = len(source.train)
    return PromptSet(
        train=tuple(prompts[:num_train]),
        held_out=tuple(prompts[num_train:]),
        num_dropped=0,
        longest=max((len(prompt.token_ids) for prompt in prompts), default=0),
        templates={source.name: rendered.template},
        num_left_out=source.num_left_out,
    )


def _tokenize(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, ...]]:
    """The tokens of each text, without the end token that some tokenizers add to any text."""
    add_special = rendered.template.adds_special
    for start in range(0, len(rendered.texts), NUM_AT_ONCE):
        texts = rendered.texts[start : start + NUM_AT_ONCE]
        encoded = tokenizer(texts, add_special_tokens=add_special)["input_ids"]
        for text, token_ids in zip(texts, encoded):
            if add_special and len(token_ids) > 1 and token_ids[-1] == tokenizer.eos_token_id:
                token_ids = token_ids[:-1]
            if not token_ids:
                raise RecipeError(
                    f"data: the model's tokenizer makes no token of the prompt {text[:60]!r}"
                )
            yield tuple(token_ids)


# ---- length -----------------------------------------------------------------------------------------------------


def fitting(prompts: PromptSet, limit: int | None, info: ModelInfo) -> PromptSet:
    """The prompts of a source that have at most `limit` tokens; the others are counted as dropped.

    Raises `RecipeError` if none is left, to train on or at all, and for a prompt with a token that the model has no
    embedding for.
    """
    train = _within(limit, prompts.train)
    held_out = _within(limit, prompts.held_out)
    num_fitting = len(train) + len(held_out)
    if (prompts.train and not train) or not num_fitting:
        raise RecipeError(
            f"data: every prompt is longer than {many(limit or 0, 'token')} (the longest has {prompts.longest}); lower "
            "sample.max_tokens, raise data.max_prompt_tokens, or choose a shorter template"
        )
    _check_tokens([*train, *held_out], info)
    num_dropped = len(prompts.train) + len(prompts.held_out) - num_fitting
    return replace(prompts, train=train, held_out=held_out, num_dropped=num_dropped)


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


def cap_that_fits(
    sources: Sequence[SourceRows], info: ModelInfo, max_tokens: int, default: int
) -> int:
    """`max_tokens`; where that is the `default` and more than the context holds, what the longest prompt leaves of it.

    Half of the context at least: longer prompts are dropped.
    """
    context = info.context
    if context is None or max_tokens != default or max_tokens < context or not sources:
        return max_tokens
    longest = max(make_prompts(source, info).longest for source in sources)
    return max(1, context // 2, context - longest)


def _within(limit: int | None, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    if limit is None:
        return tuple(prompts)
    return tuple(prompt for prompt in prompts if len(prompt.token_ids) <= limit)


def _check_tokens(prompts: Sequence[Prompt], info: ModelInfo) -> None:
    """Refuse prompts with a token that the model has no embedding for, such as an image's placeholder."""
    size = info.num_embeddings
    for prompt in prompts:
        number = max(prompt.token_ids, default=0)
        if number >= size:
            token = info.tokenizer.convert_ids_to_tokens(number)
            raise RecipeError(
                f"data: the prompt {prompt.id} holds the token {token!r} ({number}), which the model has no embedding "
                f"for, since its vocabulary has {size}; remove it from the row or the template"
            )
