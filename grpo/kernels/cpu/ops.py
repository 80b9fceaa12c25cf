"""The C++ kernels as functions on tensors: loaded and checked against torch once, then called.

All tensors are fp32 on the CPU. Results do not depend on the number of threads, nor a row's on its neighbours.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_int64, c_void_p
from typing import Sequence

import torch
from torch import Tensor

from grpo.kernels.cpu.build import Unavailable, build_library

MAX_QUERIES = 64  # of one task, as in the source
MAX_WIDTH = 256  # as in the source
CPU = torch.device(
    "cpu"
)  # named in every allocation: torch's default device and dtype do not matter


# ---- load and check ---------------------------------------------------------------------------------------------


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The loaded library, or the reason why there is none."""
    try:
        library = ctypes.CDLL(str(build_library()))
        _declare(library)
        _check_attention(library)
        _check_sampler(library)
        return library
    except (Unavailable, OSError, AttributeError, MemoryError, RuntimeError, UnicodeError) as error:
        return " ".join(str(error).split())[:300] or type(error).__name__


def _declare(library: ctypes.CDLL) -> None:
    """The functions' argument types, in the order of the source."""
    pointers = [c_void_p] * 10
    numbers = [c_int64] * 4
    library.decode_attention.argtypes = [*pointers, *numbers, c_float, c_void_p, c_int]
    library.decode_attention.restype = None
    shape = [c_int64] * 3
    seeds = [c_void_p] * 2
    results = [c_void_p] * 3
    library.sample.argtypes = [c_void_p, *shape, *seeds, c_float, *results, c_int]
    library.sample.restype = None
    library.attention_work_bytes.restype = c_int64


def _check_attention(library: ctypes.CDLL) -> None:
    """Compare a small case with torch; raises `Unavailable`."""
    generator = torch.Generator().manual_seed(0)
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float32, device=CPU)
    query = normal(3, 4, 16)
    key = normal(3, 2, 16)
    value = normal(3, 2, 16)
    own = [normal(3, 64, 2, 16) for _ in range(2)]
    layout = DecodeLayout([(0, 0, 5), (0, 1, 0), (0, 2, 63)], [[0], [1, 2]], [None, (1, 0, 40)])
    prompt = [normal(1, 64, 2, 16) for _ in range(2)]
    buckets = [(own[0], own[1]), (prompt[0], prompt[1])]
    output = _attend(library, query, key, value, buckets=buckets, layout=layout, scaling=0.3)
    for row, (_, entry, length) in enumerate(layout.rows):
        seen = []
        for prompt_part, own_part in zip(prompt, own):
            parts = [prompt_part[0, :40]] if row > 0 else []
            parts.append(own_part[entry, : length + 1])
            seen.append(torch.cat(parts).double().repeat_interleave(2, 1).transpose(0, 1))
        scores = query[row].double()[:, None] @ seen[0].transpose(1, 2) * 0.3
        expected = (scores.softmax(-1) @ seen[1])[:, 0]
        if not torch.allclose(output[row].double(), expected, atol=1e-5):
            raise Unavailable("the compiled attention gives other numbers than torch")


def _check_sampler(library: ctypes.CDLL) -> None:
    """Compare a greedy draw with torch; raises `Unavailable`."""
    generator = torch.Generator().manual_seed(0)
    logits_RV = torch.randn(2, 37, generator=generator, dtype=torch.float32, device=CPU)
    numbers = torch.tensor([3, -4], device=CPU)
    token_R, logp_R = _sample(library, logits_RV, numbers, numbers, temperature=0.0)
    expected_R = logits_RV.double().log_softmax(-1).amax(-1)
    same_logps = torch.allclose(logp_R.double(), expected_R, atol=1e-5)
    if (token_R != logits_RV.argmax(-1)).any() or not same_logps:
        raise Unavailable("the compiled sampler gives other numbers than torch")


def reason() -> str | None:
    """Why there are no native kernels here; None if there are."""
    library = _library()
    return library if isinstance(library, str) else None


def available() -> bool:
    """Whether the native kernels run here; the first call may compile them."""
    return reason() is None


def reads_fast() -> bool:
    """Whether the native attention beats torch's here: it is written for AVX-512 and for AVX2."""
    library = _library()
    return not isinstance(library, str) and library.attention_is_fast() != 0


def _loaded() -> ctypes.CDLL:
    library = _library()
    assert not isinstance(library, str), library
    return library


# ---- attention --------------------------------------------------------------------------------------------------


