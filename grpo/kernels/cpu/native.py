"""Decode attention and the sampler in C++ for CPUs, compiled at first use where there is a compiler.

``native.cpp`` holds the functions; here they are built (``$CXX``, g++ or clang++, once for a machine, a few seconds),
tried against torch and called. Where one of these fails, torch's own operations do the work, slower: `reason` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Iterator, Sequence

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.cpp")
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fPIC")
SECONDS = 120  # for the compiler
MOST_QUERIES, MOST_WIDTH = 64, 256  # as in the source
FP32 = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are
WHOLE = {"dtype": torch.int64, "device": "cpu"}


class Unavailable(Exception):
    """Why there are no native kernels."""


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The functions, or why there are none."""
    try:
        library = ctypes.CDLL(str(_built()))
        pointers, whole = [c_void_p], [c_int64]
        library.decode_attention.argtypes = pointers * 10 + whole * 4 + [c_float, c_void_p, c_int]
        library.sample.argtypes = (
            pointers + whole * 3 + pointers * 2 + [c_float] + pointers * 3 + [c_int]
        )
        library.decode_attention.restype = library.sample.restype = None
        library.attention_work_bytes.restype = c_int64
        _try(library)
        return library
    except (Unavailable, OSError, AttributeError, MemoryError, RuntimeError, UnicodeError) as error:
        return " ".join(str(error).split())[:300] or type(error).__name__


def reason() -> str | None:
    """Why there are no native kernels here; None where there are."""
    found = _library()
    return found if isinstance(found, str) else None


def available() -> bool:
    """Whether the native kernels run here; the first call may compile them."""
    return reason() is None


def reads_fast() -> bool:
    """Whether the native attention is the fast one here: it is written for AVX-512."""
    found = _library()
    return not isinstance(found, str) and found.attention_is_fast() != 0


# ---- build ------------------------------------------------------------------------------------------------------


