"""Knights and knaves: knights always tell the truth, knaves always lie; who is what?

Every puzzle has exactly one solution: all assignments of roles are tried, and the puzzle is kept where one alone
agrees with what everybody says. It grows harder with the people. The reward reads who is called what, and nothing
else: a role for every person, once, without alternatives.
"""

from __future__ import annotations

import itertools
import random
import re
from typing import Any, Callable, Mapping, Sequence

from rewards.tasks.final_answer import is_tagged, tagged_answer
from rewards.types import Score

__all__ = ["is_true", "knights_and_knaves", "knights_rows", "solutions"]

Row = dict[str, Any]
Claim = tuple[Any, ...]
"""``("knight", person)``, ``("knave", person)``, ``("same", a, b)``, ``("count", number)`` of knights, and ``not``,
``and``, ``or``, ``if``, ``iff`` of claims."""

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gwen", "Hugo")
MOST_MISSES = 3000
"""So many drawings in a row without a new puzzle say that there are hardly any more."""


def knights_rows(people: int = 3, count: int = 1000) -> list[Row]:
    """``count`` different puzzles of so many ``people`` (2 to 8), drawn by a fixed rule, each with one solution."""
    if not 2 <= people <= len(NAMES):
        raise ValueError(f"knights-and-knaves: people is {people}; it can be 2 to {len(NAMES)}")
    if count < 1:
        raise ValueError(f"knights-and-knaves: count is {count}; it must be at least 1")
    rng = random.Random(f"knights and knaves of {people}")
    rows: dict[str, Row] = {}
    misses = 0
    while len(rows) < count and misses < MOST_MISSES:
        claims = [_claim(rng, speaker, people) for speaker in range(people)]
        found = solutions(claims)
        misses += 1
        if len(found) == 1 and (prompt := _prompt(claims)) not in rows:
            rows[prompt] = {"prompt": prompt, "answer": _written(found[0])}
            misses = 0
    if len(rows) == count:
        return list(rows.values())
    raise ValueError(
        f"knights-and-knaves: found {len(rows)} puzzles of {people}, not {count}; ask for fewer"
    )


# -------------------------------------------------------------------------------------------- claims


def solutions(claims: Sequence[Claim]) -> list[tuple[bool, ...]]:
    """Every assignment (True: knight) under which all knights' claims are true and all knaves' claims false."""
    return [
        knights
        for knights in itertools.product((True, False), repeat=len(claims))
        if all(
            is_true(claim, knights) == speaks_true for claim, speaks_true in zip(claims, knights)
        )
    ]


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
        return _role(rng, rng.choice([person for person in range(people) if person != speaker]))
    if kind == "count":
        return ("count", rng.randint(0, people))
    first, second = rng.sample(range(people), 2)
    if kind == "same":
        return ("same", first, second)
    both = (_role(rng, first), _role(rng, second))
    return ("not", ("and", *both)) if kind == "not" else (kind, *both)


def _role(rng: random.Random, person: int) -> Claim:
    return (rng.choice(("knight", "knave")), person)


def _prompt(claims: Sequence[Claim]) -> str:
    names = NAMES[: len(claims)]
    said = " ".join(f'{name} says: "{_in_words(claim)}."' for name, claim in zip(names, claims))
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"On an island everybody is either a knight, who always tells the truth, or a knave, who always lies. "
        f"You meet {listed}. {said} Who is a knight and who is a knave? "
        f'Answer like "{names[0]} is a knight, {names[1]} is a knave", naming everybody.'
    )


def _in_words(claim: Any) -> str:
    op, *operands = claim
    if op in ("knight", "knave"):
        return f"{NAMES[operands[0]]} is a {op}"
    if op == "same":
        return f"{NAMES[operands[0]]} and {NAMES[operands[1]]} are of the same kind"
    if op == "count":
        return f"there {'is' if operands[0] == 1 else 'are'} exactly {operands[0]} knight{'s' * (operands[0] != 1)} here"
    first, *second = map(_in_words, operands)
    wordings = {
        "not": "it is not true that {}",
        "and": "{} and {}",
        "or": "{} or {}",
        "if": "if {} then {}",
    }
    return wordings.get(op, "{} if and only if {}").format(first, *second)


