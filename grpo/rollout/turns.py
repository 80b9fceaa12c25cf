"""What the engine asks between the turns of a completion: whether it goes on, and with which tokens.

A completion of several turns pauses when the policy ends one, frees its row, and goes on behind an observation whose
tokens are given to it. Who answers is up to ``grpo.environments``; the decoders only know `Turns`.
"""

from __future__ import annotations

from typing import Protocol, Sequence

from grpo.rollout.sequence import RolloutSequence


class Turns(Protocol):
    """The other side of all sequences of a call of the engine.

    ``most_given`` bounds the tokens that a completion is given in all: with as many more than its own limit, it ends as
    if the context were full.
    """

    most_given: int

    def begin(self, sequences: Sequence[RolloutSequence]) -> None:
        """Called once with all sequences that have not ended, before the first token.

        Those that an earlier call paused (`RolloutSequence.is_paused`) are answered again, and come by `take_ready`;
        so do others that are paused here, for what they observe before their first turn.
        """
        ...

    def ends_call(self, sequence: RolloutSequence) -> str:
        """The string by which the newest token completes a call in the middle of a turn; empty where it does not.

        Asked after each token, so it is quick.
        """
        ...

    def pauses(self, sequence: RolloutSequence) -> bool:
        """Whether a sequence whose finish is "stop" or "call" is to be answered; asked once for each end.

        If so, `RolloutSequence.pause` was called and the answer is on its way.
        """
        ...

    def take_ready(self, wait: bool) -> list[RolloutSequence]:
        """The paused sequences whose answers have come, in the order of their indices.

        Each has taken in its observation (`RolloutSequence.observe`) or has a finish again (`RolloutSequence.end`).
        With `wait` nothing else is left to do: it returns once there is one, or after about a second without, since
        the engine looks for interruptions between two calls.
        """
        ...

    def cancel(self, sequence: RolloutSequence) -> None:
        """Forget a paused sequence, which is not wanted any more."""
        ...


class NoTurns:
    """Every completion is one turn."""

    most_given = 0

    def begin(self, sequences: Sequence[RolloutSequence]) -> None:
        """Nothing is to be prepared."""

    def ends_call(self, sequence: RolloutSequence) -> str:
        """Nothing can be called."""
        return ""

    def pauses(self, sequence: RolloutSequence) -> bool:
        """No answer comes."""
        return False

    def take_ready(self, wait: bool) -> list[RolloutSequence]:
        """Nothing waits."""
        return []

    def cancel(self, sequence: RolloutSequence) -> None:
        """Nothing waits."""
