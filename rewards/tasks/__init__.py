"""Procedural tasks: questions made by rule, each with the truth that a reward checks.

A task is a function of its arguments alone: the same arguments give the same rows in the same order, whatever
the run's seed. `held_out` selects the rows that are never trained on. Each task is a module: ``countdown``,
``arithmetic``, ``knights``, ``programs``, and ``gym``, which provides the generators of the package reasoning-gym under
the names ``gym-NAME`` and is imported on first use, since it needs the mathematics. No verifier here executes the text
of a completion; ``programs`` leaves that to the sandbox. Mapping rows to prompts, shuffling and sampling belong to the
trainer.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping, Sequence

from rewards.spelling import nearest
from rewards.tasks.arithmetic import arithmetic_rows
from rewards.tasks.countdown import (
    countdown,
    countdown_format,
    countdown_rows,
    retries,
    whole_results,
)
from rewards.tasks.knights import knights_and_knaves, knights_rows
from rewards.tasks.programs import program_rows

__all__ = [
    "TASKS",
    "Task",
    "countdown",
    "countdown_format",
    "held_out",
    "knights_and_knaves",
    "load_task",
    "num_shared",
    "retries",
    "whole_results",
]

GYM_PREFIX = "gym-"
GYM_ROWS = 1000
"""How many rows of a reasoning-gym task are made where ``count`` is not given."""
Row = dict[str, Any]


# ---------------------------------------------------------------------------------------------- the tasks


@dataclass(frozen=True, slots=True)
class Task:
    """A family of questions: `rows` makes them, `reward` names the reward that judges them by default."""

    name: str
    make: Callable[..., list[Row]]
    reward: str
    doc: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, **args: Any) -> list[Row]:
        """The task's questions in a fixed order, each with ``prompt`` and the columns its reward needs."""
        parameters = inspect.signature(self.make).parameters
        is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for name in args:
            if name not in parameters and not is_open:
                hint = _hint(name, list(parameters))
                raise ValueError(f"task {self.name}: unknown argument {name}{hint}")
        return self.make(**{**self.defaults, **args})


def load_task(name: str) -> Task:
    """The task of that name; `ValueError`, with the nearest name, if there is none."""
    if name not in TASKS:
        raise ValueError(f"no procedural task is called {name!r}{_hint(name, TASKS)}")
    return TASKS[name]


def _hint(name: str, known: Iterable[str]) -> str:
    return nearest(name, known) or f"; known are {', '.join(known)}"


def num_shared(count: int, seed: int, other_count: int, other_seed: int) -> int:
    """How many rows two sets of a reasoning-gym task have in common: row i of seed s is made from s + i.

    >>> num_shared(500, 0, 500, 1), num_shared(500, 0, 500, 500)
    (499, 0)
    """
    first = max(seed, other_seed)
    last = min(seed + count, other_seed + other_count)
    return max(0, last - first)


def held_out(rows: Sequence[Row], n: int) -> tuple[list[Row], list[Row]]:
    """Split rows into those to train on and those of ``n`` prompts never to: ``(train_rows, held_rows)``.

    Held out are the prompts with the smallest ``sha256("held-out:" + prompt)``, in that order: the choice depends
    only on the text of the prompts, not on a seed, their order or how many others there are. No row with a held-out
    prompt is trained on, even if the prompt occurs twice.
    """
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(_prompt_text(row), row)
    if not 0 <= n < max(len(first), 1):
        raise ValueError(
            f"cannot hold out {n} of {len(first)} different prompts: some must be left to train on"
        )
    held_prompts = sorted(first, key=_held_out_digest)[:n]
    excluded = set(held_prompts)
    train_rows = [row for row in rows if _prompt_text(row) not in excluded]
    return train_rows, [first[text] for text in held_prompts]


def _held_out_digest(prompt: str) -> bytes:
    return hashlib.sha256(f"held-out:{prompt}".encode()).digest()


def _prompt_text(row: Row) -> str:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    return json.dumps(prompt, sort_keys=True, ensure_ascii=False)


class _Tasks(dict[str, Task]):
    """The tasks by name. ``gym-NAME`` is looked up in reasoning-gym; those hundred names are not listed."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(GYM_PREFIX))

    def __missing__(self, name: str) -> Task:
        if name not in self:
            raise KeyError(name)
        from rewards.tasks import gym  # noqa: PLC0415  heavy: the mathematics, and reasoning-gym

        rows, doc = gym.lease(name.removeprefix(GYM_PREFIX))
        return Task(name, rows, reward="gym_answer", doc=doc)


_OWN_TASKS = (
    Task(
        name="search-countdown-3",
        make=countdown_rows,
        reward="countdown",
        doc="Three numbers from 1 to 13 make a target from 10 to 99; written in symbols, a token an integer.",
        defaults={"style": "symbols"},
    ),
    Task(
        name="countdown",
        make=countdown_rows,
        reward="countdown",
        doc="Some numbers make a target, each used once; written as a question for a language model.",
    ),
    Task(
        name="arithmetic",
        make=arithmetic_rows,
        reward="math_answer",
        doc="Sums, differences and products of two whole numbers.",
    ),
    Task(
        name="programs",
        make=program_rows,
        reward="code_tests",
        doc="Write a small function; judged by calling it in a sandbox, with tests the prompt does not show.",
    ),
    Task(
        name="knights-and-knaves",
        make=knights_rows,
        reward="knights_and_knaves",
        doc="Who tells the truth and who lies; one solution, proven by trying all; harder with more people.",
    ),
)
TASKS = _Tasks((task.name, task) for task in _OWN_TASKS)
