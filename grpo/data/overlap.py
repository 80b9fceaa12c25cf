"""Which prompts of an evaluation set share a long run of words with the prompts that train."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Iterable, Mapping, Sequence

NUM_WORDS = 13
"""Length of a run of words that two different questions hardly share (GPT-3's filter, arXiv 2005.14165, appendix C)."""
MAX_SHARE = 0.01
"""A run of words in more of the training prompts than this is their wording, not a question."""
MIN_WORDING = 5

Gram = tuple[str, ...]


def overlapping(train: Iterable[str], evaluated: Sequence[str]) -> list[int]:
    """The indices of the `evaluated` texts that share `NUM_WORDS` words in a row with a text of `train`.

    A shorter text overlaps if it is the same up to case and punctuation.
    """
    grams_of = [grams(text) for text in evaluated]
    wanted = set().union(*grams_of) if grams_of else set()
    counts: Counter[Gram] = Counter()
    num_train = 0
    for text in train:
        num_train += 1
        counts.update(grams(text) & wanted)
    limit = max(MIN_WORDING, MAX_SHARE * num_train)
    telling = {gram for gram, count in counts.items() if count <= limit}
    return [index for index, found in enumerate(grams_of) if not found.isdisjoint(telling)]


def grams(text: str) -> set[Gram]:
    """The runs of `NUM_WORDS` words in `text`, or all of its words if it is shorter; none of an empty text."""
    words = re.findall(r"\w+|[^\w\s]", text.casefold())
    if not words:
        return set()
    last = max(1, len(words) - NUM_WORDS + 1)
    return {tuple(words[start : start + NUM_WORDS]) for start in range(last)}


def question_of(row: Mapping[str, Any]) -> str:
    """The text of a row's prompt; of messages, what the user wrote."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(
        str(message.get("content", "")) for message in prompt if message.get("role") == "user"
    )
