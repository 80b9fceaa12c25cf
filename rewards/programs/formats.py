"""The tests that data sets carry, read into three kinds: programs with inputs and outputs, calls, assert statements.

| data set | columns |
|---|---|
| HumanEval | ``prompt``, ``test`` (a function ``check``), ``entry_point`` |
| KodCode, BigCodeBench | ``test``: functions for pytest or unittest that import ``solution`` or use ``entry_point`` |
| MBPP, MBPP+ | ``test_list``; ``test_setup_code`` or ``test_imports``; hidden ``challenge_test_list``, ``test`` |
| DeepCoder, PRIME, SYNTHETIC | ``tests`` or ``test_cases``: what ``cases`` reads |
| APPS, TACO | ``input_output``: JSON of ``inputs``, ``outputs`` and, for calls, ``fn_name`` |
| LiveCodeBench | ``public_test_cases``, ``private_test_cases`` (hidden), ``metadata``, ``starter_code`` |
| code_contests | ``public_tests``, hidden ``private_tests``, ``generated_tests``; its limits of time and memory |
| Codeforces | ``official_tests``, ``examples``, ``time_limit``, ``memory_limit``, ``generated_checker`` |
| plain | ``inputs``, ``outputs`` and, for calls, ``fn_name`` |
"""

from __future__ import annotations

import base64
import io
import json
import math
import pickle
import zlib
from dataclasses import replace
from typing import Any, Mapping

from rewards.conventions import as_mapping
from rewards.paths import NotStructured, structured
from rewards.programs.cases import (
    Case,
    CaseList,
    arguments_of,
    cases_of,
    is_functional,
    joined,
    output_of,
    tests_of_cases,
)
from rewards.programs.nouns import AssertTests, BadTests, CallTests, IOTests, TestData
from rewards.programs.sources import asserts, holds_always, tests_of_source, texts_of

__all__ = [
    "AssertTests",
    "BadTests",
    "CallTests",
    "HOLD_TESTS",
    "IOTests",
    "TestData",
    "read_tests",
]

MOST_BYTES = 256 << 20
NANOSECONDS = 1e-9
MOST_WRAPPINGS = 3
COLUMNS = (
    "test", "entry_point", "test_list", "test_setup_code", "test_imports", "challenge_test_list", "input_output",
    "public_test_cases", "private_test_cases", "metadata", "starter_code", "official_tests", "examples", "time_limit",
    "memory_limit", "generated_checker", "checker", "inputs", "outputs", "fn_name", "hidden_inputs", "hidden_outputs",
    "tests", "test_cases", "public_tests", "private_tests", "generated_tests", "memory_limit_bytes",
)  # fmt: skip
CODE_CONTESTS = ("public_tests", "private_tests", "generated_tests")
HOLD_TESTS = frozenset(
    {
        "test", "test_list", "tests", "test_cases", "input_output", "public_test_cases", "private_test_cases",
        "official_tests", "examples", "inputs", *CODE_CONTESTS,
    }
)  # fmt: skip
"""Columns of which a row needs one."""
INNER = ("test_cases", "tests", "unit_tests", "test_list", "assert_case", "ground_truth")
"""Entries of a mapping that hold the tests themselves."""
SOURCES = ("test_code", "test", "functional")
"""Entries of a mapping that hold the source of tests."""


def read_tests(columns: Mapping[str, Any], prompt: str = "") -> TestData:
    """A row's tests, whichever format they are in; raises `BadTests` if there are none or they cannot be read."""
    row = {name: columns[name] for name in COLUMNS if not _is_empty(columns.get(name))}
    try:
        tests = _read(row, prompt)
    except BadTests:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        RecursionError,
        zlib.error,
        pickle.UnpicklingError,
    ) as error:
        raise BadTests(f"the row's tests cannot be read: {type(error).__name__}: {error}") from None
    if not _count(tests):
        raise BadTests("the row has no tests")
    if isinstance(tests, AssertTests):
        _refuse_empty(tests)
    return tests


def _refuse_empty(tests: AssertTests) -> None:
    """Refuse tests that every program passes."""
    if tests.suite and not any(map(asserts, tests.tests)):
        raise BadTests("the test functions assert nothing, so every program would pass")
    if all(map(holds_always, tests.tests)):
        raise BadTests("the tests assert True and nothing else, so every program would pass")


