"""Whether the engine serves a model: a few tokens prefilled and one decoded, beside the model's own forward."""

from __future__ import annotations

import torch

from grpo.model.policy import Policy
from grpo.rollout.contiguous_cache import ContiguousCache
from grpo.rollout.contiguous_decoder import packed_forward

NUM_TOKENS = 24


@torch.no_grad()
def unsupported_reason(policy: Policy) -> str:
    """Why `policy`'s model cannot be sampled by the engine; empty if it can."""
    name = type(policy.base).__name__
    ids = [(7919 * i + 13) % policy.vocab_size for i in range(1, NUM_TOKENS + 1)]
    with policy.own_attention():
        own = policy.model(input_ids=torch.tensor([ids], device=policy.device), use_cache=False)
        own_V = own.logits[0, -1, : policy.vocab_size].float()
    try:
        found_V = _decoded(policy, ids).float()
    except Exception as error:  # noqa: BLE001  the model's code is not ours: whatever it raises is the answer
        said = " ".join(str(error).split())[:200]
        return f"{name} does not run on this library's attention ({type(error).__name__}: {said})"
    allowed = 1e-3 if policy.base.dtype in (torch.float32, torch.float64) else 0.15
    off = float((found_V - own_V).abs().max() / own_V.std().clamp_min(1e-6))
    if not off <= allowed:
        return f"{name} gives other logits through this library's attention (off by {off:.2g} of their spread)"
    return ""


def _decoded(policy: Policy, ids: list[int]) -> torch.Tensor:
    """Logits [V] after `ids`: all but the last prefilled, the last a decoding step."""
    length, rows = len(ids) - 1, 8
    cache = packed_forward(policy, ids[:-1], [*range(length)], [([*range(length)], 0)])
    slots = ContiguousCache(policy.device)
    slots.add(["row"], "prompt", cache.prefix(0, length), length)
    slots.begin()
    token_R, position_R = (
        torch.tensor([value] + [0] * (rows - 1), device=policy.device)
        for value in (ids[-1], length)
    )
    return policy.next_logits(token_R[:, None], position_R[:, None], slots)[0]
