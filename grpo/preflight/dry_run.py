"""What a recipe will do, in words, before it does it: the objective, the counts of a step, the files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

from grpo.objective.formula import formula
from grpo.recipe import Recipe, describe_keys, to_yaml
from grpo.recipe.presets import PRESETS

if TYPE_CHECKING:
    from grpo.preflight.memory import Memory

PROMPT = 256  # tokens of a prompt, for the prediction of memory


def dry_run(recipe: Recipe) -> Iterator[str]:
    """The resolved recipe, the loss it resolved to, the size of a step, and what will be written where."""
    yield to_yaml(recipe.to_mapping()).rstrip()
    yield ""
    yield from objective(recipe)
    yield ""
    yield from step_size(recipe)
    yield from memory(recipe)
    yield ""
    yield from files(recipe)


def objective(recipe: Recipe) -> Iterator[str]:
    """The loss as a formula, where it is from, its paper's own scale, and what we chose where the paper is silent."""
    preset = PRESETS[recipe.loss.preset]
    yield formula(recipe.advantage, recipe.loss, recipe.sample.max_tokens)
    yield f"preset {recipe.loss.preset}: {preset.source}"
    changed = [
        f"{section}.{name} = {getattr(getattr(recipe, section), name)}"
        for section in ("advantage", "loss")
        for name, value in getattr(preset, section).items()
        if getattr(getattr(recipe, section), name) != value
    ]
    if changed:
        yield f"  changed by this recipe: {', '.join(changed)}"
    yield f"  the paper's scale, not applied: {preset.paper_scale}"
    for choice in preset.choices:
        yield f"  our choice: {choice}"


def step_size(recipe: Recipe) -> Iterator[str]:
    sample, optim = recipe.sample, recipe.optim
    total = sample.prompts * sample.group_size
    made = optim.updates * optim.epochs
    yield (
        f"a step: {many(sample.prompts, 'prompt')} x {sample.group_size} = {many(total, 'completion')} of at most "
        f"{many(sample.max_tokens, 'token')}, {many(made, 'update')}"
    )
    rounds = 1 + (recipe.advantage.refills if recipe.advantage.flat == "refill" else 0)
    most = (
        rounds * sample.prompts + math.ceil(sample.prompts * sample.oversample)
    ) * sample.group_size
    if most > total:
        yield f"  and further prompts in place of flat groups, up to {many(most, 'completion')} sampled a step"
    yield (
        f"the run: {many(recipe.steps, 'step')}, {many(recipe.steps * total, 'completion')}, "
        f"{many(recipe.steps * made, 'update')}"
    )


def memory(recipe: Recipe) -> Iterator[str]:
    """The memory of an update whose completions all have their full length, if the model is a folder at hand."""
    if not (Path(recipe.model.name or "") / "config.json").is_file():
        return
    from grpo.model.loading import load_config, load_tokenizer
    from grpo.preflight.memory import example_rows, predict

    made = recipe.sample.prompts // recipe.optim.updates
    rows = example_rows(max(1, made), recipe.sample.group_size, PROMPT, recipe.sample.max_tokens)
    model = load_config(recipe.model), load_tokenizer(recipe.model), recipe.model
    found = predict(*model, recipe.optim, recipe.loss, rows)
    yield from found.lines()
    yield f"  were every completion {recipe.sample.max_tokens} tokens long, after prompts of {PROMPT}"
    kept = checkpoint_bytes(recipe, found) / 2**30
    yield f"  a checkpoint: about {kept:.2f} GiB on the disk, and in the host's memory while it is written"


def checkpoint_bytes(recipe: Recipe, found: Memory) -> int:
    """Bytes of a checkpoint's tensors: trained weights, masters, moments and reference."""
    trained = found.all_gradients // (2 if recipe.model.dtype in ("bfloat16", "float16") else 1)
    return trained + found.masters + found.moments + found.reference


def many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def files(recipe: Recipe) -> Iterator[str]:
    folder = recipe.folder()
    yield f"written to {folder}:"
    yield "  recipe.yaml (first), metrics.jsonl, samples.jsonl, evaluations.jsonl, checkpoints/, final/, summary.json"
    every, best = recipe.checkpoint.every, recipe.checkpoint.keep_best
    yield (
        f"  a checkpoint {f'every {every} steps' if every else 'when stopped'} and at the end, the last "
        f"{recipe.checkpoint.keep} kept"
        + (f", and the best {best} by held-out accuracy" if best else "")
    )
    if recipe.checkpoint.background:
        yield "  each is copied in the host's memory (trained weights, optimizer) and written beside the training"


def keys_help() -> str:
    """Every key of the recipe with its default and docstring, one a line."""
    lines, section = [], None
    for name, default, help in describe_keys():
        head = name.split(".")[0] if "." in name else ""
        if head != section:
            lines.append("")
            section = head
        lines.append(f"  {name} = {_shown(default)}")
        lines.append(f"      {help}")
    return "\n".join(lines)


def _shown(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return str(default).lower().replace("none", "null")
    return str(default)
