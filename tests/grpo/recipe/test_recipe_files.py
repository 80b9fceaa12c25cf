"""Recipes as text: YAML 1.2 and nothing executed, overrides, paths, and what is written is read back."""

import re
from pathlib import Path

import pytest
import yaml

from grpo.recipe import Recipe, RecipeError, read_yaml, to_yaml
from grpo.recipe.plan import Plan

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-6", 1e-6),
        ("1E-6", 1e-6),
        ("1.0e-6", 1e-6),
        ("3", 3.0),
        (".5", 0.5),
        ("5e0", 5.0),
        ("+1e-3", 1e-3),
        ("1_000", 1000.0),
    ],
)
def test_a_number_is_a_number_however_it_is_written(recipe, text, value):
    assert recipe(f"optim: {{lr: {text}}}").optim.lr == value
    assert recipe("seed: 1", f"optim.lr={text}").optim.lr == value
    assert type(recipe(f"optim: {{lr: {text}}}").optim.lr) is float


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "y", "n", "NO", "2020-01-01", "1:30", "0x10", "0o7", "1.2.3"]
)
def test_text_stays_text(recipe, text):
    assert recipe(f"name: {text}").name == text


def test_a_leading_zero_is_not_octal(recipe):
    assert recipe("seed: 010").seed == 10


@pytest.mark.parametrize("text, value", [("true", True), ("True", True), ("FALSE", False)])
def test_true_and_false_are_what_they_say(recipe, text, value):
    assert recipe(f"deterministic: {text}").deterministic is value


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "mine.yaml holds nothing, not a mapping of keys"),
        ("# only words\n", "mine.yaml holds nothing"),
        ("- a\n- b", "mine.yaml holds a list, not a mapping of keys"),
        ("quickstart", "mine.yaml holds the text 'quickstart', not a mapping of keys"),
        (
            "seed: 1\noptim:\n\tlr: 1",
            "mine.yaml, line 3: not valid YAML: while scanning for the next token, found character "
            "'\\t' that cannot start any token; indent with spaces",
        ),
        ("seed: 1\nmodel: {name: x", "mine.yaml, line 2: not valid YAML"),
        ("seed: 1\n---\nseed: 2", "expected a single document"),
        ("a: *x", "mine.yaml, line 1: not valid YAML: found undefined alias 'x'"),
        ("data: {args: &x {b: *x}}", "recursive"),
        (
            "seed: 1\x00",
            "mine.yaml, character 8: not valid YAML: special characters are not allowed",
        ),
        (
            b"name: caf\xe9\n",
            "is not UTF-8 text (invalid continuation byte at byte 9); save it as UTF-8",
        ),
        ("seed: !!int foo", "a number or a !!tag in it cannot be read"),
        ("deterministic: !!bool maybe", "a number or a !!tag in it cannot be read"),
        ("name: !!timestamp x", "a number or a !!tag in it cannot be read"),
        ("seed: " + "9" * 5000, "a number or a !!tag in it cannot be read"),
        ("optim: {lr: 1" + "0" * 400 + "}", "optim.lr must be a number"),
        ("[" * 5000, "cannot be read"),
        ("? [a, b]\n: c", "line 1: a key must be text, not a list"),
        ("~: 1", "line 1: a key must be text, not nothing"),
        ("seed: 1\n2: 3", 'line 2: a key must be text, not 2; write "2" in quotes'),
        ("sample:\n  2: 3", "unknown key sample.2"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line(refusal, text, message):
    if isinstance(text, bytes):
        text += b"x" * 3
    assert message in refusal(text)


@pytest.mark.parametrize(
    "tag",
    [
        "python/object/apply:os.mkdir",
        "python/object/new:os.mkdir",
        "python/name:os.mkdir",
        "python/module:os",
    ],
)
def test_a_tag_that_would_run_python_does_not(refusal, tmp_path, tag):
    target = tmp_path / "made"
    assert "could not determine a constructor" in refusal(f"name: !!{tag} ['{target}']")
    assert not target.exists()


@pytest.mark.parametrize(
    "text, line, key",
    [
        ("seed: 1\nsteps: 2\nseed: 3", 3, "seed"),
        ("optim:\n  lr: 1\n  lr: 2", 3, "lr"),
        ("optim: {lr: 1,\n  lr: 2}", 2, "lr"),
        ("rewards:\n  a: {use: x}\n  b: {use: x}\n  a: {use: y}", 4, "a"),
        ("data:\n  args:\n    deep:\n      x: 1\n      'x': 2", 5, "x"),
    ],
)
def test_a_key_that_appears_twice_is_refused_at_any_depth(refusal, text, line, key):
    assert (
        refusal(text)
        == f"recipe: line {line}: the key {key} appears twice in one section; remove one of them"
    )


def test_a_key_that_appears_twice_in_an_override_is_refused(refusal):
    assert "the key use appears twice" in refusal("seed: 1", "rewards.a={use: x, use: y}")


def test_the_same_key_may_be_in_two_sections(recipe):
    assert recipe("evaluate: {every: 3}\ncheckpoint: {every: 4}").checkpoint.every == 4


def test_anchors_and_merge_keys_work_and_the_own_key_wins(recipe):
    loaded = recipe(
        "rewards:\n  a: &a {use: x, weight: 2, args: {k: 1}}\n  b: {<<: *a, weight: 3}\n  c: *a"
    )
    assert (loaded.rewards["b"].use, loaded.rewards["b"].weight, loaded.rewards["b"].args) == (
        "x",
        3.0,
        {"k": 1},
    )
    assert loaded.rewards["c"] == loaded.rewards["a"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        RecipeError, match=f"{re.escape(str(tmp_path))} is a folder that holds no run"
    ):
        Recipe.load(tmp_path)
    for missing in (tmp_path / "no.yaml", "nowhere", "recipes/nowhere.yaml"):
        with pytest.raises(RecipeError, match=f"there is no file {re.escape(str(missing))}"):
            Recipe.load(missing)


# ---- overrides -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, message",
    [
        ("steps", "'steps' is not an override; write section.key=value"),
        ("=3", "'=3' is not an override"),
        (".=1", "'.=1' is not an override"),
        ("optim..lr=1", "'optim..lr=1' is not an override"),
        ("seed:3", "'seed:3' is not an override"),
        ("seed=[", "the value of seed, line 1: not valid YAML"),
        ("optim.warm_up=3", "unknown key optim.warm_up; did you mean warmup?"),
        ("steps.x=1", "steps must be a whole number, not a mapping"),
        ("model=foo", "model must be a section of keys, not the text 'foo'"),
        (
            "optim.lr='1e-6'",
            "optim.lr must be a number, not the text '1e-6'; write it without quotes",
        ),
    ],
)
def test_a_wrong_override_is_refused_with_its_key(refusal, override, message):
    assert refusal("seed: 1", override).startswith(f"recipe: {message}")


