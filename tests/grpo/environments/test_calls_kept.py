"""A chat template that leaves out calls is refused where tools are offered; one that keeps them is not."""

from __future__ import annotations

import pytest
from chat_templates import LLAMA_TOOLS, QWEN_TOOLS, chat_tokenizer
from light_tools import search

from grpo.data.templates import Template
from grpo.environments.calls import check_calls
from grpo.recipe import RecipeError
from rewards.environments.tools import tool_of

TOOL = tool_of(search).schema
LOOP = "{% for c in m.tool_calls %}"
ENDS = "{% endfor %}"
WRITTEN = "{{ '\\n<tool_call>\\n' + (c.function | tojson) + '\\n</tool_call>' }}"
OF_TEXT = "{{ '\\n<tool_call>' + c.function.name + ' ' + c.function.arguments + '</tool_call>' }}"
"""Fails on arguments that are a mapping."""
OF_MAPPING = (
    "{{ '\\n<tool_call>' + c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}{{ k + '=' + v }}{% endfor %}{{ '</tool_call>' }}"
)
"""Fails on arguments that are text."""


def checked(template: str) -> None:
    assert WRITTEN in QWEN_TOOLS
    tokenizer = chat_tokenizer(template)
    check_calls(tokenizer, Template("chat", args={"tools": [dict(TOOL)]}), TOOL)


@pytest.mark.parametrize(
    "template",
    [
        QWEN_TOOLS,
        LLAMA_TOOLS,
        QWEN_TOOLS.replace(WRITTEN, OF_TEXT),
        QWEN_TOOLS.replace(WRITTEN, OF_MAPPING),
    ],
    ids=["qwen", "llama", "arguments as text", "arguments as a mapping"],
)
def test_a_template_that_keeps_calls_in_either_form_of_their_arguments_will_do(template):
    checked(template)


@pytest.mark.parametrize(
    "written, lost",
    [
        ("", "leaves the call of search out"),
        ("{{ c.function.name }}", "leaves the arguments of search out"),
        ("{{ raise_exception('no calls') }}", "leaves the call of search out"),
    ],
    ids=["dropped", "without arguments", "raises"],
)
def test_a_template_that_loses_them_is_refused_with_what_is_lost_and_what_to_do(written, lost):
    with pytest.raises(RecipeError, match=f"call-missing: .* {lost}.*environment.format to fenced"):
        checked(QWEN_TOOLS.replace(WRITTEN, written))


def test_a_tool_without_parameters_is_found_by_its_name():
    def now() -> str:
        """Says the time."""
        return "noon"

    schema = tool_of(now).schema
    template = Template("chat", args={"tools": [dict(schema)]})
    check_calls(chat_tokenizer(QWEN_TOOLS), template, schema)
    with pytest.raises(RecipeError, match="leaves the call of now out"):
        check_calls(chat_tokenizer(QWEN_TOOLS.replace(WRITTEN, "")), template, schema)
