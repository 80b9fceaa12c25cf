"""Held-out accuracy of any model, or of a run's, on any data: ``python -m grpo.evaluate MODEL_OR_RUN``.

`evaluate` samples and scores prompts, `evaluate_recipe` is the whole evaluation of a recipe's model. The statistics are
in ``grpo.run.accuracy``, the command in ``grpo.cli``.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Sequence

from grpo.data.prompts import check_questions, load_prompts
from grpo.data.rows import load_rows, split_rows
from grpo.model.loading import load_config, load_tokenizer
from grpo.recipe import Recipe, RecipeError, read_yaml
from grpo.rollout.compiled import check_compiler
from grpo.run import setup
from grpo.run.accuracy import Evaluation, summarise
from grpo.run.held_out import evaluate
from grpo.scoring import check_columns, lenient_name, load_rewards
from grpo.types import ScoredGroup

__all__ = ["Evaluation", "evaluate", "evaluate_recipe", "evaluation_recipe", "main", "summarise"]

ACCURACY_KEYS = ("accuracy", "low", "high", "samples", "faults")
SHARED_KEYS = ("prompts", "length", "truncated", "tokens", "seconds")


def evaluation_recipe(target: str, recipe: str | None, overrides: Sequence[str]) -> Recipe:
    """What to evaluate: a run folder's recipe with its final model, or `recipe`'s settings with the model `target`.

    Without either, the reward is ``math_answer`` and everything else a default.
    """
    run = Path(target).expanduser()
    if recipe is None and (run / "recipe.yaml").is_file():
        return _recipe_of_run(run, overrides)
    named = [f"model.name={json.dumps(target)}", *overrides]
    if recipe is not None:
        return Recipe.load(recipe, *named)
    if not any(override.startswith("data.source=") for override in overrides):
        raise RecipeError(
            f"evaluate: {target} is not a run folder, so it names no data; give --data or --recipe"
        )
    return Recipe.from_mapping({"rewards": {"correct": {"use": "math_answer"}}}, *named)


def _recipe_of_run(run: Path, overrides: Sequence[str]) -> Recipe:
    final = run / "final"
    if not final.is_dir():
        raise RecipeError(
            f"evaluate: the run {run} has no final model yet; finish it with --resume, or name a "
            "model and give --recipe"
        )
    whole_model = [
        f"model.name={json.dumps(str(final))}",
        "model.lora=null",
        "model.quantize=null",
    ]
    return Recipe.from_mapping(read_yaml(run / "recipe.yaml"), *whole_model, *overrides)


def evaluate_recipe(recipe: Recipe, every_row: bool = False) -> dict[str, Any]:
    """The evaluation of ``recipe.model`` by the recipe's data, rewards and ``evaluate`` section, as plain values.

    The held-out rows are evaluated, or all if none is held out or `every_row` is true. ``strict`` counts by the rules
    of training; ``lenient`` by those that some rewards have for evaluation, None for others.
    """
    check_compiler(recipe)
    specs, accurate = load_rewards(recipe)
    rows = load_rows(recipe.data)
    check_columns(specs, rows)
    held_out: setup.Rows = rows
    if recipe.data.held_out and not every_row:
        held_out = split_rows(rows, recipe.data.held_out)[1]
    config = load_config(recipe.model)
    tokenizer = load_tokenizer(recipe.model)
    check_questions(rows, recipe.data.template, tokenizer)
    # as held-out prompts they have the ids, so the seeds, that they have in training
    prompts = load_prompts(recipe, config, tokenizer, held_out=held_out)
    setup.prepare_torch(recipe)
    policy = setup.open_policy(recipe, setup.default_device(), tokenizer)
    engine = setup.open_engine(recipe, policy)
    with setup.open_scorer(recipe, specs) as scorer:
        strict = evaluate(
            engine,
            scorer,
            prompts.held_out,
            samples=recipe.evaluate.samples,
            sampling=setup.sampling_of(recipe.sample, recipe.evaluate.temperature),
            max_tokens=recipe.sample.max_tokens,
            seed=recipe.seed,
            reward=accurate,
        )
    assert strict is not None, "nothing interrupts it"
    lenient = None
    if any(spec.name == lenient_name(accurate) for spec in specs):
        twin = lenient_name(accurate)
        lenient = summarise(strict.groups, twin, strict.tokens, strict.seconds)
    report = _report(recipe, accurate, strict, lenient, num_dropped=prompts.num_dropped)
    report["completions"] = [row for group in strict.groups for row in _completion_rows(group)]
    return report


def _report(
    recipe: Recipe,
    reward: str,
    strict: Evaluation,
    lenient: Evaluation | None,
    *,
    num_dropped: int,
) -> dict[str, Any]:
    return {
        "model": recipe.model.name,
        "data": recipe.data.source,
        "reward": reward,
        "samples_per_prompt": recipe.evaluate.samples,
        "temperature": recipe.evaluate.temperature,
        "max_tokens": recipe.sample.max_tokens,
        **_values(strict, SHARED_KEYS),
        "too_long": num_dropped,
        "strict": _values(strict, ACCURACY_KEYS),
        "lenient": None if lenient is None else _values(lenient, ACCURACY_KEYS),
    }


def _values(evaluation: Evaluation, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(evaluation, key) for key in keys}


def _completion_rows(group: ScoredGroup) -> list[dict[str, Any]]:
    rows = []
    for completion, verdict in zip(group.completions, group.verdicts):
        values = {name: score.value for name, score in verdict.items()}
        row = {
            "prompt": group.prompt.text,
            "completion": completion.text,
            "finish": completion.finish,
        }
        rows.append({**row, **values})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.evaluate``, the same as ``grpo evaluate``; returns the exit code."""
    commands = import_module("grpo.cli")  # by name: it is the layer above, and imports this one
    return commands.run_module("evaluate", arguments)


if __name__ == "__main__":
    sys.exit(main())
