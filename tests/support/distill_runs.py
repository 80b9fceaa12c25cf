"""Small distillations of the quickstart's model, and a teacher that is not the policy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from grpo import Recipe
from grpo.run.lifecycle import Run
from grpo.stages import trainer_of

BASE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart_base"
TINY = [
    "steps=6",
    "data.args.count=400",
    "sample.prompts=3",
    "sample.group_size=1",
    "sample.max_tokens=8",
    "optim.lr=1e-3",
    "data.held_out=3",
    "evaluate.samples=1",
    "evaluate.every=2",
    "checkpoint.every=2",
]


def make_teacher(folder: Path, noise: float = 0.1) -> Path:
    """The quickstart's base with noise on its weights, as a model of its own."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BASE)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * p.std() * torch.randn_like(p))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, folder)
    return folder


def recipe(folder: Path, teacher: Path, *overrides: str) -> Recipe:
    return Recipe.load(
        "quickstart",
        *TINY,
        f"distill.teacher={teacher}",
        "stage=distill",
        "loss={}",
        f"run_dir={folder}",
        *overrides,
    )


def run(folder: Path, teacher: Path, *overrides: str, **options: Any) -> Run:
    """A run to its end."""
    settings = recipe(folder, teacher, *overrides)
    trainer = trainer_of(settings)(settings, quiet=True, **options)
    for _ in trainer:
        pass
    return trainer
