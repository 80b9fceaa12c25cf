"""Prompts that are conversations for every template: read from JSON text, refused where a part is no text.

Which turns the policy is shown, and how their contents are joined, is up to ``conversation``.
"""

from __future__ import annotations

from typing import Any, Mapping

from grpo.recipe import RecipeError
from rewards.paths import NotStructured, structured


def readable_prompt(prompt: Any, where: str) -> Any:
    """`prompt`, or the conversation that its text is the JSON of; `where` names the row in errors.

    Raises `RecipeError` for a content with a part that is no text.
    """
    if isinstance(prompt, str) and prompt.lstrip().startswith(("[{", "[ {", "[\n")):
        prompt = _conversation_in(prompt)
    for message in prompt if is_conversation(prompt) else ():
        _refuse_other_parts(message["content"], where)
    return prompt


def _conversation_in(text: str) -> Any:
    try:
        value = structured(text)
    except NotStructured:
        return text
    return value if is_conversation(value) else text


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, each with a role and a content."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, Mapping) and {"role", "content"} <= turn.keys() for turn in value)


def _refuse_other_parts(content: Any, where: str) -> None:
    for part in content if isinstance(content, list) else ():
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text":
            raise RecipeError(
                f"data: the prompt in {where} has a part of type {kind}; policies here read text "
                "only, so leave such rows out"
            )
