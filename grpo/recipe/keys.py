"""How a key of a recipe is declared: its default, its help, its range, and how a mapping of named sections is built."""

from __future__ import annotations

from dataclasses import field
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
