"""Runs a data set's test functions as pytest and unittest would: each function is a test, for each of its parameters.

A small stand-in takes the place of pytest, so that a sandbox needs nothing installed. What it lacks makes the tests
fail as a whole, never a candidate. Imported by fork servers by path; standard library only.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import sys
import types
from typing import Any, Callable, Iterator

__all__ = ["Case", "Skipped", "Unsupported", "collect", "install", "passes_all"]

SOLUTION_MODULES = ("solution", "main", "submission", "candidate", "your_module", "program")
"""What tests call the module that they test."""
TESTS_MODULE = "tests"


class Unsupported(BaseException):
    """The tests use what the stand-in lacks. Not an Exception: no test may catch it."""


class Skipped(Exception):
    """The test skips itself."""


# ------------------------------------------------------------------------------------------------ pytest


class _Info:
    """What ``pytest.raises`` gives: the exception once it was raised."""

    value: Any = None

    @property
    def type(self) -> Any:
        return type(self.value)

    def match(self, pattern: str) -> bool:
        assert re.search(pattern, str(self.value)), f"{pattern!r} is not in {str(self.value)!r}"
        return True


class _Raises:
    """The context that ``pytest.raises`` opens."""

    def __init__(self, expected: Any, match: str | None) -> None:
        self._expected = expected if isinstance(expected, tuple) else (expected,)
        self._match = match
        self._info = _Info()

    def __enter__(self) -> _Info:
        return self._info

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        assert error is not None, "nothing was raised"
        if not any(_is_a(error, expected) for expected in self._expected):
            return False
        self._info.value = error
        return self._match is None or self._info.match(self._match)


def _is_a(error: BaseException, expected: Any) -> bool:
    """Whether an error is of a class; a class of the candidate in another process is known by its name."""
    if isinstance(expected, type):
        return isinstance(error, expected)
    name = getattr(expected, "candidate_name", None)
    return name is not None and name in getattr(error, "candidate_kinds", ())


def raises(expected: Any, *call: Any, match: str | None = None, **keywords: Any) -> Any:
    context = _Raises(expected, match)
    if not call:
        return context
    function, *args = call
    with context as info:
        function(*args, **keywords)
    return info


class approx:  # noqa: N801  pytest's name
    """Equal to what differs by a millionth at most, or by ``rel`` or ``abs``."""

    def __init__(
        self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False
    ) -> None:
        self._expected = expected
        self._options = {"rel": rel, "abs": abs, "nan_ok": nan_ok}

    def __eq__(self, actual: Any) -> bool:
        expected = self._expected
        if isinstance(expected, dict):
            return isinstance(actual, dict) and _same_items(expected, actual, self._options)
        if isinstance(expected, (list, tuple)):
            if not isinstance(actual, (list, tuple)) or len(expected) != len(actual):
                return False
            return all(
                approx(one, **self._options) == other for one, other in zip(expected, actual)
            )
        if not _is_number(expected) or not _is_number(actual):
            return type(actual) is type(expected) and bool(actual == expected)
        return self._is_near(expected, actual)

    def _is_near(self, expected: Any, actual: Any) -> bool:
        if expected == actual:
            return True
        if isinstance(expected, float) and math.isnan(expected):
            return bool(self._options["nan_ok"]) and actual != actual
        rel = self._options["rel"]
        absolute = self._options["abs"]
        if rel is None:
            rel = 1e-6 if absolute is None else 0.0
        allowed = max(rel * abs(expected), 1e-12 if absolute is None else absolute)
        return bool(abs(expected - actual) <= allowed < math.inf)

    __hash__ = None  # type: ignore[assignment]


def _same_items(expected: dict[Any, Any], actual: dict[Any, Any], options: dict[str, Any]) -> bool:
    if expected.keys() != actual.keys():
        return False
    return all(approx(value, **options) == actual[key] for key, value in expected.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex)) and not isinstance(value, bool)


class _Fixture:
    """A function that makes an argument of tests."""

    def __init__(self, function: Callable[..., Any], autouse: bool, params: Any, name: str) -> None:
        self.function = function
        self.autouse = autouse
        self.params = list(params) if params is not None else None
        self.name = name or function.__name__


def fixture(
    function: Any = None, *, autouse: bool = False, params: Any = None, name: str = "", **rest: Any
) -> Any:
    if function is not None:
        return _Fixture(function, autouse, params, name)
    return lambda made: _Fixture(made, autouse, params, name)


class _Parameters(tuple):
    """One row of ``parametrize``."""


def param(*values: Any, **rest: Any) -> _Parameters:
    return _Parameters(values)


class _Mark:
    """``pytest.mark.NAME``: as a decorator with arguments or without."""

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self._name = name
        self._args = args

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if self._name == "parametrize" and not self._args:
            names = args[0] if args else keywords["argnames"]
            return _Mark(
                "parametrize", (names, args[1] if len(args) > 1 else keywords["argvalues"])
            )
        target = args[0] if len(args) == 1 and callable(args[0]) else None
        if target is None:
            return _Mark(self._name, args)
        marks = [*getattr(target, "suite_marks", ()), (self._name, self._args)]
        target.suite_marks = marks
        return target


class _Marks:
    def __getattr__(self, name: str) -> _Mark:
        return _Mark(name)


def fail(reason: str = "", **rest: Any) -> None:
    raise AssertionError(reason)


def skip(reason: str = "", **rest: Any) -> None:
    raise Skipped(reason)


def _stand_in() -> types.ModuleType:
    module = types.ModuleType("pytest")
    for value in (raises, approx, fixture, param, fail, skip):
        setattr(module, value.__name__, value)
    module.mark = _Marks()  # type: ignore[attr-defined]
    module.__dict__["__getattr__"] = _lacking
    return module


def _lacking(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise Unsupported(f"the tests use pytest.{name}")


def install(solution: types.ModuleType) -> None:
    """Make ``import pytest`` and ``from solution import ...`` find the stand-in and `solution`."""
    sys.modules["pytest"] = _stand_in()
    for name in SOLUTION_MODULES:
        sys.modules[name] = solution


# -------------------------------------------------------------------------------------- built-in fixtures


class _Captured:
    """``capsys``: what was printed since it was last read."""

    def __init__(self) -> None:
        import io  # noqa: PLC0415  few tests capture output

        self._streams = (io.StringIO(), io.StringIO())
        self._before = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = self._streams

    def readouterr(self) -> Any:
        texts = [stream.getvalue() for stream in self._streams]
        for stream in self._streams:
            stream.seek(0)
            stream.truncate()
        return _Output(*texts)

    def undo(self) -> None:
        sys.stdout, sys.stderr = self._before


class _Output(tuple):
    def __new__(cls, out: str, err: str) -> _Output:
        return super().__new__(cls, (out, err))

    out = property(lambda self: self[0])
    err = property(lambda self: self[1])


class _Patches:
    """``monkeypatch``: changes that are taken back after the test."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def setattr(self, target: Any, name: Any, *value: Any, **rest: Any) -> None:
        if isinstance(target, str):
            path, _, attribute = target.rpartition(".")
            value = (name,)
            name = attribute
            target = __import__(path, fromlist=["_"])
        before = getattr(target, name)
        self._undo.append(lambda: setattr(target, name, before))
        setattr(target, name, value[0])

    def setitem(self, mapping: Any, key: Any, value: Any) -> None:
        had = key in mapping
        before = mapping.get(key)
        undo = (lambda: mapping.update({key: before})) if had else (lambda: mapping.pop(key, None))
        self._undo.append(undo)
        mapping[key] = value

    def setenv(self, name: str, value: str, prepend: Any = None) -> None:
        import os  # noqa: PLC0415  few tests set variables

        self.setitem(os.environ, name, str(value))

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


