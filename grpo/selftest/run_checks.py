"""Whole runs of the quickstart's model: stopped and resumed, and the saved model against the trained one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from grpo.model.policy import Policy
from grpo.model.saved import check_saved
from grpo.recipe import Recipe
from grpo.selftest.check import Measured, all_of
from grpo.train import Trainer

SMALL = (
    "steps=4",
    "data.args.count=400",
    "sample.prompts=6",
    "sample.group_size=4",
    "sample.max_tokens=24",
    "data.held_out=12",
    "evaluate.samples=1",
    "checkpoint.every=1",
    "log.report=false",
    "optim.updates=2",
    "loss.beta=0.01",
)


def resumed_run() -> Measured:
    """Four steps at once, and four that were stopped after two and resumed: equal records, completions and weights."""
    with tempfile.TemporaryDirectory(prefix="grpo-selftest-") as name:
        whole = Path(name) / "whole"
        cut = Path(name) / "cut"
        _train(whole, resume=False)
        _train(cut, resume=False, stop_after=2)
        _train(cut, resume=True)
        expected = _left_by(whole)
        found = _left_by(cut)
    wrong = [file for file, content in expected.items() if found[file] != content]
    return all_of(len(expected) - len(wrong), len(expected), "files equal", ", ".join(wrong))


def _train(folder: Path, *, resume: bool, stop_after: int | None = None) -> None:
    recipe = Recipe.load("quickstart", *SMALL, f"run_dir={folder}")
    trainer = Trainer(recipe, resume=resume, quiet=True)
    for record in trainer:
        if record["step"] == stop_after:
            trainer.request_stop()


def _left_by(folder: Path) -> dict[str, Any]:
    """What a run wrote, without seconds."""
    records = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        records.append({key: record[key] for key in record if not key.startswith("seconds/")})
    return {
        "metrics.jsonl": records,
        "samples.jsonl": (folder / "samples.jsonl").read_bytes(),
        "final/model.safetensors": (folder / "final" / "model.safetensors").read_bytes(),
    }


def saved_model(policy: Policy) -> Measured:
    """The policy saved, loaded back as any program would, and compared: weights, log-probs, tokens."""
    with tempfile.TemporaryDirectory(prefix="grpo-selftest-") as name:
        policy.save(Path(name))
        found = check_saved(policy, Path(name))
    if found.unchecked:
        return Measured(holds=False, found=found.unchecked)
    if found.problems:
        return Measured(holds=False, found="; ".join(found.problems))
    return Measured(
        holds=True, found=f"every tensor equal, log-probs differ by {found.difference:.1e} nats"
    )
