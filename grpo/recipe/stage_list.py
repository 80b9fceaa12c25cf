"""The list ``stages`` of a recipe as plain mappings: by name, with every key where a recipe of one stage has it.

What a stage is made of is decided in ``plan``; here nothing is looked up, and what is not understood is left as it is.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Mapping

from grpo.recipe.sections import Sections
from grpo.recipe.shorthands import check_name
from grpo.recipe.values import RecipeError, kind
from rewards.spelling import nearest

KINDS = ("sft", "grpo", "reject", "distill", "evaluate", "export")
"""What a stage may do."""
BASE = "base"
"""The recipe's own model, where a stage names what it starts from."""
BESIDE_KIND = ("name", "from", "data")
"""What an entry may hold beside its kind."""
_TOP_LEVEL = {field.name: field for field in fields(Sections)}


def own_section(stage_kind: str) -> tuple[str, ...]:
    """The keys of the section that is named like the kind; none if there is no such section."""
    field = _TOP_LEVEL.get(stage_kind)
    if field is None or not is_dataclass(field.default):
        return ()
    return tuple(part.name for part in fields(field.default))


def stages_by_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with ``stages`` as a mapping from name to entry, each with its keys in the sections they belong to."""
    stages = values.get("stages")
    if stages is None:
        return dict(values)
    if isinstance(stages, list):
        stages = _named(stages)
    if not isinstance(stages, Mapping):
        raise RecipeError(
            "recipe: stages must be a list of stages, each with a name and its kind, e.g. "
            f"{{name: start, sft: {{epochs: 2}}}}, not {kind(stages)}"
        )
    return {**values, "stages": {name: _sorted_in(part) for name, part in stages.items()}}


def _named(stages: list[Any]) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for number, entry in enumerate(stages, start=1):
        if not isinstance(entry, Mapping):
            raise RecipeError(
                f"recipe: stage {number} of stages must be a section of keys, not {kind(entry)}"
            )
        name = _name_of(entry, number)
        if name in by_name:
            raise RecipeError(
                f"recipe: stage {number} of stages is called {name}, as one before it; give each a name of its own"
            )
        by_name[name] = {key: part for key, part in entry.items() if key != "name"}
    return by_name


def _name_of(entry: Mapping[str, Any], number: int) -> str:
    """The name of an entry; that of its kind where it gives none."""
    given = entry.get("name", next((key for key in entry if key in KINDS), None))
    if not isinstance(given, str):
        raise RecipeError(
            f"recipe: stage {number} of stages has no name and no kind; write e.g. "
            f"{{name: start, sft: {{...}}}}; the kinds are {', '.join(KINDS)}"
        )
    check_name(given, f"stage {number} of stages")
    if given == BASE:
        raise RecipeError(
            f"recipe: stage {number} of stages is called {BASE}, which means the recipe's own model; choose "
            "another name"
        )
    return given


def _sorted_in(entry: Any) -> Any:
    """The entry with the keys of its kind's own section, which may stand beside the sections, inside that section."""
    if not isinstance(entry, Mapping):
        return entry
    return {
        name: _with_own_section(name, part) if name in KINDS else part
        for name, part in entry.items()
    }


def _with_own_section(stage_kind: str, part: Any) -> Any:
    if not isinstance(part, Mapping):
        return {} if part is None else part
    own = [name for name in own_section(stage_kind) if name not in _TOP_LEVEL and name in part]
    if not own:
        return dict(part)
    inside = part.get(stage_kind)
    section = dict(inside) if isinstance(inside, Mapping) else {}
    for name in own:
        if name in section:
            raise RecipeError(
                f"recipe: {name} of a stage {stage_kind} is given twice, by itself and in the section {stage_kind}; "
                "keep one"
            )
        section[name] = part[name]
    rest = {name: value for name, value in part.items() if name not in own}
    return {**rest, stage_kind: section}


# ---- one entry --------------------------------------------------------------------------------------------------


def kind_of(name: str, entry: Any) -> str:
    """The kind of the stage `name`; `RecipeError` unless its entry names one, and nothing that is unknown."""
    where = f"stages.{name}"
    if not isinstance(entry, Mapping):
        raise RecipeError(f"recipe: {where} must be a section of keys, not {kind(entry)}")
    known = (*KINDS, *BESIDE_KIND)
    for key in entry:
        if key not in known:
            raise RecipeError(
                f"recipe: {where}: unknown key {key}{nearest(str(key), known)}; a stage has a kind "
                f"({', '.join(KINDS)}), under which its sections stand, a name, from and data"
            )
    kinds = [key for key in entry if key in KINDS]
    if len(kinds) != 1:
        found = f"{' and '.join(kinds)} at once" if kinds else "no kind"
        raise RecipeError(f"recipe: {where} has {found}; it takes one of {', '.join(KINDS)}")
    found = kinds[0]
    if not isinstance(entry[found], Mapping):
        raise RecipeError(
            f"recipe: {where}.{found} must be a section of keys, not {kind(entry[found])}"
        )
    return found
