"""Tensors on disk: safetensors files whose checksum is taken as they are written, and trees of values around them.

Files are written in pieces that leave the interpreter free for others, so that a thread can write beside the
training, and past the system's cache of files where it lets us: filling that cache took up to ten times the CPU time
of all the rest. Nothing here is pickled, so nothing that is read can run code. Reading is safetensors' own.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, Mapping, Protocol

import numpy
import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
    """What a writer that is never told to stop asks between two pieces."""


class Output(Protocol):
    """What bytes are written to."""

    def write(self, data: memoryview, /) -> Any: ...

    def close(self) -> None: ...


class DirectFile:
    """A file written past the system's cache, from one aligned buffer; `OSError` where the file system has no such.

    What is left at the end, and all of it where the file system refuses at the first write, goes the usual way.
    """

    def __init__(self, file: Path):
        self._buffer, self._filled, self._direct = mmap.mmap(-1, PIECE), 0, True
        self._descriptor = os.open(
            file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_DIRECT, 0o666
        )

    def write(self, data: memoryview) -> None:
        """Take all of `data`; what fills the buffer is on the disk when this returns."""
        held, data = (
            numpy.frombuffer(self._buffer, numpy.uint8),
            numpy.frombuffer(data, numpy.uint8),
        )
        while len(data):
            taken = min(len(data), PIECE - self._filled)
            numpy.copyto(held[self._filled : self._filled + taken], data[:taken])
            self._filled, data = self._filled + taken, data[taken:]
            if self._filled == PIECE:
                self._empty()

    def _empty(self) -> None:
        left, self._filled = memoryview(self._buffer)[: self._filled], 0
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
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            self._direct = False

    def close(self) -> None:
        """Write what is left; raises `OSError` where that fails, and the file is closed all the same."""
        try:
            self._empty()
        finally:
            os.close(self._descriptor)


def opened(file: Path) -> Output:
    """`file`, emptied and open for a great many bytes."""
    try:
        return DirectFile(file)
    except (OSError, AttributeError):  # another system, or a file system that cannot
        return file.open("wb")


class SummedFile:
    """A file open for writing that knows how many bytes it was given, and their checksum."""

    def __init__(self, out: Output | BinaryIO, between: Callable[[], None] = nothing):
        self._out, self._between = out, between
        self.size, self._sum = 0, 0

    def write(self, data: bytes | memoryview) -> None:
        """Write `data` piece by piece; `between` is asked before each, and may raise."""
        for start in range(0, len(data), PIECE):
            self._between()
            piece = data[start : start + PIECE]
            self._sum = zlib.crc32(piece, self._sum)
            self._out.write(piece)
            self.size += len(piece)

    def entry(self) -> dict[str, Any]:
        """What a manifest says of the file."""
        return {"bytes": self.size, "crc32": self._sum}


def write_tensors(out: SummedFile, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors`, which may be on any device, as a safetensors file."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        if tensor.numel():
            out.write(
                memoryview(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
            )


def checked(file: Path) -> dict[str, Any]:
    """The manifest's entry that `file` would have as it stands."""
    found, size = 0, 0
    with file.open("rb") as data:
        while piece := data.read(PIECE):
            found = zlib.crc32(piece, found)
            size += len(piece)
    return {"bytes": size, "crc32": found}


def flush(path: Path) -> None:
    """Ask the disk to hold a file or folder before it is relied on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- trees of values ----------------------------------------------------------------------------------------


def flatten_tensors(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """`value` as JSON can hold it; its tensors are added to `tensors` and leave their names in their places.

    Mappings keep their order and keys that are no text, tuples stay tuples.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {
            "items": [
                [key, flatten_tensors(part, tensors, f"{name}.{key}")]
                for key, part in value.items()
            ]
        }
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {
            kind: [flatten_tensors(part, tensors, f"{name}.{i}") for i, part in enumerate(value)]
        }
    assert value is None or isinstance(value, (bool, int, float, str)), (
        f"{name} holds a {type(value).__name__}"
    )
    return value


def put_together(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `flatten_tensors` took apart."""
    if not isinstance(plain, Mapping):
        return plain
    ((kind, parts),) = plain.items()
    if kind == "tensor":
        return tensors[parts]
    if kind == "items":
        return {key: put_together(part, tensors) for key, part in parts}
    return (list if kind == "list" else tuple)(put_together(part, tensors) for part in parts)


def copied(value: Any) -> Any:
    """`value` with each tensor in it as a copy in the host's memory, which later updates do not change."""
    tensors: dict[str, Tensor] = {}
    plain = flatten_tensors(value, tensors)
    return put_together(
        plain, {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    tensors: dict[str, Tensor] = {}
    flatten_tensors(value, tensors)
    yield from tensors.values()
