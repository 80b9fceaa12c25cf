"""Every command builds policy, engine and sampling by the same functions, so no option of the recipe is lost in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from grpo import Recipe
from grpo.evaluate import evaluate_recipe
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine
from grpo.run import setup
from grpo.sample import write

BASE = Path(__file__).resolve().parents[3] / "recipes" / "quickstart_base"


@pytest.fixture
def engines(monkeypatch):
    """The options of each engine that is made."""
    made: list[dict] = []

    class Watched(Engine):
        def __init__(self, policy, **options):
            made.append(options)
            super().__init__(policy, **options)

    monkeypatch.setattr(setup, "Engine", Watched)
    yield made
    torch.use_deterministic_algorithms(False)


def recipe(*overrides: str) -> Recipe:
    return Recipe.load(
        "quickstart",
        "deterministic=true",
        "sample.max_rows=24",
        "sample.max_tokens=4",
        "data.held_out=4",
        "evaluate.samples=1",
        *overrides,
    )


def expected() -> dict:
    return {
        "max_rows": 24,
        "stop": recipe().sample.stop,
        "kv_memory_gib": None,
        "deterministic": True,
        "keep": recipe().sample.keep_graphs,
        "compile": False,
        "open_decoder": None,
    }


def test_evaluation_keeps_every_option_of_the_engine(engines):
    evaluate_recipe(recipe())
    assert engines == [expected()] and torch.are_deterministic_algorithms_enabled()


def test_sampling_keeps_every_option_of_the_engine(engines, tmp_path):
    with (tmp_path / "out.jsonl").open("w") as out:
        write(recipe(), out, n=1, rows=2, with_tokens=False, say=print)
    assert engines == [expected()] and torch.are_deterministic_algorithms_enabled()


def test_a_sample_section_becomes_one_sampling_and_evaluation_has_its_own_temperature():
    section = recipe(
        "sample.temperature=0.7", "sample.top_k=5", "sample.top_p=0.9", "sample.min_p=0.1"
    ).sample
    assert setup.sampling_of(section) == Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1)
    assert setup.sampling_of(section, 0.0) == Sampling(
        temperature=0.0, top_k=5, top_p=0.9, min_p=0.1
    )
