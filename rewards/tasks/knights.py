"""Knights and knaves: knights always tell the truth, knaves always lie; who is what?

Every puzzle has exactly one solution: all assignments of roles are tried, and the puzzle is kept if just one
agrees with what everybody says. More people make it harder. The reward reads who is called what, and nothing
else: a role for every person, once, without alternatives.
"""

from __future__ import annotations

import itertools
import random
import re
from typing import Any, Callable, Iterable, Mapping, Sequence

from rewards.reasoning import after_reasoning
from rewards.tasks.final_answer import UNFINISHED, has_ended, is_tagged, tagged_answer
from rewards.types import Score

__all__ = ["is_true", "knights_and_knaves", "knights_rows", "solutions"]

Row = dict[str, Any]
Claim = tuple[Any, ...]
"""``("knight", person)``, ``("knave", person)``, ``("same", a, b)``, ``("count", number)`` of knights, and ``not``,
``and``, ``or``, ``if``, ``iff`` of claims."""

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gwen", "Hugo")
MAX_MISSES = 3000
"""This many draws in a row without a new puzzle mean that there are hardly any left."""


def knights_rows(people: int = 3, count: int = 1000) -> list[Row]:
    """``count`` different puzzles with this many ``people`` (2 to 8), drawn by a fixed rule, each with one solution."""
    if not 2 <= people <= len(NAMES):
        raise ValueError(f"knights-and-knaves: people is {people}; it can be 2 to {len(NAMES)}")
    if count < 1:
        raise ValueError(f"knights-and-knaves: count is {count}; it must be at least 1")
    rng = random.Random(f"knights and knaves of {people}")
    rows: dict[str, Row] = {}
    misses = 0
    while len(rows) < count and misses < MAX_MISSES:
        claims = [_claim(rng, speaker, people) for speaker in range(people)]
        assignments = solutions(claims)
        prompt = _prompt(claims)
        misses += 1
        if len(assignments) == 1 and prompt not in rows:
            rows[prompt] = {"prompt": prompt, "answer": _written(assignments[0])}
            misses = 0
    if len(rows) == count:
        return list(rows.values())
    raise ValueError(
        f"knights-and-knaves: found {len(rows)} puzzles of {people}, not {count}; ask for fewer"
    )


# -------------------------------------------------------------------------------------------- claims


def solutions(claims: Sequence[Claim]) -> list[tuple[bool, ...]]:
    """Every assignment (True: knight) under which all knights' claims are true and all knaves' claims false."""
    assignments = itertools.product((True, False), repeat=len(claims))
    return [knights for knights in assignments if _is_consistent(claims, knights)]


def _is_consistent(claims: Sequence[Claim], knights: Sequence[bool]) -> bool:
    return all(is_true(claim, knights) == is_knight for claim, is_knight in zip(claims, knights))


_CONNECTIVES: Mapping[str, Callable[..., bool]] = {
    "not": lambda a: not a,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "if": lambda a, b: not a or b,
    "iff": lambda a, b: a == b,
}


def is_true(claim: Claim, knights: Sequence[bool]) -> bool:
    """Whether a claim holds under an assignment.

    >>> is_true(("or", ("knight", 0), ("not", ("knight", 1))), (False, True))
    False
    """
    op, *operands = claim
    if op in ("knight", "knave"):
        return knights[operands[0]] == (op == "knight")
    if op == "same":
        return knights[operands[0]] == knights[operands[1]]
    if op == "count":
        return sum(knights) == operands[0]
    return _CONNECTIVES[op](*(is_true(operand, knights) for operand in operands))


def _claim(rng: random.Random, speaker: int, people: int) -> Claim:
    """What one person says: of another person, of two, or of how many knights there are."""
    kind = rng.choice(("role", "same", "count", "and", "or", "if", "iff", "not"))
    if kind == "role":
        others = [person for person in range(people) if person != speaker]
        return _role_claim(rng, rng.choice(others))
    if kind == "count":
        return ("count", rng.randint(0, people))
    first, second = rng.sample(range(people), 2)
    if kind == "same":
        return ("same", first, second)
    both = (_role_claim(rng, first), _role_claim(rng, second))
    return ("not", ("and", *both)) if kind == "not" else (kind, *both)


def _role_claim(rng: random.Random, person: int) -> Claim:
    return (rng.choice(("knight", "knave")), person)


# ------------------------------------------------------------------------------------------ the puzzle's text


def _prompt(claims: Sequence[Claim]) -> str:
    names = NAMES[: len(claims)]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    speeches = []
    for name, claim in zip(names, claims):
        speeches.append(f'{name} says: "{_in_words(claim)}."')
    return (
        f"On an island everybody is either a knight, who always tells the truth, or a knave, who always lies. "
        f"You meet {listed}. {' '.join(speeches)} Who is a knight and who is a knave? "
        f'Answer like "{names[0]} is a knight, {names[1]} is a knave", naming everybody.'
    )


_WORDINGS = {
    "not": "it is not true that {}",
    "and": "{} and {}",
    "or": "{} or {}",
    "if": "if {} then {}",
    "iff": "{} if and only if {}",
}


