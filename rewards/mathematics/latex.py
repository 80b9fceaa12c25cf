"""LaTeX answers become bounded trees: nothing is evaluated, and no text is ever executed.

`parse` reads the notation that answers are written in, with or without LaTeX commands, and returns a
`Node`. What is over a bound or makes no sense raises `ParseError`. Leaves out: what a tree means and
whether two of them are equal (``rewards.mathematics.expressions``, ``rewards.mathematics.equality``).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rewards.mathematics.brackets import bracketed
from rewards.mathematics.commands import command
from rewards.mathematics.digits import number
from rewards.mathematics.notation import clean
from rewards.mathematics.suffixes import degrees, power, subscripted
from rewards.mathematics.tokens import (
    APPLIED,
    CLOSING,
    CONNECTORS,
    DIVIDE,
    END,
    FRACTIONS,
    MONEY,
    MULTIPLIERS,
    OPENING,
    QUALIFIERS,
    RELATIONS,
    ROW_ENDS,
    SET_OPERATIONS,
    TIMES,
    Token,
    tokens,
)
from rewards.mathematics.tree import (
    DEEPEST,
    LONGEST,
    MOST_NODES,
    Node,
    ParseError,
    has_text,
    is_domain,
    is_proper,
    without_domains,
)
from rewards.mathematics.units import unit_of

__all__ = ["Parser", "parse"]


def parse(text: str, *, grouped: bool = True, lenient: bool = False) -> Node:
    """Return the tree of an answer; `grouped` reads ``1,234`` outside brackets as one number.

    Raises `ParseError` where the text is over 2000 characters, 600 nodes, 60 levels or 2000 digits in a
    number, or where it is not an answer that this grammar knows.
    """
    if len(text) > LONGEST:
        raise ParseError("too long")
    try:
        return Parser(tokens(clean(text), grouped), lenient).answer()
    except RecursionError:
        raise ParseError("nested too deeply") from None


class Parser:
    """Recursive descent over the tokens of one answer; counts nodes and levels."""

    def __init__(self, tokens: list[Token], lenient: bool):
        self.tokens, self.position = tokens, 0
        self.lenient = lenient
        self.num_nodes = 0
        self.depth = 0
        self.bars = 0
        self.separator_bar = False
        self.integrals = 0

    # reading

    @property
    def next(self) -> Token:
        return self.tokens[self.position] if self.position < len(self.tokens) else END

    def peek(self, ahead: int = 1) -> Token:
        return (
            self.tokens[self.position + ahead] if self.position + ahead < len(self.tokens) else END
        )

    def take(self) -> Token:
        token = self.next
        self.position += 1
        return token

    def accept(self, *values: str) -> bool:
        if self.next.kind != "text" and self.next.value in values:
            self.position += 1
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.accept(value):
            raise ParseError(f"expected {value}, found {self.next.value or 'the end'}")

    def node(self, op: str, args: tuple[Node, ...] = (), value: Any = None) -> Node:
        self.num_nodes += 1
        if self.num_nodes > MOST_NODES:
            raise ParseError("too many nodes")
        return Node(op, args, value)

    # statements and lists

    def answer(self) -> Node:
        """Return the whole answer; ``;`` outside brackets separates groups of a list."""
        if not self.tokens:
            raise ParseError("empty")
        groups = [self.items()]
        while self.accept(";"):
            if self.next is not END:
                groups.append(self.items())
        while self.accept(".", "\\\\"):
            pass
        if self.next is not END:
            raise ParseError(f"left over: {self.next.value}")
        if len(groups) == 1:
            return groups[0]
        return self.node("list", tuple(groups), ";")

    def items(self) -> Node:
        """Return one statement, or a ``list`` of those that commas, "and" and "or" separate."""
        items, kinds = [], []
        while True:
            items.append(self.statement())
            kind = self.separator()
            if (
                kind is None
                or self.next is END
                or (self.next.kind != "text" and self.next.value in CLOSING | ROW_ENDS)
            ):
                break
            kinds.append(kind)
        items = without_domains(items)
        if len(items) == 1:
            return items[0]
        return self.node(
            "list", tuple(items), "or" if "or" in kinds else "and" if "and" in kinds else ","
        )

    def separator(self) -> str | None:
        """Consume the separator between two items of a list and return its kind."""
        kind = None
        while True:
            if self.accept(","):
                kind = kind or ","
            elif self.next.kind == "cmd" and self.next.value in ("\\and", "\\land", "\\wedge"):
                self.take()
                kind = "and"
            elif self.next.kind == "cmd" and self.next.value in ("\\or", "\\lor", "\\vee"):
                self.take()
                kind = "or"
            elif self.next.kind == "text" and self.next.value.strip(" ,;").lower() in CONNECTORS:
                kind = CONNECTORS[self.take().value.strip(" ,;").lower()]
            else:
                return kind

    def statement(self) -> Node:
        """Return an expression or a chain of relations, without a qualifier such as "for all x"."""
        while self.accept("\\approx", "="):
            pass
        operands, relations = [self.labelled()], []
        while relation := self.relation():
            relations.append(relation)
            operands.append(self.sets())
        if self.accept("\\pmod", "\\bmod", "\\mod"):
            operands.append(self.argument())
            relations.append("mod")
        self.qualifier()
        if self.next.kind == "text" and self.next.value.strip(" ,").lower() in ("if", "when"):
            self.take()
            value = (
                self.node("rel", tuple(operands), tuple(relations)) if relations else operands[0]
            )
            return self.node("when", (value, self.statement()))
        return self.node("rel", tuple(operands), tuple(relations)) if relations else operands[0]

    def relation(self) -> str | None:
        """Consume a relation sign and return its name."""
        token = self.next
        if token.kind == "text" or (token.value == "\\mid" and self.separator_bar):
            return None
        if token.value == "\\not":
            self.take()
            return {"=": "!=", "in": "notin"}.get(self.relation() or "", "not")
        name = RELATIONS.get(token.value)
        if name:
            self.take()
            if name in "<>" and self.accept("="):
                name += "="
        return name

    def labelled(self) -> Node:
        """Return a side of a relation; ``Name: value`` becomes an equation of a text and its value."""
        left = self.sets()
        if self.next.value == ":" and left.op in ("text", "mul") and has_text(left):
            self.take()
            return self.node("rel", (left, self.sets()), ("=",))
        return left

    def qualifier(self) -> None:
        """Drop what restricts a statement without changing its value: "for all x in Z", "where k is an integer"."""
        at = self.position + (self.next.value == ",")
        token = self.tokens[at] if at < len(self.tokens) else END
        words = token.value.strip(" ,").lower().split() if token.kind == "text" else []
        if not (words and words[0] in QUALIFIERS) and not (
            token.value == "\\forall" and self.position
        ):
            return
        level = 0
        while self.next is not END and not (level == 0 and self.ends_qualifier()):
            if self.next.kind != "text":
                level += (self.next.value in OPENING or self.next.value == "{") - (
                    self.next.value in CLOSING
                )
            self.take()

    def ends_qualifier(self) -> bool:
        """Tell whether a new item of the list, or the end of the brackets, comes after a qualifier."""
        token = self.next
        if token.kind == "text":
            return token.value.strip(" ,;").lower() in CONNECTORS
        return token.value in (";", "\\and", "\\or", "&", "\\\\", "\\end") or token.value in CLOSING

    # sets, ratios, sums, products

    def sets(self) -> Node:
        """Return a union, intersection or difference of what stands on the next level."""
        left = self.ratio()
        while self.next.kind == "cmd" and self.next.value in SET_OPERATIONS:
            operation = SET_OPERATIONS[self.take().value]
            left = self.node(operation, (left, self.ratio()))
        return left

    def ratio(self) -> Node:
        """Return a ratio ``a:b`` or what stands on the next level."""
        parts = [self.sum()]
        while (
            self.next.value == ":"
            and self.next.kind == "mark"
            and not self.separator_bar
            and not has_text(parts[0])
        ):
            if self.peek().value == "=":
                self.take()
                break
            self.take()
            parts.append(self.sum())
        return self.node("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    def sum(self) -> Node:
        """Return a sum; ``\\pm`` becomes a ``pm`` node that stands for both signs."""
        terms = [self.signed()]
        while self.next.kind in ("mark", "cmd") and self.next.value in ("+", "-", "\\pm", "\\mp"):
            sign = self.take().value
            term = self.term()
            if sign in ("\\pm", "\\mp"):
                term = self.node("pm", (term,), "+" if sign == "\\pm" else "-")
            terms.append(self.node("neg", (term,)) if sign == "-" else term)
        return self.node("add", tuple(terms)) if len(terms) > 1 else terms[0]

    def signed(self) -> Node:
        """Return a term with its sign."""
        sign = self.next.value if self.next.kind in ("mark", "cmd") else ""
        if sign not in ("+", "-", "\\pm", "\\mp"):
            return self.term()
        self.deeper()
        self.take()
        term = self.signed()
        self.depth -= 1
        if sign == "+":
            return term
        return (
            self.node("neg", (term,))
            if sign == "-"
            else self.node("pm", (term,), "+" if sign == "\\pm" else "-")
        )

    def deeper(self) -> None:
        """Go one level down, within the bound."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise ParseError("nested too deeply")

    def term(self) -> Node:
        """Return a product, quotient or mixed number."""
        left = self.factor()
        factors = [left]
        called = False
        while True:
            token = self.next
            if token.kind != "text" and token.value in TIMES:
                self.take()
                factors.append(self.operand())
            elif token.kind != "text" and token.value in DIVIDE:
                self.take()
                divisor = self.operand()
                factors = [self.node("div", (self.product(factors), divisor))]
            elif self.starts_factor(token):
                called = called or token.value == "("
                self.juxtapose(factors)
            else:
                break
        if called and len(factors) == 2 and factors[0].op == "sym":
            return self.node("mul", tuple(factors), "call?")
        return self.product(factors)

    def operand(self) -> Node:
        """Return the factor behind an operator, which may carry a sign."""
        if self.next.value in ("-", "+") and self.next.kind == "mark":
            self.deeper()
            negative = self.take().value == "-"
            operand = self.operand()
            self.depth -= 1
            return self.node("neg", (operand,)) if negative else operand
        return self.factor()

    def product(self, factors: list[Node]) -> Node:
        """Return the product of one or more factors."""
        return factors[0] if len(factors) == 1 else self.node("mul", tuple(factors))

    def starts_factor(self, token: Token) -> bool:
        """Tell whether a token continues a product without a sign."""
        if token.kind in ("num", "name"):
            return not (
                self.integrals and token.value == "d" and self.peek().kind in ("name", "cmd")
            )
        if token.kind == "text":
            return not _stops(token.value)
        value = token.value
        if value == "|" or value == "\\|":
            return not self.bars and not self.separator_bar
        if (
            value in RELATIONS
            or value in SET_OPERATIONS
            or value in TIMES
            or value in DIVIDE
            or value in CLOSING
            or value in _BREAKS
        ):
            return False
        return value in OPENING or value == "{" or (token.kind == "cmd" and value != "\\end")

    def juxtapose(self, factors: list[Node]) -> None:
        """Append the next factor: a mixed number's fraction, a unit, or a multiplicand."""
        token, last = self.next, factors[-1]
        whole = (
            last.op == "num"
            and last.value.denominator == 1
            and self.tokens[self.position - 1].kind == "num"
        )
        if token.kind == "text":
            factors[-1] = self.with_text(last, self.words())
            if (
                len(factors) > 1
                and factors[-2].op == factors[-1].op == "unit"
                and last.op in ("num", "dec")
            ):
                self.compound(factors)
            return
        if token.kind == "num" and self.tokens[self.position - 1].kind == "num":
            if not (whole and self.peek().value == "/" and self.peek(2).kind == "num"):
                raise ParseError("two numbers side by side")
            top, _, bottom = self.take(), self.take(), self.take()
            part = self.node("div", (number(self, top.value), number(self, bottom.value)))
            factors[-1] = self.node("add", (last, part), "mixed")
            return
        factor = self.factor()
        if is_domain(factor):
            return
        outer, factor = (factor, factor.args[0]) if factor.op == "percent" else (None, factor)
        if whole and token.value in FRACTIONS and factor.op == "div" and is_proper(factor):
            mixed = self.node("add", (last, factor), "mixed")
            factors[-1] = self.node("percent", (mixed,)) if outer else mixed
        elif outer is not None:
            factors.append(outer)
        elif (
            last.op == "unit"
            and factor.op == "unit"
            and last.value.dimensions == factor.value.dimensions
        ):
            factors[-1] = self.node("add", (last, factor))
        elif (
            last.op == "sym"
            and token.value == "("
            and (factor.op == "group" or last.value in APPLIED)
        ):
            called = factor.args if factor.op == "group" else (factor,)
            chosen = last.value == "C" and len(called) == 2
            factors[-1] = (
                self.node("call", called, "binom")
                if chosen
                else self.node("apply", called, last.value)
            )
        else:
            factors.append(factor)

    def words(self) -> str:
        """Consume the words that follow each other and return them as one text."""
        words = [self.take().value.strip()]
        while self.next.kind == "text" and not _stops(self.next.value):
            words.append(self.take().value.strip())
        return " ".join(word for word in words if word)

    def compound(self, factors: list[Node]) -> None:
        """Turn ``2 hours 30 minutes`` into a sum."""
        smaller, larger = factors.pop(), factors.pop()
        if smaller.value.dimensions == larger.value.dimensions:
            factors.append(self.node("add", (larger, smaller)))
        else:
            factors += (larger, smaller)

    def with_text(self, left: Node, text: str) -> Node:
        """Return a quantity with the unit or noun that `text` names."""
        exponent = None
        if self.next.value == "^":
            self.take()
            exponent = self.exponent()
        name = text.strip(" .,")
        if left.op == "text":
            return self.node("text", (), f"{left.value} {name}")
        if exponent is not None:
            name = f"{name}^{exponent.value}" if exponent.op == "num" else name
        if name.lower() in ("st", "nd", "rd", "th", ""):
            return left
        first, _, others = name.partition(" ")
        if first.lower() in MULTIPLIERS:
            left = self.node(
                "mul", (left, self.node("num", (), Fraction(MULTIPLIERS[first.lower()])))
            )
            return self.with_text(left, others) if others.strip() else left
        unit = unit_of(name)
        if unit is None:
            return self.node("mul", (left, self.node("text", (), name)))
        return self.node("unit", (left,), unit)

    # factors

    def factor(self) -> Node:
        """Return an atom with its exponents, subscripts, factorials and percent or degree signs."""
        base = self.atom()
        while True:
            token = self.next
            if token.kind not in ("mark", "cmd"):
                break
            if token.value == "^":
                base = power(self, base)
            elif token.value == "_" and base.op in ("num", "sym", "const", "group"):
                base = subscripted(self, base)
            elif token.value == "!" and self.peek().value != "=":
                self.take()
                base = self.node("call", (base,), "factorial")
            elif token.value in ("\\%", "%"):
                self.take()
                base = self.node("percent", (base,))
            elif token.value in ("\\degree", "\\circ"):
                self.take()
                base = degrees(self, base)
            elif token.value in ("'", "\\prime") and base.op == "sym":
                self.take()
                base = self.node("sym", (), base.value + "'")
            elif token.value in MONEY and base.op in ("num", "dec"):
                base = self.node("unit", (base,), unit_of(MONEY[self.take().value]))
            else:
                break
        return base

    def exponent(self) -> Node:
        """Return an exponent: a group, a signed number or one atom."""
        self.deeper()
        if self.next.value == "{":
            result = self.braced()
        elif self.next.value in ("-", "+") and self.next.kind == "mark":
            result = (
                self.operand() if self.take().value == "+" else self.node("neg", (self.exponent(),))
            )
        else:
            result = self.atom()
        self.depth -= 1
        return result

    def atom(self) -> Node:
        """Return a number, symbol, group, function or text."""
        token = self.take()
        if token.kind == "num":
            return number(self, token.value)
        if token.kind == "name":
            return self.symbol(token.value)
        if token.kind == "text":
            return self.text()
        if token.kind == "cmd":
            return command(self, token.value)
        return bracketed(self, token.value)

    def symbol(self, letter: str) -> Node:
        """Return a letter: Euler's number, the imaginary unit or a free symbol."""
        if letter in ("e", "i") and self.next.value != "_":
            return self.node("const", (), letter)
        return self.node("sym", (), letter)

    def text(self) -> Node:
        """Return words; those that follow each other form one text."""
        self.position -= 1
        return self.node("text", (), self.words())

    # arguments in braces

    def argument(self) -> Node:
        """Return a command's argument: a braced group, one digit, or one atom."""
        token = self.next
        if token.kind == "num" and len(token.value) > 1 and token.value.isdigit():
            self.tokens[self.position] = Token("num", token.value[1:])
            return self.node("num", (), Fraction(int(token.value[0])))
        self.deeper()
        argument = self.braced() if token.value == "{" and token.kind == "mark" else self.atom()
        self.depth -= 1
        return argument

    def braced(self) -> Node:
        """Return the content of braces; a list in braces is a set."""
        self.expect("{")
        outer = self.bars, self.separator_bar
        self.bars, self.separator_bar = 0, False
        if self.accept("}"):
            return self.node("text", (), "")
        content = self.items()
        if self.accept("\\choose"):
            content = self.node("call", (content, self.items()), "binom")
        elif self.accept("\\over"):
            content = self.node("div", (content, self.items()))
        self.expect("}")
        self.bars, self.separator_bar = outer
        return self.node("set", content.args) if content.op == "list" else content

    def braced_name(self) -> str:
        """Consume ``{...}`` and return the letters in it."""
        self.expect("{")
        name = ""
        while not self.accept("}"):
            if self.next is END:
                raise ParseError("an open brace")
            name += self.take().value
        return name

    # brackets


_BREAKS = frozenset(
    ", ; : . + - \\pm \\mp \\\\ & \\end \\and \\or \\land \\lor \\wedge \\vee \\choose \\over \\not \\hline \\forall"
    " \\vert \\mid \\pmod \\bmod \\mod".split()
) | {""}


_STOPPING = frozenset(
    "for where with such if when unless as given assuming otherwise over on".split()
)


def _stops(text: str) -> bool:
    """Tell whether words end an expression: a connector or a qualifier."""
    low = text.strip(" ,;").lower()
    if low in CONNECTORS:
        return True
    first = low.split(" ")[0] if low else ""
    return first in _STOPPING
