"""The generators of the package reasoning-gym as tasks, with verifiers that never execute a completion's text.

reasoning-gym's own verifiers were read one by one, in version `AUDITED`. Several pass the answer to ``eval`` or to
sympy's ``parse_expr``, which is ``eval``; several reward an answer that merely contains the right one, or one number of
two; several refuse ``28,080`` for 28080. So each
of its tasks is judged here in one of these ways, and a task that is in none of them is refused:

`UNIQUE`   its one right answer, compared by us: as text, or as a number by ``gym_numbers.same_number``
`OURS`     a rule of ours: expressions, integrals, boards, and the numbers of ``gym_numbers``
`THEIRS`   its own verifier, which only compares, decodes JSON or plays moves; partial credit counts only if
           ``partial`` is set
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, Callable, Mapping

from rewards.conventions import as_mapping
from rewards.mathematics.equality import equal
from rewards.mathematics.expressions import (
    Budget,
    Undecided,
    context,
    evaluate,
    fold,
    nearly_equal,
    symbols,
)
from rewards.mathematics.extraction import extract
from rewards.mathematics.latex import parse
from rewards.mathematics.tree import Node, ParseError
from rewards.reasoning import after_reasoning
from rewards.spelling import nearest
from rewards.tasks import GYM_PREFIX as PREFIX
from rewards.tasks import GYM_ROWS
from rewards.tasks.countdown import Expression
from rewards.tasks.final_answer import UNFINISHED, is_tagged, tagged_answer
from rewards.tasks.gym_numbers import NUMERIC, bare, same_number
from rewards.tasks.gym_rows import MissingPackage, entries
from rewards.types import Score

__all__ = ["AUDITED", "OURS", "REFUSED", "THEIRS", "UNIQUE", "gym_answer", "lease"]

AUDITED = "0.1.25"
Row = dict[str, Any]

UNIQUE = frozenset(
    "ab acre aiw arc_1d base_conversion basic_arithmetic bf binary_alternation binary_matrix caesar_cipher"
    " chain_sum circuit_logic color_cube_rotation count_bits count_primes course_schedule decimal_chain_sum dice"
    " family_relationships figlet_font game_of_life_halting gcd gsm_symbolic isomorphic_strings largest_island lcm"
    " leg_counting letter_counting letter_jumble mahjong_puzzle maze modulo_grid needle_haystack number_sequence"
    " path_star products ransom_note rectangle_count rotate_matrix rotten_oranges self_reference simple_equations"
    " simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting"
    " string_synthesis syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles".split()
)
THEIRS = frozenset(
    "arc_agi boxnet cryptarithm emoji_mystery futoshiki graph_color group_anagrams jugs kakurasu knight_swap"
    " knights_knaves manipulate_matrix mini_sudoku palindrome_generation palindrome_partitioning"
    " propositional_logic quantum_lock rearc rubiks_cube rush_hour sentence_reordering shortest_path sokoban"
    " sudoku survo tower_of_hanoi word_ladder".split()
)
REFUSED: Mapping[str, str] = {
    "codeio": "its generator executes the programs that its data holds",
    "composite": "it is a mixture of others; name those",
}
UNSOLVED = ("simple_integration", "intermediate_integration")
"""Tasks some of whose golds are the question again."""
MAX_EXTRACTED_CHARS = 2000


# ---------------------------------------------------------------------------------------------- rows


def lease(name: str) -> tuple[Callable[..., list[Row]], str]:
    """The function that makes the rows of reasoning-gym's task ``name``, and a sentence about it."""
    known = sorted(UNIQUE | THEIRS | OURS.keys())
    if name in REFUSED:
        raise ValueError(f"task {PREFIX}{name} is refused: {REFUSED[name]}")
    if name not in known:
        hint = nearest(PREFIX + name, [PREFIX + one for one in known])
        raise ValueError(
            f"task {PREFIX}{name} is refused: its verifier in reasoning-gym {AUDITED} was not read, or there is "
            f"none of that name{hint}"
        )
    return functools.partial(_rows, name), f"reasoning-gym's {name}, judged by {_judge_of(name)}."


def _judge_of(name: str) -> str:
    if name in OURS:
        return "a rule of ours"
    return "its own verifier" if name in THEIRS else "its one right answer"


