"""A reply as it comes: tokens become text piece by piece, and the text is told apart into thinking and answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from rewards.reasoning import THINK, THINK_END

THINKING = "thinking"
ANSWER = "answer"
ANSWER_TAGS = ("<answer>", "</answer>")
"""Tags of published templates around an answer; they are not shown."""
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply: ``kind`` is `THINKING` or `ANSWER`."""

    kind: str
    text: str


class TokenText:
    """The text of a growing list of tokens, as far as it is certain.

    A token may end inside of a character, whose beginning waits for its end. A tokenizer may put a space between
    words, so new tokens are decoded behind those before them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._before = 0
        self._shown = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that `token_ids`, all tokens so far, have beyond what was given already."""
        known = self._decode(token_ids[self._before : self._shown])
        whole = self._decode(token_ids[self._before :])
        if len(whole) <= len(known) or whole.endswith(INCOMPLETE):
            return ""
        self._before = self._shown
        self._shown = len(token_ids)
        return whole[len(known) :]

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one row of token ids decodes to one text"
        return text


class Splitter:
    """Tells thinking from answer in text that comes in pieces; tags are left out, white space around parts too.

    A reply starts in its thinking if the prompt has opened it (`opened`), or if ``<think>`` comes before anything else.
    What might be the beginning of a tag waits until it is known to be none.
    """

    def __init__(self, opened: bool):
        self.kind = THINKING if opened else ANSWER
        self._waiting = ""
        self._is_empty = True  # of the part that it is in

    def push(self, text: str) -> Iterator[Piece]:
        """The pieces that are certain after `text`."""
        self._waiting += text
        while True:
            tag, index = self._next_tag()
            if not tag:
                break
            yield from self._take(self._waiting[:index])
            self._waiting = self._waiting[index + len(tag) :]
            self._enter(tag)
        held = self._held()
        certain = self._waiting[: len(self._waiting) - held]
        self._waiting = self._waiting[len(self._waiting) - held :]
        yield from self._take(certain)

    def close(self) -> Iterator[Piece]:
        """What was waiting when the reply ended."""
        yield from self._take(self._waiting)
        self._waiting = ""

    def _tags(self) -> tuple[str, ...]:
        """The tags that mean something here."""
        if self.kind == THINKING:
            return (THINK_END,)
        return (THINK, *ANSWER_TAGS) if self._is_empty else ANSWER_TAGS

    def _next_tag(self) -> tuple[str, int]:
        """The first tag in what is waiting, and where it begins; no tag if there is none."""
        found = [(self._waiting.find(tag), tag) for tag in self._tags()]
        places = [place for place in found if place[0] >= 0]
        if not places:
            return "", 0
        index, tag = min(places)
        if tag == THINK and self._waiting[:index].strip():
            return "", 0
        return tag, index

    def _enter(self, tag: str) -> None:
        self.kind = THINKING if tag == THINK else ANSWER
        self._is_empty = True

    def _held(self) -> int:
        """How many characters at the end may begin a tag, or are white space that may end the part."""
        text = self._waiting
        tags = self._tags()
        for length in range(min(len(text), max(map(len, tags))), 0, -1):
            if any(tag.startswith(text[-length:]) for tag in tags):
                return length + self._spaces(text[:-length])
        return self._spaces(text)

    def _spaces(self, text: str) -> int:
        return len(text) - len(text.rstrip())

    def _take(self, text: str) -> Iterator[Piece]:
        if self._is_empty:
            text = text.lstrip()
        if text:
            self._is_empty = False
            yield Piece(self.kind, text)
