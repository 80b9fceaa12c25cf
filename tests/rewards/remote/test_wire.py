"""What travels to a reward server and back is the same value, and only data."""

from __future__ import annotations

import datetime
import json
import math
import struct
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.remote.wire import (
    Unsendable,
    from_plain,
    plain_samples,
    plain_score,
    samples_from,
    score_from,
    to_plain,
)
from rewards.types import Sample, Score

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.dates()
    | st.times()
)
KEYS = st.text() | st.integers() | st.booleans() | st.tuples(st.text(), st.integers())
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.integers())
    ),
    max_leaves=12,
)


def there_and_back(value: object) -> object:
    return from_plain(json.loads(json.dumps(to_plain(value))))


def types_in(value: object) -> object:
    if isinstance(value, dict):
        return [(type(key), types_in(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [types_in(part) for part in value]
    return type(value)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_value_keeps_itself_and_its_types(value) -> None:
    back = there_and_back(value)
    assert back == value and types_in(back) == types_in(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1e308])
def test_a_float_keeps_its_bits(value) -> None:
    assert struct.pack("d", there_and_back(value)) == struct.pack("d", value)


@pytest.mark.parametrize(
    "value",
    [
        "\ud800 lone",
        "\x00\u2028",
        {"!tuple": [1]},
        {"!dict": 1, "a": 2},
        {"!x": {}},
        {},
        [],
        (),
        "",
    ],
)
def test_what_looks_like_the_format_itself_or_is_odd_stays_itself(value) -> None:
    assert there_and_back(value) == value


@pytest.mark.parametrize("value", [object(), Fraction(1, 3), print, 1j, datetime.timedelta(1)])
def test_what_is_no_plain_data_is_refused(value) -> None:
    with pytest.raises(Unsendable, match="is not plain data"):
        to_plain([value])


class Text(str):
    pass


def test_a_subclass_is_not_taken_for_what_it_derives_from() -> None:
    with pytest.raises(Unsendable, match="Text"):
        to_plain(Text("x"))


def test_samples_keep_every_field_and_share_what_they_have_in_common() -> None:
    tests = [{"input": "1" * 1000, "output": b"\xff"}]
    samples = [
        Sample(
            text=f"t{i}",
            columns={"answer": "x", "tests": tests, "num_tokens": i, "when": datetime.date.max},
            prompt="p",
            token_ids=[1, 2, i],
            group="g",
            finish="stop",
            turns=[{"text": "call", "status": "ok"}],
        )
        for i in range(3)
    ]
    body, refused = plain_samples(samples)
    text = json.dumps(body)
    assert text.count("1" * 1000) == 1
    assert refused == [{}, {}, {}]
    assert samples_from(json.loads(text)) == samples


def test_a_column_that_cannot_travel_is_left_out_and_named() -> None:
    samples = [Sample("a", columns={"odd": object(), "fine": 1}), Sample("b", columns={"fine": 2})]
    body, refused = plain_samples(samples)
    assert list(refused[0]) == ["odd"] and refused[1] == {}
    assert [sample.columns for sample in samples_from(body)] == [{"fine": 1}, {"fine": 2}]


@pytest.mark.parametrize(
    "score",
    [
        Score(0.1, parts={"a": None, "b": 1 / 3}, detail="why", extracted="\\frac{1}{2}"),
        Score(None, status="fault", detail="x"),
        Score(0.0, status="timeout"),
    ],
)
def test_a_score_stays_the_same(score) -> None:
    assert score_from(json.loads(json.dumps(plain_score(score)))) == score


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"samples": []},
        {"shared": {}, "samples": [{"text": 3}]},
        {"shared": 3, "samples": []},
        {"shared": {}, "samples": [3]},
        {"shared": {"a": {"!decimal": "x"}}, "samples": []},
        {"shared": {"a": {"!bytes": 3}}, "samples": []},
        {"shared": {"a": {"!set": [[]]}}, "samples": []},
    ],
)
def test_what_are_no_samples_is_a_value_error(body) -> None:
    with pytest.raises(ValueError):
        samples_from(body)


def test_a_whole_number_of_any_size_travels() -> None:
    for value in (10**6000, -(10**6000), 2**10_000, -(2**9_999)):
        assert there_and_back(value) == value


def test_decimal_is_exact() -> None:
    assert there_and_back(Decimal("1.10")).as_tuple() == Decimal("1.10").as_tuple()
