"""A run of supervised fine-tuning: epochs, evaluation, ledger, final model, resume, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from chat_templates import CHATML, chat_tokenizer
from sft_runs import TINY, recipe, run
from small_runs import assert_same
from tiny import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grpo import Recipe, RecipeError, SftTrainer, Trainer
from grpo.stages import trainer_of
from grpo.train import main

ROOT = Path(__file__).resolve().parents[3]
CHATS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
    for n in range(12)
]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("sft") / "whole"
    run(folder)
    return folder


def test_a_run_learns_its_rows_and_says_so_beside_the_sampled_accuracy(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    before = summary["loss"]["before"]
    after = summary["loss"]["after"]
    assert after["loss"] < before["loss"] and after["low"] < after["loss"] < after["high"]
    assert before["rows"] == 6 and before["tokens"] == after["tokens"]
    assert summary["before"]["samples"] == summary["after"]["samples"] == 6
    records = lines(whole)
    steps = [record for record in records if "update/loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 10))
    assert steps[-1]["update/loss"] < steps[0]["update/loss"]
    assert [r["step"] for r in records if "heldout/loss" in r] == [0, 3, 6, 9]
    assert [r["step"] for r in records if "heldout/accuracy" in r] == [0, 3, 6, 9]


def test_every_row_is_counted_and_drawn_as_often_as_there_are_epochs(tmp_path: Path) -> None:
    trainer = SftTrainer(recipe(tmp_path / "run", "evaluate.before=false"), quiet=True)
    drawn: Counter[str] = Counter()
    sizes = []
    for _ in trainer:
        drawn.update(example.prompt.id for example in trainer.examples)
        sizes.append(len(trainer.examples))
    assert set(drawn.values()) == {2} and len(drawn) == 34
    assert sizes == [8] * 8 + [4]  # two epochs of 34 rows, and no row of a third
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ledger"] == {"drawn": 68, "skipped": 0, "faulted": 0, "trained": 68}
    assert sum(summary["rows"].values()) == 40 and summary["rows"]["held_out"] == 6


def test_the_rate_falls_by_a_cosine_to_a_tenth(whole: Path) -> None:
    rates = [record["update/lr"] for record in lines(whole) if "update/lr" in record]
    warmup = 1  # 5 % of nine updates, rounded up
    expected = [0.002] * warmup
    for update in range(warmup, 9):
        share = (1 + math.cos(math.pi * (update - warmup) / (9 - warmup))) / 2
        expected.append(0.002 * (0.1 + 0.9 * share))
    assert rates == pytest.approx(expected)


def test_the_held_out_loss_is_that_of_the_saved_model_by_transformers(whole: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole / "final").requires_grad_(False)
    inputs = SftTrainer(recipe(whole.parent / "other"), quiet=True).inputs
    total = 0.0
    number = 0
    for example in inputs.examples.held_out:
        input_ids = torch.tensor([example.prompt.token_ids])
        logps = model(input_ids=input_ids).logits[0, :-1].double().log_softmax(-1)
        (span,) = example.learnt
        for place in range(*span):
            total -= float(logps[place - 1, input_ids[0, place]])
            number += 1
    after = json.loads((whole / "summary.json").read_text())["loss"]["after"]
    assert number == after["tokens"] and total / number == pytest.approx(after["loss"], rel=1e-5)


def test_a_stopped_run_goes_on_as_if_it_never_had(whole: Path, tmp_path: Path) -> None:
    trainer = SftTrainer(recipe(tmp_path / "cut"), quiet=True)
    for record in trainer:
        if record["step"] == 4:
            trainer.request_stop()
    assert trainer.stopped and trainer.num_steps == 4
    run(tmp_path / "cut", resume=True)
    assert_same(whole, tmp_path / "cut")


def test_adapters_are_trained_saved_and_merged(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", "model.lora.rank=2", "evaluate.before=false", "epochs=1")
    assert (tmp_path / "run" / "final" / "adapter" / "adapter_model.safetensors").exists()
    assert trainer.storage.summary is not None and not trainer.storage.summary["final"]["problems"]


def test_a_base_model_learns_a_chat_template_and_its_end(tmp_path: Path) -> None:
    """The template of the recipe is in ``final/``, whose generation ends with the turn's own token."""
    (tmp_path / "chat.jinja").write_text(CHATML)
    tokenizer = chat_tokenizer(None)
    settings = {
        "stage": "sft",
        "steps": 2,
        "run_dir": str(tmp_path / "run"),
        "data": {"held_out": 2},
        "sft": {"batch": 4, "chat_template": str(tmp_path / "chat.jinja")},
    }
    model = tiny_model("llama", 0, vocabulary=len(tokenizer))
    trainer = SftTrainer(
        Recipe.from_mapping(settings), data=CHATS, model=model, tokenizer=tokenizer, quiet=True
    )
    summary = trainer.train()
    assert summary is not None and not summary["final"]["problems"]
    assert summary["before"] is None and summary["loss"]["after"]["rows"] == 2
    assert tokenizer.chat_template is None  # the tokenizer in hand is as it was
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in GenerationConfig.from_pretrained(tmp_path / "run" / "final").eos_token_id
    saved = AutoTokenizer.from_pretrained(tmp_path / "run" / "final")
    assert saved.chat_template == CHATML
    assert all(example.prompt.token_ids[-1] == end for example in trainer.inputs.examples.train)


