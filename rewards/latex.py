"""LaTeX answers become bounded trees: nothing is evaluated, and no text is ever executed.

`parse` reads the notation that answers are written in, with or without LaTeX commands, and returns a
`Node`. What is over a bound or makes no sense raises `ParseError`. Leaves out: what a tree means and
whether two of them are equal (``rewards.expressions``, ``rewards.math_equal``).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from rewards.latex_tokens import (
    ACCENTS,
    ALIASES,
    APPLIED,
    BIG,
    BINOMIALS,
    CLOSING,
    CONNECTORS,
    CONSTANTS,
    DIVIDE,
    END,
    FRACTIONS,
    FUNCTIONS,
    INVERSES,
    MONEY,
    MULTIPLIERS,
    NUMBER_SETS,
    OPENING,
    QUALIFIERS,
    RELATIONS,
    ROW_ENDS,
    SET_OPERATIONS,
    TIMES,
    Token,
    tokens,
)
from rewards.notation import clean
from rewards.units import unit_of

__all__ = ["Node", "ParseError", "parse"]

LONGEST = 2000
MOST_NODES = 600
DEEPEST = 60
MOST_DIGITS = 2000


class ParseError(ValueError):
    """The text is no mathematics that we read, or exceeds a bound."""


class Node(NamedTuple):
    """A tree of an answer: what it is, its operands, and what a leaf holds (number, name, bracket pair)."""

    op: str
    args: tuple[Node, ...] = ()
    value: Any = None


def parse(text: str, *, grouped: bool = True, lenient: bool = False) -> Node:
    """Return the tree of an answer; `grouped` reads ``1,234`` outside brackets as one number.

    Raises `ParseError` where the text is over 2000 characters, 600 nodes, 60 levels or 2000 digits in a
    number, or where it is not an answer that this grammar knows.
    """
    if len(text) > LONGEST:
        raise ParseError("too long")
    try:
        return _Parser(tokens(clean(text), grouped), lenient).answer()
    except RecursionError:
        raise ParseError("nested too deeply") from None


class _Parser:
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
        return self.tokens[self.position + ahead] if self.position + ahead < len(self.tokens) else END

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
            if kind is None or self.next is END or (self.next.kind != "text" and self.next.value in CLOSING | ROW_ENDS):
                break
            kinds.append(kind)
        items = _without_domains(items)
        if len(items) == 1:
            return items[0]
        return self.node("list", tuple(items), "or" if "or" in kinds else "and" if "and" in kinds else ",")

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
            value = self.node("rel", tuple(operands), tuple(relations)) if relations else operands[0]
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
        if self.next.value == ":" and left.op in ("text", "mul") and _has_text(left):
            self.take()
            return self.node("rel", (left, self.sets()), ("=",))
        return left

    def qualifier(self) -> None:
        """Drop what restricts a statement without changing its value: "for all x in Z", "where k is an integer"."""
        at = self.position + (self.next.value == ",")
        token = self.tokens[at] if at < len(self.tokens) else END
        words = token.value.strip(" ,").lower().split() if token.kind == "text" else []
        if not (words and words[0] in QUALIFIERS) and not (token.value == "\\forall" and self.position):
            return
        level = 0
        while self.next is not END and not (level == 0 and self.ends_qualifier()):
            if self.next.kind != "text":
                level += (self.next.value in OPENING or self.next.value == "{") - (self.next.value in CLOSING)
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
            self.next.value == ":" and self.next.kind == "mark" and not self.separator_bar and not _has_text(parts[0])
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
        return self.node("neg", (term,)) if sign == "-" else self.node("pm", (term,), "+" if sign == "\\pm" else "-")

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
            return not (self.integrals and token.value == "d" and self.peek().kind in ("name", "cmd"))
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
        whole = last.op == "num" and last.value.denominator == 1 and self.tokens[self.position - 1].kind == "num"
        if token.kind == "text":
            factors[-1] = self.with_text(last, self.words())
            if len(factors) > 1 and factors[-2].op == factors[-1].op == "unit" and last.op in ("num", "dec"):
                self.compound(factors)
            return
        if token.kind == "num" and self.tokens[self.position - 1].kind == "num":
            if not (whole and self.peek().value == "/" and self.peek(2).kind == "num"):
                raise ParseError("two numbers side by side")
            top, _, bottom = self.take(), self.take(), self.take()
            part = self.node("div", (self.number(top.value), self.number(bottom.value)))
            factors[-1] = self.node("add", (last, part), "mixed")
            return
        factor = self.factor()
        if _is_domain(factor):
            return
        outer, factor = (factor, factor.args[0]) if factor.op == "percent" else (None, factor)
        if whole and token.value in FRACTIONS and factor.op == "div" and _is_proper(factor):
            mixed = self.node("add", (last, factor), "mixed")
            factors[-1] = self.node("percent", (mixed,)) if outer else mixed
        elif outer is not None:
            factors.append(outer)
        elif last.op == "unit" and factor.op == "unit" and last.value.dimensions == factor.value.dimensions:
            factors[-1] = self.node("add", (last, factor))
        elif last.op == "sym" and token.value == "(" and (factor.op == "group" or last.value in APPLIED):
            called = factor.args if factor.op == "group" else (factor,)
            chosen = last.value == "C" and len(called) == 2
            factors[-1] = self.node("call", called, "binom") if chosen else self.node("apply", called, last.value)
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
            left = self.node("mul", (left, self.node("num", (), Fraction(MULTIPLIERS[first.lower()]))))
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
                base = self.power(base)
            elif token.value == "_" and base.op in ("num", "sym", "const", "group"):
                base = self.subscripted(base)
            elif token.value == "!" and self.peek().value != "=":
                self.take()
                base = self.node("call", (base,), "factorial")
            elif token.value in ("\\%", "%"):
                self.take()
                base = self.node("percent", (base,))
            elif token.value in ("\\degree", "\\circ"):
                self.take()
                base = self.degrees(base)
            elif token.value in ("'", "\\prime") and base.op == "sym":
                self.take()
                base = self.node("sym", (), base.value + "'")
            elif token.value in MONEY and base.op in ("num", "dec"):
                base = self.node("unit", (base,), unit_of(MONEY[self.take().value]))
            else:
                break
        return base

    def power(self, base: Node) -> Node:
        """Return `base` raised to the exponent that follows, or an angle where that is a degree sign."""
        self.expect("^")
        if self.next is END or self.next.value in CLOSING:
            if self.lenient and base.op == "num":
                return self.node("unit", (base,), unit_of("degree"))
            raise ParseError("no exponent")
        if self.accept("\\circ", "\\degree", "\\textcirc"):
            return self.degrees(base)
        if self.next.value == "{" and self.peek().value in ("\\circ", "\\degree") and self.peek(2).value == "}":
            self.position += 3
            return self.degrees(base)
        if self.accept("\\prime", "'"):
            return self.node("sym", (), f"{base.value}'")
        exponent = self.exponent()
        if exponent.op == "text" and exponent.value in ("st", "nd", "rd", "th"):
            return base
        if base.op == "sym" and base.value in APPLIED and exponent == Node("neg", (Node("num", (), Fraction(1)),)):
            return self.node("sym", (), base.value + "^-1") if self.next.value != "(" else self.inverse(base)
        return self.node("pow", (base, exponent))

    def inverse(self, base: Node) -> Node:
        """Return the inverse function of a name applied to what follows."""
        return self.node("apply", (self.atom(),), base.value + "^-1")

    def exponent(self) -> Node:
        """Return an exponent: a group, a signed number or one atom."""
        self.deeper()
        if self.next.value == "{":
            result = self.braced()
        elif self.next.value in ("-", "+") and self.next.kind == "mark":
            result = self.operand() if self.take().value == "+" else self.node("neg", (self.exponent(),))
        else:
            result = self.atom()
        self.depth -= 1
        return result

    def degrees(self, base: Node) -> Node:
        """Return an angle, with the minutes and seconds that follow it."""
        angle = self.node("unit", (base,), unit_of("degree"))
        if (
            self.next.value in ("C", "F")
            and self.next.kind == "name"
            or self.next.kind == "text"
            and self.next.value.strip() in ("C", "F")
        ):
            return self.node("unit", (base,), unit_of("degree " + self.take().value.strip()))
        parts = [angle]
        while self.next.kind == "num" and self.peek().value in ("'", "^") and len(parts) < 3:
            number = self.number(self.take().value)
            self.prime_marks()
            parts.append(self.node("unit", (number,), unit_of("arcminute" if len(parts) == 1 else "arcsecond")))
        return self.node("add", tuple(parts)) if len(parts) > 1 else angle

    def prime_marks(self) -> None:
        """Consume the signs of minutes or seconds of arc."""
        if self.accept("^"):
            braced = self.accept("{")
            while self.accept("\\prime", "'"):
                pass
            if braced:
                self.expect("}")
        while self.accept("'", '"'):
            pass

    def subscripted(self, base: Node) -> Node:
        """Return a symbol with its subscript, an indexed term, or a number written in a base."""
        self.expect("_")
        if self.next.kind == "text":
            subscript = self.node("text", (), self.take().value.strip())
        elif self.next.value == "{":
            subscript = self.subscript_group()
        else:
            subscript = self.atom()
        if base.op in ("num", "group"):
            return self.in_base(base, subscript)
        name = _plain_name(subscript)
        if name is not None:
            return self.node("sym", (), f"{base.value}_{name}")
        return self.node("apply", (subscript,), f"{base.value}_")

    def subscript_group(self) -> Node:
        """Return what stands in a braced subscript; runs of letters and words become a name."""
        start = self.position
        end = start + 1
        while end < len(self.tokens) and self.tokens[end].value not in ("{", "}"):
            end += 1
        inside = self.tokens[start + 1 : end]
        is_name = all(token.kind in ("name", "num", "text") for token in inside) and len(inside) > 1
        is_name = is_name or (len(inside) == 1 and inside[0].value in ("\\max", "\\min", "\\text"))
        if inside and is_name and end < len(self.tokens) and self.tokens[end].value == "}":
            self.position = end + 1
            return self.node("text", (), "".join(token.value.strip().strip("\\") for token in inside))
        return self.braced()

    def in_base(self, number: Node, subscript: Node) -> Node:
        """Return a whole number whose digits are written in a base from 2 to 36."""
        if subscript.op != "num" or number.op != "num" or number.value.denominator != 1:
            raise ParseError("a subscript on something that is no name")
        base, digits = subscript.value, str(number.value.numerator)
        if base.denominator != 1 or not 2 <= base <= 36 or any(int(digit) >= base for digit in digits):
            raise ParseError("no such base")
        return self.node("based", (), (Fraction(int(digits, int(base))), int(base)))

    def atom(self) -> Node:
        """Return a number, symbol, group, function or text."""
        token = self.take()
        if token.kind == "num":
            return self.number(token.value)
        if token.kind == "name":
            return self.symbol(token.value)
        if token.kind == "text":
            return self.text()
        if token.kind == "cmd":
            return self.command(token.value)
        return self.bracketed(token.value)

    def number(self, digits: str) -> Node:
        """Return a number; the decimals it shows are kept, for the rounding rules."""
        mantissa, _, exponent = digits.lower().partition("e")
        whole, point, decimals = mantissa.partition(".")
        if len(mantissa) > MOST_DIGITS or (exponent and abs(int(exponent[:6])) > MOST_DIGITS):
            raise ParseError("too many digits")
        if point and not whole + decimals:
            raise ParseError("a point without digits")
        period = self.repeating(decimals) if point else None
        if period is not None:
            return self.node("num", (), _repeating_value(whole, decimals, period))
        value = Fraction(int(whole + decimals), 10 ** len(decimals))
        if exponent:
            return self.node("dec", (), (value * Fraction(10) ** int(exponent), max(0, len(decimals) - int(exponent))))
        return self.node("dec", (), (value, len(decimals))) if decimals else self.node("num", (), value)

    def repeating(self, decimals: str) -> str | None:
        """Consume a bar or dot over repeating digits, or the dots behind them, and return the period."""
        if (
            self.next.value in ("\\overline", "\\dot", "\\bar", "\\overset")
            and self.peek().value == "{"
            and self.peek(2).kind == "num"
        ):
            digits = self.peek(2).value
            self.position += 4
            return digits if digits.isdigit() else None
        if self.next.value == "(" and not self.next.spaced and self.peek().kind == "num" and self.peek(2).value == ")":
            if len(self.tokens) == self.position + 3 and self.peek().value.isdigit():
                self.position += 3
                return self.tokens[self.position - 2].value
        if self.next.value in ("\\ldots", "\\dots", "...", "\\cdots") and len(decimals) >= 2:
            for length in range(1, len(decimals) // 2 + 1):
                period = decimals[-length:]
                if decimals.endswith(period * max(2, 3 // length)):
                    self.take()
                    return period
        return None

    def symbol(self, letter: str) -> Node:
        """Return a letter: Euler's number, the imaginary unit or a free symbol."""
        if letter in ("e", "i") and self.next.value != "_":
            return self.node("const", (), letter)
        return self.node("sym", (), letter)

    def text(self) -> Node:
        """Return words; those that follow each other form one text."""
        self.position -= 1
        return self.node("text", (), self.words())

    # commands

    def command(self, name: str) -> Node:
        """Return what a command and its arguments stand for."""
        if name in FRACTIONS:
            top = self.argument()
            return self.node("div", (top, self.argument()))
        if name in BINOMIALS:
            top = self.argument()
            return self.node("call", (top, self.argument()), "binom")
        if name == "\\sqrt":
            return self.root()
        if name in CONSTANTS:
            return self.node("const", (), CONSTANTS[name])
        if name in ("\\emptyset", "\\varnothing", "\\O"):
            return self.node("set", ())
        if name in ("\\mathbb", "\\mathbf", "\\Bbb"):
            return self.number_set()
        if name in OPENING:
            return self.bracketed(name)
        if name[1:] in FUNCTIONS or name[1:] in ALIASES or name[1:] in INVERSES.values():
            return self.function(ALIASES.get(name[1:], name[1:]))
        if name in BIG:
            return self.big(BIG[name])
        return self.special(name)

    def special(self, name: str) -> Node:
        """Return the rarer commands: integrals, limits, environments, boxes, accents, plain symbols."""
        if name in ("\\int", "\\lim"):
            return self.integral() if name == "\\int" else self.limit()
        if name == "\\begin":
            return self.environment()
        if name in (
            "\\boxed",
            "\\fbox",
            "\\mathop",
            "\\mathrm",
            "\\text",
            "\\overbrace",
            "\\underbrace",
            "\\phantom",
            "\\tag",
        ):
            return self.argument()
        if name in ACCENTS:
            return self.node("sym", (), f"{name}{_name_of(self.argument())}")
        if name in ("\\R", "\\Z", "\\N", "\\Q", "\\C"):
            return self.node("numset", (), name[1:])
        if name in ("\\angle", "\\triangle", "\\measuredangle", "\\parallelogram"):
            return self.node("sym", (), f"{name}{_name_of(self.factor())}")
        if name in RELATIONS or name in CLOSING or name in ("\\end", "\\and", "\\or", "\\hline", "\\item", ""):
            raise ParseError(f"misplaced {name}")
        return self.node("sym", (), name)

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

    def root(self) -> Node:
        """Return a square root or ``\\sqrt[n]{x}``."""
        index = None
        if self.accept("["):
            index = self.items()
            self.expect("]")
        radicand = self.argument()
        if index is None:
            return self.node("call", (radicand,), "sqrt")
        return self.node("call", (radicand, index), "root")

    def number_set(self) -> Node:
        """Return the real, whole, natural, rational or complex numbers, or a bold symbol."""
        name = _name_of(self.argument())
        if name not in NUMBER_SETS:
            return self.node("sym", (), name)
        while self.next.value in ("^", "_"):
            self.take()
            sign = self.take()
            while sign.value == "{" and self.next is not END and self.take().value != "}":
                pass
            name += "+" if sign.value in ("+", "{", "*") else sign.value
        return self.node("numset", (), name)

    def function(self, name: str) -> Node:
        """Return a named function applied to what follows it."""
        base = exponent = None
        while self.next.value in ("_", "^"):
            if self.take().value == "_":
                base = self.exponent()
            else:
                exponent = self.exponent()
        if exponent == Node("neg", (Node("num", (), Fraction(1)),)) and name in INVERSES:
            name, exponent = INVERSES[name], None
        arguments = self.arguments()
        if name == "sqrt" or name == "exp":
            call = self.node("call", arguments, name)
        elif name in ("log", "lg", "ln"):
            call = self.logarithm(name, arguments, base)
        else:
            call = self.node("call", arguments, name)
        return self.node("pow", (call, exponent)) if exponent is not None else call

    def logarithm(self, name: str, arguments: tuple[Node, ...], base: Node | None) -> Node:
        """Return a logarithm; ``\\log`` without a base is the natural one, ``\\lg`` the decimal one."""
        if base is None and name == "lg":
            base = self.node("num", (), Fraction(10))
        return self.node("call", arguments if base is None else (*arguments, base), "log")

    def arguments(self) -> tuple[Node, ...]:
        """Return a function's arguments: those in brackets, or the product that follows."""
        self.deeper()
        if self.next.value in ("(", "[", "{", "\\{") and self.next.kind != "text":
            group = self.atom()
            self.depth -= 1
            return group.args if group.op in ("group", "set", "list") else (group,)
        if self.next.value in ("-", "+"):
            argument = self.signed()
            self.depth -= 1
            return (argument,)
        factors = [self.factor()]
        while self.continues_argument(factors[-1]):
            self.juxtapose(factors)
        self.depth -= 1
        return (self.product(factors),)

    def continues_argument(self, last: Node) -> bool:
        """Tell whether the next token still belongs to a function's argument without brackets."""
        token = self.next
        if token.kind == "text" or token.value in OPENING or not self.starts_factor(token):
            return False
        if token.kind == "cmd" and (token.value[1:] in FUNCTIONS or token.value in BIG or token.value == "\\int"):
            return False
        return not (last.op == "call" and last.value != "sqrt")

    def big(self, kind: str) -> Node:
        """Return a sum or product with its index, bounds and body."""
        lower = upper = None
        while self.next.value in ("_", "^"):
            if self.take().value == "_":
                lower = self.exponent()
            else:
                upper = self.exponent()
        body = self.term()
        if lower is None or lower.op != "rel" or lower.value != ("=",) or upper is None:
            return self.node("apply", (body, *(part for part in (lower, upper) if part)), kind)
        index, start = lower.args
        if index.op not in ("sym", "const"):
            raise ParseError("a sum without an index")
        return self.node(kind, (body, start, upper), str(index.value))

    def integral(self) -> Node:
        """Return an integral: its integrand, variable and, where given, bounds."""
        bounds: dict[str, Node] = {}
        while self.next.value in ("_", "^"):
            mark = self.take().value
            bounds[mark] = self.exponent()
        self.integrals += 1
        integrand = self.node("num", (), Fraction(1)) if self.next.value == "d" else self.sum()
        self.integrals -= 1
        if not (self.next.value == "d" and self.peek().kind in ("name", "cmd")):
            raise ParseError("an integral without its variable")
        self.take()
        variable = self.atom()
        if variable.op != "sym":
            raise ParseError("an integral over something that is no variable")
        args = (integrand, bounds["_"], bounds["^"]) if len(bounds) == 2 else (integrand,)
        return self.node("int", args, variable.value)

    def limit(self) -> Node:
        """Return a limit: its expression, variable and the point it tends to."""
        self.expect("_")
        towards = self.exponent()
        if towards.op != "rel" or towards.value != ("->",) or towards.args[0].op != "sym":
            raise ParseError("a limit without its variable")
        return self.node("lim", (self.term(), towards.args[1]), towards.args[0].value)

    def environment(self) -> Node:
        """Return a matrix, or the rows of ``cases`` and ``aligned``."""
        name = self.braced_name()
        if name == "array":
            self.braced_name()
        rows: list[tuple[Node, ...]] = [()]
        while not self.accept("\\end"):
            if self.next is END:
                raise ParseError("an environment that never ends")
            if self.accept("\\\\", "\\hline"):
                rows.append(())
            elif not self.accept("&", "\\&"):
                if self.next.kind == "text" and self.next.value.strip(" ,").lower() in ("if", "when", "for"):
                    self.take()
                rows[-1] = (*rows[-1], self.items())
        self.braced_name()
        rows = [row for row in rows if row]
        if name in ("cases", "aligned", "align", "gathered", "align*"):
            return self.node("cases" if name == "cases" else "list", tuple(self.row(row) for row in rows), name)
        widths = {len(row) for row in rows}
        if len(widths) != 1:
            raise ParseError("a matrix with ragged rows")
        return self.node("matrix", tuple(cell for row in rows for cell in row), (len(rows), widths.pop()))

    def row(self, cells: tuple[Node, ...]) -> Node:
        """Return a row of ``cases``: one cell, or a value with its condition."""
        return cells[0] if len(cells) == 1 else self.node("when", cells)

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

    def bracketed(self, opening: str) -> Node:
        """Return what stands in brackets, braces or bars."""
        self.deeper()
        if opening == "{":
            self.position -= 1
            result = self.braced()
        elif opening in ("|", "\\|"):
            result = self.between_bars(opening)
        elif opening in ("\\{", "\\lbrace"):
            result = self.braces()
        elif opening in MONEY:
            result = self.node("unit", (self.operand(),), unit_of(MONEY[opening]))
        elif opening in OPENING or opening == "]":
            result = self.group(opening)
        else:
            raise ParseError(f"misplaced {opening or 'end'}")
        self.depth -= 1
        return result

    def between_bars(self, bar: str) -> Node:
        """Return an absolute value."""
        self.bars += 1
        content = self.statement()
        self.expect(bar)
        self.bars -= 1
        return self.node("call", (content,), "abs")

    def braces(self) -> Node:
        """Return a set, or a set-builder: its element, and the conditions behind the bar."""
        outer = self.bars, self.separator_bar
        self.bars, self.separator_bar = 0, True
        if self.accept("\\}", "\\rbrace"):
            self.bars, self.separator_bar = outer
            return self.node("set", ())
        element = self.items()
        self.separator_bar = False
        if self.accept("|", "\\mid", ":", "\\vert", "\\middle"):
            result = self.node("builder", (element, self.conditions()))
        else:
            result = self.node("set", self.semicolons(element))
        if not self.accept("\\}", "\\rbrace"):
            raise ParseError("an open brace")
        self.bars, self.separator_bar = outer
        return result

    def conditions(self) -> Node:
        """Return a set-builder's conditions."""
        return self.items()

    def semicolons(self, first: Node) -> tuple[Node, ...]:
        """Return the items that commas or semicolons separate in brackets."""
        items = list(first.args if first.op == "list" else (first,))
        while self.accept(";"):
            more = self.items()
            items += more.args if more.op == "list" else (more,)
        return tuple(items)

    def group(self, opening: str) -> Node:
        """Return a bracketed expression; two or more items make a tuple or interval, ends kept."""
        outer = self.bars, self.separator_bar
        self.bars, self.separator_bar = 0, False
        if opening in ("(", "[") and self.accept({"(": ")", "[": "]"}[opening]):
            self.bars, self.separator_bar = outer
            return self.node("group", (), opening)
        content = self.items()
        items = self.semicolons(content)
        while self.accept("."):
            pass
        closing = self.take().value
        self.bars, self.separator_bar = outer
        return self.closed(opening, closing, content, items)

    def closed(self, opening: str, closing: str, content: Node, items: tuple[Node, ...]) -> Node:
        """Return the node of a bracket pair and its items."""
        if opening in ("\\lfloor", "\\lceil", "\\lvert", "\\lVert"):
            if closing != OPENING[opening]:
                raise ParseError("brackets do not match")
            return self.node("call", (content,), {"\\lfloor": "floor", "\\lceil": "ceil"}.get(opening, "abs"))
        opening, closing = (
            {"\\langle": "(", "\\lbrack": "[", "]": "("}.get(opening, opening),
            {"\\rangle": ")", "\\rbrack": "]", "[": ")"}.get(closing, closing),
        )
        if closing not in (")", "]"):
            raise ParseError("brackets do not match")
        if len(items) == 1:
            if items[0].op == "matrix" or {"(": ")", "[": "]"}[opening] == closing:
                return items[0]
            raise ParseError("brackets do not match")
        return self.node("group", items, opening + closing)


