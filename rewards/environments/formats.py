"""How a policy writes calls of tools, and how it reads their results: one parser for each format, stated here.

| name      | a call                                                              | counts inside ``<think>`` |
|-----------|---------------------------------------------------------------------|---------------------------|
| `hermes`  | ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``        | no                        |
| `qwen3`   | ``<tool_call><function=NAME><parameter=KEY>...`` (Qwen3-Coder)      | no                        |
| `llama3`  | ``{"name": ..., "parameters": {...}}``, behind ``<|python_tag|>``   | no                        |
| `fenced`  | a block of ``python`` code, answered by a block of ``output``       | yes                       |
| `<calc>`  | ``<calc>2 + 2</calc>``, answered as ``<result>4</result>``          | yes                       |

The first three are read when a turn has ended, and answered by a turn of their own. They may hold several calls; if one
cannot be read, none is run. The last two are read in the middle of a turn, as soon as a call is complete. A tag is a
name of its own choice; ``<search>:<information>`` names the tag of the answer too. What runs a call is elsewhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Protocol, Sequence

from rewards.environments.types import Call, Result
from rewards.spelling import nearest

__all__ = ["FORMATS", "CallFormat", "Parsed", "format_of"]

PYTHON_TAG = "<|python_tag|>"
RESULT_TAG = "result"
_THOUGHT = re.compile(r"\A(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL)
_BLOCK = re.compile(r"^```(?:python|py)[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TAGS = re.compile(r"<(\w[\w-]*)>(?::<(\w[\w-]*)>)?")
_FUNCTION = re.compile(r"<function=([^<>\n]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Parsed:
    """The calls of one turn, in their order; or an ``error``, in words for the policy, and then no calls."""

    calls: tuple[Call, ...] = ()
    error: str = ""


class CallFormat(Protocol):
    """How calls are written and answered. Texts are of one turn: what the policy wrote since the last observation."""

    @property
    def name(self) -> str:
        """As a recipe names it."""
        ...

    @property
    def ends(self) -> tuple[str, ...]:
        """Texts that may complete a call in the middle of a turn; empty where only the end of the turn does."""
        ...

    @property
    def begins(self) -> tuple[str, ...]:
        """Texts with which a call begins: what follows one of them may be a call."""
        ...

    @property
    def is_alone(self) -> bool:
        """Whether a call is all of its turn, which then begins with it."""
        ...

    @property
    def in_turn(self) -> bool:
        """Whether the answer stands within the policy's turn, not in a turn of its own."""
        ...

    def parse(self, text: str) -> Parsed:
        """The calls of a turn."""
        ...

    def is_complete(self, text: str) -> bool:
        """Whether the text holds a whole call, so that the policy is to be interrupted. Only needed behind `ends`."""
        ...

    def answer(self, results: Sequence[Result]) -> str | list[dict[str, str]]:
        """What the policy reads next: a text within its turn, or messages for the chat template (role ``tool``)."""
        ...

    def write(self, call: Call) -> str:
        """A call as a policy writes it: `parse` gives it back."""
        ...


def format_of(name: str, chat_template: str | None = None) -> CallFormat:
    """The format that a recipe names; ``auto``: the one that the chat template teaches.

    Raises `ValueError`, in a sentence, for an unknown name, and where the template teaches no format known here.
    >>> format_of("<calc>").ends, format_of("hermes").in_turn
    (('</calc>',), False)
    """
    if name == "auto":
        return FORMATS[_taught_by(chat_template)]
    if name in FORMATS:
        return FORMATS[name]
    tags = _TAGS.fullmatch(name)
    if tags is not None:
        return _Tags(tags[1], tags[2] or RESULT_TAG)
    known = ("auto", *FORMATS)
    raise ValueError(
        f"environment.format: {name!r} is no format of calls{nearest(name, known)}; there are {', '.join(known)}, "
        "and tags such as <calc>"
    )


