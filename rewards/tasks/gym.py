"""The generators of the package reasoning-gym as tasks, under verifiers that never execute a completion's text.

reasoning-gym's own verifiers were read one by one, in version `AUDITED`. Several hand the answer to ``eval`` or to
sympy's ``parse_expr``, which is ``eval``; several pay for an answer that merely contains the right one. So each
of its tasks is judged here in one of these ways, and a task that is in none of them is refused:

``unique``   its one right answer, compared by us
``ours``     a rule of ours: expressions, integrals, boards
``theirs``   its own verifier, which only compares, decodes JSON or plays moves; of its partial points none count
             below a full one unless ``partial`` is set
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from typing import Any, Callable, Mapping

from rewards.mathematics.extraction import extract
from rewards.tasks.countdown import Expression
from rewards.tasks.final_answer import is_tagged, tagged_answer
from rewards.types import Score

__all__ = ["AUDITED", "OURS", "PREFIX", "REFUSED", "THEIRS", "UNIQUE", "gym_answer", "lease"]

PREFIX = "gym-"
AUDITED = "0.1.25"
Row = dict[str, Any]

UNIQUE = frozenset(
    "aiw acre ab arc_1d base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic"
    " caesar_cipher chain_sum circuit_logic color_cube_rotation count_bits count_primes course_schedule"
    " decimal_chain_sum dice family_relationships figlet_font game_of_life_halting gcd isomorphic_strings"
    " largest_island lcm leg_counting letter_counting letter_jumble list_functions mahjong_puzzle maze modulo_grid"
    " needle_haystack number_filtering number_sequence path_star products ransom_note rotate_matrix rotten_oranges"
    " self_reference simple_equations simple_geometry spell_backward spiral_matrix string_insertion"
    " string_manipulation string_splitting string_synthesis syllogism tsumego word_sequence_reversal word_sorting"
    " zebra_puzzles".split()
)
THEIRS = frozenset(
    "advanced_geometry arc_agi boxnet calendar_arithmetic complex_arithmetic cryptarithm"
    " decimal_arithmetic emoji_mystery fraction_simplification futoshiki game_of_life graph_color group_anagrams"
    " gsm_symbolic jugs kakurasu knight_swap knights_knaves manipulate_matrix mini_sudoku number_format"
    " palindrome_generation palindrome_partitioning polynomial_equations pool_matrix power_function"
    " prime_factorization propositional_logic quantum_lock rearc rectangle_count rubiks_cube rush_hour"
    " sentence_reordering shortest_path sokoban sudoku survo time_intervals tower_of_hanoi word_ladder".split()
)
REFUSED: Mapping[str, str] = {
    "codeio": "its generator executes the programs that its data holds",
    "composite": "it is a mixture of others; name those",
}
NEARLY_FULL: Mapping[str, float] = {"polynomial_equations": 0.99, "complex_arithmetic": 0.99}
"""Where full marks are an exponential of a distance that rounding alone keeps above zero."""


# ---------------------------------------------------------------------------------------------- rows


def lease(name: str) -> tuple[Callable[..., list[Row]], str]:
    """The function that makes the rows of reasoning-gym's task ``name``, and a sentence about it."""
    known = sorted(UNIQUE | THEIRS | OURS.keys())
    if name in REFUSED:
        raise ValueError(f"task {PREFIX}{name} is refused: {REFUSED[name]}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(
            f"task {PREFIX}{name} is refused: its verifier in reasoning-gym {AUDITED} was not read, or there is "
            "none of that name" + (f"; did you mean {PREFIX}{near[0]}?" if near else "")
        )
    return functools.partial(_rows, name), f"reasoning-gym's {name}, judged by {_way(name)}."


def _way(name: str) -> str:
    if name in OURS:
        return "a rule of ours"
    return "its own verifier" if name in THEIRS else "its one right answer"


def _rows(name: str, count: int = 1000, seed: int = 0, **settings: Any) -> list[Row]:
    """At most ``count`` rows of a task, drawn with ``seed``; further arguments are those of its own configuration."""
    try:
        dataset = _dataset(
            name, json.dumps({"size": count, "seed": seed, **settings}, sort_keys=True)
        )
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f"task {PREFIX}{name}: reasoning-gym refuses these arguments: {error}"
        ) from None
    rows = {}
    for index in range(count):
        entry = dataset[index]
        if name in OURS and not OURS[name](entry["answer"], entry["answer"], entry["metadata"]):
            continue  # an integral that sympy could not solve, say: there is nothing to compare with
        rows[entry["question"]] = {
            "prompt": entry["question"]
            + "\nGive the final answer alone between <answer> and </answer>.",
            "answer": entry["answer"],
            "task": name,
            "metadata": entry["metadata"],
            "settings": settings,
        }
    return list(rows.values())


@functools.lru_cache(maxsize=16)
def _dataset(name: str, settings: str) -> Any:
    try:
        from reasoning_gym import create_dataset
    except ImportError:
        raise ValueError(
            f"task {PREFIX}{name} needs the package reasoning-gym: pip install reasoning-gym=={AUDITED}"
        ) from None
    return create_dataset(name, **json.loads(settings))


# ------------------------------------------------------------------------------------------ the reward


