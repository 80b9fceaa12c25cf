"""Compiled norms and MLPs in the engine's steps: the tokens and log-probs of the plain forward, whatever else is decoded."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import shutil

import pytest
import torch
from tiny import (
    FAMILIES,
    plain_logits,
    plain_model,
    random_prompts,
    tiny_model,
    tiny_policy,
    tiny_tokenizer,
)
from torch import nn
from torch._dynamo.utils import counters
from transformers import Qwen2Config

from benchmarks import rollouts
from grpo.kernels import linear as products
from grpo.kernels.sampling.spec import Sampling
from grpo.model.policy import Policy
from grpo.recipe import Recipe, RecipeError
from grpo.rollout import compiled
from grpo.rollout.engine import Engine
from grpo.train import Trainer, main

pytestmark = pytest.mark.slow  # a C++ compiler builds the kernels first

HAS_COMPILER = shutil.which(os.environ.get("CXX") or "g++") is not None


def needs_compiler(test):
    test = pytest.mark.usefixtures("warm_compiler")(test)
    return pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")(test)


EXPERTS = [family for family, options in FAMILIES.items() if "num_experts_per_tok" in options]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """The compiler's cache, in a folder of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def warm_compiler(cache):
    """The first compilation prepares what all others use; it takes longer than any test."""
    first = torch.compile(lambda x: x.sin() + 1, options=compiled.OPTIONS)
    assert torch.allclose(first(torch.zeros(8)), torch.ones(8))


def sampled(engine: Engine, prompts, group_size=3, max_tokens=12, sampling=Sampling()) -> dict:
    groups = engine.sample(
        prompts, group_size=group_size, max_tokens=max_tokens, sampling=sampling, seed=(0,)
    )
    return {(group.prompt.id, i): c for _, group in groups for i, c in enumerate(group.completions)}


@torch.no_grad()
def worst(policy, prompts, completions) -> float:
    """The largest |sampled_logp - that of transformers' own forward|."""
    plain, ids, off = plain_model(policy), {p.id: p.token_ids for p in prompts}, []
    for (name, _), c in completions.items():
        logp = plain_logits(policy, ids[name], c.token_ids, plain).log_softmax(-1)
        own = logp.gather(-1, torch.tensor(c.token_ids)[:, None])[:, 0]
        off.append(float((c.sampled_logps - own).abs().max()))
    return max(off)


@torch.no_grad()
def largest_logit(policy, prompt, completions) -> float:
    """The largest |logit| of the plain forward over a prompt's first completion."""
    token_ids = completions[prompt.id, 0].token_ids
    logits = plain_logits(policy, prompt.token_ids, token_ids, plain_model(policy))
    return float(logits.abs().max())


def blocks_in_use(engine: Engine) -> list[str]:
    """The classes of the blocks whose calls go through compiled code."""
    return sorted(
        {
            type(block).__name__
            for block, forward in engine._compiled_blocks._forwards.items()
            if forward.func == engine._compiled_blocks._run
        }
    )


# ---- the numbers ------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    "lora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["whole", "lora"]
)
@pytest.mark.parametrize(
    "family",
    ["llama", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f != "llama")],
)
@pytest.mark.slow
def test_sampled_logps_are_the_plain_forwards(family, lora, seed):
    policy, prompts = tiny_policy(family, seed, lora=lora), random_prompts(seed, [1, 30, 65])
    engine = Engine(policy, compile=True)
    assert worst(policy, prompts, sampled(engine, prompts)) <= 1e-5
    used = blocks_in_use(engine)
    assert any("Norm" in name for name in used) and any("MLP" in name for name in used) == (
        family not in EXPERTS
    )
    said = [note for note in engine.stats.notes if "sample.compile" in note]
    assert len(said) == (family in EXPERTS) and all("mixtures of experts" in note for note in said)


@needs_compiler
@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_completions_do_not_depend_on_what_is_decoded_with_them(family, seed):
    """Nor is anything compiled again for other numbers of rows."""
    policy, prompts = (
        tiny_policy(family, seed, hidden_size=64),
        random_prompts(seed, [5, 20, 33, 70]),
    )
    engine = Engine(policy, compile=True)
    alone = {key: c for prompt in prompts for key, c in sampled(engine, [prompt]).items()}
    compilations = counters["stats"]["unique_graphs"]
    many = sampled(engine, prompts[::-1], group_size=14)
    few = sampled(Engine(policy, compile=True, max_rows=8), prompts)
    for key, c in alone.items():
        for other in (many[key], few[key]):
            assert other.token_ids == c.token_ids and torch.equal(
                other.sampled_logps, c.sampled_logps
            )
    assert counters["stats"]["unique_graphs"] == compilations and not engine.stats.notes


