"""What the conversions share: settings with their defaults, and the recipe as it comes about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Mapping

from grpo.recipe import other_trainers
from grpo.recipe.other_trainers import UNSET
from rewards.readers import read_rows

Values = Mapping[str, Any]


@dataclass(slots=True)
class Draft:
    """A recipe in the making.

    ``given`` are the settings that the user wrote, ``full`` the same over the trainer's defaults. ``values`` are our
    keys, dotted; ``origin`` names the settings that each comes from; ``lost`` says of a setting why it has no part in
    the recipe; ``used`` are those whose part is settled. ``to_do`` is for the user to do, ``notes`` what was written.
    ``columns`` are new names of the training data's columns with the old ones.
    """

    trainer: str
    given: Values
    full: Values
    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    to_do: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    columns: Values = field(default_factory=dict)

    def set(self, key: str, value: Any, *names: str) -> None:
        """Our `key` gets `value`, which comes from the settings `names`."""
        self.values[key] = value
        self.origin[key] = " and ".join(names)
        self.used.update(names)

    def assume(self, key: str, value: Any, why: str) -> None:
        """Our `key` gets `value` because of `why`, which is no setting."""
        self.values[key] = value
        self.origin[key] = why

    def lose(self, name: str, why: str) -> None:
        """The setting `name` has no part in the recipe; said only if the user wrote it."""
        self.used.add(name)
        if name in self.given:
            self.lost[name] = why

    def settle(self, *names: str) -> None:
        """Settings that were read and need no key of their own."""
        self.used.update(names)

    def is_given(self, *names: str) -> bool:
        return any(self.given.get(name) is not None for name in names)


def with_defaults(trainer: str, given: Values) -> dict[str, Any]:
    """`given` over the defaults of the trainer."""
    rows = other_trainers.TABLE[trainer]
    defaults = {row.name: row.default for row in rows if row.default is not UNSET}
    return {**defaults, **given}


def whole(number: float) -> int:
    """A count, rounded up to at least 1."""
    return max(1, -int(-number // 1))


def listed(value: Any) -> list[Any]:
    """`value` as a list: itself, or the only entry; nothing for None."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def rows_of(source: Any) -> list[Mapping[str, Any]]:
    """The rows of a file that is here; nothing for any other source."""
    if not isinstance(source, str) or not Path(source).expanduser().is_file():
        return []
    try:
        return list(read_rows(source))
    except ValueError:
        return []


def set_steps(draft: Draft, name: str, epochs: float) -> None:
    """``steps`` from epochs, if the rows can be counted here; else ``epochs``."""
    rows = num_rows(draft)
    if rows:
        draft.set("steps", whole(rows * epochs / draft.values["sample.prompts"]), name)
    else:
        draft.set("epochs", float(epochs), name)


def num_rows(draft: Draft) -> int:
    """The rows to train on, if all of them are in files that are here; else 0."""
    mixture = draft.values.get("data.sources")
    if mixture is None:
        return len(rows_of(draft.values.get("data.source")))
    counts = [len(rows_of(part["source"])) for part in mixture.values()]
    return sum(counts) if all(counts) else 0


def names_of(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
