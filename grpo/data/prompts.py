"""Prompts from rows: rendered by a template and tokenized.

Where rows come from is up to ``sources``, in which order prompts are drawn to ``stream``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Collection, Mapping, Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from grpo.data.sources import SourceRows
from grpo.model.policy import longest_sequence
from grpo.recipe import Recipe, RecipeError, RowsSection
from grpo.types import Prompt

R1_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think> <answer> answer here </answer>. User: {prompt}. Assistant:"
)
"""The template of DeepSeek-R1-Zero (arXiv 2501.12948, table 1)."""
MARK = "grpo-assistant-turn"
"""Stands for an assistant's text where its end is looked for."""
TEMPLATES = {"r1": R1_TEMPLATE, "plain": "{prompt}"}
"""Templates by name; any other is either ``chat`` or a text with {prompt} in it."""


# ---- templates --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    """How a question becomes a prompt: ``pattern`` is a name of `TEMPLATES`, ``chat``, or a text with {prompt} in it.

    ``system`` and ``args`` are the chat template's.
    """

    pattern: str
    system: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)

    def render(self, question: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
        """(the prompt's text, whether the tokenizer still has to add its special tokens).

        `question` is text, or for the template chat also a list of messages. Raises `RecipeError`.
        """
        if self.pattern == "chat":
            return _render_chat(self._messages(question), tokenizer, self.args), False
        if not isinstance(question, str):
            raise RecipeError(
                f"data: a prompt is {type(question).__name__}, not text; messages need data.template: "
                f"chat, and the template here is {self.pattern}"
            )
        pattern = TEMPLATES.get(self.pattern, self.pattern)
        return pattern.replace("{prompt}", question), True

    def _messages(self, question: Any) -> list[Any]:
        single = [{"role": "user", "content": question}]
        messages = list(question) if isinstance(question, list) else single
        has_system = bool(messages) and messages[0].get("role") in ("system", "developer")
        if self.system is None or has_system:
            return messages
        return [{"role": "system", "content": self.system}, *messages]


def template_of(
    section: RowsSection, tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]
) -> Template:
    """The template that `section` names; `RecipeError` for the template chat without one in the tokenizer.

    ``auto`` is the tokenizer's chat template if the model was trained on it, which is seen from `end_ids`, the tokens
    that end a completion: one of them ends a turn of the assistant. Base models often ship the chat template of their
    family, but end a text by another token.
    """
    pattern = section.template
    if pattern == "auto":
        pattern = "chat" if _ends_turns(tokenizer, end_ids) else "r1"
    if pattern == "chat" and not tokenizer.chat_template:
        raise RecipeError(
            "recipe: data.template is chat, but the tokenizer has no chat template; use r1, plain or a "
            "string with {prompt}"
        )
    if pattern != "chat" and (section.system is not None or section.template_args):
        raise RecipeError(
            "recipe: data.system and data.template_args are read by the chat template, but the model has "
            "none that it was trained on; set data.template: chat to use its tokenizer's all the same"
        )
    return Template(pattern, section.system, section.template_args)


def _ends_turns(tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]) -> bool:
    """Whether one of `end_ids` follows the assistant's text in the tokenizer's chat template."""
    if not tokenizer.chat_template:
        return False
    turn = [{"role": "user", "content": "1"}, {"role": "assistant", "content": MARK}]
    try:
        text = tokenizer.apply_chat_template(turn, tokenize=False)
    except Exception:  # noqa: BLE001  a template is a program of the model's authors
        return False
    assert isinstance(text, str), "with tokenize=False a chat template gives text"
    after = text.rpartition(MARK)[2]
    following = tokenizer(after, add_special_tokens=False)["input_ids"]
    return not set(following).isdisjoint(end_ids)


def _render_chat(
    messages: list[Any], tokenizer: PreTrainedTokenizerBase, args: Mapping[str, Any]
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **args
        )
    except Exception as error:  # noqa: BLE001  a template is a program of the model's authors
        raise RecipeError(
            f"data: the tokenizer's chat template fails on a prompt: {error}"
        ) from None
    assert isinstance(text, str), "with tokenize=False a chat template gives text"
    return text


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
    left.
    """
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
            f"data: {prompts.num_dropped} prompts are too long and {len(prompts.train)} "
            f"are left, fewer than sample.prompts ({at_least}); lower sample.max_tokens "
            "or sample.prompts"
        )
    return prompts


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
            f"data: every prompt is longer than {limit} tokens (the longest has {longest}); lower "
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
