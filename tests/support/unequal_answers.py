"""Random answers that differ, each in one of many spellings: intervals, sets, letters, expressions.

Every function returns ``(gold, prediction)`` of two answers that are unequal by construction; `expressions` checks values at
random points. `same_expression` is one expression in plain text and in LaTeX.
"""

from __future__ import annotations

import cmath
import math
import random
from fractions import Fraction
from typing import Any, Callable

Pair = tuple[str, str]
INFINITY = ["oo", "inf", "infinity", "\\infty", "∞"]


def number(value: Fraction, rng: random.Random) -> str:
    """Write a rational in plain text or LaTeX."""
    if value.denominator == 1:
        return rng.choice([str(value), str(value).replace("-", "−")])
    forms = [f"{value.numerator}/{value.denominator}"]
    sign = "-" if value < 0 else ""
    forms.append(f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}")
    if value.denominator in (2, 4):
        forms.append(str(float(value)))
    return rng.choice(forms)


def rational(rng: random.Random) -> Fraction:
    return Fraction(rng.randint(-40, 40), rng.choice([1, 1, 1, 2, 3]))


# intervals: (low, high, whether low belongs to it, whether high does); None for an infinite end

Interval = tuple[Any, Any, bool, bool]


def random_intervals(rng: random.Random) -> list[Interval]:
    ends = sorted({rational(rng) for _ in range(8)})[: 2 * rng.randint(1, 2)]
    pieces = [
        (low, high, rng.random() < 0.5, rng.random() < 0.5)
        for low, high in zip(ends[::2], ends[1::2])
    ]
    if rng.random() < 0.3:
        pieces[0] = (None, pieces[0][1], False, pieces[0][3])
    if rng.random() < 0.3 and pieces[-1][0] is not None:
        pieces[-1] = (pieces[-1][0], None, pieces[-1][2], False)
    return pieces


def written_intervals(pieces: list[Interval], rng: random.Random) -> str:
    """Write a union of intervals in brackets or as inequalities."""
    if rng.random() < 0.4:
        return rng.choice([" or ", " \\text{ or } "]).join(
            inequality(piece, rng) for piece in pieces
        )
    union = rng.choice([" U ", "∪", "\\cup", " \\cup "])
    return union.join(bracketed(piece, rng) for piece in pieces)


def bracketed(piece: Interval, rng: random.Random) -> str:
    low, high, has_low, has_high = piece
    left = "-" + rng.choice(INFINITY) if low is None else number(low, rng)
    right = rng.choice(["", "+"]) + rng.choice(INFINITY) if high is None else number(high, rng)
    opening, closing = "(["[has_low], ")]"[has_high]
    if rng.random() < 0.3:
        opening, closing = "\\left" + opening, "\\right" + closing
    return f"{opening}{left}, {right}{closing}"


def inequality(piece: Interval, rng: random.Random) -> str:
    low, high, has_low, has_high = piece
    below = rng.choice(["<=", "≤", "\\le "]) if has_low else rng.choice(["<", "\\lt "])
    above = rng.choice(["<=", "≤", "\\leq "]) if has_high else "<"
    if low is None:
        return f"x {above} {number(high, rng)}"
    if high is None:
        above = rng.choice([">=", "≥", "\\ge "]) if has_low else ">"
        return f"x {above} {number(low, rng)}"
    return f"{number(low, rng)} {below} x {above} {number(high, rng)}"


def other_intervals(pieces: list[Interval], rng: random.Random) -> list[Interval]:
    """Change one end, or whether it belongs to the set, or drop a piece."""
    changed = list(pieces)
    index = rng.randrange(len(pieces))
    low, high, has_low, has_high = pieces[index]
    if len(pieces) > 1 and rng.random() < 0.2:
        del changed[index]
        return changed
    shift = Fraction(1, rng.choice([7, 9]))  # too far for a rounding, too near for the next end
    kinds: list[Interval] = []
    if low is not None:
        kinds += [(low, high, not has_low, has_high), (low - shift, high, has_low, has_high)]
        kinds += [(None, high, False, has_high)] if index == 0 and high is not None else []
    if high is not None:
        kinds += [(low, high, has_low, not has_high), (low, high + shift, has_low, has_high)]
        if index == len(pieces) - 1 and low is not None:
            kinds.append((low, None, has_low, False))
    changed[index] = rng.choice(kinds)
    return changed


def intervals(rng: random.Random) -> Pair:
    pieces = random_intervals(rng)
    return written_intervals(pieces, rng), written_intervals(other_intervals(pieces, rng), rng)


# sets


def written_set(values: list[str], rng: random.Random) -> str:
    values = rng.sample(values, len(values))
    joined = ", ".join(values)
    forms = [
        joined,
        f"{{{joined}}}",
        f"\\{{{joined}\\}}",
        "; ".join(values),
        "\\left\\{" + joined + "\\right\\}",
    ]
    forms += [" or ".join(f"x = {value}" for value in values), "x = " + joined]
    if len(values) > 1:
        forms += [", ".join(values[:-1]) + " and " + values[-1], " or ".join(values)]
    return rng.choice(forms)


