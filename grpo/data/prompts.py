"""Prompts from rows: rendered by a template, tokenized, and drawn in an order that a seed fixes.

Where rows come from is up to ``rows``; which completions are sampled from a prompt is up to ``grpo.rollout``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Callable, Collection, Mapping, Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from grpo.model.loading import check_vocabulary
from grpo.model.policy import longest_sequence
from grpo.recipe import DataSection, Recipe, RecipeError
from grpo.types import Prompt

R1_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think> <answer> answer here </answer>. User: {prompt}. Assistant:"
)
"""The template of DeepSeek-R1-Zero (arXiv 2501.12948, table 1)."""
TEMPLATES = {"r1": R1_TEMPLATE, "plain": "{prompt}"}
"""Templates by name; any other is either ``chat`` or a text with {prompt} in it."""


# ---- templates --------------------------------------------------------------------------------------------------


def render(question: Any, template: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """(the prompt's text, whether the tokenizer still has to add its special tokens).

    `question` is text, or for the template chat also a list of messages. Raises `RecipeError`.
    """
    if template == "chat":
        return _render_chat(question, tokenizer), False
    pattern = TEMPLATES.get(template, template)
    return pattern.replace("{prompt}", question), True


def _render_chat(question: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    single = [{"role": "user", "content": question}]
    messages = question if isinstance(question, list) else single
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001  a template is a program of the model's authors
        raise RecipeError(
            f"data: the tokenizer's chat template fails on a prompt: {error}"
        ) from None
    assert isinstance(text, str), "with tokenize=False a chat template gives text"
    return text


def check_template(template: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse the template chat if the tokenizer has no chat template."""
    if template == "chat" and not tokenizer.chat_template:
        raise RecipeError(
            "recipe: data.template is chat, but the tokenizer has no chat template; use r1, plain or a "
            "string with {prompt}"
        )


# ---- prompts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts to train on and those held out.

    ``num_dropped`` is how many were dropped as too long, ``longest`` the number of tokens of the longest prompt,
    dropped ones included.
    """

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    num_dropped: int
    longest: int


def load_prompts(
    recipe: Recipe,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: Sequence[Mapping[str, Any]] = (),
    held_out: Sequence[Mapping[str, Any]] = (),
    at_least: int = 0,
) -> PromptSet:
    """The prompts that rows become under the recipe's template; those too long for the model are dropped.

    Raises `RecipeError` if fewer than `at_least` training prompts are left, or if the model has no embedding for some
    token of the tokenizer or of a prompt.
    """
    check_template(recipe.data.template, tokenizer)
    check_vocabulary(tokenizer, config)
    prompts = make_prompts(
        train,
        held_out,
        recipe.data,
        tokenizer,
        context=longest_sequence(config.get_text_config()),
        max_tokens=recipe.sample.max_tokens,
    )
    if len(prompts.train) < at_least:
        raise RecipeError(
            f"data: {prompts.num_dropped} prompts are too long and {len(prompts.train)} "
            f"are left, fewer than sample.prompts ({at_least}); lower sample.max_tokens "
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
    train: Sequence[Mapping[str, Any]],
    held: Sequence[Mapping[str, Any]],
    section: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    max_tokens: int,
) -> PromptSet:
    """Tokenized prompts of training and held-out rows; those that leave no room for ``max_tokens`` are dropped.

    ``context`` is the model's longest sequence in tokens, None if it has no limit. Raises `RecipeError` if no prompt
    is left.
    """
    limit = prompt_limit(section.max_prompt_tokens, context, max_tokens)
    train_prompts = _tokenize(train, "train", section.template, tokenizer)
    held_prompts = _tokenize(held, "held", section.template, tokenizer)
    fitting_train = _within(limit, train_prompts)
    fitting_held = _within(limit, held_prompts)
    everything = [*train_prompts, *held_prompts]
    longest = max((len(prompt.token_ids) for prompt in everything), default=0)
    num_fitting = len(fitting_train) + len(fitting_held)
    if (train and not fitting_train) or not num_fitting:
        raise RecipeError(
            f"data: every prompt is longer than {limit} tokens (the longest has {longest}); lower "
            "sample.max_tokens, raise data.max_prompt_tokens, or choose a shorter template"
        )
    return PromptSet(
        train=fitting_train,
        held_out=fitting_held,
        num_dropped=len(everything) - num_fitting,
        longest=longest,
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
    rows: Sequence[Mapping[str, Any]], name: str, template: str, tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """The prompts of `rows`, numbered ``name-0``, ``name-1``, ... before any of them is dropped."""
    return [_prompt(row, f"{name}-{i}", template, tokenizer) for i, row in enumerate(rows)]


def _prompt(
    row: Mapping[str, Any], id: str, template: str, tokenizer: PreTrainedTokenizerBase
) -> Prompt:
    text, add_special = render(row["prompt"], template, tokenizer)
    tokens = tokenizer(text, add_special_tokens=add_special)["input_ids"]
    if add_special and len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]
    if not tokens:
        raise RecipeError(f"data: the model's tokenizer makes no token of the prompt {text[:60]!r}")
    return Prompt(id, tuple(tokens), row, text)


# ---- the order --------------------------------------------------------------------------------------------------


class PromptStream:
    """An endless stream of training prompts: each once an epoch, in a new order for each (seed, epoch).

    One `take` never returns a prompt twice, even where it crosses into the next epoch: a prompt that comes up again
    there waits for the next take. `state` and `restore` carry the position over a stop.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int):
        self.prompts = prompts
        self.seed = seed
        self.epoch = 0
        self.cursor = 0
        self.deferred: list[int] = []
        self._order = self._shuffled()

    def _shuffled(self) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed}:{self.epoch}").shuffle(order)
        return order

    def take(
        self,
        number: int,
        admits: Callable[[Prompt], bool] = lambda prompt: True,
        without: Collection[str] = (),
    ) -> list[Prompt]:
        """The next `number` distinct prompts; fewer if two passes over all of them do not admit as many.

        A prompt that is not admitted is skipped for this epoch. One whose id is in `without` waits for the next take.
        """
        assert number <= len(self.prompts), "checked before the run starts"
        draw = _Draw(number, admits, without)
        waiting = self.deferred
        self.deferred = []
        for index in waiting:
            self._offer(index, draw)
        for _ in range(2 * len(self.prompts)):
            if draw.is_complete:
                break
            self._offer(self._next_index(), draw)
        return [self.prompts[index] for index in draw.taken]

    def _next_index(self) -> int:
        if self.cursor == len(self._order):
            self.epoch += 1
            self.cursor = 0
            self._order = self._shuffled()
        self.cursor += 1
        return self._order[self.cursor - 1]

    def _offer(self, index: int, draw: _Draw) -> None:
        """Take a prompt, defer it, or skip it."""
        prompt = self.prompts[index]
        if index in draw.taken or draw.is_complete or prompt.id in draw.without:
            if index not in self.deferred:
                self.deferred.append(index)
        elif draw.admits(prompt):
            draw.taken[index] = None

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "prompts": len(self.prompts),
            "epoch": self.epoch,
            "cursor": self.cursor,
            "deferred": list(self.deferred),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; raises `RecipeError` if it was saved with another number of prompts."""
        if state["prompts"] != len(self.prompts):
            raise RecipeError(
                f"data: the run began with {state['prompts']} training prompts, now there are "
                f"{len(self.prompts)}; resume with the data set it began with"
            )
        self.epoch = state["epoch"]
        self.cursor = state["cursor"]
        self.deferred = list(state["deferred"])
        self._order = self._shuffled()


@dataclass(slots=True)
class _Draw:
    """One `take` under way: what is wanted, and the indices of the prompts taken so far, in order."""

    number: int
    admits: Callable[[Prompt], bool]
    without: Collection[str]
    taken: dict[int, None] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.taken) == self.number
