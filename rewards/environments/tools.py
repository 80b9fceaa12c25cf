"""Python functions as tools: what the policy is told of one, and how it is called with what the policy wrote.

The schema comes from type hints and a Google docstring, in the form that chat templates take; it equals that of
``transformers.utils.get_json_schema`` where that has one. What the policy did wrong, and what the function raises,
becomes text that the policy reads. Processes and deadlines are elsewhere.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import re
import typing
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Collection, Mapping

from rewards.environments.hints import Unfit, convert, schema_of
from rewards.environments.types import Call, Result
from rewards.spelling import nearest

__all__ = [
    "Tool",
    "ToolError",
    "as_text",
    "awaited",
    "cut",
    "example_call",
    "methods_as_tools",
    "raised",
    "tool_of",
]

TOOL_ERRORS = (BaseException,)
"""What counts as a tool's own failure, which the policy reads: also exits, panics of Rust code and cancelled awaits.

An async call that is cancelled because it is late was told to be late before; nobody reads what it gives then.
"""
MAX_ERROR_CHARS = 2000
LEFT_OUT = "\n[... {} bytes left out ...]\n"
_SECTION = re.compile(
    r"^[ \t]*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):[ \t]*$",
    re.MULTILINE,
)
_ARGUMENT = re.compile(r"^([ \t]*)(\w+)[ \t]*(?:\([^)\n]*\))?:[ \t]*(.*)$")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.DOTALL | re.IGNORECASE)


class ToolError(ValueError):
    """What a tool raises to refuse a call: the policy reads the message alone, without the exception's name."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the policy may call, with the schema it is shown. ``hints`` are those of its parameters."""

    name: str
    schema: Mapping[str, Any]
    function: Callable[..., Any]
    hints: Mapping[str, Any]
    required: frozenset[str]

    @property
    def is_async(self) -> bool:
        """Whether a call gives an awaitable."""
        called: Any = type(self.function).__call__
        return any(map(inspect.iscoroutinefunction, (self.function, called)))

    def arguments(self, given: Mapping[str, Any] | str) -> dict[str, Any]:
        """The keyword arguments for what the policy wrote; raises `ToolError`.

        A text stands for the only parameter, or the first. A null where a parameter has a default means the default.
        """
        if isinstance(given, str):
            given = {next(iter(self.hints)): given} if self.hints else {}
        for name in given:
            if name not in self.hints:
                offered = ", ".join(self.hints) or "nothing"
                close = nearest(str(name), self.hints)
                raise ToolError(f"{self.name} has no argument {name}{close}; it takes {offered}")
        absent = sorted(self.required - set(given))
        if absent:
            raise ToolError(f"{self.name} needs the argument {absent[0]}")
        return {name: self._argument(name, value) for name, value in self._said(given).items()}

    def _said(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in given.items()
            if value is not None or name in self.required or _takes_null(self.hints[name])
        }

    def _argument(self, name: str, value: Any) -> Any:
        try:
            return convert(value, self.hints[name])
        except Unfit as error:
            raise ToolError(f"{name}: {error}") from None

    async def call(self, given: Mapping[str, Any] | str) -> Result:
        """Call the function here and now; it may be async."""
        try:
            value = await awaited(self.function(**self.arguments(given)))
            return Result(self.name, as_text(value))
        except TOOL_ERRORS as error:
            return Result(self.name, raised(error), "error")


async def awaited(value: Any) -> Any:
    """What a function gave that may be async; in a thread without a loop it is awaited in a loop of its own."""
    if not inspect.isawaitable(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_waiting_for(value))
    return await value


async def _waiting_for(value: Awaitable[Any]) -> Any:
    return await value


def _takes_null(hint: Any) -> bool:
    return hint is Any or type(None) in typing.get_args(hint)


