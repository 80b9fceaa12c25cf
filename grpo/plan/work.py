"""What a step has to do, whatever does it: prompts, completions and their lengths, passes over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from grpo.recipe import Recipe

PROMPT_TOKENS = 256
MEAN_SHARE = 0.5
"""Mean length of completions in ``sample.max_tokens`` where none is given."""
MAX_LENGTHS = 4096
"""Lengths of more completions than this are those of so many, each counted several times."""


@dataclass(frozen=True, slots=True)
class Work:
    """A step's completions and what training does with them; tokens are means over the run but for ``longest``.

    ``lora`` is the number of trained parameters where adapters train, None where all do. ``forwards`` are passes beside
    the update's own: old log-probs, reference, teacher. ``flat`` is the share of groups that need no update,
    ``moment_bytes`` what a device keeps of the optimizer for a trained parameter.
    """

    prompts: int
    group: int
    prompt_tokens: float
    mean: float
    longest: int
    updates: int = 1
    epochs: int = 1
    forwards: int = 0
    checkpointing: bool = False
    micro_batch: int = 16384
    lora: int | None = None
    max_rows: int = 256
    flat: float = 0.0
    moment_bytes: float = 8.0

    @property
    def completions(self) -> int:
        return self.prompts * self.group

    @property
    def sampled(self) -> float:
        """Tokens that a step samples."""
        return self.completions * self.mean

    @property
    def learnt(self) -> float:
        """Completion tokens that a step's update goes over, once."""
        return self.sampled * (1 - self.flat)

    @property
    def forwarded(self) -> float:
        """The same with prompts, each once for its group."""
        return self.learnt + self.prompts * self.prompt_tokens * (1 - self.flat)


def lengths(number: int, mean: float, longest: int, spread: float) -> list[float]:
    """So many lengths, ascending: quantiles of a log-normal distribution cut at `longest`, with that mean.

    More than `MAX_LENGTHS` are not told apart. A mean that the cut leaves no room for gives equal lengths.
    """
    number = min(number, MAX_LENGTHS)
    if spread == 0 or mean >= longest:
        return [float(min(mean, longest))] * number
    normal = NormalDist()
    shapes = [math.exp(spread * normal.inv_cdf((i + 0.5) / number)) for i in range(number)]
    scale = _scale(shapes, mean, longest)
    return [min(scale * shape, longest) for shape in shapes]


def _scale(shapes: list[float], mean: float, longest: int) -> float:
    """The factor that gives `shapes`, cut at `longest`, their mean; found by bisection."""
    low = 0.0
    high = longest / shapes[0]
    for _ in range(60):
        middle = (low + high) / 2
        reached = sum(min(middle * shape, longest) for shape in shapes) / len(shapes)
        if reached < mean:
            low = middle
        else:
            high = middle
    return high


def _moment_bytes(recipe: Recipe) -> float:
    if recipe.optim.offload:
        return 0.0
    return 2.0 if recipe.optim.state == "8bit" else 8.0


def work_of(
    recipe: Recipe, *, prompt_tokens: float | None, mean: float | None, adapters: int | None
) -> Work:
    """The work of a recipe's step; `adapters` is the number of parameters that its adapters have, if it has any."""
    sample = recipe.sample
    loss = recipe.loss
    several = recipe.optim.updates * recipe.optim.epochs > 1
    forwards = [several and loss.old == "forward", bool(loss.beta), loss.teacher is not None]
    return Work(
        prompts=sample.prompts,
        group=sample.group_size,
        prompt_tokens=prompt_tokens
        or min(PROMPT_TOKENS, recipe.data.max_prompt_tokens or math.inf),
        mean=mean or MEAN_SHARE * sample.max_tokens,
        longest=sample.max_tokens,
        updates=recipe.optim.updates,
        epochs=recipe.optim.epochs,
        forwards=sum(forwards),
        checkpointing=recipe.model.gradient_checkpointing,
        micro_batch=recipe.optim.tokens_per_micro_batch,
        lora=adapters,
        max_rows=sample.max_rows,
        moment_bytes=_moment_bytes(recipe),
    )
