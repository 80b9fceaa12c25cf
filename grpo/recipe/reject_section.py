"""The section ``reject``: which completions rejection sampling accepts, and how many of a prompt.

A default that is a number is our choice unless its help names a source; each filter can be switched off.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpo.recipe.keys import ShortSection, key
from grpo.recipe.values import Check, at_least, between, one_of

FOLDERS = Check(
    lambda value: all(isinstance(name, str) and name.strip() for name in value),
    "must be folders of runs, e.g. [runs/first]",
)


@dataclass(frozen=True, repr=False)
class RejectSection(ShortSection):
    """Rejection sampling: which completions are accepted."""

    prompts: int | None = key(None, "only the first prompts; default: all", at_least(1))
    samples: list[str] = key(
        [],
        "run folders whose stored completions (samples.jsonl) are taken in place of sampling; no weights are loaded",
        FOLDERS,
    )
    faults: bool = key(True, "drop completions that no reward could judge, faults among them")
    finished: bool = key(True, "drop completions that were cut off before they ended")
    right: bool = key(
        True, "drop completions that evaluate.reward gave less than evaluate.threshold"
    )
    min_reward: float | None = key(None, "drop those whose weighted reward is lower; null: off")
    min_tokens: int | None = key(None, "drop those of fewer tokens; null: off", at_least(1))
    max_tokens: int | None = key(None, "drop those of more tokens; null: off", at_least(1))
    language: str | None = key(
        None,
        "the language that min_language counts; default: whichever has most words of the reasoning",
        one_of("en", "ja", "ko", "zh"),
    )
    min_language: float = key(
        0.8, "drop those with a smaller share of words in one language; 0: off", between(0, 1)
    )
    ngram: int = key(10, "length in words of the n-grams that max_repetition counts", at_least(1))
    max_repetition: float = key(
        0.2,
        "drop those with a larger share of n-grams that have occurred before; 1: off",
        between(0, 1),
    )
    max_paragraph: int | None = key(
        4000, "drop those whose reasoning has a longer line, in characters; null: off", at_least(1)
    )
    code: bool = key(
        True, "drop those with a block of code between the tags of the reasoning (R1 dropped them)"
    )
    duplicates: bool = key(
        True, "of completions of a prompt that differ by white space alone, keep one"
    )
    near_duplicates: float = key(
        0.9,
        "of completions of a prompt whose word trigrams overlap (Jaccard) at least so much, keep one; 0: off",
        between(0, 1),
    )
    per_prompt: int = key(
        4,
        "most completions accepted of a prompt, chosen to be unlike each other; 0: all",
        at_least(0),
    )
