"""Word problems of the shape of GSM8K's, made by rule: two or three steps of arithmetic, told as a small story.

Each template is a story with its solution. Those of the held-out templates are never trained on, so what is measured
is more than the filling in of numbers.
"""

from __future__ import annotations

import random
from typing import Any, Callable

Row = dict[str, Any]
Story = Callable[[random.Random], tuple[str, list[str], int]]
"""Draws (question, lines of the solution, answer)."""
NAMES = ("Mia", "Omar", "Lena", "Kofi", "Aiko", "Ravi", "Nora", "Luis")


def _name(draw: random.Random) -> str:
    return draw.choice(NAMES)


def shopping(draw: random.Random) -> tuple[str, list[str], int]:
    name, number, price, paid = _name(draw), draw.randint(2, 9), draw.randint(2, 9), 100
    spent = number * price
    question = (
        f"{name} buys {number} notebooks at {price} dollars each and pays with {paid} dollars. "
        f"How many dollars does {name} get back?"
    )
    lines = [f"{number} * {price} = {spent}", f"{paid} - {spent} = {paid - spent}"]
    return question, lines, paid - spent


def baking(draw: random.Random) -> tuple[str, list[str], int]:
    name, trays, each, eaten = (
        _name(draw),
        draw.randint(2, 9),
        draw.randint(4, 9),
        draw.randint(1, 7),
    )
    made = trays * each
    question = f"{name} bakes {trays} trays of {each} rolls. {eaten} rolls are eaten at once. How many rolls are left?"
    return (
        question,
        [f"{trays} * {each} = {made}", f"{made} - {eaten} = {made - eaten}"],
        made - eaten,
    )


def saving(draw: random.Random) -> tuple[str, list[str], int]:
    name, start, week, weeks = (
        _name(draw),
        draw.randint(5, 40),
        draw.randint(2, 9),
        draw.randint(2, 9),
    )
    saved = week * weeks
    question = (
        f"{name} has {start} dollars and saves {week} dollars a week. How many dollars does {name} have after "
        f"{weeks} weeks?"
    )
    return (
        question,
        [f"{week} * {weeks} = {saved}", f"{start} + {saved} = {start + saved}"],
        start + saved,
    )


def sharing(draw: random.Random) -> tuple[str, list[str], int]:
    name, friends, each, own = (
        _name(draw),
        draw.randint(2, 8),
        draw.randint(2, 9),
        draw.randint(1, 9),
    )
    total = friends * each + own
    question = (
        f"{name} has {total} cards, keeps {own} of them and shares the others equally among {friends} friends. "
        "How many cards does each friend get?"
    )
    rest = total - own
    return question, [f"{total} - {own} = {rest}", f"{rest} / {friends} = {each}"], each


def walking(draw: random.Random) -> tuple[str, list[str], int]:
    name, there, days, extra = (
        _name(draw),
        draw.randint(2, 9),
        draw.randint(2, 7),
        draw.randint(1, 9),
    )
    daily = 2 * there
    week = daily * days
    question = (
        f"{name} walks {there} km to work and {there} km back on {days} days, and {extra} km more on Sunday. "
        f"How many km does {name} walk in all?"
    )
    lines = [
        f"2 * {there} = {daily}",
        f"{daily} * {days} = {week}",
        f"{week} + {extra} = {week + extra}",
    ]
    return question, lines, week + extra


def reading(draw: random.Random) -> tuple[str, list[str], int]:
    name, daily, days, left = (
        _name(draw),
        draw.randint(5, 20),
        draw.randint(2, 9),
        draw.randint(5, 60),
    )
    read = daily * days
    question = (
        f"{name} reads {daily} pages a day. After {days} days {left} pages of the book are left. How many pages has "
        "the book?"
    )
    return question, [f"{daily} * {days} = {read}", f"{read} + {left} = {read + left}"], read + left


def parking(draw: random.Random) -> tuple[str, list[str], int]:
    rows, each, leave, come = (
        draw.randint(3, 9),
        draw.randint(4, 9),
        draw.randint(1, 9),
        draw.randint(1, 9),
    )
    full = rows * each
    question = (
        f"A car park has {rows} rows of {each} cars. {leave} cars leave and {come} cars come. How many cars are there "
        "now?"
    )
    lines = [f"{rows} * {each} = {full}", f"{full} - {leave} = {full - leave}"]
    return (
        question,
        [*lines, f"{full - leave} + {come} = {full - leave + come}"],
        full - leave + come,
    )


def tickets(draw: random.Random) -> tuple[str, list[str], int]:
    adults, children, price = draw.randint(2, 6), draw.randint(2, 6), 2 * draw.randint(2, 8)
    for_adults, for_children = adults * price, children * price // 2
    total = for_adults + for_children
    question = (
        f"A ticket costs {price} dollars, and half as much for children. How many dollars do {adults} adults and "
        f"{children} children pay?"
    )
    lines = [f"{adults} * {price} = {for_adults}", f"{price} / 2 = {price // 2}"]
    lines += [
        f"{children} * {price // 2} = {for_children}",
        f"{for_adults} + {for_children} = {total}",
    ]
    return question, lines, total


TRAINED: tuple[Story, ...] = (shopping, baking, saving, sharing, walking)
HELD_OUT: tuple[Story, ...] = (reading, parking, tickets)


def rows(stories: tuple[Story, ...], number: int, seed: str) -> list[Row]:
    """That many different problems, the stories in turn, each with its worked solution."""
    draw = random.Random(seed)
    found: dict[str, Row] = {}
    while len(found) < number:
        question, lines, answer = stories[len(found) % len(stories)](draw)
        solution = "\n".join([*lines, f"#### {answer}"])
        found.setdefault(
            question, {"prompt": question, "answer": str(answer), "completion": solution}
        )
    return list(found.values())


def trained(number: int) -> list[Row]:
    """Problems of the stories that train."""
    return rows(TRAINED, number, "train")


def held_out(number: int) -> list[Row]:
    """Problems of the others, without solutions."""
    found = rows(HELD_OUT, number, "held out")
    return [{"prompt": row["prompt"], "answer": row["answer"]} for row in found]