class DecodeLayout:
    """Where the rows of a step find their keys; made once a step, used in every layer.

    ``rows``: (bucket, entry, tokens before the new one) of each row. ``groups``: rows that read one prompt, with
    ``prompts`` (bucket, entry, tokens), or None for rows without one.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, int, int]],
        groups: Sequence[Sequence[int]],
        prompts: Sequence[tuple[int, int, int] | None],
    ):
        self.rows = rows
        self.groups = groups
        self.prompts = prompts
        self.table = torch.tensor(rows, dtype=torch.int64, device=CPU)
        self._tasks: dict[int, tuple[Tensor, Tensor]] = {}

    def tasks(self, max_rows: int) -> tuple[Tensor, Tensor]:
        """(tasks, members) of at most `max_rows` rows each, in the library's format."""
        if max_rows not in self._tasks:
            tasks: list[tuple[int, ...]] = []
            members: list[int] = []
            for group, prompt in zip(self.groups, self.prompts):
                for start in range(0, len(group), max_rows):
                    part = group[start : start + max_rows]
                    tasks.append((len(members), len(part), *(prompt or (-1, 0, 0))))
                    members += part
            self._tasks[max_rows] = (
                torch.tensor(tasks, dtype=torch.int64, device=CPU),
                torch.tensor(members, dtype=torch.int64, device=CPU),
            )
        return self._tasks[max_rows]


def attends(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `decode_attention` should take these [rows, heads, .., width]: fp32, equal widths of whole vectors."""
    width = query.shape[-1]
    repeats = query.shape[1] // key.shape[1]
    return (
        query.dtype == key.dtype == value.dtype == torch.float32
        and query.device.type == "cpu"
        and width == key.shape[-1] == value.shape[-1]
        and width % 16 == 0
        and width <= MAX_WIDTH
        and repeats <= MAX_QUERIES
        and reads_fast()
    )


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    buckets: Sequence[tuple[Tensor, Tensor]],
    layout: DecodeLayout,
    scaling: float,
) -> Tensor:
    """Store each row's new key and value, and attend: [rows, heads, width] from queries of that shape.

    `key` and `value` are [rows, kv heads, width]; a bucket is (keys, values) [entries, tokens, kv heads, width],
    contiguous, its tokens a multiple of 64. Rows that are not in the layout get zeros.
    """
    return _attend(_loaded(), query, key, value, buckets=buckets, layout=layout, scaling=scaling)


def _attend(
    library: ctypes.CDLL,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    buckets: Sequence[tuple[Tensor, Tensor]],
    layout: DecodeLayout,
    scaling: float,
) -> Tensor:
    query = query.contiguous()
    key = key.contiguous()
    value = value.contiguous()
    rows, heads, width = query.shape
    kv_heads = key.shape[1]
    assert key.shape == value.shape == (rows, kv_heads, width)
    _assert_readable(buckets)
    output = torch.empty_like(query)
    output[len(layout.rows) :] = 0
    tasks, members = layout.tasks(MAX_QUERIES // (heads // kv_heads))
    threads = torch.get_num_threads()
    work = torch.empty(threads * library.attention_work_bytes(), dtype=torch.uint8, device=CPU)
    library.decode_attention(  # density: a C function takes its arguments by position
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        output.data_ptr(),
        _pointers([keys for keys, _ in buckets]),
        _pointers([values for _, values in buckets]),
        (c_int64 * len(buckets))(*[keys.shape[1] for keys, _ in buckets]),
        layout.table.data_ptr(),
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
    return output


def _assert_readable(buckets: Sequence[tuple[Tensor, Tensor]]) -> None:
    assert len(buckets) > 0
    for bucket in buckets:
        for tensor in bucket:
            assert tensor.dtype == torch.float32 and tensor.is_contiguous()


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[c_void_p]:
    return (c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


# ---- the sampler ------------------------------------------------------------------------------------------------


def sample(
    logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(token_R, sampled_logp_R) of ``torch_sampler.sample`` without filters, from fp32 logits on the CPU."""
    return _sample(_loaded(), logits_RV, seed_R, position_R, temperature=temperature)


def _sample(
    library: ctypes.CDLL, logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_RV = logits_RV if logits_RV.stride(-1) == 1 else logits_RV.contiguous()
    rows, size = logits_RV.shape
    seed_R = _row_numbers(seed_R, rows)
    position_R = _row_numbers(position_R, rows)
    threads = torch.get_num_threads()
    work = torch.empty(threads, -(-size // 16) * 16, dtype=torch.float32, device=CPU)
    token_R = torch.empty(rows, dtype=torch.int64, device=CPU)
    logp_R = torch.empty(rows, dtype=torch.float32, device=CPU)
    library.sample(  # density: a C function takes its arguments by position
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


def _row_numbers(x_R: Tensor, rows: int) -> Tensor:
    """One int64 number a row, contiguous."""
    assert x_R.shape == (rows,) and x_R.dtype == torch.int64
    return x_R.contiguous()
