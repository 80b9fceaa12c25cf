"""What is handed to a trainer from Python is taken, or refused with what would do."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from grpo import Recipe, RecipeError, Trainer
from grpo.run.reward_specs import named_rewards

ROWS = [{"prompt": "2 + 2 =", "answer": "4"}]
BASE = Path(__file__).resolve().parents[3] / "recipes" / "quickstart_base"


def right(text: str, answer: str) -> float:
    return float(answer in text)


@pytest.mark.parametrize(
    "given, names",
    [
        (right, {"right": right}),
        ("math_answer", {"math_answer": "math_answer"}),
        ([right, "my_rewards.py:brief"], {"right": right, "brief": "my_rewards.py:brief"}),
        ({"mine": right}, {"mine": right}),
        (None, {}),
    ],
)
def test_rewards_are_named_as_they_name_themselves(given, names):
    assert named_rewards(given) == names


@pytest.mark.parametrize("given", [3, [3], [lambda text: 1.0], [right, right]])
def test_a_reward_without_a_name_of_its_own_is_refused(given):
    with pytest.raises(RecipeError, match="^rewards: .*(name of its own|neither a function)"):
        named_rewards(given)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"model": str(BASE)}, r"model= takes one that is loaded.*Recipe\(model=\{'name': "),
        ({"tokenizer": BASE}, "tokenizer= takes one that is loaded"),
        ({"model": object()}, "without its tokenizer; pass tokenizer= too"),
        (
            {"data": DatasetDict(train=Dataset.from_list(ROWS))},
            r"a DatasetDict of the splits train .*data=dataset\['train'\]",
        ),
        ({"data": {"a": ROWS, "b": ROWS}}, r"\(a, b\).* Recipe\(data=\{'sources': "),
    ],
)
def test_an_object_of_another_kind_is_answered_with_what_would_do(tmp_path, options, words):
    recipe = Recipe(
        model={"name": str(BASE)}, data={"template": "plain"}, run_dir=str(tmp_path / "run")
    )
    with pytest.raises(RecipeError, match=words):
        Trainer(recipe, **{"rewards": right, "data": ROWS, "quiet": True, **options})
    assert not (tmp_path / "run").exists()


def test_a_key_that_a_recipe_does_not_have_is_answered_from_python_too():
    with pytest.raises(RecipeError, match="TRL's learning_rate is optim.lr here"):
        Recipe(model={"name": "x"}, learning_rate=1e-6)
    with pytest.raises(RecipeError, match=r"pass functions as Trainer\(recipe, rewards="):
        Recipe(model={"name": "x"}, rewards={"mine": {"use": right}})
