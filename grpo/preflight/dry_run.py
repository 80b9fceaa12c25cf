"""What a recipe will do, in words, before it does it: the objective, the counts of a step, memory, data, the files.

Data and rewards are opened, so that a missing column or an unknown reward is found. No weights are loaded and nothing
is written; what only scores and samples can show is in ``preflight``.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Iterator, Sequence

import torch

from grpo.data.sources import load_sources
from grpo.model.info import load_config, load_tokenizer
from grpo.model.location import is_unreachable
from grpo.objective.formula import describe_objective
from grpo.preflight import forecast, supervised
from grpo.preflight.facts import number_of_parameters
from grpo.preflight.foreign_rewards import stand_ins
from grpo.preflight.memory import GIB, Memory, example_rows, predict
from grpo.preflight.memory_fit import teacher_bytes
from grpo.recipe import Recipe, RecipeError, to_yaml
from grpo.recipe.describe import step_size
from grpo.run.inputs import RunInputs, load_inputs
from grpo.run.reward_fit import check_columns
from grpo.run.reward_specs import load_rewards
from grpo.run.setup import default_device
from grpo.stages.rejection.inputs import load_reject_inputs
from grpo.stages.rejection.words import header
from grpo.stages.sft import run_size
from rewards import RewardSpec
from rewards.spelling import agree, many

PROMPT_TOKENS = 256
"""Length of a prompt in the prediction of memory: no data is loaded."""


def dry_run(recipe: Recipe) -> Iterator[str]:
    """The resolved recipe, the loss it resolved to, the size of a step, and what will be written where."""
    yield to_yaml(recipe.to_mapping()).rstrip()
    yield ""
    if recipe.learns_rows:
        yield from _supervised(recipe)
        return
    if recipe.stage == "reject":
        yield from _rejection(recipe)
        return
    yield from describe_objective(recipe)
    yield ""
    yield from _size(recipe)
    yield from memory(recipe)
    yield ""
    yield from files(recipe)
    yield ""
    yield from data(recipe)


def _supervised(recipe: Recipe) -> Iterator[str]:
    """The size, rows and memory of a run that learns rows, and its files."""
    inputs, reason = supervised.open_inputs(recipe)
    if inputs is None:
        yield from run_size(recipe)
        yield ""
        yield from files(recipe)
        yield ""
        yield reason
        return
    yield from supervised.data(recipe, inputs)
    yield ""
    predicted = supervised.predicted_memory(recipe, inputs)
    if predicted is not None:
        yield from predicted.lines()
        yield f"  for the {recipe.sft.batch} longest rows"
        yield from cost(inputs)
    yield from files(recipe)


def _rejection(recipe: Recipe) -> Iterator[str]:
    """The prompts or stored completions, the filters and the files of a run of stage reject."""
    try:
        inputs = load_reject_inputs(recipe, rewards=stand_ins(recipe.rewards))
    except RecipeError as error:
        if not is_unreachable(str(error)):
            raise
        yield f"not opened, since the hub cannot be reached: {error}"
        return
    yield from header(inputs)
    yield f"written to {recipe.folder()}:"
    yield (
        "  recipe.yaml (first), accepted.jsonl, pass_rates.jsonl, samples.jsonl, metrics.jsonl, progress.json, "
        "console.log, summary.json, report.html"
    )


def _size(recipe: Recipe) -> Iterator[str]:
    """The size of a step and of the run; of a run counted in epochs, what is known without data."""
    *step, run = step_size(recipe)
    yield from step
    if recipe.epochs is None:
        yield run
    else:
        yield f"the run: {recipe.epochs:g} passes over the training prompts; their number is below"


def data(recipe: Recipe) -> Iterator[str]:
    """What the run would read: rows, prompts, sets, rewards, and the first prompt as the policy would see it.

    Rewards of the user's files are looked at, and not run. Raises `RecipeError` for rewards, data or a model that do
    not do; what only the hub holds, where it cannot be reached, ends the lines with a note.
    """
    if recipe.data.source is None and not recipe.data.sources:
        yield "data: none is named; rows must be passed from Python"
        return
    functions = stand_ins(recipe.rewards)
    needs_rewards = recipe.stage != "distill"
    specs: Sequence[RewardSpec] = ()
    if needs_rewards or recipe.rewards:
        specs, _ = load_rewards(recipe, functions)
    try:
        sources = load_sources(recipe.data)
    except RecipeError as error:
        if not is_unreachable(str(error)):
            raise
        yield f"not opened, since the hub cannot be reached: {error}"
        return
    check_columns(specs, [row for source in sources for row in source.rows])
    try:
        inputs = load_inputs(recipe, rewards=functions, needs_rewards=needs_rewards)
    except RecipeError as error:
        if not is_unreachable(str(error)):
            raise
        yield f"prompts: not made, since the hub cannot be reached: {error}"
        return
    prompts = inputs.prompts
    train = len(prompts.train)
    counts = f"{many(train, 'prompt')} {agree(train, 'train')}, {len(prompts.held_out)} held out"
    yield (
        f"data: {counts}, {prompts.num_dropped} are too long and dropped, {prompts.num_left_out} left out by where"
    )
    if recipe.epochs is not None:
        yield f"  {[*step_size(inputs.recipe)][-1]}"
    for name, template in prompts.templates.items():
        yield f"  template{f' of {name}' if name else ''}: {template.pattern}"
    for evaluated in inputs.sets:
        yield f"  evaluated on {evaluated.name}: {evaluated.describe()}"
    if specs:
        names = ", ".join(spec.name for spec in inputs.specs)
        yield f"rewards: {names}; accurate means {inputs.accurate}"
    if inputs.environment is not None:
        yield f"tools: {inputs.environment.describe()}"
    yield from cost(inputs)
    first = prompts.train[0]
    yield f"the first prompt, {many(len(first.token_ids), 'token')}:"
    yield from (f"  | {line}" for line in first.text.splitlines())


def memory(recipe: Recipe) -> Iterator[str]:
    """The memory of an update with completions of full length, if the model is in a local folder."""
    if not (Path(recipe.model.name or "") / "config.json").is_file():
        return
    max_tokens = recipe.sample.max_tokens
    try:
        teacher = teacher_bytes(recipe)
    except RecipeError:  # said where the teacher is opened
        teacher = 0
    rows = example_rows(
        prompts=max(1, recipe.sample.prompts // recipe.optim.updates),
        group_size=recipe.sample.group_size,
        prompt_tokens=PROMPT_TOKENS,
        max_tokens=max_tokens,
    )
    predicted = predict(
        config=load_config(recipe.model),
        tokenizer=load_tokenizer(recipe.model),
        model=recipe.model,
        optim=recipe.optim,
        loss=recipe.loss,
        rows=rows,
        teacher_bytes=teacher,
    )
    yield from predicted.lines()
    yield f"  if every completion is {many(max_tokens, 'token')} long, after prompts of {PROMPT_TOKENS}"
    size = checkpoint_bytes(recipe, predicted) / GIB
    yield f"  a checkpoint: about {size:.2f} GiB on disk, and in host memory while it is written"


def cost(inputs: RunInputs) -> Iterator[str]:
    """What the run would take by arithmetic, since nothing was measured; ``--preflight`` knows better."""
    recipe = inputs.recipe
    if recipe.learns_rows:
        examples = inputs.examples.train
        work = forecast.sft_work(
            recipe,
            tokens=mean(len(example.prompt.token_ids) for example in examples),
            learnt=mean(example.num_learnt for example in examples),
        )
        assumes = "no evaluations"
    else:
        work = forecast.grpo_work(
            recipe,
            prompt_tokens=mean(len(prompt.token_ids) for prompt in inputs.prompts.train),
            evaluated=sum(len(of.prompts) * of.samples for of in inputs.sets),
        )
        assumes = "completions an eighth, half and all of sample.max_tokens long"
    dtype = getattr(torch, recipe.model.dtype)
    found = forecast.of_arithmetic(
        work,
        parameters=number_of_parameters(inputs.config, recipe.model.trust_remote_code),
        rates=forecast.measured_rates(default_device(), dtype),
        bytes_each=dtype.itemsize,
        assumes=assumes,
    )
    yield from found.lines(forecast.prices_of(recipe))


def checkpoint_bytes(recipe: Recipe, predicted: Memory) -> int:
    """Bytes of a checkpoint's tensors: trained weights, masters, moments and reference."""
    is_half = recipe.model.dtype in ("bfloat16", "float16")
    trained = predicted.all_gradients // (2 if is_half else 1)
    return trained + predicted.masters + predicted.moments + predicted.reference


def files(recipe: Recipe) -> Iterator[str]:
    """The files of the run folder, and when checkpoints are written."""
    section = recipe.checkpoint
    yield f"written to {recipe.folder()}:"
    yield (
        "  recipe.yaml (first), metrics.jsonl, samples.jsonl, evaluations.jsonl, costs.jsonl, console.log, "
        "checkpoints/, final/, summary.json, report.html"
    )
    when = _every(section.every) if section.every else "when stopped"
    ranked_by = section.best_by or "held-out accuracy"
    best = f", and the best {section.keep_best} by {ranked_by}" if section.keep_best else ""
    yield f"  a checkpoint {when} and at the end, the last {section.keep} kept{best}"
    if section.background:
        yield (
            "  each is copied to host memory (trained weights, optimizer) and written while "
            "training continues"
        )


def _every(steps: int) -> str:
    return "every step" if steps == 1 else f"every {steps} steps"
