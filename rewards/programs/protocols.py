"""Runs a program against tests in a sandbox; the verdict is reached here, outside the program's process.

*Inputs and outputs*: a fresh process for each test; what it prints is compared here. *Calls*: one process answers
calls one by one; what it returns is compared here. *Assert statements*: they run in a second confined process, to
which the candidate's functions are remote. Only if an argument of the tests cannot be sent to another process do they
run in the candidate's process, and the outcome is marked weak.
"""

from __future__ import annotations

import json
import math
import secrets
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Collection, Sequence

import rewards.sandbox as sandbox_folder
from rewards.clock import SECOND_TRY
from rewards.programs.comparison import same_output, same_value
from rewards.programs.nouns import AssertTests, CallTests, IOTests, TestData
from rewards.programs.sources import imports_of
from rewards.sandbox import Limits, Program, Result, Running, SandboxFault
from rewards.sandbox.supervisor import STARVED, job_of, with_output_bytes

__all__ = ["Outcome", "run_tests"]

Sandbox = Any
"""A `rewards.sandbox.Sandbox`, or a server of the same interface."""
IMPORTS = """from typing import *
from collections import *
from functools import *
from heapq import *
from bisect import *
from itertools import *
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, typing
"""
"""What judges of the sites that such tasks come from have imported beforehand."""
SUITE_SOURCE = Path(sandbox_folder.__file__).with_name("test_suite.py")
Readings = list[list[Any]]
"""Lists of expected values, each of which is a way to read a row's outputs."""
RESULT_BYTES = 4 << 20
ROOM_BYTES = 64 << 10
SHORTEST_SECONDS = 0.01


class TestsFailed(ValueError):
    """The data set's own tests broke before they called the candidate."""


@dataclass(slots=True)
class Outcome:
    """Which tests passed: True, False, or None for one that was not run. ``why`` says what stopped or failed first."""

    passed: list[bool | None]
    hidden: Sequence[bool] = ()
    status: str = "scored"
    why: str = ""
    weak: bool = False
    notes: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """How tests are run: limits of each, the time for all of them, whether the first failure ends it."""

    limits: Limits = Limits()
    total_seconds: float = 60.0
    stop_early: bool = True
    comparison: str = "floats"
    tolerance: float = 1e-6

    def again(self) -> Rules:
        """The rules of a second try, after time ran out."""
        return replace(
            self, limits=self.limits.again(), total_seconds=SECOND_TRY * self.total_seconds
        )


class _Budget:
    """What is left of the time for all tests: of what the programs use, not of what passes."""

    def __init__(self, rules: Rules) -> None:
        self.seconds_left = rules.total_seconds

    def spend(self, result: Result) -> None:
        """Take off what a program used; of a server's only the time that passed is known."""
        self.seconds_left -= result.used_seconds or result.seconds

    def limits(self, rules: Rules) -> Limits | None:
        """The next test's limits; None where no time is left."""
        if self.seconds_left < SHORTEST_SECONDS:
            return None
        return replace(rules.limits, seconds=min(rules.limits.seconds, self.seconds_left))


async def run_tests(sandbox: Sandbox, program: Program, tests: TestData, rules: Rules) -> Outcome:
    """The outcome of a program's tests; `SandboxFault` or `TestsFailed` where it is not the program that failed.

    A program that runs out of time is run once more, in fresh processes and with `SECOND_TRY` times the time: it is
    late only if it is late again.
    """
    outcome = await _run_once(sandbox, program, tests, rules)
    if outcome.status != "timeout":
        return outcome
    return await _run_once(sandbox, program, tests, rules.again())


async def _run_once(sandbox: Sandbox, program: Program, tests: TestData, rules: Rules) -> Outcome:
    if isinstance(tests, IOTests):
        return await _run_io(sandbox, program, tests, rules)
    if program.language != "python":
        raise ValueError(
            f"tests that call functions are for Python; the program is in {program.language}"
        )
    if isinstance(tests, CallTests):
        return await _run_calls(sandbox, program, tests, rules)
    return await _run_asserts(sandbox, program, tests, rules)


