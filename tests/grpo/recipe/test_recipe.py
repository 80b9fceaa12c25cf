"""A recipe is either what its writer meant, or refused with a sentence that names the key and what would do."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.recipe import (
    PRESETS,
    AdvantageSection,
    DataSection,
    EvaluateSection,
    LossSection,
    ModelSection,
    OptimSection,
    Recipe,
    SampleSection,
)
from grpo.recipe.plan import has_stages

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = [file for file in sorted((ROOT / "recipes").glob("*.yaml")) if not has_stages(file)]
EVERY_KEY = """\
name: quickstart            # default: the file's name
seed: 0
steps: 60
run_dir: runs/quickstart    # default runs/<name>; `make quickstart` takes the next free runs/quickstart-N
deterministic: false
model:   {name: HuggingFaceTB/SmolLM2-135M-Instruct, dtype: float32, lora: null, trust_remote_code: false}
                            # name: hub id, folder, or a .gguf file; lora: {rank: 16, alpha: 32, targets: all-linear}
data:    {source: openai/gsm8k, subset: main, split: train, columns: {prompt: question, answer: answer}, template: r1, held_out: 256}
                            # source: hub id, .jsonl/.csv/.parquet file, or a procedural task's name; template: r1 | chat | plain | a string
sample:  {engine: embedded, prompts: 32, group_size: 8, max_tokens: 1024, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, stop: []}
rewards:                    # the key is the metric's name
  correct: {use: math_answer, weight: 1.0, args: {}, when: {}}
  format:  {use: think_format, weight: 0.1}
loss:    {preset: grpo}     # sets advantage.* and loss.* only; the paper's own scale (lr, group, lengths) is printed beside;
                            # what the paper leaves open is listed as our choice
optim:   {lr: 1.0e-6, updates: 1, epochs: 1, warmup: 0, schedule: constant, weight_decay: 0.0, max_grad_norm: 1.0, tokens_per_micro_batch: 16384}
                            # updates: disjoint mini-batches of whole groups a step; denominators are those of each update
