"""What a model card says of a run by its stage: how the model was trained, from what, and what the run measured.

A run of several stages starts from the model of an earlier one, whose folder is then named; the stages before are
followed as far as their folders are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping

from grpo.recipe import Recipe, RecipeError
from grpo.recipe.target import is_run_folder, recipe_of_run
from rewards.spelling import many


@dataclass(frozen=True, slots=True)
class Way:
    """How a stage trains, in words: of the whole sentence, of the hub's tags, and what its rewards did."""

    words: str
    tags: tuple[str, ...]
    rewards: str
    caution: str


MEASURED = "They scored what was sampled from held-out prompts; nothing was trained by them."
UNJUDGED = "It has learnt the rows and models above as they are; whether those are harmless was not checked."
WAYS: Mapping[str, Way] = {
    "grpo": Way(
        words="reinforcement learning with group-relative policy optimisation (GRPO)",
        tags=("reasoning", "grpo", "reinforcement-learning"),
        rewards="",
        caution="The rewards that it was trained by ask for right answers, not for harmless ones.",
    ),
    "sft": Way(
        words="supervised fine-tuning",
        tags=("reasoning", "sft"),
        rewards=MEASURED,
        caution=UNJUDGED,
    ),
    "distill of traces": Way(
        words="distillation: supervised fine-tuning on a teacher's traces",
        tags=("reasoning", "distillation"),
        rewards=MEASURED,
        caution=UNJUDGED,
    ),
    "distill": Way(
        words="distillation on its own completions, by the reverse KL of each token to a teacher",
        tags=("reasoning", "distillation"),
        rewards=MEASURED,
        caution=UNJUDGED,
    ),
}


def way_of(recipe: Recipe) -> Way:
    """How a run of `recipe` trains."""
    is_of_traces = recipe.stage == "distill" and recipe.learns_rows
    return WAYS["distill of traces" if is_of_traces else recipe.stage]


def lineage(recipe: Recipe) -> list[Recipe]:
    """The recipes of the runs that made the model which `recipe` starts from, the first one first."""
    found: list[Recipe] = []
    while True:
        before = _run_that_made(recipe.model.name)
        if before is None or any(before.folder() == earlier.folder() for earlier in found):
            return found[::-1]
        found.append(before)
        recipe = before


def _run_that_made(model: str | None) -> Recipe | None:
    """The recipe of the run whose final model this is; None of any other model."""
    if model is None or Path(model).name != "final" or not is_run_folder(str(Path(model).parent)):
        return None
    try:
        return recipe_of_run(str(Path(model).parent))
    except RecipeError:
        return None


def in_words(recipe: Recipe) -> str:
    """``supervised fine-tuning``; of a model that other runs had trained before, all of it in order."""
    ways = [way_of(earlier).words for earlier in (*lineage(recipe), recipe)]
    return "; then ".join(ways)


def training(recipe: Recipe, summary: Mapping[str, Any]) -> Iterator[str]:
    """The objective, the steps and the lengths, a line each."""
    steps = summary["steps"]
    sample = recipe.sample
    if recipe.learns_rows:
        yield f"- objective: -log p of each learnt token, {recipe.sft.aggregation}"
        rows = summary.get("rows", {}).get("train")
        of = "" if rows is None else f", of {many(rows, 'row')}"
        yield f"- steps: {steps} of {many(recipe.sft.batch, 'row')}{of}"
        return
    loss = recipe.loss
    if recipe.stage == "distill":
        yield f"- objective: the sampled reverse KL to the teacher, {loss.aggregation}"
    else:
        yield f"- objective: {loss.preset}, {loss.aggregation}, KL weight {loss.beta:g}"
    completions = many(sample.group_size, "completion")
    yield f"- steps: {steps} of {many(sample.prompts, 'prompt')} x {completions}"
    yield f"- longest completion: {many(sample.max_tokens, 'token')}, temperature {sample.temperature:g}"


def held_out_loss(summary: Mapping[str, Any]) -> Iterator[str]:
    """The held-out loss of supervised training before and after, in nats a token; nothing of other runs."""
    losses = summary.get("loss") or {}
    for when in ("before", "after"):
        found = losses.get(when)
        if found:
            bounds = f"[{found['low']:.3f}, {found['high']:.3f}]"
            yield f"- held-out loss {when}: {found['loss']:.3f} {bounds} nats a token"
