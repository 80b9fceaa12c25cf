"""The reasoning ends where it ends, whoever opened it: every built-in reward, by itself and through the service."""

from __future__ import annotations

import pytest

from rewards import RewardSpec, Sample
from rewards.math_answer import math_answer
from rewards.reasoning import after_reasoning, continuing, opens_reasoning, question_of, shown_text
from rewards.service import RewardService
from rewards.shaping.format import tag_count, think_format

OPENED = {
    "deepseek": "<\uff5cUser\uff5c>2 + 2?<\uff5cAssistant\uff5c><think>\n",
    "chatml": "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "plain": "User: 2 + 2? Assistant: <think>",
    "begun on the same line": "<|im_start|>assistant<think> Okay, let me",
    "spaces": "2 + 2?\n<think> \n\t",
    "begun": "<|im_start|>assistant\n<think>\nOkay, so",
    "begun behind words": "Assistant: <think>\nLet me see.",
    "after an instruction": "Use <think> </think> and <answer> </answer>. 2 + 2? Assistant: Let me see.\n<think>",
    "after a closed turn": "<|im_start|>assistant\n<think>\na\n</think>\n4<|im_end|>\n<|im_start|>assistant\n<think>\n",
}
OTHER_MARKS = {
    "kimi": ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    "magistral": ("[THINK]", "[/THINK]"),
    "seed": ("<seed:think>", "</seed:think>"),
    "gpt-oss": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "thought": ("<|begin_of_thought|>", "<|end_of_thought|>"),
}
CLOSED = {
    "nothing": "",
    "no tag": "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n",
    "reasoning turned off": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "the template of R1": "enclosed within <think> </think> and <answer> </answer> tags, i.e., <think> reasoning here "
    "</think> <answer> answer here </answer>. User: 2 + 2?. Assistant:",
    "a line of a form": "Format:\n<think> your reasoning first, then the result. What is 2 + 2?",
    "mentioned": "Use <think> tags. What is 2+2?",
    "mentioned last": "Reason inside <think> and then answer.",
    "a sketch of the form": "Write\n<think>\nreasoning\n<answer>\nanswer\nWhat is 2 + 2?",
    "an earlier turn": "<|im_start|>assistant\n<think>\ncut off<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n",
}


@pytest.mark.parametrize("name", OPENED)
def test_a_prompt_that_leaves_the_policy_inside_the_reasoning_is_recognised(name):
    assert opens_reasoning(OPENED[name])


@pytest.mark.parametrize("name", CLOSED)
def test_a_prompt_that_closes_or_only_mentions_the_tag_opens_nothing(name):
    assert not opens_reasoning(CLOSED[name])


KNIGHTS = "Ada is a knight, Ben is a knave"
COLUMNS = {
    "answer": "4",
    "numbers": [3, 1],
    "target": 4,
    "task": "gcd",
    "metadata": {},
    "inputs": ["1 3\n"],
    "outputs": ["4\n"],
    "prompt": [{"role": "user", "content": "2 + 2?"}],
    "num_tokens": 9,
}
ANSWERS = {
    "math_answer": r"\boxed{4}",
    "math_lenient": "The answer is 4.",
    "math_tagged": "<answer>4</answer>",
    "countdown": "<answer>3 + 1</answer>",
    "countdown_format": "<answer>3 + 1</answer>",
    "gym": "<answer>4</answer>",
    "gym_boxed": r"\boxed{4}",
    "knights": f"<answer>{KNIGHTS}</answer>",
    "knights_in_words": f"Answer: {KNIGHTS}",
    "code": "```python\nprint(sum(map(int, input().split())))\n```",
    "cosine": r"\boxed{4}",
    "kimi": r"\boxed{4}",
}
USES = {
    "math_lenient": ("math_answer", {"lenient": True}),
    "math_tagged": ("math_answer", {}),
    "gym": ("gym_answer", {}),
    "gym_boxed": ("gym_answer", {}),
    "knights": ("knights_and_knaves", {"answer": KNIGHTS}),
    "knights_in_words": ("knights_and_knaves", {"answer": KNIGHTS}),
    "code": ("code_tests", {}),
    "cosine": ("cosine", {"max_tokens": 100}),
    "kimi": ("kimi_length", {}),
}


@pytest.fixture(scope="module")
def verdict():
    """A function from (reward, completion, prompt) to its score, through one service for all rewards."""
    specs = []
    for name in ANSWERS:
        use, args = USES.get(name, (name, {}))
        specs.append(RewardSpec(name, use, args=args, when={"reward": name}))
    with RewardService(specs, workers=1) as service:

        def judge(name, text, prompt):
            columns = {**COLUMNS, "reward": name}
            return service.judge([Sample(text, columns, prompt)])[0].parts[name]

        yield judge


def is_paid(name, score):
    if name == "kimi":
        return score.value == 0  # alone in its group, so right and wrong alike: see the next test
    return score.value is not None and score.value > (0 if name != "cosine" else 0.5)


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "kimi"])
def test_an_answer_counts_behind_the_reasoning_and_nowhere_else(name, verdict):
    answer = ANSWERS[name]
    opened = OPENED["chatml"]
    off = CLOSED["reasoning turned off"]
    wrong_inside = f"I try.\n{answer}\nBut wait"
    right = [(f"so\n</think>\n{answer}", opened), (f"<think>so</think>\n{answer}", ""), (answer, ""), (answer, off),
             (f"<think>{wrong_inside}</think>\n{answer}", ""), (f"{wrong_inside}</think>\n{answer}", opened)]  # fmt: skip
    unfinished = [(wrong_inside, opened), (answer, opened), (f"<think>{wrong_inside}", ""), (f"<think>\n{answer}", ""),
                  (f"<think>{answer}", opened), (f"a</think>b<think>{answer}", "")]  # fmt: skip
    for text, prompt in right:
        score = verdict(name, text, prompt)
        assert is_paid(name, score), (text, prompt, score)
    for text, prompt in unfinished:
        score = verdict(name, text, prompt)
        assert not is_paid(name, score), (text, prompt, score)
        if name != "cosine":
            assert (score.value, score.status) == (0, "no_answer"), (text, prompt, score)


