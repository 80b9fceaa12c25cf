"""The recipe of what a command is pointed at: a run folder, or a model to evaluate or sample.

Whether a model of the hub exists is found out where it is loaded. Training reads recipes by `Recipe.load`.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.recipe import (
    CheckpointSection,
    DataSection,
    DistillSection,
    EnvironmentSection,
    Recipe,
    RecipeError,
    SftSection,
    read_yaml,
)
from grpo.recipe.constraints import SERVER_KEYS

DEFAULT = {"rewards": {"correct": {"use": "math_answer"}}}
"""What a model is evaluated by where no recipe is given."""
SAMPLING = ("evaluate", "sample", "chat")
"""Commands whose completions differ by who answers them."""
TOOL_METRIC = 'tool/share"'
"""A key that stands in the records of runs whose policy was answered."""
TURNS = '"turns": [{'
"""What stands in the rows of evaluated completions that were answered; supervised training has no other."""
NUM_READ = 64
"""Records of a run that are looked at: its first evaluations, steps and evaluated completions."""


OF_RUNS = ("metrics.jsonl", "stages.json")
"""Files that tell a run's folder from one with a recipe of the user's."""


def is_run_folder(target: str) -> bool:
    """Whether a run has written its recipe there."""
    return (Path(target).expanduser() / "recipe.yaml").is_file()


def final_stage(target: str) -> str:
    """`target`; of a recipe with stages the folder of the last one that has left a model.

    The ``recipe.yaml`` in a run folder means that folder. Raises `RecipeError` if no stage has left a model.
    """
    folder = Path(target).expanduser()
    is_recipe = folder.name == "recipe.yaml" and folder.is_file()
    if is_recipe and any((folder.parent / name).is_file() for name in OF_RUNS):
        folder = folder.parent
        target = str(folder)
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
        return _without_answers(_recipe_of_final(target, overrides, command), overrides)
    _check_exists(target, command)
    if recipe is not None:
        return _without_answers(Recipe.load(recipe, *_named(target, overrides)), overrides)
    if not any(override.startswith(("data.source=", "evaluate.sets.")) for override in overrides):
        raise RecipeError(_without_data(target, command))
    return Recipe.from_mapping(_default(overrides), *_named(target, overrides))


def _without_answers(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe without the budgets and format of tools that the user has taken away by ``tools=[]``."""
    changed = {re.split(r"[.=]", override)[0] for override in overrides}
    is_taken = "tools" in changed and "environment" not in changed
    if is_taken and not recipe.tools and recipe.environment.use is None:
        return replace(recipe, environment=EnvironmentSection())
    return recipe


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


WITHOUT_MODEL = {
    "reject": "a run of rejection sampling, which leaves rows (accepted.jsonl) and no model; name {model}, which it "
    "sampled, or a model that has learnt those rows",
    "evaluate": "a stage that evaluates, and leaves no model; its figures are in summary.json, its completions in "
    "completions/; name a model, or the run that trained one",
    "export": "a stage that exports, and keeps its files in files/: name {files}",
}
"""What to say of a run of a stage that leaves no model in final/, by stage."""


def _recipe_of_final(target: str, overrides: Sequence[str], command: str) -> Recipe:
    run = Path(target).expanduser()
    values = read_yaml(run / "recipe.yaml")
    final = run / "final"
    if not final.is_dir():
        raise RecipeError(f"{command}: {_why_no_model(run, values)}")
    whole_model = [
        f"model.name={json.dumps(str(final))}",
        "model.lora=null",
        "model.adapter=null",
        "model.quantize=null",
    ]
    values["sample"] = _without_servers(values.get("sample") or {})
    values = _with_trained_template(values, _forms_of(run))
    own = Recipe.from_mapping(values)
    recipe = Recipe.from_mapping(values, *whole_model, *overrides)
    if recipe.learns_rows and _places(recipe.data) != _places(own.data):
        recipe = _on_other_rows(recipe)
    if command in SAMPLING and not recipe.has_environment and not _names_tools(overrides):
        _check_named(run, command)
    is_scored = recipe.rewards or any(of.rewards for of in recipe.evaluate.sets.values())
    if command == "evaluate" and not is_scored:
        raise RecipeError(
            f"evaluate: the recipe of {run} names no reward, so nothing says which completions are right; name one, "
            "e.g. rewards.correct.use=math_answer, or a test set that has its own (--benchmark); grpo sample shows "
            "what the model writes"
        )
    return recipe


def _why_no_model(run: Path, values: Mapping[str, Any]) -> str:
    """Why a run folder has no model, and what to do."""
    words = WITHOUT_MODEL.get(str(values.get("stage")))
    if words is None:
        return (
            f"the run {run} has no final model yet; finish it with: grpo train {shlex.quote(str(run))} --resume, or "
            "name a model and give --recipe"
        )
    files = sorted((run / "files").glob("*.gguf")) or [run / "files"]
    model = (values.get("model") or {}).get("name") or "the model"
    return f"{run} is {words.format(model=model, files=files[0])}"


def _forms_of(run: Path) -> list[str]:
    """What the rows were that a run of supervised training has learnt; nothing for other runs."""
    try:
        forms = json.loads((run / "summary.json").read_text(encoding="utf-8"))["forms"]
    except (OSError, ValueError, KeyError):
        return []
    return list(forms)


def _with_trained_template(values: Mapping[str, Any], forms: Sequence[str]) -> dict[str, Any]:
    """`values` of a run with the template by which its rows of these `forms` were shown, where that is auto.

    Chats went through a chat template, as did all rows where a file gave one, which final/ now holds. Texts were not
    shown by any.
    """
    sft = values.get("sft") or {}
    template = None
    if "chat" in forms or sft.get("chat_template") is not None:
        template = "chat"
    elif forms == ["text"]:
        template = "plain"
    if template is None:
        return dict(values)
    data = _shown_by(template, values["data"])
    sources = data.get("sources") or {}
    data["sources"] = {name: _shown_by(template, source) for name, source in sources.items()}
    return {**values, "sft": {**sft, "chat_template": None}, "data": data}


def _shown_by(template: str, section: Mapping[str, Any]) -> dict[str, Any]:
    is_auto = section.get("template", "auto") == "auto"
    return {**section, "template": template} if is_auto else dict(section)


def _places(data: DataSection) -> list[tuple[Any, ...]]:
    """Where rows come from."""
    return [(rows.source, rows.subset, rows.split, rows.args) for rows in data.each().values()]


def _on_other_rows(recipe: Recipe) -> Recipe:
    """A recipe that learnt rows, for rows that need hold nothing but prompts."""
    columns = {name: old for name, old in recipe.data.columns.items() if name != "completion"}
    data = replace(recipe.data, columns=columns)
    return replace(
        recipe,
        stage="grpo",
        data=data,
        sft=SftSection(),
        distill=DistillSection(),
        checkpoint=CheckpointSection(),
    )


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
    """Whether tools or an environment answered the policy of a run, by its first steps or evaluated completions."""
    return _is_said(run / "metrics.jsonl", TOOL_METRIC) or _is_said(
        run / "evaluations.jsonl", TURNS
    )


def _is_said(file: Path, words: str) -> bool:
    """Whether one of a file's first lines holds `words`."""
    try:
        with file.open(encoding="utf-8") as lines:
            return any(words in line for line in islice(lines, NUM_READ))
    except OSError:
        return False


def _without_servers(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``sample`` for a model that no server holds: the process samples by itself."""
    return {name: value for name, value in sample.items() if name not in ("engine", *SERVER_KEYS)}
