"""Which rewards a run or an evaluation set has, which of them means accuracy, and that their programs can be confined.

Whether they fit the rows they score is up to ``reward_fit``, what a completion scores to ``grpo.scoring``.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, Callable, Iterable, Mapping, Sequence

import rewards
from grpo.recipe import EvaluationSetSection, Recipe, RecipeError, RewardSection, SandboxSection
from grpo.scoring import sandbox_options
from rewards import RewardSpec
from rewards.sandbox import IsolationError
from rewards.service.service import RewardService
from rewards.table import runs_programs


def load_rewards(
    recipe: Recipe, functions: Mapping[str, Any] | None = None
) -> tuple[list[RewardSpec], str]:
    """(the rewards of a run with the lenient twin of the accurate one, the name of the accurate one).

    Refuses those whose programs cannot be confined as the recipe asks.
    """
    specs = reward_specs(recipe, functions)
    accurate = accurate_reward(recipe, [spec.name for spec in specs])
    _check_found(specs)
    specs = with_lenient(specs, accurate)
    if not recipe.rewards_service.servers:
        check_sandbox(specs, recipe.sandbox)
    return specs, accurate


def _check_found(specs: Sequence[RewardSpec]) -> None:
    """Refuse a reward that cannot be loaded; `RecipeError` names it."""
    for spec in specs:
        try:
            rewards.load(spec.use)
        except ValueError as error:
            raise RecipeError(f"recipe: rewards.{spec.name}: {error}") from None


def reward_specs(recipe: Recipe, functions: Mapping[str, Any] | None = None) -> list[RewardSpec]:
    """The recipe's rewards, and `functions` passed from Python: added to them or in place of theirs."""
    functions = dict(functions or {})
    specs = [
        _spec(name, functions.pop(name, section.use), section)
        for name, section in recipe.rewards.items()
    ]
    specs += [_spec(name, function, RewardSection()) for name, function in functions.items()]
    if not specs:
        raise RecipeError(
            "recipe: rewards is empty; name one, e.g. rewards: {correct: {use: math_answer}}"
        )
    if not any(spec.weight for spec in specs):
        raise RecipeError(
            "recipe: every reward has weight 0, so no completion could be better than another"
        )
    first = min(spec.from_step for spec in specs if spec.weight)
    if first > 1:
        raise RecipeError(
            f"recipe: no reward with a weight counts before step {first}, so nothing could be learnt until then; let "
            "one count from the start (from_step: 0)"
        )
    return specs


def named_rewards(
    functions: Mapping[str, Any] | Sequence[Any] | Callable[..., Any] | str | None,
) -> Mapping[str, Any]:
    """`functions` by name; a list of them, or one alone, gets the functions' own names, built-in rewards theirs.

    Raises `RecipeError` for two of one name, and for what is no reward.
    """
    if functions is None or isinstance(functions, Mapping):
        return dict(functions or {})
    several: Iterable[Any] = [functions]
    if (
        isinstance(functions, Iterable)
        and not isinstance(functions, str)
        and not callable(functions)
    ):
        several = functions
    named: dict[str, Any] = {}
    for function in several:
        name = _own_name(function)
        if not name or name in named:
            raise RecipeError(
                f"rewards: {function!r} needs a name of its own; pass a mapping, e.g. rewards={{'mine': f}}"
            )
        named[name] = function
    return named


def _own_name(function: Any) -> str:
    """``right`` for the function of that name and for ``my_rewards.py:right``; empty for a lambda."""
    if isinstance(function, str):
        return function.rpartition(":")[2]
    if not callable(function):
        raise RecipeError(f"rewards: {function!r} is neither a function nor the name of a reward")
    name = str(getattr(function, "__name__", type(function).__name__))
    return "" if name == "<lambda>" else name


