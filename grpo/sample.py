"""Completions of any model for any data, as JSON lines: ``python -m grpo.sample MODEL_OR_RUN --data ... --n k``.

A line holds the row's own columns, so that `rewards.score` can read it, and what was sampled. Lines are written as
groups complete. Nothing is scored here; ``evaluate`` does that. The command is in ``grpo.cli``.
"""

from __future__ import annotations

from grpo.startup import command_line

if __name__ == "__main__":  # as a command: its arguments are read before torch is imported
    command_line.leave_working_folder()
    raise SystemExit(command_line.run_process("sample"))

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Callable, ContextManager, Sequence, TextIO

from grpo.data.prompts import load_prompts
from grpo.data.questions import asked, loader_of
from grpo.data.sources import SourceRows, load_sources
from grpo.environments import RunEnvironment, open_environment, plan_environment, turns_of
from grpo.model.info import load_info
from grpo.recipe import Recipe
from grpo.rollout.compiled import check_compiler
from grpo.run import setup
from grpo.run.asked import with_cap_that_fits
from grpo.run.sample_rows import turn_rows
from grpo.types import Group


def lines(group: Group, with_tokens: bool) -> list[dict[str, Any]]:
    """A mapping for each completion of a group: the row's columns, then what was sampled."""
    result = []
    for index, completion in enumerate(group.completions):
        line = {
            **group.prompt.truth,
            "id": group.prompt.id,
            "index": index,
            "prompt_text": group.prompt.text,
            "completion": completion.text,
            "finish": completion.finish,
            "stop": completion.stop,
            "num_tokens": completion.num_tokens,
            "logp": float(completion.sampled_logps.double().sum()),
        }
        if with_tokens:
            line["token_ids"] = list(completion.token_ids)
            line["sampled_logps"] = completion.sampled_logps.tolist()
            if completion.given:
                line["given"] = [list(span) for span in completion.given]
        if completion.turns:
            line["turns"] = turn_rows(completion)
        result.append(line)
    return result


def write(
    recipe: Recipe,
    out: TextIO,
    *,
    n: int,
    rows: int | None,
    with_tokens: bool,
    say: Callable[..., None],
) -> dict[str, Any]:
    """Sample `n` completions for each of the first `rows` rows of the recipe's data; returns counts and times.

    `say` is told what samples, and what the engine has to say.
    """
    check_compiler(recipe)
    sources = [
        asked(recipe, _first_rows(source, rows))
        for source in load_sources(recipe.data, load=loader_of(recipe))
    ]
    info = load_info(recipe.model)
    plan = plan_environment(recipe, info.tokenizer)
    if plan is not None:
        info = replace(info, tools=plan.shown)
    recipe = with_cap_that_fits(recipe, sources, info, say)
    prompts = load_prompts(sources, info, max_tokens=recipe.sample.max_tokens)
    if plan is not None:
        plan.check_templates(info.tokenizer, prompts.templates.values(), info.end_ids)
    setup.prepare_torch(recipe)
    policy = setup.open_policy(recipe, setup.default_device(), info.tokenizer)
    say(policy.describe(), *policy.describe_fallback())
    engine = setup.open_engine(recipe, policy)
    num_completions = n * len(prompts.train)
    num_tokens = 0
    opened = open_environment(recipe, plan, policy)
    context: ContextManager[RunEnvironment | None] = opened or nullcontext()
    with context as environment:
        for _, group in engine.sample(
            prompts.train,
            group_size=n,
            max_tokens=recipe.sample.max_tokens,
            seed=("sample", recipe.seed),
            sampling=setup.sampling_of(recipe.sample),
            turns=turns_of(environment, prompts.templates),
        ):
            for line in lines(group, with_tokens):
                out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
                num_tokens += line["num_tokens"]
            out.flush()
    say(*engine.stats.notes)
    return {
        "completions": num_completions,
        "tokens": num_tokens,
        "seconds": round(engine.stats.seconds, 3),
        "tokens_per_second": round(num_tokens / engine.stats.seconds, 1),
        "too_long": prompts.num_dropped,
    }


def _first_rows(source: SourceRows, rows: int | None) -> SourceRows:
    return replace(source, train=source.rows[:rows], held_out=())


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m grpo.sample``, the same as ``grpo sample``; returns the exit code."""
    return command_line.run("sample", arguments)
