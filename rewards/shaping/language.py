"""A reward for reasoning in one language, detected by script alone: no model, no dictionary, no download."""

from __future__ import annotations

import re
from collections import Counter

from rewards.types import Score

__all__ = ["LANGUAGES", "count_words", "language_consistency"]

LANGUAGES = ("en", "ja", "ko", "zh")

_NOT_PROSE = re.compile(
    r"```.{0,5000}?```|\$\$.{0,2000}?\$\$|\$[^$\n]{0,500}\$|\\\[.{0,2000}?\\\]|\\\(.{0,500}?\\\)|\\[A-Za-z]+"
    r"|`[^`\n]{0,200}`|</?[A-Za-z]+>|https?://\S+",
    re.DOTALL,
)
"""Code, formulas, LaTeX commands, tags and URLs: they belong to no language."""

_KANA = "\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_GREEK = "\u0370-\u03ff"
_WORD = re.compile(
    rf"(?P<kana>[{_KANA}])|(?P<han>[{_HAN}])|(?P<ko>[{_HANGUL}]+)"
    rf"|(?P<en>[{_LATIN}][{_LATIN}'\u2019]+|\b[aAI]\b)"
    rf"|(?P<letter>[{_LATIN}]|(?<![{_GREEK}])[{_GREEK}](?![{_GREEK}]))|(?P<other>[^\W\d_]+)"
)
_SENTENCE = re.compile(r"[\u3002\uff01\uff1f!?\n]|\.\s")


def language_consistency(text: str, language: str = "en") -> Score:
    """The share of words in the target language among all words of the reasoning, from 0 to 1.

    The language consistency reward of DeepSeek-R1 (arXiv:2501.12948, section 2.3.2: "the proportion of target
    language words in the CoT"). It looks at what precedes ``</think>``, or at the whole text without such a tag.
    Languages (en, ja, ko, zh) are detected by script: a run of Latin letters or of Hangul is a word, a Han character or
    a kana is one each; a Han character is Japanese in a sentence with kana and Chinese in one without. Code,
    formulas, numbers and single letters (variables, Greek ones too) count for no language. French counts as
    English: the scripts are the same. ``parts`` holds each language's share.
    >>> language_consistency("So the sum is 7. \u6240\u4ee5", "en").value
    0.6666666666666666
    """
    if language not in LANGUAGES:
        raise ValueError(
            f"language_consistency: language is {language!r}; known are {', '.join(LANGUAGES)}"
        )
    counts = count_words(text.partition("</think>")[0])
    total = counts.total()
    if not total:
        return Score(0.0, status="no_answer", detail="there are no words")
    shares = {name: count / total for name, count in counts.items()}
    return Score(counts[language] / total, parts=shares)


def count_words(text: str) -> Counter[str]:
    """How many words of each of `LANGUAGES` (and ``other``) a text has."""
    counts: Counter[str] = Counter()
    for sentence in _SENTENCE.split(_NOT_PROSE.sub(" ", text)):
        kinds = Counter(match.lastgroup for match in _WORD.finditer(sentence))
        counts["ja" if kinds["kana"] else "zh"] += kinds["han"]
        counts["ja"] += kinds["kana"]
        for name in ("en", "ko", "other"):
            counts[name] += kinds[name]
    return +counts
