"""The tool ``python``: a program of the policy runs in the sandbox, and what it prints is what the policy reads.

The value of a last expression is shown, as a notebook does; what is raised ends with its traceback. A session keeps
names from call to call by running the earlier programs again, in a fresh process and without their output: what a
program did that was cut off (time, memory, output) is not kept. ``random`` and ``numpy.random`` are seeded alike in
every process; clocks, ``os.urandom`` and what is built on it are the policy's own risk.
"""

from __future__ import annotations

import json
import math
import signal
from dataclasses import dataclass, field
from typing import Any, Mapping

from rewards.environments.tools import Tool, ToolError, cut, tool_of
from rewards.environments.types import Result
from rewards.sandbox import Limits, Program, SandboxFault
from rewards.sandbox import Result as Ended

__all__ = ["PYTHON", "PythonOptions", "PythonTool"]

REPLAY_SECONDS = 4.0
"""How many times longer than before an earlier program may take when it runs again."""
MARK = b"\x00--\x00\n"
ENDED_EXIT = 102
RAISED_EXIT = 103
"""The exit codes of a program that ran to its end; one that leaves by itself has another."""
SILENT = "(no output)"

_DRIVER = r"""
import ast, json, linecache, os, sys, traceback, types

cells = json.loads(sys.stdin.buffer.read())
raised = False
os.dup2(1, 2)
sys.stderr = sys.__stderr__ = sys.stdout
text = "".join(cells)
if "random" in text:
    import random
    random.seed(0)
    if "numpy" in text:
        try:
            import numpy
            numpy.random.seed(0)
        except ImportError:
            pass
main = types.ModuleType("__main__")
sys.modules["__main__"] = main

def run(number, source):
    name = f"<python-{number}>" if number < len(cells) else "<python>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    tree = ast.parse(source, name)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, name, "exec"), main.__dict__)
    if last is not None:
        value = eval(compile(last, name, "eval"), main.__dict__)
        if value is not None:
            print(repr(value))

def show(error):
    frames = traceback.extract_tb(error.__traceback__)
    kept = [frame for frame in frames if frame.filename.startswith("<python")]
    lines = traceback.format_exception_only(type(error), error)
    if kept:
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(kept), *lines]
    sys.stdout.write("".join(lines))

for number, source in enumerate(cells, 1):
    if number == len(cells):
        sys.stdout.flush()
        os.write(1, b"\x00--\x00\n")
    try:
        run(number, source)
        raised = False
    except BaseException as error:
        raised = True
        show(error)
    sys.stdout.flush()
os._exit(103 if raised else 102)
"""
"""Runs the programs it reads one after another in one namespace; only the last one's output counts, behind a mark."""


def python(code: str) -> str:
    """Runs a Python program and gives what it prints, and the value of its last expression.

    Args:
        code: The program

    Returns:
        The output
    """
    raise AssertionError("a program runs in the sandbox, by `PythonTool`, never here")


PYTHON: Tool = tool_of(python)
"""What the policy is told."""


@dataclass(frozen=True, slots=True)
class PythonOptions:
    """What one call may use. With ``session`` the calls of one completion share their names.

    ``timeout_seconds`` are those that the program uses, computing or asleep. ``output_bytes`` of output stop it.
    """

    session: bool = False
    timeout_seconds: float = 10.0
    memory_mib: int = 1024
    output_bytes: int = 65_536

    def __post_init__(self) -> None:
        if not isinstance(self.session, bool):
            raise ValueError(f"environment.args.session: {self.session!r} is not true or false")
        for name in ("timeout_seconds", "memory_mib", "output_bytes"):
            _check_amount(name, getattr(self, name), is_whole=name != "timeout_seconds")

    @classmethod
    def of(cls, args: Mapping[str, Any], timeout_seconds: float) -> PythonOptions:
        """From a recipe's ``environment.args``; `ValueError` for what is no option."""
        known = cls.__dataclass_fields__
        for name in args:
            if name not in known:
                raise ValueError(
                    f"environment.args: python has no option {name}; there are {', '.join(known)}"
                )
        return cls(**{"timeout_seconds": timeout_seconds, **args})


