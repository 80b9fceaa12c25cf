"""How calls are read: one parser for each format, malformed calls, reasoning, and what the policy reads in return."""

from __future__ import annotations

import random

import pytest

from rewards.environments import Call, Result, format_of

NAMES = ["hermes", "llama3", "qwen3", "fenced", "<calc>", "<search>:<information>"]
HERMES = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
QWEN3 = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
LLAMA3 = '{"name": "add", "parameters": {"a": 1}}'


def parse(name, text):
    return format_of(name).parse(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_is_written_is_read_back(name):
    formatted = format_of(name)
    call = Call("python", {"code": 'print("é")\nx = {"a": [1, None]}\n'})
    written = formatted.write(call)
    (read,) = formatted.parse(written).calls
    text = read.arguments if isinstance(read.arguments, str) else read.arguments["code"]
    assert text.strip() == call.arguments["code"].strip()
    assert formatted.is_complete(written) == formatted.in_turn
    assert not any(formatted.is_complete(written[:cut]) for cut in range(len(written) - 1))


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_written_is_read_without_an_exception(name, seed):
    formatted = format_of(name)
    drawn = random.Random(seed)
    pieces = [
        HERMES,
        QWEN3,
        LLAMA3,
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        '"',
        "<think>",
        "</think>",
        "```",
    ]
    pieces += [
        "```python\n",
        "<calc>",
        "</calc>",
        "<|python_tag|>",
        "\n",
        "é\ud800\x00",
        "[" * 5000,
        ";",
        "1" * 5000,
    ]
    for _ in range(200):
        text = "".join(drawn.choices(pieces, k=drawn.randrange(8)))
        parsed = formatted.parse(text)
        assert not (parsed.calls and parsed.error)
        assert formatted.is_complete(text) in (True, False)


def test_a_turn_may_hold_several_calls():
    assert parse("hermes", f"Two:{HERMES}{HERMES}").calls == (Call("add", {"a": 1}),) * 2
    assert parse("llama3", f"{LLAMA3}; {LLAMA3}").calls == (Call("add", {"a": 1}),) * 2
    assert parse("qwen3", f"{QWEN3}\n{QWEN3}").calls == (Call("add", {"a": "1"}),) * 2


@pytest.mark.parametrize(
    ("name", "call"), [("hermes", HERMES), ("qwen3", QWEN3), ("llama3", LLAMA3)]
)
def test_a_call_within_the_reasoning_is_only_thought_of(name, call):
    assert parse(name, f"<think>perhaps {call}</think>No.").calls == ()
    assert parse(name, f"perhaps {call}</think>No.").calls == ()
    assert parse(name, f"<think>perhaps {call}").calls == ()
    assert len(parse(name, f"<think>so</think>\n\n{call}").calls) == 1


def test_a_call_in_mid_turn_counts_within_the_reasoning():
    assert parse("<calc>", "<think>now <calc>1+1</calc>").calls == (Call("calc", "1+1"),)
    assert parse("fenced", "<think>\n```py\n1+1\n```").calls == (Call("python", "1+1\n"),)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hermes", "<tool_call>{</tool_call>", "no JSON"),
        ("hermes", HERMES.removesuffix("</tool_call>"), "</tool_call> is missing"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', '"name"'),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "an object"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>', "NaN"),
        ("hermes", f"{HERMES}<tool_call>", "no JSON"),
        ("llama3", '{"name": "f", "parameters": ', "no JSON"),
        ("llama3", f"{LLAMA3} and more", "nothing but a semicolon"),
        ("qwen3", "<tool_call>\n<function=f>\n</tool_call>", "</function>"),
        ("qwen3", "<function=f>\n1\n</function>", "<parameter=NAME>"),
    ],
)
def test_a_call_that_cannot_be_read_says_why_and_runs_nothing(name, text, said):
    parsed = parse(name, text)
    assert parsed.calls == ()
    assert said in parsed.error


def test_what_is_no_call_is_no_mistake():
    assert parse("hermes", "The answer is {4}.") == parse("hermes", "")
    assert parse("llama3", '{"answer": 4}').error == ""
    assert parse("fenced", "```\n1\n```\n```output\n2\n```").calls == ()
    assert parse("<calc>", "<calc>1+1").calls == ()


def test_arguments_may_be_json_in_a_text_and_lines_may_break_in_strings():
    text = '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>'
    assert parse("hermes", text).calls == (Call("f", {"x": 1}),)
    text = '<tool_call>{"name": "f", "arguments": {"x": "a\nb</tool_call>"}}</tool_call>'
    assert parse("hermes", text).calls == (Call("f", {"x": "a\nb</tool_call>"}),)


def test_llamas_tag_may_stand_before_a_call_and_before_plain_code():
    assert parse("llama3", f"<|python_tag|>{LLAMA3}<|eom_id|>").calls == (Call("add", {"a": 1}),)
    assert parse("llama3", "<|python_tag|>print(1)").calls == (Call("python", "print(1)"),)


def test_a_call_in_mid_turn_is_complete_also_where_its_last_token_says_more():
    calc = format_of("<calc>")
    assert not calc.is_complete("a <calc>1+1</calc")
    assert calc.is_complete("a <calc>1+1</calc>.\n")
    assert calc.parse("<calc> <calc>1+1</calc>.").calls == (Call("calc", "1+1"),)
    fenced = format_of("fenced")
    assert not fenced.is_complete("```python\nx = '```'\n")
    assert fenced.is_complete("```python\nx = 1\n```\n\n")


def test_results_are_written_as_the_format_has_them():
    results = [Result("add", "3"), Result("", "Error: no", "malformed")]
    assert format_of("hermes").answer(results) == [
        {"role": "tool", "name": "add", "content": "3"},
        {"role": "tool", "content": "Error: no"},
    ]
    assert format_of("<calc>").answer(results[:1]) == "<result>3</result>"
    assert format_of("<search>:<information>").answer(results[:1]) == "<information>3</information>"
    assert format_of("fenced").answer(results[:1]) == "\n```output\n3\n```\n"


def test_the_template_tells_the_format():
    assert format_of("auto", "... <tool_call> ...").name == "hermes"
    assert format_of("auto", "... <tool_call>\n<function=x> ...").name == "qwen3"
    assert format_of("auto", '{"name": f, "parameters": p} ipython').name == "llama3"
    for template in (None, "{{ messages }}", "<tool_call>name<arg_key>k</arg_key>"):
        with pytest.raises(ValueError, match="environment.format"):
            format_of("auto", template)


def test_an_unknown_format_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean hermes"):
        format_of("hermse")