def raised(error: BaseException) -> str:
    """An exception as the policy reads it: its type and message, no traceback."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  the exception is the tool's own
        message = ""
    if isinstance(error, ToolError):
        return f"Error: {message}"
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"Error: {said[:MAX_ERROR_CHARS]}"


def as_text(value: Any) -> str:
    r"""What a tool returned, as the policy reads it: text as it is, bytes as UTF-8, structures as JSON.

    >>> as_text("so"), as_text(4), as_text({"a": [1, None]}), as_text(None), as_text(b"\xff")
    ('so', '4', '{"a": [1, null]}', 'None', '�')
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (dict, list, tuple)):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            pass
    return str(value).encode("utf-8", "replace").decode()


def cut(text: str, max_bytes: int) -> str:
    r"""A text of at most so many bytes of UTF-8: its beginning and end, and how much stood between, if there is room.

    >>> cut("abcdefgh", 8), cut("abcdefgh", 4)
    ('abcdefgh', 'abcd')
    >>> cut(100 * "a" + 100 * "b", 50)
    'aaaaaaaaaa\n[... 180 bytes left out ...]\nbbbbbbbbbb'
    """
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return data.decode()
    room = max_bytes - len(LEFT_OUT.format(len(data)))
    if room < 2:
        return data[:max_bytes].decode("utf-8", "ignore")
    half = room // 2
    head = data[:half].decode("utf-8", "ignore")
    tail = data[len(data) - half :].decode("utf-8", "ignore")
    return head + LEFT_OUT.format(len(data) - 2 * half) + tail


# ------------------------------------------------------------------------------------------ reading a function


def tool_of(function: Callable[..., Any], name: str = "", *, of_class: bool = False) -> Tool:
    """A function as a tool; `ValueError`, in a sentence, if it cannot be shown to a policy.

    It needs a docstring and a type hint for each parameter; ``*args`` and ``**kwargs`` cannot be offered. A method read
    from its class, whose object comes later, is one `of_class`.
    """
    name = name or getattr(function, "__name__", "") or type(function).__name__
    _check_kind(function, name)
    parameters = _parameters(function, name, of_class=of_class)
    all_hints = _hints(function, name)
    hints = {key: all_hints[key] for key in parameters}
    required = [key for key, p in parameters.items() if p.default is p.empty]
    description, told = _docstring(_documented(function))
    if not description:
        raise ValueError(f"tool {name}: it has no docstring; that is what the policy is told of it")
    properties: dict[str, Any] = {}
    for key, hint in hints.items():
        properties[key] = _property(f"tool {name}: parameter {key}", hint, told.get(key))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    shown = {"name": name, "description": description, "parameters": schema}
    if "return" in all_hints:
        shown |= _returned(function, all_hints["return"])
    return Tool(
        name=name,
        schema={"type": "function", "function": shown},
        function=function,
        hints=hints,
        required=frozenset(required),
    )


def methods_as_tools(owner: Any, without: Collection[str] = ()) -> list[Tool]:
    """The public methods of an object or a class as tools, in the order of their names, but for ``reset``."""
    described = owner if inspect.isclass(owner) else type(owner)
    names = [name for name, _ in inspect.getmembers(described, inspect.isfunction)]
    public = [
        name for name in names if not name.startswith("_") and name not in ("reset", *without)
    ]
    of_class = inspect.isclass(owner)
    return [tool_of(getattr(owner, name), name, of_class=of_class) for name in public]


def example_call(schema: Mapping[str, Any]) -> Call:
    """A call that fits a tool's schema, with made-up arguments, to try the tool before a run."""
    shown = schema["function"]
    properties = shown["parameters"].get("properties", {})
    required = shown["parameters"].get("required", [])
    return Call(shown["name"], {name: _example(properties[name]) for name in required})


def _example(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0])
    if "prefixItems" in schema:
        return [_example(item) for item in schema["prefixItems"]]
    kind = schema.get("type", "string")
    return _EXAMPLES[kind if isinstance(kind, str) else kind[0]]


