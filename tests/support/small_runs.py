"""Tiny runs and what of them must not depend on how often they were stopped; for the tests in this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grpo import Recipe, Trainer

TINY = [
    "steps=6",
    "data.args.count=400",
    "sample.prompts=3",
    "sample.group_size=3",
    "sample.max_tokens=8",
    "data.held_out=3",
    "evaluate.samples=1",
    "evaluate.every=2",
    "checkpoint.every=2",
    "rewards.correct.use=mine.py:mixed",
]
REWARDS = '''
import os, time

def mixed(text):
    """Groups are flat now and then, so that some are refilled."""
    return float(len(text) % 3 == 0)

def nth_call():
    with open("calls", "ab") as calls:
        calls.write(b".")
        return calls.tell()

def signals(text, at, number, after=None):
    """`mixed`; its calls of those numbers send the trainer a signal, once the folder `after` is there."""
    call = nth_call()
    if call in at:
        for _ in range(500):
            if after is None or os.path.exists(after):
                break
            time.sleep(0.01)
        time.sleep(0.4 * at.index(call))  # two signals at once would be one
        os.kill(os.getppid(), number)
    return mixed(text)

def faulty(text):
    """`mixed`, with a fault now and then, always for the same texts."""
    if sum(map(ord, text)) % 17 == 0:
        raise ValueError("no verdict on that")
    return mixed(text)
'''
FILES = ("samples.jsonl", "evaluations.jsonl", "final/model.safetensors")


def recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.load("quickstart", *TINY, f"run_dir={folder}", *overrides)


def run(folder: Path, *overrides: str, **options: Any) -> Trainer:
    """A run to its end."""
    trainer = Trainer(recipe(folder, *overrides), **options)
    for _ in trainer:
        pass
    return trainer


def outcome(folder: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on how often it was stopped: bytes, or records without seconds."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("cost")
    in_sets = [part for both in summary["sets"].values() for part in both.values()]
    for part in (summary, summary["before"], summary["after"], *in_sets):
        (part or {}).pop("seconds", None)
    return {
        "metrics": [
            {k: v for k, v in record.items() if not k.startswith("seconds/")} for record in records
        ],
        "summary": summary,
        **{file: (folder / file).read_bytes() for file in FILES if (folder / file).exists()},
    }


def assert_same(whole: Path, cut: Path) -> None:
    expected, found = outcome(whole), outcome(cut)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert found[name] == value, f"{name} of {cut.name} is not that of {whole.name}"