def gym_answer(
    text: str,
    task: str,
    answer: str | None,
    metadata: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> Score:
    """1 where the completion's final answer is right for its reasoning-gym task, else 0.

    The final answer is the content of the ``<answer>`` tags, of which there may be one pair, at the end; without
    tags, what `rewards.mathematics.extraction.extract` finds. ``partial`` passes on what a task's own verifier gives for part of an
    answer; it does not change those judged by `UNIQUE` and `OURS`.
    """
    visible = text.rpartition("</think>")[2]
    said, problem = tagged_answer(visible) if is_tagged(visible) else (extract(text).text, "")
    if said is None:
        return Score(0.0, status="no_answer", detail=problem or "no final answer was found")
    if problem:
        return Score(0.0, detail=problem, extracted=said[:2000])
    if task in OURS:
        value = float(OURS[task](said, str(answer), metadata))
    elif task in UNIQUE:
        value = float(_same(said, str(answer)))
    elif task in THEIRS:
        value = _by_theirs(
            task, said, {"answer": answer, "metadata": dict(metadata)}, settings or {}
        )
        value = 1.0 if value >= NEARLY_FULL.get(task, 1.0) else value if partial else 0.0
    else:
        return Score(None, status="fault", detail=f"gym_answer knows no task {task!r}")
    return Score(value, detail=f"judged by {_way(task)}", extracted=said[:2000])


def _by_theirs(task: str, said: str, entry: Row, settings: Mapping[str, Any]) -> float:
    """What the task's own verifier gives; where it stumbles over the answer's form, that is 0 and no fault."""
    dataset = _dataset(task, json.dumps({"size": 1, "seed": 0, **settings}, sort_keys=True))
    try:
        return float(dataset.score_answer(said, entry))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return 0.0


# -------------------------------------------------------------------------------------- rules of ours


def _same(said: str, answer: str) -> bool:
    """Whether two answers are the same text, but for case and white space, or the same plain number."""
    from rewards.mathematics.plain_number import read_plain_number

    if _folded(said) == _folded(answer):
        return True
    left, right = read_plain_number(said.strip()), read_plain_number(answer.strip())
    return left is not None and right is not None and left.value == right.value


def _folded(text: str) -> list[str]:
    return text.casefold().replace(",", ", ").split()


def _made(said: str, metadata: Mapping[str, Any], target: int) -> bool:
    """Whether an expression of the given numbers, each once, makes the target."""
    try:
        read = Expression(said.strip(), signed=True)
        return sorted(read.numbers) == sorted(metadata["numbers"]) and read.value() == target
    except (ValueError, ZeroDivisionError):
        return False


def _in_latex(text: str) -> str:
    """Python's way to write an expression in the way our own parser reads."""
    text = re.sub(r"\bE\b", "e", text).replace("**", "^").replace("*", r" \cdot ")
    return re.sub(
        r"\b(exp|sqrt|sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|log|asin|acos|atan)\(", _function, text
    )


def _function(match: re.Match[str]) -> str:
    name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(match[1], match[1])
    return rf"\{name}("


def _same_polynomial(said: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    from rewards.mathematics.equality import equal

    return equal(_in_latex(said), _in_latex(answer)).equal is True


def _same_integral(said: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """Whether two antiderivatives differ by a constant on each side of zero; a constant C of either is dropped."""
    from rewards.mathematics.expressions import (
        Budget,
        Undecided,
        context,
        evaluate,
        fold,
        nearly_equal,
        symbols,
    )
    from rewards.mathematics.latex import parse
    from rewards.mathematics.tree import Node, ParseError

    variable = str(metadata["variable"])
    try:
        trees = [fold(parse(_in_latex(text))) for text in (said, answer)]
    except ParseError:
        return False
    if not (symbols(trees[0]) | symbols(trees[1])) <= {variable, "C"}:
        return False
    difference = Node("add", (trees[0], Node("neg", (trees[1],))))
    compared = 0
    for side in ((0.37, 0.93, 1.71, 2.9), (-0.37, -0.93, -1.71, -2.9)):
        values, scale = [], context().mpf(0)
        for x in side:
            point, budget = {variable: context().mpf(x), "C": context().mpf(0)}, Budget()
            try:
                scale = max(scale, abs(evaluate(trees[1], point, budget)))
                values.append(evaluate(difference, point, budget))
            except Undecided:
                continue
        offset = scale + 1
        if any(not nearly_equal(offset + value, offset + values[0]) for value in values):
            return False
        compared += len(values) > 2
    return compared > 0


def _close(said: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """Whether two plain numbers lie within a ten-thousandth."""
    from rewards.mathematics.plain_number import read_plain_number

    left, right = read_plain_number(said.strip()), read_plain_number(answer.strip())
    return left is not None and right is not None and abs(left.value - right.value) * 10_000 <= 1


def _is_valid_board(said: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    return said.split() in [board.split() for board in metadata["valid_answers"]]


def _same_list(said: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """Whether a list of numbers, quoted or not, is the sorted one."""
    numbers = re.findall(r"[-+]?\d{1,300}(?:\.\d{1,300})?", said)
    rest = re.sub(r"[-+]?\d{1,300}(?:\.\d{1,300})?|[\s,'\"]", "", said)
    if rest not in ("", "[]"):
        return False
    return [float(number) for number in numbers] == [
        float(number) for number in metadata["sorted_numbers"]
    ]


OURS: Mapping[str, Callable[[str, str, Mapping[str, Any]], bool]] = {
    "coin_flip": _close,
    "countdown": lambda said, answer, metadata: _made(said, metadata, metadata["target"]),
    "puzzle24": lambda said, answer, metadata: _made(said, metadata, 24),
    "polynomial_multiplication": _same_polynomial,
    "simple_integration": _same_integral,
    "intermediate_integration": _same_integral,
    "n_queens": _is_valid_board,
    "number_sorting": _same_list,
}
