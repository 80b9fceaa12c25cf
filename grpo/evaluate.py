"""Held-out accuracy of any model, or of a run's, on any data: ``python -m grpo.evaluate MODEL_OR_RUN``.

`evaluate` samples and scores prompts, `evaluate_recipe` is the whole evaluation of a recipe's model, `rescore` that of
stored completions, and `compare_reports` tells two of them apart. The statistics are in ``grpo.statistics`` and
``grpo.run.figures``, the command in ``grpo.commands.evaluate``.
"""

from __future__ import annotations

from grpo.startup import command_line

if __name__ == "__main__":  # as a command: its arguments are read before torch is imported
    command_line.leave_working_folder()
    raise SystemExit(command_line.run_process("evaluate"))

import json
import math
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, ContextManager, Mapping, Sequence

from grpo.data.prompts import load_prompts
from grpo.data.questions import NoQuestions, asked, loader_of
from grpo.data.sources import SourceRows, load_sources
from grpo.environments import RunEnvironment, Tools, open_environment, plan_environment
from grpo.model.info import load_info
from grpo.monitor import watchdog
from grpo.recipe import DataSection, Recipe, RecipeError, read_yaml
from grpo.recipe.shorthands import HELD_OUT
from grpo.recipe.target import evaluation_recipe, final_stage
from grpo.report.console.words import shown_set
from grpo.rollout.compiled import check_compiler
from grpo.rollout.engine import Engine
from grpo.run import setup
from grpo.run.accuracy import Evaluation, mean, reward_bounds, summarise
from grpo.run.asked import with_cap_that_fits
from grpo.run.evaluation_sets import (
    EvaluationSet,
    check_templates_of_sets,
    held_out_set,
    load_sets,
)
from grpo.run.figures import figures, same_answer
from grpo.run.held_out import evaluate
from grpo.run.reward_fit import check_columns
from grpo.run.reward_specs import lenient_name, load_rewards
from grpo.run.stored import completion_rows, read_groups, rescored
from grpo.scoring import Scorer
from grpo.statistics.comparison import compare
from grpo.types import ScoredGroup
from rewards import RewardSpec
from rewards.spelling import agree, many
from rewards.tasks import GYM_PREFIX, GYM_ROWS, num_shared

__all__ = [
    "Evaluation",
    "compare_all",
    "compare_reports",
    "evaluate",
    "evaluate_recipe",
    "evaluation_recipe",
    "main",
    "evaluate_sets",
    "rescore",
    "summarise",
    "trained_rows",
]

Report = Mapping[str, Any]
Row = Mapping[str, Any]
INTERVAL = {"level": 0.95, "about": "new prompts of the same kind"}


def trained_rows(target: str, evaluated: DataSection) -> str | None:
    """A sentence if the run in `target` was trained on rows that are evaluated now.

    They are the same data with none held out, or another seed's set of a reasoning-gym task.
    """
    file = Path(final_stage(target)).expanduser() / "recipe.yaml"
    if not file.is_file():
        return None
    trained = Recipe.from_mapping(read_yaml(file)).data
    source = trained.source or ""
    is_same = bool(source) and source == evaluated.source and trained.args == evaluated.args
    if is_same and not source.startswith(GYM_PREFIX) and not trained.held_out + evaluated.held_out:
        return (
            f"evaluate: {target} was trained on the rows of {source} and held none out, so their accuracy measures "
            "memory too; hold some out (data.held_out), or look at other rows (evaluate.sets, --data)"
        )
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
        f"evaluate: {shared} of the {many(spans[2], 'row')} {agree(shared, 'are')} among those that the run "
        f"was made from, since {source} makes "
        f"row i from seed + i; take data.args.seed={spans[0] + spans[1]} for others"
    )