def _is_empty(value: Any) -> bool:
    """Whether a column says nothing; a missing number is NaN where pandas wrote the data."""
    return value is None or value != value or value in ("", [], {})


def _count(tests: TestData) -> int:
    return len(tests.tests if isinstance(tests, AssertTests) else tests.outputs)


def _read(row: Mapping[str, Any], prompt: str) -> TestData:
    if "test_list" in row:
        return _mbpp(row)
    if "test" in row:
        return tests_of_source(row["test"], row.get("entry_point", ""), prompt)
    if "tests" in row or "test_cases" in row:
        return _listed(row.get("tests", row.get("test_cases")), row, prompt)
    if "input_output" in row:
        return _listed(row["input_output"], row, prompt)
    if "public_test_cases" in row or "private_test_cases" in row:
        return _livecodebench(row)
    if not row.keys().isdisjoint(CODE_CONTESTS):
        return _code_contests(row)
    if "official_tests" in row or "examples" in row:
        return _codeforces(row)
    if "inputs" in row:
        return _plain(row, row)
    raise BadTests(
        "the row has no column with tests; "
        + ", ".join(COLUMNS[:7])
        + ", tests, inputs, ... are known: name "
        "the column that holds them with data.columns, e.g. {tests: COLUMN}"
    )


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, (str, bytes)) else value


# ------------------------------------------------------------------------------------------ assert statements


def _mbpp(row: Mapping[str, Any]) -> AssertTests:
    visible = texts_of(row["test_list"])
    plus = [row["test"]] if isinstance(row.get("test"), str) else []
    hidden = [*texts_of(row.get("challenge_test_list", [])), *plus]
    imports = row.get("test_imports", "")
    setup = "\n".join(
        [*([imports] if isinstance(imports, str) else imports), row.get("test_setup_code", "")]
    )
    flags = [False] * len(visible) + [True] * len(hidden)
    return AssertTests([*visible, *hidden], setup, entry=row.get("entry_point", ""), hidden=flags)


# ------------------------------------------------------------------------------------- inputs and outputs


def _listed(value: Any, row: Mapping[str, Any], prompt: str) -> TestData:
    """Tests in one column: cases, inputs with outputs, assert statements, or the source of tests."""
    value = _unwrapped(value)
    if isinstance(value, str):
        return tests_of_source(value, row.get("entry_point", ""), prompt)
    if isinstance(value, Mapping):
        source = next((value[name] for name in SOURCES if isinstance(value.get(name), str)), None)
        if source is not None:
            entry = value.get("entry_point") or row.get("entry_point", "")
            return tests_of_source(source, entry, value.get("import_prefix") or prompt)
        inner = next((value[name] for name in INNER if not _is_empty(value.get(name))), None)
        if inner is not None:
            named = {"fn_name": value["fn_name"]} if value.get("fn_name") else {}
            return _listed(inner, {**row, **named}, prompt)
        return _plain(value, row)
    items = list(value)
    if items and all(isinstance(item, str) for item in items):
        return _mbpp({**row, "test_list": items})
    cases = cases_of(items)
    return tests_of_cases(
        CaseList(cases, [False] * len(cases)), _name_of(row), row.get("starter_code", "")
    )


def _unwrapped(value: Any) -> Any:
    """What a text holds as JSON, also as JSON inside JSON, or as a Python literal; a text that is none of them."""
    for _ in range(MOST_WRAPPINGS):
        if not isinstance(value, str):
            break
        try:
            value = structured(value)
        except NotStructured:
            break
    return value


def _name_of(row: Mapping[str, Any]) -> str:
    """The function that tests call, as the row names it."""
    metadata = as_mapping(row.get("metadata"))
    named = metadata.get("func_name") if isinstance(metadata, Mapping) else ""
    return str(row.get("fn_name") or named or "").split(".")[-1]


