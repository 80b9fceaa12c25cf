"""An environment for tests: answers that follow from what was written alone, and come after a number of looks."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Callable, Sequence

from grpo.rollout.sequence import RolloutSequence
from rewards.environments import Turn

Answer = Callable[[RolloutSequence], Sequence[int]]
"""The tokens of the observation behind a sequence that has ended a turn."""
Name = tuple[str, int]
"""The prompt's id and the sample index."""


def random_answer(least: int = 1, most: int = 30, vocabulary: int = 80) -> Answer:
    """Tokens that follow from the prompt and what was written."""

    def answer(sequence: RolloutSequence) -> list[int]:
        drawn = random.Random(repr((sequence.prompt.token_ids, sequence.tokens)))
        return [drawn.randrange(3, vocabulary) for _ in range(drawn.randint(least, most))]

    return answer


@dataclass(eq=False)
class ScriptedTurns:
    """Answers up to `max_calls` turns of each completion.

    An answer comes after `delay(sequence)` looks. A turn ends in its middle by a call at one of ``call_tokens``, or
    when it has ``turn_length`` tokens. ``opens`` gives an observation before the first turn. A turn for which `done`
    holds is answered by the end. By completion, ``written`` are its tokens when each turn ended, ``observed`` what it
    was given. ``waits`` counts how often everybody waited; all answers have then come.
    """

    answer: Answer = field(default_factory=random_answer)
    max_calls: int = 3
    delay: Callable[[RolloutSequence], int] = lambda sequence: 0
    call_tokens: frozenset[int] = frozenset()
    turn_length: int | None = None
    opens: bool = False
    done: Callable[[RolloutSequence], bool] = lambda sequence: False
    most_given: int = 10_000
    written: dict[Name, list[list[int]]] = field(default_factory=lambda: defaultdict(list))
    observed: dict[Name, list[list[int]]] = field(default_factory=lambda: defaultdict(list))
    cancelled: list[RolloutSequence] = field(default_factory=list)
    waiting: dict[RolloutSequence, int] = field(default_factory=dict)
    most_waiting: int = 0
    looks: int = 0
    waits: int = 0

    @property
    def num_asked(self) -> int:
        return sum(map(len, self.written.values()))

    def begin(self, sequences: Sequence[RolloutSequence]) -> None:
        for sequence in sequences:
            if self.opens and not sequence.tokens and not sequence.turns:
                sequence.pause()
            if sequence.is_paused:
                self._await(sequence)

    def ends_call(self, sequence: RolloutSequence) -> str:
        length = len(sequence.tokens) - sequence.turn_start
        is_end = sequence.tokens[-1] in self.call_tokens or length == self.turn_length
        return "<call>" if is_end else ""

    def pauses(self, sequence: RolloutSequence) -> bool:
        if len(sequence.turns) >= self.max_calls:
            return False
        sequence.pause()
        self._await(sequence)
        return True

    def _await(self, sequence: RolloutSequence) -> None:
        self.written[name_of(sequence)].append(list(sequence.tokens))
        self.waiting[sequence] = self.looks + self.delay(sequence)
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def take_ready(self, wait: bool) -> list[RolloutSequence]:
        self.looks += 1
        if wait and min(self.waiting.values()) > self.looks:
            self.waits += 1
            self.looks = max(self.waiting.values())
        ready = [sequence for sequence, due in self.waiting.items() if due <= self.looks]
        for sequence in ready:
            del self.waiting[sequence]
            self._tell(sequence)
        return sorted(ready, key=lambda sequence: (sequence.group_index, sequence.sample_index))

    def _tell(self, sequence: RolloutSequence) -> None:
        if self.done(sequence):
            sequence.end("stop", Turn("", None))
            return
        token_ids = list(self.answer(sequence))
        self.observed[name_of(sequence)].append(token_ids)
        sequence.observe(token_ids, Turn("", "observed", calls=("tool",), parts={"good": 1.0}))

    def cancel(self, sequence: RolloutSequence) -> None:
        del self.waiting[sequence]
        self.cancelled.append(sequence)


def name_of(sequence: RolloutSequence) -> Name:
    return sequence.prompt.id, sequence.sample_index
