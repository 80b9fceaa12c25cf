"""Runs a data set's assert statements in a separate process, against a candidate that lives in another one.

Every name that the tests use and do not define belongs to the candidate: calling it sends the arguments over and
returns the result, as plain values (``messages``). Each assert statement reports whether it held, and the last message
says that the tests reached their end. Imported by fork servers by path; standard library only.
"""

from __future__ import annotations

import ast
import builtins
import types
from typing import Any

from messages import (  # type: ignore[import-not-found]
    Gone,
    Peer,
    Untravelable,
    decode,
    encode,
    is_array,
    numpy_value,
    write_frame,
)
from test_suite import (  # type: ignore[import-not-found]
    SOLUTION_MODULES,
    TESTS_MODULE,
    Skipped,
    Unsupported,
    collect,
    install,
)

__all__ = ["test"]

CHANNEL = 3
LINK = 4


class CandidateError(Exception):
    """The candidate raised something that is not a built-in error."""


class CannotTravel(BaseException):
    """An argument of the tests cannot be sent to another process. Not an Exception: no test may catch it."""


# ---------------------------------------------------------------------------------------- the candidate's side


class Remote:
    """A function of the candidate."""

    def __init__(self, line: Line, target: dict[str, Any]) -> None:
        self._line = line
        self._target = target

    @property
    def candidate_name(self) -> Any:
        """The name under which the candidate defines it."""
        return self._target.get("name")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._line.call(self._target, args, kwargs)


