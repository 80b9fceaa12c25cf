"""How often completions use words of reflection: a text statistic, which says nothing about what a model does.

The English words are those that the R1 paper counted (2501.12948), the Japanese ones their counterparts. English words
count whole and in any case; Japanese ones wherever they stand, since nothing separates words there.
"""

from __future__ import annotations

from typing import Mapping

ENGLISH = (
    "wait",
    "mistake",
    "however",
    "but",
    "retry",
    "error",
    "verify",
    "wrong",
    "evaluate",
    "check",
)
JAPANESE = ("待って", "いや", "しかし", "間違", "確認", "もう一度", "検算", "やり直")
WORDS = (*ENGLISH, *JAPANESE)


def counted(text: str) -> Mapping[str, int]:
    """How often each word stands in `text`; words that do not are left out.

    >>> dict(counted("Wait, but the button ... wait. 待って"))
    {'wait': 2, 'but': 1, '待って': 1}
    """
    lowered = text.lower()
    counts = {word: _whole(lowered, word) for word in ENGLISH if word in lowered}
    counts |= {word: lowered.count(word) for word in JAPANESE}
    return {word: number for word, number in counts.items() if number}


def _whole(text: str, word: str) -> int:
    """How often `word` stands in `text` with no letter or digit beside it."""
    number = 0
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        beside = text[max(0, start - 1) : start] + text[end : end + 1]
        number += not any(character.isalnum() for character in beside)
        start = text.find(word, end)
    return number
