"""Which characters of a rendered chat the assistant wrote: by the template's own marks, or by rendering its beginnings.

A template that marks what is generated (``{% generation %}``) says it itself. Of others each turn is what the rendering
gains by it, which holds only where a longer conversation begins with the text of a shorter one; where it does not (a
template that drops the reasoning of earlier turns, say), the row is refused. Either way the text of each turn has to be
found in its span. How characters become tokens is up to ``examples``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.data.templates import MARK, apply_template, readable_turns
from grpo.recipe import RecipeError
from rewards.reasoning import THINK, opens_reasoning

Span = tuple[int, int]
"""Half-open, in characters of a text."""
Turns = Sequence[Mapping[str, Any]]

_MARKS = re.compile(r"\{%-?\+?\s*generation\b")
WRITTEN = ("content", "reasoning_content", "reasoning", "thinking")
"""The keys of a message whose text the assistant wrote."""
CALLS = ("tool_calls", "function_call")
ADVICE = (
    "set sft.train_on: last, give prompt and completion as columns, or name in sft.chat_template a template that marks "
    "the assistant's turns by {% generation %}"
)


@dataclass(frozen=True, slots=True, eq=False)
class Chat:
    """A conversation, the tools it may call, and ``where`` it stands, for errors."""

    turns: Turns
    tools: Any = None
    where: str = "a row"


class ChatTemplate:
    """A tokenizer's chat template with its arguments; ``name`` is what messages call it.

    ``specials`` are the texts of the special tokens by id, one of which may end a turn.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        args: Mapping[str, Any],
        specials: Mapping[int, str],
    ):
        self.tokenizer = tokenizer
        self.name = name
        self.args = args
        self.specials = specials
        self._special_texts = tuple(specials.values())

    @cached_property
    def turn_end(self) -> int | None:
        """The special token that follows the assistant's text in a chat's last turn; None if there is none."""
        turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": MARK}]
        text = self.render(self.readable(turns), generation_prompt=False)
        after = text.rpartition(MARK)[2]
        following = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        return next((int(token) for token in following if token in self.specials), None)

    @cached_property
    def marks_generation(self) -> bool:
        """Whether the template itself says what the assistant writes, and the tokenizer can tell where that is."""
        template = self.tokenizer.chat_template
        if isinstance(template, Mapping):
            template = template.get("default", "")
        return bool(self.tokenizer.is_fast and template and _MARKS.search(template))

    def readable(self, turns: Turns, tools: Any = None) -> Turns:
        """`turns`, with contents in parts where the template prints them only so."""
        return readable_turns(turns, self.tokenizer, self._args(tools))

    def render(self, turns: Turns, tools: Any = None, *, generation_prompt: bool) -> str:
        """The text of `turns`, which are readable, up to where an answer begins if it has a `generation_prompt`."""
        args = self._args(tools)
        return apply_template(turns, self.tokenizer, args, generation_prompt=generation_prompt)

    def _args(self, tools: Any) -> Mapping[str, Any]:
        return {**self.args, "tools": tools} if tools else self.args

    def spans(self, chat: Chat, wanted: Sequence[int]) -> tuple[str, list[Span]]:
        """(the text of a chat, what of it the assistant's turns of the indices `wanted` are, each with its end token).

        Raises `RecipeError` where the template does not let them be told.
        """
        shown = replace(chat, turns=self.readable(chat.turns, chat.tools))
        text = self.render(shown.turns, chat.tools, generation_prompt=False)
        found = self._marked if self.marks_generation else self._gained
        spans = [self._with_end(text, span) for span in found(shown, wanted, text)]
        for index, (start, end) in zip(wanted, spans):
            is_begun = opens_reasoning(text[:start])
            self._check(chat.turns[index], text[start:end], chat.where, is_begun)
        return text, spans

    # -- by the template's marks --------------------------------------------------------------------------------

    def _marked(self, chat: Chat, wanted: Sequence[int], text: str) -> list[Span]:
        encoded: Any = self.tokenizer.apply_chat_template(
            [dict(turn) for turn in chat.turns],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
            **self._args(chat.tools),
        )
        offsets = encoded["offset_mapping"]
        runs: list[Span] = []
        marked = zip(encoded["assistant_masks"], offsets)
        for is_generated, run in groupby(marked, key=lambda token: token[0]):
            if is_generated:
                places = [place for _, place in run]
                runs.append((places[0][0], places[-1][1]))
        roles = [turn.get("role") for turn in chat.turns]
        written = [index for index, role in enumerate(roles) if role == "assistant"]
        if len(runs) != len(written):
            raise RecipeError(
                f"data: {self.name} marks {len(runs)} stretches as generated in {chat.where}, which has {len(written)} "
                "turns of the assistant; correct its {% generation %} blocks, or set sft.chat_template to another"
            )
        run_of = dict(zip(written, runs))
        return [run_of[index] for index in wanted]

    # -- by rendering beginnings --------------------------------------------------------------------------------

    def _gained(self, chat: Chat, wanted: Sequence[int], text: str) -> list[Span]:
        spans = []
        for index in wanted:
            before = self._before(chat, index, text)
            after = text
            if index + 1 < len(chat.turns):
                after = self.render(chat.turns[: index + 1], chat.tools, generation_prompt=False)
            after = after.rstrip()
            if not text.startswith(after):  # some write an end of text behind whatever comes last
                after = after.removesuffix(self._eos).rstrip()
            is_beginning = text.startswith(before) and text.startswith(after)
            if not is_beginning or len(after) < len(before):
                raise RecipeError(
                    f"data: {self.name} writes the beginning of the conversation in {chat.where} otherwise once turn "
                    f"{index + 1} is part of it or more follow, so what the assistant wrote there cannot be told; "
                    f"{ADVICE}"
                )
            spans.append((len(before), len(after)))
        return spans

    def _before(self, chat: Chat, index: int, text: str) -> str:
        """What stands before a turn of the assistant; of one that begins the chat, what precedes its content."""
        if index:
            return self.render(chat.turns[:index], chat.tools, generation_prompt=True)
        content = chat.turns[0].get("content")
        return text[: max(0, text.find(content))] if isinstance(content, str) else ""

    # -- checks -------------------------------------------------------------------------------------------------

    @property
    def _eos(self) -> str:
        return str(self.tokenizer.eos_token or "")

    def _with_end(self, text: str, span: Span) -> Span:
        """`span` up to the special token that ends the turn, where one stands there; what follows it is left out."""
        start, end = span
        stripped = text[start:end].rstrip()
        turn = stripped.removesuffix(self._eos).rstrip()
        if self.turn_end is not None and turn.endswith(self.specials[self.turn_end]):
            return start, start + len(turn)
        if stripped.endswith(self._special_texts):
            return start, start + len(stripped)
        rest = text[end:]
        following = rest.lstrip()
        ends = [special for special in self._special_texts if following.startswith(special)]
        if not ends:
            return span
        return start, end + len(rest) - len(following) + max(map(len, ends))

    def _check(self, turn: Mapping[str, Any], written: str, where: str, is_begun: bool) -> None:
        """Refuse a turn of which the template left something out; its reasoning may have been begun before it."""
        shown = without_space(written)
        for key in WRITTEN:
            value = turn.get(key)
            if not isinstance(value, str):
                continue
            said = without_space(value)
            if is_begun:
                said = said.removeprefix(THINK)
            if said not in shown:
                raise RecipeError(
                    f"data: {self.name} leaves out of what the assistant wrote in {where}: its {key} "
                    f"{value.strip()[:60]!r} is not in the text of the turn; {ADVICE}"
                )
        if any(turn.get(key) for key in CALLS) and not shown:
            raise RecipeError(f"data: {self.name} leaves out the tool call in {where}; {ADVICE}")


def without_space(text: str) -> str:
    """`text` without any white space, which templates add and take away."""
    return "".join(text.split())


def written_turns(turns: Turns, first: int = 0) -> list[int]:
    """The indices from `first` on of the assistant's turns that say something."""
    indices = []
    for index, turn in enumerate(turns[first:], first):
        says = any(str(turn.get(key) or "").strip() for key in WRITTEN)
        if turn.get("role") == "assistant" and (says or any(turn.get(key) for key in CALLS)):
            indices.append(index)
    return indices


def special_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The special tokens of a tokenizer by id, those that chat templates end turns with among them."""
    texts = {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special
    }
    for number, text in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens):
        texts.setdefault(int(number), str(text))
    return texts