class _Request:
    def __init__(self, param: Any) -> None:
        self.param = param


def _temporary_folder() -> Any:
    import pathlib  # noqa: PLC0415  slow to import
    import tempfile  # noqa: PLC0415

    return pathlib.Path(tempfile.mkdtemp())


_BUILT_IN: dict[str, Callable[[], Any]] = {
    "capsys": _Captured,
    "monkeypatch": _Patches,
    "tmp_path": _temporary_folder,
}


class _Arguments:
    """The fixtures of one test: made when they are first asked for, ended in reverse order."""

    def __init__(self, fixtures: dict[str, _Fixture], chosen: dict[str, Any], owner: Any) -> None:
        self._fixtures = fixtures
        self._chosen = chosen
        self._owner = owner
        self._made: dict[str, Any] = {}
        self._ends: list[Callable[[], Any]] = []

    def of(self, function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that a function asks for by name and that are not given."""
        names = [name for name in _parameters(function) if name not in given]
        return {**given, **{name: self._value(name) for name in names}}

    def use(self, names: Any) -> None:
        """Make the fixtures of these names, after those that every test uses."""
        automatic = [name for name, made in self._fixtures.items() if made.autouse]
        for name in (*automatic, *names):
            self._value(name)

    def _value(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Any:
        if name not in self._fixtures:
            if name not in _BUILT_IN:
                raise Unsupported(f"the tests use the fixture {name}")
            made = _BUILT_IN[name]()
            self._ends.append(getattr(made, "undo", lambda: None))
            return made
        function = self._fixtures[name].function
        given = {"request": _Request(self._chosen.get(name))}
        wanted = {key: value for key, value in given.items() if key in _parameters(function)}
        value = _bound(function, self._owner)(**self.of(function, wanted))
        if not isinstance(value, types.GeneratorType):
            return value
        self._ends.append(lambda: next(value, None))
        return next(value)

    def end(self) -> None:
        while self._ends:
            self._ends.pop()()


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names of a function's arguments without defaults, but for self."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    defaults = len(function.__defaults__ or ())
    positional = names[: code.co_argcount - defaults if defaults else code.co_argcount]
    keyword = [n for n in names[code.co_argcount :] if n not in (function.__kwdefaults__ or {})]
    return [name for name in (*positional, *keyword) if name not in ("self", "cls")]


def _bound(function: Callable[..., Any], owner: Any) -> Callable[..., Any]:
    """A method bound to its instance; a function as it is."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return types.MethodType(function, owner) if names[:1] == ("self",) else function


# ------------------------------------------------------------------------------------------- the tests


class Case:
    """One test: a name, and a call that raises if it does not hold."""

    def __init__(self, name: str, run: Callable[[], Any]) -> None:
        self.name = name
        self.run = run


def collect(space: dict[str, Any]) -> list[Case]:
    """The tests that a module holds, in the order of their definition, without those that are marked to be skipped."""
    cases: list[Case] = []
    for name, value in list(space.items()):
        if getattr(value, "__module__", None) != TESTS_MODULE:
            continue
        if isinstance(value, type):
            cases += _of_class(name, value, space)
        elif isinstance(value, types.FunctionType) and name.startswith("test"):
            cases += _Function(value, space).cases(name)
    return cases


def _of_class(name: str, kind: type, space: dict[str, Any]) -> Iterator[Case]:
    unittest = sys.modules.get("unittest")
    if unittest is not None and issubclass(kind, unittest.TestCase):
        for method in unittest.defaultTestLoader.getTestCaseNames(kind):
            owners = (kind, getattr(kind, method))
            if not any(getattr(owner, "__unittest_skip__", False) for owner in owners):
                yield Case(f"{name}.{method}", functools.partial(_run_unittest, kind, method))
    elif name.startswith("Test") and "__init__" not in vars(kind):
        for method, value in vars(kind).items():
            if method.startswith("test") and isinstance(value, types.FunctionType):
                yield from _Function(value, space, kind).cases(f"{name}.{method}")


def _run_unittest(kind: Any, method: str) -> None:
    """Run one method; one that skips itself does not hold, for the candidate could have it skipped."""
    import unittest  # noqa: PLC0415  the tests have loaded it

    result = unittest.TestResult()
    unittest.TestSuite([kind(method)]).run(result)
    problems = [*result.failures, *result.errors]
    if problems:
        raise AssertionError(problems[0][1].strip().splitlines()[-1])
    assert result.testsRun == 1 and not result.skipped, "it was skipped"
    assert not result.unexpectedSuccesses, "it was expected to fail"


def _rows_of_parameters(names: Any, values: Any) -> list[dict[str, Any]]:
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    rows = []
    for value in values:
        is_row = isinstance(value, _Parameters) or len(names) > 1
        rows.append(dict(zip(names, value if is_row else (value,))))
    return rows


class _Function:
    """A test function: a test for each row of its parameters and of its fixtures'."""

    def __init__(self, function: Any, space: dict[str, Any], kind: Any = None) -> None:
        self._function = function
        self._space = space
        self._kind = kind
        self._marks = [*getattr(kind, "suite_marks", ()), *getattr(function, "suite_marks", ())]
        used = [args for mark, args in self._marks if mark == "usefixtures"]
        self._used = list(itertools.chain.from_iterable(used))
        known = {**space, **(vars(kind) if kind else {})}
        fixtures = [value for value in known.values() if isinstance(value, _Fixture)]
        self._fixtures = {fixture.name: fixture for fixture in fixtures}

    def cases(self, name: str) -> Iterator[Case]:
        if any(map(_skips, self._marks)):
            return
        for number, (given, chosen) in enumerate(itertools.product(self._given(), self._chosen())):
            run = functools.partial(self._run, given, chosen)
            yield Case(f"{name}[{number}]", run)

    def _given(self) -> Iterator[dict[str, Any]]:
        """The arguments of each row of ``parametrize``."""
        tables = [_rows_of_parameters(*args) for mark, args in self._marks if mark == "parametrize"]
        for parts in itertools.product(*tables):
            row: dict[str, Any] = {}
            for part in parts:
                row.update(part)
            yield row

    def _chosen(self) -> Iterator[dict[str, Any]]:
        """The parameter of each fixture that has some."""
        asked = _parameters(self._function)
        used = [
            fixture
            for fixture in self._fixtures.values()
            if fixture.params is not None and (fixture.autouse or fixture.name in asked)
        ]
        names = [fixture.name for fixture in used]
        for values in itertools.product(*(fixture.params or () for fixture in used)):
            yield dict(zip(names, values))

    def _run(self, given: dict[str, Any], chosen: dict[str, Any]) -> None:
        """Call the function, with what comes before and after it."""
        owner = self._kind() if self._kind else None
        arguments = _Arguments(self._fixtures, chosen, owner)
        _call(self._space.get("setup_function"), self._function)
        _call(getattr(owner, "setup_method", None), self._function)
        try:
            arguments.use(self._used)
            test = _bound(self._function, owner)
            result = test(**arguments.of(self._function, given))
            if isinstance(result, types.CoroutineType):
                import asyncio  # noqa: PLC0415  few tests are async

                asyncio.run(result)
        finally:
            arguments.end()
            _call(getattr(owner, "teardown_method", None), self._function)
            _call(self._space.get("teardown_function"), self._function)


def _skips(mark: tuple[str, tuple[Any, ...]]) -> bool:
    """Whether a mark keeps a test from running, or from counting."""
    name, args = mark
    return name in ("skip", "xfail") or (name == "skipif" and bool(args) and bool(args[0]))


def _call(function: Any, test: Any) -> None:
    """Call a set-up or tear-down function, which may take the test."""
    if function is None:
        return
    code = getattr(function, "__code__", None)
    takes_test = code is not None and code.co_argcount > (1 if hasattr(function, "__self__") else 0)
    function(test) if takes_test else function()


def passes_all(source: str, solution: dict[str, Any]) -> bool:
    """Run tests in this process against the names in `solution`: whether there are any and all of them hold."""
    module = types.ModuleType("solution")
    module.__dict__.update(solution)
    install(module)
    space: dict[str, Any] = {**solution, "__name__": TESTS_MODULE}
    exec(compile(source, "<tests>", "exec"), space)
    num_run = 0
    for case in collect(space):
        try:
            case.run()
            num_run += 1
        except Exception:  # noqa: BLE001  the test does not hold
            return False
    return num_run > 0