evaluate: {every: 20, samples: 4, temperature: 1.0}
checkpoint: {every: 20, keep: 2}
log:     {wandb: null}
sandbox: {min_isolation: L2, allow_unsafe: false}
"""  # noqa: E501


def test_the_documented_example_of_every_key_parses(recipe, tmp_path):
    loaded = recipe(EVERY_KEY)
    assert loaded.model == ModelSection(name="HuggingFaceTB/SmolLM2-135M-Instruct")
    assert loaded.data == DataSection(
        source="openai/gsm8k",
        subset="main",
        held_out=256,
        columns={"prompt": "question", "answer": "answer"},
        template="r1",
    )
    assert (loaded.sample, loaded.optim, loaded.evaluate) == (
        SampleSection(),
        OptimSection(),
        EvaluateSection(),
    )
    assert loaded.run_dir == str(tmp_path / "runs/quickstart") and loaded.log.wandb is None
    assert loaded.rewards["format"].weight == 0.1 and loaded.rewards["correct"].when == {}


def test_the_documented_adapters_parse(recipe):
    lora = recipe("model: {name: m, lora: {rank: 16, alpha: 32, targets: all-linear}}").model.lora
    assert (lora.rank, lora.alpha, lora.targets) == (16, 32.0, "all-linear")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_recipe_parses_and_can_be_named_from_anywhere(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        Recipe.load(file.stem)
        == Recipe.load(file.name)
        == Recipe.load(f"recipes/{file.name}")
        == Recipe.load(file)
    )


def test_a_file_at_hand_comes_before_a_shipped_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart.yaml").write_text("seed: 77")
    assert Recipe.load("quickstart.yaml").seed == 77


def test_a_recipe_of_one_key_has_the_defaults_and_the_files_name(recipe):
    loaded = recipe("seed: 3")
    assert loaded == dataclasses.replace(Recipe(), seed=3, name="mine")
    assert loaded.folder() == Path.cwd() / "runs" / "mine"


def test_a_byte_order_mark_and_foreign_line_ends_are_read_over(recipe):
    assert recipe(b"\xef\xbb\xbfseed: 3\r\nsteps: 4\r\n").steps == 4


def test_a_value_outlives_the_mapping_it_came_from():
    stop = ["a"]
    recipe = Recipe.from_mapping({"sample": {"stop": stop}})
    assert recipe.to_mapping()["sample"]["stop"] is not recipe.sample.stop


def test_a_recipe_is_loaded_without_torch():
    script = (
        "import sys; from grpo.recipe import Recipe; Recipe.load('quickstart'); "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


# ---- precedence ----------------------------------------------------------------------------------------------


def test_defaults_yield_to_the_preset_the_preset_to_yaml_and_yaml_to_overrides(recipe):
    assert LossSection().epsilon_high == 0.2
    assert recipe("loss: {preset: dapo}").loss.epsilon_high == 0.28
    assert recipe("loss: {preset: dapo, epsilon_high: 0.3}").loss.epsilon_high == 0.3
    assert (
        recipe("loss: {preset: dapo, epsilon_high: 0.3}", "loss.epsilon_high=0.4").loss.epsilon_high
        == 0.4
    )


def test_a_preset_from_an_override_moves_only_what_the_yaml_leaves_open(recipe):
    loaded = recipe(
        "loss: {preset: dapo, epsilon_low: 0.1}\nadvantage: {mask_truncated: true}",
        "loss.preset=dr_grpo",
    )
    assert loaded.loss.aggregation == "constant" and loaded.advantage.rule == "center"
    assert loaded.loss.epsilon_low == 0.1 and loaded.advantage.mask_truncated


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_keys_that_exist_to_values_that_pass(name):
    recipe = Recipe.from_mapping({"loss": {"preset": name}})
    assert {k: getattr(recipe.loss, k) for k in PRESETS[name].loss} == PRESETS[name].loss
    assert {k: getattr(recipe.advantage, k) for k in PRESETS[name].advantage} == PRESETS[
        name
    ].advantage


def test_the_default_preset_is_what_the_fields_say():
    assert (
        Recipe.from_mapping({}).loss == LossSection()
        and Recipe.from_mapping({}).advantage == AdvantageSection()
    )


def test_the_later_of_two_overrides_holds(recipe):
    assert recipe("seed: 1", "seed=2", "seed=3").seed == 3


def test_an_override_reaches_into_sections_that_the_file_does_not_have(recipe):
    loaded = recipe(
        "seed: 1",
        "rewards.correct.use=math_answer",
        "rewards.correct.weight=2",
        "model.lora.rank=4",
    )
    assert loaded.rewards["correct"].weight == 2.0 and loaded.model.lora.rank == 4


def test_an_override_of_null_takes_a_value_back(recipe):
    text = "model: {name: some/model, lora: {rank: 4}}\ndata: {source: some/data, subset: main}"
    loaded = recipe(text, "model.name=null", "model.lora=null", "data.source=", "data.subset=~")
    assert (loaded.model.name, loaded.model.lora, loaded.data.source, loaded.data.subset) == (
        None,
        None,
        None,
        None,
    )


def test_an_override_of_an_empty_mapping_empties_it(recipe):
    loaded = recipe(
        "data: {source: countdown, args: {style: symbols}}",
        "data.source=arithmetic",
        "data.args={}",
    )
    assert loaded.data.args == {}
    assert recipe("loss: {preset: dapo}", "loss={}").loss == LossSection()
    assert recipe("data: {args: {a: 1}}", "data.args={}", "data.args.b=2").data.args == {"b": 2}


def test_an_empty_section_in_yaml_keeps_the_presets_values(recipe):
    assert recipe("loss: {preset: dapo}\nadvantage: {}").advantage.mask_truncated


def test_the_names_that_a_recipe_takes_are_those_of_the_tables():
    from grpo import recipe
    from grpo.objective import advantage, aggregation, correction, kl, policy_loss

    assert set(recipe.RULES) == set(advantage.RULES)
    assert set(recipe.POLICY_LOSSES) == set(policy_loss.POLICY_LOSSES)
    assert set(recipe.AGGREGATIONS) == set(aggregation.AGGREGATIONS)
    assert set(recipe.KLS) == set(kl.KLS)
    assert set(recipe.LEVELS) == {"none", *correction.LEVELS}
    assert set(recipe.WHOLE_POLICY_LOSSES) == {"gspo", "gmpo", "topr", "kimi"}
