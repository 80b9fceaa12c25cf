"""Preparing the run folder: a new one, or one cut back to its newest checkpoint that is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping

from grpo.distributed.process_group import Ranks
from grpo.recipe import Recipe, to_yaml
from grpo.run import checkpoint
from grpo.run.checkpoint import Checkpoint
from grpo.run.fingerprint import compare
from grpo.run.folder import JOURNALS, MEMORY_KEYS, changes, truncate_to_step, write_text
from grpo.run.state import RunState

EVALUATION_KEYS = {"evaluate.samples", "evaluate.temperature", "evaluate.reward"}


def prepare_folder(
    folder: Path,
    recipe: Recipe,
    ranks: Ranks,
    *,
    resume: bool,
    evaluates: bool,
    fingerprint: Mapping[str, Any],
    say: Callable[..., None],
) -> Checkpoint | None:
    """Cut `folder`, which this run has locked, back to its newest whole checkpoint and return that; None if it is new.

    ``fingerprint`` is that of this run, to be compared with the checkpoint's; ``evaluates`` says whether prompts are
    held out; ``say`` gets what a reader should know. `RecipeError` if the run cannot continue; the journals and the
    recipe are then as they were.
    """
    notes: list[str] = []
    path = None
    if ranks.main:
        checkpoint.clear(folder)
        if resume:
            notes += changed_keys(folder, recipe, evaluates)
            path, notes_on_others = checkpoint.newest_whole(folder)
            notes += notes_on_others
            if path is None:
                notes.append(
                    "resume: the run has no checkpoint yet, so it starts from the beginning"
                )
    path = ranks.gather([path])[0]
    saved = checkpoint.load(path) if path else None
    if saved is not None:
        notes += compare(RunState.from_mapping(saved.state).fingerprint, fingerprint)
    say(*notes)
    if ranks.main:
        write_text(folder / "recipe.yaml", to_yaml(recipe.to_mapping()))
        _cut_back(folder, saved)
    ranks.wait()
    return saved


def _cut_back(folder: Path, saved: Checkpoint | None) -> None:
    """Truncate the journals to where `saved` was taken; to nothing for a new run."""
    step = -1
    sizes: Mapping[str, int] = {}
    if saved is not None:
        step = saved.step
        sizes = RunState.from_mapping(saved.state).journals
    for file in JOURNALS:
        truncate_to_step(folder / file, step, sizes.get(file, 0))


def changed_keys(folder: Path, recipe: Recipe, evaluates: bool) -> list[str]:
    """Notes on the keys that may change at resume, and have."""
    changed = {name: (old, new) for name, old, new in changes(folder, recipe)}
    notes = [
        f"resume: {name} was {old!r}, is {new!r}: it changes memory and speed, and may change how sums round"
        for name, (old, new) in changed.items()
        if name in MEMORY_KEYS
    ]
    stretched = recipe.optim.schedule != "constant" or recipe.optim.warmup_ratio > 0
    if "steps" in changed and stretched:
        old, new = changed["steps"]
        notes.append(
            f"resume: steps was {old}, is {new}, so from here on the {recipe.optim.schedule} schedule of "
            "optim.lr is not the one that the run began with"
        )
    if evaluates and EVALUATION_KEYS & changed.keys():
        notes.append(
            "resume: held-out accuracy is evaluated differently from here on, so it does not compare with "
            "the accuracy before"
        )
    return notes
