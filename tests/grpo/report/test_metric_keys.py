"""Every key that a run logs is in the table that the docs show, and no row of it stands for what another says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grpo.learner.sums import DRIFT_DETAILS
from grpo.report.metric_keys import METRIC_KEYS, MetricKey, described, metric_keys_markdown
from grpo.run.accuracy import METRICS
from grpo.types import OUTCOMES

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = {
    "NAME": "correct",
    "SET": "eval/aime/algebra",
    "SOURCE": "algebra",
    "DETAIL": "rewards/correct",
    "GATE": "drift_p99",
}
LITERAL = re.compile(r'f?"((?:[a-z_]+)/[a-z0-9_{}/]+)"')


def keys_in_the_source() -> set[str]:
    """The keys that stand in the files that make records; what is in braces is a name."""
    files = ("run/metrics.py", "learner/sums.py", "monitor/gates.py")
    texts = [(ROOT / "grpo" / file).read_text(encoding="utf-8") for file in files]
    return {key for text in texts for key in LITERAL.findall(text)}


def test_every_key_that_a_record_is_made_of_is_described():
    keys = keys_in_the_source()
    assert len(keys) > 45
    keys -= {"policy/drift_{name}", "seconds/{phase}"}
    keys |= {f"heldout/{name}" for name in METRICS} | {f"eval/aime/{name}" for name in METRICS}
    keys |= {f"policy/drift_{name}" for name in DRIFT_DETAILS}
    keys |= {f"ledger/{outcome}" for outcome in OUTCOMES}
    keys |= {f"seconds/{phase}" for phase in ("sample", "judge", "update", "step")}
    named = {re.sub(r"\{\w+\}", "name", key) for key in keys}
    assert sorted(key for key in named if described(key) is None) == []


@pytest.mark.parametrize("row", METRIC_KEYS, ids=lambda row: row.form)
def test_a_row_stands_for_its_own_keys_alone(row: MetricKey):
    key = re.sub(r"[A-Z]{3,}", lambda name: EXAMPLES[name[0]], row.form)
    assert described(key) is row
    others = [other.form for other in METRIC_KEYS if other.stands_for(key) and other is not row]
    assert set(others) <= {"gate/GATE", "rewards/NAME/DETAIL"}


def test_an_unknown_key_is_none_and_the_page_has_a_row_a_key():
    assert described("reward/meen") is None and described("step") is None
    rows = metric_keys_markdown().splitlines()
    assert len(rows) == len(METRIC_KEYS) + 2
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