def members(rng: random.Random) -> list[tuple[float, Callable[[random.Random], str]]]:
    """Return distinct values with a way to write each."""
    found: dict[float, Callable[[random.Random], str]] = {}
    for _ in range(rng.randint(2, 5)):
        value = rational(rng)
        root = rng.choice([2, 3, 5, 7])
        if rng.random() < 0.25:
            found[float(value) + math.sqrt(root)] = surd(value, root)
        else:
            found[float(value)] = lambda rng, value=value: number(value, rng)
    return list(found.items())


def surd(value: Fraction, root: int) -> Callable[[random.Random], str]:
    def write(rng: random.Random) -> str:
        shown = rng.choice([f"\\sqrt{{{root}}}", f"sqrt({root})", f"√{root}", f"{root}^(1/2)"])
        return f"{number(value, rng)}+{shown}"

    return write


def sets(rng: random.Random) -> Pair:
    items = members(rng)
    changed = list(items)
    kind = rng.choice(["drop", "add", "replace", "negate"])
    index = rng.randrange(len(items))
    new = Fraction(rng.randint(91, 190), rng.choice([1, 2]))
    if kind == "drop" and len(items) > 1:
        del changed[index]
    elif kind == "add":
        changed.append((float(new), lambda rng: number(new, rng)))
    elif kind == "negate" and all(abs(value + items[index][0]) > 1e-9 for value, _ in items):
        write = items[index][1]
        changed[index] = (-items[index][0], lambda rng: f"-({write(rng)})")
    else:
        changed[index] = (float(new), lambda rng: number(new, rng))
    return written_set([w(rng) for _, w in items], rng), written_set(
        [w(rng) for _, w in changed], rng
    )


# letters


def written_letters(letters: str, rng: random.Random) -> str:
    marked = [f"({letter})" for letter in letters]
    words = list(letters)
    forms = [
        letters,
        ", ".join(words),
        ",".join(words),
        ", ".join(marked),
        "".join(marked),
        f"\\text{{{letters}}}",
    ]
    if len(letters) > 1:
        forms += [" and ".join(words), ", ".join(words[:-1]) + " and " + words[-1]]
        forms += [
            f"\\text{{{' and '.join(words)}}}",
            ", ".join(words[:-1]) + ", and " + words[-1],
            " and ".join(marked),
        ]
    return rng.choice(forms)


def letters(rng: random.Random) -> Pair:
    chosen = sorted(rng.sample("ABCDEFGH", rng.randint(1, 5)))
    others = [letter for letter in "ABCDEFGH" if letter not in chosen]
    changed = list(chosen)
    kind = rng.choice(["drop", "add", "replace", "either"])
    if kind == "drop" and len(chosen) > 1:
        changed = sorted(rng.sample(chosen, rng.randint(1, len(chosen) - 1)))
    elif kind == "add":
        changed = sorted([*chosen, *rng.sample(others, rng.randint(1, len(others)))])
    elif kind == "either" and len(chosen) > 1:
        return written_letters("".join(chosen), rng), " or ".join(chosen)
    else:
        changed[rng.randrange(len(changed))] = rng.choice(others)
    return written_letters("".join(chosen), rng), written_letters("".join(sorted(changed)), rng)


# expressions: trees of (operator, *operands); leaves are symbols, numbers, "pi" and "e"

Tree = Any


def tree(rng: random.Random, depth: int) -> Tree:
    if depth == 0:
        return rng.choice(["x", "y", "x", "pi", "e", rng.randint(2, 9), rng.randint(2, 12)])
    kind = rng.choice(["+", "-", "*", "/", "^", "sqrt", "sin", "cos", "exp", "ln", "neg", "abs"])
    if kind in ("+", "-", "*", "/"):
        return (kind, tree(rng, depth - 1), tree(rng, rng.randrange(depth)))
    if kind == "^":
        return (kind, tree(rng, depth - 1), rng.choice([2, 3, 4, -1, -2]))
    return (kind, tree(rng, depth - 1))


def value(node: Tree, point: dict[str, float]) -> complex:
    if isinstance(node, int):
        return complex(node)
    if isinstance(node, str):
        return complex({"pi": math.pi, "e": math.e}.get(node) or point[node])
    operands = [value(operand, point) for operand in node[1:]]
    return complex(VALUES[node[0]](*operands))


VALUES: dict[str, Callable[..., complex]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "^": lambda a, b: a**b, "sqrt": cmath.sqrt, "sin": cmath.sin, "cos": cmath.cos, "exp": cmath.exp, "ln": cmath.log,
    "neg": lambda a: -a, "abs": abs,
}  # fmt: skip


