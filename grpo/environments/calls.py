"""Whether a chat template keeps the calls of a conversation when it renders one anew.

A run never renders a conversation again: its tokens stay. Who serves the model afterwards does, from messages whose
calls stand in ``tool_calls``, and a template that leaves those out shows it a conversation it was never trained on.
"""

from __future__ import annotations

import json
from typing import Any, Iterator, Mapping

from transformers import PreTrainedTokenizerBase

from grpo.data.templates import Template, apply_template
from grpo.environments.separators import CALL_ID
from grpo.recipe import RecipeError

ARGUMENT = "grpo-argument-stands-here"
"""Stands for what is passed, where a call is looked for."""


def check_calls(
    tokenizer: PreTrainedTokenizerBase, template: Template, tool: Mapping[str, Any]
) -> None:
    """Refuse a chat template that leaves out an assistant's ``tool_calls``, whichever way their arguments are written.

    `tool` is the schema of the tool that is called. Raises `RecipeError`.
    """
    name = str(tool["function"]["name"])
    rendered = list(_rendered(tokenizer, template, tool))
    if any(_is_kept(text, bare, name) for text, bare in rendered):
        return
    lost = (
        "arguments"
        if any(text.count(name) > bare.count(name) for text, bare in rendered)
        else "call"
    )
    raise RecipeError(
        f"data: call-missing: the tokenizer's chat template leaves the {lost} of {name} out of an assistant's message "
        "(tool_calls), so who serves the model would show it another conversation than it was trained on; give the "
        "model a chat template that writes tool_calls, or set environment.format to fenced or a tag such as <calc> and "
        "tell the policy of it in data.system"
    )


def _is_kept(text: str, bare: str, name: str) -> bool:
    return ARGUMENT in text and text.count(name) > bare.count(name)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, template: Template, tool: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """(a conversation with a call, the same without it), for each form that arguments are written in."""
    function = tool["function"]
    name = str(function["name"])
    parameters = function["parameters"].get("properties", {})
    arguments = {next(iter(parameters), "value"): ARGUMENT}
    asked = {"role": "user", "content": "1"}
    answered = {"role": "tool", "name": "grpo", "tool_call_id": CALL_ID, "content": "2"}
    bare = _text([asked], tokenizer, template)
    for written in (arguments, json.dumps(arguments)):
        call = {"type": "function", "id": CALL_ID, "function": {"name": name, "arguments": written}}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        yield _text([asked, called, answered], tokenizer, template), bare


def _text(
    turns: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, template: Template
) -> str:
    """A conversation with the tools; empty where the template fails on it."""
    try:
        return apply_template(turns, tokenizer, template.args)
    except RecipeError:
        return ""
