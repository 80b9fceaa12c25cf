"""Tests as Python source: assert statements, a function ``check``, or test functions for pytest or unittest.

The source is the data set's; it is parsed here, to see what kind it is, and runs only in a sandbox.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any, Iterator

from rewards.programs.nouns import AssertTests, BadTests
from rewards.sandbox.test_suite import SOLUTION_MODULES

__all__ = ["asserts", "holds_always", "imports_of", "tests_of_source", "texts_of"]

FIXTURES_INSIDE = frozenset({"capsys", "monkeypatch"})
"""Fixtures that change or watch the candidate's own process."""
ABOUT_CLASSES = ("isinstance", "issubclass", "type", "callable", "hasattr", "getattr")
_METHOD = re.compile(r"\s*(?:\w+\s*\(\s*\)\s*\.)?\s*(\w+)\s*")
"""``name``, or the method ``Solution().name``."""


def texts_of(value: Any) -> list[str]:
    """A list of source texts, also as JSON; one text is a list of one."""
    value = (
        json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    )
    texts = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in texts):
        raise BadTests("a test is not text")
    return texts


def tests_of_source(text: Any, entry: Any, prompt: str) -> AssertTests:
    """The tests in a source text; `entry` names the function they call, `prompt` may hold what comes before it."""
    if not isinstance(text, str):
        raise BadTests(f"test is {type(text).__name__}, not text")
    entry = _METHOD.sub(r"\1", entry) if isinstance(entry, str) and _METHOD.fullmatch(entry) else ""
    tree = _parsed(text)
    check = "check" if _defines_check(tree) else ""
    if check and not entry:
        raise BadTests("test has a function check, but the row has no entry_point")
    setup = _as_setup(prompt) if entry else ""
    is_suite = not check and _is_suite(tree)
    return AssertTests(
        tests=[text],
        setup=setup,
        check=check,
        entry=entry,
        prompt=prompt if setup else "",
        suite=is_suite,
        inside=_must_run_inside(tree),
    )


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTests(f"the tests are not Python: {error}") from None


def _as_setup(prompt: str) -> str:
    """A prompt as a module, even if its last function has no body; nothing if it is not a program."""
    for source in (prompt, prompt.rstrip() + "\n    pass\n"):
        try:
            ast.parse(source)
            return source
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return ""


def _defines_check(tree: ast.Module) -> bool:
    """Whether a module defines ``check`` and leaves it to others to call it."""
    others = [node for node in tree.body if not _is_check(node)]
    called = {
        ast.unparse(node.func)
        for other in others
        for node in ast.walk(other)
        if isinstance(node, ast.Call)
    }
    return len(others) < len(tree.body) and "check" not in called


def _is_check(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "check"


def asserts(text: str) -> bool:
    """Whether something in a source can fail: an assert statement, a raise, ``assertEqual``, ``raises``."""
    for node in ast.walk(_parsed(text)):
        if isinstance(node, (ast.Assert, ast.Raise)):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2].lower()
            if name.startswith(("assert", "raises", "warns", "fail", "check", "verify")):
                return True
    return False


def imports_of(text: str) -> set[str]:
    """The modules that tests cannot do without, but for pytest and the module of the solution."""
    if "import" not in text:
        return set()
    names: set[str] = set()
    optional: set[ast.AST] = set()
    for node in ast.walk(_parsed(text)):
        if isinstance(node, (ast.Try, ast.If)):
            optional.update(ast.walk(node))
        elif isinstance(node, ast.Import) and node not in optional:
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in optional and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names - {*SOLUTION_MODULES, "pytest"}


def holds_always(text: str) -> bool:
    """Whether nothing in a source can fail but ``assert True`` and the like, and no function is called.

    An ``assert True`` in a branch is a test: that it is reached.
    """
    tree = _parsed(text)
    constant = [node for node in _unconditional(tree) if _is_constant_assert(node)]
    of_interest = [
        node for node in ast.walk(tree) if isinstance(node, (ast.Assert, ast.Raise, ast.Call))
    ]
    return bool(constant) and len(of_interest) == len(constant)


def _unconditional(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements of a module and its functions that do not stand in a branch or a loop."""
    for node in getattr(tree, "body", []):
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _unconditional(node)


def _is_constant_assert(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assert):
        return False
    if isinstance(node.test, (ast.Tuple, ast.List, ast.Set)):
        return bool(node.test.elts)
    return isinstance(node.test, ast.Constant) and bool(node.test.value)


def _is_suite(tree: ast.Module) -> bool:
    """Whether a module holds test functions or classes of them."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith(
            "test"
        ):
            return True
        if isinstance(node, ast.ClassDef) and (node.name.startswith("Test") or _is_unittest(node)):
            return True
    return False


def _is_unittest(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("TestCase") for base in node.bases)


# ------------------------------------------------------------------------------- which process tests need


def _must_run_inside(tree: ast.Module) -> bool:
    """Whether tests need the candidate's process: its classes, or a change to what it uses.

    The tests alone decide, never what a candidate returns.
    """
    imported = _imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and _is_unittest(node):
            return True
        if _imports_mock(node):
            return True
        if isinstance(node, ast.arg) and node.arg in FIXTURES_INSIDE:
            return True
    return _uses_as_object(tree, imported)


def _imports_mock(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return False
    return any(name.startswith(("unittest.mock", "mock")) for name in names)


def _imported_names(tree: ast.Module) -> set[str]:
    """The names that tests import from the module of the solution."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in SOLUTION_MODULES:
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _uses_as_object(tree: ast.Module, imported: set[str]) -> bool:
    """Whether an imported name is used as more than a function to call or to pass on: as a class, say."""
    harmless: set[ast.AST] = set()
    as_classes: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            harmless |= _harmless(node)
            as_classes |= _class_arguments(node) | {node.func}
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            as_classes |= set(ast.walk(node.type))
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Name) and node.id in imported):
            continue
        is_constant = node.id.isupper() and node not in as_classes
        if node not in harmless and not is_constant:
            return True
    return False


def _class_arguments(call: ast.Call) -> set[ast.AST]:
    """What a call asks about classes."""
    if ast.unparse(call.func) not in ABOUT_CLASSES:
        return set()
    return {part for arg in call.args for part in ast.walk(arg)}


def _harmless(call: ast.Call) -> set[ast.AST]:
    """The names in a call that may stand for functions of another process."""
    called = ast.unparse(call.func)
    names: set[ast.AST] = set()
    if isinstance(call.func, ast.Name) and not _is_class_name(call.func.id):
        names.add(call.func)
    if called == "Solution" or called.endswith("raises"):
        return {*names, call.func, *call.args}
    if called in ABOUT_CLASSES:
        return names
    passed = [*call.args, *(keyword.value for keyword in call.keywords)]
    return {*names, *(arg for arg in passed if isinstance(arg, ast.Name))}


def _is_class_name(name: str) -> bool:
    return name[:1].isupper()
