"""Two processes make the same run as one: same completions, same updates up to the rounding of sums."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quick_runs import records
from safetensors.torch import load_file

from grpo.cost.book import read_costs
from grpo.distributed.process_group import Ranks, card_towards, find_other_machines
from grpo.recipe import RecipeError

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [
    "-m",
    "grpo.train",
    str(ROOT / "recipes" / "quickstart.yaml"),
    "steps=2",
    "sample.prompts=5",
    "sample.group_size=4",
    "data.held_out=4",
    "evaluate.samples=1",
    "optim.updates=2",
    "loss.beta=0.01",
    "optim.tokens_per_micro_batch=300",
    "model.dtype=float64",
]


def run(
    folder: Path, launcher: list[str], further: list[str]
) -> tuple[list[dict], list[dict], dict[str, torch.Tensor], str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(
        [sys.executable, *launcher, *COMMAND, *further, f"run_dir={folder}"],
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return (
        records(folder),
        records(folder, "samples.jsonl"),
        load_file(folder / "checkpoints" / "step-000002" / "weights.safetensors"),
        done.stdout,
    )


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


FURTHER = {
    "a KL": [],
    "statistics over the update": [
        "loss.policy=kl_cov",
        "loss.cov_share=0.1",
        "loss.top_entropy=0.5",
        "loss.entropy=0.01",
        "loss.entropy_target=9",
        "loss.kl_in=reward",
        "loss.kl=k1",
        "advantage.flat=refill",
        "advantage.rule=batch_std_centered",
        "loss.correction=sequence",
    ],
}


@pytest.mark.parametrize(
    "further",
    [
        next(iter(FURTHER)),
        *(pytest.param(name, marks=pytest.mark.slow) for name in list(FURTHER)[1:]),
    ],
)
@pytest.mark.slow
def test_two_ranks_make_the_run_that_one_makes(tmp_path: Path, further: str) -> None:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        free_port(),
    ]
    one = run(tmp_path / "one", [], FURTHER[further])
    two = run(tmp_path / "two", launcher, FURTHER[further])
    assert "2 processes" in two[3] and two[3].count("held-out before training") == 1
    assert one[1] == two[1]
    assert len(one[0]) == len(two[0]) == 2
    for a, b in zip(one[0], two[0]):
        assert {key: a[key] for key in a if key.startswith("ledger/")} == {
            key: b[key] for key in b if key.startswith("ledger/")
        }
        assert a["update/grad_norm"] == pytest.approx(b["update/grad_norm"], rel=1e-9)
        assert a["update/tokens"] == b["update/tokens"]
        assert a["correction/ess"] == pytest.approx(b["correction/ess"], rel=1e-9)
    for name, tensor in one[2].items():
        assert torch.allclose(tensor, two[2][name], rtol=1e-8, atol=1e-12), name
    costs = read_costs(tmp_path / "two")
    alone = read_costs(tmp_path / "one")
    assert costs is not None and alone is not None
    assert (costs.attempts, costs.processes, costs.missing, costs.cut_off) == (1, 2, 0, 0)
    assert costs.tokens == alone.tokens
    first = json.loads((tmp_path / "two" / "costs.jsonl").read_text().splitlines()[-1])
    assert costs.total.wall == sum(of["wall"] for of in first["phases"].values())
    assert costs.total.cpu > sum(of.get("cpu", 0.0) for of in first["phases"].values())


def test_accelerates_own_accumulation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(RecipeError, match="divide the gradient a second time"):
        Ranks.start()


@pytest.mark.skipif(
    sys.platform != "linux", reason="the loopback's card has another name elsewhere"
)
def test_gloo_is_given_the_card_to_the_first_machine_where_a_name_leads_to_the_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-machine.invalid")
    find_other_machines()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    find_other_machines()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    find_other_machines()
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    assert card_towards("no-such-machine.invalid") is None


def test_a_single_process_gathers_and_sums_nothing() -> None:
    tensor = torch.ones(3)
    Ranks().sum([tensor])
    assert (
        Ranks().gather([1, 2]) == [1, 2]
        and torch.equal(tensor, torch.ones(3))
        and not Ranks().any(False)
    )
