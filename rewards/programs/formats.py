"""The tests that data sets carry, read into three kinds: programs with inputs and outputs, calls, assert statements.

| data set | columns |
|---|---|
| HumanEval | ``prompt``, ``test`` (a function ``check``), ``entry_point`` |
| MBPP | ``test_list``; ``test_setup_code`` or ``test_imports``; ``challenge_test_list`` counts as hidden |
| APPS, TACO | ``input_output``: JSON of ``inputs``, ``outputs`` and, for calls, ``fn_name`` |
| LiveCodeBench | ``public_test_cases``, ``private_test_cases`` (hidden), ``metadata``, ``starter_code`` |
| Codeforces | ``official_tests``, ``examples``, ``time_limit``, ``memory_limit``, ``generated_checker`` |
| plain | ``inputs``, ``outputs`` and, for calls, ``fn_name`` |
"""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import pickle
import re
import zlib
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

__all__ = ["AssertTests", "BadTests", "CallTests", "IOTests", "TestData", "read_tests"]

MOST_BYTES = 256 << 20
COLUMNS = (
    "test", "entry_point", "test_list", "test_setup_code", "test_imports", "challenge_test_list", "input_output",
    "public_test_cases", "private_test_cases", "metadata", "starter_code", "official_tests", "examples", "time_limit",
    "memory_limit", "generated_checker", "checker", "inputs", "outputs", "fn_name", "hidden_inputs", "hidden_outputs",
    "tests",
)  # fmt: skip


class BadTests(ValueError):
    """A row's tests cannot be read, or there are none."""


@dataclass(frozen=True, slots=True)
class IOTests:
    """Inputs of a program and what it must print. ``hidden[i]``: whether test i is kept from the policy.

    ``checker`` is the source of a Python program that is called with three files (the input, the expected output, the
    program's output) and prints 1 if the output is right.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    hidden: Sequence[bool]
    checker: str = ""
    seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CallTests:
    """Arguments of a function, and what it must return."""

    name: str
    arguments: Sequence[Sequence[Any]]
    outputs: Sequence[Any]
    hidden: Sequence[bool]
    starter: str = ""


@dataclass(frozen=True, slots=True)
class AssertTests:
    """Assert statements: source texts, what they need, and the function that holds them, if one does."""

    tests: Sequence[str]
    setup: str = ""
    check: str = ""
    entry: str = ""
    prompt: str = ""
    hidden: Sequence[bool] = field(default_factory=tuple)


TestData = IOTests | CallTests | AssertTests


def read_tests(columns: Mapping[str, Any], prompt: str = "") -> TestData:
    """A row's tests, whichever format they are in; raises `BadTests` if there are none or they cannot be read."""
    row = {name: columns[name] for name in COLUMNS if columns.get(name) not in (None, "", [], {})}
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
        zlib.error,
        pickle.UnpicklingError,
    ) as error:
        raise BadTests(f"the row's tests cannot be read: {type(error).__name__}: {error}") from None
    if not _count(tests):
        raise BadTests("the row has no tests")
    return tests


def _count(tests: TestData) -> int:
    return len(tests.tests if isinstance(tests, AssertTests) else tests.outputs)


def _read(row: Mapping[str, Any], prompt: str) -> TestData:
    if "test_list" in row:
        return _mbpp(row)
    if "test" in row:
        return _humaneval(row, prompt)
    if "input_output" in row:
        return _plain(_json(row["input_output"]), row.get("starter_code", ""))
    if "public_test_cases" in row or "private_test_cases" in row:
        return _livecodebench(row)
    if "official_tests" in row or "examples" in row:
        return _codeforces(row)
    if "inputs" in row:
        return _plain(row, row.get("starter_code", ""))
    raise BadTests(
        "the row has no column with tests; " + ", ".join(COLUMNS[:7]) + ", inputs, ... are known"
    )


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, (str, bytes)) else value


# ------------------------------------------------------------------------------------------ assert statements