def _plain(columns: Mapping[str, Any], row: Mapping[str, Any]) -> IOTests | CallTests:
    names = ("inputs", "outputs") if "inputs" in columns else ("input", "output")
    inputs, outputs = (list(_json(columns[name])) for name in names)
    num_visible = len(outputs)
    if "hidden_inputs" in columns:
        inputs += list(_json(columns["hidden_inputs"]))
        outputs += list(_json(columns["hidden_outputs"]))
    if len(inputs) != len(outputs):
        raise BadTests(f"there are {len(inputs)} inputs and {len(outputs)} outputs")
    hidden = [number >= num_visible for number in range(len(outputs))]
    name = columns.get("fn_name") or row.get("fn_name")
    if name:
        return _calls(
            name=str(name).split(".")[-1],
            inputs=inputs,
            outputs=outputs,
            hidden=hidden,
            starter=row.get("starter_code", ""),
        )
    checker = columns.get("checker", "")
    return IOTests(
        [joined(text) for text in inputs], [joined(text) for text in outputs], hidden, checker
    )


def _calls(
    *, name: str, inputs: list[Any], outputs: list[Any], hidden: list[bool], starter: str
) -> CallTests:
    cases = [Case(given, wanted) for given, wanted in zip(inputs, outputs)]
    calls = [arguments_of(case) if isinstance(case.given, str) else case.given for case in cases]
    for arguments in calls:
        if not isinstance(arguments, (list, tuple)):
            raise BadTests(f"the arguments of {name} are {type(arguments).__name__}, not a list")
    return CallTests(
        name=name,
        arguments=calls,
        outputs=list(map(output_of, cases)),
        hidden=hidden,
        starter=starter,
        may_be_wrapped=True,
    )


class _TextOnly(pickle.Unpickler):
    """Reads a pickled text, and nothing that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in the tests")


def _cases(value: Any) -> list[Mapping[str, Any]]:
    """LiveCodeBench's cases: JSON, or its private ones, which are JSON pickled, compressed and coded."""
    if not isinstance(value, str):
        return list(value)
    try:
        return json.loads(value)
    except ValueError:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(value.encode()), MOST_BYTES)
        return list(_json(_TextOnly(io.BytesIO(data)).load()))


def _livecodebench(row: Mapping[str, Any]) -> IOTests | CallTests:
    public = _cases(row.get("public_test_cases", []))
    private = _cases(row.get("private_test_cases", []))
    hidden = [False] * len(public) + [True] * len(private)
    cases = cases_of([*public, *private])
    name = _name_of(row)
    if any(map(is_functional, cases)) and not name:
        raise BadTests("the tests call a function that metadata does not name")
    return tests_of_cases(CaseList(cases, hidden), name, row.get("starter_code", ""))


def _code_contests(row: Mapping[str, Any]) -> IOTests:
    inputs: list[str] = []
    outputs: list[str] = []
    hidden: list[bool] = []
    for name in CODE_CONTESTS:
        tests = _json(row.get(name, {}))
        if isinstance(tests, Mapping):
            pairs = list(zip(tests.get("input", ()), tests.get("output", ()), strict=True))
        else:
            pairs = [(case["input"], case["output"]) for case in tests]
        inputs += [pair[0] for pair in pairs]
        outputs += [pair[1] for pair in pairs]
        hidden += [name != "public_tests"] * len(pairs)
    return _with_limits(IOTests(inputs, outputs, hidden), row)


def _codeforces(row: Mapping[str, Any]) -> IOTests:
    shown = _json(row.get("examples", [])) or []
    official = _json(row.get("official_tests", [])) or []
    known = {(case["input"], case["output"]) for case in shown}
    cases = [*shown, *(case for case in official if (case["input"], case["output"]) not in known)]
    tests = IOTests(
        [case["input"] for case in cases],
        [case["output"] for case in cases],
        [False] * len(shown) + [True] * (len(cases) - len(shown)),
        row.get("generated_checker") or row.get("checker", ""),
    )
    return _with_limits(tests, row)


def _with_limits(tests: IOTests, row: Mapping[str, Any]) -> IOTests:
    """The tests with the row's own limits of time (seconds, or seconds and nanoseconds) and memory (MB or bytes)."""
    limit = row.get("time_limit", math.nan)
    if isinstance(limit, Mapping):
        limit = (limit.get("seconds") or 0) + NANOSECONDS * (limit.get("nanos") or 0) or math.nan
    if math.isfinite(float(limit)):
        tests = replace(tests, seconds=float(limit))
    megabytes = float(row.get("memory_limit", math.nan))
    num_bytes = int(row.get("memory_limit_bytes", 0))
    if math.isfinite(megabytes):
        num_bytes = int(megabytes) << 20
    return replace(tests, memory_bytes=num_bytes) if num_bytes else tests
