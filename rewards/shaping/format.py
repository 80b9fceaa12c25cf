"""Rewards for the format of a completion: think and answer tags. The answer itself is judged elsewhere."""

from __future__ import annotations

import unicodedata

from rewards.reasoning import THINK, THINK_END, opens_reasoning
from rewards.spelling import many
from rewards.types import Score

__all__ = ["tag_count", "think_format"]

ANSWER = "<answer>"
ANSWER_END = "</answer>"


def think_format(
    text: str, prompt_text: str = "", opened: bool | None = None, answer_tags: bool = True
) -> Score:
    """1 if the completion is ``<think>...</think> <answer>...</answer>`` and nothing else, 0 otherwise.

    The format reward of DeepSeek-R1-Zero (arXiv:2501.12948, section 2.2.2, template of table 1). Every tag occurs
    exactly once and in this order, both blocks hold something visible, and only white space surrounds them: trailing
    text, empty blocks, and repeated or nested tags score 0. ``opened`` says that the prompt already opened ``<think>``,
    as many chat templates do, so the completion starts inside the block; by default ``prompt_text``, what the model was
    shown, decides. With ``answer_tags=False`` the answer is whatever visible text follows the reasoning.
    >>> think_format("<think>2 + 2</think><answer>4</answer>").value
    1.0
    >>> think_format("2 + 2</think><answer>4</answer>", prompt_text="2 + 2? Assistant: <think>").value
    1.0
    >>> think_format("<think>2 + 2</think><answer>4</answer> or 5").detail
    'text after </answer>'
    """
    if opened is None:
        opened = opens_reasoning(prompt_text)
    if opened:
        text = THINK + text
    problem = _problem_with_answer_tags(text) if answer_tags else _problem_without(text)
    return Score(0.0 if problem else 1.0, detail=problem)


def _problem_with_answer_tags(text: str) -> str:
    """What is wrong with the prompt's tag and the completion; empty if nothing is."""
    tags = [THINK, THINK_END, ANSWER, ANSWER_END]
    problem = _problem_with_tags(text, tags)
    if problem:
        return problem
    before, reasoning, between, answer, after = _split(text, tags)
    if before.strip():
        return f"text before {THINK}"
    if not _is_visible(reasoning):
        return "nothing inside <think>"
    if between.strip():
        return f"text between {THINK_END} and {ANSWER}"
    if not _is_visible(answer):
        return "nothing inside <answer>"
    return f"text after {ANSWER_END}" if after.strip() else ""


def _problem_without(text: str) -> str:
    """The same where the answer is whatever follows the reasoning."""
    tags = [THINK, THINK_END]
    problem = _problem_with_tags(text, tags)
    if problem:
        return problem
    before, reasoning, answer = _split(text, tags)
    if before.strip():
        return f"text before {THINK}"
    if not _is_visible(reasoning):
        return "nothing inside <think>"
    return "" if _is_visible(answer) else f"nothing after {THINK_END}"


def _problem_with_tags(text: str, tags: list[str]) -> str:
    for tag in tags:
        if text.count(tag) != 1:
            return f"{tag} occurs {many(text.count(tag), 'time')}"
    positions = [text.index(tag) for tag in tags]
    return "" if positions == sorted(positions) else "tags out of order"


def _split(text: str, tags: list[str]) -> list[str]:
    """The text before, between and after the tags."""
    pieces = []
    for tag in tags:
        before, _, text = text.partition(tag)
        pieces.append(before)
    return [*pieces, text]


def _is_visible(text: str) -> bool:
    """Whether a reader would see anything: not only spaces, control characters and zero-width characters."""
    return any(unicodedata.category(character)[0] not in "ZC" for character in text)


def tag_count(text: str, prompt_text: str = "", line_breaks: bool = True) -> float:
    r"""A quarter for each of the four tags that occurs exactly once: a gentler slope towards `think_format`.

    The tag count reward of open-r1 (``tag_count_reward`` in its ``rewards.py``), where a tag counts only with the
    line breaks that the template sets: ``<think>\n``, ``\n</think>\n``, ``\n<answer>\n``, ``\n</answer>``;
    ``line_breaks=False`` counts the bare tags. Where the prompt opens ``<think>``, it provides the first.
    >>> tag_count("<think>\n7\n</think>\n<answer>\n7\n</answer>")
    1.0
    >>> tag_count("<think>7</think>", line_breaks=False)
    0.5
    """
    if opens_reasoning(prompt_text):
        text = f"{THINK}\n{text}"
    tags = [THINK + "\n", f"\n{THINK_END}\n", f"\n{ANSWER}\n", f"\n{ANSWER_END}"]
    if not line_breaks:
        tags = [tag.strip() for tag in tags]
    return sum(0.25 for tag in tags if text.count(tag) == 1)
