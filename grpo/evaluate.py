"""Held-out accuracy of any model, or of a run's, on any data: ``python -m grpo.evaluate MODEL_OR_RUN``.

`evaluate` samples and scores prompts, `evaluate_recipe` is the whole evaluation of a recipe's model. The statistics are
in ``grpo.run.accuracy``, the command in ``grpo.cli``.
"""

from __future__ import annotations

from grpo import command_line

if __name__ == "__main__":  # as a command: its arguments are read before torch is imported
    command_line.leave_working_folder()
    raise SystemExit(command_line.run("evaluate"))

from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

from grpo.data.prompts import load_prompts
from grpo.data.sources import SourceRows, load_sources
from grpo.model.loading import load_config, load_end_ids, load_tokenizer
from grpo.recipe import DataSection, Recipe, read_yaml
from grpo.recipe.target import evaluation_recipe
from grpo.rollout.compiled import check_compiler
from grpo.run import setup
from grpo.run.accuracy import Evaluation, summarise
from grpo.run.evaluation_sets import held_out_set
from grpo.run.held_out import evaluate
from grpo.scoring import check_columns, lenient_name, load_rewards
from grpo.types import ScoredGroup
from rewards.tasks import GYM_PREFIX, GYM_ROWS, num_shared

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_recipe",
    "evaluation_recipe",
    "main",
    "summarise",
    "trained_rows",
]

ACCURACY_KEYS = ("accuracy", "low", "high", "samples", "faults")
SHARED_KEYS = ("prompts", "length", "truncated", "tokens", "seconds")


def trained_rows(target: str, evaluated: DataSection) -> str | None:
    """A sentence if another seed's set of a reasoning-gym task holds rows that the run in `target` was made from."""
    file = Path(target).expanduser() / "recipe.yaml"
    if not file.is_file():
        return None
    trained = Recipe.from_mapping(read_yaml(file)).data
    source = trained.source or ""
    if not source.startswith(GYM_PREFIX) or source != evaluated.source:
        return None
    if trained.args == evaluated.args:
        return None  # the run's own split holds out
    spans = []
    for section in (trained, evaluated):
        spans += [int(section.args.get("count", GYM_ROWS)), int(section.args.get("seed", 0))]
    shared = num_shared(*spans)
    if not shared:
        return None
    return (
        f"evaluate: {shared} of the {spans[2]} rows are among those that the run was made from, since {source} makes "
        f"row i from seed + i; take data.args.seed={spans[0] + spans[1]} for others"
    )


def evaluate_recipe(recipe: Recipe, every_row: bool = False) -> dict[str, Any]:
    """The evaluation of ``recipe.model`` by the recipe's data, rewards and ``evaluate`` section, as plain values.

    The held-out rows are evaluated, or all if none is held out or `every_row` is true. ``strict`` counts by the rules
    of training; ``lenient`` by those that some rewards have for evaluation, None for others.
    """
    check_compiler(recipe)
    specs, accurate = load_rewards(recipe)
    sources = [
        _rows_to_evaluate(source, every_row)
        for source in load_sources(recipe.data, folder=recipe.folder())
    ]
    check_columns(specs, [row for source in sources for row in source.rows])
    config = load_config(recipe.model)
    tokenizer = load_tokenizer(recipe.model)
    end_ids = load_end_ids(recipe.model, config, tokenizer)
    # as held-out prompts they have the ids, so the seeds, that they have in training
    prompts = load_prompts(recipe, config, tokenizer, sources, end_ids=end_ids)
    setup.prepare_torch(recipe)
    policy = setup.open_policy(recipe, setup.default_device(), tokenizer)
    engine = setup.open_engine(recipe, policy)
    evaluated = held_out_set(recipe, prompts.held_out, accurate)
    with setup.open_scorer(recipe, specs) as scorer:
        strict = evaluate(engine, scorer, evaluated, seed=recipe.seed)
    assert strict is not None, "nothing interrupts it"
    lenient = None
    if any(spec.name == lenient_name(accurate) for spec in specs):
        twin = lenient_name(accurate)
        lenient = summarise(
            strict.groups, twin, strict.tokens, strict.seconds, threshold=evaluated.threshold
        )
    report = _report(recipe, accurate, strict, lenient, num_dropped=prompts.num_dropped)
    report["completions"] = [row for group in strict.groups for row in _completion_rows(group)]
    return report


def _rows_to_evaluate(source: SourceRows, every_row: bool) -> SourceRows:
    """The source with its held-out rows, or all if none is held out or `every_row` is true; none trains."""
    chosen = source.held_out if source.held_out and not every_row else source.rows
    return replace(source, train=(), held_out=chosen)


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
