"""What a run of rejection sampling says at its beginning and its end."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, Iterator, Mapping

from grpo.recipe import Recipe, RecipeError, SftSection
from grpo.recipe.files import override_values
from grpo.report.console.closing import launcher, shown_path
from grpo.report.console.numbers import interval, rough_time, short
from grpo.stages.rejection.books import OUTCOMES, WHOLE
from grpo.stages.rejection.diversity import ACCEPTED, CHOSEN_AMONG
from grpo.stages.rejection.filters import FILTERS
from grpo.stages.rejection.inputs import RejectInputs
from rewards.spelling import agree, many

SAYS: Mapping[str, str] = {
    **{one.name: one.says for one in FILTERS},
    **CHOSEN_AMONG,
    "cancelled": "cancelled",
}
"""Each outcome but ``accepted`` in words."""
TOKENS = {
    "same": "train as the tokens that were sampled",
    "end_added": "train as those with a further end token, since a stop string or a limit ended them",
    "others": "train as other tokens than were sampled, since their text is spelt another way",
    "unknown": "come without token ids and train as many tokens as were sampled",
}


def header(inputs: RejectInputs, model: str = "", num_steps: int = 0) -> Iterator[str]:
    """The lines after the title; `model` is the policy in words, empty where none is loaded."""
    if inputs.stored is not None:
        folders = ", ".join(shown_path(run.folder) for run in inputs.stored.runs)
        yield f"  samples   {many(inputs.stored.num_lines, 'completion')} stored by {folders}; no weights are loaded"
        judged = ", ".join(spec.name for spec in inputs.specs) or "as their runs judged them"
    else:
        if model:
            yield f"  policy    {model}"
        judged = ", ".join(spec.name for spec in inputs.specs)
    yield f"  prompts   {_prompts(inputs)}"
    yield f"  rewards   {judged}"
    yield f"  left out  {', '.join(filters_in_words(inputs.recipe))}"
    yield f"  {run_size(inputs)}"
    if num_steps:
        yield f"  resumed after step {num_steps}"


COUNTS = {
    "left_out": "left out by where",
    "too_long": "too long",
    "held_out": "held out",
    "not_taken": "not taken (reject.prompts)",
}
"""What became of rows that are not sampled."""


def _prompts(inputs: RejectInputs) -> str:
    others = [
        f"{inputs.counts[name]} {says}" for name, says in COUNTS.items() if inputs.counts.get(name)
    ]
    return ", ".join([str(inputs.counts["prompts"]), *others])


def run_size(inputs: RejectInputs) -> str:
    """How many prompts and completions a step and the run have."""
    recipe = inputs.recipe
    sample = recipe.sample
    steps = many(recipe.steps, "step")
    if inputs.stored is not None:
        return f"a step: {many(sample.prompts, 'prompt')}; the run: {steps}"
    each = f"{many(sample.prompts, 'prompt')} x {sample.group_size}"
    total = many(len(inputs.prompts) * sample.group_size, "completion")
    return (
        f"a step: {each} of at most {many(sample.max_tokens, 'token')}; the run: {steps}, {total}"
    )


def filters_in_words(recipe: Recipe) -> Iterator[str]:
    """What the recipe leaves out, in the order in which completions are booked."""
    section = recipe.reject
    yield from (one.says for one in FILTERS if one.is_on(section))
    if section.duplicates:
        yield CHOSEN_AMONG["duplicate"]
    if section.near_duplicates:
        yield f"{CHOSEN_AMONG['near_duplicate']} ({section.near_duplicates:g})"
    if section.per_prompt:
        yield f"all but {section.per_prompt} of a prompt"


def outcomes(ledger: Mapping[str, int]) -> str:
    """``128 candidates: 41 accepted, 60 wrong, ...``; outcomes of none are left out."""
    counts = [f"{ledger[ACCEPTED]} accepted"]
    counts += [f"{ledger[name]} {SAYS[name]}" for name in OUTCOMES[1:] if ledger[name]]
    return f"{many(ledger[WHOLE], 'candidate')}: {', '.join(counts)}"


def closing(summary: Mapping[str, Any], folder: Path, inputs: RejectInputs) -> Iterator[str]:
    """The last lines of a run, from its summary."""
    ledger = summary["ledger"]
    rate = summary["pass_rate"]
    histogram = ", ".join(f"{number} in {name}" for name, number in rate["histogram"].items())
    yield outcomes(ledger)
    yield f"accepted {_share(summary['acceptance'])} of the candidates"
    if rate["prompts"]:
        yield f"pass rate {_share(rate)} over {many(rate['prompts'], 'prompt')}: {histogram}"
    for kind, number in summary["trains_as"].items():
        if number:
            yield f"{number} of the accepted {TOKENS[kind]}"
    file = folder / "accepted.jsonl"
    yield (
        f"{many(summary['steps'], 'step')} in {rough_time(summary['seconds'])}, "
        f"{short(summary['tokens']['sampled'])} tokens sampled; {ledger[ACCEPTED]} "
        f"{agree(ledger[ACCEPTED], 'are')} in {shown_path(file)}"
    )
    if ledger[ACCEPTED]:
        yield f"next: {_next(summary, file, inputs)}"


def _share(found: Mapping[str, Any]) -> str:
    """A share with its interval."""
    return interval({**found, "accuracy": found["value"]})


def _next(summary: Mapping[str, Any], file: Path, inputs: RejectInputs) -> str:
    """The command that trains the model that was sampled on what was accepted, shown as it was sampled."""
    settings = {"name": f"{summary['name']}-sft", "data.source": shown_path(file), "epochs": 2}
    number = summary["ledger"][ACCEPTED]
    if number < SftSection().batch:
        settings["sft.batch"] = number
    for key, value in (summary["data"] or {}).items():
        is_default = value == inputs.default_template() if key == "template" else not value
        if not is_default:
            settings[f"data.{key}"] = value
    words = [f"{key}={_in_yaml(value)}" for key, value in settings.items()]
    return f"{launcher()} sft {shlex.join([_model(inputs), *words])}"


def _in_yaml(value: Any) -> str:
    """A value of an override; text stands as it is where an override reads it so."""
    with suppress(RecipeError):
        if override_values(f"key={value}") == {"key": value}:
            return str(value)
    return json.dumps(value, ensure_ascii=False)


def _model(inputs: RejectInputs) -> str:
    """The model that was sampled, as a command names it."""
    recipe = inputs.recipe if inputs.stored is None else inputs.stored.runs[0].recipe
    name = recipe.model.name
    if name is None:
        return "MODEL"
    return shown_path(Path(name)) if Path(name).exists() else name
