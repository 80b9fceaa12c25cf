"""The rows of a recipe as they are sampled by a command: read as the recipe's stage does, with a cap that fits.

What of rows to learn from is asked is up to ``grpo.data.questions``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

from grpo.data.prompts import cap_that_fits
from grpo.data.sources import SourceRows
from grpo.model.info import ModelInfo
from grpo.recipe import Recipe, SampleSection
from rewards.spelling import many


def with_cap_that_fits(
    recipe: Recipe, sources: Sequence[SourceRows], info: ModelInfo, say: Callable[[str], None]
) -> Recipe:
    """`recipe` with ``sample.max_tokens`` lowered, and that said, where its default is more than the context holds."""
    default = SampleSection().max_tokens
    cap = cap_that_fits(sources, info, recipe.sample.max_tokens, default)
    if cap == recipe.sample.max_tokens:
        return recipe
    say(
        f"completions have at most {many(cap, 'token')}: the default of sample.max_tokens, {default}, is more than the "
        f"model's context of {info.context} holds after a prompt"
    )
    return replace(recipe, sample=replace(recipe.sample, max_tokens=cap))
