"""The order in which training prompts are drawn: one source by a seed, or a mixture by the weights of its sources.

Both carry their position over a stop by `state` and `restore`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Callable, Collection, Mapping, Protocol, Sequence

from grpo.recipe import RecipeError
from grpo.types import Prompt
from rewards.spelling import many

Admits = Callable[[Prompt], bool]


class Stream(Protocol):
    """An endless stream of training prompts."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """All of them."""

    def take(
        self, number: int, admits: Admits = ..., without: Collection[str] = ()
    ) -> list[Prompt]:
        """The next `number` distinct prompts that `admits` lets pass, none whose id is in `without`."""

    def epoch_of(self, prompt: Prompt) -> int:
        """How many passes over the prompts of its source were begun before this one."""

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""


def everything(prompt: Prompt) -> bool:
    """Admits every prompt."""
    return True


class PromptStream:
    """An endless stream of training prompts: each once an epoch, in a new order for each (seed, epoch).

    One `take` never returns a prompt twice, even where it crosses into the next epoch: a prompt that comes up again
    there waits for the next take. `state` and `restore` carry the position over a stop.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int | str):
        self.prompts = prompts
        self.seed = seed
        self.epoch = 0
        self.cursor = 0
        self.deferred: list[int] = []
        self._order = self._shuffled()

    def _shuffled(self) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{self.seed}:{self.epoch}").shuffle(order)
        return order

    def take(
        self,
        number: int,
        admits: Admits = everything,
        without: Collection[str] = (),
    ) -> list[Prompt]:
        """The next `number` distinct prompts; fewer if two passes over all of them do not admit as many.

        A prompt that is not admitted is skipped for this epoch. One whose id is in `without` waits for the next take.
        """
        assert number <= len(self.prompts), "checked before the run starts"
        draw = _Draw(number, admits, without)
        waiting = self.deferred
        self.deferred = []
        for index in waiting:
            self._offer(index, draw)
        for _ in range(2 * len(self.prompts)):
            if draw.is_complete:
                break
            self._offer(self._next_index(), draw)
        return [self.prompts[index] for index in draw.taken]

    def epoch_of(self, prompt: Prompt) -> int:
        """The epoch under way; the same for each prompt."""
        return self.epoch

    def _next_index(self) -> int:
        if self.cursor == len(self._order):
            self.epoch += 1
            self.cursor = 0
            self._order = self._shuffled()
        self.cursor += 1
        return self._order[self.cursor - 1]

    def _offer(self, index: int, draw: _Draw) -> None:
        """Take a prompt, defer it, or skip it."""
        prompt = self.prompts[index]
        if index in draw.taken or draw.is_complete or prompt.id in draw.without:
            if index not in self.deferred:
                self.deferred.append(index)
        elif draw.admits(prompt):
            draw.taken[index] = None

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "prompts": len(self.prompts),
            "epoch": self.epoch,
            "cursor": self.cursor,
            "deferred": list(self.deferred),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; raises `RecipeError` if it was saved with another number of prompts."""
        if state["prompts"] != len(self.prompts):
            raise RecipeError(
                f"data: the run began with {many(state['prompts'], 'training prompt')}, now there are "
                f"{len(self.prompts)}; resume with the data set it began with"
            )
        self.epoch = state["epoch"]
        self.cursor = state["cursor"]
        self.deferred = list(state["deferred"])
        self._order = self._shuffled()


@dataclass(slots=True)
class _Draw:
    """One `take` under way: what is wanted, and the indices of the prompts taken so far, in order."""

    number: int
    admits: Admits
    without: Collection[str]
    taken: dict[int, None] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.taken) == self.number


class MixedStream:
    """Draws each prompt from the source that is furthest behind its share, so shares hold exactly over a run.

    After any number of prompts a source has given its share of them to within one. A source that has no prompt to give
    in a take is passed over there, and catches up later. ``sources`` are the prompts of each source by name, in the
    order that breaks ties; ``weights`` are relative.
    """

    def __init__(
        self, sources: Mapping[str, Sequence[Prompt]], weights: Mapping[str, float], seed: int
    ):
        self.prompts = [prompt for prompts in sources.values() for prompt in prompts]
        total = sum(weights.values())
        self.shares = {name: weights[name] / total for name in sources}
        self.taken = dict.fromkeys(sources, 0)
        self._stream_of = {
            name: PromptStream(prompts, f"{seed}:{name}") for name, prompts in sources.items()
        }

    def take(
        self, number: int, admits: Admits = everything, without: Collection[str] = ()
    ) -> list[Prompt]:
        """The next `number` distinct prompts by the sources' shares; fewer if the sources do not admit as many."""
        open_sources = list(self.shares)
        drawn: dict[str, Prompt] = {}
        while len(drawn) < number and open_sources:
            name = self._furthest_behind(open_sources)
            prompt = self._one(name, admits, {*without, *drawn})
            if prompt is None:
                open_sources.remove(name)
                continue
            drawn[prompt.id] = prompt
            self.taken[name] += 1
        return list(drawn.values())

    def _furthest_behind(self, names: Sequence[str]) -> str:
        total = sum(self.taken.values()) + 1
        return max(names, key=lambda name: self.shares[name] * total - self.taken[name])

    def _one(self, name: str, admits: Admits, without: Collection[str]) -> Prompt | None:
        return next(iter(self._stream_of[name].take(1, admits, without)), None)

    def epoch_of(self, prompt: Prompt) -> int:
        """The epoch of the prompt's source."""
        return self._stream_of[prompt.source].epoch

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        streams = {name: stream.state() for name, stream in self._stream_of.items()}
        return {"taken": dict(self.taken), "sources": streams}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; raises `RecipeError` if it was saved with other sources or numbers of prompts."""
        if set(state.get("sources", ())) != set(self._stream_of):
            raise RecipeError(
                "data: the run began with other sources; resume with those that it began with"
            )
        self.taken = {name: int(state["taken"][name]) for name in self.taken}
        for name, stream in self._stream_of.items():
            stream.restore(state["sources"][name])
