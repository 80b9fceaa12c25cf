"""Where the reasoning of a completion ends, given what the prompt has opened.

A chat template may end the prompt with ``<think>``, so that the completion starts inside the reasoning and holds only
the tag that closes it. What an answer looks like is up to the rewards.
"""

from __future__ import annotations

import re
from typing import Any, Mapping, NamedTuple

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


class Marks(NamedTuple):
    """The texts that open and close the reasoning."""

    opening: str
    closing: str


_THINK_MARKS = Marks(THINK, THINK_END)
_OTHER_MARKS = (
    Marks("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi-VL
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThoughts
    Marks("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)

_ROLE_BEFORE = re.compile(r"(?:^|[\n>\]:]|\b(?:assistant|model))[ \t]*$", re.IGNORECASE)
"""What may stand before a tag that is no mention of it: a line's start, a special token, ``Assistant:``."""
_TOKEN_BEFORE = re.compile(
    r"(?:\|>|\uff5c>|\[/INST\]|\bassistant:)[ \t]*(?:assistant)?[ \t]*$", re.IGNORECASE
)
"""What stands before a tag that reasoning follows on the same line."""
_LATER_TURN = re.compile(
    r"<\||<\uff5c|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<answer>|^(?:User|Human|Assistant)\b.{0,20}:",
    re.MULTILINE | re.IGNORECASE,
)
"""What shows that the text behind a tag is no beginning of the completion."""


def opens_reasoning(prompt_text: str) -> bool:
    r"""Whether a rendered prompt leaves the policy inside a ``<think>`` block.

    True where it ends with the tag, or with the tag and a first piece of reasoning on the lines below; on the same line
    only behind a special token or ``Assistant:``. A prompt that
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
    role_before = _ROLE_BEFORE if rest.lstrip(" \t").startswith("\n") else _TOKEN_BEFORE
    is_begun = role_before.search(before) is not None
    return is_begun and _LATER_TURN.search(rest) is None


def after_reasoning(text: str, prompt_text: str = "") -> str | None:
    """The part of a completion behind its reasoning, the whole of it if it has none; None if the reasoning never ends.

    The marks of Kimi-VL, Magistral, Seed-OSS and gpt-oss count as ``<think>`` does.
    >>> after_reasoning("<think>2 + 2</think>4"), after_reasoning("4"), after_reasoning("<think>4")
    ('4', '4', None)
    >>> after_reasoning("2 + 2</think>4", "<think>"), after_reasoning("4, but wait", "<think>")
    ('4', None)
    """
    ends = [text.rfind(m.closing) + len(m.closing) for m in _used_marks(text) if m.closing in text]
    rest = text[max(ends, default=0) :]
    if any(marks.opening in rest for marks in _used_marks(rest)):
        return None
    return rest if ends or _opened(prompt_text) is None else None


def _used_marks(text: str) -> list[Marks]:
    """The marks of which a text holds one; those of ``<think>`` if it holds none."""
    used = [
        marks
        for marks in (_THINK_MARKS, *_OTHER_MARKS)
        if marks.closing in text or marks.opening in text
    ]
    return used or [_THINK_MARKS]


def _opened(prompt_text: str) -> Marks | None:
    """The marks that a rendered prompt opens and does not close; None if it opens none."""
    for marks in _OTHER_MARKS:
        if prompt_text.rstrip().endswith(marks.opening):
            return marks
    return _THINK_MARKS if opens_reasoning(prompt_text) else None


def continuing(text: str, prompt_text: str) -> str:
    """A whole completion as the policy would write it after this prompt: without the tag that the prompt has opened.

    >>> continuing("<think>so</think>4", "<think>"), continuing("4", "<think>"), continuing("4", "")
    ('so</think>4', 'so</think>4', '4')
    """
    marks = _opened(prompt_text)
    if not text or marks is None:
        return text
    begun = text.lstrip()
    if begun.startswith(marks.opening):
        return begun.removeprefix(marks.opening)
    return text if marks.closing in text else f"so{marks.closing}{text}"


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
