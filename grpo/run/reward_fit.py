"""Whether rewards fit the rows they score, their columns and golds, found out before a model loads."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import rewards
from grpo.data.columns import likely_column
from grpo.monitor.gate_table import GATES
from grpo.recipe import RecipeError
from grpo.scoring import ADDED_COLUMNS
from rewards import RewardSpec
from rewards.gold import is_missing, num_answers
from rewards.programs.formats import HOLD_TESTS
from rewards.service.service import applies, column_value
from rewards.spelling import agree, many

READS_ANSWER = ("math_answer", "arithmetic", "knights_and_knaves")
"""Built-in rewards that cannot judge a row without a gold in the column answer."""


def check_columns(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a reward that cannot be found, or wants a column that a row it scores lacks or leaves empty."""
    for spec in specs:
        for column in spec.when:
            if not any(column in row or column_value(column, row) is not None for row in rows):
                raise RecipeError(
                    f"recipe: rewards.{spec.name}.when names the column {column}, but the data set has "
                    f"{', '.join(rows[0])}"
                )
        try:
            _check_kinds_of_rows(spec, rows)
        except RecipeError:
            raise
        except ValueError as error:
            raise RecipeError(f"recipe: rewards.{spec.name}: {error}") from None
    _check_tests(specs, rows)
    check_golds(specs, rows)


def _check_tests(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse programs to be tested by rows that hold no tests."""
    for spec in specs:
        if spec.use != "code_tests" or not HOLD_TESTS.isdisjoint(spec.args):
            continue
        kinds = _kinds_of_rows(rows, spec.when)
        if kinds and all(map(HOLD_TESTS.isdisjoint, kinds)):
            columns, number = next(iter(kinds.items()))
            raise RecipeError(
                f"recipe: rewards.{spec.name} needs tests, but row {number} of the data set has {', '.join(columns)}; "
                "name the column that holds them with data.columns, as in {tests: COLUMN}, or take another data set"
            )


def _check_kinds_of_rows(spec: RewardSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    function = rewards.load(spec.use)
    for columns, number in _kinds_of_rows(rows, spec.when).items():
        known = [*columns, *ADDED_COLUMNS]
        missing = rewards.missing_columns(function, known, spec.style, spec.args)
        if missing:
            raise RecipeError(
                f"recipe: rewards.{spec.name} wants the column {' and '.join(missing)}, but row {number} of "
                f"the data set has {', '.join(columns)}; map it with data.columns"
                f"{_example(rows[number - 1], missing[0])} or pass it in rewards.{spec.name}.args"
            )


def _example(row: Mapping[str, Any], column: str) -> str:
    """`` (data.columns.answer=reward_model.ground_truth)`` where a row seems to keep such a column, or nothing."""
    found = likely_column(row, column)
    return f" (data.columns.{column}={found})" if found else ""


def check_golds(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse data of which so many golds are no answers that the faults would end the run."""
    for spec in specs:
        if spec.use not in READS_ANSWER or "answer" in spec.args:
            continue
        golds = {
            number: row.get("answer")
            for number, row in enumerate(rows, 1)
            if applies(spec.when, row)
        }
        missing = [number for number, gold in golds.items() if is_missing(gold)]
        lists = [number for number, gold in golds.items() if num_answers(gold) > 1]
        limit = GATES["faults"].limits["stop"]
        if len(missing) > limit * len(golds):
            raise RecipeError(
                f"data: empty-gold: {len(missing)} of {many(len(golds), 'row')} that rewards.{spec.name} "
                "scores have no answer "
                f"in the column answer (row {missing[0]}: {golds[missing[0]]!r}), and faults in more than {limit:.0%} "
                "of a step end a run; name another column in data.columns.answer, or leave these rows out of the file"
            )
        if len(lists) > limit * len(golds) and not spec.args.get("several"):
            raise RecipeError(
                f"data: several-golds: {len(lists)} of {many(len(golds), 'row')} {agree(len(lists), 'have')} "
                f"a list of answers (row {lists[0]}: "
                f"{golds[lists[0]]!r}); set rewards.{spec.name}.args.several to any if each of them is right, to all "
                "if all are asked for"
            )


def _kinds_of_rows(
    rows: Sequence[Mapping[str, Any]], when: Mapping[str, Any]
) -> dict[tuple[str, ...], int]:
    """The different sets of columns among the rows that match `when`, each with the first such row's number."""
    kinds: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, 1):
        if applies(when, row):
            kinds.setdefault(tuple(row), number)
    return kinds