def _check_amount(name: str, value: Any, *, is_whole: bool) -> None:
    """Refuse what is no number, or none above 0."""
    kinds = int if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        number = "a whole number" if is_whole else "a number"
        raise ValueError(f"environment.args.{name}: {value!r} is not {number}")
    if value <= 0:
        raise ValueError(f"environment.args.{name}: {value} is not above 0")


@dataclass(frozen=True, slots=True)
class _Earlier:
    """A program of the session that ran to its end."""

    source: str
    used_seconds: float
    num_output_bytes: int


@dataclass(slots=True, eq=False)
class PythonTool:
    """The tool of one completion. ``sandbox`` is an open `rewards.sandbox.Sandbox` of the running loop."""

    sandbox: Any
    options: PythonOptions = field(default_factory=PythonOptions)
    name: str = "python"
    _earlier: list[_Earlier] = field(default_factory=list)

    @property
    def schema(self) -> Mapping[str, Any]:
        """What the policy is told."""
        return PYTHON.schema

    async def call(self, given: Mapping[str, Any] | str) -> Result:
        """Run one program."""
        try:
            source = PYTHON.arguments(given)["code"]
        except ToolError as error:
            return Result(self.name, f"Error: {error}", "error")
        cells = [earlier.source for earlier in self._earlier] + [source]
        request = json.dumps(cells).encode()
        try:
            ended = await self.sandbox.run(Program(_DRIVER), request, self._limits())
        except SandboxFault as error:
            return Result(self.name, f"Error: the sandbox failed: {error}", "died")
        if self.options.session and ended.exit_code in (ENDED_EXIT, RAISED_EXIT):
            self._remember(source, ended)
        return self._result(ended)

    def _limits(self) -> Limits:
        """Those of one program, and room for the earlier ones."""
        options = self.options
        replayed_seconds = sum(earlier.used_seconds for earlier in self._earlier)
        replayed_bytes = sum(earlier.num_output_bytes for earlier in self._earlier)
        return Limits(
            seconds=options.timeout_seconds + REPLAY_SECONDS * replayed_seconds,
            memory_bytes=options.memory_mib << 20,
            output_bytes=options.output_bytes + len(MARK) + 2 * replayed_bytes,
        )

    def _remember(self, source: str, ended: Ended) -> None:
        before = sum(earlier.used_seconds for earlier in self._earlier)
        own_seconds = max(0.0, ended.used_seconds - before)
        self._earlier.append(_Earlier(source, own_seconds, len(_output(ended))))

    def _result(self, ended: Ended) -> Result:
        written = _output(ended).decode("utf-8", "replace").rstrip("\n")
        shown = cut(written, self.options.output_bytes)
        status, why = self._verdict(ended)
        lines = [line for line in (shown, why) if line]
        return Result(self.name, "\n".join(lines) or SILENT, status)

    def _verdict(self, ended: Ended) -> tuple[str, str]:
        """A status of ours, and what the policy is told behind the output."""
        if ended.status == "timeout":
            return (
                "timeout",
                f"Error: the program ran longer than {self.options.timeout_seconds:g} s",
            )
        if ended.status == "output_limit":
            return "error", f"Error: the program wrote more than {self.options.output_bytes} bytes"
        if ended.exit_code in (0, ENDED_EXIT):
            return "ok", ""
        if ended.exit_code == RAISED_EXIT:
            return "error", ""
        if ended.exit_code is not None and ended.exit_code < 0:
            return "error", f"Error: the program was killed by {_signal_name(-ended.exit_code)}"
        return "error", f"Error: the program left with exit code {ended.exit_code}"


def _output(ended: Ended) -> bytes:
    """What the last program wrote; nothing if an earlier one ended the process this time."""
    _, mark, output = ended.stdout.rpartition(MARK)
    return output if mark else b""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
