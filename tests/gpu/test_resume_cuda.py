"""On a CUDA device: a deterministic run repeats to the bit in fresh processes, and goes on after a stop or a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo import Recipe, Trainer
from grpo.run import checkpoint

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
QUICK = [
    "quickstart",
    "deterministic=true",
    "steps=6",
    "sample.prompts=8",
    "sample.group_size=4",
    "sample.max_tokens=40",
    "data.held_out=8",
    "evaluate.samples=2",
    "evaluate.every=2",
    "checkpoint.every=1",
    "optim.updates=2",
    "advantage.flat=refill",
]
VARIANTS = {
    "full, fp32": [],
    "bfloat16": ["model.dtype=bfloat16"],
    "float16": ["model.dtype=float16"],
    "LoRA, KL": ["model.lora.rank=4", "loss.beta=0.02", "loss.reference_every=3"],
    "moments on the host, 8-bit": ["optim.offload=true", "optim.state=8bit"],
    "groups in flight": ["advantage.flat=keep", "sample.over_request=0.5", "sample.max_rows=16"],
}


def command(folder: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "grpo.train", *QUICK, f"run_dir={folder}", *overrides]


def outcome(folder: Path) -> dict[str, Any]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [
            {k: v for k, v in record.items() if not k.startswith("seconds/")} for record in records
        ],
        **{
            file: (folder / file).read_bytes()
            for file in ("samples.jsonl", "evaluations.jsonl", "final/model.safetensors")
        },
    }


def assert_same(a: Path, b: Path) -> None:
    first, second = outcome(a), outcome(b)
    for name in first:
        assert first[name] == second[name], name


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_fresh_processes_make_the_same_run_to_the_bit(tmp_path: Path, variant: str) -> None:
    for name in ("a", "b"):
        subprocess.run(
            command(tmp_path / name, *VARIANTS[variant]), check=True, cwd=ROOT, timeout=280
        )
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_one_never_stopped(tmp_path: Path, variant: str) -> None:
    for record in Trainer(Recipe.load(*QUICK, f"run_dir={tmp_path / 'whole'}", *VARIANTS[variant])):
        assert record["step"]
    trainer = Trainer(
        Recipe.load(*QUICK, "checkpoint.every=2", f"run_dir={tmp_path / 'cut'}", *VARIANTS[variant])
    )
    for record in trainer:
        if record["step"] == 3:
            break
    trainer.close()
    for record in Trainer(
        Recipe.load(*QUICK, f"run_dir={tmp_path / 'cut'}", *VARIANTS[variant]), resume=True
    ):
        assert record["step"] > 2
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "whole"), check=True, cwd=ROOT, timeout=280)
    process = subprocess.Popen(command(tmp_path / "cut"), cwd=ROOT)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (
        metrics.exists() and metrics.read_text().count("\n") >= 3
    ):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command(tmp_path / "cut"), "--resume"], check=True, cwd=ROOT, timeout=280)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_copy_of_the_device_is_what_the_device_holds(seed: int) -> None:
    live = {
        "a": torch.randn(1000, 7, device="cuda").t(),
        "b": [torch.randn(5, device="cuda").bfloat16()],
    }
    copy = checkpoint.copied(live)
    expected = live["a"].cpu().clone(), live["b"][0].cpu().clone()
    live["a"].zero_(), live["b"][0].zero_()
    assert (
        copy["a"].device.type == "cpu"
        and torch.equal(copy["a"], expected[0])
        and torch.equal(copy["b"][0], expected[1])
    )