@needs_compiler
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.slow
def test_weights_trained_between_two_calls_are_the_ones_that_sample(lora, seed):
    policy, prompts = tiny_policy("llama", seed, lora=lora), random_prompts(seed, [9, 40])
    engine = Engine(policy, compile=True)
    before = sampled(engine, prompts)
    optimizer = torch.optim.SGD(policy.trainable().values(), lr=0.5)
    ids = torch.randint(3, 80, (2, 12))
    with policy.own_attention():
        policy.model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    policy.weights_changed()
    after = sampled(engine, prompts)
    rounding = 2e-5 * largest_logit(policy, prompts[0], after)  # such a step amplifies it
    assert worst(policy, prompts, after) <= rounding
    assert worst(policy, prompts, before) > 1000 * rounding


@needs_compiler
def test_bits_stay_when_the_weights_are_packed_in_the_middle_of_a_call(seed):
    policy = tiny_policy("llama", seed, hidden_size=128, intermediate_size=192)
    prompts, engine = random_prompts(seed, [9, 40]), Engine(policy, compile=True)
    short, long = (
        sampled(engine, prompts, max_tokens=tokens) for tokens in (12, 40)
    )  # packed after 16 steps
    for key, c in short.items():
        assert torch.equal(long[key].sampled_logps[: len(c.token_ids)], c.sampled_logps)
    assert worst(policy, prompts, long) <= 1e-5 and not products._packed


@pytest.mark.skipif(not products.available(), reason="products are torch's own on this processor")
@torch.no_grad()
def test_the_product_that_compiled_blocks_call_reads_the_packed_copy_of_the_weight_as_it_is(
    seed, monkeypatch
):
    monkeypatch.setattr(products, "min_weight_size", lambda: 128 * 128)
    module = nn.Sequential(nn.Linear(160, 144))
    products.use_in(module)
    linear, x = module[0], torch.randn(8, 1, 160)
    packed = products.pack(module)
    copied = torch.ops.grpo.linear(x, linear.weight, linear.bias)
    torch.testing.assert_close(
        copied, nn.functional.linear(x, linear.weight, linear.bias), atol=1e-5, rtol=1e-5
    )
    linear.weight.data.mul_(2)  # unseen by the weight's version: what is read now is the copy
    assert torch.equal(torch.ops.grpo.linear(x, linear.weight, linear.bias), copied)
    linear.weight.add_(1)
    exact = (x.double() @ linear.weight.double().T + linear.bias).float()
    torch.testing.assert_close(
        torch.ops.grpo.linear(x, linear.weight, linear.bias), exact, atol=1e-3, rtol=1e-4
    )
    products.unpack(packed)
    assert not products._packed


@needs_compiler
def test_pages_and_eager_steps_of_the_gpu_path_run_the_compiled_blocks(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [5, 33])
    engine = Engine(policy, compile=True, paged=True)
    paged = sampled(engine, prompts)
    assert worst(policy, prompts, paged) <= 1e-5
    assert blocks_in_use(engine) == ["LlamaMLP", "LlamaRMSNorm"]
    contiguous = sampled(Engine(policy), prompts)
    assert {key: c.token_ids for key, c in paged.items()} == {
        key: c.token_ids for key, c in contiguous.items()
    }


@needs_compiler
@torch.no_grad()
@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__ < "2.13", reason="torch 2.11's compiler does not round in between on a CPU"
)
def test_half_precision_is_rounded_where_the_plain_forward_rounds(seed):
    block = tiny_model("llama", seed, hidden_size=96).bfloat16().model.layers[0]
    x = torch.randn(24, 1, 96).bfloat16()
    for part in (block.input_layernorm, block.mlp):
        assert compiled.why_not_compiled(part, x) == ""
        run, exact = compiled.compiled(type(part))(part, x), part(x)
        assert (run != exact).float().mean() < 0.02  # the order of a sum alone


# ---- what is not disturbed --------------------------------------------------------------------------------------


