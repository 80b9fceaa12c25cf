"""Tools before a run: each is called once, as the policy would, and a conversation with a call is shown.

What a call looks like to the policy is made by the run's own separators, so what is shown here is what it will read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Iterator

from grpo.data.templates import Template, apply_template
from grpo.environments import EnvironmentPlan, RunEnvironment, start_environment
from grpo.preflight.facts import Finding, RunFacts, note, warning, wrong
from grpo.recipe import RecipeError
from grpo.types import Prompt
from rewards.environments import Observation
from rewards.environments.tools import example_call
from rewards.spelling import many

KEY = "preflight"
MAX_SHOWN = 12
"""Lines of the prompt before the first call that are shown."""


@dataclass(frozen=True, slots=True)
class _OneCall:
    """A call in its written form, the prompt before it, and the answer: a text within the turn, or messages."""

    prompt: Prompt
    text: str
    told: str | list[dict[str, str]]


def check_tools(facts: RunFacts, stop_ids: frozenset[int]) -> Iterator[Finding | str]:
    """Lines on each tool's answer and one conversation, and findings on those that fail; nothing without tools."""
    plan = facts.answers
    opened = start_environment(facts.recipe, plan, facts.loaded_tokenizer(), stop_ids)
    if plan is None or opened is None:
        return
    yield f"tools    {plan.describe()}"
    prompt = facts.prompts.train[0]
    with opened as environment:
        first = environment.pool.open(KEY, prompt.truth).result()
        if first is not None:
            yield from _said("the environment, which begins", first)
        calls = _calls(plan)
        answers = []
        for name, text in calls.items():
            answer = environment.pool.step(KEY, text).result()
            answers.append(answer)
            yield from _said(f"{name}, called by {text!r}", answer)
        environment.pool.forget(KEY)
        if calls and plan.format is not None:
            told = plan.format.answer(answers[0].results)
            one = _OneCall(prompt, next(iter(calls.values())), told)
            yield from _conversation(facts, environment, one)


def call_each(facts: RunFacts, environment: RunEnvironment | None) -> None:
    """Call each tool once in every worker, so that whoever runs it has started; nothing without tools."""
    if environment is None:
        return
    pool = environment.pool
    keys = [(KEY, number) for number in range(environment.plan.spec.workers or os.cpu_count() or 1)]
    for key in keys:
        pool.open(key, facts.prompts.train[0].truth)
    for text in _calls(environment.plan).values():
        for answer in [pool.step(key, text) for key in keys]:
            answer.result()
    for key in keys:
        pool.forget(key)


def _calls(plan: EnvironmentPlan) -> dict[str, str]:
    """By tool, a call of it with made-up arguments as the policy would write it."""
    if plan.format is None:
        return {}
    return {
        str(schema["function"]["name"]): plan.format.write(example_call(schema))
        for schema in plan.schemas
    }


def _said(who: str, answer: Observation) -> Iterator[Finding | str]:
    shown = " ".join(answer.text.split())[:200]
    yield f"tools    {who}: {answer.status}, {shown!r}"
    if answer.status in ("timeout", "died"):
        yield wrong("tool-hangs", f"{who}, gave nothing ({answer.status}): {shown}")
    elif answer.status == "malformed":
        yield wrong("call-not-read", f"{who}, could not be read as a call: {shown}")
    elif answer.status != "ok":
        yield note("tool-error", f"{who}, with made-up arguments, raised: {shown}")


def _conversation(
    facts: RunFacts, environment: RunEnvironment, one: _OneCall
) -> Iterator[Finding | str]:
    """The prompt's end, the call and what is read behind it; and whether the template tells the same conversation."""
    template = facts.prompts.templates[one.prompt.source]
    separators = environment.separators(template)
    tokenizer = facts.loaded_tokenizer()
    told = one.told
    ended = ""
    if isinstance(told, str):
        given = separators.text(told)
    else:
        ended = separators.pieces(told).turn_end.strip()
        stop = tokenizer.convert_tokens_to_ids(ended) if ended else None
        assert not isinstance(stop, list), "one token has one number"
        given = separators.messages(told, stop)
    behind = str(tokenizer.decode(list(given.token_ids), clean_up_tokenization_spaces=False))
    number = many(len(given.token_ids), "token")
    yield f"tools    one call, with its answer ({number} that are not learnt, behind >):"
    lines = one.prompt.text.splitlines()[-MAX_SHOWN:]
    yield from (f"  | {line}" for line in [*lines, *(one.text + ended).splitlines()])
    yield from (f"  > {line}" for line in behind.splitlines())
    if not isinstance(told, str):
        yield from _retold(template, tokenizer, one)
    yield from _not_in_the_prompt(environment.plan, one.prompt)


def _retold(template: Template, tokenizer: Any, one: _OneCall) -> Iterator[Finding]:
    """Whether the template, rendering the conversation anew, would keep the call and what stood before it."""
    assert not isinstance(one.told, str)
    said = {"role": "assistant", "content": one.text}
    turns = [*template.turns(one.prompt.truth["prompt"]), said, *one.told]
    try:
        rendered = apply_template(turns, tokenizer, template.args)
    except RecipeError:
        rendered = ""
    shown = "".join(rendered.split())
    if "".join(one.text.split()) not in shown:
        yield note(
            "call-not-retold",
            "the chat template leaves a call out when it renders a conversation anew; the run goes on behind the "
            "sampled tokens and never renders them again, but programs that do show the model another conversation",
        )
    elif not rendered.startswith(one.prompt.text):
        yield note(
            "prompt-retold",
            "the chat template writes the prompt otherwise once a call follows it; the run keeps the prompt's tokens",
        )


def _not_in_the_prompt(plan: EnvironmentPlan, prompt: Prompt) -> Iterator[Finding]:
    """Calls within the turn are taught by the prompt or by training before; the chat template says nothing of them."""
    if plan.format is None or not plan.format.in_turn:
        return
    sign = plan.format.ends[0]
    if sign not in prompt.text and not any(name in prompt.text for name in plan.names):
        yield warning(
            "call-not-told",
            f"nothing in the prompt says how a call is written ({sign} ends one); unless the model was trained to "
            "write calls, say so in data.system or a template of your own",
        )
