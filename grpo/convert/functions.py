"""Reward functions of a script as a module of their own: with what of the script they need, and nothing that trains."""

from __future__ import annotations

import ast
from typing import Iterator

HEAD = '"""Reward functions taken from {name}, with the imports and constants that they use."""\n'


def module_of(text: str, names: set[str], file_name: str) -> str:
    """The source of a module with the functions `names` of the script `text`."""
    tree = ast.parse(text)
    needed = _closure(tree, names)
    lines = text.splitlines()
    parts = [HEAD.format(name=file_name)]
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            parts += _import_of(node, needed)
        elif set(_defined(node)) & needed:
            parts.append("\n".join(lines[_first_line(node) - 1 : node.end_lineno]))
    return "\n\n".join(parts) + "\n"


def _closure(tree: ast.Module, names: set[str]) -> set[str]:
    """`names`, and all names of the module's top level that they use, directly or through others."""
    used_by = {name: _used(node) for node in tree.body for name in _defined(node)}
    needed: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting |= used_by.get(name, set()) - needed
    return needed


def _used(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of the top level defines, apart from imports."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _import_of(node: ast.Import | ast.ImportFrom, needed: set[str]) -> list[str]:
    """The import of those names that are needed."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return [ast.unparse(node)]
    names = [name for name in node.names if _name_in_scope(name) in needed]
    if not names:
        return []
    if isinstance(node, ast.ImportFrom):
        return [ast.unparse(ast.ImportFrom(node.module, names, node.level))]
    return [ast.unparse(ast.Import(names))]


def _name_in_scope(name: ast.alias) -> str:
    return name.asname or name.name.split(".")[0]


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
