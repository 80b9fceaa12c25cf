"""The log-prob head: from hidden states to log-prob and entropy of given tokens, and back, without [T, V] in memory.

`fused_log_prob` is the one interface of all back-ends: ``reference`` states the mathematics at any dtype,
``chunked`` is plain torch, ``fused`` adds Triton kernels on CUDA. `logprob` is the same as an operator with
autograd. ``parallel`` divides the vocabulary over ranks; ``full_logits`` serves models whose head is more than one
matrix. Finding a model's head is left to ``grpo.model.output_head``.
"""

from grpo.kernels.log_prob.dispatch import BACKENDS, backend, fused_log_prob
from grpo.kernels.log_prob.operators import logprob
from grpo.kernels.log_prob.spec import (
    Coefficients,
    Gradients,
    Head,
    LogProbResult,
    statistics_dtype,
)

__all__ = [
    "BACKENDS",
    "Coefficients",
    "Gradients",
    "Head",
    "LogProbResult",
    "backend",
    "fused_log_prob",
    "logprob",
    "statistics_dtype",
]
