"""The end of a run: its final model is the policy, and the run says so, or says what it is instead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import Recipe, RecipeError, Trainer, cli
from grpo.model.policy import Policy
from grpo.model.saved import SavedModelDiffers, check_saved
from grpo.run.failures import explain
from grpo.run.inputs import load_inputs

BASE = Path(__file__).resolve().parents[3] / "recipes" / "quickstart_base"
SMALL = [
    "steps=1",
    "sample.prompts=2",
    "sample.group_size=4",
    "sample.max_tokens=6",
    "data.held_out=2",
    "evaluate.samples=1",
    "evaluate.every=0",
    "checkpoint.every=0",
]

DATA = ["--data", "countdown", "data.args={style: symbols}", "data.template=plain"]
REWARD = "rewards.correct.use=countdown"


def recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.load("quickstart", *SMALL, f"run_dir={folder / 'run'}", *overrides)


def run(folder: Path, *overrides: str) -> Trainer:
    trainer = Trainer(recipe(folder, *overrides))
    for _ in trainer:
        pass
    return trainer


def final_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "summary.json").read_text())["final"]


def test_an_adapter_on_the_tied_output_layer_reaches_the_final_model(tmp_path):
    """The quickstart's model is tied; its head alone is trained far enough to be another one."""
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert model.config.tie_word_embeddings
    lora = "model.lora={rank: 4, targets: [lm_head]}"
    trainer = run(tmp_path, lora, "optim.lr=0.05", "loss.beta=0.1")
    found = final_of(tmp_path)
    assert found["problems"] == [] and found["difference"] < 1e-4
    assert "final loads back as the policy" in (tmp_path / "run" / "console.log").read_text()
    policy = trainer.policy
    folder = tmp_path / "run" / "final"
    with torch.no_grad():
        policy.base.lm_head.lora_B["default"].weight.add_(0.01)
    assert check_saved(policy, folder).problems


def test_a_run_whose_final_model_is_another_says_so_and_fails(tmp_path, monkeypatch, capsys):
    save = Policy.save

    def astray(policy: Policy, folder: Path) -> None:
        save(policy, folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            model.model.norm.weight.mul_(1.5)
        model.save_pretrained(folder)

    monkeypatch.setattr(Policy, "save", astray)
    with pytest.raises(
        SavedModelDiffers, match="is not the trained policy.*model.norm.weight"
    ) as at:
        run(tmp_path)
    assert "model.norm.weight" in final_of(tmp_path)["problems"][0]
    assert "is not the trained policy" in capsys.readouterr().out
    assert explain(at.value)[0].startswith("stopped: saved model:")


# ---- a tokenizer larger than the model --------------------------------------------------------------------------


def larger(folder: Path, **options) -> Path:
    """The quickstart's base with a tokenizer that has one token more than its model, which `options` name."""
    shutil.copytree(BASE, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<extra{i}>" for i in range(size - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder, **options).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "preflight"])
def test_a_tokenizer_larger_than_the_model_is_one_sentence(tmp_path, capsys, command):
    base = larger(tmp_path / "base", extra_special_tokens=["<think>"])
    settings = [*SMALL, f"model.name={base}", f"run_dir={tmp_path / 'run'}"]
    arguments = {
        "train": ["train", "quickstart", *settings],
        "preflight": ["train", "quickstart", *settings, "--preflight"],
        "evaluate": ["evaluate", str(base), *DATA, REWARD],
        "sample": ["sample", str(base), *DATA],
    }
    assert cli.main(arguments[command]) == 2
    captured = capsys.readouterr()
    said = captured.out if command == "preflight" else captured.err
    sentences = [
        line for line in said.splitlines() if "no embedding for, such as '<think>'" in line
    ]
    assert len(sentences) == 1 and "Traceback" not in captured.err
    assert command == "preflight" or said.count("\n") == 1


def test_a_placeholder_of_images_beyond_the_model_is_let_pass_but_not_in_a_prompt(tmp_path):
    base = larger(tmp_path / "base", extra_special_tokens={"image_token": "<img>"})
    inputs = load_inputs(recipe(tmp_path, f"model.name={base}"))
    assert len(inputs.tokenizer) > inputs.config.vocab_size
    with pytest.raises(RecipeError, match="holds the token '<img>'.*no embedding for"):
        load_inputs(recipe(tmp_path, f"model.name={base}", "data.template=<img>{prompt}"))
    more = "evaluate.sets.more={source: countdown, limit: 2, template: '<img>{prompt}'}"
    with pytest.raises(RecipeError, match="sets.more: .* more:held-0 holds the token '<img>'"):
        load_inputs(recipe(tmp_path, f"model.name={base}", more))
