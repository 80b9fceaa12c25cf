"""The upper half of the grammar: an answer is a list of statements, a statement a chain of relations."""

from __future__ import annotations

from rewards.mathematics.cursor import Grammar
from rewards.mathematics.tokens import (
    CLOSING,
    CONNECTORS,
    END,
    OPENING,
    QUALIFIERS,
    RELATIONS,
    ROW_ENDS,
    SET_OPERATIONS,
    Token,
)
from rewards.mathematics.tree import Node, ParseError, has_text, without_domains

__all__ = ["Statements"]

_AND = ("\\and", "\\land", "\\wedge")
_OR = ("\\or", "\\lor", "\\vee")
_ITEM_ENDS = frozenset({";", "\\and", "\\or", "&", "\\\\", "\\end"})


class Statements(Grammar):
    """Reads everything down to ratios; sums and what binds tighter are left to the parser."""

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
        items: list[Node] = []
        separators: list[str] = []
        while True:
            items.append(self.statement())
            separator = self._separator()
            if separator is None or self._ends_list():
                break
            separators.append(separator)
        items = without_domains(items)
        if len(items) == 1:
            return items[0]
        kind = next((word for word in ("or", "and") if word in separators), ",")
        return self.node("list", tuple(items), kind)

    def _ends_list(self) -> bool:
        token = self.next
        if token.kind == "text":
            return False
        return token is END or token.value in CLOSING or token.value in ROW_ENDS

    def _separator(self) -> str | None:
        """Consume the separator between two items of a list and return its kind."""
        kind = None
        while True:
            token = self.next
            word = token.value.strip(" ,;").lower()
            if self.accept(",") or (self.open_rows == 0 and self.accept("\\\\")):
                kind = kind or ","
            elif token.kind == "cmd" and token.value in _AND:
                self.take()
                kind = "and"
            elif token.kind == "cmd" and token.value in _OR:
                self.take()
                kind = "or"
            elif token.kind == "text" and word in CONNECTORS:
                self.take()
                kind = CONNECTORS[word]
            else:
                return kind

    # one statement

    def statement(self) -> Node:
        """Return an expression or a chain of relations, without a qualifier such as "for all x"."""
        while self.accept("\\approx", "="):
            pass
        operands = [self._labelled()]
        relations = []
        while relation := self._relation():
            relations.append(relation)
            operands.append(self.set_expression())
        if self.accept("\\pmod", "\\bmod", "\\mod"):
            operands.append(self.argument())
            relations.append("mod")
        self._skip_qualifier()
        is_conditional = self.next.kind == "text" and _bare(self.next.value) in ("if", "when")
        if is_conditional:
            self.take()
        value = self.node("rel", tuple(operands), tuple(relations)) if relations else operands[0]
        if not is_conditional:
            return value
        return self.node("when", (value, self.statement()))

    def _relation(self) -> str | None:
        """Consume a relation sign and return its name."""
        token = self.next
        if token.kind == "text":
            return None
        if token.value == "\\mid" and self.bar_separates:
            return None
        if token.value == "\\not":
            self.take()
            return {"=": "!=", "in": "notin"}.get(self._relation() or "", "not")
        name = RELATIONS.get(token.value)
        if name:
            self.take()
            if name in "<>" and self.accept("="):
                name += "="
        return name

    def _labelled(self) -> Node:
        """Return a side of a relation; ``Name: value`` becomes an equation of a text and its value."""
        left = self.set_expression()
        if self.next.value == ":" and left.op in ("text", "mul") and has_text(left):
            self.take()
            return self.node("rel", (left, self.set_expression()), ("=",))
        return left

    # qualifiers

    def _skip_qualifier(self) -> None:
        """Skip what restricts a statement without changing its value: "for all x in Z", "where k is an integer"."""
        if not self._is_qualifier(self.peek(1 if self.next.value == "," else 0)):
            return
        level = 0
        while self.next is not END and not (level == 0 and self._ends_qualifier()):
            if self.next.kind != "text":
                level += self.next.value in OPENING or self.next.value == "{"
                level -= self.next.value in CLOSING
            self.take()

    def _is_qualifier(self, token: Token) -> bool:
        words = _bare(token.value).split() if token.kind == "text" else []
        if words and words[0] in QUALIFIERS:
            return True
        return token.value == "\\forall" and self.position > 0

    def _ends_qualifier(self) -> bool:
        """Tell whether a new item of the list, or the end of the brackets, follows a qualifier."""
        token = self.next
        if token.kind == "text":
            return token.value.strip(" ,;").lower() in CONNECTORS
        return token.value in _ITEM_ENDS or token.value in CLOSING

    # sets and ratios

    def set_expression(self) -> Node:
        """Return a union, intersection or difference of sets, or what binds tighter."""
        left = self._ratio()
        while self.next.kind == "cmd" and self.next.value in SET_OPERATIONS:
            operation = SET_OPERATIONS[self.take().value]
            left = self.node(operation, (left, self._ratio()))
        return left

    def _ratio(self) -> Node:
        """Return a ratio ``a:b`` or a sum."""
        parts = [self.sum()]
        while self._is_ratio_sign() and not has_text(parts[0]):
            self.take()
            if self.next.value == "=":  # ``:=`` defines; the relation follows
                break
            parts.append(self.sum())
        if len(parts) > 1:
            return self.node("ratio", tuple(parts))
        return parts[0]

    def _is_ratio_sign(self) -> bool:
        return self.next.value == ":" and self.next.kind == "mark" and not self.bar_separates


def _bare(text: str) -> str:
    return text.strip(" ,").lower()
