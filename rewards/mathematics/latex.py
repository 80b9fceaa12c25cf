"""LaTeX answers become bounded trees: nothing is evaluated, and no text is ever executed.

`parse` reads the notation that answers are written in, with or without LaTeX commands, and returns a
`Node`. What exceeds a bound or makes no sense raises `ParseError`. Leaves out: what a tree means and
whether two of them are equal (``rewards.mathematics.expressions``, ``rewards.mathematics.equality``).
"""

from __future__ import annotations

from fractions import Fraction

from rewards.mathematics.brackets import bracketed
from rewards.mathematics.commands import command
from rewards.mathematics.digits import number
from rewards.mathematics.juxtaposition import joined_text, juxtapose, starts_factor
from rewards.mathematics.notation import clean
from rewards.mathematics.statements import Statements
from rewards.mathematics.suffixes import degrees, power, subscripted
from rewards.mathematics.tokens import DIVIDE, MONEY, TIMES, Token, tokens
from rewards.mathematics.tree import MAX_LENGTH, Node, ParseError
from rewards.mathematics.units import unit_of

__all__ = ["Parser", "parse"]

_SIGNS = ("+", "-", "\\pm", "\\mp")


def parse(
    text: str, *, grouped: bool = True, lenient: bool = False, letters_are_units: bool = True
) -> Node:
    """Return the tree of an answer; `grouped` reads ``1,234`` outside brackets as one number.

    `letters_are_units` reads units also in plain letters (``5 km``), which otherwise are symbols.

    Raises `ParseError` if the text exceeds 2000 characters, 600 nodes, 60 levels or 2000 digits in a
    number, or is no answer that this grammar knows.
    """
    if len(text) > MAX_LENGTH:
        raise ParseError("too long")
    try:
        return Parser(tokens(clean(text), grouped, letters_are_units), lenient).answer()
    except RecursionError:
        raise ParseError("nested too deeply") from None


def _members(node: Node) -> tuple[Node, ...]:
    """Return the items of a list; anything else is its only item."""
    return node.args if node.op == "list" else (node,)


