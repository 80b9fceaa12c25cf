"""A recipe is either what its writer meant, or refused with a sentence that names the key and what would do."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from grpo.recipe import (
    AdvantageSection,
    DataSection,
    EvaluateSection,
    LossSection,
    ModelSection,
    OptimSection,
    Recipe,
    RecipeError,
    SampleSection,
    describe_keys,
    differences,
    read_yaml,
    to_yaml,
)
from grpo.recipe.presets import PRESETS

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
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


# ---- what parses ---------------------------------------------------------------------------------------------


def test_the_documented_example_of_every_key_parses(recipe, tmp_path):
    found = recipe(EVERY_KEY)
    assert found.model == ModelSection(name="HuggingFaceTB/SmolLM2-135M-Instruct")
    assert found.data == DataSection(
        source="openai/gsm8k",
        subset="main",
        held_out=256,
        columns={"prompt": "question", "answer": "answer"},
    )
    assert (found.sample, found.optim, found.evaluate) == (
        SampleSection(),
        OptimSection(),
        EvaluateSection(),
    )
    assert found.run_dir == str(tmp_path / "runs/quickstart") and found.log.wandb is None
    assert found.rewards["format"].weight == 0.1 and found.rewards["correct"].when == {}


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
    found = recipe("seed: 3")
    assert found == dataclasses.replace(Recipe(), seed=3, name="mine")
    assert found.folder() == Path.cwd() / "runs" / "mine"


def test_a_byte_order_mark_and_foreign_line_ends_are_read_over(recipe):
    assert recipe(b"\xef\xbb\xbfseed: 3\r\nsteps: 4\r\n").steps == 4


def test_a_value_outlives_the_mapping_it_came_from():
    stop = ["a"]
    recipe = Recipe.from_mapping({"sample": {"stop": stop}})
    assert recipe.to_mapping()["sample"]["stop"] is not recipe.sample.stop


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
    found = recipe(
        "loss: {preset: dapo, epsilon_low: 0.1}\nadvantage: {mask_truncated: true}",
        "loss.preset=dr_grpo",
    )
    assert found.loss.aggregation == "constant" and found.advantage.rule == "center"
    assert found.loss.epsilon_low == 0.1 and found.advantage.mask_truncated


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
    found = recipe(
        "seed: 1",
        "rewards.correct.use=math_answer",
        "rewards.correct.weight=2",
        "model.lora.rank=4",
    )
    assert found.rewards["correct"].weight == 2.0 and found.model.lora.rank == 4


def test_an_override_of_null_takes_a_value_back(recipe):
    text = "model: {name: some/model, lora: {rank: 4}}\ndata: {source: some/data, subset: main}"
    found = recipe(text, "model.name=null", "model.lora=null", "data.source=", "data.subset=~")
    assert (found.model.name, found.model.lora, found.data.source, found.data.subset) == (
        None,
        None,
        None,
        None,
    )


def test_an_override_of_an_empty_mapping_empties_it(recipe):
    found = recipe(
        "data: {source: countdown, args: {style: symbols}}",
        "data.source=arithmetic",
        "data.args={}",
    )
    assert found.data.args == {}
    assert recipe("loss: {preset: dapo}", "loss={}").loss == LossSection()
    assert recipe("data: {args: {a: 1}}", "data.args={}", "data.args.b=2").data.args == {"b": 2}


def test_an_empty_section_in_yaml_keeps_the_presets_values(recipe):
    assert recipe("loss: {preset: dapo}\nadvantage: {}").advantage.mask_truncated


# ---- YAML ------------------------------------------------------------------------------------------------------


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
    "text, words",
    [
        (
            "optim: {lr: '1e-6'}",
            "optim.lr must be a number, not the text '1e-6'; write it without quotes",
        ),
        ("steps: '5'", "steps must be a whole number, not the text '5'; write it without quotes"),
        ("seed: 1:30", "seed must be a whole number, not the text '1:30'"),
        ("seed: 2020-01-01", "seed must be a whole number, not the text '2020-01-01'"),
        ("steps: 1e3", "steps must be a whole number, not 1000.0; write 1000"),
        ("steps: 2.5", "steps must be a whole number, not 2.5"),
        ("steps: true", "steps must be a whole number, not true"),
        ("steps:", "steps must be a whole number, not nothing"),
        ("steps: [1]", "steps must be a whole number, not a list"),
        ("optim: {lr: true}", "optim.lr must be a number, not true"),
        ("optim: {lr: .nan}", "optim.lr must be a number, not nan"),
        ("optim: {lr: .inf}", "optim.lr must be a number, not inf"),
        ("optim: {lr: 1e400}", "optim.lr must be a number, not inf"),
        (
            "deterministic: no",
            "deterministic must be true or false, not the text 'no'; write false",
        ),
        ("deterministic: on", "deterministic must be true or false, not the text 'on'; write true"),
        ("deterministic: 1", "deterministic must be true or false, not 1"),
        ("name: 5", 'name must be text, not 5; write "5" in quotes'),
        ("name: true", 'name must be text, not true; write "true" in quotes'),
        ("threads: auto", "threads must be a whole number or null, not the text 'auto'"),
        ("sample: {stop: END}", "sample.stop must be a list, not the text 'END'"),
        ("data: {columns: [prompt]}", "data.columns must be a mapping, not a list"),
        ("model: some/model", "model must be a section of keys, not the text 'some/model'"),
        (
            "evaluate:",
            "evaluate must be a section of keys, not nothing; put keys under it, or leave it out",
        ),
        ("loss:", "loss must be a section of keys, not nothing"),
        ("loss: {preset: [dapo]}", "loss.preset must be text, not a list"),
        ("loss: {preset: {dapo: 1}}", "loss.preset must be text, not a mapping"),
        ("model: {lora: true}", "model.lora must be a section of keys, not true"),
        ("rewards: [math_answer]", "rewards must be a section of keys, not a list"),
        (
            "rewards: {correct: math_answer}",
            "rewards.correct must be a section of keys, not the text 'math_answer'",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_would_do(refusal, text, words):
    assert refusal(text).startswith(f"recipe: {words}")


@pytest.mark.parametrize(
    "text, words",
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
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line(refusal, text, words):
    if isinstance(text, bytes):
        text += b"x" * 3
    assert words in refusal(text)


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
def test_a_key_that_stands_twice_is_refused_at_any_depth(refusal, text, line, key):
    assert (
        refusal(text)
        == f"recipe: line {line}: the key {key} appears twice in one section; remove one of them"
    )


def test_a_key_that_stands_twice_in_an_override_is_refused(refusal):
    assert "the key use appears twice" in refusal("seed: 1", "rewards.a={use: x, use: y}")


def test_the_same_key_may_stand_in_two_sections(recipe):
    assert recipe("evaluate: {every: 3}\ncheckpoint: {every: 4}").checkpoint.every == 4


def test_anchors_and_merge_keys_work_and_the_own_key_wins(recipe):
    found = recipe(
        "rewards:\n  a: &a {use: x, weight: 2, args: {k: 1}}\n  b: {<<: *a, weight: 3}\n  c: *a"
    )
    assert (found.rewards["b"].use, found.rewards["b"].weight, found.rewards["b"].args) == (
        "x",
        3.0,
        {"k": 1},
    )
    assert found.rewards["c"] == found.rewards["a"]


# ---- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ("sample: {groupsize: 3}", "unknown key sample.groupsize; did you mean group_size?"),
        ("samples: {prompts: 3}", "unknown key samples; did you mean sample?"),
        (
            "optim: {learning_rate: 1}",
            "unknown key optim.learning_rate; the keys there are lr, updates, epochs",
        ),
        ("group_size: 8", "unknown key group_size; did you mean sample.group_size?"),
        ("lr: 1e-6", "unknown key lr; did you mean optim.lr?"),
        ("rewards: {a: {ues: x}}", "unknown key rewards.a.ues; did you mean use?"),
        (
            "model: {lora: {r: 8}}",
            "unknown key model.lora.r; the keys there are rank, alpha, targets",
        ),
        ("log: {wandb: {projet: x}}", "unknown key log.wandb.projet; did you mean project?"),
        ("qqq: 1", "unknown key qqq; the keys there are name, seed, steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(refusal, text, words):
    assert refusal(text).startswith(f"recipe: {words}")


@pytest.mark.parametrize(
    "override, words",
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
def test_a_wrong_override_is_refused_with_its_key(refusal, override, words):
    assert refusal("seed: 1", override).startswith(f"recipe: {words}")


OUT_OF_RANGE = {
    "name": ["", "' '"],
    "seed": [-1, 2**63],
    "steps": [-1],
    "run_dir": ["''"],
    "deterministic": ["maybe"],
    "threads": [0],
    "model.name": ["''"],
    "model.dtype": ["float8", "fp32"],
    "model.quantize": [4, "int4"],
    "model.lora": [3],
    "model.lora.rank": [0],
    "model.lora.alpha": [0, -1],
    "model.lora.targets": [3],
    "model.trust_remote_code": ["yes"],
    "model.gradient_checkpointing": ["on"],
    "checkpoint.background": ["on"],
    "model.revision": [3],
    "data.source": ["''"],
    "data.subset": [1],
    "data.split": [1],
    "data.args": ["[]"],
    "data.columns": ["[]"],
    "data.template": ["r2", "''", "x {promt}"],
    "data.held_out": [-1],
    "data.max_prompt_tokens": [0],
    "sample.engine": ["vllm"],
    "sample.prompts": [0],
    "sample.group_size": [0],
    "sample.max_tokens": [0],
    "sample.temperature": [-0.1],
    "sample.top_k": [-1, 0.5],
    "sample.top_p": [0, -1, 1.1],
    "sample.min_p": [-0.1, 1.1],
    "sample.stop": ["a", "[1]", "['']"],
    "sample.max_rows": [0],
    "rewards": [1],
    "rewards.<name>.use": [3],
    "rewards.<name>.weight": [".inf", "x"],
    "rewards.<name>.args": ["[]"],
    "rewards.<name>.when": ["[]"],
    "rewards.<name>.workers": [0],
    "rewards.<name>.style": [3],
    "rewards.<name>.timeout_seconds": [0, -1],
    "advantage.rule": ["rank"],
    "advantage.epsilon": [-1],
    "advantage.mask_truncated": ["no"],
    "advantage.k": [-1, 1.5],
    "advantage.flat": ["remove"],
    "advantage.flat_by": ["reward"],
    "advantage.refills": [0],
    "advantage.retire_at": [-0.1, 1.1],
    "data.pass_low": [-0.1, 2],
    "data.pass_high": [-0.1, 2],
    "data.pass_again": [0],
    "sample.oversample": [-0.5],
    "sample.over_request": [-0.5, 1.5],
    "sample.kv_memory_gib": [0, -1],
    "sample.keep_graphs": ["no"],
    "sample.compile": ["no"],
    "loss.policy": ["ppo"],
    "loss.dual_clip": [1, 0.5, -3],
    "loss.ratio_cap": [1, -4],
    "loss.sapo_positive": [0],
    "loss.sapo_negative": [0],
    "loss.divergence": [0],
    "loss.regularizer": [-1],
    "loss.cov_share": [-0.1, 2],
    "loss.cov_low": ["low"],
    "loss.cov_high": ["high"],
    "loss.cov_kl": [-1],
    "loss.second_moment": [0],
    "loss.off_policy_mask": [-1],
    "loss.kl": ["k4"],
    "loss.kl_in": ["gradient"],
    "loss.correction": ["prompt"],
    "loss.correction_cap": [-1],
    "loss.correction_mask": ["batch"],
    "loss.correction_low": [-1],
    "loss.correction_high": [0],
    "loss.entropy": [-0.1],
    "loss.entropy_target": [-0.2],
    "loss.entropy_step": [0],
    "loss.top_entropy": [0, 1.2],
    "loss.teacher": ["''"],
    "loss.teacher_weight": [0],
    "loss.preset": ["ppo"],
    "loss.epsilon_low": [-0.1],
    "loss.epsilon_high": [-0.1],
    "loss.aggregation": ["mean"],
    "loss.constant": [0],
    "loss.beta": [-0.1],
    "loss.reference_every": [-1],
    "loss.old": ["never"],
    "optim.lr": [0, -1e-6],
    "optim.updates": [0],
    "optim.epochs": [0],
    "optim.warmup": [-1],
    "optim.schedule": ["step"],
    "optim.weight_decay": [-1],
    "optim.max_grad_norm": [-1],
    "optim.tokens_per_micro_batch": [0],
    "optim.beta1": [-0.1, 1],
    "optim.beta2": [-0.1, 1],
    "optim.eps": [0],
    "optim.state": ["4bit"],
    "optim.offload": ["maybe"],
    "evaluate.every": [-1],
    "evaluate.samples": [0],
    "evaluate.temperature": [-1],
    "evaluate.reward": [3],
    "checkpoint.every": [-1],
    "checkpoint.keep": [0],
    "checkpoint.keep_best": [-1],
    "log.wandb": ["true"],
    "log.wandb.project": [3],
    "log.wandb.entity": [3],
    "log.wandb.mode": ["of"],
    "log.wandb.tags": ["a"],
    "gates": ["[]", "off"],
    "gates.<name>.upto": ["mask", 3],
    "gates.<name>.note": [-1, "x"],
    "gates.<name>.warn": [-1],
    "gates.<name>.skip": [-0.5],
    "gates.<name>.stop": ["never"],
    "sandbox.min_isolation": ["L9", 2],
    "sandbox.allow_unsafe": ["yes"],
    "sandbox.engine": ["docker"],
    "sandbox.url": ["''"],
    "sandbox.slots": [0],
    "watchdog.action": ["bark"],
    **{
        f"watchdog.{name}_seconds": [0]
        for name in (
            "engine",
            "judge",
            "update",
            "collective",
            "checkpoint",
            "server",
            "loading",
            "interpreter",
        )
    },
}


def test_every_key_has_help_and_a_place_in_the_list_of_wrong_values():
    keys = {name: help for name, _, help in describe_keys()}
    assert [name for name, help in keys.items() if not help.strip()] == []
    assert set(keys) - set(OUT_OF_RANGE) == set() and set(OUT_OF_RANGE) - set(keys) == set()


@pytest.mark.parametrize(
    "key, value", [(key, value) for key, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_key(refusal, key, value):
    key = key.replace("<name>", "flat" if key.startswith("gates") else "mine")
    text = "rewards: {mine: {use: x}}" if "mine" in key else "seed: 1"
    assert re.match(rf"recipe: {re.escape(key)}\b", refusal(text, f"{key}={value}"))


def test_every_default_passes_its_own_check():
    assert Recipe.from_mapping(Recipe().to_mapping()) == Recipe()


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "sample: {group_size: 1}",
            "sample.group_size is 1, but advantage.rule group_std compares",
        ),
        ("sample: {prompts: 2}\noptim: {updates: 3}", "optim.updates is 3 but sample.prompts is 2"),
        ("sample: {temperature: 0}", "sample.temperature is 0"),
        ("loss: {reference_every: 4}", "loss.reference_every is set but loss.beta is 0"),
        (
            "advantage: {rule: pass_k, k: 9}",
            "advantage.k is 9; the best of k compares 2 to sample.group_size (8)",
        ),
        ("advantage: {rule: pass_k, k: 1}", "advantage.k is 1; the best of k compares 2"),
        ("advantage: {k: 4}", "advantage.k is set but advantage.rule group_std does not read it"),
        (
            "sample: {oversample: 0.5}",
            "sample.oversample samples more prompts to choose from, but advantage.flat keep",
        ),
        (
            "advantage: {rule: reinforce_pp, flat: drop}\nsample: {group_size: 1}",
            "advantage.flat is drop, but a group of one",
        ),
        (
            "data: {pass_low: 0.9, pass_high: 0.1}",
            "data.pass_low is 0.9, above data.pass_high (0.1)",
        ),
        (
            "loss: {policy: gspo}",
            "loss.policy gspo has one ratio for a whole completion, but the correction is per token, a "
            "token-level trust region around a sequence-level ratio",
        ),
        (
            "loss: {preset: gspo, aggregation: token_mean}",
            "loss.policy gspo has one ratio for a whole completion, which "
            "loss.aggregation token_mean would weight by its tokens; set "
            "sequence_mean or sequence_sum; or use gspo_token",
        ),
        (
            "loss: {policy: gmpo, correction: none, correction_mask: token}",
            "loss.policy gmpo has one ratio",
        ),
        ("loss: {policy: kimi}", "loss.policy kimi has one ratio for a whole completion"),
        (
            "loss: {preset: gspo, top_entropy: 0.2}",
            "loss.policy gspo has one ratio for a whole completion, but "
            "loss.top_entropy takes single tokens out of it",
        ),
        (
            "loss: {preset: reinforce_pp, policy: gspo, aggregation: sequence_mean, correction: none}",
            "loss.policy gspo reads one advantage a completion, but advantage.rule reinforce_pp",
        ),
        (
            "loss: {policy: cispo, dual_clip: 3}",
            "loss.dual_clip is set, but loss.policy cispo does not read it",
        ),
        (
            "loss: {policy: sapo, ratio_cap: 4}",
            "loss.ratio_cap is set, but loss.policy sapo does not read it",
        ),
        (
            "loss: {constant: 100}",
            "loss.constant is set, but loss.aggregation sequence_mean does not read it",
        ),
        ("loss: {policy: none}", "loss.policy is none and there is no loss.teacher"),
        (
            "loss: {beta: 0.1, kl: k3_unbiased, kl_in: reward}",
            "loss.kl k3_unbiased is k3 times a ratio that carries gradient",
        ),
        (
            "loss: {beta: 0.1, kl_in: reward}\nadvantage: {rule: gdpo}",
            "advantage.rule gdpo normalises each reward by itself",
        ),
        (
            "loss: {policy: clip_cov, cov_low: 5, cov_high: 1}",
            "loss.cov_low is 5, not below loss.cov_high (1)",
        ),
        (
            "loss: {correction_mask: token, correction_low: 3, correction_high: 2}",
            "loss.correction_low is 3, not below",
        ),
        (
            "rewards: {a: {weight: 1}}",
            "rewards.a.use is missing; name a function, e.g. math_answer",
        ),
        (
            "rewards: {correct: {use: x}}\nevaluate: {reward: corect}",
            "evaluate.reward names corect, which is not among rewards; did you mean correct?",
        ),
        (
            "data: {columns: {prompt: 3}}",
            "data.columns.prompt must name a column of the data set, not 3",
        ),
        (
            "data: {columns: {prompt: null}}",
            "data.columns.prompt must name a column of the data set, not nothing",
        ),
    ],
)
def test_keys_that_cannot_stand_together_are_refused(refusal, text, words):
    assert refusal(text).startswith(f"recipe: {words}")


def test_the_names_that_a_recipe_takes_are_those_of_the_tables():
    from grpo import recipe
    from grpo.objective import advantage, correction, formula, policy_loss

    assert set(recipe.RULES) == set(advantage.RULES)
    assert set(recipe.POLICY_LOSSES) == set(policy_loss.POLICY_LOSSES) == set(formula.POLICY_TEXTS)
    assert set(recipe.AGGREGATIONS) == set(policy_loss.AGGREGATIONS) == set(formula.TOTALS)
    assert set(recipe.KLS) == set(policy_loss.KLS) == set(formula.KL_TEXTS)
    assert set(recipe.LEVELS) == {"none", *correction.LEVELS} == {"none", *formula.LEVEL_TEXTS}
    assert set(recipe.WHOLE_POLICY_LOSSES) == {
        name for name, policy in policy_loss.POLICY_LOSSES.items() if policy.whole
    }


def test_one_completion_a_prompt_will_do_where_no_group_is_compared():
    Recipe.from_mapping({"loss": {"preset": "reinforce_pp"}, "sample": {"group_size": 1}})


def test_python_may_not_name_a_reward_by_a_number():
    with pytest.raises(
        RecipeError, match='rewards: a reward\'s name must be text, not 1; write "1" in quotes'
    ):
        Recipe.from_mapping({"rewards": {1: {"use": "x"}}})


def test_a_file_that_is_not_there_is_named(tmp_path):
    for missing in (tmp_path / "no.yaml", tmp_path, "nowhere", "recipes/nowhere.yaml"):
        with pytest.raises(RecipeError, match=f"there is no file {re.escape(str(missing))}"):
            Recipe.load(missing)


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
    found = recipe("run_dir: ~/runs\ndata: {source: openai/gsm8k}\nmodel: {name: ~/models/m}")
    assert found.run_dir == str(tmp_path / "home/runs") and found.model.name == str(
        tmp_path / "home/models/m"
    )
    assert found.data.source == "openai/gsm8k"


def test_a_folder_that_is_called_like_a_task_does_not_hide_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("countdown").mkdir()
    Path("r.yaml").write_text("data: {source: countdown}")
    assert Recipe.load("r.yaml").data.source == "countdown"
    assert Recipe.load("r.yaml", "data.source=countdown").data.source == "countdown"


# ---- written and read back -------------------------------------------------------------------------------------

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


def everything() -> Recipe:
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


def test_the_resolved_mapping_gives_the_same_recipe():
    assert Recipe.from_mapping(everything().to_mapping()) == everything()


def test_what_is_written_as_yaml_is_read_back_as_the_same(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(everything().to_mapping()), encoding="utf-8")
    assert Recipe.from_mapping(read_yaml(file)) == everything()


def test_other_readers_of_yaml_understand_what_is_written():
    values = everything().to_mapping()
    values["optim"]["eps"] = 1e-3
    assert yaml.safe_load(to_yaml(values)) == values


# ---- differences -----------------------------------------------------------------------------------------------


def test_differences_name_the_keys_and_both_values():
    old = Recipe.from_mapping({"rewards": {"a": {"use": "x"}}}).to_mapping()
    new = Recipe.from_mapping(
        {
            "seed": 1,
            "optim": {"lr": 0.5},
            "model": {"lora": {}},
            "rewards": {"a": {"use": "y"}, "b": {"use": "z"}},
        }
    ).to_mapping()
    found = {name: (a, b) for name, a, b in differences(old, new)}
    assert found.pop("model.lora") == (None, new["model"]["lora"])
    assert found.pop("rewards.b") == (None, new["rewards"]["b"])
    assert found == {"seed": (0, 1), "optim.lr": (1e-6, 0.5), "rewards.a.use": ("x", "y")}


def test_a_recipe_does_not_differ_from_itself():
    assert list(differences(everything().to_mapping(), everything().to_mapping())) == []
