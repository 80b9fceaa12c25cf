"""Verdicts on labelled answers and programs, and what becomes of completions whose reward fails."""

from __future__ import annotations

from typing import Iterator, Mapping, Sequence

from grpo.selftest import failing_rewards
from grpo.selftest.answers import RIGHT, WRONG
from grpo.selftest.check import Measured, Skipped, all_of
from rewards import RewardSpec, Sample, Score
from rewards.sandbox import IsolationError, SandboxOptions
from rewards.service.service import RewardService

PROGRAMS: Mapping[str, tuple[str, str, float | None]] = {
    "a right program": ("print(sum(map(int, input().split())))", "scored", 1.0),
    "a wrong one": ("print(max(map(int, input().split())))", "scored", 0.0),
    "one that raises": ("raise ValueError(input())", "scored", 0.0),
    "one that exits": ("print(sum(map(int, input().split())))\nexit()", "scored", 1.0),
    "one that does not compile": ("print(sum(", "scored", 0.0),
}
"""Programs that are to add two numbers, with the status and the score each must get."""
FAILING: Mapping[str, str] = {
    "raises": "fault",
    "not_a_number": "fault",
    "hangs": "timeout",
    "dies": "fault",
    "right": "scored",
}
"""The status that each function of ``failing_rewards`` must get."""


def labelled_answers() -> Measured:
    """``math_answer`` on answers whose label is known, right and wrong ones, strict."""
    cases = [*_cases(RIGHT, 1.0), *_cases(WRONG, 0.0)]
    samples = [Sample(text, {"answer": gold}) for gold, text, _ in cases]
    with RewardService([RewardSpec("math", "math_answer")]) as service:
        verdicts = service.judge(samples)
    wrong = []
    for (gold, text, label), judged in zip(cases, verdicts):
        if judged.score.value != label:
            wrong.append(f"{text} for {gold} gets {judged.score.value}")
    return all_of(len(cases) - len(wrong), len(cases), "labels met", "; ".join(wrong[:3]))


def _cases(table: Mapping[str, Sequence[str]], label: float) -> Iterator[tuple[str, str, float]]:
    for gold, answers in table.items():
        for answer in answers:
            yield gold, f"So the answer is $\\boxed{{{answer}}}$.", label


def failing_rewards_are_faults() -> Measured:
    """Each failing reward beside one that works: its own status, and none of another's."""
    specs = []
    for name in FAILING:
        seconds = 0.3 if name == "hangs" else None
        use = f"{failing_rewards.__name__}:{name}"
        specs.append(RewardSpec(name, use, timeout_seconds=seconds))
    with RewardService(specs) as service:
        parts = service.judge([Sample("a completion")])[0].parts
    wrong = _unexpected(parts)
    number = len(FAILING)
    return all_of(
        number - len(wrong), number, "verdicts with the right status", "; ".join(wrong[:3])
    )


def _unexpected(parts: Mapping[str, Score]) -> list[str]:
    """The verdicts that have another status, or a value where nothing was judged."""
    return [
        f"{name} is {parts[name].status}"
        for name, status in FAILING.items()
        if parts[name].status != status or (status == "fault" and parts[name].value is not None)
    ]


def programs() -> Measured:
    """``code_tests`` on harmless programs with known verdicts, and how programs are confined here."""
    tests = {"inputs": ["2 3\n", "10 -4\n"], "outputs": ["5\n", "6\n"]}
    samples = []
    for source, _, _ in PROGRAMS.values():
        samples.append(Sample(f"```python\n{source}\n```", tests))
    try:
        service = RewardService(
            [RewardSpec("code", "code_tests")], sandbox=SandboxOptions(min_isolation="L2")
        )
    except IsolationError as error:
        raise Skipped(f"rewards that run programs are refused here: {error}") from None
    with service:
        verdicts = service.judge(samples)
        isolation = "; ".join(service.isolation)
    wrong = []
    for (name, (_, status, value)), judged in zip(PROGRAMS.items(), verdicts):
        found = judged.parts["code"]
        if (found.status, found.value) != (status, value):
            wrong.append(f"{name} is {found.status} {found.value}")
    number = len(PROGRAMS)
    measured = all_of(number - len(wrong), number, "verdicts right", "; ".join(wrong[:3]))
    return Measured(measured.holds, f"{measured.found}; {isolation}")
