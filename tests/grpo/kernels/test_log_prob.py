"""The log-prob head: every back-end against the specification in float64, at odd shapes, with fresh inputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from log_prob_problems import HEADS, compared, computed, doubled, problem
from tiny import FAMILIES, random_prompts, tiny_policy
from torch import nn

from grpo.kernels.log_prob import Head, chunked, fused_log_prob, logprob, reference
from grpo.kernels.log_prob.full_logits import token_logprob
from grpo.kernels.log_prob.spec import chunk_spans, even_spans
from grpo.model.packing import pack
from grpo.types import Row


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 1), (1, 8, 7), (37, 33, 501), (130, 16, 97)])
def test_chunks_compute_the_specification_in_float64(name, with_entropy, shape, seed):
    inputs = problem(*shape, torch.float64, **HEADS[name])
    inputs = (*inputs[:4], inputs[4] if with_entropy else None)
    for spans in (even_spans(shape[0], 1000), even_spans(shape[0], 16), even_spans(shape[0], 1)):
        if shape[2] > 1:
            compared(chunked.fused_log_prob, inputs, spans, logp=1e-11, gradient=1e-11)
        else:
            assert all(
                part is None or (part.abs() < 1e-12).all()
                for part in computed(chunked.fused_log_prob, *inputs, spans)
            )  # with one token in the vocabulary everything is certain


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_float32_keeps_its_digits(name, offset, seed):
    """Only differences of logits matter, however far they are from 0; a soft-cap is excluded, it flattens there."""
    inputs = problem(50, 64, 1003, **HEADS[name])
    if offset and inputs[1].bias_V is not None and not inputs[1].softcap:
        inputs[1].bias_V.add_(offset)
    compared(
        chunked.fused_log_prob,
        inputs,
        even_spans(50, 24),
        logp=5e-5 if offset else 2e-5,
        gradient=1e-4 if offset else 5e-6,
    )


def test_confident_rows_keep_their_gradient_in_float32(seed):
    """Rows whose target has all but 1e-9 to 1e-7 of the mass: float32 rounds their log-prob to 0 in the plain formula."""
    rows = 48
    size = 1003
    head = Head(3 * nn.functional.normalize(torch.randn(size, 64), dim=-1))
    target_T = torch.randint(size, (rows,))
    rest_T = torch.logspace(-9, -7, rows, dtype=torch.float64)
    hidden_TD = confident_hidden(head, target_T, rest_T).float()
    g_T = torch.ones(rows)
    spans = even_spans(rows, 20)
    found = computed(chunked.fused_log_prob, hidden_TD, head, target_T, g_T, None, spans)
    exact = (hidden_TD.double(), doubled(head), target_T, g_T, None, spans)
    expected = computed(reference.fused_log_prob, *exact)
    sure_T = expected[0] > -1e-6
    assert sure_T.all()
    assert ((found[0] - expected[0]) / expected[0]).abs().max() < 4e-3
    assert (found[2] - expected[2]).norm() / expected[2].norm() < 4e-3
    plain = torch.log_softmax(hidden_TD @ head.weight_VD.T, -1).gather(-1, target_T[:, None])[:, 0]
    assert (plain == 0).any(), "the plain formula loses the token's gradient"


def confident_hidden(head, target_T, rest_T):
    """Hidden states along the target's weight, whose length leaves `rest_T` of the mass to other tokens.

    The length is found by bisection; weights are of one norm, so the target's logit is always the largest.
    """
    weight_VD = head.weight_VD.double()
    direction_TD = weight_VD[target_T] / weight_VD[target_T].norm(dim=-1, keepdim=True)
    low_T = torch.zeros(len(target_T), dtype=torch.float64)
    high_T = torch.full_like(low_T, 1000.0)
    for _ in range(60):
        middle_T = (low_T + high_T) / 2
        logp_TV = (middle_T[:, None] * direction_TD @ weight_VD.T).log_softmax(-1)
        others_TV = logp_TV.scatter(-1, target_T[:, None], -torch.inf)
        too_short_T = others_TV.logsumexp(-1) > rest_T.log()
        low_T = torch.where(too_short_T, middle_T, low_T)
        high_T = torch.where(too_short_T, high_T, middle_T)
    return high_T[:, None] * direction_TD


@pytest.mark.parametrize(
    "dtype, logp, gradient", [(torch.bfloat16, 0.15, 0.03), (torch.float16, 2e-5, 2e-3)]
)
def test_half_precision_weights_have_a_float32_gradient(dtype, logp, gradient, seed):
    """In bfloat16 a CPU's product rounds the logits themselves; float16 is upcast to float32."""
    inputs = problem(33, 32, 403, dtype, **HEADS["temperature"])
    compared(
        chunked.fused_log_prob,
        (*inputs[:4], None),
        even_spans(33, 16),
        logp=logp,
        gradient=gradient,
    )


