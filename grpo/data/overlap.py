"""Which prompts of an evaluation set are questions that train, too.

Questions made from one template share runs of words, and are not the same question: a shared run counts only if it is
not the wording of many prompts, if most of the question is shared, and if its numbers and names are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any, Collection, Iterable, Mapping, Sequence

NUM_WORDS = 13
"""Length of a run of words that two different questions hardly share (GPT-3's filter, arXiv 2005.14165, appendix C)."""
MAX_SHARE = 0.01
"""A run of words in more of the training or the evaluated prompts than this is their wording, not a question."""
MIN_WORDING = 5
MIN_COVERED = 0.7
"""Share of a question's words that one training prompt must hold in such runs (PaLM's, arXiv 2204.02311, section 8)."""
MIN_USUAL = 0.5
"""A word that stands between the same two others in more of the evaluated prompts than this is their wording."""
SENTENCE_MARKS = frozenset(".,;:!?'\"`‘’“”…")
"""Punctuation that is no part of a question; signs of operations and brackets are."""
NUMBER_NAMES = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million half third "
    "quarter twice double triple".split()
)

_WORD = re.compile(r"\w+|[^\w\s]")

Words = Sequence[str]
Gram = tuple[str, ...]


def overlapping(train: Iterable[str], evaluated: Sequence[str]) -> list[int]:
    """The indices of the `evaluated` texts that a text of `train` holds, or that are one but for case and space.

    A text is held if runs of `NUM_WORDS` of its words that are nobody's wording stand in one training text, are
    `MIN_COVERED` of its words, and if its numbers and names stand there in order. A text shorter than a run must be
    the same.
    """
    distinct = list(dict.fromkeys(train))
    questions = [words(text) for text in evaluated]
    shared = _Shared(distinct, questions)
    found = []
    for index, (text, question) in enumerate(zip(evaluated, questions)):
        if tuple(question) in shared.repeated or shared.is_held(question, particulars(text)):
            found.append(index)
    return found


def words(text: str) -> list[str]:
    """The words, numbers and signs of `text`, in lower case."""
    return [word.casefold() for word in _WORD.findall(text)]


def particulars(text: str) -> set[int]:
    """Which of the `words` of `text` are numbers, or names: with a capital in the middle of a sentence."""
    found = set()
    before = "."
    for index, word in enumerate(_WORD.findall(text)):
        if _is_number(word) or (word.istitle() and before not in SENTENCE_MARKS):
            found.add(index)
        before = word
    return found


def grams(question: Words) -> list[Gram]:
    """The runs of `NUM_WORDS` words in the order of their places, or all words of fewer; none of no words."""
    if not question:
        return []
    last = max(1, len(question) - NUM_WORDS + 1)
    return [tuple(question[start : start + NUM_WORDS]) for start in range(last)]


def normalised(prompt: Any) -> str:
    """`prompt` without case, spaces and the marks of sentences, to compare with others."""
    return " ".join(word for word in words(str(prompt)) if word not in SENTENCE_MARKS)


def question_of(row: Mapping[str, Any]) -> str:
    """The text of a row's prompt; of messages, what the user wrote."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(
        str(message.get("content", "")) for message in prompt if message.get("role") == "user"
    )


class _Shared:
    """The runs of words that training texts share with questions.

    ``holders`` are the texts with each telling run, ``wording`` the runs that many texts or many questions have,
    ``repeated`` the questions that are a training text.
    """

    def __init__(self, texts: Sequence[str], questions: Sequence[Words]):
        self.texts = texts
        self.repeated: set[Gram] = set()
        self.holders: dict[Gram, list[int]] = defaultdict(list)
        distinct = set(map(tuple, questions)) - {()}
        counts = Counter(gram for question in distinct for gram in set(grams(question)))
        self.wording = _frequent(counts, _limit(len(distinct)))
        places = Counter(place for question in distinct for place in set(_places(question)))
        self._usual_places = _frequent(places, max(MIN_WORDING, MIN_USUAL * len(distinct)))
        self._look_for(distinct, counts.keys())

    def _look_for(self, questions: Collection[Gram], wanted: Collection[Gram]) -> None:
        limit = _limit(len(self.texts))
        for number, text in enumerate(self.texts):
            found = words(text)
            if tuple(found) in questions:
                self.repeated.add(tuple(found))
            for gram in {gram for gram in grams(found) if gram in wanted} - self.wording:
                self.holders[gram].append(number)
                if len(self.holders[gram]) > limit:
                    del self.holders[gram]
                    self.wording.add(gram)

    def is_held(self, question: Words, particular: Collection[int]) -> bool:
        """Whether one training text holds `question`, of which the words at some places are `particular`."""
        runs = grams(question)
        found: set[int] = set()
        for gram in runs:
            found.update(self.holders.get(gram, ()))
        places = _places(question)
        unusual = {at for at, place in enumerate(places) if place not in self._usual_places}
        own = unusual - _covered(runs, self.wording)
        wanted = [question[at] for at in sorted(unusual.intersection(particular))]
        for number in sorted(found):
            other = words(self.texts[number])
            common = set(grams(other)).intersection(runs) - self.wording
            is_covered = len(own & _covered(runs, common)) >= MIN_COVERED * len(own)
            if is_covered and _in_order(wanted, other):
                return True
        return False


def _limit(number: int) -> float:
    return max(MIN_WORDING, MAX_SHARE * number)


def _frequent(counts: Counter[Gram], limit: float) -> set[Gram]:
    return {gram for gram, count in counts.items() if count > limit}


def _places(question: Words) -> list[Gram]:
    """Each word with its neighbours."""
    padded = ["", *question, ""]
    return list(zip(padded, padded[1:], padded[2:]))


def _is_number(word: str) -> bool:
    return word[0].isdigit() or word.casefold() in NUMBER_NAMES


def _covered(runs: Sequence[Gram], chosen: Collection[Gram]) -> set[int]:
    """The places of the words that stand in a chosen run."""
    places: set[int] = set()
    for start, gram in enumerate(runs):
        if gram in chosen:
            places.update(range(start, start + len(gram)))
    return places


def _in_order(wanted: Iterable[str], among: Words) -> bool:
    """Whether `wanted` is what is left of `among` if some words are taken out."""
    rest = iter(among)
    return all(word in rest for word in wanted)
