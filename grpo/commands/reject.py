"""The command ``grpo reject``: rejection sampling of a recipe, of a run's final model, or of any model.

A recipe goes the way of ``grpo train``. Of a run folder the data, rewards and sampling are taken, with its final model.
Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from grpo.commands import train
from grpo.recipe.constraints import OF_STEPS

if TYPE_CHECKING:
    from grpo.recipe import Recipe

FROM_A_RUN = (
    "name",
    "seed",
    "deterministic",
    "threads",
    "model",
    "data",
    "sample",
    "rewards",
    "sandbox",
    "watchdog",
)
"""What a run's recipe says that rejection sampling of its final model reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_arguments(parser)
    parser.epilog = (
        "In place of a recipe: a run folder, whose final model samples for the run's own data and rewards, or a model "
        "with data.source=... (and rewards.NAME.use=...; default math_answer). k completions a prompt: "
        "sample.group_size=k. Stored completions of earlier runs: reject.samples=[RUN, ...]."
    )


def run(options: argparse.Namespace, command: str) -> int:
    from grpo.recipe.files import shipped_recipes  # noqa: PLC0415  slow to import
    from grpo.recipe.target import is_run_folder, run_of  # noqa: PLC0415  slow to import

    target = options.recipe
    is_recipe = target is None or Path(target).suffix in (".yaml", ".yml")
    if is_recipe or target in shipped_recipes() or (run_of(target) and _is_of_this_stage(target)):
        return train.run_reject(options, command)
    recipe = _of_run(options) if is_run_folder(target) else _of_model(options, command)
    return train.run_recipe(recipe, options, command)


def _is_of_this_stage(run: str) -> bool:
    from grpo.recipe.target import recipe_of_run  # noqa: PLC0415  slow to import

    return recipe_of_run(run).stage == "reject"


def _of_run(options: argparse.Namespace) -> Recipe:
    """The final model of a run, with what its recipe says of data, rewards and sampling."""
    from grpo.recipe import Recipe  # noqa: PLC0415  slow to import
    from grpo.recipe.target import evaluation_recipe  # noqa: PLC0415  slow to import

    values = evaluation_recipe(options.recipe, None, [], command="reject").to_mapping()
    taken: dict[str, Any] = {name: values[name] for name in FROM_A_RUN}
    taken["name"] = f"{values['name']}-reject"
    taken["sample"] = _without(values["sample"], OF_STEPS)
    taken["evaluate"] = {name: values["evaluate"][name] for name in ("reward", "threshold")}
    return Recipe.from_mapping({"stage": "reject", **taken}, *options.overrides)


def _without(section: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in names}


def _of_model(options: argparse.Namespace, command: str) -> Recipe:
    """Any model; without rewards it is judged by ``math_answer``."""
    from grpo.recipe import RecipeError  # noqa: PLC0415  slow to import
    from grpo.recipe.target import evaluation_recipe  # noqa: PLC0415  slow to import

    if not any(override.startswith("data.source=") for override in options.overrides):
        raise RecipeError(
            f"reject: {options.recipe} is neither a recipe nor a run folder; if it is a model, name its data too: "
            f"{command} {options.recipe} data.source=..."
        )
    name = f"name={Path(options.recipe).name}-reject"
    overrides = ["stage=reject", name, *options.overrides]
    return evaluation_recipe(options.recipe, None, overrides, command="reject")
