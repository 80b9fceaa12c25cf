"""What a recipe of stage sft will do, in words, before it does it: its rows, what of them is learnt, the memory.

Data and tokenizer are opened; no weights are loaded and nothing is written. Which files a run writes is up to
``dry_run``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from transformers import PreTrainedTokenizerBase

from grpo.data.examples import Example
from grpo.learner.supervised import row_of, supervised_loss
from grpo.model.location import is_unreachable
from grpo.preflight.foreign_rewards import stand_ins
from grpo.preflight.memory import Memory, predict
from grpo.recipe import Recipe, RecipeError
from grpo.run.inputs import RunInputs
from grpo.stages.sft import describe_examples, run_size
from grpo.stages.sft_inputs import load_sft_inputs
from rewards.spelling import many


def open_inputs(recipe: Recipe) -> tuple[RunInputs | None, str]:
    """(what the run is made from, "") or (None, why it cannot be opened here): no source, an unreachable hub.

    Raises `RecipeError` for rows or rewards that do not do.
    """
    if recipe.data.source is None and not recipe.data.sources:
        return None, "data: none is named; rows must be passed from Python"
    try:
        return load_sft_inputs(recipe, rewards=stand_ins(recipe.rewards)), ""
    except RecipeError as error:
        if not is_unreachable(str(error)):
            raise
        return None, f"not opened, since the hub cannot be reached: {error}"


def data(recipe: Recipe, inputs: RunInputs) -> Iterator[str]:
    """The rows and what becomes of them, the sets, and the first row with what is learnt of it."""
    first, *others = describe_examples(recipe, inputs)
    yield f"data: {first}"
    yield from (f"  {line}" for line in others)
    for evaluated in inputs.sets:
        yield f"  evaluated on {evaluated.name}: {evaluated.describe()}"
    if inputs.environment is not None:
        yield f"tools: {inputs.environment.describe()}"
    yield from run_size(inputs.recipe)
    example = inputs.examples.train[0]
    yield f"the first row, {many(len(example.prompt.token_ids), 'token')}; what is learnt stands behind >:"
    yield from _pieces(example, inputs.tokenizer)


def _pieces(example: Example, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    token_ids = example.prompt.token_ids
    place = 0
    for start, end in example.learnt:
        for mark, piece in (("|", token_ids[place:start]), (">", token_ids[start:end])):
            text = str(tokenizer.decode(list(piece))) if piece else ""
            yield from (f"  {mark} {line}" for line in text.splitlines())
        place = end


def predicted_memory(recipe: Recipe, inputs: RunInputs) -> Memory | None:
    """The memory of an update of the longest rows; None unless the model is in a local folder."""
    if not (Path(recipe.model.name or "") / "config.json").is_file():
        return None
    examples = sorted(inputs.examples.train, key=lambda example: -len(example.prompt.token_ids))
    longest = examples[: recipe.sft.batch]
    return predict(
        config=inputs.config,
        tokenizer=inputs.tokenizer,
        model=recipe.model,
        optim=recipe.optim,
        loss=supervised_loss(recipe.sft.aggregation),
        rows=[row_of(example, index) for index, example in enumerate(longest)],
    )
