"""A reply as it comes: tokens become text piece by piece, told apart into thinking, answer, calls and their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.report.transcript import behind
from grpo.rollout.sequence import RolloutSequence
from grpo.types import Completion
from rewards.environments import CallFormat, Turn
from rewards.reasoning import THINK, THINK_END, opens_reasoning

THINKING = "thinking"
ANSWER = "answer"
CALL = "call"
OBSERVED = "observed"
ANSWER_TAGS = ("<answer>", "</answer>")
"""Tags of published templates around an answer; they are not shown."""
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply: ``kind`` is `THINKING`, `ANSWER`, `CALL` or `OBSERVED`."""

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
    What might be the beginning of a tag waits until it is known to be none. With a `format`, what may be a call waits
    until it is answered (`observed`), or is none since the reply has ended.
    """

    def __init__(self, opened: bool, format: CallFormat | None = None):
        self.kind = THINKING if opened else ANSWER
        self.format = format
        self._waiting = ""
        self._call = ""  # what may be one, from its beginning on
        self._is_empty = True  # of the part that it is in

    def push(self, text: str) -> Iterator[Piece]:
        """The pieces that are certain after `text`."""
        if self._call:
            self._call += text
            return
        self._waiting += text
        while True:
            tag, index = self._next_tag()
            if not tag:
                break
            if tag in self._call_begins():
                before = self._waiting[:index].rstrip()
                self._call = self._waiting[len(before) :]
                self._waiting = ""
                yield from self._take(before)
                return
            yield from self._take(self._waiting[:index])
            self._waiting = self._waiting[index + len(tag) :]
            self._enter(tag)
        held = self._held()
        certain = self._waiting[: len(self._waiting) - held]
        self._waiting = self._waiting[len(self._waiting) - held :]
        yield from self._take(certain)

    def observed(self, text: str | None, opened: bool) -> Iterator[Piece]:
        """The turn so far was answered by `text`, or by nothing: what waited was its call.

        `opened` says whether what follows starts in thinking; calls in the middle of a turn leave it as it was.
        """
        call = self._call.strip()
        self._call = ""
        if call:
            yield Piece(CALL, call)
        else:
            yield from self._take(self._waiting.rstrip())
        self._waiting = ""
        if text is not None:
            yield Piece(OBSERVED, text.strip())
        if self.format is None or not self.format.in_turn:
            self.kind = THINKING if opened else ANSWER
        self._is_empty = True

    def close(self) -> Iterator[Piece]:
        """What was waiting when the reply ended: text, or a call that nobody has answered."""
        rest = self._call
        is_call = self.format is not None and bool(self.format.parse(rest).calls)
        self._call = ""
        self.format = None
        if is_call:
            yield Piece(CALL, rest.strip())
            return
        yield from self.push(rest)
        yield from self._take(self._waiting)
        self._waiting = ""

    def _tags(self) -> tuple[str, ...]:
        """The tags that mean something here."""
        calls = self._call_begins()
        if self.kind == THINKING:
            return (THINK_END, *calls)
        return (THINK, *ANSWER_TAGS, *calls) if self._is_empty else (*ANSWER_TAGS, *calls)

    def _call_begins(self) -> tuple[str, ...]:
        """How a call may begin here; within thinking those alone that are read in the middle of a turn."""
        if self.format is None or (self.kind == THINKING and not self.format.in_turn):
            return ()
        return self.format.begins if self._is_empty or not self.format.is_alone else ()

    def _next_tag(self) -> tuple[str, int]:
        """The first tag in what is waiting, and where it begins; no tag if there is none."""
        found = [(self._waiting.find(tag), tag) for tag in self._tags()]
        places = [place for place in found if place[0] >= 0]
        if not places:
            return "", 0
        index, tag = min(places)
        is_alone = self.format is not None and self.format.is_alone
        must_be_first = tag == THINK or (is_alone and tag in self._call_begins())
        if must_be_first and self._waiting[:index].strip():
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


class ReplyText:
    """The pieces of one reply: `follow` its sequence while it grows, `finish` with its completion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, splitter: Splitter):
        self.tokenizer = tokenizer
        self.splitter = splitter
        self._num_turns = 0
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._text = TokenText(self.tokenizer)
        self._written = ""

    def follow(self, sequence: RolloutSequence) -> Iterator[Piece]:
        """What is new and certain."""
        yield from self._answered(sequence)
        if not sequence.finish and not sequence.is_paused:
            yield from self._write(self._text.push(sequence.tokens[sequence.turn_start :]))

    def finish(self, completion: Completion) -> Iterator[Piece]:
        """What is left when it has ended."""
        yield from self._answered(completion)
        last = behind(completion.text, [turn.text for turn in completion.turns])
        yield from self._rest_of(last)
        yield from self.splitter.close()

    def _answered(self, reply: RolloutSequence | Completion) -> Iterator[Piece]:
        """The turns that were answered since the last call."""
        for index, turn in list(enumerate(reply.turns))[self._num_turns :]:
            yield from self._rest_of(turn.text)
            yield from self.splitter.observed(turn.observed, self._opened(reply, index, turn))
            self._num_turns += 1
            self._begin_turn()

    def _opened(self, reply: RolloutSequence | Completion, index: int, turn: Turn) -> bool:
        """Whether the observation behind a turn ends by opening the reasoning of the next."""
        if turn.observed is None:
            return False
        ids = reply.given[index]
        tokens = reply.tokens if isinstance(reply, RolloutSequence) else reply.token_ids
        return opens_reasoning(str(self.tokenizer.decode(list(tokens[ids[0] : ids[1]]))))

    def _rest_of(self, text: str) -> Iterator[Piece]:
        if text.startswith(self._written):
            yield from self._write(text[len(self._written) :])

    def _write(self, text: str) -> Iterator[Piece]:
        self._written += text
        yield from self.splitter.push(text)
