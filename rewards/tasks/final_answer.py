"""The one final answer of a completion to a procedural task, and what is wrong with how it is written."""

from __future__ import annotations

__all__ = ["UNFINISHED", "has_ended", "is_tagged", "tagged_answer"]

UNFINISHED = "the reasoning never ends"
"""Why a completion that is cut off before ``</think>`` has no final answer."""
_OPEN = "<answer>"
_CLOSE = "</answer>"


def is_tagged(text: str) -> bool:
    """Whether the completion holds an answer tag, opened or closed."""
    return _OPEN in text or _CLOSE in text


def tagged_answer(text: str) -> tuple[str | None, str]:
    """What the answer tags hold (None: nothing), and what is wrong: more tags, or text after them."""
    before, close, after = text.rpartition(_CLOSE)
    _, opened, answer = before.rpartition(_OPEN)
    if not (opened and close and answer.strip()):
        return None, "the answer tags hold nothing"
    problem = ""
    if text.count(_OPEN) + text.count(_CLOSE) > 2:
        problem = "more than one final answer"
    elif after.strip():
        problem = "something follows the final answer"
    return answer.strip(), problem


def has_ended(finish: str | None) -> bool:
    """Whether the completion ended by itself; taken for granted if ``finish`` is not known."""
    return finish in (None, "stop")