def _note(outcome: Outcome, index: int, why: str) -> None:
    outcome.notes[index] = why
    outcome.why = outcome.why or why


# ------------------------------------------------------------------------------------- inputs and outputs


async def _run_io(sandbox: Sandbox, program: Program, tests: IOTests, rules: Rules) -> Outcome:
    outcome = Outcome([None] * len(tests.outputs), tests.hidden)
    limits = rules.limits
    if tests.seconds is not None:
        limits = replace(limits, seconds=limits.patience * tests.seconds)
    if tests.memory_bytes is not None:
        limits = replace(limits, memory_bytes=tests.memory_bytes)
    budget = _Budget(rules)
    rules = replace(rules, limits=limits)
    for index, (stdin, wanted) in enumerate(zip(tests.inputs, tests.outputs)):
        test_limits = budget.limits(rules)
        if test_limits is None:
            outcome.status = "timeout"
            outcome.why = f"no time was left for test {index}"
            break
        test_limits = with_output_bytes(test_limits, 2 * len(wanted.encode()) + ROOM_BYTES)
        result = await sandbox.run(program, stdin.encode("utf-8", "surrogatepass"), test_limits)
        budget.spend(result)
        passed = result.status == "ok" and await _is_right(
            sandbox, tests=tests, index=index, result=result, rules=rules
        )
        outcome.passed[index] = passed
        if not passed:
            _note(outcome, index, _why(result))
            outcome.status = "timeout" if result.status == "timeout" else outcome.status
            if rules.stop_early or result.status == "compile_error":
                break
    return outcome


async def _is_right(
    sandbox: Sandbox, *, tests: IOTests, index: int, result: Result, rules: Rules
) -> bool:
    if not tests.checker:
        return same_output(result.stdout, tests.outputs[index], rules.comparison, rules.tolerance)
    files = {
        "input.txt": tests.inputs[index].encode(),
        "correct_output.txt": tests.outputs[index].encode(),
        "solution_output.txt": result.stdout,
    }
    checker = Program(tests.checker, files=files, args=["checker.py", *files])
    limits = replace(rules.limits, output_bytes=ROOM_BYTES)
    verdict = await sandbox.run(checker, b"", limits)
    if verdict.status == "timeout":
        verdict = await sandbox.run(checker, b"", limits.again())
    tokens = verdict.stdout.decode(errors="replace").split()
    if verdict.status == "ok" and tokens and _is_number(tokens[-1]):
        return float(tokens[-1]) >= 1
    if result.stdout.decode(errors="replace") == tests.outputs[index]:
        raise TestsFailed(
            f"the checker gives no verdict on the expected output: {verdict.detail or _why(verdict)}"
        )
    wanted = replace(result, stdout=tests.outputs[index].encode())
    # a checker that cannot judge even the expected output is broken
    await _is_right(sandbox, tests=tests, index=index, result=wanted, rules=rules)
    return False


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _why(result: Result) -> str:
    """What went wrong, without revealing the expected output."""
    if result.status == "ok":
        return "wrong output"
    if result.status == "error":
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        why = f"left with {result.exit_code}" + (f": {last[0][:200]}" if last else "")
        return why + _about_packages(why)
    return {
        "timeout": "took too long",
        "output_limit": "printed too much",
        "compile_error": "does not compile",
    }.get(result.status, result.status) + (f": {result.detail[:300]}" if result.detail else "")


def _about_packages(error: str) -> str:
    """What to do about a package that programs cannot import."""
    if "ModuleNotFoundError" not in error:
        return ""
    return "; programs can import the standard library and what sandbox.packages names"


# ---------------------------------------------------------------------------------------------------- calls


