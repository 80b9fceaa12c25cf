"""From flat settings to a recipe and a report: one key after the other by the table, what belongs together by trainer.

The other trainer's defaults are part of its configuration: where they differ from ours the recipe states them, so that
it describes the same run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from grpo.convert import trl, verl
from grpo.convert.functions import module_of
from grpo.convert.settings import Source, guess_trainer, read_settings
from grpo.convert.values import Draft, names_of, with_defaults
from grpo.recipe import Recipe, RecipeError, describe_keys, other_trainers, to_yaml
from grpo.recipe.build import merge
from grpo.recipe.files import parse_override, resolve_paths
from grpo.recipe.other_trainers import PRODUCTS, UNSET, Setting
from rewards.spelling import nearest

WORK_OUT = {"trl": trl.work_out, "verl": verl.work_out}
ON_BY_DEFAULT = ("lora_dropout",)
"""Settings of adapters without a counterpart whose default does something."""
ORDER = tuple(dict.fromkeys(name.split(".")[0] for name, _, _ in describe_keys()))


@dataclass(frozen=True, slots=True)
class Converted:
    """A recipe as nested values and as YAML, and what became of each setting, in lines."""

    values: Mapping[str, Any]
    yaml: str
    report: Sequence[str]


def convert_file(
    file: Path, trainer: str | None, overrides: Sequence[str] = (), out: Path | None = None
) -> Converted:
    """The recipe of a configuration file, with `overrides`; written to `out` if that is given.

    `trainer` is trl or verl, by default seen by the settings' names. `RecipeError` for a file that is neither.
    """
    source = read_settings(file)
    trainer = trainer or guess_trainer(source, file)
    values, draft = _values(source, trainer, overrides)
    if source.functions:
        values = _with_functions(values, draft, source, out)
    if out is not None and out.absolute().parent != Path.cwd():
        values = resolve_paths(dict(values), Path.cwd())
    converted = _finished(values, draft, source, str(file))
    if out is not None:
        _write(out, converted.yaml)
    return converted


def _with_functions(
    values: dict[str, Any], draft: Draft, source: Source, out: Path | None
) -> dict[str, Any]:
    """`values` with the script's own rewards taken from a module beside `out`, which is written."""
    assert source.file is not None, "only a script has functions"
    names = ", ".join(sorted(source.functions))
    if out is None:
        draft.to_do.append(
            f"move {names} from {source.file} to a file of its own, since a reward's file is imported in every "
            "worker, and name that in rewards; with --out it is written for you"
        )
        return values
    file = out.with_name(f"{out.stem}_rewards.py")
    text = source.file.read_text(encoding="utf-8")
    _write(file, module_of(text, source.functions, source.file.name))
    draft.notes.append(f"{names} of {source.file} are copied to {file}")
    rewards = {
        name: {**part, "use": str(part["use"]).replace(f"{source.file}:", f"{file}:")}
        for name, part in values["rewards"].items()
    }
    for name, part in rewards.items():
        draft.values[f"rewards.{name}.use"] = part["use"]
    return {**values, "rewards": rewards}


def convert(settings: Mapping[str, Any], trainer: str, overrides: Sequence[str] = ()) -> Converted:
    """The recipe of settings by their (dotted) names, e.g. ``GRPOConfig(...).to_dict()``."""
    source = Source(dict(settings), [])
    values, draft = _values(source, trainer, overrides)
    return _finished(values, draft, source, PRODUCTS[trainer])