# ---- paths -----------------------------------------------------------------------------------------------------


def test_paths_in_yaml_start_at_the_recipe_and_paths_in_overrides_at_the_working_folder(
    tmp_path, monkeypatch
):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    (there / "model").mkdir()
    (there / "r.yaml").write_text(
        "run_dir: out\nmodel: {name: model}\ndata: {source: rows.jsonl}\n"
        "rewards: {a: {use: 'mine.py:f'}, b: {use: 'pkg.mod:f'}, c: {use: math_answer}}"
    )
    monkeypatch.chdir(here)
    recipe = Recipe.load("../there/r.yaml")
    assert (recipe.run_dir, recipe.model.name, recipe.data.source, recipe.rewards["a"].use) == (
        str(there / "out"),
        str(there / "model"),
        str(there / "rows.jsonl"),
        f"{there / 'mine.py'}:f",
    )
    assert (recipe.rewards["b"].use, recipe.rewards["c"].use) == ("pkg.mod:f", "math_answer")
    recipe = Recipe.load(
        "../there/r.yaml",
        "run_dir=out",
        "data.source=rows.jsonl",
        "rewards.a.use=mine.py:f",
        "model.name=./model",
    )
    assert (recipe.run_dir, recipe.model.name, recipe.data.source, recipe.rewards["a"].use) == (
        str(here / "out"),
        str(here / "model"),
        str(here / "rows.jsonl"),
        f"{here / 'mine.py'}:f",
    )


def test_a_home_folder_and_a_hub_name_are_what_they_are(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    loaded = recipe("run_dir: ~/runs\ndata: {source: openai/gsm8k}\nmodel: {name: ~/models/m}")
    assert loaded.run_dir == str(tmp_path / "home/runs") and loaded.model.name == str(
        tmp_path / "home/models/m"
    )
    assert loaded.data.source == "openai/gsm8k"


def test_a_folder_that_is_called_like_a_task_does_not_hide_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("countdown").mkdir()
    Path("r.yaml").write_text("data: {source: countdown}")
    assert Recipe.load("r.yaml").data.source == "countdown"
    assert Recipe.load("r.yaml", "data.source=countdown").data.source == "countdown"


# ---- written and read back -------------------------------------------------------------------------------------


def test_the_resolved_mapping_gives_the_same_recipe(everything):
    assert Recipe.from_mapping(everything.to_mapping()) == everything


def test_what_is_written_as_yaml_is_read_back_as_the_same(tmp_path, everything):
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(everything.to_mapping()), encoding="utf-8")
    assert Recipe.from_mapping(read_yaml(file)) == everything


def test_other_readers_of_yaml_understand_what_is_written(everything):
    values = everything.to_mapping()
    values["optim"]["eps"] = 1e-3
    assert yaml.safe_load(to_yaml(values)) == values


def test_a_model_that_ships_is_found_by_its_name_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = str(RECIPES / "quickstart_base")
    (tmp_path / "mine.yaml").write_text("model: {name: quickstart_base}")
    assert Recipe.load("mine.yaml").model.name == place
    assert Recipe.load("mine.yaml", "model.name=recipes/quickstart_base").model.name == place
    assert Recipe(model={"name": "quickstart_base"}).model.name == place
    assert Recipe(model={"name": "me/quickstart_base"}).model.name == "me/quickstart_base"
    taught = Recipe(distill={"teacher": "quickstart_base"}, model={"name": "quickstart_small_base"})
    assert taught.distill.teacher == place
    assert taught.model.name == str(RECIPES / "quickstart_small_base")
    (tmp_path / "quickstart_base").mkdir()
    assert Recipe.load("mine.yaml").model.name == str(tmp_path / "quickstart_base")
    assert Recipe(model={"name": "quickstart_base"}).model.name == "quickstart_base"


def test_the_stages_of_a_recipe_find_models_that_ship(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"name": "small", "grpo": {"steps": 1, "model": {"name": "quickstart_small_base"}}}
    plan = Plan.from_mapping(
        {
            "model": {"name": "quickstart_base"},
            "data": {"source": "countdown", "held_out": 8},
            "rewards": {"correct": {"use": "countdown"}},
            "stages": [{"name": "rl", "grpo": {"steps": 1}}, small, {"evaluate": {}}],
        }
    )
    first, second, table = (stage.recipe for stage in plan.stages)
    assert first.model.name == str(RECIPES / "quickstart_base")
    assert second.model.name == str(RECIPES / "quickstart_small_base")
    places = [place for place in table.evaluate.models.values() if "/stages/" not in place]
    assert places == [first.model.name, second.model.name]