async def _run_calls(sandbox: Sandbox, program: Program, tests: CallTests, rules: Rules) -> Outcome:
    outcome = Outcome([None] * len(tests.outputs), tests.hidden)
    budget = _Budget(rules)
    index = 0
    readings = _readings(tests)
    program = replace(
        program, prompt=program.prompt or IMPORTS + tests.starter, entry=program.entry or tests.name
    )
    while index < len(tests.outputs):
        if budget.limits(rules) is None:
            outcome.status = "timeout"
            outcome.why = f"no time was left for test {index}"
            break
        before = index
        index = await _calls_in_one_process(
            sandbox,
            program,
            tests=tests,
            readings=readings,
            rules=rules,
            outcome=outcome,
            first=index,
            budget=budget,
        )
        if outcome.passed[index - 1] is False and (rules.stop_early or index == before):
            break
        if outcome.status == "compile_error":
            outcome.status = "scored"
            break
    return outcome


async def _calls_in_one_process(
    sandbox: Sandbox,
    program: Program,
    *,
    tests: CallTests,
    readings: Readings,
    rules: Rules,
    outcome: Outcome,
    first: int,
    budget: _Budget,
) -> int:
    """Make calls from number ``first`` until one breaks the process; returns the number of the next."""
    if not sandbox.runs_here:
        return await _call_remotely(
            sandbox,
            program,
            tests=tests,
            readings=readings,
            rules=rules,
            outcome=outcome,
            index=first,
            budget=budget,
        )
    size = max(len(json.dumps(output, default=str)) for output in tests.outputs)
    limits = budget.limits(rules) or rules.limits
    limits = replace(
        limits, output_bytes=max(RESULT_BYTES, 8 * size), cpu_seconds=rules.total_seconds
    )
    async with sandbox.lease(1) as lease:
        running = lease.begin(job_of(program, "serve"), limits)
        problem = await _loaded(running)
        for index in range(first, len(tests.outputs)):
            reply = None
            if not problem:
                running.channel.send(
                    {"op": "call", "name": tests.name, "args": _encoded(tests.arguments[index])}
                )
                left = max(SHORTEST_SECONDS, budget.seconds_left - running.used_seconds)
                running.give_more_time(min(rules.limits.seconds, left))
                reply = await running.frame()
            passed, why = _judged(reply, readings, index, rules.tolerance)
            outcome.passed[index] = passed
            if reply is None:
                why = problem or await _exit_reason(running)
                outcome.status = "timeout" if running.stop_reason == "timeout" else outcome.status
                outcome.status = (
                    "compile_error" if problem.startswith("does not compile") else outcome.status
                )
            if not passed:
                _note(outcome, index, why)
            if reply is None or (not passed and rules.stop_early):
                break
    budget.seconds_left -= running.used_seconds
    return index + 1


async def _loaded(running: Running) -> str:
    """Wait until the candidate's definitions are loaded; returns what went wrong, if anything did."""
    for number in range(3):
        frame = await running.frame()
        if not isinstance(frame, dict):
            return await _exit_reason(running)
        if number == 0 and frame.get("ready") is not True:
            raise SandboxFault(str(frame.get("detail")))
        if frame.get("compiled") is False:
            return f"does not compile: {str(frame.get('detail'))[:300]}"
        if "loaded" in frame:
            detail = str(frame.get("detail", ""))[:300]
            why = (
                f"raised while it was loaded: {detail}" if detail else "raised while it was loaded"
            )
            return "" if frame["loaded"] else why + _about_packages(detail)
    return "said what nobody asked"


async def _exit_reason(running: Running) -> str:
    """Why there was no answer. The sandbox's own failure is raised, not returned."""
    running.stop("silent")
    result = await running.end()
    if running.stop_reason in ("timeout", "output_limit"):
        return {"timeout": "took too long", "output_limit": "returned too much"}[
            running.stop_reason
        ]
    return f"left before it answered, with {result.exit_code}"


def _encoded(arguments: Sequence[Any]) -> list[Any]:
    """Arguments from JSON, in the form of ``rewards.sandbox.messages``."""
    return [_plain(argument) for argument in arguments]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return (
            [_plain(item) for item in value]
            if isinstance(value, list)
            else {"t": [_plain(item) for item in value]}
        )
    if isinstance(value, dict):
        return {"d": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, float) and value - value != 0:
        return {"f": repr(value)}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 62:
        return {"i": hex(value)}
    return value


