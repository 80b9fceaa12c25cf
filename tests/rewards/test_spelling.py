"""Counts in messages agree with their nouns and verbs."""

from __future__ import annotations

import re
from pathlib import Path

from rewards.spelling import agree, many

ROOT = Path(__file__).resolve().parents[2]
NOUNS = "tokens|prompts|steps|completions|rows|samples|groups|updates|models|files|golds|tests|answers|faults"
COUNTED = re.compile(rf"\{{(?P<value>[^{{}}]+)\}} (?P<noun>{NOUNS})\b")
"""A value in an f-string before a noun in the plural; a value with a format is a mean or an estimate."""
TEXTS = ("number(", "short(", "shown_set(")
"""Functions whose values are texts, such as 1.2k."""
MORE_THAN_ONE = {
    ("grpo/data/leaks.py", "len(chosen)"),
    ("grpo/model/policy.py", "head.vocab_size"),
    ("grpo/preflight/checks.py", "len(rows)"),
    ("grpo/preflight/checks.py", "count"),
    ("grpo/preflight/dry_run.py", "steps"),
    ("grpo/recipe/constraints.py", "recipe.sample.group_size"),
    ("grpo/run/fingerprint.py", "before"),
    ("rewards/code_tests.py", "columns['count']"),
}
"""What is said of more than one only."""


def test_one_is_singular_and_every_other_number_plural():
    assert [many(n, "held-out prompt").partition(" ")[2] for n in (0, 1, 2, 11)] == [
        "held-out prompts",
        "held-out prompt",
        "held-out prompts",
        "held-out prompts",
    ]
    verbs = ("are", "have", "were", "do", "occur", "pass", "reach")
    assert [agree(1, verb) for verb in verbs] == [
        "is",
        "has",
        "was",
        "does",
        "occurs",
        "passes",
        "reaches",
    ]
    assert [agree(n, verb) for n in (0, 2) for verb in verbs] == [*verbs, *verbs]


def test_messages_count_by_the_helper():
    found = []
    for package in ("grpo", "rewards"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                for match in COUNTED.finditer(line):
                    value, name = match["value"], str(file.relative_to(ROOT))
                    is_exact = not (":" in value or value.isupper() or value.startswith(TEXTS))
                    if is_exact and (name, value) not in MORE_THAN_ONE:
                        found.append(f"{name}:{number}: {match[0]}")
    assert found == []
