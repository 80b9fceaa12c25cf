"""Functions as tools: the schema that a chat template takes, and what becomes of written arguments."""

from __future__ import annotations

import asyncio
import enum
import functools
from types import SimpleNamespace
from typing import Any, Dict, Iterable, List, Literal, Mapping, NewType, Optional, Sequence, Union

import light_tools
import pytest

from rewards.environments import Call, example_call
from rewards.environments.calculator import calculator
from rewards.environments.tools import methods_as_tools, tool_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def everything(
    count: int,
    share: float,
    name: str,
    is_on: bool,
    items: list[int],
    pair: tuple[int, str],
    table: dict[str, float],
    colour: Colour,
    level: Literal[1, 2, "high"],
    maybe: Optional[int] = None,  # noqa: UP045
    either: Union[int, str] = 0,  # noqa: UP007
    lists: list[list[str]] | None = None,
    anything: Any = None,
    bare: dict = {},  # noqa: B006
) -> list[str]:
    """Takes everything.

    And says so in a second paragraph.

    Args:
        count: How many
        share: A part
            of the whole
        name: A name: any (choices: ["a", "b"])
        is_on: On
        items: Some
        pair: Two
        table: A table
        colour: A colour
        level: A level
        maybe: Perhaps
        either: This or that
        lists: Lists of lists
        anything: Whatever
        bare: An object

    Returns:
        Nothing of use

    Raises:
        ValueError: never
    """
    return []


def method_like(first: int) -> None:
    """Does nothing.

    Args:
        first: A number
    """


@pytest.mark.parametrize(
    "function",
    [
        everything,
        method_like,
        calculator,
        *map(light_tools.__dict__.get, ["add", "search", "wait", "no_text"]),
    ],
    ids=lambda function: function.__name__,
)
def test_schemas_are_those_of_transformers(function):
    utils = pytest.importorskip("transformers.utils")
    assert tool_of(function).schema == utils.get_json_schema(function)


def typed_in_words(share: float) -> None:
    """A tool.

    Args:
        share (float): A part
    """


def test_a_type_in_the_docstring_is_left_out_of_the_description():
    properties = tool_of(typed_in_words).schema["function"]["parameters"]["properties"]
    assert properties == {"share": {"type": "number", "description": "A part"}}


def test_methods_are_tools_but_for_reset_and_private_ones():
    schemas = [
        tool.schema["function"] for tool in methods_as_tools(light_tools.Basket, ("get_reward",))
    ]
    assert [schema["name"] for schema in schemas] == ["look", "put"]
    assert "self" not in schemas[1]["parameters"]["properties"]


NEEDED = {
    "count": 1, "share": 0.5, "name": "n", "is_on": True, "items": [], "pair": [1, "a"], "table": {}, "colour": "red",
    "level": 1,
}  # fmt: skip


def converted(**arguments):
    (name,) = arguments
    return tool_of(everything).arguments({**NEEDED, **arguments})[name]


def test_arguments_become_what_the_hints_say():
    assert converted(count="7") == 7 and type(converted(count=7.0)) is int
    assert converted(count="12345678901234567890") == 12345678901234567890
    assert converted(share="1e3") == 1000.0 and type(converted(share=2)) is float
    assert converted(name=5) == "5"
    assert converted(is_on="False") is False
    assert converted(items='[1, "2"]') == [1, 2]
    assert converted(pair=["3", "x"]) == (3, "x")
    assert converted(table={"a": 1}) == {"a": 1.0}
    assert converted(colour="blue") is Colour.BLUE
    assert converted(level="2") == 2 and converted(level="high") == "high"
    assert converted(either="12") == "12" and converted(either=12) == 12
    assert converted(maybe="4") == 4
    assert converted(anything={"x": [1]}) == {"x": [1]}


