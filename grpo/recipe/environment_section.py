"""The section ``environment`` and the list ``tools``: who answers the policy between the turns of a completion.

Nothing is looked up here: whether a tool exists, and what its schema is, is found where the environment is opened
(``grpo.environments``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from grpo.recipe.keys import ShortSection, key
from grpo.recipe.values import NOT_EMPTY, Check, above, at_least

TOOLS = Check(
    lambda value: (
        all(isinstance(name, str) and name.strip() for name in value)
        and len(set(value)) == len(value)
    ),
    "must be different names of tools, e.g. [python, calculator, 'mine.py:search']; functions are passed as "
    "Trainer(recipe, tools=[...])",
)
FORMATS = ("auto", "hermes", "llama3", "qwen3", "fenced")


TAGS = re.compile(r"<(\w[\w-]*)>(?::<(\w[\w-]*)>)?")


def _is_format(value: str) -> bool:
    """Whether a value names a format, or tags such as <calc>."""
    return value in FORMATS or TAGS.fullmatch(value) is not None


FORMAT = Check(
    _is_format, f"must be one of {', '.join(FORMATS)} or a tag, e.g. <calc>", (*FORMATS, "<calc>")
)


@dataclass(frozen=True, repr=False)
class EnvironmentSection(ShortSection):
    """Who answers the turns of the policy; without ``use`` and without tools nobody does."""

    use: str | None = key(
        None,
        "an environment: its name (python, calculator), package.module:Class or path/file.py:Class; default: one that "
        "answers calls of the recipe's tools",
        NOT_EMPTY,
    )
    args: dict[str, Any] = key({}, "arguments that the environment is made with")
    format: str = key(
        "auto",
        "how calls are written: hermes, llama3 and qwen3 as the chat templates of those models ask for, fenced "
        "(```python blocks), or a tag (<calc> for <calc>...</calc>; <search>:<found> names the answer's tag "
        "too); auto: as the chat template does",
        FORMAT,
    )
    max_calls: int = key(
        8,
        "calls a completion; one more is answered by a refusal, and a further one ends the completion",
        at_least(1),
    )
    max_turns: int = key(
        32,
        "turns a completion that are answered; the completion ends with the next, as cut off",
        at_least(1),
    )
    observation_tokens: int = key(
        512,
        "longest observation in tokens; of a longer one the beginning and the end are shown",
        at_least(16),
    )
    timeout_seconds: float = key(
        10.0, "longest time for one answer; then the policy reads that it took too long", above(0)
    )
    workers: int | None = key(
        None, "processes that hold environments; default: one a core", at_least(1)
    )


def environment_values(value: Any) -> Any:
    """``environment: python`` as the section that it is short for."""
    return {"use": value} if isinstance(value, str) else value
