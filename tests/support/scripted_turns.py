"""An environment for tests: answers that follow from what was written alone, and come after a number of steps."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Callable, Sequence

from grpo.rollout.sequence import RolloutSequence
from rewards.environments import Turn

Answer = Callable[[RolloutSequence], Sequence[int]]
"""The tokens of the observation behind a sequence that has ended a turn."""


def random_answer(least: int = 1, most: int = 30, vocabulary: int = 80) -> Answer:
    """Tokens that follow from the prompt and what was written."""

    def answer(sequence: RolloutSequence) -> list[int]:
        drawn = random.Random(repr((sequence.prompt.token_ids, sequence.tokens)))
        return [drawn.randrange(3, vocabulary) for _ in range(drawn.randint(least, most))]

    return answer


@dataclass
class ScriptedTurns:
    """Answers up to `max_calls` turns of each completion.

    An answer comes after `delay(sequence)` looks. ``call_tokens`` end a call in the middle of a turn. ``opens`` gives
    an observation before the first turn. A turn for which `done` holds is answered by the end. Everything that was
    asked is kept: ``asked`` (group, sample, number of turns before) in order, ``cancelled`` and ``most_waiting``.
    """

    answer: Answer = field(default_factory=random_answer)
    max_calls: int = 3
    delay: Callable[[RolloutSequence], int] = lambda sequence: 0
    call_tokens: frozenset[int] = frozenset()
    opens: bool = False
    done: Callable[[RolloutSequence], bool] = lambda sequence: False
    most_given: int = 10_000
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    cancelled: list[RolloutSequence] = field(default_factory=list)
    most_waiting: int = 0
    looks: int = 0
    waits: int = 0
    _waiting: dict[RolloutSequence, int] = field(default_factory=dict)

    def begin(self, sequences: Sequence[RolloutSequence]) -> None:
        for sequence in sequences:
            if self.opens and not sequence.tokens:
                sequence.pause()
            if sequence.is_paused:
                self._await(sequence)

    def ends_call(self, sequence: RolloutSequence) -> str:
        return "call" if sequence.tokens[-1] in self.call_tokens else ""

    def pauses(self, sequence: RolloutSequence) -> bool:
        if len(sequence.turns) >= self.max_calls:
            return False
        sequence.pause()
        self._await(sequence)
        return True

    def _await(self, sequence: RolloutSequence) -> None:
        self.asked.append((sequence.group_index, sequence.sample_index, len(sequence.turns)))
        self._waiting[sequence] = self.looks + self.delay(sequence)
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def take_ready(self, wait: bool) -> list[RolloutSequence]:
        self.looks += 1
        self.waits += wait
        if wait:
            self.looks = max(self.looks, min(self._waiting.values()))
        ready = [sequence for sequence, due in self._waiting.items() if due <= self.looks]
        for sequence in ready:
            del self._waiting[sequence]
            if self.done(sequence):
                sequence.end("stop", Turn("", None))
            else:
                sequence.observe(self.answer(sequence), Turn("", "observed"))
        return sorted(ready, key=lambda sequence: (sequence.group_index, sequence.sample_index))

    def cancel(self, sequence: RolloutSequence) -> None:
        del self._waiting[sequence]
        self.cancelled.append(sequence)
