"""The same promises on a CUDA device: log-probs agree, the update is the CPU's, a run learns and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import cuda_policy

from grpo import Recipe, Trainer
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.engine import Engine
from grpo.types import Prompt

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "qwen3_moe"])
def test_sampled_logps_are_those_of_a_plain_forward(family: str, lora: bool, seed: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    policy = cuda_policy(family, seed=seed % 1000, lora=lora)
    prompts = [Prompt(str(n), tuple(torch.randint(3, 80, (n,)).tolist()), {}) for n in (1, 5, 70)]
    groups = [
        group
        for _, group in Engine(policy).sample(
            prompts, group_size=3, max_tokens=80, sampling=Sampling(), seed=(seed,)
        )
    ]
    policy.base.set_attn_implementation("eager")
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt.token_ids, *completion.token_ids]], device="cuda")
            with torch.no_grad():
                logp = (
                    policy.model(input_ids=ids)
                    .logits[0, :-1, : policy.vocab_size]
                    .float()
                    .log_softmax(-1)
                )
            taken = logp.gather(-1, ids[0, 1:, None])[len(group.prompt.token_ids) - 1 :, 0].cpu()
            assert (taken - completion.sampled_logps).abs().max() <= 1e-4


def test_a_run_on_the_gpu_learns_and_drift_stays_small(tmp_path: Path) -> None:
    recipe = Recipe.load(
        ROOT / "recipes" / "quickstart.yaml",
        "steps=20",
        "evaluate.every=0",
        f"run_dir={tmp_path / 'run'}",
    )
    records = list(Trainer(recipe))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"]
    assert max(record["policy/drift"] for record in records) < 1e-3


@pytest.mark.parametrize("form", ["rows", "tiles"])
@pytest.mark.parametrize("shape", [(1, 64, 97), (77, 64, 501), (300, 896, 5003), (513, 128, 1187)])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "bias": True}, {"softcap": 9.0}])
def test_the_triton_head_keeps_its_promise_in_bfloat16(
    form: str, shape, options: dict, seed: int
) -> None:
    """Log-probs within 2e-5 of float64 on the same inputs, gradients within 4e-3, confident rows included."""
    from log_prob_problems import computed, doubled, problem

    from grpo.kernels.log_prob import fused, reference
    from grpo.kernels.log_prob.spec import even_spans

    fused.FORM = form
    hidden_TD, head, target_T, g_T, e_T = problem(*shape, torch.bfloat16, **options)
    for e in (None, e_T):
        parts = [part if part is None else part.cuda() for part in (hidden_TD, target_T, g_T, e)]
        on = type(head)(
            head.weight_VD.cuda(),
            None if head.bias_V is None else head.bias_V.cuda(),
            head.scale,
            head.softcap,
            head.temperature,
        )
        spans = even_spans(shape[0], 128)
        found = computed(fused.fused_log_prob, parts[0], on, *parts[1:], spans)
        expected = computed(
            reference.fused_log_prob, hidden_TD.double(), doubled(head), target_T, g_T, e, spans
        )
        for i, (one, other) in enumerate(zip(found, expected)):
            if other is None:
                continue
            apart = (
                (one.cpu() - other).abs().max()
                if i < 2
                else (one.cpu() - other).norm() / other.norm()
            )
            assert apart <= (2e-5, 1e-4, 6e-3, 6e-3, 6e-3)[i], f"part {i}: {float(apart):.1e}"


def test_an_update_waits_for_the_device_once(seed: int) -> None:
    from small_updates import batch_of, learner_of, random_groups
    from small_updates import tiny_policy as small

    policy = small(torch.float32)
    policy = type(policy)(policy.model, policy.tokenizer, "cuda")
    batch = batch_of(random_groups())
    learner = learner_of(policy, 60)
    learner.begin(batch)
    learner.update(batch.updates[0])  # compiles, finds the head, allocates
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as waits:
            learner.begin(batch)
            learner.update(batch.updates[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) <= 1, [str(w.message) for w in waits]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_predicted_memory_is_the_measured_one_within_a_tenth(recompute: bool) -> None:
    from memory_child import config_of, make_updates, rows_of, sections
    from tiny import tiny_tokenizer

    from grpo.preflight.memory import predict

    case = {
        "L": 16,
        "D": 512,
        "I": 2048,
        "V": 32000,
        "prompts": 8,
        "T": 400,
        "recompute": recompute,
        "device": "cuda",
    }
    config, tokenizer = config_of(case), tiny_tokenizer(80)
    tokenizer.add_tokens([f"<f{i}>" for i in range(config.vocab_size - len(tokenizer))])
    predicted = predict(config, tokenizer, *sections(case), rows_of(case), device="cuda").peak
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    make_updates(case, config, tokenizer, 2)
    assert 0.9 <= predicted / (torch.cuda.max_memory_allocated() - before) <= 1.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_sampling_repeats_in_another_order(dtype: torch.dtype, seed: int) -> None:
    policy = cuda_policy("qwen2", seed=seed % 1000, dtype=dtype)
    prompts = [
        Prompt(str(n), tuple(torch.randint(3, 80, (n,)).tolist()), {}) for n in (1, 5, 70, 200, 33)
    ]
    options = dict(group_size=8, max_tokens=90, sampling=Sampling(), seed=(seed,))
    engine = Engine(policy, max_rows=16, deterministic=True)
    one = {group.prompt.id: group for _, group in engine.sample(prompts, **options)}
    other = {group.prompt.id: group for _, group in engine.sample(prompts[::-1], **options)}
    for name, group in one.items():
        for a, b in zip(group.completions, other[name].completions):
            assert a.token_ids == b.token_ids and torch.equal(a.sampled_logps, b.sampled_logps)


def test_steps_are_captured_and_captured_again_only_when_addresses_change(seed: int) -> None:
    policy = cuda_policy("llama", seed=seed % 1000)
    prompts = [Prompt(str(n), tuple(torch.randint(3, 80, (n,)).tolist()), {}) for n in (5, 70)]
    options = dict(group_size=4, max_tokens=40, sampling=Sampling(), seed=(seed,))
    engine = Engine(policy, keep=True)
    list(engine.sample(prompts, **options))
    steps = engine._paged_decoder.pool.runner
    assert not steps.eager_because and steps.captures > 0
    captures = steps.captures
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(1.01)  # in place, as an optimizer does
    policy.weights_changed()
    list(engine.sample(prompts, **options))
    assert engine._paged_decoder.pool.runner is steps and steps.captures == captures


def test_a_step_for_which_the_device_has_no_memory_goes_on_with_fewer_rows(seed: int) -> None:
    """A layer asks the real allocator for a twentieth of the device's memory a row."""
    policy = cuda_policy("llama", seed=seed % 1000)
    prompts = [
        Prompt(str(n), tuple(torch.randint(3, 80, (n,)).tolist()), {}) for n in (1, 5, 70, 33, 64)
    ]
    options = dict(group_size=8, max_tokens=40, sampling=Sampling(), seed=(seed,))
    expected = {group.prompt.id: group for _, group in Engine(policy).sample(prompts, **options)}
    share = torch.cuda.mem_get_info()[1] // 20

    def greedy(layer, args) -> None:
        torch.empty(args[0].shape[0] * share, dtype=torch.uint8, device="cuda")

    taken = policy.base.model.layers[0].register_forward_pre_hook(greedy)
    engine = Engine(policy)
    found = {group.prompt.id: group for _, group in engine.sample(prompts, **options)}
    taken.remove()
    assert engine.stats.notes and engine._paged_decoder.most_rows <= 16
    for name, group in expected.items():
        for a, b in zip(group.completions, found[name].completions):
            assert (
                a.token_ids == b.token_ids
                and (a.sampled_logps - b.sampled_logps).abs().max() <= 1e-4
            )