def evaluate_recipe(
    recipe: Recipe,
    every_row: bool = False,
    say: Callable[[str], None] | None = None,
    tools: Tools = (),
) -> dict[str, Any]:
    """The evaluation of ``recipe.model`` by the recipe's data, rewards and ``evaluate`` section, as plain values.

    The held-out rows are evaluated, or all if none is held out or `every_row` is true. ``strict`` counts by the rules
    of training; ``lenient`` by those that some rewards have for evaluation, None for others. What each of them holds is
    said in `grpo.run.figures.figures`; ``completions`` are the rows of `grpo.run.stored.completion_rows`. `say` is told
    what is being done. ``tools`` are functions that the policy may call, added to the recipe's.
    """
    alone = replace(
        recipe,
        evaluate=replace(recipe.evaluate, sets={}),
        checkpoint=replace(recipe.checkpoint, best_by=None),
    )
    return evaluate_sets(alone, every_row, say, tools)[0]


def evaluate_sets(
    recipe: Recipe,
    every_row: bool = False,
    say: Callable[[str], None] | None = None,
    tools: Tools = (),
) -> list[dict[str, Any]]:
    """The evaluations of ``recipe.model`` on its data, if it names any, and on each set of ``evaluate.sets``.

    As `evaluate_recipe`; a report on a set has its name as ``set``, and its ``facts``.
    """
    say = say or _unsaid
    check_compiler(recipe)
    specs, accurate, sources = _rewards_and_rows(recipe, every_row, say)
    info = load_info(recipe.model)
    plan = plan_environment(recipe, info.tokenizer, tools)
    if plan is not None:
        info = replace(info, tools=plan.shown)
    recipe = with_cap_that_fits(recipe, sources, info, say)
    sets = []
    if sources:
        # as held-out prompts they have the ids, so the seeds, that they have in training
        prompts = load_prompts(sources, info, max_tokens=recipe.sample.max_tokens)
        whole = held_out_set(recipe, prompts.held_out, accurate, prompts.templates)
        sets.append(replace(whole, num_dropped=prompts.num_dropped))
    sets += load_sets(recipe, specs, accurate, info)
    check_templates_of_sets(sets, plan, info)
    setup.prepare_torch(recipe)
    policy = setup.open_policy(recipe, setup.default_device(), info.tokenizer)
    engine = setup.open_engine(recipe, policy)
    opened = open_environment(recipe, plan, policy)
    context: ContextManager[RunEnvironment | None] = opened or nullcontext()
    with setup.open_scorer(recipe, specs) as scorer, context as environment:
        return [
            _evaluate_set(recipe, of, engine, scorer, say=say, environment=environment)
            for of in sets
        ]


def _evaluate_set(
    recipe: Recipe,
    of: EvaluationSet,
    engine: Engine,
    scorer: Scorer,
    *,
    say: Callable[[str], None],
    environment: RunEnvironment | None,
) -> dict[str, Any]:
    number = len(of.prompts)
    name = "" if of.name == HELD_OUT else f" of {of.name}"
    columns = f", {of.describe_columns()}" if of.columns else ""
    say(f"sampling {many(number, 'prompt')}{name} x {of.samples} by {recipe.model.name}{columns}")
    own: ContextManager[Scorer] = nullcontext(scorer)
    if of.own_specs is not None:
        own = setup.open_scorer(recipe, of.own_specs)
    with own as its_scorer, watchdog.doing(f"evaluating {shown_set(of.name)}"):
        result = evaluate(engine, its_scorer, of, seed=recipe.seed, environment=environment)
    assert result is not None, "nothing interrupts it"
    say(f"sampled {many(result.tokens, 'token')} in {result.seconds:.1f} s")
    return {
        **_settings(recipe, of),
        **_results(result, its_scorer.specs, of),
        "tokens": result.tokens,
        "seconds": result.seconds,
        "too_long": of.num_dropped,
        "completions": _rows(result.groups, str(recipe.model.name)),
    }


def _rewards_and_rows(
    recipe: Recipe, every_row: bool, say: Callable[[str], None]
) -> tuple[Sequence[RewardSpec], str, list[SourceRows]]:
    """(the recipe's rewards, which of them means accuracy, its own rows to evaluate).

    Without rewards there are none of these, if every set has rewards of its own; that is said.
    """
    if not recipe.rewards and _sets_score_themselves(recipe):
        say("the recipe names no reward, so its own rows are not evaluated, only sets with rewards")
        return (), "", []
    specs, accurate = load_rewards(recipe)
    sources = _sources_to_evaluate(recipe, every_row, say)
    check_columns(specs, [row for source in sources for row in source.rows])
    return specs, accurate, sources


