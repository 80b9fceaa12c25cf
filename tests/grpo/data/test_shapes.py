"""The recipe lines that docs/data.md gives for public data sets read rows of their shapes, and judge them rightly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

from grpo import Recipe, Trainer
from grpo.data.rows import load_rows
from grpo.run.reward_fit import check_columns
from grpo.run.reward_specs import reward_specs
from rewards import RewardSpec, Sample
from rewards.service import RewardService
from tests.support.shapes import SHAPES, Shape, write
from tests.support.tiny import byte_tokenizer, tiny_model

DOCS = Path(__file__).parents[3] / "docs" / "data.md"
LINE = re.compile(r"^\| ([^|`]+) \| `(\{.*\})` \| `(\{.*\})` \|$", re.MULTILINE)
TABLE = {
    name: (yaml.safe_load(data), yaml.safe_load(rewards))
    for name, data, rewards in LINE.findall(DOCS.read_text())
}
OF_THE_HUB = ("subset", "split")


def recipe_of(name: str, file: Path) -> Recipe:
    """The recipe of a line in the table; what selects a part of a hub's data set does not apply to the file."""
    data, rewards = TABLE[name]
    data = {key: value for key, value in data.items() if key not in OF_THE_HUB}
    return Recipe.from_mapping({"data": {"source": str(file), **data}, "rewards": rewards})


def test_every_line_of_the_table_has_a_shape_and_every_shape_a_line():
    assert TABLE.keys() == SHAPES.keys() and len(TABLE) > 50


@pytest.fixture(scope="module")
def service() -> Iterator[RewardService]:
    """One service for all rewards of the table, each by its own name."""
    uses = ("math_answer", "code_tests", "countdown", "gym_answer")
    with RewardService([RewardSpec(use, use, timeout_seconds=10.0) for use in uses]) as running:
        yield running


def scores(
    service: RewardService, recipe: Recipe, rows: list[dict[str, Any]], texts: list[str]
) -> list[Any]:
    """For each completion, the values of the rewards that apply to its row."""
    samples = [Sample(text, columns=row) for text, row in zip(texts, rows)]
    values = []
    for judged, row in zip(service.judge(samples), rows):
        applying = [
            part.use
            for part in recipe.rewards.values()
            if all(row[column] == wanted for column, wanted in part.when.items())
        ]
        values.append([(judged.parts[use].value, judged.parts[use].detail) for use in applying])
    return values


@pytest.mark.parametrize("name", SHAPES)
def test_the_right_solution_scores_1_and_a_wrong_one_0(name, tmp_path, service):
    shape: Shape = SHAPES[name]()
    recipe = recipe_of(name, write(shape, tmp_path))
    rows = load_rows(recipe.data).rows
    check_columns(reward_specs(recipe), rows)
    assert [len(row["prompt"]) > 0 for row in rows] == [True] * len(shape.rows)
    right = scores(service, recipe, rows, shape.right)
    assert [[value for value, _ in part] for part in right] == [[1.0]] * len(rows), right
    wrong = scores(service, recipe, rows, shape.wrong)
    assert [[value for value, _ in part] for part in wrong] == [[0.0]] * len(rows), wrong


CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
TINY = {
    "steps": 2,
    "sample": {"prompts": 1, "group_size": 2, "max_tokens": 4},
    "evaluate": {"every": 0, "samples": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_two_steps_train_from_the_recipe_lines_alone(name, tmp_path):
    shape = SHAPES[name]()
    lines = recipe_of(name, write(shape, tmp_path)).to_mapping()
    data = {"template": "plain", **{key: lines["data"][key] for key in ("source", "columns")}}
    if TABLE[name][0].get("template") == "chat":
        data["template"] = "chat"
    values = {**TINY, "run_dir": str(tmp_path / "run"), "data": data, "rewards": TABLE[name][1]}
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    model = tiny_model("llama", 0, vocabulary=264, num_hidden_layers=1)
    trainer = Trainer(Recipe.from_mapping(values), model=model, tokenizer=tokenizer)
    records = list(trainer)
    assert len(records) == 2
    assert [record["ledger/faulted"] for record in records] == [0, 0]