def test_length_within_a_group_counts_an_unfinished_completion_as_wrong():
    samples = [
        Sample(text, {"answer": "4", "num_tokens": tokens}, OPENED["chatml"], group="a")
        for text, tokens in (
            (r"\boxed{4}. But wait", 3),
            (r"so</think>\boxed{4}", 5),
            (r"so so</think>\boxed{4}", 7),
        )
    ]
    with RewardService([RewardSpec("kimi", "kimi_length")], workers=1) as service:
        assert [score.value for score in service.score(samples)] == [0.0, 0.0, -0.5]


TAGGED = "I add.\n</think>\n<answer>\n4\n</answer>"


@pytest.mark.parametrize("name", OPENED)
def test_format_rewards_take_the_tag_from_the_prompt(name):
    assert (
        think_format(TAGGED, OPENED[name]).value == 1
        and think_format("<think>" + TAGGED, OPENED[name]).value == 0
    )
    assert think_format("I add.\n<answer>\n4\n</answer>", OPENED[name]).value == 0
    assert think_format("\n</think>\n<answer>\n4\n</answer>", OPENED[name]).value == 0
    assert (
        tag_count("\n" + TAGGED, OPENED[name]) == 1
        and tag_count("I add", OPENED[name], line_breaks=False) == 0.25
    )


@pytest.mark.parametrize("name", CLOSED)
def test_format_rewards_want_the_whole_form_where_the_prompt_opens_nothing(name):
    whole = "<think>\n" + TAGGED
    assert (
        think_format(whole, CLOSED[name]).value == 1
        and think_format(TAGGED, CLOSED[name]).value == 0
    )
    assert tag_count(whole, CLOSED[name]) == 1 and tag_count("\n" + TAGGED, CLOSED[name]) == 0.75


def test_format_rewards_see_the_rendered_prompt_where_the_datas_prompt_is_messages():
    specs = [RewardSpec("format", "think_format"), RewardSpec("tags", "tag_count")]
    sample = Sample(
        "\n" + TAGGED, {"prompt": [{"role": "user", "content": "2 + 2?"}]}, OPENED["deepseek"]
    )
    with RewardService(specs, workers=1) as service:
        parts = service.judge([sample])[0].parts
    assert {name: part.value for name, part in parts.items()} == {"format": 1.0, "tags": 1.0}


def test_a_reward_of_ones_own_gets_the_rendered_prompt_and_the_column_apart():
    def native(text, prompt, prompt_text):
        assert prompt == [{"role": "user", "content": "q"}]
        return float(prompt_text == "<user>q")

    def batch(texts, prompt, prompt_texts):
        return [float(shown == "<user>q") for shown in prompt_texts]

    sample = Sample("x", {"prompt": [{"role": "user", "content": "q"}]}, "<user>q")
    with RewardService([RewardSpec("a", native), RewardSpec("b", batch)], workers=1) as service:
        assert service.score([sample])[0].value == 2


def test_what_a_row_shows_is_its_prompt_text_or_what_is_known_of_it():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\n"}]
    assert (
        shown_text({"prompt": "a", "prompt_text": "b"}) == "b"
        and shown_text({"prompt": "a"}) == "a"
    )
    assert (
        shown_text({"prompt": turns}) == "<think>\n"
        and shown_text({"prompt": turns[:1]}) == shown_text({}) == ""
    )
    assert (
        question_of(turns) == "q"
        and question_of("t") == "t"
        and question_of(None) == question_of([]) == ""
    )


def test_a_completion_is_written_on_from_an_opened_prompt():
    whole = "<think>\nso\n</think>\n4"
    assert continuing(whole, "<think>") == "\nso\n</think>\n4" and continuing(whole, "") == whole
    assert (
        after_reasoning(continuing("4", "<think>"), "<think>") == "4"
        and continuing("", "<think>") == ""
    )
    assert continuing("so</think>4", "<think>") == "so</think>4"


@pytest.mark.parametrize("name", OTHER_MARKS)
def test_other_marks_of_reasoning_count_as_think_tags_do(name):
    opening, closing = OTHER_MARKS[name]
    whole = f"{opening}5 or \\boxed{{5}}?{closing}The answer is \\boxed{{4}}."
    assert math_answer(whole, "4").value == 1 and math_answer(whole, "5").value == 0
    assert math_answer(whole.removeprefix(opening), "4", prompt_text=f"2 + 2?{opening}").value == 1
    assert math_answer(f"{opening}so \\boxed{{4}}. But", "4").status == "no_answer"
    assert (
        math_answer("so \\boxed{4}. But", "4", prompt_text=f"2 + 2?{opening}\n").status
        == "no_answer"
    )
    assert after_reasoning(continuing("4", opening), opening) == "4"
    assert math_answer(r"\boxed{4}", "4", prompt_text=f"Write {opening} first. 2 + 2?").value == 1
