"""How often completions use words of reflection: a text statistic, which says nothing about what a model does.

The English words are those that the R1 paper counted (2501.12948), the Japanese ones their counterparts. English words
count whole and in any case; Japanese ones wherever they stand, since nothing separates words there.
"""

from __future__ import annotations

import re
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

_WHOLE = {word: re.compile(rf"\b{word}\b", re.ASCII) for word in ENGLISH}


def counted(text: str) -> Mapping[str, int]:
    """How often each word stands in `text`; words that do not are left out.

    >>> dict(counted("Wait, but the button ... wait. 待って"))
    {'wait': 2, 'but': 1, '待って': 1}
    """
    lowered = text.lower()
    counts = {}
    for word in WORDS:
        number = lowered.count(word)  # much faster than the pattern, which most texts then need not
        if number and word in _WHOLE:
            number = len(_WHOLE[word].findall(lowered))
        if number:
            counts[word] = number
    return counts