def rewards_of_set(section: EvaluationSetSection, recipe: Recipe) -> tuple[list[RewardSpec], str]:
    """(the rewards that a set of ``evaluate.sets`` names, with the lenient twin; the name of the accurate one).

    As `load_rewards`.
    """
    specs = [_spec(name, part.use, part) for name, part in section.rewards.items()]
    _check_found(specs)
    accurate = section.reward or specs[0].name
    specs = with_lenient(specs, accurate)
    if not recipe.rewards_service.servers:
        check_sandbox(specs, recipe.sandbox)
    return specs, accurate


def _spec(name: str, use: Any, section: RewardSection) -> RewardSpec:
    return RewardSpec(
        name=name,
        use=use,
        weight=section.weight,
        args=section.args,
        when=section.when,
        from_step=section.from_step,
        style=section.style,
        timeout_seconds=section.timeout_seconds or rewards.default_timeout_seconds(use),
        workers=section.workers,
    )


def accurate_reward(recipe: Recipe, names: Sequence[str]) -> str:
    """The reward whose full score counts as accurate: ``evaluate.reward``, or the first of `names`."""
    name = recipe.evaluate.reward or names[0]
    if name not in names:
        raise RecipeError(
            f"recipe: evaluate.reward names {name}, but the rewards are {', '.join(names)}"
        )
    later = recipe.rewards[name].from_step if name in recipe.rewards else 0
    if later > 1:
        raise RecipeError(
            f"recipe: rewards.{name} means accuracy, which is measured from the start, but counts from step {later} "
            "on; name another in evaluate.reward"
        )
    return name


def lenient_name(reward: str) -> str:
    """The name of a reward's twin by lenient rules."""
    return f"{reward}_lenient"


def with_lenient(specs: Sequence[RewardSpec], accurate: str) -> list[RewardSpec]:
    """`specs`, and the `accurate` reward again by lenient rules, at weight 0, if it is built in and has such rules."""
    spec = next(spec for spec in specs if spec.name == accurate)
    if not _has_lenient_rules(spec) or any(s.name == lenient_name(accurate) for s in specs):
        return list(specs)
    args = {**spec.args, "lenient": True}
    return [*specs, replace(spec, name=lenient_name(accurate), weight=0.0, args=args)]


def _has_lenient_rules(spec: RewardSpec) -> bool:
    if not isinstance(spec.use, str) or spec.use not in rewards.TABLE:
        return False
    return "lenient" in inspect.signature(rewards.load(spec.use)).parameters


def watched_rewards(specs: Sequence[RewardSpec], accurate: str) -> tuple[str, tuple[str, ...]]:
    """(the metric of the most lenient accuracy, the metrics of weighted rewards that can rise without it)."""
    has_lenient = any(spec.name == lenient_name(accurate) for spec in specs)
    true = lenient_name(accurate) if has_lenient else accurate
    formal = [spec.name for spec in specs if spec.weight and spec.name != true]
    return f"rewards/{true}", tuple(f"rewards/{name}" for name in formal)


def check_sandbox(specs: Sequence[RewardSpec], section: SandboxSection) -> None:
    """Refuse a recipe whose programs cannot be confined as it asks; where a reward runs programs, this is tried."""
    options = sandbox_options(section)
    programs = [spec for spec in specs if runs_programs(rewards.load(spec.use))]
    if section.engine != "local" and not section.url:
        raise RecipeError(
            f"recipe: sandbox.engine is {section.engine}, but sandbox.url is missing; give its address"
        )
    if section.engine != "local" and section.packages:
        raise RecipeError(
            f"recipe: sandbox.packages is set, but sandbox.engine is {section.engine}, where programs import what is "
            "installed on the server; take sandbox.packages out"
        )
    if programs and section.engine == "local":
        try:
            RewardService(programs[:1], workers=1, sandbox=options).close()
        except IsolationError as error:
            raise RecipeError(
                f"recipe: rewards.{programs[0].name} runs programs, but {error}"
            ) from None