def _write(out: Path, text: str) -> None:
    if out.exists():
        raise RecipeError(f"convert: {out} exists; name another file, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"convert: {out} cannot be written: {error.strerror}") from None


# ---- the recipe ----------------------------------------------------------------------------------------------


def _values(source: Source, trainer: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Draft]:
    draft = Draft(
        trainer,
        given=source.settings,
        full=with_defaults(trainer, source.settings),
        columns=source.columns,
    )
    WORK_OUT[trainer](draft)
    for name, value in draft.full.items():
        row = other_trainers.find(trainer, name)
        if row is not None and name not in draft.used:
            _take(draft, row, name, value)
    nested: dict[str, Any] = {}
    for key, value in draft.values.items():
        nested = merge(nested, _nested(key, value))
    nested = _without_our_defaults(nested)
    for override in overrides:
        change = parse_override(override)
        nested = merge(nested, change, empties=True)
    return _ordered(nested), draft


def _take(draft: Draft, row: Setting, name: str, value: Any) -> None:
    """What the table says of one setting."""
    if row.fate == "same":
        _take_same(draft, row, name, value)
    elif row.fate == "not here" and name in draft.given and _is_lost(draft, row, name, value):
        draft.lose(name, row.note)


def _take_same(draft: Draft, row: Setting, name: str, value: Any) -> None:
    if not row.values or not _is_in(value, row.values):
        if row.values and not _is_number(value):
            draft.lose(
                name,
                f"{row.ours} has no {value}; it takes {names_of(map(str, row.values.values()))}",
            )
            return
        new = value
    else:
        new = row.values[value]
    if new is not None:
        draft.set(row.ours, new, name)
    else:
        draft.settle(name)


def _is_in(value: Any, values: Mapping[Any, Any]) -> bool:
    try:
        return value in values
    except TypeError:  # a list or a mapping
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, dot, rest = key.partition(".")
    return {first: _nested(rest, value) if dot else value}


def _without_our_defaults(nested: dict[str, Any]) -> dict[str, Any]:
    """`nested` without what holds anyway, but for the keys that a reader looks for first."""
    defaults = {name: default for name, default, _ in describe_keys()}
    kept = (
        "optim.lr",
        "sample.prompts",
        "sample.group_size",
        "sample.max_tokens",
        "loss.preset",
        "steps",
    )

    def pruned(values: Mapping[str, Any], where: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in values.items():
            key = f"{where}.{name}" if where else name
            if isinstance(value, dict) and where != "rewards" and key not in defaults:
                result[name] = pruned(value, key)
            elif key in kept or key not in defaults or defaults[key] != value:
                result[name] = value
        return {name: value for name, value in result.items() if value != {} or name == "wandb"}

    return pruned(nested, "")


def _ordered(nested: Mapping[str, Any]) -> dict[str, Any]:
    """The sections in the order in which they are documented."""
    return {name: nested[name] for name in sorted(nested, key=_place)}


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


# ---- the report ----------------------------------------------------------------------------------------------


def _finished(values: dict[str, Any], draft: Draft, source: Source, where: str) -> Converted:
    report = list(_report(values, draft, source))
    head = [f"# Converted from {where}.", *(f"# {line}" for line in report if line), ""]
    return Converted(values, "\n".join(head) + to_yaml(values), report)


def _is_lost(draft: Draft, row: Setting, name: str, value: Any) -> bool:
    """Whether a setting without a counterpart does something there; so it does at some defaults, with adapters."""
    is_on = name in ON_BY_DEFAULT and bool(value) and draft.full.get("use_peft") is not False
    return bool(value != row.default or is_on)


def _report(values: dict[str, Any], draft: Draft, source: Source) -> Iterator[str]:
    whose = PRODUCTS[draft.trainer]
    yield from _section("taken over", _taken(values, draft, given=True))
    yield from _section(f"{whose}'s defaults that are not ours", _taken(values, draft, given=False))
    yield from _section("without a counterpart, so left out", _pairs(draft.lost))
    yield from _section("needed no key", _needless(draft))
    yield from _section(f"UNKNOWN, so left out: not settings of {whose}", _unknown(draft))
    yield from _section("could not be read", source.notes)
    yield from _section("written", draft.notes)
    yield from _section("TO DO", [*draft.to_do, *_missing(values)])


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        yield f"{title}:"
        yield from (f"  {line}" for line in lines)


def _pairs(reasons: Mapping[str, str]) -> Iterator[str]:
    for name, why in reasons.items():
        yield f"{name}: {why}"


def _taken(values: Mapping[str, Any], draft: Draft, *, given: bool) -> Iterator[str]:
    for key, origin in draft.origin.items():
        names = origin.split(" and ")
        if any(name in draft.given for name in names) != given:
            continue
        value = _lookup(values, key)
        if value is UNSET:
            if given:
                yield f"{origin} -> {key}, which is {_shown(draft.values[key])} anyway"
        else:
            yield f"{origin} -> {key}: {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return to_yaml({"x": value}).removeprefix("x:").strip().replace("\n", " ")


def _lookup(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for name in key.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return UNSET
        found = found[name]
    return found


def _needless(draft: Draft) -> Iterator[str]:
    told = {name for origin in draft.origin.values() for name in origin.split(" and ")}
    by_reason: dict[str, list[str]] = {}
    for name in draft.given:
        row = other_trainers.find(draft.trainer, name)
        if row is None or name in told or name in draft.lost:
            continue
        unread = "it is at its default, or not read beside the others"
        why = row.note if row.fate == "none needed" else unread
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        yield f"{', '.join(names)}: {why}"


def _unknown(draft: Draft) -> Iterator[str]:
    known = [row.name for row in other_trainers.TABLE[draft.trainer]]
    for name in draft.given:
        if other_trainers.find(draft.trainer, name) is None and not name.endswith("_target_"):
            yield f"{name}{nearest(name, known)}"


def _missing(values: dict[str, Any]) -> Iterator[str]:
    """What the recipe still lacks, or is refused for."""
    for key, example in (
        ("model.name", "a hub id or a folder"),
        ("data.source", "a hub id or a file"),
    ):
        several = _lookup(values, f"{key}s")
        if _lookup(values, key) is UNSET and several is UNSET:
            yield f"set {key}: {example}"
    if not values.get("rewards"):
        yield "name a reward, e.g. rewards: {correct: {use: math_answer}}"
    try:
        Recipe.from_mapping(values)
    except RecipeError as error:
        yield f"the recipe is refused as it is: {error}"
