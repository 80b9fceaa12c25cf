"""Tools that hang, die, flood, raise and answer no text, within a run that trains: each is named, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import light_rewards
import light_tools
import pytest
from chat_templates import QWEN_TOOLS
from quick_runs import lines
from tool_runs import calling_model, recipe

from grpo import Trainer
from rewards.environments.types import OBSERVATION_STATUSES

pytestmark = pytest.mark.slow  # whole runs with workers that are killed

LIGHT = str(Path(light_tools.__file__))
CALLS = (
    ("add", {"a": 1, "b": 2}, "ok"),
    ("wait", {"seconds": 60}, "timeout"),
    ("flood", {"count": 10_000_000}, "ok"),
    ("no_text", {"kind": "bytes"}, "ok"),
    ("wait_politely", {"seconds": 60}, "timeout"),
    ("fail", {"message": "no index"}, "error"),
    ("leave", {"code": 3}, "died"),
    ("no_text", {"kind": "surrogate"}, "ok"),
)
"""A call, and what becomes of it."""


def some_call(number: int) -> str:
    name, arguments, _ = CALLS[number % len(CALLS)]
    written = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>{' ' * (number // len(CALLS))}{written}</tool_call>"


def test_a_run_goes_on_whatever_its_tools_do_and_names_it(tmp_path: Path) -> None:
    calling_model(tmp_path / "model", some_call, QWEN_TOOLS)
    names = dict.fromkeys(name for name, _, _ in CALLS)
    made = recipe(
        tmp_path,
        data={"template": "chat"},
        rewards={"calls": {"use": f"{Path(light_rewards.__file__)}:reward_of_length"}},
        tools=[f"{LIGHT}:{name}" for name in names],
        environment={
            "format": "auto",
            "timeout_seconds": 0.4,
            "max_calls": 8,
            "observation_tokens": 64,
        },
        sample={"prompts": 4, "max_tokens": 32},
    )
    assert Trainer(made, quiet=True).train()["steps"] == 2
    samples = lines(tmp_path / "run", "samples.jsonl")
    turns = [turn for row in samples for turn in row.get("turns", [])]
    expected = {name: status for name, _, status in CALLS}
    for turn in turns:
        if turn["status"] != "refused":
            statuses = [expected[name] for name in turn["calls"]]
            assert turn["status"] == max(statuses, key=OBSERVATION_STATUSES.index)
    assert {turn["status"] for turn in turns} >= {"ok", "timeout", "died"}
    for record in (row for row in lines(tmp_path / "run") if "reward/mean" in row):
        ends = ("cancelled", "faulted", "truncated_masked", "flat", "trained", "correction_masked")
        assert record["ledger/sampled"] == 16 == sum(record[f"ledger/{end}"] for end in ends)
        assert record["tool/errors"] > 0 and record["policy/drift"] < 1e-5
