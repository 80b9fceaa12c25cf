"""Held-out accuracy of any model, or of a run's, on any data: ``python -m grpo.evaluate MODEL_OR_RUN``.

`evaluate` samples and scores prompts, `evaluate_recipe` is the whole evaluation of a recipe's model, `rescore` that of
stored completions, and `compare_reports` tells two of them apart. The statistics are in ``grpo.statistics`` and
``grpo.run.figures``, the command in ``grpo.evaluate_command``.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from tqdm import tqdm

from grpo.data.prompts import load_prompts
from grpo.data.rows import load_rows, split_rows
from grpo.model.loading import load_config, load_tokenizer
from grpo.recipe import Recipe, RecipeError, read_yaml
from grpo.rollout.compiled import check_compiler
from grpo.run import setup
from grpo.run.accuracy import Evaluation, mean, reward_bounds, summarise
from grpo.run.figures import figures, same_answer
from grpo.run.held_out import evaluate
from grpo.run.stored import completion_rows, read_groups, rescored
from grpo.scoring import check_columns, lenient_name, load_rewards
from grpo.statistics.comparison import compare
from grpo.types import ScoredGroup
from rewards import RewardSpec

__all__ = [
    "Evaluation",
    "compare_all",
    "compare_reports",
    "evaluate",
    "evaluate_recipe",
    "evaluation_recipe",
    "main",
    "rescore",
    "summarise",
]

Report = Mapping[str, Any]
Row = Mapping[str, Any]
INTERVAL = {"level": 0.95, "about": "new prompts of the same kind"}


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


def evaluate_recipe(
    recipe: Recipe, every_row: bool = False, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """The evaluation of ``recipe.model`` by the recipe's data, rewards and ``evaluate`` section, as plain values.

    The held-out rows are evaluated, or all if none is held out or `every_row` is true. ``strict`` counts by the rules
    of training; ``lenient`` by those that some rewards have for evaluation, None for others. What each of them holds is
    said in `grpo.run.figures.figures`; ``completions`` are the rows of `grpo.run.stored.completion_rows`. `say` is told
    what is being done; with it a bar shows the prompts done, where standard error is a terminal.
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
    number = len(prompts.held_out)
    if say is not None:
        say(f"sampling {number} prompts x {recipe.evaluate.samples} by {recipe.model.name}")
    with setup.open_scorer(recipe, specs) as scorer, _progress(number, say is not None) as bar:
        result = evaluate(
            engine,
            scorer,
            prompts.held_out,
            samples=recipe.evaluate.samples,
            sampling=setup.sampling_of(recipe.sample, recipe.evaluate.temperature),
            max_tokens=recipe.sample.max_tokens,
            seed=recipe.seed,
            reward=accurate,
            sampled_one=bar.update,
        )
    assert result is not None, "nothing interrupts it"
    if say is not None:
        say(f"sampled {result.tokens} tokens in {result.seconds:.1f} s")
    return {
        **_settings(recipe, accurate),
        **_results(result, specs, accurate),
        "tokens": result.tokens,
        "seconds": result.seconds,
        "too_long": prompts.num_dropped,
        "completions": _rows(result.groups, str(recipe.model.name)),
    }


