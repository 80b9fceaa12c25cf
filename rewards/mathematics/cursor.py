"""What every part of the parser shares: a position in the tokens, the bounds, and the grammar's other rules.

`Cursor` reads tokens and makes nodes. `Grammar` adds the rules that call each other in a circle: brackets hold
statements, statements hold brackets. The files that read brackets, commands and suffixes take a `Grammar`; the
only complete one is ``rewards.mathematics.latex.Parser``.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any, Iterator

from rewards.mathematics.tokens import END, Token
from rewards.mathematics.tree import MAX_DEPTH, MAX_NODES, Node, ParseError

__all__ = ["Cursor", "Grammar"]


class Cursor:
    """A position in the tokens of one answer; counts nodes and levels.

    ``open_bars`` is how many absolute values are open, ``bar_separates`` whether a bar ends a set-builder's element,
    ``open_integrals`` how many integrals still wait for their ``dx``, and ``open_rows`` how many environments are open.
    """

    def __init__(self, tokens: list[Token], lenient: bool):
        self.tokens = tokens
        self.position = 0
        self.lenient = lenient
        self.num_nodes = 0
        self.depth = 0
        self.open_bars = 0
        self.bar_separates = False
        self.open_integrals = 0
        self.open_rows = 0

    @property
    def next(self) -> Token:
        return self.peek(0)

    @property
    def previous(self) -> Token:
        return self.tokens[self.position - 1]

    def peek(self, ahead: int = 1) -> Token:
        index = self.position + ahead
        if index < len(self.tokens):
            return self.tokens[index]
        return END

    def take(self) -> Token:
        token = self.next
        self.position += 1
        return token

    def accept(self, *values: str) -> bool:
        """Take the next token if it is one of these, and tell whether it was."""
        if self.next.kind == "text":
            return False
        if self.next.value not in values:
            return False
        self.position += 1
        return True

    def expect(self, value: str) -> None:
        """Take the next token, which must be this one."""
        if not self.accept(value):
            raise ParseError(f"expected {value}, found {self.next.value or 'the end'}")

    def node(self, op: str, args: tuple[Node, ...] = (), value: Any = None) -> Node:
        """Return a node, within the bound on their number."""
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise ParseError("too many nodes")
        return Node(op, args, value)

    @contextlib.contextmanager
    def level(self) -> Iterator[None]:
        """Go one level down, within the bound on their depth."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError("nested too deeply")
        yield
        self.depth -= 1

    def open_group(self, *, bar_separates: bool) -> tuple[int, bool]:
        """Enter brackets, in which the bars outside mean nothing; returns what `close_group` restores."""
        outside = (self.open_bars, self.bar_separates)
        self.open_bars = 0
        self.bar_separates = bar_separates
        return outside

    def close_group(self, outside: tuple[int, bool]) -> None:
        """Leave brackets."""
        self.open_bars, self.bar_separates = outside


class Grammar(Cursor, ABC):
    """The rules that the parser's parts call, from the loosest binding to the tightest."""

    @abstractmethod
    def items(self) -> Node:
        """Return one statement, or a ``list`` of those that commas, "and" and "or" separate."""

    @abstractmethod
    def statement(self) -> Node:
        """Return an expression or a chain of relations."""

    @abstractmethod
    def set_expression(self) -> Node:
        """Return a union, intersection or difference of sets, or what binds tighter."""

    @abstractmethod
    def sum(self) -> Node:
        """Return a sum or what binds tighter."""

    @abstractmethod
    def signed(self) -> Node:
        """Return a term with its sign."""

    @abstractmethod
    def term(self) -> Node:
        """Return a product, quotient or mixed number."""

    @abstractmethod
    def operand(self) -> Node:
        """Return the factor after an operator, which may carry a sign."""

    @abstractmethod
    def factor(self) -> Node:
        """Return an atom with its exponents, subscripts and other suffixes."""

    @abstractmethod
    def atom(self) -> Node:
        """Return a number, symbol, group, function or text."""

    @abstractmethod
    def exponent(self) -> Node:
        """Return an exponent or a bound: a group, a signed number or one atom."""

    @abstractmethod
    def argument(self) -> Node:
        """Return a command's argument: a braced group, one digit, or one atom."""

    @abstractmethod
    def braced(self) -> Node:
        """Return the content of braces; a list in braces is a set."""

    def product(self, factors: list[Node]) -> Node:
        """Return the product of one or more factors."""
        if len(factors) == 1:
            return factors[0]
        return self.node("mul", tuple(factors))

    def braced_name(self) -> str:
        """Consume ``{...}`` and return the letters in it."""
        self.expect("{")
        name = ""
        while not self.accept("}"):
            if self.next is END:
                raise ParseError("an open brace")
            name += self.take().value
        return name
