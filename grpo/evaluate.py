"""Held-out accuracy of any model, or of a run's, on any data: ``python -m grpo.evaluate MODEL_OR_RUN``.

`evaluate` samples and scores prompts, `evaluate_recipe` is the whole evaluation of a recipe's model. The statistics are
in ``grpo.run.accuracy``, the command in ``grpo.cli``.
"""

from __future__ import annotations

from grpo import command_line

if __name__ == "__main__":  # as a command: its arguments are read before torch is imported
    command_line.leave_working_folder()
    raise SystemExit(command_line.run("evaluate"))

from typing import Any, Sequence

from grpo.data.prompts import load_prompts
from grpo.data.rows import load_rows, split_rows
from grpo.model.loading import load_config, load_tokenizer
from grpo.recipe import Recipe
from grpo.recipe.target import evaluation_recipe
from grpo.rollout.compiled import check_compiler
from grpo.run import setup
from grpo.run.accuracy import Evaluation, summarise
from grpo.run.held_out import evaluate
from grpo.scoring import check_columns, lenient_name, load_rewards
from grpo.types import ScoredGroup

__all__ = ["Evaluation", "evaluate", "evaluate_recipe", "evaluation_recipe", "main", "summarise"]

ACCURACY_KEYS = ("accuracy", "low", "high", "samples", "faults")
SHARED_KEYS = ("prompts", "length", "truncated", "tokens", "seconds")


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
    return command_line.run("evaluate", arguments)