def _readings(tests: CallTests) -> Readings:
    """What the outputs may mean: themselves; where each is a list of one, as APPS wraps results, also its item."""
    readings = [list(tests.outputs)]
    if tests.may_be_wrapped and all(isinstance(o, list) and len(o) == 1 for o in tests.outputs):
        readings.append([output[0] for output in tests.outputs])
    return readings


def _judged(reply: Any, readings: Readings, index: int, tolerance: float) -> tuple[bool, str]:
    """Whether a reply holds an expected value; `readings` keeps those that all replies so far agree with."""
    if not (isinstance(reply, dict) and isinstance(reply.get("reply"), dict)):
        return False, "sent no reply"
    answer = reply["reply"]
    if "value" not in answer:
        kinds = answer.get("error")
        kind = kinds[0] if isinstance(kinds, list) and kinds else "an error"
        return False, f"raised {str(kind)[:80]}: {str(answer.get('detail', ''))[:200]}"
    agreeing = [
        reading for reading in readings if _is_same(answer["value"], reading[index], tolerance)
    ]
    if agreeing:
        readings[:] = agreeing
    return bool(agreeing), "wrong value"


def _is_same(got: Any, wanted: Any, tolerance: float) -> bool:
    try:
        return same_value(got, wanted, tolerance)
    except RecursionError:
        return False


# ------------------------------------------------------------------------------------------------ asserts


async def _run_asserts(
    sandbox: Sandbox, program: Program, tests: AssertTests, rules: Rules
) -> Outcome:
    program = replace(
        program, prompt=program.prompt or tests.prompt, entry=program.entry or tests.entry
    )
    job = {
        "mode": "test",
        "tests": list(tests.tests),
        "setup": tests.setup,
        "check": tests.check,
        "entry": tests.entry,
        "suite": tests.suite,
    }
    if not sandbox.runs_here:
        return await _assert_remotely(sandbox, program, job, rules)
    _check_imports(tests, sandbox.importable)
    if tests.inside:
        return await _assert_in_one_process(sandbox, program, job, rules)
    try:
        outcome = await _assert_in_two_processes(sandbox, program, job, rules)
        if outcome is None:
            outcome = await _assert_in_one_process(sandbox, program, job, rules)
    except SandboxFault:
        outcome = await _assert_in_two_processes(sandbox, program, job, rules)
        if outcome is None:
            raise
    if tests.hidden and len(outcome.passed) == len(tests.hidden):
        outcome.hidden = tests.hidden
    return outcome


def _check_imports(tests: AssertTests, importable: Collection[str]) -> None:
    """Raise `TestsFailed` if tests import what cannot be imported here: no program can pass them."""
    for text in (tests.setup, *tests.tests):
        missing = sorted(imports_of(text) - set(importable))
        if missing:
            raise TestsFailed(
                f"the row's tests import {missing[0]}, which is not in the standard library; name it in "
                "sandbox.packages if it is installed here"
            )


async def _assert_in_two_processes(
    sandbox: Sandbox, program: Program, job: dict[str, Any], rules: Rules
) -> Outcome | None:
    """Tests in a separate process; None if one of their arguments cannot be sent."""
    ours, theirs = socket.socketpair()
    try:
        async with sandbox.lease(2) as lease:
            both = 2 * rules.limits.seconds  # to load it, and then for the tests
            limits = replace(rules.limits, output_bytes=RESULT_BYTES, cpu_seconds=both)
            candidate = lease.begin(job_of(program, "serve", linked=True), limits, ours.fileno())
            problem = await _loaded(candidate)
            if problem:
                return _nothing_passed(candidate, problem)
            tester = lease.begin(job, limits, theirs.fileno())
            tester.take_turns_with(candidate)
            ours.close()
            theirs.close()
            reports = await _reports(tester, None)
            return _verdict(reports, tester, candidate)
    finally:
        ours.close()
        theirs.close()