_BREAKS = frozenset(
    ", ; : . + - \\pm \\mp \\\\ & \\end \\and \\or \\land \\lor \\wedge \\vee \\choose \\over \\not \\hline \\forall"
    " \\vert \\mid \\pmod \\bmod \\mod".split()
) | {""}


_STOPPING = frozenset("for where with such if when unless as given assuming otherwise over on".split())


def _stops(text: str) -> bool:
    """Tell whether words end an expression: a connector or a qualifier."""
    low = text.strip(" ,;").lower()
    if low in CONNECTORS:
        return True
    first = low.split(" ")[0] if low else ""
    return first in _STOPPING


def _is_domain(node: Node) -> bool:
    """Tell whether a node only says which numbers a symbol may be: ``k \\in \\mathbb{Z}``."""
    return node.op == "rel" and node.value == ("in",) and node.args[0].op == "sym" and node.args[1].op == "numset"


def _without_domains(items: list[Node]) -> list[Node]:
    """Return items without the domain of a parameter that an earlier item uses and does not define."""
    kept = items[:1]
    for item in items[1:]:
        values = [arg for other in kept for arg in (other.args[1:] if other.op == "rel" else (other,))]
        defined = any(
            other.op == "rel" and (other.value != ("=",) or item.args[:1] == other.args[:1]) for other in kept
        )
        if not _is_domain(item) or defined or not any(_mentions(value, item.args[0].value) for value in values):
            kept.append(item)
    return kept


