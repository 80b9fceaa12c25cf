"""The kernels that this device runs, against their definitions in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grpo.kernels.cpu import ops
from grpo.kernels.decode_attention import dispatch
from grpo.kernels.decode_attention import reference as attention_reference
from grpo.kernels.decode_attention.spec import PAGE, PageTables
from grpo.kernels.log_prob import Gradients, Head, LogProbResult, backend, fused_log_prob
from grpo.kernels.sampling import exact, torch_sampler
from grpo.kernels.sampling.spec import Sampling, completion_seed
from grpo.selftest.check import Measured, Skipped, below


class HeadNumbers(NamedTuple):
    """What a head does to a product on its way to a logit."""

    scale: float = 1.0
    softcap: float = 0.0
    temperature: float = 1.0


NUMBERS = (HeadNumbers(), HeadNumbers(temperature=0.7), HeadNumbers(scale=0.4, softcap=7.0))
ROWS = 301
WIDTH = 96
VOCABULARY = 1031
FILTERS = (
    Sampling(1.0),
    Sampling(0.7),
    Sampling(0.9, top_k=9),
    Sampling(0.9, top_p=0.85),
    Sampling(1.1, min_p=0.06),
)


def head_values_and_gradients(device: torch.device) -> Measured:
    """Log-probs of the fused head in fp32, and its gradients, against whole logits in float64."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for numbers in NUMBERS:
        weight_VD = 3 * torch.randn(VOCABULARY, WIDTH, generator=generator) / WIDTH**0.5
        hidden_TD = torch.randn(ROWS, WIDTH, generator=generator)
        target_T = torch.randint(VOCABULARY, (ROWS,), generator=generator)
        g_T = torch.randn(ROWS, generator=generator)
        inputs = [x.to(device) for x in (hidden_TD, weight_VD, target_T, g_T)]
        found = _head(*inputs, using=None, numbers=numbers)
        doubled = [x.double() if x.is_floating_point() else x for x in inputs]
        expected = _head(*doubled, using="reference", numbers=numbers)
        for one, other in zip(found, expected):
            difference = (one.double() - other).norm() / other.norm()
            worst = max(worst, float(difference))
    return below(worst, 1e-5, f"{backend(device)}: largest relative difference")


def _head(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    g_T: Tensor,
    *,
    using: str | None,
    numbers: HeadNumbers,
) -> list[Tensor]:
    """(log-probs, gradient of the hidden states, gradient of the weight)."""
    gradients = Gradients(torch.zeros_like(weight_VD))
    result: LogProbResult = fused_log_prob(
        hidden_TD,
        Head(weight_VD, **numbers._asdict()),
        target_T,
        coefficients=lambda start, end, logp_R, _: (g_T[start:end].to(logp_R.dtype), None),
        gradients=gradients,
        rows=128,
        using=using,
    )
    assert result.hidden_TD is not None, "there were coefficients"
    return [result.logp_T, result.hidden_TD, gradients.weight_VD]


def sampled_log_probs(device: torch.device) -> Measured:
    """The sampler's log-probs against softmax(filter(logits / temperature)) in float64."""
    worst = 0.0
    for number, sampling in enumerate(FILTERS):
        logits_RV, seed_R, position_R = _logits(256, seed=number)
        drawn = _drawn(logits_RV.to(device), seed_R.to(device), position_R.to(device), sampling)
        token_R = drawn[0].cpu()
        scaled_RV = logits_RV.double() / sampling.temperature
        logp_RV = scaled_RV.log_softmax(-1)
        if sampling.filters:
            kept_RV = torch_sampler.keep(logits_RV / sampling.temperature, sampling)
            logp_RV = logp_RV.masked_fill(~kept_RV, float("-inf")).log_softmax(-1)
        expected_R = logp_RV.gather(-1, token_R[:, None])[:, 0]
        worst = max(worst, float((drawn[1].cpu().double() - expected_R).abs().max()))
    return below(worst, 2e-5, "largest difference, in nats,")


