"""Samples and scores as JSON and back, exactly: values keep their types, floats their bits, texts every character.

Only data: nothing that is read names code or a class. JSON's own values stand for themselves; others are an object with
one key that begins with ``!``.
"""

from __future__ import annotations

import base64
import datetime
from decimal import Decimal
from typing import Any, Callable, Mapping, Sequence

from rewards.types import Sample, Score

__all__ = ["Unsendable", "from_plain", "score_from", "samples_from", "to_plain"]

LARGE_BITS = 10_000
"""Whole numbers of more bits travel in hexadecimal; decimal ones of that size are refused by Python."""
FIELDS = ("text", "prompt", "token_ids", "group", "finish", "turns")


class Unsendable(ValueError):
    """A value that is no plain data."""


# ---- values -------------------------------------------------------------------------------------------------------


def to_plain(value: Any) -> Any:
    """What `json.dumps` takes for `value`; `Unsendable` for what is no plain data.

    >>> to_plain({"a": (1, b"x")})
    {'a': {'!tuple': [1, {'!bytes': 'eA=='}]}}
    """
    kind = type(value)
    if kind is int and value.bit_length() > LARGE_BITS:
        return {"!int": hex(value)}
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [to_plain(part) for part in value]
    if kind is dict:
        return _plain_dict(value)
    if kind not in _WRITERS:
        raise Unsendable(f"a {kind.__module__}.{kind.__qualname__} is not plain data")
    name, write = _WRITERS[kind]
    return {name: write(value)}


def _plain_dict(value: Mapping[Any, Any]) -> Any:
    if all(type(key) is str and not key.startswith("!") for key in value):
        return {key: to_plain(part) for key, part in value.items()}
    return {"!dict": [[to_plain(key), to_plain(part)] for key, part in value.items()]}


def _plain_parts(value: Any) -> list[Any]:
    return [to_plain(part) for part in value]


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_WRITERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    tuple: ("!tuple", _plain_parts),
    set: ("!set", _plain_parts),
    frozenset: ("!frozenset", _plain_parts),
    bytes: ("!bytes", _base64),
    Decimal: ("!decimal", str),
    datetime.datetime: ("!datetime", datetime.datetime.isoformat),
    datetime.date: ("!date", datetime.date.isoformat),
    datetime.time: ("!time", datetime.time.isoformat),
}


def from_plain(value: Any) -> Any:
    """The value that `to_plain` was given.

    >>> from_plain(to_plain({"a": (1, b"x"), 2: {3}}))
    {'a': (1, b'x'), 2: {3}}
    """
    if isinstance(value, list):
        return [from_plain(part) for part in value]
    if not isinstance(value, dict):
        return value
    name = next(iter(value), "")
    if len(value) == 1 and name in _READERS:
        return _READERS[name](value[name])
    return {key: from_plain(part) for key, part in value.items()}


def _hexadecimal(text: str) -> int:
    return int(text, 16)


def _dict(parts: Sequence[Any]) -> dict[Any, Any]:
    return {from_plain(key): from_plain(part) for key, part in parts}


def _collection(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda parts: kind(from_plain(part) for part in parts)


_READERS: dict[str, Callable[[Any], Any]] = {
    "!int": _hexadecimal,
    "!dict": _dict,
    "!tuple": _collection(tuple),
    "!set": _collection(set),
    "!frozenset": _collection(frozenset),
    "!bytes": base64.b64decode,
    "!decimal": Decimal,
    "!datetime": datetime.datetime.fromisoformat,
    "!date": datetime.date.fromisoformat,
    "!time": datetime.time.fromisoformat,
}


# ---- samples ------------------------------------------------------------------------------------------------------


def plain_samples(
    samples: Sequence[Sample],
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """(the samples as one JSON value, for each sample the columns that cannot travel with the reason).

    Columns that all samples have in common, as those of a group, travel once.
    """
    shared, unsendable = _plain_columns(_common(samples))
    refused = [dict(unsendable) for _ in samples]
    bodies = []
    for sample, own_refused in zip(samples, refused):
        own = {
            name: value
            for name, value in sample.columns.items()
            if name not in shared and name not in unsendable
        }
        columns, problems = _plain_columns(own)
        own_refused.update(problems)
        bodies.append({**_plain_fields(sample), "columns": columns})
    return {"shared": shared, "samples": bodies}, refused


def _common(samples: Sequence[Sample]) -> dict[str, Any]:
    """The columns that are one and the same object in every sample."""
    first = samples[0].columns if samples else {}
    return {name: value for name, value in first.items() if _is_common(samples, name, value)}


def _is_common(samples: Sequence[Sample], name: str, value: Any) -> bool:
    return all(name in sample.columns and sample.columns[name] is value for sample in samples)


def _plain_columns(columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    plain: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in columns.items():
        try:
            plain[name] = to_plain(value)
        except (Unsendable, RecursionError) as error:
            problems[name] = str(error)
    return plain, problems


def _plain_fields(sample: Sample) -> dict[str, Any]:
    values = {name: getattr(sample, name) for name in FIELDS}
    values["token_ids"] = [int(token) for token in sample.token_ids]
    values["turns"] = [to_plain(dict(turn)) for turn in sample.turns]
    return values


def samples_from(body: Mapping[str, Any]) -> list[Sample]:
    """The samples that `plain_samples` was given, but for the columns that cannot travel; `ValueError` for others."""
    try:
        shared = from_plain_columns(body["shared"])
        return [_sample_from(values, shared) for values in body["samples"]]
    except (KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not samples: {type(error).__name__}: {error}") from None


def from_plain_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): from_plain(value) for name, value in columns.items()}


def _sample_from(values: Mapping[str, Any], shared: Mapping[str, Any]) -> Sample:
    fields = {name: values[name] for name in FIELDS}
    if not isinstance(fields["text"], str):
        raise TypeError("text is no string")
    fields["turns"] = [from_plain(turn) for turn in fields["turns"]]
    return Sample(**fields, columns={**shared, **from_plain_columns(values["columns"])})


# ---- scores -------------------------------------------------------------------------------------------------------


def plain_score(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "parts": to_plain(dict(score.parts)),
        "status": score.status,
        "detail": score.detail,
        "extracted": score.extracted,
    }


def score_from(values: Mapping[str, Any]) -> Score:
    """The score that `plain_score` was given."""
    return Score(
        value=values["value"],
        parts=from_plain(values["parts"]),
        status=values["status"],
        detail=values["detail"],
        extracted=values["extracted"],
    )