def rescore(path: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """The evaluations of the completions in a file that ``grpo evaluate --completions`` wrote, one a model.

    They are scored again by the recipe's rewards; nothing is sampled. Raises `RecipeError`.
    """
    specs, accurate = load_rewards(recipe)
    groups_of = read_groups(path)
    for groups in groups_of.values():
        check_columns(specs, [group.prompt.truth for group in groups])
    reports = []
    with setup.open_scorer(recipe, specs) as scorer:
        for model, groups in groups_of.items():
            found = rescored(groups, scorer)
            bounds = reward_bounds(specs)
            result = summarise(found, accurate, tokens=0, seconds=0.0, bounds=bounds)
            samples = max(len(group.completions) for group in groups)
            changed = {"model": model, "data": str(path), "samples_per_prompt": samples}
            report = {
                "reward": accurate,
                **changed,
                "rescored": str(path),
                **_results(result, specs, accurate),
                "completions": _rows(result.groups, model),
            }
            reports.append(report)
    return reports


def _progress(number: int, is_shown: bool) -> tqdm:
    """A bar over prompts on standard error; nothing where that is no terminal."""
    hidden = None if is_shown else True  # None: unless it is a terminal
    return tqdm(total=number, unit="prompt", file=sys.stderr, disable=hidden, leave=False)


def _settings(recipe: Recipe, reward: str) -> dict[str, Any]:
    """What was asked for."""
    return {
        "model": recipe.model.name,
        "data": recipe.data.source,
        "reward": reward,
        "samples_per_prompt": recipe.evaluate.samples,
        "temperature": recipe.evaluate.temperature,
        "top_p": recipe.sample.top_p,
        "max_tokens": recipe.sample.max_tokens,
    }


def _results(result: Evaluation, specs: Sequence[RewardSpec], reward: str) -> dict[str, Any]:
    """What was found, by the rules of training and by lenient ones."""
    same = same_answer(specs, reward)
    twin = lenient_name(reward)
    has_lenient = any(spec.name == twin for spec in specs)
    return {
        "prompts": result.prompts,
        "length": result.length,
        "truncated": result.truncated,
        "mean_reward": {
            "value": result.reward,
            "low": result.reward_low,
            "high": result.reward_high,
        },
        "interval": INTERVAL,
        "strict": figures(result.groups, reward, same),
        "lenient": figures(result.groups, twin, same) if has_lenient else None,
    }


def _rows(groups: Sequence[ScoredGroup], model: str) -> list[dict[str, Any]]:
    return [row for group in groups for row in completion_rows(group, model)]


# ---- comparing -------------------------------------------------------------------------------------------------


def compare_all(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Each report against the first of its ``set`` (all reports without one are of the same)."""
    firsts: dict[Any, Report] = {}
    comparisons = []
    for report in reports:
        first = firsts.setdefault(report.get("set"), report)
        if first is not report:
            comparisons.append(compare_reports(first, report))
    return comparisons


def compare_reports(baseline: Report, other: Report) -> dict[str, Any]:
    """`other` minus `baseline`, two evaluations of the same prompts, as plain values.

    ``accuracy`` and ``mean_reward`` each hold ``difference``, ``low``, ``high``, ``p_value``, and the prompts on which
    `other` is ``better`` and ``worse``; they are paired by prompt. A prompt without a score on either side is left out.
    Raises `RecipeError` if the prompts are not the same.
    """
    pairs = _paired(baseline, other)
    first_reward = baseline["reward"]
    second_reward = other["reward"]
    shares = [
        (_accuracy(first, first_reward), _accuracy(second, second_reward))
        for first, second in pairs
    ]
    totals = [(_mean_reward(first), _mean_reward(second)) for first, second in pairs]
    accuracy = _compared(shares, largest=1.0)
    return {
        "baseline": baseline["model"],
        "model": other["model"],
        "prompts": accuracy["prompts"],
        "left_out": len({*_by_prompt(baseline), *_by_prompt(other)}) - accuracy["prompts"],
        "accuracy": accuracy,
        "mean_reward": _compared(totals, largest=None),
    }


def _paired(baseline: Report, other: Report) -> list[tuple[list[Row], list[Row]]]:
    """The completions of both on each prompt that both have."""
    rows_of = _by_prompt(baseline)
    others = _by_prompt(other)
    pairs = [(rows_of[id], others[id]) for id in rows_of if id in others]
    is_same = all(_columns(first) == _columns(second) for first, second in pairs)
    if not pairs or not is_same:
        raise RecipeError(
            f"evaluate: {baseline['model']} and {other['model']} were not evaluated on the same prompts, so they "
            "cannot be compared; evaluate both on the same rows of the same data"
        )
    return pairs


def _columns(rows: Sequence[Row]) -> str:
    """The data row behind the completions, as text that can be compared whatever it holds."""
    return json.dumps(rows[0]["columns"], default=str, sort_keys=True)


def _by_prompt(report: Report) -> dict[str, list[Row]]:
    rows_of: dict[str, list[Row]] = {}
    for row in report["completions"]:
        rows_of.setdefault(row["prompt_id"], []).append(row)
    return rows_of


def _accuracy(rows: Sequence[Row], reward: str) -> float:
    """The share of right completions of one prompt; NaN without any score."""
    values = [row["parts"].get(reward) for row in rows]
    return mean(value >= 1 for value in values if value is not None)


def _mean_reward(rows: Sequence[Row]) -> float:
    """The mean weighted reward of one prompt; NaN without any score."""
    return mean(row["reward"] for row in rows if row["reward"] is not None)


def _compared(pairs: Sequence[tuple[float, float]], largest: float | None) -> dict[str, Any]:
    scored = [pair for pair in pairs if not math.isnan(sum(pair))]
    firsts = [first for first, _ in scored]
    seconds = [second for _, second in scored]
    return asdict(compare(firsts, seconds, largest=largest))


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.evaluate``, the same as ``grpo evaluate``; returns the exit code."""
    commands = import_module("grpo.cli")  # by name: it is the layer above, and imports this one
    return commands.run_module("evaluate", arguments)


if __name__ == "__main__":
    sys.exit(main())