def _humaneval(row: Mapping[str, Any], prompt: str) -> AssertTests:
    text = row["test"]
    entry = row.get("entry_point", "")
    if not isinstance(text, str):
        raise BadTests(f"test is {type(text).__name__}, not text")
    check = "check" if re.search(r"^def check\(", text, re.M) else ""
    if check and not entry:
        raise BadTests("test has a function check, but the row has no entry_point")
    setup = _as_setup(prompt) if entry else ""
    return AssertTests(
        tests=[text], setup=setup, check=check, entry=entry, prompt=prompt if setup else ""
    )


def _as_setup(prompt: str) -> str:
    """A prompt as a module, even if its last function has no body; nothing if it is not a program."""
    for source in (prompt, prompt.rstrip() + "\n    pass\n"):
        try:
            ast.parse(source)
            return source
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return ""


def _mbpp(row: Mapping[str, Any]) -> AssertTests:
    visible = _texts(row["test_list"])
    hidden = _texts(row.get("challenge_test_list", []))
    imports = row.get("test_imports", "")
    setup = "\n".join(
        [*([imports] if isinstance(imports, str) else imports), row.get("test_setup_code", "")]
    )
    flags = [False] * len(visible) + [True] * len(hidden)
    return AssertTests([*visible, *hidden], setup, entry=row.get("entry_point", ""), hidden=flags)


def _texts(value: Any) -> list[str]:
    value = _json(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    texts = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in texts):
        raise BadTests("a test is not text")
    return texts


# ------------------------------------------------------------------------------------- inputs and outputs


def _plain(row: Mapping[str, Any], starter: str) -> IOTests | CallTests:
    inputs = list(_json(row["inputs"]))
    outputs = list(_json(row["outputs"]))
    hidden = [False] * len(outputs)
    if "hidden_inputs" in row:
        hidden_outputs = list(_json(row["hidden_outputs"]))
        inputs = inputs + list(_json(row["hidden_inputs"]))
        outputs = outputs + hidden_outputs
        hidden += [True] * len(hidden_outputs)
    if len(inputs) != len(outputs):
        raise BadTests(f"there are {len(inputs)} inputs and {len(outputs)} outputs")
    if row.get("fn_name"):
        return _calls(
            name=row["fn_name"], inputs=inputs, outputs=outputs, hidden=hidden, starter=starter
        )
    checker = row.get("checker", "")
    return IOTests(
        [_joined(text) for text in inputs], [_joined(text) for text in outputs], hidden, checker
    )


def _joined(value: Any) -> str:
    """An input or output as text; APPS has lists of lines."""
    if isinstance(value, str):
        return value
    return "\n".join(map(_joined, value)) if isinstance(value, list) else str(value)


def _calls(
    *, name: str, inputs: list[Any], outputs: list[Any], hidden: list[bool], starter: str
) -> CallTests:
    calls = [_json(value) if isinstance(value, str) else value for value in inputs]
    for arguments in calls:
        if not isinstance(arguments, (list, tuple)):
            raise BadTests(f"the arguments of {name} are {type(arguments).__name__}, not a list")
    return CallTests(name=name, arguments=calls, outputs=outputs, hidden=hidden, starter=starter)


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
    cases = [*public, *private]
    hidden = [False] * len(public) + [True] * len(private)
    name = (_json(row.get("metadata", {})) or {}).get("func_name", "")
    if not any(case.get("testtype") == "functional" for case in cases):
        return IOTests(
            [case["input"] for case in cases], [case["output"] for case in cases], hidden
        )
    if not name:
        raise BadTests("the tests call a function that metadata does not name")
    return CallTests(
        name=name.split(".")[-1],
        arguments=[_json_lines(case["input"]) for case in cases],
        outputs=[json.loads(case["output"]) for case in cases],
        hidden=hidden,
        starter=row.get("starter_code", ""),
    )


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


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
    seconds = float(row.get("time_limit", math.nan))
    megabytes = float(row.get("memory_limit", math.nan))
    if math.isfinite(seconds):
        tests = replace(tests, seconds=seconds)
    return replace(tests, memory_bytes=int(megabytes) << 20) if math.isfinite(megabytes) else tests
