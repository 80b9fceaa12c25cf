"""An SGLang server, by its schema: what is sent, what is refused at the handshake, what is taken back and noticed."""

from __future__ import annotations

import time

import pytest

from grpo.rollout.engine import EngineFailed
from grpo.rollout.servers.connection import ServerFault
from grpo.rollout.servers.server import Asked, Wanted
from grpo.rollout.servers.sglang import SglangServer
from tests.support.fake_server import fake_servers
from tests.support.fake_sglang import SGLANG
from tests.support.served import PLAIN, engine_of, fleet_of, sampled, served_policy
from tests.support.tiny import byte_tokenizer

WANTED = Wanted(dtype="float32", max_tokens=200, vocab_size=89)
ADAPTED = Wanted(dtype="float32", max_tokens=200, vocab_size=89, rank=4)
WRONG = {
    "dtype": ({"dtype": "half"}, "computes in float16, .*--dtype float32"),
    "length": (
        {"context_length": 201},
        "sequences of 199 tokens .* up to 200; .*--context-length 202",
    ),
    "seeds": (
        {"enable_deterministic_inference": False},
        "does not read the seeds .*--enable-deterministic-inference",
    ),
    "streams": ({"incremental_streaming_output": False}, "--incremental-streaming-output"),
    "tokenizer": ({"skip_tokenizer_init": True}, "cannot stop at strings"),
    "defaults": ({"preferred_sampling_params": {"top_p": 0.9}}, "--preferred-sampling-params"),
    "bfloat16": ({"rl_on_policy_target": "fsdp"}, "without --rl-on-policy-target"),
    "watermark": ({"enable_watermark": True}, "without --enable-watermark"),
    "quantized": ({"quantization": "fp8"}, "holds the model quantized"),
    "torchao": ({"torchao_config": "int8wo"}, "without --torchao-config"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "model"


@pytest.fixture(scope="module")
def policy(folder):
    return served_policy(folder)


def _problems(folder, policy, wanted=WANTED, fault="", **options):
    with fake_servers(folder, fault, wire=SGLANG, **options) as servers:
        return SglangServer(servers[0].url).problems(wanted, policy.tokenizer)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_refused_by_its_flag(folder, policy, name):
    settings, message = WRONG[name]
    (found,) = _problems(folder, policy, settings=settings)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)


def test_a_right_server_has_no_problems(folder, policy):
    assert _problems(folder, policy) == []
    assert _problems(folder, policy, ADAPTED, lora_rank=4) == []


def test_log_probs_of_before_the_temperature_are_refused_by_example(folder, policy):
    (found,) = _problems(folder, policy, fault="raw log-probs")
    assert "not those that tokens are drawn by" in found
    assert "without SGLANG_RETURN_ORIGINAL_LOGPROB" in found


def test_an_adapter_needs_the_flags_for_it_and_the_first_weights_below(folder, policy):
    for rank in (0, 2):
        (found,) = _problems(folder, policy, ADAPTED, lora_rank=rank)
        assert f"rank {rank} at most, and the policy's is 4" in found
        assert "--enable-lora --max-lora-rank 4 --lora-target-modules all" in found
    with fake_servers(folder, "", wire=SGLANG, lora_rank=4) as servers:
        servers[0].weight_version = "version-3-00ff"
        (found,) = SglangServer(servers[0].url).problems(ADAPTED, policy.tokenizer)
    assert "was given whole weights by another run (version-3-00ff)" in found


def test_another_model_tokenizer_or_server_is_refused(folder, policy):
    for size in (88, 90):
        (found,) = _problems(folder, policy, Wanted("float32", 200, size))
        assert found.startswith("serves another model")
    with fake_servers(folder, "", wire=SGLANG) as servers:
        server = SglangServer(servers[0].url)
        servers[0].tokenizer = byte_tokenizer()
        (found,) = server.problems(WANTED, policy.tokenizer)
        assert found.startswith("has another tokenizer")
        servers[0].paths -= {"/update_weights_from_disk"}
        (found,) = server.problems(WANTED, policy.tokenizer)
        assert found.startswith("cannot take weights (no /update_weights_from_disk)")
    with fake_servers(folder, "") as servers:
        (found,) = SglangServer(servers[0].url).problems(WANTED, policy.tokenizer)
    assert "it is no SGLang server" in found


def test_what_is_sent_leaves_no_setting_to_the_server(folder, policy):
    asked = Asked((5, 6), 7, -3, PLAIN, (2,), ("END",), {85: -100.0})
    body = SglangServer("http://127.0.0.1:1")._body(asked)
    assert body == {
        "input_ids": [5, 6],
        "return_logprob": True,
        "return_prompt_token_ids": True,
        "sampling_params": {
            "max_new_tokens": 7,
            "sampling_seed": -3,
            "temperature": 1.0,
            "top_k": -1,
            "top_p": 1.0,
            "min_p": 0.0,
            "stop_token_ids": [2],
            "stop": ["END"],
            "n": 1,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "min_new_tokens": 0,
            "ignore_eos": False,
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "stream_interval": 8,
            "logit_bias": {"85": -100.0},
        },
    }


def test_what_is_cut_off_is_taken_back_by_its_name_and_what_ended_is_not(tmp_path):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=SGLANG) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        sampled(engine)
        assert servers[0].aborted == []
        servers[0].seconds = 0.02
        sampled(engine, max_tokens=60, interrupted=lambda: servers[0].num_tokens > 120)
        sent = {body["rid"] for body in servers[0].requests}
        for _ in range(500):
            if servers[0].aborted:
                break
            time.sleep(0.02)
        assert servers[0].aborted and set(servers[0].aborted) <= sent


def test_pieces_that_repeat_tokens_and_ends_of_the_servers_own_are_faults(tmp_path):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=SGLANG) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        sampled(engine)
        servers[0].settings["incremental_streaming_output"] = False
        with pytest.raises(EngineFailed, match="wrote 2 tokens and sent 3; start it with --incr"):
            sampled(engine)
        servers[0].settings["incremental_streaming_output"] = True
        engine.policy.stop_ids = frozenset()
        servers[0].model.config.eos_token_id = sampled(engine)[0].completions[0].token_ids[1]
        with pytest.raises(EngineFailed, match="ended a completion at .*, which ends none here"):
            sampled(engine)


def test_scores_of_other_tokens_and_an_update_that_failed_are_faults(folder, policy, monkeypatch):
    server = SglangServer("http://127.0.0.1:1")
    answers = [
        {"meta_info": {"input_token_logprobs": [[None, 5, None], [-1.0, 8, None]]}},
        {"success": False, "message": "no such folder"},
    ]
    monkeypatch.setattr("grpo.rollout.servers.connection.Address.post", lambda *a: answers.pop(0))
    with pytest.raises(ServerFault, match="log-probs of other prompt tokens"):
        server.score([4, 5], [7])
    with pytest.raises(ServerFault, match="did not take new weights: no such folder"):
        server.load(folder, "version-1")


def test_the_key_is_that_of_the_kind_of_server(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "one")
    monkeypatch.setenv("SGLANG_API_KEY", "two")
    assert SglangServer("http://127.0.0.1:1").address.key == "SGLANG_API_KEY"
