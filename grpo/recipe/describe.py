"""What a recipe says of itself: its keys with defaults and help, the size of a step, differences between two."""

from __future__ import annotations

import math
from typing import Any, Iterator

from grpo.recipe import Recipe, describe_keys


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


def many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