def _rows(name: str, count: int = GYM_ROWS, seed: int = 0, **settings: Any) -> list[Row]:
    """At most ``count`` rows of a task, drawn with ``seed``; further arguments are those of its own configuration.

    Row i is made from ``seed + i``, so seeds less than ``count`` apart share rows (`rewards.tasks.num_shared`).
    """
    try:
        made = entries(name, count, seed, settings)
    except MissingPackage:
        raise _missing(name) from None
    except ValueError as error:
        raise ValueError(
            f"task {PREFIX}{name}: reasoning-gym refuses these arguments: {error}"
        ) from None
    rows = {}
    for entry in made:
        question = entry["question"]
        answer = entry["answer"]
        if name in UNSOLVED and not OURS[name](answer, answer, entry["metadata"]):
            continue  # sympy could not solve it: there is nothing to compare with
        rows[question] = {
            "prompt": question + "\nGive the final answer alone between <answer> and </answer>.",
            "answer": answer,
            "task": name,
            "metadata": entry["metadata"],
            "settings": settings,
        }
    return list(rows.values())


def _missing(name: str) -> ValueError:
    return ValueError(
        f"task {PREFIX}{name} needs the package reasoning-gym: pip install reasoning-gym=={AUDITED}"
    )


def _as_key(*, size: int, seed: int, settings: Mapping[str, Any]) -> str:
    return json.dumps({"size": size, "seed": seed, **settings}, sort_keys=True)


@functools.lru_cache(maxsize=16)
def _dataset(name: str, settings: str) -> Any:
    try:
        from reasoning_gym import create_dataset  # noqa: PLC0415  optional, and heavy
    except ImportError:
        raise _missing(name) from None
    return create_dataset(name, **json.loads(settings))


# ------------------------------------------------------------------------------------------ the reward


def gym_answer(
    text: str,
    task: str,
    answer: str | None,
    metadata: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    partial: bool = False,
    prompt_text: str = "",
) -> Score:
    """1 if the completion's final answer is right for its reasoning-gym task, else 0.

    The final answer is the content of the ``<answer>`` tags, of which there may be one pair, at the end; without
    tags, what `rewards.mathematics.extraction.extract` finds; reasoning that never ends, opened by the completion or by
    ``prompt_text``, holds none. ``partial`` passes on what a task's own verifier gives
    for part of an answer; it does not change tasks judged by `UNIQUE` and `OURS`.
    """
    if answer is None and task in NEEDS_GOLD:
        return Score(
            None, status="fault", detail=f"gym_answer: the row of {task} has no gold answer"
        )
    metadata = as_mapping(metadata)
    final_answer, problem = _final_answer(after_reasoning(text, prompt_text))
    if final_answer is None:
        return Score(0.0, status="no_answer", detail=problem or "no final answer was found")
    if answer is None and task in NEEDS_GOLD:
        return Score(
            None, status="fault", detail=f"gym_answer: the row of {task} has no gold answer"
        )
    extracted = final_answer[:MAX_EXTRACTED_CHARS]
    if problem:
        return Score(0.0, detail=problem, extracted=extracted)
    if task in OURS:
        value = float(OURS[task](final_answer, str(answer), metadata))
    elif task in UNIQUE:
        value = float(_same(final_answer, str(answer)))
    elif task in THEIRS:
        entry = {"answer": answer, "metadata": dict(metadata)}
        points = _points_by_their_verifier(task, final_answer, entry, settings or {})
        value = points if points >= 1.0 or partial else 0.0
    else:
        return Score(None, status="fault", detail=f"gym_answer knows no task {task!r}")
    return Score(value, detail=f"judged by {_judge_of(task)}", extracted=extracted)


def _final_answer(text: str | None) -> tuple[str | None, str]:
    if text is None:
        return None, UNFINISHED
    if is_tagged(text):
        return tagged_answer(text)
    return extract(text).text, ""


def _points_by_their_verifier(
    task: str, answer: str, entry: Row, settings: Mapping[str, Any]
) -> float:
    """The task's own verifier's points; if it fails on the answer's form, that is 0 and no fault."""
    dataset = _dataset(task, _as_key(size=1, seed=0, settings=settings))
    try:
        return float(dataset.score_answer(answer, entry))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return 0.0


# -------------------------------------------------------------------------------------- rules of ours


def _same(answer: str, gold: str) -> bool:
    """Whether two answers are the same text, except for case, white space and what is around it, or the same number."""
    if _normalised(answer) == _normalised(gold) or _normalised(bare(answer)) == _normalised(gold):
        return True
    return same_number(answer, gold)


