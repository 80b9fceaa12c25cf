"""What one call of the engine did, and how it notices and survives running out of memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass, field

import torch

from rewards.spelling import many

GIB = 2**30
OOM_MESSAGES = (
    # torch's and oneDNN's CPU allocators
    "can't allocate memory",
    "bad_alloc",
    "could not create a memory",
    "could not execute a primitive",
    "could not create a primitive",
    # CUDA, Triton, cuBLAS
    "CUDA error: out of memory",
    "[CUDA]: out of memory",
    "STATUS_ALLOC_FAILED",
)


@dataclass(slots=True)
class EngineStats:
    """Counts of one call of `Engine.sample`.

    ``tokens`` are those this call sampled, including those of cancelled completions; ``ended`` of ``completions`` are
    done. ``rows_computed`` and ``rows_alive`` count rows over all steps, ``rows_paused`` sequences that wait for an
    answer. ``answered`` turns were, by ``given`` tokens. ``prefill_tokens`` were computed many at a time: prompts and
    observations. ``replayed`` tokens were computed again after their sequence lost its row, or its keys while it
    waited. ``kv_bytes`` is the peak size of keys and values.
    """

    tokens: int = 0
    completions: int = 0
    ended: int = 0
    rows_computed: int = 0
    rows_alive: int = 0
    rows_paused: int = 0
    answered: int = 0
    given: int = 0
    prefill_tokens: int = 0
    replayed: int = 0
    kv_bytes: int = 0
    steps: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    message = str(error)
    if any(known in message for known in OOM_MESSAGES):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def out_of_memory_note(rows: int) -> str:
    """What is said of a call that goes on with `rows` at a time."""
    return (
        f"sample: memory ran out; continuing with {many(rows, 'completion')} at a time (nothing is lost; lower "
        "sample.max_rows or sample.kv_memory_gib to avoid the interruption)"
    )


def spare_cached_memory(device: torch.device) -> None:
    """Return memory that allocators hold in reserve to the device or the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        _trim_heap()


def _trim_heap() -> None:
    """The GNU C library keeps freed blocks in the process, where a limit of the address space counts them."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)