def test_a_null_where_there_is_a_default_means_the_default():
    tool = tool_of(light_tools.search)
    assert tool.arguments({"query": "q", "kind": None, "limit": None}) == {
        "query": "q",
        "limit": None,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"count": "7.5"}, "count: expected an integer, found \"7.5\""),
        ({"count": True}, "count: expected an integer"),
        ({"count": None}, "count: expected an integer, found null"),
        ({"share": "nan"}, "share: expected a number"),
        ({"is_on": "yes"}, "is_on: expected true or false"),
        ({"items": "1, 2"}, "items: expected a list"),
        ({"pair": [1]}, "pair: expected 2 values"),
        ({"table": [1]}, "table: expected an object"),
        ({"colour": "green"}, "colour: expected one of red, blue"),
        ({"nmae": "x"}, "has no argument nmae; did you mean name?"),
        ({"name": {"a": 1}}, "name: expected a text"),
        ({"items": "[" * 100_000}, "items: expected a list"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_told_to_the_policy(arguments, said):
    tool = tool_of(everything)
    result = asyncio.run(tool.call({**NEEDED, **arguments}))
    assert result.status == "error"
    assert result.text.startswith("Error: ")
    assert said in result.text


def test_a_text_is_the_only_argument_or_the_first():
    assert asyncio.run(tool_of(light_tools.add).call("4")).text == "5"


def test_a_call_without_a_needed_argument_says_which():
    assert "add needs the argument a" in asyncio.run(tool_of(light_tools.add).call({"b": 1})).text


@pytest.mark.parametrize("function", [everything, light_tools.search, calculator])
def test_a_made_up_call_fits_the_schema(function):
    tool = tool_of(function)
    call = example_call(tool.schema)
    assert isinstance(call, Call)
    assert tool.arguments(call.arguments)


def no_docstring(a: int) -> int:
    return a


def no_hint(a) -> int:
    """A tool."""
    return a


def starred(*numbers: int) -> int:
    """A tool."""
    return 0


def odd_hint(a: set[int]) -> int:
    """A tool."""
    return 0


def yields(a: int):
    """A tool."""
    yield a


class Shop:
    """A shop."""

    def price(self, name: str) -> str:
        """Says the price.

        Args:
            name: Of what
        """
        return f"{name} is dear"


class Asked:
    def __call__(self, name: str) -> str:
        """Asks."""
        return name


WRAPPED = SimpleNamespace(name="price", description="Says it.", func=print)
SCHEMA = {"type": "function", "function": {"name": "price"}}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_docstring, "no docstring"),
        (no_hint, "parameter a has no type hint"),
        (starred, "cannot be given by name"),
        (odd_hint, "parameter a: set"),
        (light_tools.Counter, "it is a class"),
        (yields, "tool yields: it yields; return what the policy is to read"),
        (Shop.price, r"without its object; pass that of an object, e.g. Shop\(\).price"),
        (WRAPPED, "SimpleNamespace, an object around a function; pass the function itself"),
        (SCHEMA, "dict: that is a schema, which is made from the function"),
        (3, "expected a function or the name of one, found int 3"),
    ],
)
def test_what_cannot_be_shown_to_a_policy_is_refused_in_a_sentence(function, said):
    with pytest.raises(ValueError, match=said):
        tool_of(function)


@pytest.mark.parametrize(
    "function",
    [Shop().price, functools.partial(Shop.price, Shop()), Asked()],
    ids=["method", "partial", "object"],
)
def test_what_is_called_like_a_function_is_a_tool(function):
    tool = tool_of(function, "price")
    assert tool.schema["function"]["description"] in ("Says the price.", "Asks.")
    assert "milk" in asyncio.run(tool.call({"name": "milk"})).text


Id = NewType("Id", int)


def kinds(
    one: Sequence[int],
    two: Iterable[str],
    three: Mapping[str, float],
    four: tuple[int, ...],
    five: Id,
    six: List,  # noqa: UP006
    seven: Dict,  # noqa: UP006
) -> str:
    """Takes kinds of lists and objects."""
    return repr([one, two, three, four, five, six, seven])


def test_kinds_of_lists_and_objects_are_lists_and_objects():
    tool = tool_of(kinds)
    found = list(tool.schema["function"]["parameters"]["properties"].values())
    whole = {"type": "integer"}
    assert found == [
        {"type": "array", "items": whole},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"type": "array", "items": whole},
        whole,
        {"type": "array"},
        {"type": "object"},
    ]
    given = ["[1]", ["a"], {"a": 1}, ["1", 2], "7", [None], {"b": 1}]
    result = asyncio.run(tool.call(dict(zip(tool.hints, given))))
    assert result.text == "[[1], ['a'], {'a': 1.0}, (1, 2), 7, [None], {'b': 1}]"
    assert "one: expected an integer" in asyncio.run(tool.call({**NONE, "one": ["x"]})).text


NONE: dict[str, Any] = dict.fromkeys(("two", "four", "six"), []) | {
    "three": {},
    "five": 1,
    "seven": {},
}