def _built() -> Path:
    """The compiled library, from the cache where this machine has made it before."""
    if os.environ.get("GRPO_NATIVE") == "0":
        raise Unavailable("GRPO_NATIVE=0")
    if sys.platform != "linux":
        raise Unavailable(f"they are built on Linux, not on {sys.platform}")
    found = (shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    compiler = next((path for path in found if path), None)
    if compiler is None:
        raise Unavailable("no C++ compiler: $CXX, g++ and clang++ were looked for")
    version, openmp = _output([compiler, "--version"]), _openmp()
    if (
        openmp is None or "clang" in version and "gomp" in Path(openmp).name
    ):  # which lacks what clang++ calls
        openmp = "-fopenmp"
    facts = (
        SOURCE.read_bytes(),
        OPTIONS,
        compiler,
        version,
        openmp,
        platform.machine(),
        _processor(),
    )
    place = _cache() / f"native-{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.so"
    if not _whole(place):
        _build(place, compiler, openmp)
    return place


def _build(place: Path, compiler: str, openmp: str) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        made, objects = Path(work) / "native.so", Path(work) / "native.o"
        _output([compiler, *OPTIONS, "-c", str(SOURCE), "-o", str(objects)])
        _output([compiler, "-shared", str(objects), openmp, "-o", str(made)])
        made.write_bytes(made.read_bytes() + hashlib.sha256(made.read_bytes()).digest())
        os.replace(made, place)  # whole or not at all, whoever else builds it now


def _whole(place: Path) -> bool:
    """Whether a library is there as it was built, its digest behind it: loading half of one ends the process."""
    try:
        found = place.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(found[:-32]).digest() == found[-32:]


def _openmp() -> str | None:
    """The OpenMP that torch has loaded: with another, two pools of threads would wait for the same cores."""
    fields = (
        line.split(maxsplit=5)
        for line in os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()
    )
    found = {
        parts[5]
        for parts in fields
        if len(parts) > 5 and re.search(r"/lib(gomp|iomp5|omp)[^/ ]*$", parts[5])
    }
    own = str(Path(torch.__file__).resolve().parent)
    return min(found, key=lambda path: (not path.startswith(own), path), default=None)


def _processor() -> str:
    """What the compiler tunes for: the cache may be shared by machines that differ."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = {
        line for line in lines if re.match(r"flags|Features|model name|vendor_id|CPU part", line)
    }
    return "\n".join(sorted(told))


def _cache() -> Path:
    """A folder of this user's own: what lies in it is loaded as code."""
    for folder in _folders():
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                own = _own(folder)
        except OSError:
            continue
        if own:
            return folder
    raise Unavailable(
        f"no folder that this user alone can write: {', '.join(map(str, _folders()))} were tried"
    )


def _folders() -> Iterator[Path]:
    """In the user's cache, if there is one (a relative $XDG_CACHE_HOME counts for nothing, by its standard)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    home = home if os.path.isabs(home) else os.path.expanduser("~/.cache")
    if os.path.isabs(home):
        yield Path(home) / "grpo"
    yield Path(tempfile.gettempdir()) / f"grpo-{os.getuid()}"


def _own(folder: Path) -> bool:
    """Whether nobody else can put a file into a folder, nor another folder in its place."""
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
        return False
    above = (path.stat().st_mode for path in folder.resolve().parents)
    return all(mode & stat.S_ISVTX or not mode & 0o022 for mode in above)


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{Path(command[0]).name} took more than {SECONDS} seconds") from None
    if done.returncode:
        raise Unavailable(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _try(library: ctypes.CDLL) -> None:
    """Hold a small case of both functions against torch."""
    made = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), **FP32)
    query, key, value = (made(3, heads, 16) for heads in (4, 2, 2))
    shelf = [made(3, 64, 2, 16) for _ in range(2)]
    layout = DecodeLayout([(0, 0, 5), (0, 1, 0), (0, 2, 63)], [[0], [1, 2]], [None, (1, 0, 40)])
    prompt = [made(1, 64, 2, 16) for _ in range(2)]
    found = _attend(
        library, query, key, value, [(shelf[0], shelf[1]), (prompt[0], prompt[1])], layout, 0.3
    )
    for row, (_, entry, length) in enumerate(layout.rows):
        seen = [
            torch.cat([prompt[i][0, :40]] * (row > 0) + [shelf[i][entry, : length + 1]])
            for i in range(2)
        ]
        k, v = (x.double().repeat_interleave(2, 1).transpose(0, 1) for x in seen)
        exact = (query[row].double()[:, None] @ k.transpose(1, 2) * 0.3).softmax(-1) @ v
        if not torch.allclose(found[row].double(), exact[:, 0], atol=1e-5):
            raise Unavailable("the compiled attention gives other numbers than torch")
    logits, numbers = made(2, 37), torch.tensor([3, -4], device="cpu")
    token, logp = _sample(library, logits, numbers, numbers, 0.0)
    if (token != logits.argmax(-1)).any() or not torch.allclose(
        logp.double(), logits.double().log_softmax(-1).amax(-1), atol=1e-5
    ):
        raise Unavailable("the compiled sampler gives other numbers than torch")


# ---- use --------------------------------------------------------------------------------------------------------


class DecodeLayout:
    """Where the rows of a step find their keys; made once a step, used in every layer.

    ``rows``: (shelf, entry, tokens before the new one) of each row. ``groups``: rows that read one prompt, with
    ``prompts`` (shelf, entry, tokens), or None for rows without one.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, int, int]],
        groups: Sequence[Sequence[int]],
        prompts: Sequence[tuple[int, int, int] | None],
    ):
        self.rows, self.groups, self.prompts = rows, groups, prompts
        self._table = torch.tensor(rows, **WHOLE)
        self._tasks: dict[int, tuple[Tensor, Tensor]] = {}

    def tasks(self, most: int) -> tuple[Tensor, Tensor]:
        """(tasks, members) of at most so many rows each, as the library takes them."""
        if most not in self._tasks:
            tasks, members = [], []
            for group, prompt in zip(self.groups, self.prompts):
                for start in range(0, len(group), most):
                    part = group[start : start + most]
                    tasks.append(
                        (len(members), len(part), *((-1, 0, 0) if prompt is None else prompt))
                    )
                    members += part
            self._tasks[most] = torch.tensor(tasks, **WHOLE), torch.tensor(members, **WHOLE)
        return self._tasks[most]


