"""What a recipe will do, in words, before it does it: the objective, the counts of a step, the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from grpo.objective.formula import describe_objective
from grpo.recipe import Recipe, to_yaml
from grpo.recipe.describe import step_size

if TYPE_CHECKING:
    from grpo.preflight.memory import Memory

PROMPT = 256  # tokens of a prompt, for the prediction of memory


def dry_run(recipe: Recipe) -> Iterator[str]:
    """The resolved recipe, the loss it resolved to, the size of a step, and what will be written where."""
    yield to_yaml(recipe.to_mapping()).rstrip()
    yield ""
    yield from describe_objective(recipe)
    yield ""
    yield from step_size(recipe)
    yield from memory(recipe)
    yield ""
    yield from files(recipe)


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
