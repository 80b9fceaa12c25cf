"""The one interface of the head's back-ends, and which of them a device gets."""

from __future__ import annotations

from types import ModuleType
from typing import Sequence

import torch
from torch import Tensor

from grpo.kernels.log_prob import chunked, reference
from grpo.kernels.log_prob.spec import (
    Coefficients,
    Gradients,
    Head,
    LogProbResult,
    chunk_rows,
    chunk_spans,
    even_spans,
)

BACKENDS = ("reference", "chunked", "triton")


def backend(device: torch.device | str) -> str:
    """The back-end used for tensors on `device`: ``triton`` on a CUDA device that has it, else ``chunked``."""
    if torch.device(device).type != "cuda" or torch.version.hip:
        return "chunked"
    try:
        import triton  # noqa: F401, PLC0415  optional
    except ImportError:
        return "chunked"
    return "triton" if torch.cuda.get_device_capability(device) >= (8, 0) else "chunked"


def _module(name: str) -> ModuleType:
    if name == "triton":
        from grpo.kernels.log_prob import fused  # noqa: PLC0415  needs triton

        return fused
    return {"reference": reference, "chunked": chunked}[name]


def fused_log_prob(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    coefficients: Coefficients | None = None,
    gradients: Gradients | None = None,
    *,
    rows: int | None = None,
    lengths: Sequence[int] | None = None,
    using: str | None = None,
) -> LogProbResult:
    """Log-prob and entropy of `target_T` [T] at the hidden states [T, D]; no autograd graph is made.

    With `coefficients`, also dL/dh: it is called with each chunk's (start, end, logp, entropy) and returns dL/dlogp and
    dL/dentropy (or None), which are propagated to the hidden states and, with `gradients`, added to the head's
    gradients: three products for a trainable head, two for a frozen one, one without coefficients. Chunks have at
    most `rows` tokens; with `lengths`, those of the completions, each holds whole completions. `using` names a
    back-end; by default the device decides.
    """
    head = head.without_gradient()
    if lengths is None:
        spans = even_spans(len(target_T), rows or chunk_rows(head))
    else:
        spans = chunk_spans(head, lengths, rows)
    covered = sum(end - start for start, end in spans)
    assert covered == len(target_T), "no completion is longer than a chunk"
    module = _module(using or backend(hidden_TD.device))
    return module.fused_log_prob(
        hidden_TD, head, target_T, coefficients=coefficients, gradients=gradients, spans=spans
    )