class Parser(Statements):
    """Recursive descent over the tokens of one answer: sums, products, factors, atoms."""

    # sums

    def sum(self) -> Node:
        r"""Return a sum; ``\pm`` becomes a ``pm`` node that stands for both signs."""
        terms = [self.signed()]
        while self.next.kind in ("mark", "cmd") and self.next.value in _SIGNS:
            sign = self.take().value
            terms.append(self._with_sign(sign, self.signed()))
        if len(terms) > 1:
            return self.node("add", tuple(terms))
        return terms[0]

    def signed(self) -> Node:
        """Return a term with its sign."""
        if self.next.kind not in ("mark", "cmd"):
            return self.term()
        if self.next.value not in _SIGNS:
            return self.term()
        with self.level():
            sign = self.take().value
            term = self.signed()
        return self._with_sign(sign, term)

    def _with_sign(self, sign: str, term: Node) -> Node:
        if sign == "+":
            return term
        if sign == "-":
            return self.node("neg", (term,))
        return self.node("pm", (term,), "+" if sign == "\\pm" else "-")

    # products

    def term(self) -> Node:
        """Return a product, quotient or mixed number."""
        factors = [self.factor()]
        has_bracket = False
        while True:
            token = self.next
            is_sign = token.kind != "text"
            if is_sign and token.value in TIMES:
                self.take()
                factors.append(self.operand())
            elif is_sign and token.value in DIVIDE:
                self.take()
                divisor = self.operand()
                factors = [self.node("div", (self.product(factors), divisor))]
            elif starts_factor(self, token):
                has_bracket = has_bracket or token.value == "("
                juxtapose(self, factors)
            else:
                break
        if has_bracket and len(factors) == 2 and factors[0].op == "sym":
            return self.node("mul", tuple(factors), "call?")
        return self.product(factors)

    def operand(self) -> Node:
        """Return the factor after an operator, which may carry a sign."""
        if self.next.value not in ("-", "+"):
            return self.factor()
        if self.next.kind != "mark":
            return self.factor()
        with self.level():
            sign = self.take().value
            operand = self.operand()
        if sign == "-":
            return self.node("neg", (operand,))
        return operand

    # factors

    def factor(self) -> Node:
        """Return an atom with its exponents, subscripts, factorials and percent or degree signs."""
        base = self.atom()
        while self.next.kind in ("mark", "cmd"):
            sign = self.next.value
            if sign == "^":
                base = power(self, base)
            elif sign == "_" and base.op in ("num", "sym", "const", "group"):
                base = subscripted(self, base)
            else:
                suffixed = self._with_sign_after(sign, base)
                if suffixed is None:
                    break
                base = suffixed
        return base

    def _with_sign_after(self, sign: str, base: Node) -> Node | None:
        """Consume a factorial, percent, degree, prime or money sign; None if the next token is none of them."""
        if sign == "!" and (self.peek().value != "=" or self.peek().spaced):
            self.take()
            return self.node("call", (base,), "factorial")
        if sign in ("\\%", "%"):
            self.take()
            return self.node("percent", (base,))
        if sign in ("\\degree", "\\circ"):
            self.take()
            return degrees(self, base)
        if sign in ("'", "\\prime") and base.op == "sym":
            self.take()
            return self.node("sym", (), base.value + "'")
        if sign in MONEY and base.op in ("num", "dec"):
            self.take()
            return self.node("unit", (base,), unit_of(MONEY[sign]))
        return None

    def exponent(self) -> Node:
        """Return an exponent or a bound: a group, a signed number or one atom."""
        with self.level():
            if self.next.value == "{":
                exponent = self.braced()
            elif self.next.kind == "mark" and self.accept("+"):
                exponent = self.operand()
            elif self.next.kind == "mark" and self.accept("-"):
                exponent = self.node("neg", (self.exponent(),))
            else:
                exponent = self.atom()
        return exponent

    # atoms

    def atom(self) -> Node:
        """Return a number, symbol, group, function or text."""
        token = self.take()
        if token.kind == "num":
            return number(self, token.value)
        if token.kind == "name":
            return self._letter(token.value)
        if token.kind == "unit":
            raise ParseError("a unit without a value")
        if token.kind == "text":
            self.position -= 1
            return self.node("text", (), joined_text(self))
        if token.kind == "cmd":
            return command(self, token.value)
        return bracketed(self, token.value)

    def _letter(self, letter: str) -> Node:
        """Return Euler's number, the imaginary unit or a free symbol."""
        if letter in ("e", "i") and self.next.value != "_":
            return self.node("const", (), letter)
        return self.node("sym", (), letter)

    # arguments in braces

    def argument(self) -> Node:
        """Return a command's argument: a braced group, one digit, or one atom."""
        token = self.next
        if token.kind == "num" and len(token.value) > 1 and token.value.isdigit():
            self.tokens[self.position] = Token("num", token.value[1:])
            return self.node("num", (), Fraction(int(token.value[0])))
        is_braced = token.value == "{" and token.kind == "mark"
        with self.level():
            argument = self.braced() if is_braced else self.atom()
        return argument

    def braced(self) -> Node:
        """Return the content of braces; a list in braces is a set."""
        self.expect("{")
        outside = self.open_group(bar_separates=False)
        if self.accept("}"):
            return self.node("text", (), "")
        content = self.items()
        while self.accept(";"):
            content = self.node("list", (*_members(content), *_members(self.items())), ",")
        if self.accept("\\choose"):
            content = self.node("call", (content, self.items()), "binom")
        elif self.accept("\\over"):
            content = self.node("div", (content, self.items()))
        self.expect("}")
        self.close_group(outside)
        if content.op == "list":
            return self.node("set", content.args)
        return content