def _normalised(text: str) -> list[str]:
    return text.casefold().replace(",", ", ").split()


def _makes(answer: str, numbers: list[int], target: int) -> bool:
    """Whether an expression of the numbers, each once, makes the target."""
    try:
        expression = Expression(answer.strip(), signed=True)
        return sorted(expression.numbers) == sorted(numbers) and expression.value() == target
    except (ValueError, ZeroDivisionError):
        return False


def _makes_target(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    return _makes(answer, metadata["numbers"], metadata["target"])


def _makes_24(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    return _makes(answer, metadata["numbers"], 24)


_FUNCTIONS = re.compile(r"\b(exp|sqrt|sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|log|asin|acos|atan)\(")
_FUNCTION_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}


def _in_latex(text: str) -> str:
    """An expression in Python's notation, as our own parser reads it."""
    text = re.sub(r"\bE\b", "e", text).replace("**", "^").replace("*", r" \cdot ")
    return _FUNCTIONS.sub(_function_in_latex, text)


def _function_in_latex(match: re.Match[str]) -> str:
    name = _FUNCTION_NAMES.get(match[1], match[1])
    return rf"\{name}("


def _same_polynomial(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    return equal(_in_latex(answer), _in_latex(gold)).equal is True


SAMPLE_POINTS = (0.37, 0.93, 1.71, 2.9)
"""Where antiderivatives are compared: these points, and the same on the other side of zero."""


def _same_integral(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """Whether two antiderivatives differ by a constant on each side of zero; a constant C of either is dropped."""
    variable = str(metadata["variable"])
    try:
        answer_tree, gold_tree = (fold(parse(_in_latex(text))) for text in (answer, gold))
    except ParseError:
        return False
    if not (symbols(answer_tree) | symbols(gold_tree)) <= {variable, "C"}:
        return False
    num_compared = 0
    for sign in (1, -1):
        points = [sign * x for x in SAMPLE_POINTS]
        differences, scale = _differences(answer_tree, gold_tree, variable, points)
        offset = scale + 1
        for difference in differences:
            if not nearly_equal(offset + difference, offset + differences[0]):
                return False
        num_compared += len(differences) > 2
    return num_compared > 0


def _differences(
    answer_tree: Node, gold_tree: Node, variable: str, points: list[float]
) -> tuple[list[Any], Any]:
    """Answer minus gold wherever both can be evaluated, and the gold's largest absolute value."""
    difference = Node("add", (answer_tree, Node("neg", (gold_tree,))))
    differences: list[Any] = []
    scale = context().mpf(0)
    for x in points:
        point = {variable: context().mpf(x), "C": context().mpf(0)}
        budget = Budget()
        try:
            scale = max(scale, abs(evaluate(gold_tree, point, budget)))
            differences.append(evaluate(difference, point, budget))
        except Undecided:
            continue
    return differences, scale


def _is_valid_board(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    return answer.split() in [board.split() for board in metadata["valid_answers"]]


_NUMBER = re.compile(r"[-+]?\d{1,300}(?:\.\d{1,300})?")
_NUMBER_OR_SEPARATOR = re.compile(rf"{_NUMBER.pattern}|[\s,'\"]")


def _same_list(answer: str, gold: str, metadata: Mapping[str, Any]) -> bool:
    """Whether a list of numbers, quoted or not, is the sorted one."""
    if _NUMBER_OR_SEPARATOR.sub("", answer) not in ("", "[]"):
        return False
    numbers = [float(number) for number in _NUMBER.findall(answer)]
    return numbers == [float(number) for number in metadata["sorted_numbers"]]


OURS: Mapping[str, Callable[[str, str, Mapping[str, Any]], bool]] = {
    **NUMERIC,
    "countdown": _makes_target,
    "puzzle24": _makes_24,
    "polynomial_multiplication": _same_polynomial,
    "simple_integration": _same_integral,
    "intermediate_integration": _same_integral,
    "n_queens": _is_valid_board,
    "number_sorting": _same_list,
}
NEEDS_GOLD = UNIQUE | {
    "polynomial_multiplication",
    "simple_integration",
    "intermediate_integration",
    "coin_flip",
}
"""Tasks that are judged by comparing with a gold; the others are judged by rule."""

gym_answer.judges_without_gold = True  # type: ignore[attr-defined]  # read by rewards.check and preflight
