"""The reward for programs: which of a data set's tests the completion's program passes, in a sandbox.

Which process runs what and who decides is described in ``rewards.programs.protocols``; how a program is contained, in
``rewards.sandbox``. A failure of the sandbox or of the row's tests is a fault, never a 0.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Mapping

from rewards.programs.comparison import COMPARISONS
from rewards.programs.extraction import extract_program
from rewards.programs.formats import BadTests, TestData, read_tests
from rewards.programs.protocols import Outcome, Rules, TestsFailed, run_tests
from rewards.reasoning import question_of
from rewards.sandbox import Limits, Program, SandboxFault, SandboxOptions, open_sandbox
from rewards.sandbox.languages import available, language_of
from rewards.spelling import agree, many
from rewards.types import Score

__all__ = ["SCORES", "code_tests"]

MOST_PARTS = 200
LONGEST_PROGRAM = 1 << 20


def _all(passed: list[float], args: Mapping[str, Any]) -> float:
    return float(all(passed))


def _fraction(passed: list[float], args: Mapping[str, Any]) -> float:
    return sum(passed) / len(passed)


def _weighted(passed: list[float], args: Mapping[str, Any]) -> float:
    weights = args.get("weights") or [1.0] * len(passed)
    if len(weights) != len(passed) or not sum(weights) > 0 or min(weights) < 0:
        raise BadTests(
            f"{many(len(weights), 'weight')} for {many(len(passed), 'test')}, or they do not add up to more than 0"
        )
    return sum(weight * part for weight, part in zip(weights, passed)) / sum(weights)


def _first_k(passed: list[float], args: Mapping[str, Any]) -> float:
    return float(all(passed[: args.get("first") or 1]))


SCORES = {"pass": _all, "fraction": _fraction, "weighted": _weighted, "first_k": _first_k}
"""How verdicts become a score: 1 if all tests pass, the share that pass, a weighted share, 1 if the first k pass."""


# fmt: off
async def code_tests(
    text: str, *, prompt: Any = "", prompt_text: str = "", code_prompt: Any = None, language: Any = None,
    weights: Any = None,
    # HumanEval
    test: Any = None, entry_point: Any = None,
    # MBPP
    test_list: Any = None, test_setup_code: Any = None, test_imports: Any = None, challenge_test_list: Any = None,
    # APPS, TACO
    input_output: Any = None, starter_code: Any = None,
    # LiveCodeBench
    public_test_cases: Any = None, private_test_cases: Any = None, metadata: Any = None,
    # DeepCoder, PRIME, SYNTHETIC
    tests: Any = None, test_cases: Any = None,
    # code_contests
    public_tests: Any = None, private_tests: Any = None, generated_tests: Any = None, memory_limit_bytes: Any = None,
    # Codeforces
    official_tests: Any = None, examples: Any = None, time_limit: Any = None, memory_limit: Any = None,
    generated_checker: Any = None, checker: Any = None,
    # one's own
    inputs: Any = None, outputs: Any = None, fn_name: Any = None, hidden_inputs: Any = None, hidden_outputs: Any = None,
    # how tests are run and counted
    score: str = "pass", first: int | None = None, count: str = "all",
    comparison: str = "floats", tolerance: float = 1e-6,
    test_seconds: float | None = None, total_seconds: float | None = None, memory_mb: int = 1024,
    on_compile_error: float = 0.0, allow_weak: bool = True, sandbox: Any = None, timeout_seconds: float = 6.0,
) -> Score:
    # fmt: on
    """1 if the completion's program passes the row's tests; see `SCORES` for other ``score``s.

    The columns are those of ``rewards.programs.formats``. The program is the last complete code block; the row's
    ``prompt`` (or ``code_prompt``; of messages, the user's last) is put before it unless it defines ``entry_point``
    itself. A program inside reasoning that never ends does not count; ``prompt_text`` tells whether the prompt opened
    it. ``count`` says which
    tests count: ``all``, ``visible`` or ``hidden``. ``test_seconds`` bounds one test (default: the recipe's
    ``timeout_seconds``), ``total_seconds`` all of them. ``parts`` holds one verdict per test, 1 or 0; ``visible`` and
    ``hidden`` the share of each kind that passes; ``weak`` is 1 if tests had to run inside the program's process.
    """
    columns = {name: value for name, value in locals().items() if name not in ("text", "sandbox")}
    _check_arguments(score=score, count=count, comparison=comparison)
    try:
        language_name = language_of(language or "python")
        data = read_tests(columns, code_prompt if isinstance(code_prompt, str) else question_of(prompt))
    except ValueError as error:
        return Score(None, status="fault", detail=f"code_tests: {error}")
    code = extract_program(text, language_name, prompt_text)
    refused = _refuse(code, language_name)
    if refused is not None or code is None:
        return refused or Score(0.0, status="no_answer")
    rules = _rules(columns)
    try:
        outcome = await _outcome(sandbox, Program(code, language_name), data, rules)
        verdict = _score(outcome, columns)
    except (SandboxFault, TestsFailed, BadTests) as error:
        return Score(None, status="fault", detail=f"code_tests: {error}", extracted=code)
    return replace(verdict, extracted=code)


code_tests.runs_programs = True  # type: ignore[attr-defined]


def _refuse(code: str | None, language: str) -> Score | None:
    """The score of a completion whose program cannot be run; None if it can."""
    if code is None:
        return Score(0.0, status="no_answer", detail="no complete code block was found")
    if len(code) > LONGEST_PROGRAM:
        detail = f"the program is longer than {LONGEST_PROGRAM} characters"
        return Score(0.0, detail=detail, extracted=code[:2000])
    if not available(language):
        detail = f"code_tests: the tools for {language} are not installed"
        return Score(None, status="fault", detail=detail)
    return None


def _rules(columns: Mapping[str, Any]) -> Rules:
    seconds = columns["test_seconds"] or columns["timeout_seconds"]
    return Rules(
        limits=Limits(seconds=seconds, memory_bytes=columns["memory_mb"] << 20),
        total_seconds=columns["total_seconds"] or 10 * seconds,
        stop_early=columns["score"] == "pass",
        comparison=columns["comparison"],
        tolerance=columns["tolerance"],
    )


def _check_arguments(*, score: str, count: str, comparison: str) -> None:
    for name, value, known in (
        ("score", score, SCORES),
        ("count", count, ("all", "visible", "hidden")),
        ("comparison", comparison, COMPARISONS),
    ):
        if value not in known:
            raise ValueError(f"code_tests: {name} is {value!r}; it can be {', '.join(known)}")


async def _outcome(sandbox: Any, program: Program, tests: TestData, rules: Rules) -> Outcome:
    """The tests' outcome, in the given sandbox or in one that is opened for this call."""
    if sandbox is not None:
        return await run_tests(sandbox, program, tests, rules)
    temporary = await open_sandbox(SandboxOptions(slots=2))
    try:
        return await run_tests(temporary, program, tests, rules)
    finally:
        await asyncio.shield(temporary.close())


def _score(outcome: Outcome, columns: Mapping[str, Any]) -> Score:
    hidden = list(outcome.hidden) or [False] * len(outcome.passed)
    hidden += [False] * (len(outcome.passed) - len(hidden))
    wanted = {"all": (True, False), "visible": (False,), "hidden": (True,)}[columns["count"]]
    counted = [
        float(bool(passed))
        for passed, is_hidden in zip(outcome.passed, hidden)
        if is_hidden in wanted
    ]
    if not counted:
        raise BadTests(f"the row has no {columns['count']} tests")
    value = SCORES[columns["score"]](counted, columns)
    if outcome.why.startswith("does not compile") and not any(counted):
        value = columns["on_compile_error"]
    if outcome.weak and not columns["allow_weak"]:
        raise TestsFailed("the tests can only run inside the program's process, which allow_weak forbids")
    status = "timeout" if outcome.status == "timeout" and value == 0 else "scored"
    return Score(value, _parts(outcome, hidden), status, _detail(outcome))


def _parts(outcome: Outcome, hidden: list[bool]) -> dict[str, float | None]:
    parts: dict[str, float | None] = {}
    for number, passed in enumerate(outcome.passed[:MOST_PARTS]):
        parts[f"test_{number}"] = None if passed is None else float(passed)
    for name, kind in (("visible", False), ("hidden", True)):
        of_kind = [
            bool(passed) for passed, is_hidden in zip(outcome.passed, hidden) if is_hidden is kind
        ]
        if any(hidden) and of_kind:
            parts[name] = sum(of_kind) / len(of_kind)
    return parts | ({"weak": 1.0} if outcome.weak else {})


def _detail(outcome: Outcome) -> str:
    num_passed = sum(passed is True for passed in outcome.passed)
    summary = f"{num_passed} of {many(len(outcome.passed), 'test')} {agree(num_passed, 'pass')}"
    weak = "; weak: the tests ran inside the program's process" if outcome.weak else ""
    return summary + (f"; {outcome.why}" if outcome.why else "") + weak
