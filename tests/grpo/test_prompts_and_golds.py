"""Every command refuses data whose prompts or golds cannot serve, and runs where the prompt opens the reasoning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import byte_tokenizer, tiny_model

from grpo import Recipe, Trainer, evaluate, sample, train
from grpo.evaluate import evaluate_recipe
from rewards import score

SUMS = [(f"What is {a} plus {b}?", str(a + b)) for a in range(2, 6) for b in range(3, 6)]
THINKS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "gold-in-the-prompt": ({"prompt": "{question} {answer}"}, "plain"),
    "question-missing": ({"prompt": "task"}, "plain"),
    "empty-gold": ({"prompt": "question", "answer": "lost"}, "plain"),
    "several-golds": ({"prompt": "question", "answer": "list"}, "plain"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["train", "train --preflight", "evaluate", "sample"])
def test_every_command_refuses_in_one_sentence_with_the_row(tmp_path, capsys, name, command):
    columns, template = BAD[name]
    rows = [
        {"question": q, "answer": a, "task": "Solve.", "lost": "nan", "list": [a, "0"]}
        for q, a in SUMS
    ]
    source = written(tmp_path / "rows.jsonl", rows)
    settings = [
        f"data.source={source}",
        f"data.columns={json.dumps(columns)}",
        f"data.template={template}",
    ]
    program, *flags = command.split()
    if program == "train":
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("rewards: {correct: {use: math_answer}}\nmodel: {name: nowhere}\n")
        code = train.main([str(recipe), *flags, *settings, f"run_dir={tmp_path / 'run'}"])
    elif program == "evaluate":
        code = evaluate.main(["nowhere", *settings])
    else:
        code = sample.main(["nowhere", *settings])
    said = capsys.readouterr()
    if program == "sample" and name.endswith(("gold", "golds")):
        assert (
            code == 2 and name not in said.err
        )  # it scores nothing, so it needs no gold; there is no such model
        return
    shown = said.out if "--preflight" in command else said.err
    assert code == 2 and "Traceback" not in said.err
    line = next(line for line in shown.splitlines() if name in line)
    assert "row 1" in line, line


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny model whose chat template opens ``<think>``."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = THINKS
    tokenizer.save_pretrained(folder)
    tiny_model("llama", 0, vocabulary=len(tokenizer)).save_pretrained(folder)
    return folder


def recipe_of(model: Path, source: str, run: Path) -> Recipe:
    rewards = {"correct": {"use": "math_answer"}, "format": {"use": "think_format", "weight": 0.1}}
    values = {"rewards": rewards, "model": {"name": str(model)}}
    return Recipe.from_mapping(
        values, "steps=2", "sample.prompts=2", "sample.group_size=4", "sample.max_tokens=6", "data.held_out=2",
        f"data.source={source}", "data.template=chat", "data.columns={prompt: conversations}", f"run_dir={run}",
        "evaluate.samples=2", "optim.lr=0.001",
    )  # fmt: skip


def test_a_run_whose_prompt_opens_the_reasoning_pays_for_no_unfinished_one(tmp_path, model, capsys):
    rows = [
        {
            "conversations": [
                {"from": "human", "value": q},
                {"from": "gpt", "value": f"It is {a}."},
            ],
            "answer": [a],
        }
        for q, a in SUMS
    ]
    source = written(tmp_path / "rows.jsonl", rows)
    recipe = recipe_of(model, source, tmp_path / "run")
    trainer = Trainer(recipe)
    for record in trainer:
        assert record["reward/mean"] == 0
    for group in trainer.groups:
        assert (
            group.prompt.text.endswith("<|assistant|><think>\n")
            and "It is" not in group.prompt.text
        )
        for verdict in group.verdicts:
            statuses = {name: part.status for name, part in verdict.items()}
            assert statuses == {
                "correct": "no_answer",
                "format": "scored",
                "correct_lenient": "no_answer",
            }
    assert "12 of 12 prompts end with the assistant's turn" in capsys.readouterr().err
    report = evaluate_recipe(recipe)
    assert report["strict"]["faults"] == 0 and report["strict"]["accuracy"] == 0
    out = tmp_path / "sampled.jsonl"
    with out.open("w") as file:
        sample.write(recipe, file, n=1, rows=2, with_tokens=False, say=print)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(line["prompt_text"].endswith("<think>\n") and "prompt" in line for line in lines)
    graded = [
        score._parse(json.dumps({**line, "completion": r"\boxed{4}"}).encode(), 1, False)[1]
        for line in lines
    ]
    assert all(one.prompt.endswith("<think>\n") for one in graded)
