r"""Several letters of a multiple choice: ``BD`` is ``B, D``, ``B and D``, ``(D), (B)``, and never a part of it.

What counts as letters: capital letters from A to J, no two alike, with brackets, styles or quotes around them and
commas, semicolons, slashes, "and" or spaces between them; small letters where the gold has capitals or brackets.
Glued letters are choices only in the order of the alphabet: ``DB`` and ``CAB`` may be a product, a segment, a
ranking, and are compared as written.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rewards.mathematics.words import plain_words

__all__ = ["Letters", "letters_of"]

MAX_LENGTH = 120
_INTRODUCTION = re.compile(
    r"(?:the\s+)?(?:correct\s+|right\s+|true\s+)?(?:options?|choices?|answers?|statements?)(?:\s+(?:is|are))?\s*:?\s+(?=\W*[A-J](?![a-z]))",
    re.IGNORECASE,
)
_BOTH = re.compile(r"^both\s+", re.IGNORECASE)
_ENDING = re.compile(r"\s+only\.?$|\s+(?:is|are)\s+(?:correct|right|true)\.?$")
_LETTER = r"(?:\(\s*[A-Ja-j]\s*\)|\[[A-Ja-j]\]|[A-Ja-j](?:[.)](?=[\s,;]|$))?|[\"'][A-Ja-j][\"'])"
_BETWEEN = r"(?:\s*(?:[,;/&\u3001]|\\and\b|\\&)\s*(?:(?:and|or|&)\s+)?|\s+(?:and|or)\s+|\s*(?=[(\[])|\s+(?![(\[]))"
_SEPARATED = re.compile(rf"{_LETTER}(?:{_BETWEEN}{_LETTER})+")
_GLUED = re.compile(r"[A-J]{2,8}")
_ANY_LETTER = re.compile(_LETTER)


class Letters(NamedTuple):
    """Two or more letters, in capitals; ``is_either``: "or" is between them; ``is_small``: all are bare small ones."""

    letters: tuple[str, ...]
    is_either: bool = False
    is_glued: bool = False
    is_small: bool = False

    def agrees_with(self, other: Letters) -> bool:
        """Tell whether both name the same letters; those glued in another order than the alphabet's are in order."""
        if self.is_either != other.is_either:
            return False
        if any(
            side.is_glued and list(side.letters) != sorted(side.letters) for side in (self, other)
        ):
            return self.letters == other.letters
        return sorted(self.letters) == sorted(other.letters)


def letters_of(text: str) -> Letters | None:
    """Return the letters that an answer consists of, if they are two or more; None for anything else."""
    if len(text) > MAX_LENGTH:
        return None
    bare = _bare(text)
    if _GLUED.fullmatch(bare):
        return _distinct(Letters(tuple(bare), is_glued=True))
    if not _SEPARATED.fullmatch(bare):
        return None
    pieces = _ANY_LETTER.findall(re.sub(r"\\?\b(?:and|or)\b", ",", bare))
    letters = tuple(re.sub(r"[^A-Za-z]", "", piece).upper() for piece in pieces)
    is_small = all(len(piece) == 1 and piece.islower() for piece in pieces)
    return _distinct(Letters(letters, is_either=" or " in bare, is_small=is_small))


def _bare(text: str) -> str:
    """Return the text without styles, an introduction such as "options", brackets around it all, and what follows."""
    bare = plain_words(text.replace("\\{", "(").replace("\\}", ")"))
    bare = _BOTH.sub("", _INTRODUCTION.sub("", bare, count=1))
    bare = _ENDING.sub("", bare)
    bare = re.sub(r"\s+", " ", bare).strip(" .")
    inside = bare[1:-1].strip()
    is_enclosed = bare[:1] + bare[-1:] in ("()", "[]") and len(inside) > 1
    return inside if is_enclosed and not re.search(r"[()\[\]]", inside) else bare


def _distinct(found: Letters) -> Letters | None:
    if len(found.letters) < 2 or len(set(found.letters)) < len(found.letters):
        return None
    return found
