"""Training runs at a real vLLM on a CPU: as ``grpo serve`` starts it, ahead of the updates, killed and resumed.

Run by ``make test-server`` (see ``test_vllm``). The model is the quickstart's in a form that vLLM serves on a CPU.
"""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import pytest
from quick_runs import lines, records
from real_vllm import MARKS, PYTHON, begun, free_port, ready
from served_runs import served_recipe

from benchmarks.served import servable, serving
from grpo import Recipe, Trainer
from grpo.rollout.engine import EngineFailed

pytestmark = MARKS
SIZES = [
    "rewards.correct.use=countdown",
    "sample.prompts=4",
    "sample.group_size=8",
    "sample.max_tokens=40",
    "data.held_out=8",
]
NUM_COMPLETIONS = 32
"""Of a step."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("vllm-runs")


@pytest.fixture(scope="module")
def model(scratch):
    return servable(scratch / "model")


@pytest.fixture(scope="module")
def served(scratch, model):
    """The server of ``grpo serve``."""
    with serving(PYTHON, free_port(), model, scratch / "serve.log") as url:
        yield SimpleNamespace(url=url)


def _recipe(model, folder, servers, *overrides):
    return served_recipe(folder, servers, f"model.name={model}", *SIZES, *overrides)


@pytest.fixture(scope="module")
def whole(scratch, model, served):
    """The folder of a run of three steps that was never stopped."""
    Trainer(_recipe(model, scratch / "whole", [served]), quiet=True).train()
    return scratch / "whole"


def _texts(folder):
    return [
        (row["step"], row["prompt_id"], row["completion"], row["finish"])
        for row in lines(folder, "samples.jsonl")
    ]


def _ledger(folder):
    return json.loads((folder / "summary.json").read_text())["ledger"]


def test_a_run_at_grpo_serve_trains_what_the_server_wrote(whole):
    rows = records(whole)
    assert len(rows) == 3 and max(row["policy/drift"] for row in rows) < 1e-5
    assert _ledger(whole)["sampled"] == 3 * NUM_COMPLETIONS
    assert len(_texts(whole)) == 3 * NUM_COMPLETIONS
    assert len(list((whole / "servers").iterdir())) == 1, "weights of earlier steps are removed"


def test_a_run_repeats_at_a_server_that_has_worked_meanwhile(tmp_path, model, served, whole):
    Trainer(_recipe(model, tmp_path / "run", [served]), quiet=True).train()
    assert _texts(tmp_path / "run") == _texts(whole)


@pytest.mark.parametrize("bound", [1, 2])
def test_a_run_ahead_of_its_updates_is_as_old_as_its_bound(tmp_path, model, served, whole, bound):
    recipe = _recipe(model, tmp_path / "run", [served], "steps=4", f"sample.staleness={bound}")
    Trainer(recipe, quiet=True).train()
    rows = records(tmp_path / "run")
    ages = [min(bound, step) for step in range(4)]
    assert [row["staleness/max"] for row in rows] == ages
    assert [row["staleness/mean"] for row in rows] == ages
    for row in lines(tmp_path / "run", "samples.jsonl"):
        oldest = max(0, row["step"] - 1 - bound)
        assert row["versions"] == [[oldest, 0, row["num_tokens"]]]
    assert _texts(tmp_path / "run")[:NUM_COMPLETIONS] == _texts(whole)[:NUM_COMPLETIONS]
    assert _texts(tmp_path / "run")[NUM_COMPLETIONS:] != _texts(whole)[NUM_COMPLETIONS:]
    assert _ledger(tmp_path / "run")["sampled"] == 4 * NUM_COMPLETIONS


def _kill_in_mid_step(trainer, servers):
    """A thread that kills all servers once the next call of the engine has some tokens."""
    engine = trainer.parts.engine
    before = engine.stats

    def wait_and_kill():
        while engine.stats is before or engine.stats.rows_alive < 20:
            time.sleep(0.001)
        for server in servers:
            server.end()

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_a_run_whose_servers_were_all_killed_is_resumed_at_another(
    tmp_path, scratch, model, served, whole
):
    recipe = Recipe.load("quickstart", f"model.name={model}")
    servers = [begun(recipe, scratch / f"{name}.log") for name in ("first", "second")]
    try:
        servers = [ready(server) for server in servers]
        trainer = Trainer(_recipe(model, tmp_path / "run", servers), quiet=True)
        steps = iter(trainer)
        next(steps)
        thread = _kill_in_mid_step(trainer, servers)
        started = time.monotonic()
        with pytest.raises(EngineFailed, match="all of 2 servers are lost .*--resume"):
            next(steps)
        thread.join()
        assert time.monotonic() - started < 120, "not after the servers' silence"
    finally:
        for server in servers:
            server.end()
    Trainer(_recipe(model, tmp_path / "run", [served]), quiet=True, resume=True).train()
    assert _texts(tmp_path / "run") == _texts(whole)
    assert _ledger(tmp_path / "run") == _ledger(whole)
