"""Rewards of a user's own files, seen without running them: that a function is there, and what it is called with.

A recipe of someone else is looked at before its code is run; so a dry run reads the file as text.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from typing import Any, Callable, Mapping

from grpo.recipe import RecipeError, RewardSection
from rewards.spelling import nearest
from rewards.table import TABLE

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def stand_ins(rewards: Mapping[str, RewardSection]) -> dict[str, Callable[..., Any]]:
    """For each reward that is code of the user's, a function of the same parameters that is never called.

    Raises `RecipeError` for a file that is not there, is no Python, or does not define the function.
    """
    found = {}
    for name, section in rewards.items():
        target, colon, function = (section.use or "").rpartition(":")
        if colon and section.use not in TABLE:
            found[name] = _stand_in(f"rewards.{name}", target, function)
    return found


def _stand_in(where: str, target: str, function: str) -> Callable[..., Any]:
    source = Path(target) if target.endswith(".py") else _source_of_module(target)
    signature = inspect.Signature([_parameter("text")])
    if source is not None:
        signature = _signature(where, source, function)

    def unused(*arguments: Any, **columns: Any) -> float:
        raise AssertionError("a dry run scores nothing")

    unused.__name__ = function
    unused.__signature__ = signature  # type: ignore[attr-defined]
    return unused


def _source_of_module(module: str) -> Path | None:
    """The file of a module, found without importing anything; None for one that is not written in Python."""
    top, _, rest = module.partition(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    base = Path(spec.origin).parent.joinpath(*rest.split("."))
    choices = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in choices if path.is_file()), None)


def _signature(where: str, source: Path, function: str) -> inspect.Signature:
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    except OSError as error:
        raise RecipeError(f"recipe: {where}: {source} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise RecipeError(f"recipe: {where}: {source} is not Python: {error}") from None
    defined = {node.name: node for node in tree.body if isinstance(node, Definition)}
    node = defined.get(function)
    if node is not None:
        return _signature_of(node)
    if any(_binds(statement, function) for statement in tree.body):
        return inspect.Signature([_parameter("text")])  # imported or assigned: known when it runs
    raise RecipeError(
        f"recipe: {where}: {source} defines no {function}{nearest(function, defined)}"
    )


def _binds(statement: ast.stmt, name: str) -> bool:
    """Whether a statement may define `name` in a way that only running it would show."""
    named = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    aliases = [node for node in ast.walk(statement) if isinstance(node, ast.alias)]
    imported = [alias.asname or alias.name for alias in aliases]
    return name in named or name in imported or "*" in imported


def _signature_of(node: Definition) -> inspect.Signature:
    if not isinstance(node, ast.ClassDef):
        return inspect.Signature(_parameters(node.args))
    functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    called = next((part for part in functions if part.name == "__call__"), None)
    parameters = [] if called is None else _parameters(called.args)[1:]
    return inspect.Signature(parameters or [_parameter("text")])


def _parameters(arguments: ast.arguments) -> list[inspect.Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    num_without_default = len(positional) - len(arguments.defaults)
    parameters = [
        _parameter(argument.arg, has_default=index >= num_without_default)
        for index, argument in enumerate(positional)
    ]
    if arguments.vararg is not None:
        parameters.append(_parameter(arguments.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(_parameter(argument.arg, kind, has_default=default is not None))
    if arguments.kwarg is not None:
        parameters.append(_parameter(arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return parameters


def _parameter(
    name: str,
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD,
    *,
    has_default: bool = False,
) -> inspect.Parameter:
    default = None if has_default else inspect.Parameter.empty
    return inspect.Parameter(name, kind, default=default)
