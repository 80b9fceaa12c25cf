"""A penalty for text that repeats itself."""

from __future__ import annotations

import re
from typing import Hashable, Sequence

__all__ = ["repetition"]

_SCRIPT_WITHOUT_SPACES = re.compile("([\u0e00-\u0e7f\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff])")


def repetition(
    text: str,
    token_ids: Sequence[int] = (),
    n: int = 3,
    max_penalty: float = -1.0,
    unit: str = "words",
) -> float:
    """``max_penalty`` times the share of n-grams that have occurred before: 0 without repetition.

    The repetition penalty of open-r1 (``get_repetition_penalty_reward`` in its ``rewards.py``: words, lower case,
    n 3, penalty -1), after appendix C.2 of "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373), which
    counts tokens; ``unit`` is ``words`` or ``tokens``. In scripts without spaces each character is a word. A
    completion shorter than ``n`` units is worth 0.
    >>> repetition("so we try, so we try, so we try,", n=2)
    -0.625
    """
    if max_penalty > 0 or n < 1:
        raise ValueError(
            f"repetition: needs max_penalty <= 0 and n >= 1, found {max_penalty} and {n}"
        )
    if unit not in ("words", "tokens"):
        raise ValueError(f"repetition: unit is {unit!r}; known are words and tokens")
    units: Sequence[Hashable] = token_ids if unit == "tokens" else _words(text)
    num_grams = len(units) - n + 1
    if num_grams < 1:
        return 0.0
    num_different = len({tuple(units[start : start + n]) for start in range(num_grams)})
    return max_penalty * (1 - num_different / num_grams)


def _words(text: str) -> list[str]:
    return _SCRIPT_WITHOUT_SPACES.sub(r" \1 ", text.lower()).split()
