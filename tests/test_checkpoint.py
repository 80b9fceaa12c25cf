"""Checkpoints are whole or not there, hold nothing that is unpickled, and bring every generator back."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy
import pytest
import torch

from grpo import checkpoint
from grpo.checkpoint import Checkpoint, cut_back
from grpo.recipe import RecipeError


def example(step: int, reference: bool = True) -> Checkpoint:
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16()}
    optimizer = {"adamw": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2)}}}, "num_updates": step}
    return Checkpoint(step, weights, optimizer, {"a": torch.randn(3, 4)} if reference else None,
                      {"stream": {"epoch": 1, "cursor": 2, "deferred": [3]}, "seconds": 1.5})


@pytest.mark.parametrize("reference", [True, False])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, reference: bool) -> None:
    saved = example(7, reference)
    place = checkpoint.save(tmp_path, saved, keep=2)
    loaded = checkpoint.load(place, "cpu")
    assert loaded.step == 7 and loaded.state == saved.state
    assert all(torch.equal(loaded.weights[name], value) for name, value in saved.weights.items())
    assert torch.equal(loaded.optimizer["adamw"]["state"][0]["exp_avg"],
                       saved.optimizer["adamw"]["state"][0]["exp_avg"])
    assert (loaded.reference is None) is not reference


def test_every_random_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, example(1), keep=1)
    expected = [random.random(), numpy.random.rand(), torch.rand(3), random.gauss(0, 1), numpy.random.randn()]
    random.seed(99), numpy.random.seed(99), torch.manual_seed(99)
    checkpoint.load(place, "cpu")
    again = [random.random(), numpy.random.rand(), torch.rand(3), random.gauss(0, 1), numpy.random.randn()]
    assert torch.equal(expected.pop(2), again.pop(2)) and expected == again


def test_the_last_few_are_kept_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (5, 10, 1_000_000, 999_999):
        checkpoint.save(tmp_path, example(step), keep=2)
    names = sorted(p.name for p in checkpoint.folder_of(tmp_path).iterdir())
    assert names == ["step-1000000", "step-999999"]
    assert checkpoint.latest(tmp_path).name == "step-1000000"


@pytest.mark.parametrize("victim", ["weights.safetensors", "optimizer.pt", "random.pt", "state.json"])
def test_a_crash_while_writing_leaves_the_previous_one_whole(tmp_path: Path, victim: str, monkeypatch) -> None:
    checkpoint.save(tmp_path, example(1), keep=1)

    def fail(path: Path) -> None:
        if path.name == victim:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_flush", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, example(2), keep=1)
    assert checkpoint.latest(tmp_path).name == "step-000001"
    assert checkpoint.load(checkpoint.latest(tmp_path), "cpu").step == 1


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, example(3), keep=1)
    (place / "weights.safetensors").write_bytes(b"garbage")
    with pytest.raises(RecipeError, match="step-000003 is damaged"):
        checkpoint.load(place, "cpu")


def test_a_pickled_object_is_refused(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, example(3), keep=1)
    torch.save({"adamw": Path("x")}, place / "optimizer.pt")
    with pytest.raises(RecipeError, match="damaged"):
        checkpoint.load(place, "cpu")


def test_records_after_the_checkpoint_and_a_torn_line_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "x": step / 3}) + "\n" for step in (1, 2, 3, 4)]
    file.write_text("".join(lines) + '{"step": 5, "x"')
    cut_back(file, 3)
    assert file.read_text() == "".join(lines[:3])
    cut_back(file, -1)
    assert file.read_text() == ""