def _mentions(node: Node, name: str) -> bool:
    """Tell whether a symbol stands in a tree."""
    return (node.op == "sym" and node.value == name) or any(_mentions(arg, name) for arg in node.args)


def _is_proper(fraction: Node) -> bool:
    """Tell whether a fraction is one whole number over a greater one."""
    top, bottom = fraction.args
    return top.op == bottom.op == "num" and 0 < top.value < bottom.value


def _has_text(node: Node) -> bool:
    """Tell whether a node is text or a product with text in it."""
    return node.op == "text" or (node.op == "mul" and any(arg.op == "text" for arg in node.args))


def _plain_name(node: Node) -> str | None:
    """Return the name that a simple subscript writes; None for a letter or an expression, which is an index."""
    if node.op == "num" and node.value.denominator == 1:
        return str(node.value.numerator)
    if node.op in ("text", "numset"):
        return str(node.value)
    if node.op == "sym" and (node.value.startswith("\\") or node.value.isupper()):
        return str(node.value)
    if node.op == "mul" and all(arg.op in ("sym", "const", "num") for arg in node.args):
        return "".join(str(arg.value) for arg in node.args)
    return None


def _name_of(node: Node) -> str:
    """Return the letters that a node writes, as a name."""
    if node.op in ("sym", "const", "text", "num"):
        return str(node.value)
    if node.op in ("mul", "apply"):
        return str(node.value or "") + "".join(_name_of(arg) for arg in node.args)
    raise ParseError("an expression where a name should stand")


def _repeating_value(whole: str, decimals: str, period: str) -> Fraction:
    """Return the exact value of a repeating decimal; the period may already be part of `decimals`."""
    lead = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    return lead + Fraction(int(period), 10 ** len(decimals) * (10 ** len(period) - 1))
