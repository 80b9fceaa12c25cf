"""The first line of a run, which is there before anything heavy is loaded."""

from __future__ import annotations

from grpo import __version__
from grpo.recipe import Recipe
from grpo.report.console.closing import shown_path


def title(recipe: Recipe) -> str:
    """Which version, which run, where."""
    return f"grpo {__version__}  {recipe.name}  ->  {shown_path(recipe.folder())}"
