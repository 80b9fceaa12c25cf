"""Held-out evaluation: accuracy over k samples a prompt, with an interval over prompts that never train.

The same prompts, seeds and temperature serve every evaluation of a run, so that before and after differ
by the weights alone. ``python -m grpo.evaluate MODEL_OR_RUN`` evaluates any model, or a run's, on any data.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

import numpy
import torch
import transformers

import rewards
from grpo.data.prompts import check_template, make_prompts
from grpo.data.rows import load_rows, split_rows
from grpo.kernels.sampling.spec import Sampling
from grpo.model.loading import load_config, load_tokenizer
from grpo.model.policy import Policy, longest_sequence
from grpo.monitor.redaction import redacted
from grpo.recipe import Recipe, RecipeError, read_yaml
from grpo.rollout.compatibility import check_support
from grpo.rollout.compiled import check_compiler
from grpo.rollout.engine import Engine
from grpo.scoring import Scorer, check_rewards, reward_specs
from grpo.types import Prompt, ScoredGroup
from rewards import RewardSpec

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Accuracy with its 95 % bootstrap interval over prompts, and what else was seen.

    ``samples`` completions were scored, ``faults`` could not be. ``details`` holds means by name: each reward
    part and the numbers it reports.
    """

    accuracy: float
    low: float
    high: float
    samples: int
    prompts: int
    faults: int
    length: float
    truncated: float
    details: Mapping[str, float]
    tokens: int
    seconds: float
    groups: Sequence[ScoredGroup] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Everything but the completions, as plain values."""
        names = [name for name in self.__slots__ if name not in ("groups", "details")]
        return {**{name: getattr(self, name) for name in names}, "details": dict(self.details)}


def evaluate(
    engine: Engine,
    judge: Scorer,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    reward: str,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Sample and judge `samples` completions of each prompt; None if interrupted before the end.

    A completion is accurate if the part `reward` gave it its full score, 1.
    """
    pending = [
        (place, judge.submit(group))
        for place, group in engine.sample(
            prompts,
            group_size=samples,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=("evaluate", seed),
            interrupted=interrupted,
        )
    ]
    if interrupted():
        return None
    groups = [p.result() for _, p in sorted(pending, key=lambda item: item[0])]
    return summarise(groups, reward, engine.stats.tokens, engine.stats.seconds)


def summarise(
    groups: Sequence[ScoredGroup], reward: str, tokens: int, seconds: float
) -> Evaluation:
    """The evaluation that scored groups amount to."""
    right = [[float(value >= 1.0) for value in _values(group, reward)] for group in groups]
    accuracy, low, high = bootstrap([values for values in right if values])
    completions = [completion for group in groups for completion in group.completions]
    scored = sum(map(len, right))
    return Evaluation(
        accuracy=accuracy,
        low=low,
        high=high,
        samples=scored,
        prompts=len(groups),
        faults=len(completions) - scored,
        length=mean(len(c.token_ids) for c in completions),
        truncated=mean(c.truncated for c in completions),
        details=part_means(groups),
        tokens=tokens,
        seconds=seconds,
        groups=groups,
    )


def _values(group: ScoredGroup, reward: str) -> list[float]:
    parts = [verdict.get(reward) for verdict in group.verdicts]
    return [part.value for part in parts if part is not None and part.value is not None]


def part_means(groups: Iterable[ScoredGroup]) -> dict[str, float]:
    """``{reward: mean value, "reward/number": mean of a number it reports}`` over the completions it judged."""
    found: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for verdict in group.verdicts:
            for name, score in verdict.items():
                if score.value is not None:
                    found[name].append(score.value)
                    for inner, value in score.parts.items():
                        if value is not None:
                            found[f"{name}/{inner}"].append(value)
    return {name: mean(values) for name, values in found.items()}


