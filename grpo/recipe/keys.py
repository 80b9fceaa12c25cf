"""How a key of a recipe is declared: its default, its help, its range, and how a mapping of named sections is built.

How a section shows itself is here too, for all of them.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields
from typing import Any, Callable, Mapping

from grpo.recipe.values import Check, RecipeError, dotted, in_quotes, kind

SectionBuilder = Callable[[type, Any, str], Any]
"""(section class, values, dotted name of the section) -> the section: ``build.build_section``."""
EntriesBuilder = Callable[[Any, str, SectionBuilder], dict[str, Any]]
"""(values, dotted name of the mapping, how a section is built) -> a section for each name."""


def key(
    default: Any,
    help: str,
    check: Check | None = None,
    *,
    entry: type | None = None,
    build: EntriesBuilder | None = None,
) -> Any:
    """A field of the recipe: its default, its help, and the range of its value.

    A mapping whose names the user chooses has the class of an `entry`, and a function to `build` all of them.
    """
    metadata = {"help": help, "check": check, "entry": entry, "build": build}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(part: Field[Any]) -> Any:
    """The default of a key."""
    return part.default if part.default_factory is MISSING else part.default_factory()


class ShortSection:
    """A section whose ``repr`` has the keys that are not at their defaults."""

    def __repr__(self) -> str:
        shown = []
        for part in fields(self):  # type: ignore[arg-type]  every section is a dataclass
            value = getattr(self, part.name)
            if value != default_of(part):
                shown.append(f"{part.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def build_entries(
    cls: type, values: Any, where: str, build: SectionBuilder, *, noun: str
) -> dict[str, Any]:
    """A section `cls` for each name in the mapping `values`; `noun` is what a name names, in messages."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"recipe: {where} must be a section of keys, not {kind(values)}")
    for name in values:
        if not isinstance(name, str):
            raise RecipeError(
                f"recipe: {where}: a {noun}'s name must be text, not {kind(name)}{in_quotes(name)}"
            )
    return {name: build(cls, part, dotted(where, name)) for name, part in values.items()}
