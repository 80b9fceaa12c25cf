"""After which steps a run is evaluated and saved, by its recipe."""

from __future__ import annotations

from grpo.recipe import Recipe


def evaluates_after(recipe: Recipe, step: int) -> bool:
    """Whether the recipe asks for an evaluation between this step and the next; before and after a run are apart."""
    every = recipe.evaluate.every
    return bool(every) and 0 < step < recipe.steps and step % every == 0


def saves_after(recipe: Recipe, step: int) -> bool:
    """Whether the recipe asks for a checkpoint after this step."""
    every = recipe.checkpoint.every
    return step == recipe.steps or (bool(every) and step % every == 0)