def bootstrap(values: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of the mean over prompts of each prompt's mean, resampling prompts."""
    means = numpy.array([numpy.mean(row) for row in values])
    if not len(means):
        return float("nan"), float("nan"), float("nan")
    generator = numpy.random.Generator(numpy.random.PCG64(0))
    drawn = numpy.concatenate(
        [
            means[generator.integers(0, len(means), (100, len(means)))].mean(1)
            for _ in range(RESAMPLES // 100)
        ]
    )
    low, high = numpy.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(means.mean()), float(low), float(high)


def mean(values: Iterable[float]) -> float:
    """The mean, NaN of nothing."""
    values = [float(value) for value in values]
    return sum(values) / len(values) if values else float("nan")


# ---- the command -----------------------------------------------------------------------------------------------


def evaluation_recipe(target: str, recipe: str | None, overrides: Sequence[str]) -> Recipe:
    """What to evaluate: a run folder's recipe with its final model, or `recipe`'s settings with the model `target`.

    Without either, the reward is ``math_answer`` and everything else a default.
    """
    run = Path(target).expanduser()
    if recipe is None and (run / "recipe.yaml").is_file():
        if not (run / "final").is_dir():
            raise RecipeError(
                f"evaluate: the run {target} has no final model yet; finish it with --resume, or name a "
                "model and give --recipe"
            )
        return Recipe.from_mapping(
            read_yaml(run / "recipe.yaml"),
            f"model.name={json.dumps(str(run / 'final'))}",
            "model.lora=null",
            "model.quantize=null",
            *overrides,
        )
    named = [f"model.name={json.dumps(target)}", *overrides]
    if recipe is not None:
        return Recipe.load(recipe, *named)
    return Recipe.from_mapping({"rewards": {"correct": {"use": "math_answer"}}}, *named)


def evaluate_recipe(recipe: Recipe, every_row: bool = False) -> dict[str, Any]:
    """The evaluation of ``recipe.model`` by the recipe's data, rewards and ``evaluate`` section, as plain values.

    The rows held out are evaluated, or all where none is or `every_row` is true. ``strict`` counts by the rules of
    training; ``lenient`` by those that some rewards have for evaluation, None for others.
    """
    check_compiler(recipe)
    specs = reward_specs(recipe)
    name = recipe.evaluate.reward or specs[0].name
    specs = with_lenient(specs, name)
    rows = load_rows(recipe.data)
    check_rewards(specs, rows)
    held = (
        rows if every_row or not recipe.data.held_out else split_rows(rows, recipe.data.held_out)[1]
    )
    config, tokenizer = load_config(recipe.model), load_tokenizer(recipe.model)
    check_template(recipe.data.template, tokenizer)
    prompts = make_prompts(
        [],
        held,
        recipe.data,
        tokenizer,
        longest_sequence(config.get_text_config()),
        recipe.sample.max_tokens,
    )  # held out, they have the names, so the seeds, of training's
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = Policy.load(recipe.model, device, tokenizer=tokenizer)
    check_support(policy)
    engine = Engine(
        policy,
        max_rows=recipe.sample.max_rows,
        stop=recipe.sample.stop,
        kv_memory_gib=recipe.sample.kv_memory_gib,
        compile=recipe.sample.compile,
    )
    sampling = Sampling(
        recipe.evaluate.temperature, recipe.sample.top_k, recipe.sample.top_p, recipe.sample.min_p
    )
    with Scorer(specs, sandbox=recipe.sandbox) as judge:
        strict = evaluate(
            engine,
            judge,
            prompts.held_out,
            samples=recipe.evaluate.samples,
            sampling=sampling,
            max_tokens=recipe.sample.max_tokens,
            seed=recipe.seed,
            reward=name,
        )
    assert strict is not None, "nothing interrupts it"
    lenient = None
    if any(spec.name == lenient_name(name) for spec in specs):
        lenient = summarise(strict.groups, lenient_name(name), strict.tokens, strict.seconds)
    return _report(recipe, name, strict, lenient, prompts.num_dropped)


def lenient_name(reward: str) -> str:
    return f"{reward}_lenient"


def with_lenient(specs: Sequence[RewardSpec], accurate: str) -> list[RewardSpec]:
    """`specs`, and beside the accurate reward the same by lenient rules, at weight 0, where a built-in one has such."""
    spec = next(spec for spec in specs if spec.name == accurate)
    named = isinstance(spec.use, str) and spec.use in rewards.TABLE
    taken = any(other.name == lenient_name(accurate) for other in specs)
    if not named or taken or "lenient" not in inspect.signature(rewards.load(spec.use)).parameters:
        return list(specs)
    return [
        *specs,
        dataclasses.replace(
            spec, name=lenient_name(accurate), weight=0.0, args={**spec.args, "lenient": True}
        ),
    ]


def _report(
    recipe: Recipe, name: str, strict: Evaluation, lenient: Evaluation | None, num_dropped: int
) -> dict[str, Any]:
    numbers = strict.to_mapping()
    shared = {
        key: numbers.pop(key) for key in ("prompts", "length", "truncated", "tokens", "seconds")
    }

    def accuracy(evaluation: Evaluation) -> dict[str, Any]:
        return {
            key: getattr(evaluation, key)
            for key in ("accuracy", "low", "high", "samples", "faults")
        }

    completions = [
        {
            "prompt": group.prompt.text,
            "completion": completion.text,
            "finish": completion.finish,
            **{part: verdict[part].value for part in verdict},
        }
        for group in strict.groups
        for completion, verdict in zip(group.completions, group.verdicts)
    ]
    return {
        "model": recipe.model.name,
        "data": recipe.data.source,
        "reward": name,
        "samples_per_prompt": recipe.evaluate.samples,
        "temperature": recipe.evaluate.temperature,
        "max_tokens": recipe.sample.max_tokens,
        **shared,
        "too_long": num_dropped,
        "strict": accuracy(strict),
        "lenient": accuracy(lenient) if lenient else None,
        "completions": completions,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.evaluate MODEL_OR_RUN --data ... --samples k``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m grpo.evaluate",
        description="Held-out accuracy of a model, or of a run's final model, with 95 % intervals, as JSON.",
        epilog="Rows held out (data.held_out) are evaluated, or all where none is. With --data, all of that data.",
    )
    parser.add_argument(
        "target", metavar="MODEL_OR_RUN", help="run folder, model folder, .gguf file or hub id"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="recipe keys, e.g. sample.max_tokens=256"
    )
    parser.add_argument("--recipe", help="take data, rewards and sampling from this recipe")
    parser.add_argument(
        "--data", help="hub id, .jsonl/.csv/.parquet file, or a procedural task's name"
    )
    parser.add_argument("--samples", type=int, help="completions for each prompt")
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument(
        "--completions", type=Path, help="write every completion to this JSONL file"
    )
    options = parser.parse_intermixed_args(arguments)
    given = [
        f"{key}={json.dumps(value)}"
        for key, value in (
            ("data.source", options.data),
            ("evaluate.samples", options.samples),
            ("evaluate.temperature", options.temperature),
        )
        if value is not None
    ]
    transformers.utils.logging.disable_progress_bar()
    try:
        recipe = evaluation_recipe(options.target, options.recipe, [*given, *options.overrides])
        held_out = any(override.startswith("data.held_out=") for override in options.overrides)
        report = evaluate_recipe(recipe, every_row=options.data is not None and not held_out)
    except RecipeError as error:
        print(redacted(" ".join(str(error).split())), file=sys.stderr)
        return 2
    completions = report.pop("completions")
    if options.completions:
        options.completions.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in completions),
            encoding="utf-8",
        )
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
