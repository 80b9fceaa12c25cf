"""The recipes that ship: each parses, says what it costs, dry-runs, and makes a step with a small random model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chat_templates import QWEN_TOOLS, chat_tokenizer
from tiny import byte_tokenizer, tiny_model

from grpo import Recipe, Trainer
from grpo.recipe.plan import Plan, has_stages
from grpo.stages import trainer_of
from grpo.train import main

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
RECIPES = [recipe for recipe in SHIPPED if not has_stages(recipe)]
STAGED = [recipe for recipe in SHIPPED if has_stages(recipe)]
CHAT = "{% for m in messages %}{{ '<s>' + m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ ':' }}{% endif %}"
HUB_ROWS = {
    "openai/gsm8k": {"question": "Two and {n}?", "answer": "2 + {n}\n#### {n}"},
    "ChilleD/SVAMP": {"Body": "There are {n} birds", "Question": "How many?", "Answer": "{n}.0"},
}


def names(recipes: list[Path]) -> list[str]:
    return [recipe.stem for recipe in recipes]


def small(recipe: Path, tmp_path: Path, *overrides: str) -> Recipe:
    """The recipe with everything but its sizes and its data's place left as it is."""
    own = Recipe.load(recipe)
    a_step = ["sample.prompts=2", "sample.group_size=2"]
    if own.stage == "sft":
        a_step = ["sft.batch=4", "epochs=null"]
    settings = [
        "steps=1",
        *a_step,
        "sample.max_tokens=6",
        "data.held_out=2",
        "evaluate.samples=1",
        "sample.max_rows=8",
        f"run_dir={tmp_path / 'run'}",
        "data.max_prompt_tokens=null",
    ]
    if own.data.source in HUB_ROWS:
        file = rows_file(own.data.source, tmp_path, 8)
        settings += [f"data.source={file}", "data.subset=null"]
    elif "count" in own.data.args or own.stage == "sft":
        settings += ["data.args.count=50"]
    return Recipe.load(recipe, *settings, *overrides)


def here(plan: Plan, tmp_path: Path) -> list[str]:
    """Overrides that put files in the place of models and rows that are not here."""
    first = plan.stages[0].recipe
    settings = []
    if not Path(first.model.name or "").exists():
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(tmp_path / "model")
        shape = tiny_model("llama", 0, vocabulary=len(tokenizer), max_position_embeddings=2048)
        shape.save_pretrained(tmp_path / "model")
        settings.append(f"model.name={tmp_path / 'model'}")
    for name, source in first.data.each().items():
        if source.source in HUB_ROWS:
            file = rows_file(source.source, tmp_path, 320)
            settings += [f"data.sources.{name}.source={file}", f"data.sources.{name}.subset=null"]
        if source.source == "arithmetic":
            settings.append(f"data.sources.{name}.args.high=12")
    return settings


def rows_file(hub_id: str, tmp_path: Path, number: int) -> Path:
    """Rows of the shape that the hub's data set has."""
    file = tmp_path / "rows.jsonl"
    rows = (
        {key: text.replace("{n}", str(n)) for key, text in HUB_ROWS[hub_id].items()}
        for n in range(number)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("recipe", SHIPPED, ids=names(SHIPPED))
def test_a_recipe_is_headed_by_what_a_reader_wants_to_know(recipe):
    head = recipe.read_text().split("\nname:")[0]
    for what in ("command", "hardware", "minutes", "expected result", "last verified"):
        assert re.search(rf"^#   {what} {{2,}}\S", head, re.M), what
    assert "@@" not in head
    assert all(line.startswith("#") for line in head.splitlines())
    assert len(recipe.read_text().splitlines()) <= 60  # a page


@pytest.mark.parametrize("recipe", RECIPES, ids=names(RECIPES))
def test_a_recipe_states_its_name_and_template_and_dry_runs(recipe, capsys, monkeypatch):
    loaded = Recipe.load(recipe)
    assert loaded.name == recipe.stem and loaded.data.template != "auto"
    if Path(loaded.model.name or "").parent != recipe.parent:
        # the others' models and data are not here
        monkeypatch.setattr("grpo.preflight.dry_run.data", lambda recipe: iter(()))
    assert main([str(recipe), "--dry-run"]) == 0
    assert "a step: " in capsys.readouterr().out


@pytest.mark.parametrize("recipe", STAGED, ids=names(STAGED))
@pytest.mark.thin(1)
def test_a_recipe_with_stages_dry_runs(recipe, tmp_path, capsys):
    plan = Plan.load(recipe)
    assert plan.name == recipe.stem
    for stage in plan.stages:
        assert all(source.template != "auto" for source in stage.recipe.data.each().values())
    assert main([str(recipe), "--dry-run", *here(plan, tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(f"==== {stage.name} (" in said for stage in plan.stages)


@pytest.mark.parametrize("recipe", RECIPES, ids=names(RECIPES))
@pytest.mark.thin(6)
def test_a_recipe_makes_a_step_with_random_weights_of_a_small_shape(recipe, tmp_path):
    settings = small(recipe, tmp_path)
    tokenizer = chat_tokenizer(QWEN_TOOLS if settings.tools else CHAT)
    # transformers gives the tokenizer of a Qwen model Qwen's way of splitting text, whatever was saved
    model = tiny_model("llama", 0, vocabulary=len(tokenizer), max_position_embeddings=2048)
    trainer = trainer_of(settings)(settings, model=model, tokenizer=tokenizer)
    (record,) = list(trainer)
    whole = {"grpo": "sampled", "sft": "drawn"}[settings.stage]
    assert record[f"ledger/{whole}"] == 4 and record["ledger/faulted"] == 0
    assert (tmp_path / "run" / "final" / "config.json").exists()


@pytest.mark.slow
def test_distillation_against_reinforcement_learning_comes_to_a_table(tmp_path):
    base = str(ROOT / "recipes" / "quickstart_base")
    sizes = ["--seeds", "0", "--steps", "1", "--student", base, "--teacher", base]
    script = str(ROOT / "recipes" / "distill_vs_rl" / "run.py")
    command = [sys.executable, script, str(tmp_path), *sizes, "--set", "evaluate.sets.test.limit=8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "table.json").read_text())["found"]
    small, large, rl, traces, on_policy = (runs[0] for runs in found.values())
    assert small["accuracy"] == large["accuracy"]
    assert rl["sampled_tokens"] > 256 and on_policy["sampled_tokens"] > 256
    assert 0 < traces["traces"] < 256 < traces["sampled_tokens"]
    assert len((tmp_path / "table.md").read_text().splitlines()) == 7


def test_a_quantised_base_with_adapters_is_what_the_lora_recipe_offers(tmp_path):
    recipe = Recipe.load(ROOT / "recipes" / "lora_qwen2.5_7b.yaml", "model.quantize=nf4")
    assert recipe.model.lora is not None and recipe.model.quantize == "nf4"


def test_hub_data_may_be_replaced_by_a_file(tmp_path):
    recipe = small(ROOT / "recipes" / "svamp_smollm2.yaml", tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    trainer = Trainer(
        recipe, model=tiny_model("llama", 0, vocabulary=len(tokenizer)), tokenizer=tokenizer
    )
    texts = {prompt.text for prompt in trainer.inputs.prompts.train}
    assert "<s>There are 3 birds. How many?:" in texts