def _taught_by(template: str | None) -> str:
    if template is None:
        raise ValueError(
            "environment.format: auto reads the chat template, and there is none; set fenced, a tag such as <calc>, "
            f"or one of {', '.join(FORMATS)}"
        )
    if "<function=" in template:
        return "qwen3"
    if "<tool_call>" in template and "<arg_key>" not in template:
        return "hermes"
    if PYTHON_TAG in template or ("ipython" in template and '"parameters"' in template):
        return "llama3"
    raise ValueError(
        "environment.format: the chat template teaches no format of calls that is known here; set fenced, a tag such "
        f"as <calc>, or one of {', '.join(FORMATS)}, and tell the policy of it in the prompt"
    )


def without_thought(text: str) -> str:
    """A turn without its reasoning: what stands in ``<think>``, or before a ``</think>`` that nothing opened.

    >>> without_thought("so</think>4"), without_thought("a<think>b</think>c<think>d")
    ('4', 'ac')
    """
    return _THOUGHT.sub("", text)


# --------------------------------------------------------------------------------- calls that end a turn


class Unreadable(Exception):
    """A call that is begun and not well formed; says why, in words for the policy."""


@dataclass(frozen=True, slots=True)
class _EndOfTurn:
    """Calls that are read when the turn has ended, and answered by messages of role ``tool``."""

    name: str
    read: Callable[[str], Iterator[Call]]
    write: Callable[[Call], str]
    begins: tuple[str, ...]
    is_alone: bool = False
    ends: tuple[str, ...] = ()
    in_turn: bool = False

    def parse(self, text: str) -> Parsed:
        try:
            return Parsed(tuple(self.read(without_thought(text))))
        except Unreadable as error:
            return Parsed(error=str(error))

    def is_complete(self, text: str) -> bool:
        return False

    def answer(self, results: Sequence[Result]) -> list[dict[str, str]]:
        return [_tool_message(result) for result in results]


def _tool_message(result: Result) -> dict[str, str]:
    named = {"name": result.name} if result.name else {}
    return {"role": "tool", **named, "content": result.text}


def _read_hermes(text: str) -> Iterator[Call]:
    position = text.find("<tool_call>")
    while position >= 0:
        value, end = _json_at(text, position + len("<tool_call>"))
        if not text.startswith("</tool_call>", end):
            raise Unreadable("behind its JSON </tool_call> is missing")
        yield _call_of(value)
        position = text.find("<tool_call>", end)


def _read_llama3(text: str) -> Iterator[Call]:
    before, tag, behind = text.partition(PYTHON_TAG)
    said = behind if tag else before
    said = said.replace("<|eom_id|>", "").replace("<|eot_id|>", "").strip()
    if not said.startswith("{"):
        if tag:
            yield Call("python", said)
        return
    if not tag and not re.match(r'\{\s*"(name|type|parameters|arguments)"', said):
        return  # an answer in JSON
    position = 0
    while position < len(said):
        value, position = _json_at(said, position)
        yield _call_of(value)
        if said[position : position + 1] not in ("", ";"):
            raise Unreadable("behind a call nothing but a semicolon and a further call may stand")
        position += 1


def _read_qwen3(text: str) -> Iterator[Call]:
    functions = list(_FUNCTION.finditer(text))
    if max(text.count("<tool_call>"), text.count("<function=")) > len(functions):
        raise Unreadable(
            "a call is <function=NAME>...</function> within <tool_call>...</tool_call>"
        )
    for function in functions:
        yield Call(function[1].strip(), _parameters_of(function[2]))


def _parameters_of(body: str) -> dict[str, str]:
    values: dict[str, str] = {}
    position = 0
    while body[position:].strip():
        parameter = _PARAMETER.match(body, position)
        if parameter is None:
            raise Unreadable("an argument is <parameter=NAME>...</parameter>")
        values[parameter[1].strip()] = parameter[2]
        position = parameter.end()
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)
"""Lines may break within strings: policies write code so."""


def _json_at(text: str, position: int) -> tuple[Any, int]:
    """The JSON value at a position, and where the text goes on behind it and its white space."""
    start = _end_of_space(text, position)
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is no JSON: {error}") from None
    return value, _end_of_space(text, end)


def _end_of_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match is not None else position