def test_prompts_go_through_the_chat_template_that_the_recipe_names(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(CHATML)
    tokenizer = chat_tokenizer(None)
    settings = {
        "stage": "sft",
        "run_dir": str(tmp_path / "run"),
        "data": {"held_out": 2},
        "sft": {"batch": 4, "chat_template": str(tmp_path / "chat.jinja")},
        "rewards": {"brief": {"use": "think_format"}},
    }
    inputs = SftTrainer(
        Recipe.from_mapping(settings),
        data=[{"prompt": f"{n}?", "completion": f"{n}!"} for n in range(12)],
        model=tiny_model("llama", 0, vocabulary=len(tokenizer), max_position_embeddings=2048),
        tokenizer=tokenizer,
        quiet=True,
    ).inputs
    asked = {prompt.text for prompt in inputs.sets[0].prompts}
    learnt = {example.prompt.text.rpartition("\n")[0] for example in inputs.examples.held_out}
    assert {text.rstrip("\n") for text in asked} == learnt
    assert all(text.startswith("<|im_start|>user\n") for text in learnt)


def test_a_mixture_draws_each_source_by_its_share(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(CHATML)
    texts = [{"text": f"text {n}"} for n in range(8)]
    settings = {
        "stage": "sft",
        "steps": 4,
        "run_dir": str(tmp_path / "run"),
        "data": {"sources": {"chats": {"weight": 3}, "texts": {"weight": 1}}},
        "sft": {"batch": 4},
    }
    trainer = SftTrainer(
        Recipe.from_mapping(settings),
        data={"chats": CHATS, "texts": texts},
        model=tiny_model("llama", 0, vocabulary=len(tokenizer)),
        tokenizer=tokenizer,
        quiet=True,
    )
    for _ in trainer:
        sources = Counter(example.prompt.source for example in trainer.examples)
        assert sources == {"chats": 3, "texts": 1}


# ---- the recipe and the command -------------------------------------------------------------------------------------


def test_the_section_names_the_stage_and_either_command_runs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Recipe.from_mapping({"sft": {"batch": 4}}).stage == "sft"
    assert Recipe.from_mapping({"sft": {}}).stage == Recipe(sft={"batch": 4}).stage == "sft"
    assert Recipe(**Recipe().to_mapping()).stage == "grpo"
    assert trainer_of(Recipe.from_mapping({"stage": "sft"})) is SftTrainer
    assert trainer_of(Recipe.from_mapping({})) is Trainer
    with pytest.raises(RecipeError, match="stage is sft, and Trainer makes runs of stage grpo"):
        Trainer(recipe(tmp_path / "run"))
    command = ["sft_countdown", *TINY, f"run_dir={tmp_path / 'run'}"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "34 train" in said and "the run: 9 steps, 2 passes" in said
    assert "\n  > " in said and "<eos>" in said
    assert main([*command, "--preflight"]) == 2
    assert "--dry-run shows what it reads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.beta=0.1"], "loss.beta is set, but stage sft does not read it"),
        (["loss.load_balance=0.01"], "loss.load_balance is set, but stage sft does not read it"),
        (["advantage.rule=center"], "advantage.rule is set"),
        (["sample.prompts=4"], "sample.prompts is set"),
        (["optim.updates=2"], "optim.updates is set, but a step of stage sft is one update"),
        (["stage=grpo"], "sft.batch is set, but the recipe's stage is grpo"),
        (["optim.schedule=constant"], "optim.schedule constant does not fall"),
        (["sft.batch=99"], "sft.batch is 99, but only 34 rows train"),
        (["sft.max_tokens=40"], "longer than 40 tokens .* none is cut"),
        (["sft.max_tokens=40", "sft.too_long=drop", "sft.batch=30"], "are left to train on"),
        (["sft.chat_template=nowhere.jinja"], "cannot be read"),
        (
            ["rewards=", "rewards={}", "evaluate.sets.x.source=countdown"],
            "evaluate.sets.x is scored",
        ),
    ],
)
def test_what_a_run_cannot_be_is_refused_in_a_sentence(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        SftTrainer(recipe(tmp_path / "run", *overrides), quiet=True)


@pytest.mark.slow
def test_the_recipe_comes_to_what_its_head_says(tmp_path: Path) -> None:
    settings = Recipe.load("sft_countdown", "seed=2", f"run_dir={tmp_path / 'run'}")
    summary = SftTrainer(settings, quiet=True).train()
    assert summary is not None
    assert summary["loss"]["before"]["loss"] == pytest.approx(1.68, abs=0.01)
    assert summary["loss"]["after"]["loss"] == pytest.approx(0.23, abs=0.01)
    assert summary["before"]["accuracy"] == pytest.approx(0.33, abs=0.03)
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"]
    assert 50 < summary["after"]["length"] < 62


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    base = ["sft_countdown", *TINY, "model.dtype=float64", "optim.tokens_per_micro_batch=100"]
    base += ["rewards={}", "epochs=1", "checkpoint.every=0"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    runs = {"one": [], "two": launcher, "divided": launcher}
    for name, words in runs.items():
        folder = tmp_path / name
        further = ["distributed.shard=true"] if name == "divided" else []
        command = [sys.executable, *words, "-m", "grpo.sft", *base, f"run_dir={folder}", *further]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append([record for record in lines(folder) if "update/loss" in record])
    one, *others = found
    for other in others:
        assert len(one) == len(other) > 1
        for a, b in zip(one, other):
            assert a["ledger/drawn"] == b["ledger/drawn"]
            assert a["update/loss"] == pytest.approx(b["update/loss"], rel=1e-12)
            assert a["update/grad_norm"] == pytest.approx(b["update/grad_norm"], rel=1e-10)
