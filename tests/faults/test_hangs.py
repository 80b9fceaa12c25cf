"""Real hangs in real runs: the watchdog names the component within its deadline, and nothing is left behind.

What is injected where stands in ``hang_child.py``. All runs of this file are made once, side by side.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterable

import pytest

HERE = Path(__file__).resolve().parents[1] / "support"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="injects faults as Linux has them")
SLACK = 30.0  # seconds that a busy machine may add to a deadline; a hang that nobody ends takes for ever

STUCK = {  # run: (deadline, what the first line must say)
    "engine": (
        2,
        [
            "engine (grpo.rollout) made no progress",
            "watchdog.engine_seconds",
            "completions alive",
            "in the queue",
        ],
    ),
    "update": (2, ["update (grpo.learner) made no progress", "watchdog.update_seconds"]),
    "judge": (
        3,
        [
            "judge (rewards.service) made no progress",
            "verdicts still missing",
            "by rewards.mine",
        ],
    ),
    "collective": (
        3,
        [
            "collective (grpo.distributed.process_group, gather, number",
            "on rank 0",
            "rank 1 has NOT arrived: it waits for engine (grpo.rollout)",
            "in stuck_in_c",
        ],
    ),
    "divided weights": (
        3,
        [
            "collective (grpo.distributed.fsdp, a layer's weights, number",
            "on rank 0",
            "rank 1 has NOT arrived: it waits for update (grpo.learner)",
            "in stuck_in_c",
        ],
    ),
    "checkpoint": (2, ["checkpoint (grpo.run.checkpoint, a checkpoint", ".writing-step-000002/"]),
}
BEFORE_THE_RUN = {
    "loading": (2, ["loading (grpo.data.rows, the data set) made no progress"]),
    "server": (2, ["server (wandb, its start) made no progress"]),
}


FAST = ["engine", "judge", "checkpoint", "interpreter", "engine dies"]
SLOW = [
    "update",
    "collective",
    "divided weights",
    "rank killed",
    "loading",
    "server",
    "reward",
    "warn",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """By the name of a run: the folder of the runs that are made together with it, and how they ended."""

    @functools.cache
    def together(slow: bool) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("hangs")
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent.parent),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "0",
        }
        command = [
            sys.executable,
            str(HERE / "hang_child.py"),
            str(folder),
            *(SLOW if slow else FAST),
        ]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        return folder, json.loads(done.stdout.splitlines()[-1])

    return lambda name: together(name in SLOW)


def run_of(made: Any, name: str) -> tuple[Path, dict[str, Any]]:
    """The run folder of `name`, and how it ended."""
    folder, found = made(name)
    return folder / name.replace(" ", "-") / "run", found[name.replace(" ", "-")]


def marked(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


def idle_seconds(said: str) -> float:
    """For how long the component made no progress, by the watchdog's line; that may have begun before the fault."""
    return float(re.search(r"made no progress for ([\d.]+) s", the_line(said))[1])


def the_line(said: str) -> str:
    return next(line for line in said.splitlines() if line.startswith("watchdog: "))


@pytest.mark.parametrize("name", marked(STUCK))
@pytest.mark.slow
def test_a_stuck_component_is_named_within_its_deadline_and_the_checkpoint_stands(
    made, name: str
) -> None:
    (deadline, words), (folder, found) = STUCK[name], run_of(made, name)
    assert (
        found["code"] == 1
        and idle_seconds(found["said"]) >= deadline
        and found["seconds"] < deadline + SLACK
    )
    assert all(word in the_line(found["said"]) for word in words), the_line(found["said"])
    assert found["said"].splitlines()[-1].startswith(the_line(found["said"]))
    written = (folder / "watchdog.txt").read_text()
    assert the_line(written) == the_line(found["said"]) and "thread MainThread:" in written
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name.startswith("step-")] == [
        "step-000001"
    ]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) in (
        (2, 3) if name == "checkpoint" else (1,)
    )


@pytest.mark.parametrize(
    "name, place",
    [
        pytest.param("engine", "in stuck_in_c", marks=pytest.mark.slow),
        ("judge", "in blocks_the_service"),
        ("checkpoint", "in open"),
        pytest.param("update", "in stuck_in_c", marks=pytest.mark.slow),
        pytest.param("loading", "in load_rows", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_the_stacks_show_where_each_component_is_stuck(made, name: str, place: str) -> None:
    assert place in run_of(made, name)[1]["said"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BEFORE_THE_RUN)
def test_a_server_that_never_answers_is_named_before_anything_is_trained(made, name: str) -> None:
    (deadline, words), (folder, found) = BEFORE_THE_RUN[name], run_of(made, name)
    assert found["code"] == 1 and idle_seconds(found["said"]) >= deadline
    assert all(word in the_line(found["said"]) for word in words)
    journal = folder / "metrics.jsonl"
    assert not journal.exists() or not journal.read_bytes()


def test_code_that_holds_the_interpreter_is_noticed_from_outside(made) -> None:
    folder, found = run_of(made, "interpreter")
    assert found["code"] == -9 and found["seconds"] < 3 + SLACK
    assert "the interpreter ran no Python for 3 s" in the_line(found["said"])
    assert "in holding_the_interpreter" in found["said"]
    assert "in holding_the_interpreter" in (folder / "watchdog.txt").read_text()


def test_an_engine_that_dies_is_named_in_the_last_line(made) -> None:
    folder, found = run_of(made, "engine dies")
    assert found["code"] == 1 and "RuntimeError: the device was lost" in found["said"]
    assert (
        found["said"]
        .splitlines()[-1]
        .startswith("stopped: the engine failed with 8 of 8 completions unfinished")
    )
    assert not (folder / "watchdog.txt").exists()


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_which_say_where_they_missed_it(made) -> None:
    folder, found = run_of(made, "rank killed")
    assert found["code"] == 1 and found["seconds"] < SLACK
    last = found["said"].splitlines()[-1]
    assert last.startswith("stopped: collective (grpo.distributed.fsdp, a layer's weights, number")
    assert "without rank 1, whose process has ended, died of RuntimeError" in last
    assert "the checkpoint of step 1 stands. To resume: python -m grpo.train quickstart" in last
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000001"]


@pytest.mark.slow
def test_a_reward_that_never_returns_is_the_services_matter_and_raises_no_alarm(made) -> None:
    folder, found = run_of(made, "reward")
    assert found["code"] == 0 and not (folder / "watchdog.txt").exists()
    (record,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert record["reward/timeouts"] >= 1


@pytest.mark.slow
def test_a_watchdog_that_only_warns_reports_and_waits_on(made) -> None:
    folder, found = run_of(made, "warn")
    assert found["code"] == 0 and (folder / "summary.json").exists()
    assert "still waiting, since watchdog.action is warn" in (folder / "watchdog.txt").read_text()


@pytest.mark.parametrize("name", marked(["engine", "update"]))
def test_no_worker_sandbox_or_other_child_outlives_its_run(made, name: str) -> None:
    assert made(name)[1]["orphans"] == []
