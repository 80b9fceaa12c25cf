"""Runs whose policy calls tools: a tiny random model with tokens that each spell a whole call, and rows to sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chat_templates import QWEN_TOOLS, chat_tokenizer
from tiny import tiny_model
from transformers import GenerationConfig

from grpo import Recipe
from grpo.recipe import to_yaml

NUM_CALLS = 48
"""Tokens that spell a call: a random policy draws one in about six."""
NUM_ENDS = 12
"""Bytes that end a turn like the template's own token."""


def tag_call(number: int) -> str:
    return f"<calc>{number} * {number + 1}</calc>"


def hermes_call(number: int) -> str:
    arguments = {"expression": f"{number} * {number + 1}"}
    body = json.dumps({"name": "calculator", "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


def calling_model(folder: Path, call=tag_call, template: str | None = None) -> Path:
    """A model folder whose policy calls the calculator often, in a format or another."""
    tokenizer = chat_tokenizer(template)
    tokenizer.add_tokens([call(number) for number in range(NUM_CALLS)])
    model = tiny_model("llama", 0, vocabulary=len(tokenizer), num_hidden_layers=1)
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ends = [2, tokenizer.convert_tokens_to_ids("<|im_end|>"), *range(40, 40 + NUM_ENDS)]
    GenerationConfig(eos_token_id=ends, pad_token_id=0).save_pretrained(folder)
    return folder


def rows_file(path: Path, number: int = 40) -> Path:
    rows = [
        {"prompt": f"what is {i} * {i + 1}?", "answer": str(i * (i + 1))} for i in range(number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_values(folder: Path, model: Path, **changed: Any) -> dict[str, Any]:
    """A recipe of two steps whose reward is how far completions get."""
    values: dict[str, Any] = {
        "name": "tools",
        "run_dir": str(folder / "run"),
        "steps": 2,
        "threads": 1,
        "model": {"name": str(model)},
        "data": {
            "source": str(rows_file(folder / "rows.jsonl")),
            "held_out": 4,
            "template": "plain",
        },
        "tools": ["calculator"],
        "environment": {"format": "<calc>", "max_calls": 2},
        "sample": {"prompts": 3, "group_size": 4, "max_tokens": 16},
        "rewards": {"calls": {"use": f"{Path(__file__)}:number_of_calls"}},
        "optim": {"lr": 1e-3},
        "evaluate": {"samples": 1, "every": 0, "threshold": 2.0},
        "checkpoint": {"every": 1},
        "gates": {"truncated": "off"},
    }
    for name, value in changed.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    return values


def recipe(folder: Path, *overrides: str, **changed: Any) -> Recipe:
    model = folder / "model"
    if not model.exists():
        calling_model(model)
    return Recipe.from_mapping(recipe_values(folder, model, **changed), *overrides)


def recipe_file(folder: Path, **changed: Any) -> Path:
    """The same in a file, for commands."""
    file = folder / "tools.yaml"
    file.write_text(to_yaml(recipe(folder, **changed).to_mapping()))
    return file


def number_of_calls(text: str, turns: list[dict[str, Any]]) -> float:
    """A reward that counts calls that were answered."""
    return float(sum(len(turn["calls"]) for turn in turns if turn["status"] == "ok"))


def chat_changes() -> dict[str, Any]:
    """What makes the recipe one of a chat with calls in hermes' form."""
    return {"data": {"template": "chat"}, "environment": {"format": "auto"}}


def chat_model(folder: Path) -> Path:
    return calling_model(folder, hermes_call, QWEN_TOOLS)
