"""The sequences of a call that wait for an environment: what the decoders ask between two steps."""

from __future__ import annotations

from typing import Collection, Iterable, Sequence

from grpo.rollout.memory import EngineStats
from grpo.rollout.sequence import RolloutSequence
from grpo.rollout.turns import NoTurns, Turns


class Waiting:
    """Who is paused. Their rows are free; whether their keys are kept is up to the decoder."""

    def __init__(
        self,
        turns: Turns | None = None,
        stats: EngineStats | None = None,
        paused: Iterable[RolloutSequence] = (),
    ):
        self.turns = NoTurns() if turns is None else turns
        self.stats = EngineStats() if stats is None else stats
        self.paused = dict.fromkeys(paused)

    def after_turn(self, sequence: RolloutSequence) -> bool:
        """Whether a sequence that has just ended a turn is paused; else it has ended."""
        if sequence.finish in ("stop", "call") and self.turns.pauses(sequence):
            self.paused[sequence] = None
        elif sequence.finish == "call":
            sequence.finish = "stop"
        return sequence.is_paused

    def take_ready(self, is_idle: bool) -> list[RolloutSequence]:
        """Those that go on, or have ended by their answer; waits for one if the decoder `is_idle`."""
        if not self.paused:
            return []
        ready = self.turns.take_ready(wait=is_idle)
        self.stats.answered += len(ready)
        for sequence in ready:
            del self.paused[sequence]
        return ready

    def cancel(self, sequence: RolloutSequence) -> None:
        """Do not wait for a sequence any more."""
        del self.paused[sequence]
        self.turns.cancel(sequence)

    def cancel_all(self) -> None:
        """Wait for nobody any more: the call has ended or was left."""
        for sequence in list(self.paused):
            self.cancel(sequence)

    def count(self, steps: int) -> None:
        """Count those that wait while others take `steps` steps."""
        self.stats.rows_paused += steps * len(self.paused)


def shortest_first(sequences: Iterable[RolloutSequence]) -> list[RolloutSequence]:
    """Sequences by how little is lost with their keys; of equal ones the last in the call."""

    def key(sequence: RolloutSequence) -> tuple[int, int, int]:
        return len(sequence.tokens), -sequence.group_index, -sequence.sample_index

    return sorted(sequences, key=key)


def spare_keys(
    kept: Collection[RolloutSequence],
    queue: Sequence[RolloutSequence],
    num_live: int,
    admitted: Sequence[RolloutSequence],
) -> RolloutSequence | None:
    """Whose kept keys are to give way to the next in the queue; None while enough decode.

    Those that wait have at most as many as those that decode, so that neither slow tools nor little memory stop others.
    """
    if len(admitted) >= len(queue):
        return None
    leaving = {*admitted, queue[len(admitted)]}
    candidates = [sequence for sequence in kept if sequence not in leaving]
    if len(candidates) <= num_live + len(admitted):
        return None
    return shortest_first(candidates)[0]
