"""What stands between the turns of a completion: an observation as the chat template writes it, tokenised once.

A template is a program of the model's authors, so its separators are found by rendering a short conversation with marks
in place of what the policy wrote and what was observed. What the policy wrote is never rendered or tokenised again: its
sampled tokens stay, and the tokens made here follow them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.data.templates import MARK, Template, apply_template
from grpo.data.turn_spans import special_texts
from grpo.recipe import RecipeError

OBSERVED = "grpo-observation-{}-stands-here"
"""Stands for what was observed where its separators are looked for."""
PROBE = 'a "quoted" word\nand a line'
LEFT_OUT = "\n[... {} tokens left out ...]\n"
CALL_ID = "call00000"
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    """An observation as it is given to the policy: its tokens, and the text of what was observed, shortened."""

    token_ids: tuple[int, ...]
    observed: str


@dataclass(frozen=True, slots=True)
class Pieces:
    """The text around the contents of some messages: one piece more than there are contents.

    The first piece begins behind what the policy wrote, with ``turn_end``, which ends its turn, where there is one.
    ``is_json`` says that the template writes contents as JSON strings, whose quotes are in the pieces.
    """

    turn_end: str
    texts: tuple[str, ...]
    is_json: bool = False


class Separators:
    """Makes the tokens between turns for one template of prompts.

    ``stop_ids`` end a turn of the policy's. Contents have at most ``max_tokens`` tokens together. Raises `RecipeError`
    where the template writes no separators that can be told.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        stop_ids: frozenset[int],
        max_tokens: int,
    ):
        self.tokenizer = tokenizer
        self.template = template
        self.stop_ids = stop_ids
        self.max_tokens = max_tokens
        self._specials = special_texts(tokenizer)
        self._pieces: dict[tuple[Any, ...], Pieces] = {}
        self._anchor = tokenizer.eos_token_id

    # -- within the policy's turn -------------------------------------------------------------------------------

    def text(self, text: str) -> Given:
        """A text that goes on within the policy's turn."""
        return self._given(None, [text], limit=self.max_tokens, parts_of=list)

    # -- turns of their own ---------------------------------------------------------------------------------------

    def messages(self, messages: Sequence[Message], stop: int | str | None) -> Given:
        """Messages behind a turn that the policy ended by `stop`, up to where its next turn begins.

        Where a token ended it, what the template writes to end a turn is left out.
        """
        limit = max(1, self.max_tokens // max(1, len(messages)))
        contents = [str(message["content"]) for message in messages]
        if self.template.pattern != "chat":
            return self._given(stop, contents, limit=limit, parts_of=_on_lines)
        parts_of = partial(self._around, pieces=self.pieces(messages), stop=stop)
        return self._given(stop, contents, limit=limit, parts_of=parts_of)

    def _around(
        self, contents: Sequence[str], *, pieces: Pieces, stop: int | str | None
    ) -> list[str]:
        """`contents` in what the template writes around them."""
        shown = map(_in_json, contents) if pieces.is_json else contents
        first, *others = pieces.texts
        parts = [first if isinstance(stop, int) else pieces.turn_end + first]
        for content, piece in zip(shown, others):
            parts += [content, piece]
        return self._without_stop(parts, stop)

    def _without_stop(self, parts: list[str], stop: int | str | None) -> list[str]:
        """`parts` without the token that the policy has written itself, where the next turn begins with it."""
        if not isinstance(stop, int):
            return parts
        written = self._specials.get(stop, "")
        first = parts[0]
        if written and first.lstrip().startswith(written):
            first = first.lstrip()[len(written) :]
        return [first, *parts[1:]]

    def pieces(self, messages: Sequence[Message]) -> Pieces:
        """What the chat template writes around the contents of `messages`; found once for each sequence of roles."""
        form = tuple((message["role"], message.get("name")) for message in messages)
        if form not in self._pieces:
            self._pieces[form] = self._find(messages)
        return self._pieces[form]

    def _find(self, messages: Sequence[Message]) -> Pieces:
        marks = [OBSERVED.format(index) for index in range(len(messages))]
        after = self._behind_turn(messages, marks)
        texts = []
        for mark in marks:
            before, found, after = after.partition(mark)
            assert found, "the text was chosen for its marks"
            texts.append(before)
        texts.append(after)
        turn_end, texts[0] = self._split_turn_end(texts[0])
        return Pieces(turn_end, tuple(texts), is_json=self._writes_json(messages, texts))

    def _behind_turn(self, messages: Sequence[Message], marks: Sequence[str]) -> str:
        """What is rendered behind a turn of the assistant's; as a turn with calls where the template wants some."""
        marked = [{**message, "content": mark} for message, mark in zip(messages, marks)]
        said = {"role": "assistant", "content": MARK}
        text = self._rendered([said, *marked])
        behind = text.partition(MARK)[2]
        if _has_in_order(behind, marks):
            return behind
        with_ids = [{**message, "tool_call_id": CALL_ID} for message in marked]
        called = {"role": "assistant", "content": "", "tool_calls": [_call(m) for m in marked]}
        beginning = self._rendered([called], generation_prompt=False).rstrip()
        beginning = beginning.removesuffix(self._ends(beginning))
        whole = self._rendered([called, *with_ids])
        behind = whole[len(beginning) :]
        if beginning and whole.startswith(beginning) and _has_in_order(behind, marks):
            return behind
        role = messages[0]["role"]
        raise RecipeError(
            f"environment: the tokenizer's chat template does not write messages of the role {role} behind a turn of "
            "the assistant, so an observation cannot be shown; set environment.format to fenced or a tag, which are "
            "answered within the turn, or use another chat template"
        )

    def _rendered(self, turns: Sequence[Message], generation_prompt: bool = True) -> str:
        """A conversation of a question and `turns`; empty where the template fails on it."""
        asked = [{"role": "user", "content": "1"}, *turns]
        args = {name: value for name, value in self.template.args.items() if self._is_read(name)}
        try:
            return apply_template(asked, self.tokenizer, args, generation_prompt=generation_prompt)
        except RecipeError:
            return ""

    def _is_read(self, name: str) -> bool:
        """Whether separators are looked for with an argument: with tools only where these choose the template."""
        return name != "tools" or isinstance(self.tokenizer.chat_template, Mapping)

    def _ends(self, text: str) -> str:
        """The special token at the end of a text; empty if there is none."""
        ends = [
            special for special in self._specials.values() if special and text.endswith(special)
        ]
        return max(ends, key=len, default="")

    def _split_turn_end(self, text: str) -> tuple[str, str]:
        """(what ends the policy's turn, what follows): up to the token that ends turns, if one stands first."""
        stripped = text.lstrip()
        for number in self.stop_ids:
            special = self._specials.get(number, "")
            if special and stripped.startswith(special):
                length = len(text) - len(stripped) + len(special)
                return text[:length], text[length:]
        return "", text

    def _writes_json(self, messages: Sequence[Message], texts: Sequence[str]) -> bool:
        """Whether contents are written as JSON strings; refuses other changes to them."""
        probed = [{**message, "content": PROBE} for message in messages]
        plain = PROBE.join(texts)
        escaped = _in_json(PROBE).join(texts)
        ids = [{**message, "tool_call_id": CALL_ID} for message in probed]
        called = {"role": "assistant", "content": "", "tool_calls": [_call(m) for m in probed]}
        said = {"role": "assistant", "content": MARK}
        rendered = [self._rendered([said, *probed]), self._rendered([called, *ids])]
        if any(text.endswith(plain) for text in rendered):
            return False
        if any(text.endswith(escaped) for text in rendered):
            return True
        raise RecipeError(
            "environment: the tokenizer's chat template changes what a tool answers in a way that is not known here; "
            "set environment.format to fenced or a tag, which are answered within the turn"
        )

    # -- tokens ---------------------------------------------------------------------------------------------------

    def _given(
        self,
        stop: int | str | None,
        contents: Sequence[str],
        *,
        limit: int,
        parts_of: Callable[[Sequence[str]], list[str]],
    ) -> Given:
        """The tokens of `contents` and of what stands around them; each content has at most `limit`.

        Tokenised once, unless all together have more than one may.
        """
        token_ids = self._tokens(stop, parts_of(contents))
        if len(token_ids) > limit:
            shortened = [self._shortened(content, limit) for content in contents]
            if shortened != list(contents):
                contents = shortened
                token_ids = self._tokens(stop, parts_of(contents))
        return Given(token_ids, "\n".join(contents))

    def _tokens(self, stop: int | str | None, parts: Sequence[str]) -> tuple[int, ...]:
        """The tokens of `parts`, text and contents in turn, as they follow the token `stop`.

        All is tokenised as one text, in which a content cannot spell special tokens: where one tries to, it is
        tokenised by itself, letter for letter. The special token before it keeps tokenizers from writing the space
        that they put before the first word of a text.
        """
        anchor = stop if isinstance(stop, int) else self._anchor
        lead = self._specials.get(anchor, "") if anchor is not None else ""
        contents = parts[1::2] if len(parts) > 1 else parts
        if not any(self._spells_special(content) for content in contents):
            return self._encoded(lead, "".join(parts), anchor)
        token_ids: list[int] = []
        for index, part in enumerate(parts):
            is_content = len(parts) == 1 or index % 2 == 1
            token_ids += self._encoded(lead, part, anchor, splits=is_content)
        return tuple(token_ids)

    def _encoded(
        self, lead: str, text: str, anchor: int | None, splits: bool = False
    ) -> tuple[int, ...]:
        if splits:
            return tuple(self._encode(text, split_special_tokens=True))
        encoded = self._encode(lead + text)
        if lead and encoded[:1] == [anchor]:
            return tuple(encoded[1:])
        return tuple(self._encode(text))

    def _encode(self, text: str, **options: Any) -> list[int]:
        if not text:
            return []
        encoded: list[int] = self.tokenizer(text, add_special_tokens=False, **options)["input_ids"]
        return encoded

    def _spells_special(self, content: str) -> bool:
        return any(special in content for special in self._specials.values() if special)

    def _shortened(self, content: str, limit: int) -> str:
        """`content`, or the beginning and the end of what has more than `limit` tokens."""
        token_ids = self._encode(content, split_special_tokens=True)
        if len(token_ids) <= limit:
            return content
        note = LEFT_OUT.format(len(token_ids) - limit)
        kept = max(2, limit - len(self._encode(note)))
        while kept > 1:
            begins = self._decoded(token_ids[: kept // 2])
            ends = self._decoded(token_ids[len(token_ids) - kept // 2 :])
            shown = f"{begins}{note}{ends}"
            if len(self._encode(shown, split_special_tokens=True)) <= limit:
                return shown
            kept -= 1 + kept // 8
        return self._decoded(token_ids[: limit // 2])

    def _decoded(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
        return str(text).strip("\ufffd")


def _on_lines(contents: Sequence[str]) -> list[str]:
    """`contents` on lines of their own."""
    return ["\n", "\n".join(contents), "\n"]


def _in_json(content: str) -> str:
    """`content` as it stands between the quotes of a JSON string."""
    return json.dumps(content, ensure_ascii=False)[1:-1]


def _has_in_order(text: str, marks: Sequence[str]) -> bool:
    """Whether each mark is in the text once, in their order."""
    places = [text.find(mark) for mark in marks]
    is_once = all(text.count(mark) == 1 for mark in marks)
    return is_once and places == sorted(places)


def _call(message: Message) -> dict[str, Any]:
    """The call that a message of the role tool answers, as chat templates take it."""
    function: dict[str, Any] = {"name": message.get("name") or "tool", "arguments": {}}
    return {"type": "function", "id": CALL_ID, "function": function}