def _call_of(value: Any) -> Call:
    """The call in a JSON value; ``arguments`` and ``parameters`` are one key, and may be text that holds JSON."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise Unreadable('a call is an object with "name" and "arguments"')
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments, _ = _json_at(arguments, 0)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise Unreadable('"arguments" is an object with a key for each argument')
    return Call(value["name"], arguments)


def _write_hermes(call: Call) -> str:
    return f"<tool_call>\n{_as_json(call, 'arguments')}\n</tool_call>"


def _write_llama3(call: Call) -> str:
    return _as_json(call, "parameters")


def _as_json(call: Call, key: str) -> str:
    return json.dumps({"name": call.name, key: call.arguments}, ensure_ascii=False)


def _write_qwen3(call: Call) -> str:
    assert isinstance(call.arguments, Mapping)
    lines = ["<tool_call>", f"<function={call.name}>"]
    for name, value in call.arguments.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines += [f"<parameter={name}>", shown, "</parameter>"]
    return "\n".join([*lines, "</function>", "</tool_call>"])


# --------------------------------------------------------------------------------- calls in mid-turn


def _only_text(call: Call) -> str:
    """The one argument of a call that has no room for names."""
    if isinstance(call.arguments, str):
        return call.arguments
    values = list(call.arguments.values())
    return str(values[0]) if values else ""


@dataclass(frozen=True, slots=True)
class _Fenced:
    """Blocks of code, run by the tool ``python``."""

    name: str = "fenced"
    ends: tuple[str, ...] = ("```",)
    begins: tuple[str, ...] = ("```py",)
    is_alone: bool = False
    in_turn: bool = True

    def parse(self, text: str) -> Parsed:
        return Parsed(tuple(Call("python", block[1]) for block in _BLOCK.finditer(text)))

    def is_complete(self, text: str) -> bool:
        return _BLOCK.search(text) is not None

    def answer(self, results: Sequence[Result]) -> str:
        return "".join(f"\n```output\n{result.text}\n```\n" for result in results)

    def write(self, call: Call) -> str:
        return f"```python\n{_only_text(call)}\n```"


@dataclass(frozen=True, slots=True)
class _Tags:
    """``<tag>text</tag>``, answered as ``<answer_tag>text</answer_tag>``."""

    tag: str
    answer_tag: str
    is_alone: bool = False
    in_turn: bool = True

    @property
    def name(self) -> str:
        named = f"<{self.tag}>"
        return named if self.answer_tag == RESULT_TAG else f"{named}:<{self.answer_tag}>"

    @property
    def ends(self) -> tuple[str, ...]:
        return (f"</{self.tag}>",)

    @property
    def begins(self) -> tuple[str, ...]:
        return (f"<{self.tag}>",)

    def parse(self, text: str) -> Parsed:
        return Parsed(tuple(Call(self.tag, written) for written in self._written(text)))

    def is_complete(self, text: str) -> bool:
        return next(self._written(text), None) is not None

    def _written(self, text: str) -> Iterator[str]:
        """What stands between the tags; of one that is opened twice, what the last holds."""
        opening = f"<{self.tag}>"
        *closed, _ = text.split(f"</{self.tag}>")
        for piece in closed:
            _, opened, written = piece.rpartition(opening)
            if opened:
                yield written

    def answer(self, results: Sequence[Result]) -> str:
        tag = self.answer_tag
        return "".join(f"<{tag}>{result.text}</{tag}>" for result in results)

    def write(self, call: Call) -> str:
        return f"<{self.tag}>{_only_text(call)}</{self.tag}>"


FORMATS: Mapping[str, CallFormat] = {
    "hermes": _EndOfTurn("hermes", _read_hermes, _write_hermes, begins=("<tool_call>",)),
    "llama3": _EndOfTurn(
        "llama3", _read_llama3, _write_llama3, begins=(PYTHON_TAG, "{"), is_alone=True
    ),
    "qwen3": _EndOfTurn("qwen3", _read_qwen3, _write_qwen3, begins=("<tool_call>", "<function=")),
    "fenced": _Fenced(),
}
"""The formats with a name; those of tags are made by `format_of`."""
