"""Whether the engine supports a model: a short text prefilled and decoded, compared with the model's own forward."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.model.policy import Policy
from grpo.rollout.contiguous_cache import ContiguousCache
from grpo.rollout.prefill import packed_forward

NUM_TOKENS = 24
NUM_ROWS = 8


def check_support(policy: Policy) -> None:
    """Set `policy.unsupported_reason` if the engine does not support its model, which then keeps its own attention."""
    if not policy.unsupported_reason:
        policy.fall_back_because(unsupported_reason(policy))


@torch.no_grad()
def unsupported_reason(policy: Policy) -> str:
    """Why `policy`'s model cannot be sampled by the engine; empty if it can."""
    name = type(policy.base).__name__
    ids = [(7919 * i + 13) % policy.vocab_size for i in range(1, NUM_TOKENS + 1)]
    with policy.own_attention():
        input_ids = torch.tensor([ids], device=policy.device)
        output = policy.model(input_ids=input_ids, use_cache=False)
        expected_V = output.logits[0, -1, : policy.vocab_size].float()
    try:
        decoded_V = _decode(policy, ids).float()
    except Exception as error:  # noqa: BLE001  the model's code is not ours: whatever it raises is the answer
        message = " ".join(str(error).split())[:200]
        return (
            f"{name} does not run on this library's attention ({type(error).__name__}: {message})"
        )
    tolerance = 1e-3 if policy.base.dtype in (torch.float32, torch.float64) else 0.15
    off = float((decoded_V - expected_V).abs().max() / expected_V.std().clamp_min(1e-6))
    if not off <= tolerance:  # NaN too
        return f"{name} gives other logits through this library's attention (off by {off:.2g} of their spread)"
    return ""


def _decode(policy: Policy, ids: list[int]) -> Tensor:
    """Logits [V] after `ids`: all but the last prefilled, the last one decoded."""
    length = len(ids) - 1
    positions = list(range(length))
    prefix = packed_forward(policy, ids[:-1], positions, [(positions, 0)]).prefix(0, length)
    cache = ContiguousCache(policy.device)
    cache.add(["row"], "prompt", prefix, length)
    cache.begin()
    token_R1 = _first_row(ids[-1], policy.device)
    position_R1 = _first_row(length, policy.device)
    return policy.next_logits(token_R1, position_R1, cache)[0]


def _first_row(value: int, device: torch.device) -> Tensor:
    """[NUM_ROWS, 1]: `value`, and zeros for the rows that fill the step up."""
    return torch.tensor([value] + [0] * (NUM_ROWS - 1), device=device)[:, None]
