"""Type hints of a tool's parameters: as JSON schema for chat templates, and as what a written argument must become."""

from __future__ import annotations

import collections.abc
import enum
import json
import math
import types
import typing
from typing import Any, Literal, Mapping, Sequence, Union

__all__ = ["Unfit", "convert", "schema_of"]

Schema = dict[str, Any]

_NAMES: Mapping[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
    list: "array",
    tuple: "array",
    dict: "object",
}
_ARTICLES: Mapping[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}
_TRUTHS = {"true": True, "false": False}
_MET_BY: Mapping[Any, Any] = {
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}
"""What kinds of list and object are made of."""


class Unfit(Exception):
    """An argument that cannot become what its parameter takes; says what was expected, in words for the policy."""


# ----------------------------------------------------------------------------------------- schema


def schema_of(hint: Any) -> Schema:
    """The JSON schema of a hint, as chat templates know it; `TypeError` for a hint that no JSON can meet."""
    hint = plain(hint)
    origin, args = _parts(hint)
    if hint is Any:
        return {}
    if origin is None and hint in _NAMES:
        return {"type": _NAMES[hint]}
    if origin is Literal:
        return _schema_of_choices(args)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _schema_of_choices([member.value for member in hint])
    if _is_union(origin):
        return _schema_of_union(args)
    if origin is list:
        return {"type": "array", "items": schema_of(args[0])}
    if origin is tuple:
        return {"type": "array", "prefixItems": [schema_of(arg) for arg in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(args[1])}
    raise TypeError(f"{_name_of(hint)} cannot be written as JSON")


def plain(hint: Any) -> Any:
    """A hint without what says nothing to a policy: the name of a `NewType`, kinds of list and object, a bare ``List``.

    >>> plain(typing.NewType("Id", int)), plain(Sequence[int]), plain(typing.List), plain(tuple[int, ...])
    (<class 'int'>, list[int], <class 'list'>, list[int])
    """
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    origin, args = _parts(hint)
    base = _MET_BY.get(origin or hint) if _is_hashable(hint) else None
    if base is not None:
        return base[args] if args else base
    if origin is tuple and args[1:] == (Ellipsis,):
        return list[args[0]]
    return origin if origin in (list, tuple, dict) and not args else hint


def _is_hashable(hint: Any) -> bool:
    try:
        hash(hint)
    except TypeError:
        return False
    return True


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _schema_of_choices(values: Sequence[Any]) -> Schema:
    for value in values:
        if type(value) not in _NAMES:
            raise TypeError(f"{value!r} is no text, number or truth value")
    names = list(dict.fromkeys(_NAMES[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": list(values)}


def _schema_of_union(args: Sequence[Any]) -> Schema:
    parts = [schema_of(arg) for arg in args if arg is not type(None)]
    if len(parts) == 1:
        schema = parts[0]
    elif all(part.keys() == {"type"} for part in parts):
        names = sorted({part["type"] for part in parts})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": parts}
    return {**schema, "nullable": True} if type(None) in args else schema


def _is_union(origin: Any) -> bool:
    return origin is Union or origin is types.UnionType


def _name_of(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)


# ------------------------------------------------------------------------------------- conversion


def convert(value: Any, hint: Any) -> Any:
    """A written argument as the hint wants it; raises `Unfit`.

    Text that reads as the number, truth value, list or object that is wanted becomes it (formats without types write
    every argument as text), a whole number with a point becomes an integer, and a number becomes a text.
    >>> convert("3", int), convert(3.0, int), convert(7, str), convert("[1, 2]", list[int])
    (3, 3, '7', [1, 2])
    """
    is_tuple = (typing.get_origin(hint) or hint) is tuple
    hint = plain(hint)
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if is_tuple and (origin or hint) is list:
        return tuple(convert(value, hint))
    if origin is Literal:
        return _choice(value, typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(_choice(value, [member.value for member in hint]))
    if _is_union(origin):
        return _one_of(value, typing.get_args(hint))
    base = origin or hint
    if base in (list, tuple, dict):
        return _held(_read_json(value, base), base, typing.get_args(hint))
    return _SCALARS[base](value)


def _unfit(value: Any, expected: str) -> Unfit:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return Unfit(f"expected {expected}, found {shown}")


def _choice(value: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    for choice in choices:
        if isinstance(value, str) and str(choice) == value:
            return choice
    raise _unfit(value, "one of " + ", ".join(str(choice) for choice in choices))


def _one_of(value: Any, hints: Sequence[Any]) -> Any:
    """By the member that the value already fits, else by the first that it can become."""
    exact = [hint for hint in hints if _is_already(value, hint)]
    for hint in (*exact, *hints):
        try:
            return convert(value, hint)
        except Unfit:
            continue
    names = [_ARTICLES.get(typing.get_origin(hint) or hint, _name_of(hint)) for hint in hints]
    raise _unfit(value, " or ".join(names))


def _is_already(value: Any, hint: Any) -> bool:
    return type(value) is (typing.get_origin(hint) or hint)


def _integer(value: Any) -> int:
    number = value
    if isinstance(value, str):
        try:
            number = int(value.strip())
        except ValueError:
            number = _number_in(value)
    if isinstance(number, float) and number.is_integer():
        return int(number)
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise _unfit(value, _ARTICLES[int])


def _number(value: Any) -> float:
    number = _number_in(value) if isinstance(value, str) else value
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        try:
            return float(number)
        except OverflowError:
            pass
    raise _unfit(value, _ARTICLES[float])


def _number_in(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return json.dumps(value)
    raise _unfit(value, _ARTICLES[str])


def _truth(value: Any) -> bool:
    read = _TRUTHS.get(value.strip().lower()) if isinstance(value, str) else value
    if isinstance(read, bool):
        return read
    raise _unfit(value, _ARTICLES[bool])


def _nothing(value: Any) -> None:
    if value is not None and value != "null":
        raise _unfit(value, _ARTICLES[type(None)])


_SCALARS: Mapping[Any, Any] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: _truth,
    type(None): _nothing,
}


def _read_json(value: Any, base: Any) -> Any:
    """The list or object itself, also where it is written as text."""
    read = value
    if isinstance(value, str):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            raise _unfit(value, _ARTICLES[base]) from None
    if isinstance(read, dict) == (base is dict) and isinstance(read, (list, dict)):
        return read
    raise _unfit(value, _ARTICLES[base])


def _held(read: Any, base: Any, hints: Sequence[Any]) -> Any:
    """What a list or object holds, each by its own hint."""
    if not hints:
        return tuple(read) if base is tuple else read
    if base is dict:
        return {convert(key, hints[0]): convert(item, hints[1]) for key, item in read.items()}
    if base is list:
        return [convert(item, hints[0]) for item in read]
    if len(read) != len(hints):
        raise _unfit(read, f"{len(hints)} values")
    return tuple(convert(item, hint) for item, hint in zip(read, hints))