async def _assert_in_one_process(
    sandbox: Sandbox, program: Program, job: dict[str, Any], rules: Rules
) -> Outcome:
    """Tests in the candidate's process: a program that finds the nonce can forge their reports."""
    nonce = secrets.token_hex(16)
    async with sandbox.lease(1) as lease:
        running = lease.begin(
            job_of(program, "weak"), replace(rules.limits, output_bytes=RESULT_BYTES)
        )
        problem = await _loaded(running)
        if problem:
            return _nothing_passed(running, problem)
        running.channel.send({**job, "nonce": nonce})
        outcome = _verdict(await _reports(running, nonce), running, running)
    assert outcome is not None  # nothing has to be sent here
    outcome.weak = True
    return outcome


def _nothing_passed(running: Running, problem: str) -> Outcome:
    return Outcome(
        [False], status="timeout" if running.stop_reason == "timeout" else "scored", why=problem
    )


@dataclass(slots=True)
class _Reports:
    """What the tests' process reported."""

    count: int = 0
    optional: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    held: dict[int, bool] = field(default_factory=dict)
    details: dict[int, str] = field(default_factory=dict)
    ended: bool = False
    failed: str = ""
    is_tests_fault: bool = False
    cannot_travel: bool = False
    raised: str = ""


async def _reports(running: Running, nonce: str | None) -> _Reports:
    reports = _Reports()
    while (frame := await running.frame()) is not None:
        if not isinstance(frame, dict) or (nonce is not None and frame.get("nonce") != nonce):
            continue
        if "tests" in frame:
            reports.count = frame["tests"]
            reports.optional = set(frame.get("optional", ()))
        elif "skipped" in frame:
            reports.skipped.add(frame["skipped"])
        elif "test" in frame:
            reports.held[frame["test"]] = frame["held"] is True
            reports.details.setdefault(frame["test"], str(frame.get("detail", "")))
        elif "raised" in frame:
            reports.raised = reports.raised or str(frame["raised"])
        elif "failed" in frame:
            reports.failed = str(frame["failed"])
            reports.is_tests_fault = frame.get("own") is True
        reports.cannot_travel = reports.cannot_travel or "cannot_travel" in frame
        reports.ended = reports.ended or frame.get("end") is True
    return reports


def _verdict(reports: _Reports, tester: Running, candidate: Running) -> Outcome | None:  # type: ignore[return]
    """The tests passed if every assert that must be was reported and held and the tests came to their end."""
    if reports.cannot_travel:
        return None
    is_empty = len(reports.skipped) == reports.count
    if reports.is_tests_fault or (reports.ended and is_empty):
        raise TestsFailed(
            f"the row's tests fail by themselves: {reports.failed or 'they hold no assert statement or test function'}"
        )
    reasons = (tester.stop_reason, candidate.stop_reason)
    if "starved" in reasons:
        raise SandboxFault(STARVED)
    is_late = "timeout" in reasons
    passed_by = (reports.optional - reports.held.keys()) | reports.skipped
    counted = [number for number in range(reports.count) if number not in passed_by]
    outcome = Outcome([reports.held.get(number, False) for number in counted] or [False])
    outcome.status = "timeout" if is_late else "scored"
    for number, detail in reports.details.items():
        if not reports.held[number]:
            _note(outcome, number, detail or f"test {number} does not hold")
    if not reports.ended or reports.raised:
        outcome.passed += [] if not all(outcome.passed) else [False]
        outcome.why = (
            outcome.why
            or reports.raised
            or reports.failed
            or ("took too long" if is_late else "left during tests")
        )
    elif not all(outcome.passed):
        outcome.why = outcome.why or "a test was not reached"
    return outcome


# ------------------------------------------------------------------------------------------------ servers

