"""Finds the program in a completion."""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.reasoning import after_reasoning
from rewards.sandbox.languages import ALIASES

__all__ = ["Block", "extract_program"]

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\n`]*?)[ \t]*$")


class Block(NamedTuple):
    """A complete code block: the word after its fence, and its content."""

    tag: str
    code: str


def _blocks(text: str) -> tuple[list[Block], bool]:
    """The complete fenced blocks, in order, and whether there was any fence at all."""
    blocks: list[Block] = []
    lines: list[str] = []
    fence = ""
    tag = ""
    has_fence = False
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line.rstrip("\r\n"))
        if fence:
            if match and match[1].startswith(fence) and not match[2]:
                blocks.append(Block(tag, "".join(lines)))
                fence = ""
            else:
                lines.append(line)
        elif match:
            has_fence = True
            fence = match[1]
            lines = []
            tag = match[2].split()[0].lower() if match[2].split() else ""
    return blocks, has_fence


def extract_program(text: str, language: str = "python", prompt_text: str = "") -> str | None:
    r"""The last complete code block after the reasoning; the whole text if it has no fence; else None.

    Blocks that name another language are skipped if there is one that names ``language`` or no language. Reasoning that
    never ends holds no program, also where the prompt has opened it.

    >>> extract_program("First\n```python\nx = 1\n```\nthen\n```\nx = 2\n```\nit prints\n```text\n2\n```")
    'x = 2\n'
    >>> extract_program("```python\nx = 1") is None
    True
    """
    answer = after_reasoning(text, prompt_text)
    if answer is None:
        return None
    blocks, has_fence = _blocks(answer)
    if not has_fence:
        return answer if answer.strip() else None
    fitting = [block for block in blocks if ALIASES.get(block.tag) == language or not block.tag]
    chosen = (fitting or blocks)[-1:]
    return chosen[0].code if chosen and chosen[0].code.strip() else None
