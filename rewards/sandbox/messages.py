"""Values and requests between a candidate's process and its judges: exact built-in types, and nothing else.

An object that could lie when compared (a subclass of int, anything with its own ``__eq__``) is never sent: it becomes a
handle, a number that refers to an object of the other process. Imported by fork servers by path; standard library only.
What arrives is JSON, so that reading it runs no code.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import struct
import sys
from typing import Any, Callable

__all__ = [
    "Gone",
    "Peer",
    "Untravelable",
    "decode",
    "encode",
    "is_array",
    "numpy_value",
    "pack_frame",
    "read_frame",
    "write_bytes",
    "write_frame",
]

LIMIT_BYTES = 16 << 20
MOST_ITEMS = 1_000_000
SMALL_INT = 1 << 62
NUMBERS = {"b": 1, "i": 8, "u": 8, "f": 8, "c": 16}
"""Kinds of numpy's types that hold plain numbers, and their most bytes."""

Json = Any
_ITERATORS: tuple[type, ...] = (
    type(iter([])), type(iter(())), type(iter({})), type(iter(set())), type(iter("")), type(iter(range(0))), map,
    filter, zip, enumerate, reversed, type(reversed([])), type(_ for _ in ""), itertools.chain, itertools.islice,
)  # fmt: skip
_VIEWS = {type({}.keys()): "keys", type({}.values()): "it", type({}.items()): "it"}
_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)


class Untravelable(TypeError):
    """A value that is not made of built-in types."""


class Gone(BaseException):
    """The other process has left. Not an Exception: no test may catch it."""


# ---------------------------------------------------------------------------------------------- values


class _Encoder:
    """Encodes one value. ``handle`` makes a number for what cannot be sent, or raises."""

    def __init__(self, handle: Callable[[Any], Json]) -> None:
        self._handle = handle
        self._items = 0

    def value(self, x: Any) -> Json:
        self._items += 1
        if self._items > MOST_ITEMS:
            raise Untravelable("more than a million items")
        kind = type(x)
        if x is None or kind is bool or kind is str:
            return x
        if kind is int:
            return x if -SMALL_INT < x < SMALL_INT else {"i": hex(x)}
        if kind is float:
            return x if x - x == 0 else {"f": repr(x)}
        if kind is list:
            return [self.value(item) for item in x]
        return self._tagged(kind, x)

    def _tagged(self, kind: type, x: Any) -> Json:
        if kind is tuple:
            return {"t": self._all(x)}
        if kind in _MAPPINGS:
            return {"d": [[self.value(key), self.value(item)] for key, item in dict.items(x)]}
        if kind is set or kind is frozenset:
            return {"s" if kind is set else "z": self._all(x)}
        if kind is bytes or kind is bytearray:
            return {"b" if kind is bytes else "B": bytes(x).hex()}
        if kind is complex:
            return {"c": [self.value(x.real), self.value(x.imag)]}
        if kind is range:
            return {"r": [self.value(x.start), self.value(x.stop), self.value(x.step)]}
        if kind is _loaded("fractions", "Fraction"):
            return {"q": [self.value(int(x.numerator)), self.value(int(x.denominator))]}
        if kind is _loaded("decimal", "Decimal"):
            return {"D": kind.__str__(x)}
        if kind is collections.deque:
            return {"dq": self._all(x)}
        if kind in _VIEWS:
            return {_VIEWS[kind]: self._all(x)}
        if kind in _ITERATORS:
            return {"it": self._all(x)}
        body = _of_numpy(kind, x)
        return self._handle(x) if body is None else {"np": body}

    def _all(self, items: Any) -> list[Json]:
        return [self.value(item) for item in items]


def _refuse(x: Any) -> Json:
    raise Untravelable(f"{type(x).__name__} is not made of built-in types")


def encode(x: Any, handle: Callable[[Any], Json] = _refuse) -> Json:
    """``x`` as plain JSON values; raises `Untravelable` if it is too big, too deep, or ``handle`` refuses a part.

    >>> encode((1, [2.5, {"a": None}])), encode(float("nan"))
    ({'t': [1, [2.5, {'d': [['a', None]]}]]}, {'f': 'nan'})
    """
    try:
        return _Encoder(handle).value(x)
    except RecursionError:
        raise Untravelable("nested too deeply") from None


def decode(data: Json, special: Callable[[str, Json], Any] | None = None) -> Any:
    """The value that `encode` described; ``special`` decodes other tags. Only for processes that may be killed."""
    if type(data) is list:
        return [decode(item, special) for item in data]
    if type(data) is not dict:
        return data
    ((tag, body),) = data.items()
    if tag in _CONTAINERS:
        return _CONTAINERS[tag]([decode(item, special) for item in body])
    if tag == "d":
        return {decode(key, special): decode(item, special) for key, item in body}
    if tag in _SCALARS:
        return _SCALARS[tag](body)
    if tag in ("c", "q", "r"):
        return _PARTED[tag](*(decode(part) for part in body))
    if special is None:
        raise Untravelable(f"a value of kind {tag!r}")
    return special(tag, body)


