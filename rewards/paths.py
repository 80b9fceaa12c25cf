"""Values inside a row by a dotted path: ``reward_model.ground_truth``, ``messages.0.content``, through JSON text too.

Which columns a recipe asks for is up to ``grpo.data``.
"""

from __future__ import annotations

import ast
import json
from typing import Any, Iterator, Mapping

__all__ = ["MISSING", "NotStructured", "reach", "structured"]

MISSING: Any = object()
"""What `reach` returns where a path leads nowhere."""
MAX_LITERAL_CHARS = 1 << 20


class NotStructured(ValueError):
    """A path goes on inside a text that is neither JSON nor a Python literal."""


def reach(container: Any, path: str) -> Any:
    """What `path` names in a row or in a part of it, or `MISSING`.

    A name with dots that exists as it stands comes first. Numbers count the items of lists from 0, or from the end if
    negative. A text on the way is read as JSON. Raises `NotStructured`.

    >>> reach({"a.b": 1, "a": {"b": 2}}, "a.b"), reach({"info": '{"x": [3, 4]}'}, "info.x.-1")
    (1, 4)
    """
    if isinstance(container, str):
        container = structured(container)
    if isinstance(container, (list, tuple)):
        return _item(container, path)
    if not isinstance(container, Mapping):
        return MISSING
    if path in container:
        return container[path]
    for name, rest in _splits(path):
        if name in container and container[name] is not None:
            return reach(container[name], rest)
    return MISSING


def _item(items: Any, path: str) -> Any:
    name, _, rest = path.partition(".")
    if not name.removeprefix("-").isdecimal() or not -len(items) <= int(name) < len(items):
        return MISSING
    item = items[int(name)]
    return reach(item, rest) if rest else item


def _splits(path: str) -> Iterator[tuple[str, str]]:
    """Each way to take a name off the front of a path, the longest name first."""
    names = path.split(".")
    for number in range(len(names) - 1, 0, -1):
        yield ".".join(names[:number]), ".".join(names[number:])


def structured(text: str) -> Any:
    """What a text holds as JSON, or as the literal that Python prints for it. Raises `NotStructured`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip()) if len(text) <= MAX_LITERAL_CHARS else None
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise NotStructured(f"{shown!r} is not JSON") from None