def _unsaid(sentence: str) -> None:
    """What is done, where nobody listens."""


def _sets_score_themselves(recipe: Recipe) -> bool:
    """Whether there are sets to evaluate on, each with rewards of its own."""
    sets = recipe.evaluate.sets.values()
    return bool(sets) and all(of.rewards for of in sets)


def _sources_to_evaluate(
    recipe: Recipe, every_row: bool, say: Callable[[str], None]
) -> list[SourceRows]:
    """The sources that the recipe's ``data`` names, with the rows to evaluate; none if it names none.

    Rows that ask nothing are left out where there are sets to evaluate on, and that is said.
    """
    if recipe.data.source is None and not recipe.data.sources:
        return []
    sources = load_sources(recipe.data, folder=recipe.folder(), load=loader_of(recipe))
    found = []
    for source in sources:
        try:
            found.append(asked(recipe, _rows_to_evaluate(source, every_row)))
        except NoQuestions as error:
            if not recipe.evaluate.sets:
                raise
            say(str(error))
    return found


def _rows_to_evaluate(source: SourceRows, every_row: bool) -> SourceRows:
    """The source with its held-out rows, or all if none is held out or `every_row` is true; none trains."""
    chosen = source.held_out if source.held_out and not every_row else source.rows
    return replace(source, train=(), held_out=chosen)


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
            threshold = recipe.evaluate.threshold
            result = summarise(
                found, accurate, tokens=0, seconds=0.0, bounds=bounds, threshold=threshold
            )
            samples = max(len(group.completions) for group in groups)
            changed = {"model": model, "data": str(path), "samples_per_prompt": samples}
            report = {
                "reward": accurate,
                **changed,
                "rescored": str(path),
                **_results(result, specs, held_out_set(recipe, (), accurate)),
                "completions": _rows(result.groups, model),
            }
            reports.append(report)
    return reports


def _settings(recipe: Recipe, of: EvaluationSet) -> dict[str, Any]:
    """What was asked for."""
    shared = {
        "model": recipe.model.name,
        "data": recipe.data.source,
        "reward": of.accurate,
        "samples_per_prompt": of.samples,
        "temperature": of.sampling.temperature,
        "top_p": of.sampling.top_p,
        "max_tokens": of.max_tokens,
    }
    if of.name == HELD_OUT:
        return shared
    source = recipe.evaluate.sets[of.name].source
    return {**shared, "data": source, "set": of.name, "facts": of.facts()}


def _results(result: Evaluation, specs: Sequence[RewardSpec], of: EvaluationSet) -> dict[str, Any]:
    """What was found, by the rules of training and by lenient ones."""
    reward = of.accurate
    same = same_answer(specs, reward)
    twin = lenient_name(reward)
    has_lenient = any(spec.name == twin for spec in specs)
    lenient = None
    if has_lenient:
        lenient = figures(result.groups, twin, same, threshold=of.threshold)
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
        "threshold": of.threshold,
        "strict": figures(result.groups, reward, same, threshold=of.threshold),
        "lenient": lenient,
        **_called(result),
    }


def _called(result: Evaluation) -> dict[str, Any]:
    """``tools``: the share of completions that call, and the mean of their calls; nothing where none is offered."""
    named = {name.rpartition("/")[2]: value for name, value in result.details.items()}
    return (
        {"tools": {key: named[key] for key in ("share", "calls")}}
        if "tool/share" in result.details
        else {}
    )


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
    shares = [(_accuracy(first, baseline), _accuracy(second, other)) for first, second in pairs]
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


def _accuracy(rows: Sequence[Row], report: Report) -> float:
    """The share of right completions of one prompt; NaN without any score."""
    threshold = report.get("threshold", 1.0)
    values = [row["parts"].get(report["reward"]) for row in rows]
    return mean(value >= threshold for value in values if value is not None)


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
    return command_line.run("evaluate", arguments)
