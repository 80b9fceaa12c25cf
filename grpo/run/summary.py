"""The end of a run: its final model and ``summary.json``."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.data.examples import ExampleSet
from grpo.model.policy import Policy
from grpo.model.saved import SavedModel, check_saved
from grpo.monitor import watchdog
from grpo.monitor.redaction import redacted
from grpo.recipe import Recipe
from grpo.recipe.shorthands import HELD_OUT, HELD_OUT_LOSS
from grpo.run.folder import disk_errors, write_text
from grpo.run.ledger import Ledger
from grpo.run.log import finite
from grpo.run.sample_rows import turn_rows
from grpo.run.setup import RunParts
from grpo.run.state import Progress
from grpo.types import ScoredGroup

NUM_EXAMPLES = 3
OUTPUT = {"model": "final", "data": None}
"""What a training run leaves for a later stage: places in its folder."""


def write_final(policy: Policy, folder: Path) -> SavedModel:
    """Write the final model, whole or not at all; what loading it back has shown."""
    final = folder / "final"
    writing = folder / ".writing-final"
    with watchdog.writing("grpo.model.policy, the final model", writing):
        shutil.rmtree(writing, ignore_errors=True)
        with disk_errors(final):
            policy.save(writing)
        shutil.rmtree(final, ignore_errors=True)
        writing.rename(final)
    with watchdog.loading("grpo.model.saved, the final model back"):
        return check_saved(policy, final)


def examples_of(groups: Sequence[ScoredGroup]) -> list[dict[str, Any]]:
    """The first completion of the first prompts, as text, and its turns where it was answered."""
    return [_example(group) for group in groups[:NUM_EXAMPLES]]


def _example(group: ScoredGroup) -> dict[str, Any]:
    completion = group.completions[0]
    turns = {"turns": turn_rows(completion)} if completion.turns else {}
    return {
        "prompt": group.prompt.text,
        "completion": completion.text,
        "reward": group.scores[0].value,
        **turns,
    }


def summary_of(
    recipe: Recipe,
    progress: Progress,
    ledger: Ledger,
    parts: RunParts,
    final: SavedModel,
    examples_after: Sequence[Mapping[str, Any]],
    examples: ExampleSet,
) -> dict[str, Any]:
    """What ``summary.json`` holds; `examples` are those of supervised training."""
    sets = _by_set(progress)
    return {
        **_supervised(sets.pop(HELD_OUT_LOSS, None), examples),
        "name": recipe.name,
        "stage": recipe.stage,
        "steps": progress.num_steps,
        "before": progress.before,
        "after": progress.after,
        "sets": sets,
        "seconds": progress.seconds_now,
        "tokens": progress.tokens,
        "ledger": ledger,
        "sandbox": parts.isolation,
        "final": asdict(final),
        "output": OUTPUT,
        "gates": parts.gates.counts,
        "alarms": parts.gates.alarms,
        "examples": {"before": progress.examples_before, "after": examples_after},
    }


def _supervised(losses: Mapping[str, Any] | None, examples: ExampleSet) -> dict[str, Any]:
    """What only a run of supervised training has: its held-out loss, its rows by what became of them, their forms."""
    found = {"loss": losses, "rows": examples.counts, "forms": list(examples.forms)}
    return {name: value for name, value in found.items() if value}


def _by_set(progress: Progress) -> dict[str, Any]:
    """``{set: {before, after}}`` for the sets of ``evaluate.sets``."""
    names = dict.fromkeys([*progress.sets_before, *progress.sets_after])
    return {
        name: {
            "before": progress.sets_before.get(name),
            "after": progress.sets_after.get(name),
        }
        for name in names
        if name != HELD_OUT
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``, without secrets."""
    text = redacted(json.dumps(finite(summary), indent=1, ensure_ascii=False))
    write_text(folder / "summary.json", text + "\n")
