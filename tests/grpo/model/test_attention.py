"""Packed attention against an explicit mask over every query and key."""

from __future__ import annotations

import pytest
import torch

from grpo.model import attention
from grpo.model.attention import PackedLayout, causal
from grpo.model.packing import PackedRows, bucket_rows


def masked(query, key, value, scaling, window, softcap):
    """The definition: every score, a mask, a softmax."""
    repeats, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    for i in range(length):
        for j in range(length):
            if j > i or (window is not None and j <= i - window):
                scores[..., i, j] = -torch.inf
    return scores.softmax(-1) @ value


def heads(rows, length, kv_heads=2, dtype=torch.float64, grad=False):
    return [
        torch.randn(rows, n, length, 8, dtype=dtype, requires_grad=grad)
        for n in (4, kv_heads, kv_heads)
    ]


@pytest.mark.parametrize("chunk", [1, 5, 16, 1024])
@pytest.mark.parametrize("window", [None, 1, 4, 5, 17, 40])
@pytest.mark.parametrize("softcap", [None, 0.8])
def test_causal_attention_equals_the_masked_definition(window, softcap, chunk, seed, monkeypatch):
    monkeypatch.setattr(attention, "WINDOW_CHUNK", chunk)
    for length in (1, 5, 17, 23):
        q, k, v = heads(2, length)
        actual = causal(q, k, v, 0.4, window, softcap)
        torch.testing.assert_close(
            actual, masked(q, k, v, 0.4, window, softcap), atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window, softcap", [(None, None), (6, None), (6, 0.8), (None, 0.8)])
def test_gradients_of_causal_attention_equal_those_of_the_masked_definition(
    window, softcap, kv_heads, seed, monkeypatch
):
    monkeypatch.setattr(attention, "WINDOW_CHUNK", 4)
    inputs = heads(2, 19, kv_heads, grad=True)
    weight = torch.randn(2, 4, 19, 8, dtype=torch.float64)
    actual, expected = (
        torch.autograd.grad((f(*inputs, 0.4, window, softcap) * weight).sum(), inputs)
        for f in (causal, masked)
    )
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("window, softcap", [(None, None), (6, None), (6, 30.0)])
def test_half_precision_attention_stays_near(window, softcap, seed):
    q, k, v = heads(2, 40, dtype=torch.bfloat16)
    actual = causal(q, k, v, 0.4, window, softcap)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(
        actual.double(),
        masked(q.double(), k.double(), v.double(), 0.4, window, softcap),
        atol=0.05,
        rtol=0,
    )


@pytest.mark.parametrize("window", [None, 3])
def test_spans_of_packed_tokens_attend_as_if_alone_and_share_their_beginning(window, seed):
    """Tokens 0..4 are a prompt; 5..7 and 8..30 continue it; 31 is alone. NaN elsewhere stays there."""
    spans = [([*range(8)], 0), ([*range(5), *range(8, 31)], 5), ([31], 0), ([32, 33], 0)]
    buckets, output_index_P = bucket_rows(spans, 34, "cpu")
    none = torch.zeros(0, dtype=torch.long)
    layout = PackedLayout(PackedRows(none, none, buckets, output_index_P, none, none, ()))
    q, k, v = heads(1, 34)
    k[:, :, 32:], v[:, :, 32:] = torch.nan, torch.nan
    out = layout.attend(q, k, v, 0.4, window, None, 0)[0].transpose(0, 1)
    assert out[:, 32:].isnan().all() and out.shape == (4, 34, 8)
    for index, skip in spans[:3]:
        alone = masked(*(x[:, :, index] for x in (q, k, v)), 0.4, window, None)[0]
        torch.testing.assert_close(out[:, index][:, skip:], alone[:, skip:], atol=1e-12, rtol=0)


@pytest.mark.parametrize("window, length", [(3, 20), (20, 20), (21, 20)])
def test_a_window_counts_the_query_itself(window, length):
    q, k = torch.zeros(1, 1, length, 4), torch.zeros(1, 1, length, 4)
    v = torch.eye(length)[None, None]
    out = causal(q, k, v, 1.0, window, None)[0, 0]
    assert (out > 0).sum(-1).tolist() == [min(i + 1, window) for i in range(length)]


def test_attention_sinks_are_refused():
    with pytest.raises(ValueError, match="sinks are not supported"):
        attention.attention(
            torch.nn.Module(), *heads(1, 2), None, layout=object(), s_aux=torch.zeros(4)
        )
