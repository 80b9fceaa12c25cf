"""From nested mappings to sections and back: layers merged, each value checked by type and range.

Rules between keys are in ``constraints``; YAML, overrides and paths in ``files``.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from typing import Any, Mapping, Sequence

from grpo.recipe.describe import describe_keys
from grpo.recipe.files import parse_yaml
from grpo.recipe.presets import PRESETS
from grpo.recipe.sections import LossSection
from grpo.recipe.values import KINDS, RecipeError, dotted, in_quotes, kind, options_of
from rewards.spelling import nearest

TRUE_IN_YAML_1_1 = ("yes", "on", "y")
FALSE_IN_YAML_1_1 = ("no", "off", "n")


# ---- layers -------------------------------------------------------------------------------------------------


def merge(
    low: Mapping[str, Any], high: Mapping[str, Any], *, empties: bool = False
) -> dict[str, Any]:
    """`high` laid over `low`, section by section; with `empties`, ``{}`` in `high` empties the section below it."""
    result = dict(low)
    for name, value in high.items():
        below = result.get(name)
        replaces = empties and not value
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not replaces:
            result[name] = merge(below, value, empties=empties)
        else:
            result[name] = value
    return result


def preset_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset that `values` name sets."""
    name = LossSection().preset
    loss = values.get("loss")
    if isinstance(loss, Mapping):
        name = loss.get("preset", name)
    if not isinstance(name, str) or name not in PRESETS:
        return {}  # `build_section` says what is wrong with it
    preset = PRESETS[name]
    return {"advantage": dict(preset.advantage), "loss": {"preset": name, **preset.loss}}


# ---- from plain values to dataclasses ------------------------------------------------------------------------


def build_section(cls: type, values: Any, where: str) -> Any:
    """The section `cls` from a mapping; `RecipeError` for a key that is unknown or a value that does not fit.

    `where` is the dotted name of the section, empty for the whole recipe.
    """
    if not isinstance(values, Mapping):
        nothing = "; put keys under it, or leave it out" if values is None else ""
        raise RecipeError(
            f"recipe: {where or 'the file'} must be a section of keys, not {kind(values)}{nothing}"
        )
    check_keys(cls, values, where)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        arguments[name] = _build_value(fields[name], hints[name], value, dotted(where, name))
    return cls(**arguments)


def check_keys(cls: type, values: Mapping[str, Any], where: str = "") -> None:
    """Refuse a key that the section `cls` does not have, with what it may have meant."""
    names = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in names:
            raise RecipeError(_unknown_key(name, where, names, values[name]))


def check_values(section: Any, where: str) -> None:
    """Refuse a section that was made with a value of the wrong type or out of range; `RecipeError` for the first."""
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        name = dotted(where, field.name)
        if dataclasses.is_dataclass(value):
            check_values(value, name)
        elif field.metadata["entry"] is None:
            _build_value(field, hints[field.name], value, name)
        else:
            for entry_name, entry in value.items():
                check_values(entry, dotted(name, entry_name))


def _unknown_key(name: Any, where: str, names: list[str], value: Any) -> str:
    from grpo.recipe import other_trainers  # noqa: PLC0415  a large table, wanted for a mistake alone

    whole = _innermost(dotted(where, name), value)
    theirs = other_trainers.advice(whole)
    if theirs:
        return f"recipe: unknown key {whole}{theirs}"
    advice = advice_on_key(str(name), names)
    return (
        f"recipe: unknown key {dotted(where, name)}"
        f"{advice or '; the keys there are ' + ', '.join(names)}"
    )


def _innermost(name: str, value: Any) -> str:
    """The dotted name of the first value in a section that does not exist, e.g. ``trainer.total_epochs``."""
    while isinstance(value, Mapping) and value:
        first = next(iter(value))
        name = dotted(name, first)
        value = value[first]
    return name


def advice_on_key(name: str, names: Sequence[str] = ()) -> str:
    """What an unknown key may have meant: another trainer's setting, one of `names`, or a key of another section."""
    from grpo.recipe import other_trainers  # noqa: PLC0415  a large table, wanted for a mistake alone

    return (
        other_trainers.advice(name)
        or nearest(name, names)
        or _in_other_sections(name)
        or other_trainers.advice_on_last_part(name)
    )


def _in_other_sections(name: str) -> str:
    """``; did you mean optim.lr?`` for a key that exists in another section, or nothing."""
    paths = [path for path, _, _ in describe_keys() if path.rpartition(".")[2] == name]
    return f"; did you mean {' or '.join(paths)}?" if paths else ""


def _build_value(field: dataclasses.Field[Any], hint: Any, value: Any, where: str) -> Any:
    """`value` as the field's type; `RecipeError` with what was found instead."""
    build_entries = field.metadata["build"]
    if build_entries is not None:
        return build_entries(value, where, build_section)
    options = options_of(hint)
    if value is None and type(None) in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option):
            return build_section(option, value, where)
    for option in options:
        if _fits(option, value):
            value = float(value) if option is float else value
            _check(field, value, where)
            return value
    allowed = " or ".join(KINDS[option] for option in options)
    raise RecipeError(
        f"recipe: {where} must be {allowed}, not {kind(value)}{_advice(options, value)}"
    )


def _check(field: dataclasses.Field[Any], value: Any, where: str) -> None:
    check = field.metadata["check"]
    problem = check.problem(value) if check else None
    if problem:
        raise RecipeError(f"recipe: {where} is {value!r}; it {problem}")


def _fits(option: type, value: Any) -> bool:
    if option is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, option)


def _advice(options: tuple[type, ...], value: Any) -> str:
    """How to write `value` so that it is what it seems to be meant as, or nothing."""
    if callable(value):
        return "; a recipe holds names: pass functions as Trainer(recipe, rewards=[...])"
    if isinstance(value, str):
        return _advice_on_text(options, value)
    if isinstance(value, float) and int in options and value.is_integer():
        return f"; write {int(value)}"
    return in_quotes(value) if str in options else ""


def _advice_on_text(options: tuple[type, ...], text: str) -> str:
    if (int in options or float in options) and _is_number(text):
        return "; write it without quotes"
    if bool in options and text.lower() in TRUE_IN_YAML_1_1:
        return "; write true"
    if bool in options and text.lower() in FALSE_IN_YAML_1_1:
        return "; write false"
    return ""


def _is_number(text: str) -> bool:
    if not re.fullmatch(r"[-+\w.]+", text):
        return False
    return type(parse_yaml(text, repr(text))) in (int, float)


# ---- and back -----------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """`value` with sections as dictionaries and sequences as lists, all new."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value
