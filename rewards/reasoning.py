"""Where the reasoning of a completion ends, given what the prompt has opened.

A chat template may end the prompt with ``<think>``, so that the completion starts inside the reasoning and holds only
the tag that closes it. What an answer looks like is up to the rewards.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

__all__ = [
    "THINK",
    "THINK_END",
    "after_reasoning",
    "continuing",
    "opens_reasoning",
    "question_of",
    "shown_text",
]

THINK = "<think>"
THINK_END = "</think>"

_ROLE_BEFORE = re.compile(r"(?:^|[\n>\]:]|\b(?:assistant|model))[ \t]*$", re.IGNORECASE)
"""What may stand before a tag that is no mention of it: a line's start, a special token, ``Assistant:``."""
_LATER_TURN = re.compile(
    r"<\||<\uff5c|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<answer>|^(?:User|Human|Assistant)\b.{0,20}:",
    re.MULTILINE | re.IGNORECASE,
)
"""What shows that the text behind a tag is no beginning of the completion."""


def opens_reasoning(prompt_text: str) -> bool:
    r"""Whether a rendered prompt leaves the policy inside a ``<think>`` block.

    True where it ends with the tag, or with the tag and a first piece of reasoning on the lines below. A prompt that
    closes the block again, as templates do to turn reasoning off, or that only mentions the tag, opens nothing.
    >>> opens_reasoning("<|im_start|>assistant\n<think>\n"), opens_reasoning("Assistant: <think>\nOkay,")
    (True, True)
    >>> opens_reasoning("assistant\n<think>\n\n</think>\n\n"), opens_reasoning("Reason in <think> tags. 2 + 2?")
    (False, False)
    """
    before, tag, rest = prompt_text.rpartition(THINK)
    if not tag or THINK_END in rest:
        return False
    if not rest.strip():
        return True
    is_begun = rest.lstrip(" \t").startswith("\n") and _ROLE_BEFORE.search(before) is not None
    return is_begun and _LATER_TURN.search(rest) is None


def after_reasoning(text: str, prompt_text: str = "") -> str | None:
    """The part of a completion behind its reasoning, the whole of it if it has none; None if the reasoning never ends.

    >>> after_reasoning("<think>2 + 2</think>4"), after_reasoning("4"), after_reasoning("<think>4")
    ('4', '4', None)
    >>> after_reasoning("2 + 2</think>4", "<think>"), after_reasoning("4, but wait", "<think>")
    ('4', None)
    """
    _, closed, rest = text.rpartition(THINK_END)
    if THINK in rest:
        return None
    return rest if closed or not opens_reasoning(prompt_text) else None


def continuing(text: str, prompt_text: str) -> str:
    """A whole completion as the policy would write it after this prompt: without the tag that the prompt has opened.

    >>> continuing("<think>so</think>4", "<think>"), continuing("4", "<think>"), continuing("4", "")
    ('so</think>4', 'so</think>4', '4')
    """
    if not text or not opens_reasoning(prompt_text):
        return text
    begun = text.lstrip()
    if begun.startswith(THINK):
        return begun.removeprefix(THINK)
    return text if THINK_END in text else f"so{THINK_END}{text}"


def shown_text(row: Mapping[str, Any]) -> str:
    """What the model was shown, as far as a row tells: its ``prompt_text``, a text ``prompt``, or a begun last turn."""
    rendered = row.get("prompt_text")
    if isinstance(rendered, str):
        return rendered
    prompt = row.get("prompt")
    if isinstance(prompt, (list, tuple)) and prompt and _role(prompt[-1]) == "assistant":
        prompt = prompt[-1].get("content")
    return prompt if isinstance(prompt, str) else ""


def question_of(prompt: Any) -> str:
    """The question of a prompt: a text itself, of messages the user's last turn."""
    if isinstance(prompt, str):
        return prompt
    turns = prompt if isinstance(prompt, (list, tuple)) else ()
    asked = [turn.get("content") for turn in turns if _role(turn) == "user"]
    return asked[-1] if asked and isinstance(asked[-1], str) else ""


def _role(turn: Any) -> str | None:
    return turn.get("role") if isinstance(turn, Mapping) else None
