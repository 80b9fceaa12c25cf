"""The format rewards cannot be satisfied by anything but the format."""

import pytest

from rewards.shaping.format import tag_count, think_format

GOOD = "<think>\nI add.\n</think>\n<answer>\n4\n</answer>"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "\n",
        "  " + GOOD,
        "<think>a</think><answer>b</answer>",
        "<think>1 < 2</think> <answer>∅</answer>",
    ],
)
def test_the_format_scores_one(text):
    assert think_format(text).value == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        GOOD + " and so on",
        GOOD + GOOD,
        GOOD + "<answer>5</answer>",
        "Well. " + GOOD,
        "<think></think><answer>4</answer>",
        "<think> \n\t</think><answer>4</answer>",
        "<think>\u200b\u2060</think><answer>4</answer>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> \u00a0 </answer>",
        "<think>a<think>b</think></think><answer>4</answer>",
        "<think>a</think><think>b</think><answer>4</answer>",
        "<think>a</think> so <answer>4</answer>",
        "<think>a</think><answer><answer>4</answer></answer>",
        "<think>a<answer>4</answer></think>",
        "<think>a</think><answer>4",
        "<think>a<answer>4</answer>",
        "a</think><answer>4</answer>",
        "<answer>4</answer><think>a</think>",
        "</think>a<think><answer>4</answer>",
        "<THINK>a</THINK><ANSWER>4</ANSWER>",
        "<think>a</think><answer>4</answer></answer>",
    ],
)
def test_everything_else_scores_zero_and_says_why(text):
    score = think_format(text)
    assert score.value == 0.0 and score.status == "scored" and score.detail


def test_the_prompt_may_open_the_reasoning():
    inside = GOOD.removeprefix("<think>")
    assert think_format(inside, prompt_text="What is 2+2? <think>\n").value == 1.0
    assert think_format(inside, opened=True).value == 1.0
    assert think_format(inside).value == 0.0
    assert think_format(GOOD, prompt_text="What is 2+2? <think>\n").value == 0.0
    assert think_format(GOOD, prompt_text="Use <think> tags. What is 2+2?").value == 1.0


def test_the_answer_needs_no_tags_where_the_template_has_none():
    assert think_format("<think>a</think>\n4", answer_tags=False).value == 1.0
    assert think_format("<think>a</think>\n", answer_tags=False).value == 0.0
    assert think_format("<think>a</think> 4 <think>b</think>", answer_tags=False).value == 0.0


def test_tags_count_a_quarter_each_and_only_once():
    assert tag_count(GOOD) == 1.0
    assert tag_count(GOOD + GOOD) == 0.0
    assert tag_count("<think>\nI add.\n</think>\n4") == 0.5
    assert tag_count("<think>I add.</think>") == 0.0
    assert tag_count("<think>I add.</think>", line_breaks=False) == 0.5
    assert (
        tag_count("\nI add.\n</think>\n<answer>\n4\n</answer>", prompt_text="2+2? <think>") == 1.0
    )
    assert tag_count("") == 0.0
