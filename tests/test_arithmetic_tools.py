"""The base of the recipe arithmetic_tools: it is what its script makes, and it learns to call its calculator."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import Recipe, Trainer
from rewards.math_answer import math_answer

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "arithmetic_tools"


def script():
    """The script that makes the base, as a module."""
    spec = importlib.util.spec_from_file_location(
        "arithmetic_tools_pretrain", FOLDER / "pretrain.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pretrain = script()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def traces():
    return list(itertools.islice(pretrain.corpus(0, calling=0.1), 5_000))


# ------------------------------------------------------------------------------------------------ corpus


def test_the_corpus_is_about_the_recipes_questions_and_never_shows_a_held_out_one(traces):
    recipe = Recipe.load("arithmetic_tools")
    assert dict(recipe.data.args) == pretrain.QUESTIONS
    assert recipe.data.held_out == pretrain.NUM_HELD_OUT
    held_prompts = {row["prompt"] for row in pretrain.questions()[1]}
    assert len(held_prompts) == 256
    assert not held_prompts & {trace.prompt for trace in traces}


def test_few_writers_call_and_all_of_them_are_right(traces):
    calling = [trace for trace in traces if trace.calls]
    assert len(calling) / len(traces) == pytest.approx(0.1, abs=0.015)
    truth = {row["prompt"]: row["answer"] for half in pretrain.questions() for row in half}
    for prompt, answer in list(truth.items())[:1000]:
        for calls in (False, True):
            completion = pretrain.trace(prompt, calls).completion
            assert completion.count("<calc>") == (2 if calls else 0)
            assert math_answer(completion, answer).value == 1


def test_a_trace_that_calls_takes_its_second_step_from_the_first_result():
    trace = pretrain.trace("What is 12 - 37 * 48?", calls=True)
    assert trace.completion == (
        "<calc>37*48</calc><result>1776</result><calc>12-1776</calc><result>-1764</result>\n#### -1764"
    )


def test_what_the_calculator_answers_is_read_and_never_predicted(tokenizer):
    trace = pretrain.trace("What is 37 * 48 + 12?", calls=True)
    tokens, targets = pretrain.encode(tokenizer.get_vocab(), trace)
    assert tokens == [*tokenizer(trace.prompt + trace.completion).input_ids, tokenizer.eos_token_id]
    predicted = [target for target in targets if target >= 0]
    assert tokenizer.decode(predicted) == ("<calc>37*48</calc><calc>1776+12</calc>\n#### 1788<eos>")
    assert all(target in (token, -100) for token, target in zip(tokens, targets))


# --------------------------------------------------------------------------------------------- tokenizer


def test_the_committed_tokenizer_is_the_one_the_script_makes(tokenizer):
    assert tokenizer.get_vocab() == pretrain.make_tokenizer().get_vocab()


def test_text_survives_the_tokenizer_and_a_tag_is_one_token(tokenizer, traces):
    for trace in traces[:300]:
        text = trace.prompt + trace.completion
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids
    assert len(tokenizer("<calc></calc><result></result>", add_special_tokens=False).input_ids) == 4


# ------------------------------------------------------------------------------------------------- model


def test_the_model_is_tiny_and_is_the_shape_that_the_script_makes():
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    fresh = pretrain.make_model()
    assert {name: weight.shape for name, weight in model.state_dict().items()} == {
        name: weight.shape for name, weight in fresh.state_dict().items()
    }
    assert sum(weight.numel() for weight in model.parameters()) == 116_064
    assert (FOLDER / "model.safetensors").stat().st_size < 500_000


def test_a_few_steps_of_training_are_reproducible_and_learn():
    def trained():
        model, tokenizer = pretrain.make_model(), pretrain.make_tokenizer()
        training = pretrain.Training(steps=6, traces=12, slices=2, warmup=4)
        losses = pretrain.train(model, tokenizer, training)
        return model.state_dict(), losses

    (first, losses), (second, _) = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses[-1] < losses[0] - 0.3


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.slow
def test_a_few_steps_raise_the_share_of_completions_that_call_and_of_those_that_are_right(tmp_path):
    few = ["steps=8", "sample.prompts=16", "evaluate.every=0", "evaluate.before=false"]
    recipe = Recipe.load("arithmetic_tools", f"run_dir={tmp_path / 'run'}", *few)
    records = list(Trainer(recipe, quiet=True))
    assert records[0]["tool/share"] < 0.3 < records[-1]["tool/share"]
    assert records[-1]["rewards/correct"] > 2 * records[0]["rewards/correct"]
    assert records[-1]["tool/errors"] < 0.2
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").open()]
    calling = [row for row in rows if "turns" in row]
    assert len(calling) > 100
    for row in calling:
        first = row["turns"][0]
        assert row["completion"].startswith(first["text"])
        assert first["text"] + first["observed"] not in row["completion"]


@pytest.mark.slow
def test_the_comparison_with_and_without_the_calculator_comes_to_a_table(tmp_path):
    sizes = ["--seeds", "0", "--steps", "1", "--set"]
    small = ["data.held_out=8", "evaluate.samples=2", "sample.prompts=4", "log.report=false"]
    command = [sys.executable, str(FOLDER / "run.py"), str(tmp_path), *sizes, *small]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "table.json").read_text())["found"]
    for arm, (run,) in found.items():
        for when in ("before", "after"):
            assert len(run[when]["accuracy"]) == len(run[when]["calling"]) == 8
            assert run[when]["samples"] == 2
            assert arm == "calculator" or not any(run[when]["calling"])
    assert "| with the calculator: right, after |" in (tmp_path / "table.md").read_text()