class Handle:
    """An object of the candidate. Comparing it is an error: the candidate would do the comparing."""

    def __init__(self, line: Line, number: int) -> None:
        self.__dict__.update(_line=line, _number=number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._line.get(self._number, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._line.call({"handle": self._number}, args, kwargs)

    def _refuse(self, *others: Any) -> Any:
        raise TypeError("an object of the candidate's cannot be compared")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = _refuse  # type: ignore[assignment]
    __str__ = __repr__ = __format__ = __len__ = __iter__ = __contains__ = _refuse  # type: ignore[assignment]


class Line:
    """The line to the candidate."""

    def __init__(self, link: int) -> None:
        self._peer = Peer(link, self._serve)
        self._functions: list[Any] = []
        self.num_calls = 0

    def call(self, target: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the candidate; its changes to the arguments are repeated here."""
        sent = [self._encode(arg) for arg in args]
        named = {name: self._encode(arg) for name, arg in kwargs.items()}
        self.num_calls += 1
        reply = self._ask({"op": "call", **target, "args": sent, "kwargs": named, "back": True})
        for arg, after in zip(args, reply.get("args") or ()):
            if after is not None:
                _overwrite(arg, decode(after, self._special))
        return decode(reply["value"], self._special)

    def get(self, number: int, name: str) -> Any:
        """An attribute of an object of the candidate."""
        return decode(
            self._ask({"op": "get", "handle": number, "name": name})["value"], self._special
        )

    def value(self, name: str) -> Any:
        """What the candidate's module holds under a name."""
        return decode(self._ask({"op": "name", "name": name})["value"], self._special)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        reply = self._peer.ask(request)
        if type(reply) is not dict or not ("value" in reply or "error" in reply):
            raise Gone
        if "error" in reply:
            raise _error(reply)
        return reply

    def _encode(self, value: Any) -> Any:
        try:
            return encode(value, self._by_number)
        except Untravelable as error:
            raise CannotTravel(str(error)) from None

    def _by_number(self, value: Any) -> Any:
        if type(value) is Handle:
            return {"h": value._number}
        if type(value) is Remote:
            return {"n": value._target["name"]}
        if type(value) in (types.FunctionType, types.BuiltinFunctionType):
            self._functions.append(value)
            return {"fn": len(self._functions) - 1}
        raise Untravelable(f"{type(value).__name__} is not made of built-in types")

    def _special(self, tag: str, body: Any) -> Any:
        if tag == "h" and type(body) is int:
            return Handle(self, body)
        if tag == "np":
            return numpy_value(body)
        raise TypeError(f"a value of kind {tag!r}")

    def _serve(self, request: Any) -> Any:
        """The candidate calls a function that the tests passed to it."""
        try:
            function = self._functions[request["id"]]
            args = [decode(arg, self._special) for arg in request["args"]]
            return {"value": encode(function(*args), self._by_number)}
        except Exception as error:  # noqa: BLE001  the tests' own, sent to the candidate
            return {"error": f"{type(error).__name__}: {error}"[:500]}


def _overwrite(target: Any, content: Any) -> None:
    if type(target) is not type(content):
        raise Gone
    if type(target) in (list, bytearray) or is_array(target):
        target[:] = content
    elif type(target) in (dict, set):
        target.clear()
        target.update(content)


_NOT_PASSED_ON = (StopIteration, StopAsyncIteration)
"""They would end a loop in the tests, and with it the asserts that were still to come."""


def _error(reply: dict[str, Any]) -> Exception:
    """The candidate's exception as the nearest built-in one, with the names of its classes."""
    error = _nearest_error(reply)
    kinds = reply["error"] if type(reply["error"]) is list else ()
    error.candidate_kinds = tuple(name for name in kinds if type(name) is str)  # type: ignore[attr-defined]
    return error


def _nearest_error(reply: dict[str, Any]) -> Exception:
    detail = str(reply.get("detail", ""))[:500]
    for name in reply["error"] if type(reply["error"]) is list else ():
        kind = getattr(builtins, name, None) if type(name) is str else None
        if kind is Exception:
            break
        if (
            isinstance(kind, type)
            and issubclass(kind, Exception)
            and not issubclass(kind, _NOT_PASSED_ON)
        ):
            try:
                return kind(detail)
            except TypeError:
                break
    return CandidateError(detail)


# ------------------------------------------------------------------------------------------- the asserts


class _Reporting(ast.NodeTransformer):
    """Turns each assert statement into a report. Those that must not be reached, and caught ones, are kept.

    ``optional`` are those that a run of the tests may pass by: in branches, handlers and helper functions.
    """

    def __init__(self, check: str = "", first: int = 0) -> None:
        self.next = first
        self.optional: list[int] = []
        self._check = check
        self._caught = 0
        self._depth = 0

    def _inside(self, node: Any) -> Any:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    visit_If = visit_Match = visit_ExceptHandler = visit_ClassDef = visit_AsyncFunctionDef = _inside

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if node.name == self._check and not self._depth:
            return self.generic_visit(node)
        return self._inside(node)

    def visit_Try(self, node: ast.Try) -> Any:
        self._caught += bool(node.handlers)
        node.body = [self.visit(statement) for statement in node.body]
        self._caught -= bool(node.handlers)
        for part in ("handlers", "orelse", "finalbody"):
            setattr(node, part, [self.visit(child) for child in getattr(node, part)])
        return node

    def visit_Assert(self, node: ast.Assert) -> Any:
        if self._caught or (isinstance(node.test, ast.Constant) and not node.test.value):
            return node
        template = ast.parse(
            "try: __value__ = bool(0)\n"
            "except Exception as __error__: __report__(NUMBER, False, __error__)\n"
            "else: __report__(NUMBER, __value__)".replace("NUMBER", str(self.next))
        ).body[0]
        if self._depth:
            self.optional.append(self.next)
        self.next += 1
        template.body[0].value.args[0] = node.test  # type: ignore[attr-defined]
        return ast.copy_location(template, node)


SITE_BUILTINS = frozenset({"copyright", "credits", "exit", "help", "license", "quit"})
"""Built-in names that tests do not use: there they are functions of the candidate."""


def _unresolved(trees: list[ast.Module], known: dict[str, Any]) -> set[str]:
    """The names that the tests read but do not define."""
    read: set[str] = set()
    made = {*dir(builtins)} - SITE_BUILTINS | {*known, "__report__", "__value__", "__error__"}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, ast.arg):
                made.add(node.arg)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)) and node.name:
                made.add(node.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                made.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return read - made


def _without_star(tree: ast.Module) -> ast.Module:
    """Tests without ``from solution import *``: what they then lack is the candidate's."""
    tree.body = [
        node
        for node in tree.body
        if not (
            isinstance(node, ast.ImportFrom)
            and node.module in SOLUTION_MODULES
            and node.names[0].name == "*"
        )
    ]
    return tree


class _Run:
    """One run of a data set's tests."""

    def __init__(self, job: dict[str, Any], candidate: dict[str, Any] | None) -> None:
        self._job = job
        self._candidate = candidate
        self._seen: dict[int, bool] = {}
        self._line = Line(LINK) if candidate is None else None

    def send(self, **message: Any) -> None:
        if self._job.get("nonce"):
            message["nonce"] = self._job["nonce"]
        write_frame(CHANNEL, message)

    def report(self, number: int, value: bool, error: Exception | None = None) -> None:
        held = value and self._seen.get(number, True)
        if self._seen.get(number) is not held:
            self._seen[number] = held
            detail = f"{type(error).__name__}: {error}"[:300] if error is not None else ""
            self.send(test=number, held=held, detail=detail)

    def go(self) -> None:
        """Run setup and tests; a failure before the first call of the candidate is the tests' own fault."""
        job = self._job
        reporting = _Reporting(job.get("check", ""))
        space: dict[str, Any] = {"__name__": TESTS_MODULE, "__report__": self.report}
        install(self._solution())
        setup = ast.parse(job.get("setup", ""))
        trees = [_without_star(ast.parse(text)) for text in job["tests"]]
        exec(compile(setup, "<setup>", "exec"), space)
        if job.get("suite"):
            self._suite(trees, space)
            return
        trees = [reporting.visit(tree) for tree in trees]
        self.send(tests=reporting.next, optional=reporting.optional)
        self._provide(trees, space)
        for tree in trees:
            self._one(compile(ast.fix_missing_locations(tree), "<tests>", "exec"), space)
        if job.get("check"):
            space[job["check"]](self._function(job["entry"]))
        self.send(end=True)

    def _provide(self, trees: list[ast.Module], space: dict[str, Any]) -> None:
        """Give the tests the candidate's functions under the names that they do not define."""
        for name in {*_unresolved(trees, space), self._job.get("entry", "")} - {""}:
            space[name] = self._function(name)

    def _suite(self, trees: list[ast.Module], space: dict[str, Any]) -> None:
        """Run test functions: one that raises does not hold.

        One that skips itself does not count, but in the candidate's process, where the candidate could have it skipped.
        """
        self._provide(trees, space)
        for tree in trees:
            exec(compile(tree, "<tests>", "exec"), space)
        if "setup_module" in space:
            space["setup_module"]()
        cases = collect(space)
        self.send(tests=len(cases), optional=[])
        for number, case in enumerate(cases):
            try:
                case.run()
                self.report(number, True)
            except Skipped as error:
                if self._candidate is None:
                    self.send(skipped=number)
                else:
                    self.report(number, False, error)
            except Exception as error:  # noqa: BLE001  the test does not hold
                self.report(number, False, error)
        self.send(end=True)

    def _solution(self) -> types.ModuleType:
        """The module that tests import the candidate's names from."""
        module = types.ModuleType("solution")
        if self._candidate is None:
            module.__dict__["__getattr__"] = self._imported
        else:
            module.__dict__.update(self._candidate)
        return module

    def _imported(self, name: str) -> Any:
        """What ``from solution import NAME`` gives: a constant as its value, anything else as a function."""
        if name.startswith("__"):
            raise AttributeError(name)
        if not name.isupper():
            return self._function(name)
        assert self._line is not None
        return self._line.value(name)

    def _function(self, name: str) -> Any:
        if self._candidate is None:
            assert self._line is not None
            return Remote(self._line, {"name": name})
        if name in self._candidate:
            return self._candidate[name]
        if "Solution" not in self._candidate:
            raise NameError(f"name {name!r} is not defined")
        return getattr(self._candidate["Solution"](), name)

    def _one(self, code: types.CodeType, space: dict[str, Any]) -> None:
        """One entry of a list of tests; what it raises ends only this entry."""
        if self._job.get("check"):
            exec(code, space)
            return
        try:
            exec(code, space)
        except Exception as error:  # noqa: BLE001  the test's own, reported
            self.send(raised=f"{type(error).__name__}: {error}"[:300])

    @property
    def has_called(self) -> bool:
        return self._candidate is not None or (self._line is not None and self._line.num_calls > 0)


def test(job: dict[str, Any], candidate: dict[str, Any] | None = None) -> int:
    """Run tests against the candidate at the other end of the link, or against its functions in this process."""
    running = _Run(job, candidate)
    try:
        running.go()
        return 0
    except Gone:
        return 1
    except Unsupported as error:
        running.send(failed=str(error)[:300], own=True)
    except CannotTravel as error:
        running.send(cannot_travel=str(error)[:300])
    except BaseException as error:  # noqa: BLE001  reported to the supervisor
        running.send(failed=f"{type(error).__name__}: {error}"[:300], own=not running.has_called)
    return 1