def test_rows_of_coefficient_zero_change_nothing_and_are_left_out_of_the_products(seed):
    inputs = problem(60, 16, 301, torch.float64)
    g_T = inputs[3] * (torch.rand(60) < 0.3)
    compared(
        chunked.fused_log_prob,
        (*inputs[:3], g_T, None),
        even_spans(60, 25),
        logp=1e-12,
        gradient=1e-12,
    )
    hidden_TD, head, target_T = inputs[:3]
    seen = []
    whole = chunked.times_weight
    try:
        chunked.times_weight = lambda unit_RV, h: (seen.append(len(unit_RV)), whole(unit_RV, h))[1]
        fused_log_prob(hidden_TD, head, target_T, lambda a, b, *_: (g_T[a:b].double(), None))
    finally:
        chunked.times_weight = whole
    assert sum(seen) == int((g_T != 0).sum())


def test_if_every_coefficient_is_zero_there_is_no_gradient(seed):
    hidden_TD, head, target_T, g_T, _ = problem(37, 40, 700)
    *_, grad_TD, weight_VD, _ = computed(
        chunked.fused_log_prob, hidden_TD, head, target_T, 0 * g_T, None, [(0, 20), (20, 37)]
    )
    assert not grad_TD.any() and not weight_VD.any()


@pytest.mark.parametrize("name", HEADS)
def test_products_in_slices_of_the_vocabulary_are_whole(name, monkeypatch, seed):
    monkeypatch.setattr(chunked, "SLICE_BYTES", 64 * 4 * 40 * 3)
    inputs = problem(45, 40, 1000, **HEADS[name])
    assert len(chunked.slices(inputs[1].weight_VD)) == 6
    compared(chunked.fused_log_prob, inputs, [(0, 20), (20, 45)], logp=2e-5, gradient=1e-5)


def test_a_row_does_not_change_with_its_neighbours(seed):
    hidden_TD, head, target_T, g_T, _ = problem(70, 48, 600)
    alone = fused_log_prob(hidden_TD[30:31], head, target_T[30:31])
    hidden_TD[:30], hidden_TD[31:] = torch.nan, 1e30
    among = fused_log_prob(hidden_TD, head, target_T, rows=64)
    torch.testing.assert_close(among.logp_T[30:31], alone.logp_T, atol=1e-6, rtol=0)


def test_chunks_of_whole_completions_cut_none():
    head = Head(torch.zeros(10, 4))
    assert chunk_spans(head, (5, 5, 7, 3), 10) == [(0, 10), (10, 20)]
    assert chunk_spans(head, (5, 6, 7), 10) == [(0, 5), (5, 11), (11, 18)]
    assert chunk_spans(head, (5, 11), 10) == [] and chunk_spans(head, (), 10) == []


# ---- the operator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_operator_has_the_specifications_gradient(name, frozen, seed):
    hidden_TD, head, target_T, g_T, e_T = problem(21, 16, 97, torch.float64, **HEADS[name])
    for e in (None, e_T):
        results = []
        for function in (logprob, reference.logprob):
            leaves = [hidden_TD.clone().requires_grad_()]
            weight_VD = head.weight_VD.clone().requires_grad_(not frozen)
            bias_V = None if head.bias_V is None else head.bias_V.clone().requires_grad_(not frozen)
            leaves += [] if frozen else [part for part in (weight_VD, bias_V) if part is not None]
            made = Head(weight_VD, bias_V, head.scale, head.softcap, head.temperature)
            logp_T, entropy_T = function(leaves[0], made, target_T)
            total = (g_T * logp_T).sum() + (0 if e is None else (e * entropy_T).sum())
            results.append(
                (logp_T.detach(), entropy_T.detach(), *torch.autograd.grad(total, leaves))
            )
        for one, other in zip(*results):
            torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_finds_nothing(unit, bias, seed):
    hidden_TD, head, target_T, g_T, e_T = problem(9, 8, 31, bias=bias)
    weight_VD = head.weight_VD.requires_grad_(not unit)
    arguments = (hidden_TD.requires_grad_(), weight_VD, head.bias_V, target_T, 1.0, 0.0, 0.9, unit)
    torch.library.opcheck(torch.ops.grpo.head_logprob.default, arguments)
    torch.library.opcheck(
        torch.ops.grpo.head_gradient.default,
        (
            hidden_TD.detach(),
            weight_VD.detach(),
            head.bias_V,
            target_T,
            g_T,
            e_T,
            1.0,
            0.0,
            0.9,
            True,
        ),
    )


