"""The turns of a call of the engine: each one that ends is answered by an environment, within its budgets.

What is answered depends on a completion's own texts alone: answers are taken in the order of completions, and calls and
turns are counted for each by itself.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Callable, Hashable, Protocol, Sequence

from transformers import PreTrainedTokenizerBase

from grpo.environments.call_ends import CallEnds
from grpo.environments.separators import Given, Separators
from grpo.rollout.sequence import RolloutSequence
from grpo.types import Prompt
from rewards.environments import CallFormat, EnvironmentPool, Observation, Parsed, Result, Turn
from rewards.spelling import many

REFUSED = "No calls are left: a completion may make {}. Finish without further calls."
LONGEST_WAIT_SECONDS = 1.0
"""After so long without an answer the engine looks whether it is interrupted."""
AROUND_TOKENS = 64
"""More than chat templates write around an observation."""
FAILED = ("error", "timeout", "died")
"""Statuses of an environment that could not begin."""


class SeparatorsOf(Protocol):
    """Finds the separators for a prompt."""

    def __call__(self, prompt: Prompt) -> Separators: ...


@dataclass(frozen=True, slots=True)
class Budgets:
    """Most calls of a completion, most turns that are answered, and most tokens of what is observed after one."""

    max_calls: int
    max_turns: int
    observation_tokens: int

    @property
    def most_given(self) -> int:
        """More tokens than a completion within its budgets is given."""
        return (self.max_turns + 1) * (self.observation_tokens + AROUND_TOKENS)


@dataclass(frozen=True, slots=True)
class _Written:
    """A turn that has ended: its text, the names of the tools that it calls, and whether it tries to call any."""

    text: str
    calls: tuple[str, ...]
    is_call: bool


@dataclass(slots=True, eq=False)
class _Waiting:
    """A sequence whose turn is being answered since ``began``; ``calls`` are the names of what it calls.

    One that ``is_new`` waits for what is observed behind its prompt.
    """

    sequence: RolloutSequence
    text: str
    calls: tuple[str, ...]
    answer: Future[Any]
    began: float
    is_new: bool = False


class EnvironmentTurns:
    """Answers turns through a pool of environments; implements `grpo.rollout.turns.Turns`.

    Where ``begins`` is true an environment begins with each completion, and may show something behind the prompt;
    otherwise there are only tools, and one begins with the first call. With ``in_step`` decoding waits for the answers
    of all paused sequences, so that what is decoded together does not depend on how long tools take. ``ends`` are those
    of an earlier call of the engine, if there was one.
    """

    def __init__(
        self,
        pool: EnvironmentPool,
        format: CallFormat | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        separators_of: SeparatorsOf,
        budgets: Budgets,
        begins: bool,
        in_step: bool = False,
        ends: CallEnds | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.pool = pool
        self.format = format
        self.tokenizer = tokenizer
        self.separators_of = separators_of
        self.budgets = budgets
        self.begins = begins
        self.in_step = in_step
        self.ends = CallEnds(format, tokenizer) if ends is None else ends
        self.clock = clock
        self.most_given = budgets.most_given
        self._number = 0  # of the call of the engine: a session never goes on in the next
        self._open: dict[Hashable, RolloutSequence] = {}
        self._waiting: dict[Hashable, _Waiting] = {}
        self._arrived: SimpleQueue[tuple[Hashable, Future[Any]]] = SimpleQueue()

    # -- the engine's questions -----------------------------------------------------------------------------------

    def begin(self, sequences: Sequence[RolloutSequence]) -> None:
        """Open the environments that begin with their completions, and answer again what an earlier call left."""
        self.close()
        self._number += 1
        for sequence in sequences:
            if self.begins:
                self._begin(sequence)
            if sequence.is_paused and self._key(sequence) not in self._waiting:
                self._ask(sequence, self._written(sequence))

    def ends_call(self, sequence: RolloutSequence) -> str:
        """The string by which the newest token completes a call in the middle of a turn; empty where it does not."""
        if not self.ends.may_end[sequence.tokens[-1]]:
            return ""
        return self.ends.find(sequence.tokens, sequence.turn_start)

    def pauses(self, sequence: RolloutSequence) -> bool:
        """Whether the turn that has ended is to be answered; then the answer is on its way."""
        written = self._written(sequence)
        finish = self._refuses(sequence, written)
        if finish:
            sequence.finish = finish
            self._forget(sequence)
            return False
        sequence.pause()
        self._ask(sequence, written)
        return True

    def take_ready(self, wait: bool) -> list[RolloutSequence]:
        """The paused sequences that have been answered, each with its observation or a finish."""
        for sequence in [sequence for sequence in self._open.values() if sequence.finish]:
            self._forget(sequence)
        answered = self._take_arrived()
        while self.in_step and self._waiting:
            answered += self._take_arrived(wait=True)
        if wait and not answered and self._waiting:
            answered = self._take_arrived(wait=True)
        answered.sort(key=lambda one: (one.sequence.group_index, one.sequence.sample_index))
        for one in answered:
            self._take(one)
        return [one.sequence for one in answered]

    def _take_arrived(self, wait: bool = False) -> list[_Waiting]:
        """Those whose answers have come, in any order; with `wait` after about a second at most."""
        arrived: list[_Waiting] = []
        timeout = LONGEST_WAIT_SECONDS
        with suppress(Empty):
            while True:
                key, answer = self._arrived.get(block=wait and not arrived, timeout=timeout)
                waiting = self._waiting.get(key)
                if waiting is not None and waiting.answer is answer:
                    arrived.append(self._waiting.pop(key))
        return arrived

    def cancel(self, sequence: RolloutSequence) -> None:
        """Forget a paused sequence, which is not wanted any more."""
        self._waiting.pop(self._key(sequence), None)
        self._forget(sequence)

    def close(self) -> None:
        """Forget all sessions."""
        self._waiting.clear()
        for sequence in list(self._open.values()):
            self._forget(sequence)

    # -- one turn ---------------------------------------------------------------------------------------------------

    def _written(self, sequence: RolloutSequence) -> _Written:
        """The turn that has ended, read once."""
        text = self._turn_text(sequence)
        parsed = Parsed() if self.format is None else self.format.parse(text)
        names = tuple(call.name for call in parsed.calls)
        return _Written(text, names, is_call=bool(names or parsed.error))

    def _refuses(self, sequence: RolloutSequence, written: _Written) -> str:
        """The finish of a completion whose turn is not answered; empty where it is."""
        if not written.is_call and not self.begins:
            return "stop"
        if written.calls and any(turn.status == "refused" for turn in sequence.turns):
            return "stop"
        return "length" if len(_answered(sequence)) >= self.budgets.max_turns else ""

    def _ask(self, sequence: RolloutSequence, written: _Written) -> None:
        """Begin to answer a paused sequence."""
        calls = written.calls
        made = sum(len(turn.calls) for turn in sequence.turns)
        if calls and made + len(calls) > self.budgets.max_calls:
            answer: Future[Any] = Future()
            answer.set_result(self._refusal(calls))
        else:
            key = self._opened(sequence)
            answer = self.pool.step(key, written.text)
        self._await(sequence, answer, text=written.text, calls=calls)

    def _await(
        self,
        sequence: RolloutSequence,
        answer: Future[Any],
        *,
        text: str = "",
        calls: tuple[str, ...] = (),
        is_new: bool = False,
    ) -> None:
        waiting = _Waiting(sequence, text, calls, answer=answer, began=self.clock(), is_new=is_new)
        self._waiting[self._key(sequence)] = waiting
        answer.add_done_callback(partial(self._arrive, self._key(sequence)))

    def _arrive(self, key: Hashable, answer: Future[Any]) -> None:
        """An answer has come, in whatever thread."""
        self._arrived.put((key, answer))

    def _refusal(self, names: tuple[str, ...]) -> Observation:
        text = REFUSED.format(many(self.budgets.max_calls, "call"))
        results = tuple(Result(name, text, "refused") for name in names)
        return Observation(text=text, status="refused", results=results)

    def _take(self, one: _Waiting) -> None:
        """Give a sequence its observation, or end it."""
        sequence = one.sequence
        observation = one.answer.result()
        if one.is_new:
            self._take_first(sequence, observation)
            return
        given = None if observation.done else self._given(sequence, observation)
        turn = Turn(
            text=one.text,
            observed=None if given is None else given.observed,
            status=observation.status,
            calls=observation.calls or one.calls,
            reward=observation.reward,
            parts=dict(observation.parts),
            seconds=self.clock() - one.began,
        )
        if given is None:
            sequence.end("stop", turn)
        else:
            sequence.observe(given.token_ids, turn)
        if sequence.finish:
            sequence.turns[-1] = replace(turn, observed=None)  # there was no room to read it
            self._forget(sequence)

    def _given(self, sequence: RolloutSequence, observation: Observation) -> Given:
        """The observation as tokens."""
        separators = self.separators_of(sequence.prompt)
        if self.format is not None and observation.results:
            answer = self.format.answer(observation.results)
            if isinstance(answer, str):
                return separators.text(answer)
            return separators.messages(answer, sequence.stop)
        if self.format is not None and self.format.in_turn and not self.begins:
            return separators.text(observation.text)
        message = {"role": "user", "content": observation.text}
        return separators.messages([message], sequence.stop)

    # -- sessions ---------------------------------------------------------------------------------------------------

    def _key(self, sequence: RolloutSequence) -> Hashable:
        return self._number, sequence.group_index, sequence.sample_index

    def _opened(self, sequence: RolloutSequence) -> Hashable:
        """The key of a sequence's session, which begins by playing its earlier turns again."""
        key = self._key(sequence)
        if key not in self._open:
            self._open_session(sequence)
        return key

    def _open_session(self, sequence: RolloutSequence) -> Future[Observation | None]:
        key = self._key(sequence)
        self._open[key] = sequence
        played = [turn.text for turn in _answered(sequence) if turn.status != "refused"]
        return self.pool.open(key, sequence.prompt.truth, played)

    def _begin(self, sequence: RolloutSequence) -> None:
        """Open a session; a completion that is new waits for what is observed behind its prompt."""
        answer = self._open_session(sequence)
        if sequence.tokens or sequence.turns:
            return
        sequence.pause()
        self._await(sequence, answer, is_new=True)

    def _take_first(self, sequence: RolloutSequence, first: Observation | None) -> None:
        """What is observed at the beginning: within the text of a plain prompt, in a chat a turn of the user's."""
        if first is not None and first.done:
            turn = Turn(text="", status=first.status, reward=first.reward, parts=dict(first.parts))
            sequence.end("error" if first.status in FAILED else "stop", turn)
            self._forget(sequence)
        elif first is None or not first.text:
            sequence.is_paused = False
        else:
            separators = self.separators_of(sequence.prompt)
            given = separators.messages([{"role": "user", "content": first.text}], None)
            turn = Turn(text="", observed=given.observed, status=first.status)
            sequence.observe(given.token_ids, turn)

    def _forget(self, sequence: RolloutSequence) -> None:
        key = self._key(sequence)
        if self._open.pop(key, None) is not None:
            self.pool.forget(key)

    # -- text -------------------------------------------------------------------------------------------------------

    def _turn_text(self, sequence: RolloutSequence) -> str:
        """What the policy wrote since the last observation, without the token that ended it."""
        token_ids = sequence.tokens[sequence.turn_start :]
        if isinstance(sequence.stop, int):
            token_ids = token_ids[:-1]
        return self._decoded(token_ids)

    def _decoded(self, token_ids: list[int]) -> str:
        return str(self.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))


def _answered(sequence: RolloutSequence) -> list[Turn]:
    """The turns that the policy wrote, without what it was shown before the first."""
    begins_given = bool(sequence.given) and sequence.given[0][0] == 0
    return sequence.turns[1:] if begins_given else sequence.turns
