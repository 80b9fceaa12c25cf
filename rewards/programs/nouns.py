"""The three kinds of tests that a row may carry. Reading them is in ``formats``, running them in ``protocols``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

__all__ = ["AssertTests", "BadTests", "CallTests", "IOTests", "TestData"]


class BadTests(ValueError):
    """A row's tests cannot be read, or there are none."""


@dataclass(frozen=True, slots=True)
class IOTests:
    """Inputs of a program and what it must print. ``hidden[i]``: whether test i is kept from the policy.

    ``checker`` is the source of a Python program that is called with three files (the input, the expected output, the
    program's output) and prints 1 if the output is right.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    hidden: Sequence[bool]
    checker: str = ""
    seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CallTests:
    """Arguments of a function, and what it must return.

    ``may_be_wrapped``: outputs that are all lists of one may stand for their items, if that holds for the whole row.
    """

    name: str
    arguments: Sequence[Sequence[Any]]
    outputs: Sequence[Any]
    hidden: Sequence[bool]
    starter: str = ""
    may_be_wrapped: bool = False


@dataclass(frozen=True, slots=True)
class AssertTests:
    """Assert statements: source texts, what they need, and the function that holds them, if one does.

    ``suite``: the source holds test functions, to be called as pytest or unittest would. ``inside``: they need the
    candidate's own classes, or replace parts of it, so they can only run in its process.
    """

    tests: Sequence[str]
    setup: str = ""
    check: str = ""
    entry: str = ""
    prompt: str = ""
    hidden: Sequence[bool] = field(default_factory=tuple)
    suite: bool = False
    inside: bool = False


TestData = IOTests | CallTests | AssertTests
