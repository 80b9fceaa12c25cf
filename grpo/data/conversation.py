"""Conversations as prompts: the usual spellings of a list of messages, and which of its turns the policy is shown.

A data set for supervised training holds the solution as its last turn; shown to the policy it would be the answer in
the prompt, so it is left out. How a chat template renders the rest is up to ``prompts``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from grpo.recipe import RecipeError
from rewards.reasoning import opens_reasoning
from rewards.spelling import agree, many

Message = dict[str, Any]

ROLE_KEYS = ("role", "from", "speaker", "author")
CONTENT_KEYS = ("content", "value", "text", "message")
ROLES = {
    "human": "user",
    "prompter": "user",
    "instruction": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
"""Other names of the roles that chat templates know; those of ShareGPT first."""
MAX_SHOWN = 60


@dataclass(slots=True)
class LeftOut:
    """The conversations whose last turn was left out: how many, and the first with what its last turn says."""

    number: int = 0
    first: str = ""
    turn: str = field(default="")

    def add(self, where: str, turn: str) -> None:
        self.number += 1
        self.first = self.first or where
        self.turn = self.turn or turn

    def describe(self, num_rows: int) -> str:
        """A sentence for the user; empty if nothing was left out."""
        if not self.number:
            return ""
        return (
            f"data: {self.number} of {many(num_rows, 'prompt')} {agree(self.number, 'end')} with the "
            "assistant's turn, which "
            f"would put the answer in the prompt ({self.first}: {self.turn[:MAX_SHOWN]!r}); that turn is left out"
        )


def question_turns(prompt: Any, where: str, left_out: LeftOut) -> Any:
    """`prompt` as the turns that the policy is shown; what is no conversation is returned as it is.

    Keys and roles get the names that chat templates know (``from`` and ``value`` of ShareGPT, say), content in parts
    of text is joined, and the assistant's last turns are left out and counted in `left_out`; one that only begins its
    reasoning (``<think>``) stays, to be continued. Raises `RecipeError` where no turn asks anything.
    """
    messages = messages_in(prompt)
    if messages is None:
        return prompt
    turns = all_turns(messages, f"the prompt in {where}")
    while turns and turns[-1]["role"] == "assistant" and not is_begun(turns):
        solution = turns.pop()
        if solution["content"]:
            left_out.add(where, str(solution["content"]))
    if not any(turn["role"] == "user" and turn["content"] for turn in turns):
        raise RecipeError(
            f"data: question-missing: the conversation in {where} has no turn in which the user asks something; its "
            f"roles are {', '.join(_roles(messages)) or 'none'}; name the column with the question in "
            "data.columns.prompt"
        )
    return turns


def all_turns(messages: Sequence[Mapping[str, Any]], where: str) -> list[Message]:
    """The messages of a conversation under the keys and roles that chat templates know; `where` names it in errors."""
    return [_turn(message, f"message {i} of {where}") for i, message in enumerate(messages, 1)]


def is_begun(turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last turn is the beginning of the completion: the assistant's, inside its reasoning."""
    last = turns[-1]
    content = last.get("content")
    return last.get("role") == "assistant" and isinstance(content, str) and opens_reasoning(content)


def messages_in(prompt: Any) -> list[Mapping[str, Any]] | None:
    """The messages that a prompt holds, also as JSON text or as a single one; None if it is no conversation."""
    if isinstance(prompt, str) and prompt.lstrip().startswith("[{"):
        try:
            prompt = json.loads(prompt)
        except (ValueError, RecursionError):
            return None
    if isinstance(prompt, Mapping):
        prompt = _turns_in_columns(prompt) or [prompt]
    if not isinstance(prompt, list) or not prompt:
        return None
    if not all(isinstance(message, Mapping) and _key(message, ROLE_KEYS) for message in prompt):
        return None
    return prompt


def _turns_in_columns(prompt: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The turns of a conversation that is kept as a list of roles and a list of contents; none if it is not."""
    lists = {name: value for name, value in prompt.items() if isinstance(value, list)}
    if _key(lists, ROLE_KEYS) is None or len({len(value) for value in lists.values()}) != 1:
        return []
    return [dict(zip(lists, values)) for values in zip(*lists.values())]


def is_assistant(message: Mapping[str, Any]) -> bool:
    """Whether a message, under any of the usual names, is the assistant's."""
    role = str(message[_key(message, ROLE_KEYS) or ""]).strip().lower()
    return ROLES.get(role, role) == "assistant"


def _key(message: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in message), None)


def _roles(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(message[_key(message, ROLE_KEYS) or ""]) for message in messages]


def _turn(message: Mapping[str, Any], where: str) -> Message:
    """One message under the keys ``role`` and ``content``; its other keys stay."""
    role_key = _key(message, ROLE_KEYS)
    content_key = _key(message, CONTENT_KEYS)
    if role_key is None or content_key is None:
        raise RecipeError(
            f"data: question-missing: {where} has the keys {', '.join(map(str, message))}; a message has role and "
            "content (or from and value)"
        )
    role = str(message[role_key]).strip().lower()
    others = {name: value for name, value in message.items() if name not in (role_key, content_key)}
    return {
        "role": ROLES.get(role, role),
        "content": _joined_parts(message[content_key]),
        **others,
    }


def _joined_parts(content: Any) -> Any:
    """Content in parts as one text, if all parts are text; templates differ in whether they know parts."""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list) or not content:
        return "" if content is None else content
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    if not all(isinstance(text, str) for text in texts):
        return content
    return "".join(map(str, texts))