def plain(node: Tree, rng: random.Random) -> str:
    """Write a tree in plain text."""
    if not isinstance(node, tuple):
        return rng.choice(["π", "pi"]) if node == "pi" else str(node)
    kind, *operands = node
    shown = [plain(operand, rng) for operand in operands]
    if kind in ("+", "-"):
        return f"{shown[0]} {kind} {wrapped(operands[1], shown[1])}"
    if kind == "*" and isinstance(operands[0], int) and not isinstance(operands[1], int):
        if rng.random() < 0.5:
            return f"{shown[0]}{wrapped(operands[1], shown[1])}"
    if kind in ("*", "/"):
        return f"{wrapped(operands[0], shown[0])}{kind}{wrapped(operands[1], shown[1])}"
    if kind == "^":
        return f"{wrapped(operands[0], shown[0])}{rng.choice(['^', '**'])}{f'({shown[1]})' if operands[1] < 0 else shown[1]}"
    if kind == "neg":
        return f"-{wrapped(operands[0], shown[0])}"
    return f"{kind}({shown[0]})"


def latex(node: Tree) -> str:
    """Write a tree in LaTeX."""
    if not isinstance(node, tuple):
        return "\\pi " if node == "pi" else str(node)
    kind, *operands = node
    shown = [latex(operand) for operand in operands]
    if kind in ("+", "-"):
        return f"{shown[0]} {kind} {wrapped(operands[1], shown[1])}"
    if kind == "*":
        return f"{wrapped(operands[0], shown[0])} \\cdot {wrapped(operands[1], shown[1])}"
    if kind == "/":
        return f"\\frac{{{shown[0]}}}{{{shown[1]}}}"
    if kind == "^":
        return f"{wrapped(operands[0], shown[0])}^{{{shown[1]}}}"
    if kind == "neg":
        return f"-{wrapped(operands[0], shown[0])}"
    if kind == "sqrt":
        return f"\\sqrt{{{shown[0]}}}"
    if kind == "abs":
        return f"\\left|{shown[0]}\\right|"
    if kind == "exp":
        return f"e^{{{shown[0]}}}"
    return f"\\{kind}({shown[0]})"


def wrapped(node: Tree, shown: str) -> str:
    return f"({shown})" if isinstance(node, tuple) else shown


def changed_tree(node: Tree, rng: random.Random) -> Tree:
    """Change one operator, function, number or symbol of a tree."""
    if not isinstance(node, tuple):
        if isinstance(node, int):
            return node + rng.choice([-1, 1, 2])
        return rng.choice([symbol for symbol in ("x", "y", "pi", "e", 2) if symbol != node])
    kind, *operands = node
    if rng.random() < 0.35:
        if kind in ("+", "-", "*", "/"):
            return (rng.choice([other for other in "+-*/" if other != kind]), *operands)
        if kind == "^":
            return (kind, operands[0], operands[1] + 1 or 2)
        return (
            rng.choice([other for other in ("sqrt", "sin", "cos", "neg") if other != kind]),
            *operands,
        )
    index = rng.randrange(len(operands)) if kind != "^" else 0
    operands[index] = changed_tree(operands[index], rng)
    return (kind, *operands)


def expressions(rng: random.Random) -> Pair:
    """Return two expressions that differ clearly at each of some points."""
    while True:
        node = tree(rng, rng.randint(1, 3))
        other = changed_tree(node, rng)
        if differ_everywhere(node, other):
            writers = [lambda n: plain(n, rng), latex]
            return rng.choice(writers)(node), rng.choice(writers)(other)


def same_expression(rng: random.Random) -> Pair:
    """Return an expression in LaTeX and in plain text, one way or the other."""
    while True:
        node = tree(rng, rng.randint(1, 3))
        if is_tame(node):
            pair = [latex(node), plain(node, rng)]
            rng.shuffle(pair)
            return pair[0], pair[1]


POINTS = [{"x": 0.37, "y": 0.81}, {"x": 1.9, "y": 2.7}, {"x": 3.3, "y": 1.2}]


def is_tame(node: Tree) -> bool:
    """Tell whether a tree has real values of ordinary size at all points, and no huge ones inside."""
    try:
        values = [value(node, point) for point in POINTS]
        if max(largest(node, point) for point in POINTS) > 1e6:
            return False
    except (ArithmeticError, ValueError):
        return False
    return all(abs(v.imag) < 1e-12 and 1e-3 < abs(v) < 1e6 for v in values)


def largest(node: Tree, point: dict[str, float]) -> float:
    """Return the largest magnitude of a tree's parts: a sine of 1e12 says nothing about reading."""
    parts = node[1:] if isinstance(node, tuple) else ()
    return max(abs(value(node, point)), *(largest(part, point) for part in parts), 0.0)


def differ_everywhere(node: Tree, other: Tree) -> bool:
    if not is_tame(node) or not is_tame(other):
        return False
    pairs = [(value(node, point), value(other, point)) for point in POINTS]
    return all(abs(a - b) > 0.01 * max(abs(a), abs(b)) for a, b in pairs)


KINDS: dict[str, Callable[[random.Random], Pair]] = {
    "intervals": intervals,
    "sets": sets,
    "letters": letters,
    "expressions": expressions,
}
