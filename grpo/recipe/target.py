"""The recipe of what a command is pointed at: a run folder, or a model to evaluate or sample.

Whether a model of the hub exists is found out where it is loaded. Training reads recipes by `Recipe.load`.
"""

from __future__ import annotations

import json
import re
import shlex
from itertools import islice
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.recipe import Recipe, RecipeError, read_yaml
from grpo.recipe.constraints import SERVER_KEYS

DEFAULT = {"rewards": {"correct": {"use": "math_answer"}}}
"""What a model is evaluated by where no recipe is given."""
SAMPLING = ("evaluate", "sample", "chat")
"""Commands whose completions differ by who answers them."""
TOOL_METRIC = 'tool/share"'
"""A key that stands in the records of runs whose policy was answered."""
NUM_READ = 8
"""Records of a run that are looked at: its first evaluations and steps."""


def is_run_folder(target: str) -> bool:
    """Whether a run has written its recipe there."""
    return (Path(target).expanduser() / "recipe.yaml").is_file()


def final_stage(target: str) -> str:
    """`target`; where that is the folder of a recipe with stages, the folder of the last one that has left a model.

    Raises `RecipeError` if none has.
    """
    folder = Path(target).expanduser()
    try:
        stages = json.loads((folder / "stages.json").read_text(encoding="utf-8"))["stages"]
        folders = [folder / stage["folder"] for stage in stages if stage["status"] == "done"]
    except (OSError, ValueError, KeyError, TypeError):
        return target
    for made in reversed(folders):
        if (made / "final").is_dir():
            return str(made)
    raise RecipeError(
        f"run folder: no stage of {folder} has left a model yet; go on with: grpo train {shlex.quote(str(folder))} "
        "--resume"
    )


def run_of(target: str) -> str | None:
    """The run folder that `target` is, or whose ``recipe.yaml`` it is; None for anything else."""
    if is_run_folder(target):
        return target
    file = Path(target).expanduser()
    is_of_run = file.name == "recipe.yaml" and (file.parent / "metrics.jsonl").is_file()
    return str(file.parent) if is_of_run else None


def recipe_of_run(run: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the run in a folder, which stays its folder wherever that has been moved."""
    folder = Path(run).expanduser().absolute()
    here = f"run_dir={json.dumps(str(folder))}"
    return Recipe.from_mapping(read_yaml(folder / "recipe.yaml"), here, *overrides)


def evaluation_recipe(
    target: str, recipe: str | None, overrides: Sequence[str], command: str = "evaluate"
) -> Recipe:
    """What to evaluate: a run folder's recipe with its final model, or `recipe`'s settings with the model `target`.

    Without either, the reward is ``math_answer`` and everything else a default. `command` begins the messages.
    """
    target = final_stage(target)
    if recipe is None and is_run_folder(target):
        return _recipe_of_final(target, overrides, command)
    _check_exists(target, command)
    if recipe is not None:
        return Recipe.load(recipe, *_named(target, overrides))
    if not any(override.startswith(("data.source=", "evaluate.sets.")) for override in overrides):
        raise RecipeError(_without_data(target, command))
    return Recipe.from_mapping(_default(overrides), *_named(target, overrides))


def model_recipe(target: str, recipe: str | None, overrides: Sequence[str], command: str) -> Recipe:
    """As `evaluation_recipe`, for a command that needs no data: without a recipe, only the model is named."""
    target = final_stage(target)
    if recipe is not None or is_run_folder(target):
        return evaluation_recipe(target, recipe, overrides, command)
    _check_exists(target, command)
    return Recipe.from_mapping(_default(overrides), *_named(target, overrides))


def _default(overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe of a model that comes without one; rewards that the user names take the place of its own."""
    keys = [override.partition("=")[0] for override in overrides]
    names_reward = any(
        key == "rewards" or re.fullmatch(r"rewards\.[^.]+(\.use)?", key) for key in keys
    )
    return {name: part for name, part in DEFAULT.items() if name != "rewards" or not names_reward}


def _named(target: str, overrides: Sequence[str]) -> list[str]:
    return [f"model.name={json.dumps(target)}", *overrides]


def _check_exists(target: str, command: str) -> None:
    """Refuse what can only be a path and is none; a name such as ``gpt2`` may be a model of the hub."""
    looks_like_path = target.startswith((".", "/", "~")) or target.count("/") > 1
    if looks_like_path and not Path(target).expanduser().exists():
        raise RecipeError(
            f"{command}: there is no {target}; name a run folder, a model folder, a .gguf file or a hub id"
        )


def _without_data(target: str, command: str) -> str:
    if Path(target).expanduser().exists():
        return (
            f"{command}: {target} is not a run folder (it has no recipe.yaml), so it names no data; give "
            "--data or --recipe"
        )
    return (
        f"{command}: there is no run folder and no model {target} here; if it is a model of the hub, "
        "give --data or --recipe too"
    )


def _recipe_of_final(target: str, overrides: Sequence[str], command: str) -> Recipe:
    run = Path(target).expanduser()
    final = run / "final"
    if not final.is_dir():
        raise RecipeError(
            f"{command}: the run {run} has no final model yet; finish it with: grpo train "
            f"{shlex.quote(str(run))} --resume, or name a model and give --recipe"
        )
    whole_model = [
        f"model.name={json.dumps(str(final))}",
        "model.lora=null",
        "model.adapter=null",
        "model.quantize=null",
    ]
    values = read_yaml(run / "recipe.yaml")
    values["sample"] = _without_servers(values.get("sample") or {})
    recipe = Recipe.from_mapping(values, *whole_model, *overrides)
    if command in SAMPLING and not recipe.has_environment and not _names_tools(overrides):
        _check_named(run, command)
    return recipe


def _names_tools(overrides: Sequence[str]) -> bool:
    """Whether the user says who answers, if only that nobody does."""
    return any(re.match(r"(tools|environment)\b", override) for override in overrides)


def _check_named(run: Path, command: str) -> None:
    """Refuse a run that was answered by functions of Python, which its recipe cannot name."""
    if was_answered(run):
        raise RecipeError(
            f"{command}: {run} was trained with tools that were passed from Python, and its recipe does not name them; "
            "name them, e.g. tools='[\"file.py:function\"]', or tools=[] for none"
        )


def was_answered(run: Path) -> bool:
    """Whether tools or an environment answered the policy of a run, by its first steps."""
    try:
        with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
            return any(TOOL_METRIC in line for line in islice(lines, NUM_READ))
    except OSError:
        return False


def _without_servers(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``sample`` for a model that no server holds: the process samples by itself."""
    return {name: value for name, value in sample.items() if name not in ("engine", *SERVER_KEYS)}
