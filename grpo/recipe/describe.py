"""What a recipe says of itself: its keys as text and as a page of the docs, the size of a step, differences of two."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from grpo.recipe.keys import default_of
from grpo.recipe.sections import Sections
from grpo.recipe.values import KINDS, NOT_EMPTY, Check, dotted, options_of
from rewards.spelling import many

# ---- keys ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One key of the recipe: its dotted name, the values it takes in words, its default and its help."""

    name: str
    type: str
    default: Any
    help: str


def recipe_keys(cls: type = Sections, where: str = "") -> Iterator[Key]:
    """Every key in the order of the file; ``<name>`` stands for a name that the user chooses."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = dotted(where, field.name)
        options = options_of(hints[field.name])
        default = default_of(field)
        section = next(filter(dataclasses.is_dataclass, options), None)
        if section is None or default is None:
            words = _type_in_words(options, field.metadata["check"])
            yield Key(name, words, default, field.metadata["help"])
        if section is not None:
            yield from recipe_keys(section, name)
        if field.metadata["entry"] is not None:
            yield from recipe_keys(field.metadata["entry"], f"{name}.<name>")


def describe_keys() -> Iterator[tuple[str, Any, str]]:
    """Every key of the recipe as (dotted name, default, help), in the order of the file."""
    for key in recipe_keys():
        yield key.name, key.default, key.help


def _type_in_words(options: tuple[type, ...], check: Check | None) -> str:
    """``number, at least 0; or null``."""
    kinds = [KINDS.get(option, "section") for option in options if option is not type(None)]
    words = " or ".join(kind.removeprefix("a ") for kind in kinds)
    if check is not None and check is not NOT_EMPTY:
        requirement = check.requirement.removeprefix("must be ").removeprefix("must lie ")
        words = requirement if requirement.startswith("one of") else f"{words}, {requirement}"
    return f"{words}; or null" if type(None) in options else words


def keys_help() -> str:
    """Every key of the recipe with its default and its help."""
    lines: list[str] = []
    section = None
    for name, default, help in describe_keys():
        if section_of(name) != section:
            section = section_of(name)
            lines.append("")
        lines.append(f"  {name} = {as_typed(default)}")
        lines.append(f"      {help}")
    return "\n".join(lines)


def section_of(name: str) -> str:
    """The first part of a dotted name; empty for a key of the top level."""
    return name.split(".")[0] if "." in name else ""


def as_typed(default: Any) -> str:
    """A default as it is typed in YAML."""
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)


# ---- the page of the docs -----------------------------------------------------------------------------------

PAGE_HEAD = """\
# Recipe keys

Each key can stand in the YAML file, and on the command line as `section.key=value`. The command line overrides the
file, the file overrides the preset that `loss.preset` names, and the preset overrides the defaults below.
`<name>` is a name of your choice under `rewards`, and the name of a gate under `gates`."""
TABLE_HEAD = """\
| key | type | default | meaning |
| --- | --- | --- | --- |"""
TOP_LEVEL = "top level"


def keys_markdown() -> str:
    """The page of all recipe keys: a chapter for each section of the recipe, a table row for each key."""
    chapters: dict[str, list[str]] = {TOP_LEVEL: []}
    sections = {section_of(key.name) for key in recipe_keys()}
    for key in recipe_keys():
        first = key.name.split(".")[0]
        chapter = first if first in sections else TOP_LEVEL
        chapters.setdefault(chapter, []).append(_row(key))
    parts = [PAGE_HEAD]
    for chapter, rows in chapters.items():
        parts += [_chapter_head(chapter), "\n".join([TABLE_HEAD, *rows])]
    return "\n\n".join(parts) + "\n"


def _chapter_head(chapter: str) -> str:
    if chapter == TOP_LEVEL:
        return "## Top level"
    fields = {field.name: field for field in dataclasses.fields(Sections)}
    metadata = fields[chapter].metadata
    head = f"## `{chapter}`"
    if metadata["entry"] is not None:
        return head  # the first row of its table says it
    help = metadata["help"]
    return f"{head}\n\n{help[0].upper()}{escaped(help[1:])}."


def _row(key: Key) -> str:
    cells = (f"`{key.name}`", escaped(key.type), f"`{as_typed(key.default)}`", escaped(key.help))
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """`text` in a cell of a table: no character acts as markup, and a page of the docs becomes a link.

    A brace would open a list of attributes, and Markdown has no backslash form of ``<`` and ``{``.
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("{", "&#123;")
    text = re.sub(r"([|*])", r"\\\1", text)
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


# ---- the size of a step, and differences --------------------------------------------------------------------


def step_size(recipe: Sections) -> Iterator[str]:
    """How many completions and updates a step and the run have, in lines."""
    prompts = recipe.sample.prompts
    group_size = recipe.sample.group_size
    completions = prompts * group_size
    updates = recipe.optim.updates * recipe.optim.epochs
    yield (
        f"a step: {many(prompts, 'prompt')} x {group_size} = {many(completions, 'completion')} of at most "
        f"{many(recipe.sample.max_tokens, 'token')}, {many(updates, 'update')}"
    )
    most = _most_prompts(recipe) * group_size
    if most > completions:
        yield f"  and further prompts in place of flat groups, up to {many(most, 'completion')} sampled a step"
    yield (
        f"the run: {many(recipe.steps, 'step')}, {many(recipe.steps * completions, 'completion')}, "
        f"{many(recipe.steps * updates, 'update')}"
    )


def _most_prompts(recipe: Sections) -> int:
    """Prompts that a step samples if it refills as often as it may."""
    refills = recipe.advantage.refills if recipe.advantage.flat == "refill" else 0
    prompts = recipe.sample.prompts
    return (1 + refills) * prompts + math.ceil(prompts * recipe.sample.oversample)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two resolved recipes differ, as (dotted key, old value, new value)."""
    for name in dict.fromkeys([*old, *new]):
        before = old.get(name)
        after = new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, dotted(where, name))
        elif before != after:
            yield dotted(where, name), before, after


def changed_keys(section: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value, default) for each key of a section that is not at its default."""
    for field in dataclasses.fields(section):
        name = dotted(where, field.name)
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from changed_keys(value, name)
        elif field.metadata["entry"] is not None:
            for entry_name, entry in value.items():
                yield from changed_keys(entry, dotted(name, entry_name))
        elif value != default_of(field):
            yield name, value, default_of(field)
