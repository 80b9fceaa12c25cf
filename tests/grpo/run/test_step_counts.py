"""What a step asks of the system, counted: processes, messages to rewards, tokenizer calls, writes, flushes, copies."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from operations import counted
from quick_runs import recipe
from transformers import PreTrainedTokenizerBase

from grpo import Trainer
from grpo.model.policy import Policy
from grpo.rollout.engine import Engine
from grpo.run import checkpoint
from rewards.service.process import WorkerProcess

COMPLETIONS = 6 * 4
STEPS = 4
HAS_COUNTERS = hasattr(psutil.Process, "io_counters")  # not on macOS
QUIET = [
    "evaluate.every=0",
    "evaluate.before=false",
    "data.held_out=0",
    "checkpoint.every=0",
    "log.token_logprobs=0",  # else single tokens are decoded too
]


class Seen:
    """What was asked, by name, and the bytes that this process wrote; `take` gives what is new since the last time."""

    def __init__(self, monkeypatch: Any):
        self.calls = {
            "flush": counted(monkeypatch, checkpoint, "flush"),
            "process": counted(monkeypatch, subprocess, "Popen"),
            "message": counted(monkeypatch, WorkerProcess, "post"),
            "sample": counted(monkeypatch, Engine, "sample"),
            "snapshot": counted(monkeypatch, Policy, "snapshot"),
            "copied": counted(monkeypatch, checkpoint.Checkpoint, "copied"),
            "decode": counted(monkeypatch, PreTrainedTokenizerBase, "decode"),
            "encode": counted(monkeypatch, PreTrainedTokenizerBase, "__call__"),
        }
        self._before: Counter[str] = Counter()

    def take(self) -> Counter[str]:
        now = Counter({name: len(calls) for name, calls in self.calls.items()})
        judged = [message for _, message in self.calls["message"] if len(message) == 4]
        now["judged"] = sum(len(message[1]) for message in judged)
        if HAS_COUNTERS:
            now["bytes"] = psutil.Process().io_counters().write_chars
        new = Counter({name: number - self._before[name] for name, number in now.items()})
        self._before = now
        return new


def steps(folder: Path, monkeypatch: Any, *overrides: str) -> list[Counter[str]]:
    """What each step of a run of `STEPS` adds, the first with all that opens the run."""
    seen = Seen(monkeypatch)
    trainer = Trainer(recipe(folder, *QUIET, *overrides), quiet=True)
    found = []
    for _ in trainer:
        found.append(seen.take())
    assert len(found) == STEPS
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Counter[str]]:
    """A run without evaluations and checkpoints."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return steps(tmp_path_factory.mktemp("plain") / "run", monkeypatch)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Counter[str]]:
    """The same with a checkpoint each step, written before the next begins."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("saved") / "run"
        return steps(folder, monkeypatch, "checkpoint.every=1", "checkpoint.background=false")


def test_a_step_samples_once_and_decodes_each_completion_once(plain: list[Counter[str]]) -> None:
    """Fails where rewards, the log or the page of completions each decode the tokens again, or prompts are encoded again."""
    assert [one["sample"] for one in plain] == [1] * STEPS
    assert [one["decode"] for one in plain] == [COMPLETIONS] * STEPS
    assert [one["encode"] for one in plain] == [
        1,
        0,
        0,
        0,
    ]  # all prompts at once, when the run opens


def test_workers_are_started_once(plain: list[Counter[str]]) -> None:
    """A worker a core, the watchdog's companion, and a compiler; fails where a step starts workers of its own."""
    assert 1 <= sum(one["process"] for one in plain) <= (os.cpu_count() or 1) + 3


def test_equal_completions_are_judged_once_and_none_is_sent_twice(
    plain: list[Counter[str]],
) -> None:
    """Fails where a completion is several messages, or is judged though its text was judged in the step.

    How many completions share a message depends on how fast workers are.
    """
    for one in plain[1:]:
        assert COMPLETIONS // 2 < one["judged"] <= COMPLETIONS
        assert one["message"] <= one["judged"]
    assert sum(one["judged"] for one in plain) < STEPS * COMPLETIONS


@pytest.mark.skipif(not HAS_COUNTERS, reason="the system does not count what is written")
def test_a_step_writes_its_own_rows_and_waits_for_no_disk(plain: list[Counter[str]]) -> None:
    """Fails where journals are written anew, completions are written twice, or each line is flushed to the disk."""
    assert [one["flush"] for one in plain[:-1]] == [0] * (
        STEPS - 1
    )  # the last begins the final checkpoint
    for one in plain[1:-1]:
        assert 0 < one["bytes"] < 900 * COMPLETIONS + 4096


def test_a_step_copies_no_weights_but_for_a_checkpoint(plain: list[Counter[str]]) -> None:
    """The last step's copy is that of the run's final checkpoint; fails where a reference is kept that no loss has."""
    assert [one["snapshot"] for one in plain] == [0] * STEPS
    assert [one["copied"] for one in plain] == [0, 0, 0, 1]


@pytest.mark.skipif(not HAS_COUNTERS, reason="the system does not count what is written")
def test_a_checkpoint_writes_weights_and_moments_once_and_flushes_each_file_once(
    saved: list[Counter[str]],
) -> None:
    """Five files, two journals and two folders; from the third on also that of one that is dropped.

    Fails where a file is written twice, or flushed at each piece.
    """
    weights = 4 * 138_752
    for one in saved[1:-1]:
        assert 3 * weights < one["bytes"] < 3 * weights + 900 * COMPLETIONS + 65_536
        assert one["copied"] == 0  # written while the run waits, so nothing is copied
    assert [one["flush"] for one in saved[1:-1]] == [9, 10]
