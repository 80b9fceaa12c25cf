"""A pool of environments for tests: answers that follow from a row and its texts alone, in whatever order they come."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Hashable, Mapping, Sequence

from rewards.environments import Observation

Answer = Callable[[Mapping[str, Any], Sequence[str]], Observation]
"""(the row, the texts so far) -> what is observed."""


def echo(row: Mapping[str, Any], texts: Sequence[str]) -> Observation:
    """What was written, counted: different for each turn."""
    return Observation(f"turn {len(texts)} had {len(texts[-1])} letters")


class ScriptedPool:
    """Takes the place of `rewards.environments.EnvironmentPool`.

    Answers come after up to `most_seconds`, drawn from `seed`. What was asked is kept: ``opened`` (row, texts that were
    played) and ``forgotten`` by key, and the ``texts`` of each session.
    """

    def __init__(
        self,
        answer: Answer = echo,
        first: Callable[[Mapping[str, Any]], Observation | None] = lambda row: None,
        most_seconds: float = 0.0,
        seed: int = 0,
    ):
        self.answer = answer
        self.first = first
        self.most_seconds = most_seconds
        self.random = random.Random(seed)
        self.opened: dict[Hashable, tuple[Mapping[str, Any], tuple[str, ...]]] = {}
        self.texts: dict[Hashable, list[str]] = {}
        self.forgotten: list[Hashable] = []
        self._threads = ThreadPoolExecutor(8)

    def open(
        self, key: Hashable, row: Mapping[str, Any], texts: Sequence[str] = ()
    ) -> Future[Observation | None]:
        assert key not in self.opened, "a session is opened once"
        self.opened[key] = (row, tuple(texts))
        self.texts[key] = list(texts)
        return self._later(self.first(row))

    def step(self, key: Hashable, text: str) -> Future[Observation]:
        assert key in self.opened and key not in self.forgotten
        self.texts[key].append(text)
        return self._later(self.answer(self.opened[key][0], self.texts[key]))

    def _later(self, value: Any) -> Future[Any]:
        seconds = self.random.random() * self.most_seconds
        if not seconds:
            known: Future[Any] = Future()
            known.set_result(value)
            return known
        return self._threads.submit(lambda: (time.sleep(seconds), value)[1])

    def forget(self, key: Hashable) -> None:
        assert key not in self.forgotten
        self.forgotten.append(key)

    def schemas(self) -> list[dict[str, Any]]:
        return []

    def describe(self) -> list[str]:
        return []

    def close(self) -> None:
        self._threads.shutdown()