def _written(knights: Sequence[bool]) -> str:
    return ", ".join(
        f"{name} is a {'knight' if is_knight else 'knave'}"
        for name, is_knight in zip(NAMES, knights)
    )


# ------------------------------------------------------------------------------------------ the reward

LONGEST = 1000
_WORD = re.compile(r"[A-Za-z]+|[:=]")
_ROLES = {"knight": True, "knights": True, "knave": False, "knaves": False}
_FILLING = frozenset(
    "is are a an and the both all also so thus therefore while whereas but none".split()
)
_NAMED = re.compile(r"\banswer\b\s*(?:is\b\s*)?[:=]?\s*", re.IGNORECASE)


def knights_and_knaves(text: str, answer: str, finish: str | None = None) -> Score:
    """1 where the completion's final answer gives everybody the role that ``answer`` gives them, else 0.

    The final answer is the content of its ``<answer>`` tags, of which there may be one pair, at the end; without
    tags, what follows the last word ``answer``; without that word, the last line that names a role. It may say ``Ada is
    a knight``, ``Ada: knight``, ``Ada and Ben are knaves`` or ``Knights: Ada, Ben``. Whatever else it says ("or",
    "not", somebody else's name) makes it unreadable, and naming a person twice or not at all makes it wrong.
    Where ``finish`` is given it must be ``stop``.
    """
    truth = _roles(answer)
    if not truth:
        return Score(
            None,
            status="fault",
            detail=f"knights_and_knaves: the answer {answer!r} gives nobody a role",
        )
    said, problem = _final_answer(text.rpartition("</think>")[2])
    if said is None:
        return Score(0.0, status="no_answer", detail=problem)
    roles = _roles(said)
    if roles is None:
        problem = problem or "the final answer cannot be read"
    elif roles != truth:
        problem = problem or _difference(roles, truth)
    elif finish not in (None, "stop"):
        problem = problem or f"right, but it did not end: finish is {finish}"
    return Score(0.0 if problem else 1.0, detail=problem or "right", extracted=said[:200])


def _difference(roles: Mapping[str, bool], truth: Mapping[str, bool]) -> str:
    if roles.keys() != truth.keys():
        return f"it names {', '.join(roles)}, not {', '.join(truth)}"
    return f"wrong about {', '.join(name for name in truth if roles[name] != truth[name])}"


def _final_answer(text: str) -> tuple[str | None, str]:
    if is_tagged(text):
        return tagged_answer(text)
    named = list(_NAMED.finditer(text))
    if named and text[named[-1].end() :].strip():
        return text[named[-1].end() :].strip(), ""
    lines = [line for line in text.splitlines() if re.search(r"\bkn(?:ight|ave)s?\b", line)]
    return (lines[-1].strip(), "") if lines else (None, "no final answer was found")


def _roles(text: str) -> dict[str, bool] | None:
    """Who is called a knight; None where the text says anything else, or one person's role twice."""
    if len(text) > LONGEST:
        return None
    words = [word for word in _WORD.findall(text) if word.lower() not in _FILLING]
    roles: dict[str, bool] = {}
    waiting: list[str] = []
    heading: bool | None = None
    for place, word in enumerate(words):
        if word in ":=":
            continue
        role = _ROLES.get(word.lower())
        if role is None:
            if not word[0].isupper() or word in roles or word in waiting:
                return None
            if heading is None:
                waiting.append(word)
            else:
                roles[word] = heading
        elif words[place + 1 : place + 2] == [":"]:
            if waiting:
                return None
            heading = role
        elif not waiting or heading is not None:
            return None
        else:
            roles.update(dict.fromkeys(waiting, role))
            waiting = []
    return None if waiting else roles