_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "t": tuple, "s": set, "z": frozenset, "it": iter, "keys": dict.fromkeys, "dq": collections.deque,
}  # fmt: skip
_PARTED: dict[str, Callable[..., Any]] = {
    "c": complex,
    "q": lambda *parts: _fraction(*parts),
    "r": range,
}
_SCALARS: dict[str, Callable[[str], Any]] = {
    "i": lambda text: int(text, 16), "f": float, "b": bytes.fromhex, "B": bytearray.fromhex,
    "D": lambda text: _decimal(text),
}  # fmt: skip


def _of_numpy(kind: type, x: Any) -> dict[str, Any] | None:
    """A number or an array of numbers of numpy: its type and bytes, of a number also the value; None for the rest."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not issubclass(kind, (numpy.generic, numpy.ndarray)):
        return None
    dtype = x.dtype
    is_plain = kind in (numpy.ndarray, dtype.type) and dtype.itemsize <= NUMBERS.get(dtype.kind, 0)
    if not is_plain:
        return None
    if x.nbytes > LIMIT_BYTES // 4:
        raise Untravelable("an array of too many bytes")
    body = {"dtype": dtype.str, "shape": list(x.shape), "data": x.tobytes().hex()}
    if kind is numpy.ndarray:
        return body
    return body | {"value": encode(x.item())}


def is_array(x: Any) -> bool:
    """Whether `x` is an array of numpy."""
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and type(x) is numpy.ndarray


def numpy_value(body: Any) -> Any:
    """The number or array that `_of_numpy` described, where numpy is loaded; for processes that may be killed."""
    numpy: Any = sys.modules["numpy"]
    flat = numpy.frombuffer(bytes.fromhex(body["data"]), dtype=numpy.dtype(body["dtype"]))
    return flat[0] if "value" in body else flat.reshape(body["shape"]).copy()


def _loaded(module: str, name: str) -> Any:
    """A type from a module, if that module was imported."""
    return getattr(sys.modules.get(module), name, None)


def _fraction(numerator: int, denominator: int) -> Any:
    import fractions  # noqa: PLC0415  fork servers start without it

    return fractions.Fraction(numerator, denominator)


def _decimal(text: str) -> Any:
    import decimal  # noqa: PLC0415  fork servers start without it

    return decimal.Decimal(text)


# ---------------------------------------------------------------------------------------------- frames


def pack_frame(message: Json) -> bytes:
    """A message as bytes; raises `Untravelable` if it is too big."""
    body = json.dumps(message).encode()
    if len(body) > LIMIT_BYTES:
        raise Untravelable(f"a message of {len(body)} bytes")
    return struct.pack("<I", len(body)) + body


def write_frame(descriptor: int, message: Json) -> None:
    """Send one message; raises `Gone` if nobody listens any more."""
    write_bytes(descriptor, pack_frame(message))


def write_bytes(descriptor: int, frame: bytes) -> None:
    """Send one packed message; raises `Gone` if nobody listens any more."""
    data = memoryview(frame)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        raise Gone from None


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        try:
            part = os.read(descriptor, min(size, 1 << 20))
        except OSError:
            raise Gone from None
        if not part:
            raise Gone
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_frame(descriptor: int) -> Json:
    """The next message; raises `Gone` at the end or if what arrives is not a message."""
    size = struct.unpack("<I", _read_exactly(descriptor, 4))[0]
    if size > LIMIT_BYTES:
        raise Gone
    try:
        return json.loads(_read_exactly(descriptor, size))
    except (ValueError, RecursionError):
        raise Gone from None


class Peer:
    """One end of a connection on which either side may ask, also while it is being asked."""

    def __init__(self, descriptor: int, serve: Callable[[Json], Json]) -> None:
        self._descriptor = descriptor
        self._serve = serve

    def ask(self, message: Json) -> Json:
        """Send a request and wait for its reply, answering requests that arrive in between."""
        write_frame(self._descriptor, message)
        while True:
            frame = read_frame(self._descriptor)
            if type(frame) is not dict:
                raise Gone
            if "reply" in frame:
                return frame["reply"]
            self._answer(frame)

    def serve_forever(self) -> None:
        """Answer requests until the other side leaves."""
        while True:
            self._answer(read_frame(self._descriptor))

    def _answer(self, frame: Json) -> None:
        write_frame(self._descriptor, {"reply": self._serve(frame)})