@needs_compiler
def test_training_prefill_and_copies_see_the_model_as_it_was(seed, tmp_path):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [9])
    with policy.own_attention():
        names, logits = (
            list(policy.model.state_dict()),
            plain_logits(policy, (3, 4), (5,), policy.model),
        )
    own = {module: "forward" in module.__dict__ for module in policy.model.modules()}
    sampled(Engine(policy, compile=True), prompts)
    assert {module: "forward" in module.__dict__ for module in policy.model.modules()} == own
    assert list(policy.model.state_dict()) == names
    with policy.own_attention():
        assert torch.equal(plain_logits(policy, (3, 4), (5,), policy.model), logits)
    assert list(copy.deepcopy(policy.model).state_dict()) == names
    norm = policy.model.model.layers[0].input_layernorm
    assert torch.equal(pickle.loads(pickle.dumps(norm)).weight, norm.weight)
    policy.save(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_a_block_is_found_by_what_it_is():
    blocks_of = {family: compiled.find_blocks(tiny_model(family, 0)) for family in FAMILIES}
    counts = {family: len(blocks) for family, blocks in blocks_of.items()}
    per_layer = {
        "qwen3": 5,
        "olmo2": 5,
        "gemma2": 5,
        "gemma3_text": 7,
        "qwen3_moe": 4,
        "mixtral": 2,
    }
    assert counts == {family: 2 * per_layer.get(family, 3) for family in FAMILIES}
    assert not any(
        isinstance(block, nn.Linear) or hasattr(block, "layer_idx")
        for blocks in blocks_of.values()
        for block in blocks
    )


@needs_compiler
def test_the_benchmark_compares_the_compiled_engine_with_the_uncompiled(monkeypatch):
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2100,
        "max_position_embeddings": 512,
    }
    monkeypatch.setitem(rollouts.SHAPES, "tiny", (Qwen2Config, shape))
    options = argparse.Namespace(
        device="cpu",
        one_model=True,
        model=None,
        no_batch=True,
        vllm_python=None,
        rounds=1,
        compile=True,
    )
    measured = rollouts.measure(rollouts.Case("tiny", 3, 4, 30, 24, "lognormal"), options)
    assert (
        set(measured["tokens_per_second"]) == {"ours", "uncompiled"}
        and measured["first_seconds"] > 0
    )
    assert not measured["notes"] and not measured["errors"]


# ---- what fails -------------------------------------------------------------------------------------------------


class Branching(nn.Module):
    """An MLP that no compiler can trace as a whole: its branch depends on its numbers."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return self.mlp(x) if float(x.sum()) != 0.125 else x


@needs_compiler
def test_a_block_that_cannot_be_traced_runs_uncompiled_and_a_note_says_so(seed):
    model = tiny_model("llama", seed)
    for layer in model.model.layers:
        layer.mlp = Branching(layer.mlp)
    policy, prompts = Policy(model, tiny_tokenizer()), random_prompts(seed, [5, 33])
    engine = Engine(policy, compile=True)
    assert worst(policy, prompts, sampled(engine, prompts)) <= 1e-5
    (note,) = engine.stats.notes
    assert note.startswith("sample.compile leaves out Branching: ") and blocks_in_use(engine) == [
        "LlamaRMSNorm"
    ]
    sampled(engine, prompts)
    assert not engine.stats.notes  # once is enough


def test_a_compiler_that_fails_ends_in_plain_sampling(seed, tmp_path, monkeypatch):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(broken),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    policy, prompts = tiny_policy("gpt_neox", seed, hidden_size=40), random_prompts(seed, [5])
    engine = Engine(policy, compile=True)
    completions, plain = sampled(engine, prompts), sampled(Engine(policy), prompts)
    assert engine.stats.notes and all("sample.compile" in note for note in engine.stats.notes)
    assert blocks_in_use(engine) == []
    assert all(
        torch.equal(completions[key].sampled_logps, c.sampled_logps) for key, c in plain.items()
    )


def test_a_model_sampled_by_generate_says_that_nothing_is_compiled(seed):
    policy, prompts = tiny_policy("llama", seed), random_prompts(seed, [5])
    policy.unsupported_reason = "it is asked for"
    with policy.own_attention():
        engine = Engine(policy, compile=True)
        assert sampled(engine, prompts)
    assert engine.stats.notes == [
        "sample.compile: not used, since transformers' generate samples this model"
    ]


def test_a_float64_model_is_left_as_it_is(seed):
    engine = Engine(tiny_policy("llama", seed, dtype=torch.float64), compile=True)
    assert sampled(engine, random_prompts(seed, [5]))
    assert "float64" in engine.stats.notes[0] and not engine._compiled_blocks._forwards


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles there")
def test_without_a_compiler_the_recipe_is_refused_before_anything_loads(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    recipe = Recipe.from_mapping(
        {},
        "model.name=nowhere",
        "sample.compile=true",
        f"run_dir={tmp_path / 'run'}",
        "rewards.correct.use=math_answer",
    )
    with pytest.raises(
        RecipeError,
        match=r"sample.compile is true, but there is no C\+\+ compiler .*no-such-compiler",
    ):
        Trainer(recipe)
    (tmp_path / "r.yaml").write_text(
        "model: {name: nowhere}\nsample: {compile: true}\nrewards: {correct: {use: math_answer}}\n"
    )
    assert main([str(tmp_path / "r.yaml"), f"run_dir={tmp_path / 'run'}"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("grpo ") and out.count("\n") == 1
    assert err.count("\n") == 1 and "C++ compiler" in err
    monkeypatch.setenv("CXX", "sh")
    compiled.check_compiler(recipe)
