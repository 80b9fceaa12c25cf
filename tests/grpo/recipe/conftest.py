"""Recipes from their text, and one with every trap of YAML in it."""

import pytest

from grpo.recipe import Recipe, RecipeError

TRAPS = [
    "no",
    "on",
    "yes",
    "1e5",
    "1e-6",
    "08",
    "09",
    "0x10",
    "1:30",
    "2020-01-01",
    "true",
    "null",
    "~",
    "",
    " ",
    "<<",
    "1_000",
    ".5",
    "5.",
    ".inf",
    "=",
    "a: b",
    "# x",
    "- x",
    "'",
    '"',
    "\n",
    "\t",
    "ü→",
    "\U0001f600",
    "{x}",
    "!t",
    "&a",
]


@pytest.fixture
def recipe(tmp_path):
    """Loads a recipe from its text."""

    def load(text: str | bytes, *overrides: str) -> Recipe:
        file = tmp_path / "mine.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return Recipe.load(file, *overrides)

    return load


@pytest.fixture
def refusal(recipe):
    """The sentence with which a recipe is refused."""

    def refused(text: str | bytes, *overrides: str) -> str:
        with pytest.raises(RecipeError) as caught:
            recipe(text, *overrides)
        sentence = str(caught.value)
        assert "\n" not in sentence and "<unicode string>" not in sentence
        return sentence

    return refused


@pytest.fixture
def everything() -> Recipe:
    """A recipe whose values are what YAML readers are known to misread."""
    return Recipe.from_mapping(
        {
            "name": "08",
            "model": {"name": "1e5", "lora": {"targets": TRAPS}, "revision": "1e5"},
            "data": {
                "columns": {text: text for text in TRAPS},
                "args": {"a": [1, 2.5, None, {"b": True}], "c": 1e-7},
            },
            "sample": {"stop": [text for text in TRAPS if text]},
            "rewards": {
                text: {"use": "x", "when": {"level": text}, "args": {"n": 1e20}} for text in TRAPS
            },
            "optim": {"lr": 1e-6, "eps": 1e-16},
            "log": {"wandb": {"tags": TRAPS}},
        }
    )
