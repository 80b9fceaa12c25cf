"""The head's Triton kernels in Triton's interpreter, on CPU tensors; run by ``test_log_prob_triton.py``.

In a process of its own: Triton decides what is interpreted when it is imported.
"""

from __future__ import annotations

import pytest
import torch
from log_prob_problems import HEADS, compared, computed, doubled, problem
from torch import nn

from grpo.kernels.log_prob import Head, fused, reference
from grpo.kernels.log_prob.spec import even_spans

fused.BLOCK = 256  # several blocks and tiles of odd shapes
fused.TILE = {"BM": 16, "BN": 32, "BK": 16}
fused._fits_tiles = lambda head: True  # the interpreter's bfloat16 products are none


@pytest.mark.parametrize("form", ["rows", "tiles"])
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("with_entropy", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "shape",
    [
        (19, 32, 515),
        *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((1, 4, 7), (9, 24, 97))),
    ],
)
def test_triton_kernels_compute_the_specification(form, name, with_entropy, shape, seed):
    fused.FORM = form
    inputs = problem(*shape, **HEADS[name])
    inputs = (*inputs[:4], inputs[4] if with_entropy else None)
    compared(fused.fused_log_prob, inputs, even_spans(shape[0], 16), logp=2e-5, gradient=1e-4)


@pytest.mark.parametrize("form", ["rows", "tiles"])
def test_triton_keeps_the_gradient_of_confident_rows_and_of_logits_far_apart(form, seed):
    fused.FORM = form
    hidden_TD, head, target_T, _, _ = problem(18, 32, 300)
    hidden_TD[:6] *= 2  # targets almost certain
    hidden_TD[12:] *= 12  # logits over hundreds, targets of almost no probability
    spans, g_T = even_spans(18, 18), torch.ones(18)
    found, expected = (
        computed(f, hidden_TD.to(d), h, target_T, g_T, None, spans)
        for f, d, h in (
            (fused.fused_log_prob, torch.float32, head),
            (reference.fused_log_prob, torch.float64, doubled(head)),
        )
    )
    sure_T = expected[0] > -1e-6
    assert sure_T.any() and (expected[0] < -60).any()
    assert (found[2] - expected[2])[sure_T].norm() / expected[2][sure_T].norm() < 4e-3
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=1e-6)
    assert (found[2] - expected[2]).norm() / expected[2].norm() < 1e-5


def test_gradients_in_bfloat16_fill_the_first_half_of_their_rows_memory(seed):
    """More blocks than one: what a later block reads is never what an earlier one wrote."""
    fused.FORM = "rows"
    hidden_TD, head, target_T, _, _ = problem(5, 16, 1501)
    z_RV = fused._aligned_buffer(head, 8, torch.float32)
    chunk = fused.RowChunk(hidden_TD, target_T, head, z_RV)
    products_RV = chunk.logit_grad_RV.clone()
    chunk.head = Head(head.weight_VD.bfloat16())
    chunk.statistics(True)
    expected = products_RV.double().softmax(-1) - nn.functional.one_hot(target_T, 1501)
    assert chunk.logit_grad_RV.dtype == torch.bfloat16
    assert (chunk.logit_grad_RV.double() - expected).norm() / expected.norm() < 6e-3
