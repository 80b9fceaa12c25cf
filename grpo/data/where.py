"""Which rows a recipe's ``where`` keeps: a value, a list of values, or a comparison, for each column it names."""

from __future__ import annotations

import math
import operator
import re
from typing import Any, Callable, Mapping, Sequence

from grpo.recipe import RecipeError
from rewards.paths import MISSING, NotStructured, reach
from rewards.spelling import many

Test = Callable[[Any], bool]
ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
COMPARISON = re.compile(r"(>=|<=|!=|==|>|<)\s*(.*)", re.DOTALL)


def matching(
    rows: Sequence[dict[str, Any]], where: Mapping[str, Any], source: str
) -> list[dict[str, Any]]:
    """The rows that match all of `where`, in their order; a row without such a column, or path, does not match.

    Raises `RecipeError` if no row has a column that it names, or none matches.
    """
    tests = {column: _test(column, wanted) for column, wanted in where.items()}
    for column in tests:
        if all(_reached(row, column) is MISSING for row in rows):
            raise RecipeError(
                f"recipe: data.where names the column {column}, but {source} has "
                f"{', '.join(map(str, rows[0]))}"
            )

    def matches(row: dict[str, Any]) -> bool:
        return all(test(_reached(row, column)) for column, test in tests.items())

    kept = list(filter(matches, rows))
    if rows and not kept:
        raise RecipeError(
            f"data: none of the {many(len(rows), 'row')} of {source} matches {dict(where)}"
        )
    return kept


def _reached(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or at the end of a dotted path; `MISSING` if it leads nowhere."""
    try:
        return reach(row, column)
    except NotStructured:
        return MISSING


def _test(column: str, wanted: Any) -> Test:
    if isinstance(wanted, (list, tuple)):
        return lambda value: any(_is_equal(value, one) for one in wanted)
    comparison = COMPARISON.fullmatch(wanted) if isinstance(wanted, str) else None
    if comparison is None:
        return lambda value: _is_equal(value, wanted)
    sign, text = comparison.groups()
    if sign in ("==", "!="):
        wants_equal = sign == "=="
        return lambda value: value is not MISSING and _is_equal(value, text) == wants_equal
    limit = _number(text)
    if limit is None:
        raise RecipeError(
            f"recipe: data.where.{column} is {wanted!r}, but {text!r} is not a number to compare with"
        )
    return lambda value: _is_ordered(value, limit, ORDERS[sign])


def _is_ordered(value: Any, limit: float, order: Callable[[float, float], bool]) -> bool:
    number = _number(value)
    return number is not None and order(number, limit)


def _is_equal(value: Any, wanted: Any) -> bool:
    """Equal values, or equal as text where one of them is text: ``5`` and ``"5"``, ``true`` and ``"True"``."""
    if value is MISSING:
        return False
    if isinstance(value, str) != isinstance(wanted, str):
        return str(value).casefold() == str(wanted).casefold()
    return (
        type(value) is type(wanted) and bool(value == wanted) or _are_equal_numbers(value, wanted)
    )


def _are_equal_numbers(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return False
    return isinstance(value, (int, float)) and isinstance(wanted, (int, float)) and value == wanted


def _number(value: Any) -> float | None:
    """`value` as a number, also one written as text; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number