def test_compile_and_checkpointing_see_through_the_operator(seed):
    hidden_TD, head, target_T, g_T, _ = problem(12, 8, 31, torch.float64)
    layer = nn.Linear(8, 8).double()

    def loss(x_TD):
        return (g_T * logprob(layer(x_TD).tanh(), head, target_T)[0]).sum()

    expected = torch.autograd.grad(loss(hidden_TD), list(layer.parameters()))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    checkpointed = torch.utils.checkpoint.checkpoint(loss, hidden_TD, use_reentrant=False)
    for total in (compiled(hidden_TD), checkpointed):
        for one, other in zip(torch.autograd.grad(total, list(layer.parameters())), expected):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


# ---- in a model ------- -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, "cohere", "tied"])
def test_the_head_of_each_architecture_is_recognized_and_computes_what_the_model_computes(
    family, lora, monkeypatch, seed
):
    options = {"tie_word_embeddings": True} if family == "tied" else {}
    if family == "cohere":
        monkeypatch.setitem(
            FAMILIES, "cohere", {"logit_scale": 0.25, "use_qk_norm": False, "pad_token_id": 0}
        )
    policy = tiny_policy("llama" if family == "tied" else family, seed % 1000, lora=lora, **options)
    assert policy.head is not None, policy.describe_head()
    assert policy.describe_head().startswith("log-probs: head chunked")
    prompt, *texts = random_prompts(seed, [9, 14, 3])
    packed = pack(
        [
            Row(i, 0, prompt.token_ids, t.token_ids, torch.zeros(0), 1.0, True, True, "")
            for i, t in enumerate(texts)
        ]
    )
    with torch.no_grad():
        found = policy.token_stats(packed, 0.8)
        from grpo.model.attention import PackedLayout

        logits = policy.logits(
            packed.token_P, packed.position_P, PackedLayout(packed), packed.source_T
        )
    expected, entropy_T = token_logprob(logits[0], packed.target_T, 0.8)
    torch.testing.assert_close(found.logp_T, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.entropy_T, entropy_T, atol=2e-5, rtol=0)


def gradients_of(policy, packed):
    (policy.token_stats(packed, 1.0).logp_T * torch.arange(1, 18)).sum().backward()
    return {name: p.grad for name, p in policy.trainable().items()}


def test_a_head_that_is_more_than_one_matrix_uses_its_own_logits(seed):
    class Doubled(nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    prompt, *texts = random_prompts(seed, [9, 14, 3])
    packed = pack(
        [
            Row(i, 0, prompt.token_ids, t.token_ids, torch.zeros(0), 1.0, True, True, "")
            for i, t in enumerate(texts)
        ]
    )
    other, plain = tiny_policy("llama", 5), tiny_policy("llama", 5)
    other.model.lm_head.__class__ = Doubled
    other.model.lm_head.__dict__.pop("forward", None)  # the policy may have set it
    with torch.no_grad():
        plain.model.lm_head.weight.mul_(2)
    assert other.head is None and "not one plain matrix" in other.describe_head()
    one, two = gradients_of(other, packed), gradients_of(plain, packed)
    torch.testing.assert_close(
        one["model.norm.weight"], two["model.norm.weight"], atol=1e-4, rtol=1e-4
    )


def test_a_scale_that_the_configuration_omits_is_noticed(seed):
    policy = tiny_policy("granite", seed % 1000)
    policy.base.config.get_text_config().logits_scaling = 1.0
    forward = policy.model.forward
    policy.model.forward = lambda **kw: (lambda out: SimpleNamespace(logits=out.logits / 3))(
        forward(**kw)
    )
    assert policy.head is None and "differ by" in policy.describe_head()
