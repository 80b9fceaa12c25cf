"""Runs whose weights are divided over processes: they end as one process does, and continue on any number of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fake_server import fake_servers
from launches import ROOT, train_all
from quick_runs import records
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grpo.run import checkpoint

pytestmark = pytest.mark.slow  # processes of their own

DIVIDED = "distributed.shard=true"
RECIPE = ROOT / "recipes" / "quickstart.yaml"
SMALL = [
    "sample.prompts=5",
    "sample.group_size=4",
    "sample.max_tokens=24",
    "data.held_out=4",
    "evaluate.samples=1",
    "optim.updates=2",
    "loss.beta=0.01",
    "optim.tokens_per_micro_batch=300",
    "model.dtype=float64",
    "checkpoint.every=1",
    "log.report=false",
]


def run(*runs: tuple[Path, int, list[str]]) -> list[str]:
    """Make runs, each in a folder, of so many processes, with further settings; what each said."""
    ended = train_all(
        *(
            (processes, [str(RECIPE), *SMALL, f"run_dir={folder}", *further])
            for folder, processes, further in runs
        )
    )
    for made in ended:
        assert not any(made.codes), made.err[-3000:]
    return [made.out for made in ended]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.allclose(tensor, b[name], rtol=1e-8, atol=1e-12), name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``one`` and ``two`` make two steps, on one process and, divided, on two; ``cut`` makes one of them, divided."""
    folder = tmp_path_factory.mktemp("runs")
    said = run(
        (folder / "one", 1, ["steps=2"]),
        (folder / "two", 2, ["steps=2", DIVIDED]),
        (folder / "cut", 2, ["steps=1", DIVIDED]),
    )
    assert "2 processes, weights divided" in said[1]
    return folder


def copy_of(made: Path, folder: Path) -> Path:
    """The run that was cut, once more, without its final model."""
    shutil.copytree(made / "cut", folder)
    shutil.rmtree(folder / "final")
    return folder


def test_a_divided_run_ends_as_one_process_does(made: Path) -> None:
    assert records(made / "one", "samples.jsonl") == records(made / "two", "samples.jsonl")
    for a, b in zip(records(made / "one"), records(made / "two")):
        assert a["update/grad_norm"] == pytest.approx(b["update/grad_norm"], rel=1e-9)
        assert {k: a[k] for k in a if k.startswith("ledger/")} == {
            k: b[k] for k in b if k.startswith("ledger/")
        }
    assert_close(final(made / "one"), final(made / "two"))
    names = [path.name for path in sorted((made / "one" / "final").iterdir())]
    assert names == [path.name for path in sorted((made / "two" / "final").iterdir())]
    for name in ("config.json", "generation_config.json"):
        assert (made / "one/final" / name).read_text() == (made / "two/final" / name).read_text()
    model = AutoModelForCausalLM.from_pretrained(made / "two" / "final", dtype=torch.float64)
    assert type(model).__name__ == "LlamaForCausalLM"


def test_a_checkpoint_is_that_of_one_process(made: Path) -> None:
    one, two = (checkpoint.load(made / name / "checkpoints/step-000002") for name in ("one", "two"))
    assert_close(dict(one.weights), dict(two.weights))
    assert one.reference is not None and two.reference is not None
    assert_close(dict(one.reference), dict(two.reference))
    moments = [saved.optimizer["adamw"]["state"] for saved in (one, two)]
    assert moments[0].keys() == moments[1].keys()
    for number, parts in moments[0].items():
        assert_close(parts, moments[1][number])
    assert one.optimizer["num_updates"] == two.optimizer["num_updates"] == 4


def test_a_checkpoint_of_two_processes_is_loaded_bit_for_bit_by_any_number(
    made: Path, tmp_path: Path
) -> None:
    copies = {processes: copy_of(made, tmp_path / str(processes)) for processes in (1, 2, 3, 4)}
    run(*((copy, n, ["steps=1", DIVIDED, "--resume"]) for n, copy in copies.items()))
    expected = final(made / "cut")
    for copy in copies.values():
        found = final(copy)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_another_number_of_processes_goes_on_as_if_it_had_been_so_from_the_start(
    made: Path, tmp_path: Path
) -> None:
    ways = [(1, "true"), (2, "false"), (2, "true"), (3, "true")]
    copies = [copy_of(made, tmp_path / f"{n}-{shard}") for n, shard in ways]
    said = run(
        *(
            (copy, n, ["steps=2", f"distributed.shard={shard}", "--resume"])
            for copy, (n, shard) in zip(copies, ways)
        )
    )
    assert "resume: distributed.shard was True, is False" in said[1]
    assert "by 2 process(es), now 3" in said[3]
    for copy in copies:
        assert records(copy, "samples.jsonl") == records(made / "one", "samples.jsonl")
        assert_close(final(copy), final(made / "one"))


def test_adapters_are_divided_too_and_saved_as_by_one_process(tmp_path: Path) -> None:
    lora = ["steps=1", "model.lora={rank: 3, alpha: 8}"]  # three rows over two processes
    run((tmp_path / "one", 1, lora), (tmp_path / "two", 2, [*lora, DIVIDED]))
    assert_close(final(tmp_path / "one"), final(tmp_path / "two"))
    adapters = [
        load_file(tmp_path / name / "final/adapter/adapter_model.safetensors")
        for name in ("one", "two")
    ]
    assert_close(*adapters)


def test_divided_weights_are_pushed_whole_to_the_server_of_each_process(tmp_path: Path) -> None:
    base = ROOT / "recipes" / "quickstart_base"
    served = [
        "steps=2",
        "sample.engine=vllm",
        "sample.max_tokens=6",
        "model.dtype=float32",
        DIVIDED,
        f"rewards.correct.use={ROOT / 'tests/support/light_rewards.py'}:reward_of_length",
    ]
    with fake_servers(base, "", "") as servers:
        urls = json.dumps([server.url for server in servers])
        run((tmp_path / "run", 2, [*served, f"sample.servers={urls}"]))
        assert [len(server.loaded) for server in servers] == [3, 3]
    for record in records(tmp_path / "run"):
        assert record["policy/drift"] < 1e-5


def test_a_process_alone_has_nothing_to_divide_and_makes_the_same_run(
    made: Path, tmp_path: Path
) -> None:
    (said,) = run((tmp_path / "alone", 1, ["steps=2", DIVIDED]))
    assert "weights divided" not in said
    expected = final(made / "one")
    found = final(tmp_path / "alone")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
