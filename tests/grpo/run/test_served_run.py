"""A run that samples at servers: as one that samples by itself, resumed after all of them died, stopped by a probe."""

from __future__ import annotations

import json

import pytest

from grpo import RecipeError, Trainer
from grpo.monitor.gates import GateStop
from grpo.recipe.target import evaluation_recipe
from grpo.rollout.engine import EngineFailed
from tests.support.fake_server import VLLM, fake_servers
from tests.support.fake_sglang import SGLANG
from tests.support.served_runs import BASE, served_recipe


@pytest.mark.parametrize("wire", [VLLM, SGLANG], ids=lambda wire: wire.engine)
def test_a_run_samples_trains_and_evaluates_by_a_server(tmp_path, wire):
    with fake_servers(BASE, "", wire=wire) as servers:
        summary = Trainer(served_recipe(tmp_path / "run", servers), quiet=True).train()
    assert summary["ledger"]["sampled"] == 12
    records = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [record for record in records if "reward/mean" in record]
    assert len(steps) == 3
    assert max(record["policy/drift"] for record in steps) < 1e-5
    assert len(servers[0].loaded) == 4, "once before the first step, and after every update"
    left = [path.name for path in (tmp_path / "run" / "servers").iterdir()]
    assert left == [servers[0].weight_version]


def test_a_run_whose_servers_all_died_is_resumed_where_it_was(tmp_path):
    with fake_servers(BASE, "") as servers:
        trainer = Trainer(served_recipe(tmp_path / "run", servers), quiet=True)
        steps = iter(trainer)
        next(steps)
        servers[0].dies_after = servers[0].num_tokens + 5
        with pytest.raises(EngineFailed, match="all of 1 server are lost"):
            next(steps)
    with fake_servers(BASE, "") as servers:
        summary = Trainer(served_recipe(tmp_path / "run", servers), quiet=True, resume=True).train()
    assert summary["ledger"]["sampled"] == 12


@pytest.mark.parametrize("wire", [VLLM, SGLANG], ids=lambda wire: wire.engine)
def test_a_probe_stops_the_run_by_the_name_of_the_fault(tmp_path, wire):
    with fake_servers(BASE, "", wire=wire) as servers:
        steps = iter(Trainer(served_recipe(tmp_path / "run", servers), quiet=True))
        next(steps)
        servers[0].fault = "stale weights"
        with pytest.raises(GateStop, match="step 1: gate server_.*; stale weights: http"):
            list(steps)


def test_servers_that_do_not_fit_are_the_users_mistake(tmp_path):
    with fake_servers(BASE, "", settings={"dtype": "torch.bfloat16"}) as servers:
        recipe = served_recipe(tmp_path / "run", servers)
        trainer = Trainer(recipe, quiet=True)
        with pytest.raises(RecipeError, match="sample.servers: http.* computes in bfloat16"):
            trainer.open()
    with pytest.raises(RecipeError, match="sample.servers: http.* does not answer"):
        Trainer(recipe, quiet=True).open()


def test_a_finished_run_is_evaluated_without_its_servers(tmp_path):
    with fake_servers(BASE, "") as servers:
        Trainer(served_recipe(tmp_path / "run", servers, "steps=1"), quiet=True).train()
    found = evaluation_recipe(str(tmp_path / "run"), None, [])
    assert found.sample.engine == "embedded" and not found.sample.servers
