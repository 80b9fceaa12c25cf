"""Two processes whose policies call tools make the run that one makes, and say the same of the calls."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_runs import ROOT, lines
from safetensors.torch import load_file
from tool_runs import recipe_file

from grpo.run import checkpoint

pytestmark = pytest.mark.slow  # processes of their own

TOOL = '''
import os
from pathlib import Path

def product(expression: str) -> str:
    """Multiplies, and notes in which process of the run.

    Args:
        expression: Two numbers
    """
    note = Path(__file__).with_name(f"calls-{os.environ.get('RANK', 'alone')}")
    with note.open("a") as calls:
        calls.write(expression + "\\n")
    a, b = expression.split("*")
    if int(a) % 5 == 0:
        raise ValueError("not by five")
    return str(int(a) * int(b))
'''


def run(folder: Path, processes: int) -> Path:
    """The run's folder, in one with the tool and its notes."""
    folder.mkdir()
    (folder / "mine.py").write_text(TOOL)
    file = recipe_file(
        folder,
        tools=[f"{folder / 'mine.py'}:product"],
        sample={"prompts": 5},
        optim={"updates": 2, "tokens_per_micro_batch": 200},
        data={"held_out": 3},
        checkpoint={"every": 1},
    )
    launcher = []
    if processes > 1:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = str(listener.getsockname()[1])
        number = str(processes)
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", number]
        launcher += ["--master_port", port]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    further = ["model.dtype=float64", "loss.beta=0.01"]
    command = [sys.executable, *launcher, "-m", "grpo.train", str(file), *further]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run"


def called(folder: Path) -> dict[str, list[str]]:
    """What was called, by rank."""
    files = folder.parent.glob("calls-*")
    return {file.name.removeprefix("calls-"): file.read_text().splitlines() for file in files}


def num_calls(rows: list[dict[str, Any]]) -> int:
    """How many calls were run for completions."""
    turns = [turn for row in rows for turn in row.get("turns", [])]
    return sum(len(turn["calls"]) for turn in turns if turn["status"] != "refused")


def first_moments(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """The optimizer's means of gradients."""
    saved = checkpoint.load(checkpoint_of(folder, step)).optimizer
    return {path: value for path, value in tensors_in(saved) if path.endswith("exp_avg")}


def checkpoint_of(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:06d}"


def tensors_in(value: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    found = []
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            found += tensors_in(inner, f"{path}/{name}")
    return found


def test_tools_run_in_both_processes_and_the_gradient_is_that_of_one(tmp_path: Path) -> None:
    one = run(tmp_path / "one", 1)
    two = run(tmp_path / "two", 2)

    everyone = called(two)
    evaluated = lines(two, "evaluations.jsonl")
    assert set(everyone) == {"0", "1"}
    assert all(everyone.values()) and num_calls(evaluated) > 0
    num_alone = len(called(one)["alone"])
    assert sum(map(len, everyone.values())) == num_alone
    assert num_alone == num_calls(lines(one, "samples.jsonl")) + num_calls(evaluated)

    for name in ("samples.jsonl", "evaluations.jsonl"):
        assert lines(one, name) == lines(two, name)
    told = {turn["status"] for row in lines(two, "samples.jsonl") for turn in row.get("turns", [])}
    assert {"ok", "error"} <= told

    records = [[row for row in lines(folder) if "reward/mean" in row] for folder in (one, two)]
    assert len(records[0]) == len(records[1]) == 2
    for alone, shared in zip(*records):
        for key in alone:
            if key.startswith(("tool/", "ledger/", "completion/")):
                assert alone[key] == shared[key], key
        assert 0 < shared["tool/share"] and 0 < shared["tool/errors"] < 1
        assert alone["update/grad_norm"] == pytest.approx(shared["update/grad_norm"], rel=1e-10)

    said = [json.loads(row) for row in (two / "metrics.jsonl").read_text().splitlines()]
    assert all(row["tool/seconds"] > 0 for row in said if "reward/mean" in row)

    moments = [first_moments(folder, 1) for folder in (one, two)]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    for name, moment in moments[0].items():
        assert moment.abs().max() > 0 and (moment - moments[1][name]).abs().max() < 1e-10, name
    weights = [load_file(checkpoint_of(folder, 2) / "weights.safetensors") for folder in (one, two)]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], rtol=1e-8, atol=1e-12), name
