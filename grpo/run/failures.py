"""What a command says of a run that failed: one line where the cause is known, a traceback where it is not."""

from __future__ import annotations

import traceback

import torch

from grpo.model.loading import first_words
from grpo.model.saved import SavedModelDiffers
from grpo.monitor import watchdog
from grpo.monitor.gates import GateStop
from grpo.rollout.engine import EngineFailed
from grpo.rollout.memory import OOM_MESSAGES

KEPT = "what was saved before is intact"


def explain(error: BaseException, standing: str = KEPT) -> list[str]:
    """The messages of a failure, in the order to print them; `standing` says what it left."""
    if isinstance(error, (GateStop, FloatingPointError)):
        return [f"stopped: {error}"]
    if isinstance(error, SavedModelDiffers):
        return [f"stopped: {error}; the last checkpoint is intact"]
    if isinstance(error, EngineFailed):
        cause = error.__cause__
        return [*_traceback(cause), f"stopped: {error}; {standing}"]
    if isinstance(error, OSError):
        return [f"stopped: {error}; {standing}"]
    advice = out_of_memory_advice(error)
    if advice is not None:
        return [f"stopped: {advice}; {standing}"]
    return [*_traceback(error), f"stopped: {watchdog.describe_failure(error)}; {standing}"]


def _traceback(error: BaseException | None) -> list[str]:
    if error is None:
        return []
    return ["".join(traceback.format_exception(error)).rstrip()]


def out_of_memory_advice(error: BaseException) -> str | None:
    """What to do if `error` means that the GPU or the machine has no memory left; None if it means something else."""
    texts = (*OOM_MESSAGES, "can't start new thread")
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not is_memory and not any(text in str(error) for text in texts):
        return None
    return (
        f"out of memory ({first_words(error)}); lower optim.tokens_per_micro_batch for the update or "
        f"sample.max_rows for sampling, or set model.gradient_checkpointing: true"
    )