_EXAMPLES: Mapping[str, Any] = {
    "integer": 1,
    "number": 1.0,
    "string": "1",
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


def _check_kind(function: Any, name: str) -> None:
    """Refuse what is called otherwise than as a function that returns a value."""
    if inspect.isclass(function):
        raise ValueError(
            f"tool {name}: it is a class; its methods are tools where it is named as environment.use"
        )
    if not callable(function):
        raise ValueError(f"tool: expected a function or the name of one, found {_found(function)}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(f"tool {name}: it yields; return what the policy is to read")


def _found(value: Any) -> str:
    """What was passed instead of a function, and what would do."""
    kind = type(value).__name__
    if isinstance(value, Mapping) and ("function" in value or "parameters" in value):
        return f"{kind}: that is a schema, which is made from the function; pass the function"
    if any(callable(getattr(value, key, None)) for key in ("func", "fn", "forward", "run", "_run")):
        return f"{kind}, an object around a function; pass the function itself"
    return f"{kind} {value!r}"


def _parameters(
    function: Callable[..., Any], name: str, *, of_class: bool
) -> dict[str, inspect.Parameter]:
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tool {name}: its parameters cannot be read ({error})") from error
    receiver = next(iter(parameters.values()), None)
    if receiver is not None and receiver.name == "self" and receiver.annotation is receiver.empty:
        if not of_class:
            raise ValueError(
                f"tool {name}: it is a method without its object; pass that of an object, e.g. Shop().{name}, or name "
                "the class as environment.use"
            )
        del parameters["self"]
    for key, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(
                f"tool {name}: {parameter} cannot be given by name; the policy writes names"
            )
        if parameter.annotation is parameter.empty:
            raise ValueError(f"tool {name}: parameter {key} has no type hint")
    return parameters


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    annotated = function.func if isinstance(function, functools.partial) else function
    if not inspect.isroutine(annotated):
        annotated = type(annotated).__call__
    try:
        return typing.get_type_hints(annotated)
    except Exception as error:
        raise ValueError(f"tool {name}: its type hints cannot be read ({error})") from error


def _property(where: str, hint: Any, told: str | None) -> dict[str, Any]:
    try:
        schema = schema_of(hint)
    except TypeError as error:
        raise ValueError(
            f"{where}: {error}; hints of basic types, lists, dicts, Literal and Enum can"
        ) from None
    if told is None:
        return schema
    choices = _CHOICES.search(told)
    if choices is not None:
        try:
            schema["enum"] = [_stripped(value) for value in json.loads(choices[1])]
            told = told[: choices.start()].strip()
        except ValueError:
            pass  # no list of choices, but words of the description
    return {**schema, "description": told}


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _returned(function: Callable[..., Any], hint: Any) -> dict[str, Any]:
    """What the schema says of the value: its type and the docstring's words; nothing for a type that is no JSON."""
    try:
        schema = schema_of(hint)
    except TypeError:
        return {}
    told = _sections(inspect.getdoc(function) or "").get("Returns", "").strip()
    return {"return": {**schema, "description": told} if told else schema}


def _documented(function: Callable[..., Any]) -> Any:
    """What has the docstring: of an object that can be called the method, where its class has none."""
    if isinstance(function, functools.partial):
        return function.func
    if inspect.isroutine(function) or type(function).__doc__:
        return function
    return type(function).__call__


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """A Google docstring's description, and what it says of each argument."""
    sections = _sections(inspect.getdoc(function) or "")
    told: dict[str, str] = {}
    current = ""
    depth: int | None = None
    for line in sections.get("Args", "").splitlines():
        match = _ARGUMENT.match(line)
        if match is not None and (depth is None or len(match[1]) <= depth):
            depth = len(match[1])
            current = match[2]
            told[current] = match[3].strip()
        elif current and line.strip():
            told[current] = f"{told[current]} {line.strip()}".strip()
    return sections[""].strip(), told


def _sections(docstring: str) -> dict[str, str]:
    """The docstring's sections by their heads; the description has none."""
    pieces = _SECTION.split(docstring)
    sections = {"": pieces[0]}
    for head, body in zip(pieces[1::2], pieces[2::2]):
        sections["Args" if head in ("Arguments", "Parameters") else head] = body
    return sections