def sampled_frequencies(device: torch.device) -> Measured:
    """How often each token is drawn against its probability: Pearson's chi-square over 60,000 draws."""
    number = 60_000
    generator = torch.Generator().manual_seed(1)
    logits_V = 2 * torch.randn(23, generator=generator)
    seed_R = torch.tensor([completion_seed("selftest", i) for i in range(number)])
    position_R = torch.zeros(number, dtype=torch.int64)
    drawn = _drawn(
        logits_V.expand(number, -1).contiguous().to(device),
        seed_R.to(device),
        position_R.to(device),
        Sampling(1.0),
    )
    counts = torch.bincount(drawn[0].cpu(), minlength=23).double()
    expected = logits_V.double().softmax(0) * number
    statistic = float(((counts - expected) ** 2 / expected).sum())
    half_degrees = torch.tensor(22 / 2, dtype=torch.float64)
    p = float(torch.special.gammaincc(half_degrees, torch.tensor(statistic / 2).double()))
    return Measured(holds=p >= 1e-6, found=f"{number:,} draws, p-value {p:.2g}, bound 1e-06")


def _logits(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_RV = 3 * torch.randn(rows, VOCABULARY, generator=generator)
    seed_R = torch.tensor([completion_seed("selftest", seed, i) for i in range(rows)])
    return logits_RV, seed_R, torch.arange(rows)


def _drawn(
    logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """(token_R, sampled_logp_R) by the sampler that rollouts use on this device."""
    if logits_RV.is_cuda:
        drawn = exact.sample(logits_RV, seed_R, position_R, sampling)
        return drawn.token_R, drawn.logp_R
    token_R, logp_R, _ = torch_sampler.sample(logits_RV, seed_R, position_R, sampling)
    return token_R, logp_R


def native_kernels(device: torch.device) -> Measured:
    """The C++ kernels of CPU rollouts, which are compiled on the machine and compared with torch when loaded."""
    if device.type != "cpu":
        raise Skipped("they serve CPU rollouts")
    if not ops.available():
        raise Skipped(f"torch's own are used, slower: {ops.reason()}")
    choice = "used" if ops.reads_fast() else "attention left to torch, which is faster here"
    return Measured(holds=True, found=f"compiled, equal to torch's to 1e-05 ({choice})")


def paged_attention(device: torch.device) -> Measured:
    """Decode attention over pages in Triton, against the definition in float64."""
    if device.type != "cuda":
        raise Skipped("Triton's kernels run on CUDA devices")
    generator = torch.Generator().manual_seed(2)
    rows = 5
    prompt_length = 150
    num_prompt_pages = -(-prompt_length // PAGE)
    pages = num_prompt_pages + 2 * rows
    keys, values = (
        torch.randn(pages, 2, PAGE, 64, generator=generator).to(device) for _ in range(2)
    )
    query = torch.randn(rows, 8, 64, generator=generator).to(device)
    own = torch.arange(num_prompt_pages, pages, dtype=torch.int32).view(rows, 2)
    tables = PageTables(
        page_RN=own.to(device),
        seen_R=torch.tensor([1, 64, 65, 100, 128], dtype=torch.int32, device=device),
        prompt_R=torch.zeros(rows, dtype=torch.int32, device=device),
        prefix_PN=torch.arange(num_prompt_pages, dtype=torch.int32, device=device)[None],
        prefix_length_P=torch.tensor([prompt_length], dtype=torch.int32, device=device),
        block_BG=torch.arange(rows, dtype=torch.int32, device=device)[None],
        num_blocks=1,
    )
    found = dispatch.attend(query, keys, values, tables, scaling=0.125)
    expected = attention_reference.attend(
        query.double(), keys.double(), values.double(), tables, scaling=0.125
    )
    worst = float((found.double() - expected).norm() / expected.norm())
    return below(worst, 1e-3, "relative difference")
