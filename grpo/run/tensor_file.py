"""Tensors on disk: safetensors files with a checksum taken as they are written, and trees of values around them.

Files are written in pieces that leave the interpreter free for others, so that a thread can write during training,
and past the system's file cache where it lets us: filling that cache took up to ten times the CPU time of all the
rest. Nothing here is pickled, so nothing that is read can run code. Reading is safetensors' own.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Callable, Iterator, Mapping, Protocol, Sequence

import numpy
import torch
from torch import Tensor

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PIECE = 4 * 2**20  # bytes written, and summed, at a time
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def nothing() -> None:
    """The `between` of a writer that is never asked to stop."""


class Output(Protocol):
    """What bytes are written to."""

    def write(self, data: memoryview, /) -> Any:
        """Take all of `data`."""

    def close(self) -> None:
        """Write what is left, and close."""


class DirectFile:
    """A file written past the system's cache, from one aligned buffer; `OSError` if the file system has no such mode.

    What is left at the end, and everything if the file system refuses at the first write, goes the usual way.
    """

    def __init__(self, file: Path):
        self._buffer = mmap.mmap(-1, PIECE)
        self._filled = 0
        self._direct = True
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_DIRECT
        self._descriptor = os.open(file, flags, 0o666)

    def write(self, data: memoryview) -> None:
        """Take all of `data`; what fills the buffer is on the disk when this returns."""
        buffer = numpy.frombuffer(self._buffer, numpy.uint8)
        left = numpy.frombuffer(data, numpy.uint8)
        while len(left):
            taken = min(len(left), PIECE - self._filled)
            numpy.copyto(buffer[self._filled : self._filled + taken], left[:taken])
            self._filled += taken
            left = left[taken:]
            if self._filled == PIECE:
                self._empty()

    def _empty(self) -> None:
        left = memoryview(self._buffer)[: self._filled]
        self._filled = 0
        while left:
            if len(left) < PIECE:
                self._use_the_cache()
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._use_the_cache()

    def _use_the_cache(self) -> None:
        if self._direct:
            assert fcntl is not None, "without it os.O_DIRECT is missing too"
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            self._direct = False

    def close(self) -> None:
        """Write what is left; raises `OSError` if that fails, and the file is closed all the same."""
        try:
            self._empty()
        finally:
            os.close(self._descriptor)


def open_large(file: Path) -> Output:
    """`file`, emptied and open for a great many bytes."""
    try:
        return DirectFile(file)
    except (OSError, AttributeError):  # another system, or a file system that cannot
        return file.open("wb")


class SummedFile:
    """A file open for writing that knows how many bytes it was given, and their checksum."""

    def __init__(self, out: Output | BinaryIO, between: Callable[[], None] = nothing):
        self._out = out
        self._between = between
        self._crc32 = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Write `data` piece by piece; `between` is called before each, and may raise."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            self._between()
            piece = view[start : start + PIECE]
            self._crc32 = zlib.crc32(piece, self._crc32)
            self._out.write(piece)
            self.size += len(piece)

    def entry(self) -> dict[str, Any]:
        """What a manifest says of the file."""
        return {"bytes": self.size, "crc32": self._crc32}


def write_tensors(out: SummedFile, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors`, which may be on any device, as a safetensors file."""
    text = json.dumps(_header(tensors), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        if tensor.numel():
            values = tensor.detach().contiguous().cpu().reshape(-1)
            out.write(values.view(torch.uint8).numpy().data)


def _header(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start = end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    return header


def checked(file: Path) -> dict[str, Any]:
    """The manifest's entry for `file` as it is on the disk."""
    crc32 = 0
    size = 0
    with file.open("rb") as data:
        while piece := data.read(PIECE):
            crc32 = zlib.crc32(piece, crc32)
            size += len(piece)
    return {"bytes": size, "crc32": crc32}


def flush(path: Path) -> None:
    """Have the disk hold a file or folder before it is relied on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- trees of values ----------------------------------------------------------------------------------------


def flatten_tensors(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """`value` as JSON can hold it; its tensors are added to `tensors` and leave their names in their places.

    Mappings keep their order and keys that are not text, tuples stay tuples.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = []
        for key, part in value.items():
            items.append([key, flatten_tensors(part, tensors, f"{name}.{key}")])
        return {"items": items}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: _flatten_all(value, tensors, name)}
    assert value is None or isinstance(value, (bool, int, float, str)), (
        f"{name} holds a {type(value).__name__}"
    )
    return value


def _flatten_all(values: Sequence[Any], tensors: dict[str, Tensor], name: str) -> list[Any]:
    return [flatten_tensors(part, tensors, f"{name}.{i}") for i, part in enumerate(values)]


def put_together(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `flatten_tensors` took apart."""
    if not isinstance(plain, Mapping):
        return plain
    ((kind, parts),) = plain.items()
    if kind == "tensor":
        return tensors[parts]
    if kind == "items":
        return {key: put_together(part, tensors) for key, part in parts}
    values = [put_together(part, tensors) for part in parts]
    return values if kind == "list" else tuple(values)


def copied(value: Any) -> Any:
    """`value` with each tensor in it copied to the host's memory, so that later updates do not change it."""
    tensors: dict[str, Tensor] = {}
    plain = flatten_tensors(value, tensors)
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    return put_together(plain, copies)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a tree of values."""
    tensors: dict[str, Tensor] = {}
    flatten_tensors(value, tensors)
    yield from tensors.values()
