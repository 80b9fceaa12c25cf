"""Where models come from: GGUF files, dtypes, tied and padded vocabularies, adapters, 4-bit bases, refusals."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from gguf_files import CHAT, write_gguf
from tiny import FAMILIES, byte_tokenizer, random_prompts, tiny_model, tiny_policy, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from grpo.kernels.sampling.spec import Sampling
from grpo.learner.batch import make_batch
from grpo.model.info import load_config, load_tokenizer
from grpo.model.loading import load_model, stacked_weights, with_adapters
from grpo.model.location import gguf_file
from grpo.model.policy import Policy
from grpo.recipe import LoraSection, ModelSection, RecipeError
from grpo.rollout.engine import Engine
from grpo.types import ScoredGroup
from rewards import Score

ROOT = Path(__file__).resolve().parents[3]


def tiny_bytes_model(**options):
    return tiny_model("llama", 1, vocabulary=len(byte_tokenizer()) + 2, **options)


def test_models_that_are_loaded_at_once_in_threads_keep_their_ties(tmp_path, monkeypatch):
    """transformers switches tying off on a class while it loads, and two loads at once would leave it off."""
    monkeypatch.setattr(PreTrainedModel, "tie_weights", PreTrainedModel.tie_weights)  # put back
    tiny_bytes_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    section = ModelSection(name=str(tmp_path))
    loaded = []

    def load_several():
        for _ in range(10):
            loaded.append(load_model(section))

    threads = [threading.Thread(target=load_several) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 30
    for model in loaded:
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


# ---- GGUF -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_gives_the_model_it_was_made_of_and_can_be_saved(tmp_path, tied):
    plain = tiny_bytes_model(tie_word_embeddings=tied)
    section = ModelSection(name=str(write_gguf(tmp_path / "tiny.gguf", plain, tied=tied)))
    model = load_model(section)
    ids = torch.tensor([[5, 9, 40, 7, 7, 100]])
    assert torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-5)
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) is tied
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])
    Policy(model, load_tokenizer(section)).save(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(ids).logits, plain_again(model)(ids).logits)
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def plain_again(model):
    model.set_attn_implementation("sdpa")
    return model


def test_a_gguf_file_brings_its_tokenizer_its_chat_template_and_its_end_token(tmp_path):
    section = ModelSection(name=str(write_gguf(tmp_path / "tiny.gguf", tiny_bytes_model())))
    tokenizer = load_tokenizer(section)
    assert (
        tokenizer("az!", add_special_tokens=False)["input_ids"]
        == byte_tokenizer()("az!")["input_ids"]
    )
    assert tokenizer.chat_template == CHAT
    policy = Policy.load(section, tokenizer=tokenizer)
    assert 2 in policy.stop_ids and policy.context == 512


def test_a_folder_with_one_gguf_file_is_a_model_and_one_with_two_asks_which(tmp_path):
    file = write_gguf(tmp_path / "a.gguf", tiny_bytes_model())
    assert gguf_file(str(tmp_path)) == file
    assert load_config(ModelSection(name=str(tmp_path))).hidden_size == 32
    (tmp_path / "b.gguf").write_bytes(file.read_bytes())
    with pytest.raises(RecipeError, match="2 GGUF files; name one of a.gguf, b.gguf"):
        load_config(ModelSection(name=str(tmp_path)))


def test_a_policy_from_gguf_samples_and_trains_as_any_other(tmp_path):
    section = ModelSection(name=str(write_gguf(tmp_path / "tiny.gguf", tiny_bytes_model())))
    policy = Policy.load(section)
    groups = [
        g
        for _, g in Engine(policy).sample(
            random_prompts(0, [5]), group_size=4, max_tokens=6, sampling=Sampling(), seed=(0,)
        )
    ]
    assert len(groups[0].completions) == 4 and all(
        p.requires_grad for p in policy.trainable().values()
    )


# ---- tokens -----------------------------------------------------------------------------------------------------


def test_a_missing_padding_token_becomes_the_end_token(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelSection(name=str(tmp_path)))
    assert loaded.pad_token == loaded.eos_token == "</s>"


def test_where_padding_is_the_end_token_the_end_is_still_trained():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    policy = tiny_policy(tokenizer=tokenizer, peak=1.0)
    group = next(
        g
        for _, g in Engine(policy).sample(
            random_prompts(0, [4]), group_size=64, max_tokens=60, sampling=Sampling(), seed=(0,)
        )
    )
    ended = [i for i, c in enumerate(group.completions) if c.finish == "stop"]
    assert ended and all(
        group.completions[i].token_ids[-1] == tokenizer.pad_token_id for i in ended
    )
    scored = ScoredGroup(
        group.prompt,
        group.completions,
        tuple(Score(1.0) for _ in group.completions),
        tuple({} for _ in group.completions),
    )
    batch = make_batch(
        [scored],
        [[1.0] * 64],
        num_updates=1,
        epochs=1,
        max_tokens=60,
        mask_truncated=False,
        forward_flat=False,
    )
    assert all(
        batch.rows[i].token_ids[-1] == tokenizer.pad_token_id and batch.rows[i].forwarded
        for i in ended
    )


def test_every_end_token_of_the_generation_config_ends_a_completion():
    model = tiny_model("llama", 0, peak=0.5)
    model.generation_config.eos_token_id = [2, 7, 11]
    policy = Policy(model, tiny_tokenizer())
    assert {2, 7, 11} <= policy.stop_ids
    group = next(
        g
        for _, g in Engine(policy).sample(
            random_prompts(0, [4]), group_size=64, max_tokens=80, sampling=Sampling(), seed=(0,)
        )
    )
    assert {c.stop for c in group.completions if c.finish == "stop"} == {2, 7, 11}
    assert all(not {2, 7, 11} & set(c.token_ids[:-1]) for c in group.completions)


# ---- precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_folder_loads_in_the_dtype_asked_for(tmp_path, dtype):
    tiny_model("llama", 0).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    policy = Policy.load(ModelSection(name=str(tmp_path), dtype=dtype))
    assert {p.dtype for p in policy.trainable().values()} == {getattr(torch, dtype)}


def test_a_device_that_is_neither_cpu_nor_cuda_is_refused():
    with pytest.raises(RecipeError, match="cpu and cuda here, not on mps.*ACCELERATE_TORCH_DEVICE"):
        Policy(tiny_model("llama", 0), tiny_tokenizer(), "mps")


# ---- adapters ---------------------------------------------------------------------------------------------------

EXPERTS = [name for name, shape in FAMILIES.items() if "num_experts_per_tok" in shape]


@pytest.mark.parametrize("family", EXPERTS)
def test_all_linear_reaches_the_stacked_experts_and_leaves_the_router_alone(family):
    model = tiny_model(family, 0)
    assert sorted(stacked_weights(model)) == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    adapted = with_adapters(model, LoraSection(rank=2, alpha=4.0))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("experts" in name for name in trained) and any("q_proj" in name for name in trained)
    assert not any(".gate.weight" in name or "router" in name for name in trained)


@pytest.mark.parametrize("family", ["llama", *EXPERTS])
def test_adapters_train_every_target_and_the_merged_folder_computes_the_same(tmp_path, family):
    policy = tiny_policy(family, lora=True)
    ids = torch.tensor([[5, 9, 40, 7, 7, 60]])
    policy.base.set_attn_implementation("sdpa")
    before = policy.model(ids).logits.detach()
    policy.model(ids).logits.pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.trainable().values())
    policy.save(tmp_path / "final")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert torch.allclose(again(ids).logits, before, atol=2e-5)
    assert torch.equal(policy.model(ids).logits, before)


def test_experts_alone_can_be_targeted_by_name():
    adapted = with_adapters(
        tiny_model("mixtral", 0), LoraSection(rank=2, targets=["down_proj", "q_proj"])
    )
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("experts" in name for name in trained) and any("q_proj" in name for name in trained)
    assert not any("k_proj" in name for name in trained)


def test_a_target_that_the_model_lacks_is_refused_with_those_it_has():
    with pytest.raises(
        RecipeError, match="lora.targets names query, which this model does not have.*q_proj"
    ):
        with_adapters(tiny_model("llama", 0), LoraSection(targets=["q_proj", "query"]))


# ---- 4-bit bases ------------------------------------------------------------------------------------------------


def test_a_four_bit_base_without_adapters_is_refused_in_the_recipe():
    from grpo import Recipe

    with pytest.raises(RecipeError, match="only adapters can train; set model.lora"):
        Recipe.from_mapping({"model": {"name": "x", "quantize": "nf4"}})


def test_a_four_bit_base_without_bitsandbytes_is_refused(tmp_path, monkeypatch):
    tiny_model("llama", 0).save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(RecipeError, match="needs the package bitsandbytes.*remove model.quantize"):
        load_model(ModelSection(name=str(tmp_path), quantize="nf4", lora=LoraSection()))


def test_adapters_on_a_four_bit_base_train_and_are_saved_on_the_dequantised_model(tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny_model("llama", 0, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    section = ModelSection(
        name=str(tmp_path / "base"), quantize="nf4", lora=LoraSection(rank=4, alpha=8.0)
    )
    policy = Policy.load(section)
    assert {type(m).__name__ for m in policy.base.modules()} >= {"Linear4bit"}
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(0.05)
    ids = torch.tensor([[5, 9, 40, 7, 7, 60]])
    policy.base.set_attn_implementation("sdpa")
    live = policy.model(ids).logits
    live.sum().backward()
    assert all(p.grad is not None for p in policy.trainable().values())
    policy.save(tmp_path / "final")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert "Linear4bit" not in {type(m).__name__ for m in again.modules()}
    assert (
        (again(ids).logits - live).abs().mean() < 0.03 < live.abs().mean()
    )  # bitsandbytes rounds its products


# ---- what cannot be loaded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere.gguf", "names .*nowhere.gguf, but there is no such file"),
        ("./nowhere", "there is no such folder"),
    ],
)
def test_a_path_that_does_not_exist_is_named(tmp_path, name, message):
    with pytest.raises(RecipeError, match=message):
        load_config(ModelSection(name=str(tmp_path) + "/" + name))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(
        RecipeError, match="is neither a folder with a config.json nor a model on the hub"
    ):
        load_config(ModelSection(name=str(tmp_path)))


def test_a_model_folder_without_tokenizer_says_how_to_add_one(tmp_path):
    tiny_model("llama", 0).save_pretrained(tmp_path)
    with pytest.raises(
        RecipeError, match="has no tokenizer that can be loaded.*tokenizer.save_pretrained"
    ):
        load_tokenizer(ModelSection(name=str(tmp_path)))


class _Gate(http.server.BaseHTTPRequestHandler):
    """A hub on which every repository is gated."""

    def do_GET(self):
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this resource is restricted")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


ASK = """
from grpo.model.info import load_config
from grpo.recipe import ModelSection
try:
    load_config(ModelSection(name="some/model"))
except ValueError as error:
    print(error)
"""


def ask_the_hub(endpoint: str, home: Path) -> str:
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "no_proxy": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, env=environment
    ).stdout


@pytest.mark.slow  # a process of its own
def test_a_gated_model_says_how_to_get_access(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        output = ask_the_hub(f"http://127.0.0.1:{server.server_port}", tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert "some/model is gated: accept its terms on its page, then log in" in output


@pytest.mark.slow  # the hub's client tries for half a minute
def test_a_hub_that_cannot_be_reached_is_reported(tmp_path):
    output = ask_the_hub("http://127.0.0.1:9", tmp_path)
    assert (
        "some/model is not a folder here, and the hub cannot be reached; check the connection"
        in output
    )


def test_a_tokenizer_saved_next_to_the_model_loads_again(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)("ab")["input_ids"]
        == byte_tokenizer()("ab")["input_ids"]
    )