_CALL_DRIVER = """
import json as _json, sys as _sys, os as _os
_out = _os.dup(1); _os.dup2(2, 1)
_job = _json.loads(_sys.stdin.read())
_space = {"__name__": "solution"}
try: exec(compile(_job["source"], "<solution>", "exec"), _space)
except SystemExit as _leaving:
    if _leaving.code: raise
_function = _space.get(_job["name"]) or getattr(_space["Solution"](), _job["name"])
def _encode(x):
    if x is None or type(x) in (bool, str): return x
    if type(x) is int: return x if abs(x) < 2**62 else {"i": hex(x)}
    if type(x) is float: return x if x - x == 0 else {"f": repr(x)}
    if type(x) is list: return [_encode(y) for y in x]
    if type(x) is tuple: return {"t": [_encode(y) for y in x]}
    if type(x) is dict: return {"d": [[_encode(k), _encode(v)] for k, v in x.items()]}
    raise TypeError(type(x).__name__)
_os.write(_out, ("\\n" + _json.dumps({"reply": {"value": _encode(_function(*_job["args"]))}}) + "\\n").encode())
"""
_ASSERT_DRIVER = """
import json as _json, sys as _sys
_job = _json.loads(_sys.stdin.read())
_space = {"__name__": "solution"}
if _job["prompt"]:
    try: exec(compile(_job["prompt"], "<prompt>", "exec"), _space)
    except SyntaxError: pass
try:
    try: exec(compile(_job["source"], "<solution>", "exec"), _space)
    except SyntaxError: exec(compile(_job["prompt"] + _job["source"], "<solution>", "exec"), _space)
except SystemExit as _leaving:
    if _leaving.code: raise
_tests = dict(_space)
exec(compile(_job["setup"], "<setup>", "exec"), _tests)
_tests.update(_space)
if _job["suite"]:
    _suite = {"__name__": "test_suite"}
    exec(compile(_job["suite"], "<suite>", "exec"), _suite)
    assert _suite["passes_all"](_job["setup"] + "\\n" + "\\n".join(_job["tests"]), _space)
    _job["tests"] = []
for _text in _job["tests"]: exec(compile(_text, "<tests>", "exec"), _tests)
if _job["check"]: _tests[_job["check"]](_space[_job["entry"]])
print("\\n" + _job["nonce"])
"""


async def _call_remotely(
    sandbox: Sandbox,
    program: Program,
    *,
    tests: CallTests,
    readings: Readings,
    rules: Rules,
    outcome: Outcome,
    index: int,
    budget: _Budget,
) -> int:
    """One call on a server; its last line of output is compared here."""
    source = (
        program.source if f"def {tests.name}" in program.source else program.prompt + program.source
    )
    job = {"source": source, "name": tests.name, "args": list(tests.arguments[index])}
    result = await sandbox.run(Program(_CALL_DRIVER), json.dumps(job).encode(), rules.limits)
    budget.spend(result)
    reply = None
    try:
        reply = (
            json.loads(result.stdout.decode().rstrip().rpartition("\n")[2])
            if result.status == "ok"
            else None
        )
    except (ValueError, RecursionError):
        pass
    passed, why = _judged(reply, readings, index, rules.tolerance)
    outcome.passed[index] = passed
    outcome.status = "timeout" if result.status == "timeout" else outcome.status
    if not passed:
        _note(outcome, index, why if reply is not None else _why(result))
    return index + 1


async def _assert_remotely(
    sandbox: Sandbox, program: Program, job: dict[str, Any], rules: Rules
) -> Outcome:
    """A server offers no second process, so the asserts run in the candidate's."""
    if not (job["suite"] or any("assert" in text for text in job["tests"])):
        raise TestsFailed("the row's tests hold no assert statement")
    nonce = secrets.token_hex(16)
    sent = {**job, "source": program.source, "prompt": program.prompt, "nonce": nonce}
    sent["suite"] = SUITE_SOURCE.read_text(encoding="utf-8") if job["suite"] else ""
    result = await sandbox.run(Program(_ASSERT_DRIVER), json.dumps(sent).encode(), rules.limits)
    passed = result.status == "ok" and result.stdout.decode(errors="replace").rstrip().endswith(
        "\n" + nonce
    )
    status = "timeout" if result.status == "timeout" else "scored"
    return Outcome([passed], status=status, why="" if passed else _why(result), weak=True)
