"""Verdicts on a slow machine, in a cold process and in another order are those of a fast and warm one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "verdicts.py"
PAIRS = [
    (r"\frac{\pi^2}{6}", r"\sum_{k=1}^{\infty} \frac{1}{k^2}"),
    (r"\sqrt{\pi}", r"\int_{-\infty}^{\infty} e^{-x^2} dx"),
    (r"e", r"\lim_{x \to \infty} (1 + \frac{1}{x})^x"),
    (r"\frac12", r"\lim_{x \to 0} \frac{1 - \cos x}{x^2}"),
    (r"1", r"\int_0^{\infty} x e^{-x} dx"),
    (r"2", r"\sum_{k=0}^{\infty} \frac{1}{2^k}"),
    (r"3", r"\sum_{k=0}^{\infty} \frac{1}{2^k}"),
    (r"\ln 2", r"\sum_{k=1}^{\infty} \frac{(-1)^{k+1}}{k}"),
    (r"0.5", r"\frac{1}{2}"),
    (r"x^2 + 2x + 1", r"(x+1)^2"),
    (r"x^2 + 2x + 1", r"(x-1)^2"),
    (r"(2, 3)", r"\left(2, 3\right)"),
]
COUNTS = """
def f(n):
    total = 0
    for i in range(n * 1_000_000):
        total += i & 1
    return total
"""


def asked() -> list[dict]:
    questions = []
    for gold, pred in PAIRS:
        row = {"gold": gold, "pred": pred}
        questions.append({"use": "pairs", "args": {"lenient": False}, "text": "", "row": row})
    calls = {"fn_name": "f", "inputs": [[1], [4]], "outputs": [500_000, 2_000_000]}
    stdin = {"inputs": ["1\n", "8\n"], "outputs": ["500000\n", "4000000\n"]}
    asserts = {"test_list": ["assert f(1) == 500_000", "assert f(8) == 4_000_000"]}
    read = COUNTS + "print(f(int(input())))\nexit()"
    for code, row in (
        (COUNTS, calls),
        (read, stdin),
        (COUNTS, asserts),
        (COUNTS + "x = 1 / 0", calls),
    ):
        text = f"```python\n{code}\n```"
        args = {"test_seconds": 1.5}
        questions.append({"use": "code_tests", "args": args, "text": text, "row": row})
    return questions


@pytest.mark.slow
def test_verdicts_are_the_same_warm_and_cold_and_with_a_third_of_a_core() -> None:
    spec = importlib.util.spec_from_file_location("verdicts", FILE)
    assert spec is not None and spec.loader is not None
    verdicts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(verdicts)
    report = verdicts.compared(asked())
    assert report["statuses"] == {"scored": len(PAIRS) + 4}
    for way, found in report["differ"].items():
        assert not found["changed"], way
        assert found["of"], way
