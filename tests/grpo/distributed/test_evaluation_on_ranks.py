"""Several processes share an evaluation: each prompt is sampled once, and what is written is what one process writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from launches import train_all
from quick_runs import lines, summary

pytestmark = pytest.mark.slow  # processes of their own

REWARDS = '''
import os, signal

def length(text, group):
    """Takes several values, and notes which process asks for which prompt."""
    rank = os.environ.get("RANK", "0")
    with open(f"scored-{os.environ.get('WORLD_SIZE', '1')}", "a") as out:
        out.write(f"{rank} {group}\\n")
    return float(len(text) % 3 == 0)

def stops(text, group):
    """`length`; the second process is asked to stop in its first evaluation."""
    if os.environ["RANK"] == "1" and not os.path.exists("asked"):
        open("asked", "w").close()
        os.kill(os.getppid(), signal.SIGTERM)
    return length(text, group)
'''
ARGUMENTS = [
    "quickstart",
    "steps=2",
    "model.dtype=float64",
    "data.args.count=400",
    "sample.prompts=3",
    "sample.group_size=2",
    "sample.max_tokens=24",
    "data.held_out=7",
    "evaluate.samples=2",
    "evaluate.every=1",
    "checkpoint.every=1",
    "rewards.correct.use=mine.py:length",
    "evaluate.sets={few: {source: countdown, args: {style: symbols, count: 1}, template: plain, samples: 3},"
    " own: {source: countdown, args: {style: symbols, count: 4}, template: plain, temperature: 0.5,"
    " rewards: {form: {use: countdown_format}}}}",
]
COUNTS = {"heldout": 7 * 2, "few": 3, "own": 4 * 2}
"""Completions of each set in an evaluation."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(processes: int, folder: Path, *further: str) -> tuple[int, list[str]]:
    return processes, [*ARGUMENTS, f"run_dir={folder}", *further]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """What ``metrics.jsonl`` holds of evaluations."""
    return [row for row in lines(folder) if "heldout/accuracy" in row]


def ranks_of(number: int) -> dict[str, set[str]]:
    """By evaluated prompt, the processes of a run of so many that had it scored."""
    found = defaultdict(set)
    for line in Path(f"scored-{number}").read_text().splitlines():
        rank, prompt = line.split(" ", 1)
        if prompt.startswith(("held-", "few")):
            found[prompt].add(rank)
    return found


def test_every_process_takes_a_share_and_the_result_is_that_of_one(folder: Path) -> None:
    names = ("one", "two", "three")
    ended = train_all(*(train(i, folder / name) for i, name in enumerate(names, 1)))
    assert [run.codes for run in ended] == [[0], [0, 0], [0, 0, 0]], ended[-1].err[-3000:]
    one = folder / "one"
    rows = lines(one, "evaluations.jsonl")
    found = Counter((row["step"], row["set"]) for row in rows)
    assert found == {(step, name): COUNTS[name] for step in range(3) for name in COUNTS}
    assert {"eval/few/accuracy", "eval/own/reward"} <= evaluations(one)[0].keys()
    for number, name in enumerate(names[1:], 2):
        shared = folder / name
        written = (shared / "evaluations.jsonl").read_bytes()
        assert written == (one / "evaluations.jsonl").read_bytes(), name
        assert evaluations(shared) == evaluations(one)
        assert summary(shared)["tokens"] == summary(one)["tokens"]
        ranks = ranks_of(number)
        assert len(ranks) == 8 and all(len(those) == 1 for those in ranks.values())
        assert set().union(*ranks.values()) == set(map(str, range(number)))


def test_one_process_that_is_asked_to_stop_interrupts_the_evaluation_of_all(folder: Path) -> None:
    reward = "rewards.correct.use=mine.py:stops"
    run = folder / "cut"
    stopped, resumed, whole = train_all(
        train(2, run, reward),
        train(2, run, reward, "--resume"),
        train(2, folder / "whole", reward),
    )
    assert stopped.codes == [3, 3], stopped.err[-3000:]
    assert "stopped after step 0" in stopped.err
    assert [ended.codes for ended in (resumed, whole)] == [[0, 0], [0, 0]], resumed.err[-3000:]
    assert (run / "evaluations.jsonl").read_bytes() == (
        folder / "whole" / "evaluations.jsonl"
    ).read_bytes()
    assert evaluations(run) == evaluations(folder / "whole")