def _in_words(claim: Claim) -> str:
    op, *operands = claim
    if op in ("knight", "knave"):
        return f"{NAMES[operands[0]]} is a {op}"
    if op == "same":
        return f"{NAMES[operands[0]]} and {NAMES[operands[1]]} are of the same kind"
    if op == "count":
        if operands[0] == 1:
            return "there is exactly 1 knight here"
        return f"there are exactly {operands[0]} knights here"
    return _WORDINGS[op].format(*map(_in_words, operands))


def _written(knights: Sequence[bool]) -> str:
    roles = ["knight" if is_knight else "knave" for is_knight in knights]
    return ", ".join(f"{name} is a {role}" for name, role in zip(NAMES, roles))


# ------------------------------------------------------------------------------------------ the reward

MAX_ANSWER_CHARS = 1000
_WORD = re.compile(r"[A-Za-z]+|[:=]")
_ROLES = {"knight": True, "knights": True, "knave": False, "knaves": False}
_FILLER_WORDS = frozenset(
    "is are a an and the both all also so thus therefore while whereas but none".split()
)
_NAMED = re.compile(r"\banswer\b\s*(?:is\b\s*)?[:=]?\s*", re.IGNORECASE)


def knights_and_knaves(
    text: str, answer: str, finish: str | None = None, prompt_text: str = ""
) -> Score:
    """1 if the completion's final answer gives everybody the role that ``answer`` gives them, else 0.

    The final answer is the content of its ``<answer>`` tags, of which there may be one pair, at the end; without
    tags, what follows the last word ``answer``; without that word, the last line that names a role. It may say ``Ada is
    a knight``, ``Ada: knight``, ``Ada and Ben are knaves`` or ``Knights: Ada, Ben``. Whatever else it says ("or",
    "not", somebody else's name) makes it unreadable, and naming a person twice or not at all makes it wrong.
    If ``finish`` is given it must be ``stop``. Reasoning that never ends, opened by the completion or by
    ``prompt_text``, holds no answer.
    """
    truth = _roles(answer) if isinstance(answer, str) else None
    if not truth:
        problem = f"knights_and_knaves: the answer {answer!r} gives nobody a role"
        return Score(None, status="fault", detail=problem)
    final_answer, problem = _final_answer(after_reasoning(text, prompt_text))
    if final_answer is None:
        return Score(0.0, status="no_answer", detail=problem)
    problem = problem or _problem_with(_roles(final_answer), truth, finish)
    return Score(0.0 if problem else 1.0, detail=problem or "right", extracted=final_answer[:200])


def _problem_with(
    roles: Mapping[str, bool] | None, truth: Mapping[str, bool], finish: str | None
) -> str:
    """Why an answer is wrong; empty if it is right."""
    if roles is None:
        return "the final answer cannot be read"
    if roles.keys() != truth.keys():
        return f"it names {', '.join(roles)}, not {', '.join(truth)}"
    confused = [name for name in truth if roles[name] != truth[name]]
    if confused:
        return f"wrong about {', '.join(confused)}"
    return "" if has_ended(finish) else f"right, but it did not end: finish is {finish}"


def _final_answer(text: str | None) -> tuple[str | None, str]:
    if text is None:
        return None, UNFINISHED
    if is_tagged(text):
        return tagged_answer(text)
    named = list(_NAMED.finditer(text))
    after_named = text[named[-1].end() :].strip() if named else ""
    if after_named:
        return after_named, ""
    lines = [line for line in text.splitlines() if re.search(r"\bkn(?:ight|ave)s?\b", line)]
    return (lines[-1].strip(), "") if lines else (None, "no final answer was found")


def _roles(text: str) -> dict[str, bool] | None:
    """Who is called a knight; None if the text says anything else, or one person's role twice."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    words = [word for word in _WORD.findall(text) if word.lower() not in _FILLER_WORDS]
    reader = _RoleReader()
    for word, following in itertools.zip_longest(words, words[1:]):
        if word not in ":=" and not reader.read(word, is_heading=following == ":"):
            return None
    return None if reader.without_role else reader.roles


class _RoleReader:
    """Reads names and roles, word by word: ``Ada Ben knaves`` or, under a heading, ``Knights: Ada Ben``."""

    def __init__(self) -> None:
        self.roles: dict[str, bool] = {}
        self.without_role: list[str] = []
        self._heading: bool | None = None

    def read(self, word: str, is_heading: bool) -> bool:
        """Take in a word; False if it makes the text unreadable."""
        role = _ROLES.get(word.lower())
        if role is None:
            return self._read_name(word)
        if is_heading:
            self._heading = role
            return not self.without_role
        if self._heading is not None or not self.without_role:
            return False
        self._assign(self.without_role, role)
        self.without_role = []
        return True

    def _read_name(self, name: str) -> bool:
        if not name[0].isupper() or name in self.roles or name in self.without_role:
            return False
        if self._heading is None:
            self.without_role.append(name)
        else:
            self._assign([name], self._heading)
        return True

    def _assign(self, names: Iterable[str], role: bool) -> None:
        self.roles.update(dict.fromkeys(names, role))
