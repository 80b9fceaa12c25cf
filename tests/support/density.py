"""Measures how much happens in a line, and holds the limits: ``python tests/support/density.py [PACKAGE ...]``.

One idea a line. An expression is a node of the syntax tree; a line of code is one that holds a token which is neither a
comment nor part of a docstring. A table is a module's constant in capitals: it may be as long and as nested as its
data. A statement that has a reason to break a rule says so in a comment, ``# density: REASON``, on its first line.

Limits: expressions a line, expressions a statement, lines a function (the 90th percentile and the longest); no
comprehension inside another, no ``a, b = c, d`` of unrelated things, no call with more than four positional arguments.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("grpo", "rewards")
MAX_EXPRESSIONS_A_LINE = 5.0
MAX_EXPRESSIONS_A_STATEMENT = 60
MAX_LINES_P90 = 25
MAX_LINES = 60
MAX_POSITIONAL = 4
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IGNORED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@dataclass
class Measured:
    """What one package holds, and where it breaks a rule."""

    num_files: int = 0
    num_lines: int = 0
    num_expressions: int = 0
    function_lines: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def expressions_a_line(self) -> float:
        return self.num_expressions / max(1, self.num_lines)

    @property
    def lines_p90(self) -> int:
        ordered = sorted(self.function_lines)
        return ordered[int(0.9 * len(ordered))] if ordered else 0


def docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, SCOPES) or ast.get_docstring(node, clean=False) is None:
            continue
        docstring = node.body[0]
        lines.update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines


def code_lines(text: str, tree: ast.Module) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in IGNORED:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(tree))


def num_expressions(node: ast.AST) -> int:
    return sum(isinstance(part, ast.expr) for part in ast.walk(node))


def header_of(statement: ast.stmt) -> list[ast.AST]:
    """The parts of a statement that are its own: for a compound one those before its body."""
    bodies = ("body", "orelse", "finalbody", "handlers", "cases")
    parts: list[ast.AST] = []
    for name, value in ast.iter_fields(statement):
        if name in bodies:
            continue
        values = value if isinstance(value, list) else [value]
        parts += [part for part in values if isinstance(part, ast.AST)]
    return parts


def is_table(statement: ast.stmt) -> bool:
    """A module's constant: ``NAME = ...`` in capitals."""
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return False
    return all(isinstance(target, ast.Name) and target.id.isupper() for target in targets)


def statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, bool]]:
    """Each statement, and whether it is a table."""
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            yield node, id(node) in top and is_table(node)


def breaks_of(statement: ast.stmt) -> Iterator[str]:
    header = header_of(statement)
    size = sum(map(num_expressions, header))
    if size > MAX_EXPRESSIONS_A_STATEMENT and not isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        yield f"a statement of {size} expressions"
    if is_tuple_of_unrelated(statement):
        yield "several assignments in one: a, b = c, d"
    for part in header:
        for node in ast.walk(part):
            if isinstance(node, COMPREHENSIONS) and holds_comprehension(node):
                yield "a comprehension inside another"
            if isinstance(node, ast.Call) and len(node.args) > MAX_POSITIONAL:
                yield f"a call with {len(node.args)} positional arguments"


def holds_comprehension(node: ast.AST) -> bool:
    return any(isinstance(part, COMPREHENSIONS) for part in ast.walk(node) if part is not node)


def is_tuple_of_unrelated(statement: ast.stmt) -> bool:
    """``a, b = c, d``, but not an exchange of the same names."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Tuple):
        return False
    target = statement.targets[0]
    if not isinstance(target, ast.Tuple):
        return False
    old = {ast.unparse(element) for element in target.elts}
    new = {ast.unparse(element) for element in statement.value.elts}
    return old != new


def measure_file(path: Path, measured: Measured) -> None:
    text = path.read_text()
    lines = text.splitlines()
    tree = ast.parse(text)
    measured.num_files += 1
    measured.num_lines += code_lines(text, tree)
    measured.num_expressions += num_expressions(tree)
    for statement, table in statements(tree):
        where = f"{path.relative_to(ROOT)}:{statement.lineno}"
        if not table and "# density:" not in lines[statement.lineno - 1]:
            measured.broken += [f"{where}: {reason}" for reason in breaks_of(statement)]
        if isinstance(statement, FUNCTIONS):
            size = (statement.end_lineno or statement.lineno) - statement.lineno + 1
            measured.function_lines.append(size)
            if size > MAX_LINES:
                measured.broken.append(f"{where}: {statement.name} has {size} lines")


def measure(folder: Path) -> Measured:
    measured = Measured()
    for path in sorted(folder.rglob("*.py")):
        measure_file(path, measured)
    if measured.expressions_a_line > MAX_EXPRESSIONS_A_LINE:
        measured.broken.append(
            f"{folder.name}: more than {MAX_EXPRESSIONS_A_LINE} expressions a line"
        )
    if measured.lines_p90 > MAX_LINES_P90:
        measured.broken.append(f"{folder.name}: one function in ten is over {MAX_LINES_P90} lines")
    return measured


def main(names: list[str]) -> int:
    failed = False
    for name in names or PACKAGES:
        measured = measure(ROOT / name)
        for line in measured.broken:
            print(line)
        print(
            f"{name}: {measured.num_files} files, {measured.num_lines} lines of code, "
            f"{measured.expressions_a_line:.2f} expressions a line, "
            f"functions of {measured.lines_p90} lines at the 90th percentile, "
            f"{len(measured.broken)} rules broken"
        )
        failed = failed or bool(measured.broken)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
