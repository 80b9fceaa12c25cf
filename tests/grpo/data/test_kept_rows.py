"""The rows of reasoning-gym tasks stay with the run that began with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grpo.data.kept_rows import keep_rows, kept_rows
from grpo.data.prompts import PromptSet
from grpo.evaluate import trained_rows
from grpo.recipe import DataSection, Recipe, RecipeError, to_yaml
from grpo.run.fingerprint import prompts
from grpo.types import Prompt

ROOT = Path(__file__).resolve().parents[3]
ROWS = [
    {"prompt": "p", "answer": None, "metadata": {"order": (1, "a"), 3: {2, 1}, "weight": 0.1}},
    {"prompt": "q", "answer": "2", "metadata": {}},
]
FILE = "rows.json.gz"
GYM = DataSection(source="gym-gcd", args={"count": 2, "seed": 1})


def test_kept_rows_come_back_as_they_were(tmp_path: Path) -> None:
    keep_rows(tmp_path, GYM, ROWS)
    assert kept_rows(tmp_path, GYM) == ROWS
    before = (tmp_path / FILE).read_bytes()
    keep_rows(tmp_path, GYM, ROWS[:1])
    assert (tmp_path / FILE).read_bytes() == before, "the rows of the beginning stay"


def test_rows_of_other_arguments_or_another_source_are_not_taken(tmp_path: Path) -> None:
    keep_rows(tmp_path, GYM, ROWS)
    assert kept_rows(tmp_path, DataSection(source="gym-gcd", args={"count": 2, "seed": 2})) is None
    assert kept_rows(tmp_path, DataSection(source="gym-lcm", args=dict(GYM.args))) is None
    assert kept_rows(tmp_path / "elsewhere", GYM) is None
    keep_rows(tmp_path / "elsewhere", DataSection(source="arithmetic"), ROWS)
    assert not (tmp_path / "elsewhere").exists(), "our own tasks make the same rows at any time"


def test_an_evaluation_by_another_where_takes_fewer_of_the_kept_rows(tmp_path: Path) -> None:
    keep_rows(tmp_path, GYM, ROWS)
    assert kept_rows(tmp_path, replace(GYM, where={"answer": "2"})) == ROWS[1:]
    with pytest.raises(RecipeError, match="none of the 2 rows of gym-gcd matches"):
        kept_rows(tmp_path, replace(GYM, where={"answer": "3"}))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"half")
    with pytest.raises(
        RecipeError, match=f"{FILE}, the rows that the run began with, cannot be read"
    ):
        kept_rows(tmp_path, GYM)


def test_the_digest_of_prompts_sees_ids_rows_and_tokens_but_not_the_order_of_a_set() -> None:
    def digest(name: str = "a", tokens: tuple[int, ...] = (1,), **truth: object) -> str:
        return prompts(PromptSet((Prompt(name, tokens, truth, "text"),), (), 0, 1))

    first = digest(words={"b", "a", "c"}, n=1)
    assert first == digest(words={"c", "b", "a"}, n=1)
    others = [digest(n=1), digest(words={"b"}, n=1), digest("b", n=1), digest(tokens=(2,), n=1)]
    assert len({first, *others}) == 5


def test_an_evaluation_on_a_neighbouring_seed_says_how_many_rows_were_trained_on(
    tmp_path: Path,
) -> None:
    recipe = Recipe.from_mapping(
        {
            "model": {"name": "tiny"},
            "data": {"source": "gym-gcd", "args": {"count": 500, "seed": 7}},
            "rewards": {"right": {"use": "gym_answer"}},
        }
    )
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe.to_mapping()))

    def said(**args: int) -> str:
        section = DataSection(source="gym-gcd", args=args)
        return (trained_rows(str(tmp_path), section) or "").partition(" rows")[0]

    assert said(count=500, seed=8) == "evaluate: 499 of the 500"
    assert said(count=100, seed=500) == "evaluate: 7 of the 100"
    assert said(count=100, seed=507) == said(count=500, seed=7) == ""
    assert trained_rows("a/hub/id", GYM) is None


@pytest.mark.parametrize("held_out", [0, 1])
def test_rows_that_a_run_was_trained_on_are_named_when_it_is_evaluated(
    tmp_path: Path, held_out: int
) -> None:
    data = DataSection(source="rows.jsonl", held_out=held_out)
    recipe = Recipe.from_mapping(
        {
            "model": {"name": "tiny"},
            "data": {"source": "rows.jsonl", "held_out": held_out},
            "rewards": {"right": {"use": "math_answer"}},
        }
    )
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe.to_mapping()))
    said = trained_rows(str(tmp_path), data) or ""
    assert ("held none out" in said) == (held_out == 0)
    assert trained_rows(str(tmp_path), DataSection(source="test.jsonl")) is None


GENERATOR = """
import os
class Data:
    def __init__(self, size, seed): pass
    def __getitem__(self, index):
        return {"question": f"{os.environ['RANK']} and {index}?", "answer": "1", "metadata": {}}
def create_dataset(name, size, seed, **settings): return Data(size, seed)
"""


@pytest.mark.slow
def test_ranks_with_other_prompts_are_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    (tmp_path / "reasoning_gym").mkdir()
    (tmp_path / "reasoning_gym" / "__init__.py").write_text(GENERATOR)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    recipe = {
        "steps": 1,
        "run_dir": str(tmp_path / "run"),
        "model": {"name": str(ROOT / "recipes" / "quickstart_base"), "dtype": "float32"},
        "data": {"source": "gym-gcd", "args": {"count": 8}, "template": "plain"},
        "sample": {"prompts": 2, "group_size": 2, "max_tokens": 4},
        "rewards": {"right": {"use": "gym_answer"}},
    }
    (tmp_path / "two.yaml").write_text(json.dumps(recipe))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "grpo.train", str(tmp_path / "two.yaml")],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        },
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert "the prompts of rank 1 are not those of rank 0" in done.stderr, done.stderr[-3000:]
    assert "exitcode  : 2" in done.stderr and not (tmp_path / "run" / "samples.jsonl").exists()