def attends(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `decode_attention` is to have these [rows, heads, .., width]: fp32, equal widths of whole vectors."""
    width, heads, kv_heads = query.shape[-1], query.shape[1], key.shape[1]
    return (
        query.dtype == key.dtype == value.dtype == torch.float32
        and query.device.type == "cpu"
        and width == key.shape[-1] == value.shape[-1]
        and width % 16 == 0
        and width <= MOST_WIDTH
        and heads // kv_heads <= MOST_QUERIES
        and reads_fast()
    )


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shelves: Sequence[tuple[Tensor, Tensor]],
    layout: DecodeLayout,
    scaling: float,
) -> Tensor:
    """Store each row's new key and value, and attend: [rows, heads, width] from queries of that shape.

    `key` and `value` are [rows, kv heads, width]; a shelf is (keys, values) [entries, tokens, kv heads, width],
    contiguous, its tokens a multiple of 64. All fp32 on the CPU. Rows that the layout does not name get zeros.
    """
    return _attend(_library(), query, key, value, shelves, layout, scaling)


def _attend(
    library: ctypes.CDLL,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shelves: Sequence[tuple[Tensor, Tensor]],
    layout: DecodeLayout,
    scaling: float,
) -> Tensor:
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    (rows, heads, width), kv_heads, num = query.shape, key.shape[1], len(layout.rows)
    assert (
        key.shape == value.shape == (rows, kv_heads, width)
        and len(shelves) > 0
        and all(x.dtype == torch.float32 and x.is_contiguous() for shelf in shelves for x in shelf)
    )
    out = torch.empty_like(query)
    out[num:] = 0
    keys, values = (
        (c_void_p * len(shelves))(*(shelf[i].data_ptr() for shelf in shelves)) for i in (0, 1)
    )
    widths = (c_int64 * len(shelves))(*(shelf[0].shape[1] for shelf in shelves))
    tasks, members = layout.tasks(MOST_QUERIES // (heads // kv_heads))
    threads = torch.get_num_threads()
    work = torch.empty(threads * library.attention_work_bytes(), dtype=torch.uint8, device="cpu")
    library.decode_attention(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        out.data_ptr(),
        keys,
        values,
        widths,
        layout._table.data_ptr(),
        tasks.data_ptr(),
        members.data_ptr(),
        len(tasks),
        heads,
        kv_heads,
        width,
        scaling,
        work.data_ptr(),
        threads,
    )
    return out


def sample(
    logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(token_R, sampled_logp_R) of ``grpo.rollout.sampling.sample`` without filters, from fp32 logits on the CPU."""
    return _sample(_library(), logits_RV, seed_R, position_R, temperature)


def _sample(
    library: ctypes.CDLL, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_RV = logits_RV if logits_RV.stride(-1) == 1 else logits_RV.contiguous()
    (rows, size), threads = logits_RV.shape, torch.get_num_threads()
    seed_R, position_R = seed_R.contiguous(), position_R.contiguous()
    assert (
        seed_R.shape == position_R.shape == (rows,)
        and seed_R.dtype == position_R.dtype == torch.int64
    )
    work = torch.empty(threads, -(-size // 16) * 16, **FP32)
    token_R, logp_R = torch.empty(rows, **WHOLE), torch.empty(rows, **FP32)
    library.sample(
        logits_RV.data_ptr(),
        rows,
        size,
        logits_RV.stride(0),
        seed_R.data_ptr(),
        position_R.data_ptr(),
        temperature,
        work.data_ptr(),
        token_R.data_ptr(),
        logp_R.data_ptr(),
        threads,
    )
    return token_R, logp_R
