"""Tests as a list of cases, one object each: inputs of a program, or arguments of a function.

| data set | a case |
|---|---|
| PRIME, SYNTHETIC, DeepCoder | ``input``, ``output``, ``type`` (stdin_stdout or function_call), ``fn_name`` |
| LiveCodeBench, DeepCoder | ``input``, ``output``, ``testtype`` (stdin or functional), ``metadata.func_name`` |
| others | ``stdin`` or ``inputs``; ``expected_output``, ``expected``, ``stdout`` or ``outputs``; or a pair |
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from rewards.conventions import as_mapping
from rewards.programs.nouns import BadTests, CallTests, IOTests

__all__ = [
    "Case",
    "CaseList",
    "arguments_of",
    "cases_of",
    "is_functional",
    "joined",
    "output_of",
    "tests_of_cases",
]

INPUTS = ("input", "inputs", "stdin", "args", "arguments")
OUTPUTS = ("output", "outputs", "expected_output", "expected", "stdout")
LINES = ("functional",)
"""Kinds of case whose input is a JSON value for each argument, on a line of its own."""
CALLS = (*LINES, "function_call", "call_based", "function")


@dataclass(frozen=True, slots=True)
class Case:
    """One case: what goes in, what must come out, and for a call the kind of the case and the function's name."""

    given: Any
    wanted: Any
    kind: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class CaseList:
    """Cases, and which of them are kept from the policy."""

    cases: Sequence[Case]
    hidden: Sequence[bool]


def cases_of(items: Sequence[Any]) -> list[Case]:
    """The cases that a list holds; raises `BadTests` for one that cannot be read."""
    return [_case(item, number) for number, item in enumerate(items)]


def _case(item: Any, number: int) -> Case:
    if isinstance(item, (list, tuple)) and len(item) == 2:
        return Case(item[0], item[1])
    if not isinstance(item, Mapping):
        raise BadTests(f"test {number} is {type(item).__name__}, not an object")
    given = next((name for name in INPUTS if name in item), None)
    wanted = next((name for name in OUTPUTS if name in item), None)
    if given is None or wanted is None:
        raise BadTests(
            f"test {number} has {', '.join(map(str, item)) or 'nothing'}, not an input and an output"
        )
    kind = str(item.get("type") or item.get("testtype") or "").lower()
    return Case(item[given], item[wanted], kind, _name_of(item))


def _name_of(item: Mapping[str, Any]) -> str:
    metadata = as_mapping(item.get("metadata"))
    named = metadata.get("func_name") if isinstance(metadata, Mapping) else ""
    return str(item.get("fn_name") or named or "").split(".")[-1]


def is_functional(case: Case) -> bool:
    """Whether a case calls a function."""
    return case.kind in CALLS or (not case.kind and bool(case.name))


def tests_of_cases(listed: CaseList, name: str, starter: str) -> IOTests | CallTests:
    """Cases as tests; `name` is the row's function, for cases that call one and do not name it."""
    cases = listed.cases
    calls = [is_functional(case) or (not case.kind and bool(name)) for case in cases]
    if any(calls) and not all(calls):
        raise BadTests("some tests call a function and some give a program its input")
    if not any(calls):
        given = [joined(case.given) for case in cases]
        return IOTests(given, [joined(case.wanted) for case in cases], listed.hidden)
    names = {case.name or name for case in cases}
    if len(names) > 1 or "" in names:
        raise BadTests(
            f"the tests call {' and '.join(sorted(names - {''})) or 'a function that they do not name'}; "
            "one fn_name is needed"
        )
    return CallTests(
        name=names.pop(),
        arguments=[arguments_of(case) for case in cases],
        outputs=[output_of(case) for case in cases],
        hidden=listed.hidden,
        starter=starter,
        may_be_wrapped=not any(isinstance(case.given, str) for case in cases),
    )


def arguments_of(case: Case) -> list[Any]:
    """A call's arguments: a list, JSON of one, or a JSON value on each line."""
    given = case.given
    if isinstance(given, str):
        lines = [line for line in given.split("\n") if line.strip()]
        values = _json_of_lines(lines)
        is_list_of_all = len(values) == 1 and isinstance(values[0], list) and case.kind not in LINES
        return values[0] if is_list_of_all else values
    if isinstance(given, (list, tuple)):
        return list(given)
    if isinstance(given, Mapping):
        raise BadTests("a test names its arguments; only a list of them can be passed")
    return [given]


def _json_of_lines(lines: Sequence[str]) -> list[Any]:
    """The JSON value of each line, or the one value that they are together."""
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        return [json.loads("\n".join(lines))]


def output_of(case: Case) -> Any:
    """What a call must return: of a case that is written as text its JSON value, else the value as it stands."""
    if not (isinstance(case.given, str) and isinstance(case.wanted, str)):
        return case.wanted
    try:
        return json.loads(case.wanted)
    except ValueError:
        return case.wanted


def joined(value: Any) -> str:
    """An input or output as text; a list holds its lines."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return "\n".join(map(joined, value)) if isinstance(value, list) else str(value)
