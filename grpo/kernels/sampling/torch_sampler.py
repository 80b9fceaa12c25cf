"""The sampler of CPU rollouts, in torch operations; without filters the C++ kernel does the same faster.

The sampling distribution is softmax(filter(logits / temperature)), filters in the order top-k, top-p, min-p; ties keep
the lowest id. Noise comes from ``spec``: a row's token depends on its own seed, position and logits alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.kernels.cpu import ops
from grpo.kernels.sampling.spec import Sampling, gumbel_of, hashes

MAX_LOGITS_AT_ONCE = 2**17  # on a CPU: their noise fits its cache
HASH_RANGE = 2.0**31

TokenLogpKept = tuple[Tensor, Tensor, "Tensor | None"]


def sample(
    logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, sampling: Sampling
) -> TokenLogpKept:
    """(token_R, sampled_logp_R, log_kept_R) from raw logits; log_kept_R is None without filters.

    Log-probs are fp32, under the distribution that was drawn from. A row whose logits hold NaN, or nothing
    finite, gets token -1 and log-prob NaN; the other rows are unaffected.
    """
    if logits_RV.device.type != "cpu":
        return _sample(logits_RV.float(), seed_R, position_R, sampling)
    if not sampling.filters and ops.available():
        token_R, logp_R = ops.sample(logits_RV.float(), seed_R, position_R, sampling.temperature)
        return token_R, logp_R, None
    rows = max(1, MAX_LOGITS_AT_ONCE // logits_RV.shape[-1])
    if len(logits_RV) <= rows:
        return _sample(logits_RV.float(), seed_R, position_R, sampling)
    splits = zip(logits_RV.split(rows), seed_R.split(rows), position_R.split(rows))
    parts = [_sample(logits.float(), seed, at, sampling) for logits, seed, at in splits]
    token_R = torch.cat([token for token, _, _ in parts])
    logp_R = torch.cat([logp for _, logp, _ in parts])
    log_kept = [kept for _, _, kept in parts if kept is not None]
    return token_R, logp_R, torch.cat(log_kept) if log_kept else None


def _sample(
    logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, sampling: Sampling
) -> TokenLogpKept:
    is_valid_R = logits_RV.amax(-1).isfinite()  # the maximum of a row with NaN is NaN
    log_kept_R = None
    if sampling.temperature == 0:
        logp_RV = logits_RV.log_softmax(-1)
        token_R = logits_RV.argmax(-1)
    else:
        if sampling.temperature != 1:
            logits_RV = logits_RV / sampling.temperature
        logp_RV = logits_RV.log_softmax(-1)
        if sampling.filters:
            kept_RV = logp_RV.masked_fill(~keep(logp_RV, sampling), float("-inf"))
            log_kept_R = kept_RV.logsumexp(-1)
            logp_RV = kept_RV - log_kept_R[:, None]
        token_R = draw(logp_RV, seed_R, position_R)
    sampled_logp_R = logp_RV.gather(-1, token_R[:, None])[:, 0]
    token_R = torch.where(is_valid_R, token_R, -1)
    return token_R, torch.where(is_valid_R, sampled_logp_R, torch.nan), log_kept_R


def keep(logp_RV: Tensor, sampling: Sampling) -> Tensor:
    """Which tokens pass top-k, then top-p of what is left, then min-p; the likeliest token always does."""
    sorted_RV, order_RV = logp_RV.sort(dim=-1, descending=True, stable=True)
    is_kept_RV = torch.ones_like(sorted_RV, dtype=torch.bool)
    if 0 < sampling.top_k < is_kept_RV.shape[-1]:
        is_kept_RV[:, sampling.top_k :] = False
    if sampling.top_p < 1:
        prob_RV = sorted_RV.double().exp() * is_kept_RV
        before_RV = prob_RV.cumsum(-1) - prob_RV
        is_kept_RV &= before_RV < sampling.top_p * prob_RV.sum(-1, keepdim=True)
    if sampling.min_p > 0:
        is_kept_RV &= sorted_RV.exp() >= sampling.min_p * sorted_RV[:, :1].exp()
    is_kept_RV[:, 0] = True
    return torch.zeros_like(is_kept_RV).scatter_(-1, order_RV, is_kept_RV)


def draw(logp_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """The token of each row with the largest log-prob + Gumbel noise; of equal ones the lowest.

    The noise is -log(E), E = -log(1 - u) >= u. So a token beats a score of `bar` only if u <= exp(logp - bar),
    which is a comparison with its hash: logarithms are computed only for the few tokens that pass. The bar is the
    score of the likeliest token or, where many are about as likely, of the one with the most noise, whichever is
    higher. No token that could win is dropped: both of these always pass, and the limit is rounded up by 1e-5.
    """
    hash_RV = hashes(seed_R, position_R, logp_RV.shape[-1])
    half_RV = (hash_RV >> 1).bitwise_and_(0x7FFFFFFF)
    top_R1 = logp_RV.argmax(-1, keepdim=True)
    noisiest_R1 = half_RV.argmin(-1, keepdim=True)
    bar_R1 = _scores(logp_RV, hash_RV, top_R1)
    bar_R1 = bar_R1.fmax(_scores(logp_RV, hash_RV, noisiest_R1))
    passes_RV = half_RV <= _hash_limits(logp_RV, bar_R1)
    passes_RV.scatter_(-1, torch.cat([top_R1, noisiest_R1], -1), True)
    row_C, token_C = passes_RV.nonzero(as_tuple=True)
    score_C = gumbel_of(hash_RV[row_C, token_C]) + logp_RV[row_C, token_C]
    best_R = score_C.new_full((len(logp_RV),), float("-inf"))
    best_R.scatter_reduce_(0, row_C, score_C, "amax")
    wins_C = score_C == best_R[row_C]
    return top_R1[:, 0].scatter_reduce(
        dim=0, index=row_C[wins_C], src=token_C[wins_C], reduce="amin", include_self=False
    )


def _hash_limits(logp_RV: Tensor, bar_R1: Tensor) -> Tensor:
    """The largest 31-bit hash with which a token may reach the bar, rounded up."""
    limit_RV = (logp_RV - bar_R1).exp_().mul_(HASH_RANGE * (1 + 1e-5))
    return limit_RV.clamp_(0, HASH_RANGE - 128).nan_to_num_().to(torch.int32)


def _scores(logp_RV: Tensor, hash_RV: Tensor, token_R1: Tensor) -> Tensor:
    """Log-prob + noise [R, 1] of one token per row."""
    return logp_RV.gather(-1, token_R1) + gumbel_of(hash_RV.gather(-1, token_R1))
