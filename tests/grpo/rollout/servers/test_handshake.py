"""A server that cannot sample the policy is refused before anything is sampled, in a sentence with the flag it needs."""

from __future__ import annotations

import pytest

from grpo.rollout.servers.server import Wanted
from grpo.rollout.servers.vllm import VllmServer
from tests.support.fake_server import fake_servers
from tests.support.served import served_policy
from tests.support.tiny import byte_tokenizer

WANTED = Wanted(dtype="float32", max_tokens=200, vocab_size=89)
WRONG = {
    "dtype": ({"dtype": "torch.bfloat16"}, "computes in bfloat16, .*--dtype float32"),
    "length": (
        {"max_model_len": 128},
        "sequences of 128 tokens .* up to 200; .*--max-model-len 200",
    ),
    "logprobs": ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
    "defaults": ({"generation_config": "auto"}, "--generation-config vllm"),
    "quantized": ({"quantization": "fp8"}, "holds the model quantized"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "model"


@pytest.fixture(scope="module")
def policy(folder):
    return served_policy(folder)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_refused_by_its_flag(folder, policy, name):
    settings, message = WRONG[name]
    with fake_servers(folder, "", settings=settings) as servers:
        (found,) = VllmServer(servers[0].url).problems(WANTED, policy.tokenizer)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)


def test_a_right_server_has_no_problems(folder, policy):
    with fake_servers(folder, "") as servers:
        assert VllmServer(servers[0].url + "/").problems(WANTED, policy.tokenizer) == []


def test_endpoints_that_are_missing_are_named_with_what_opens_them(folder, policy):
    with fake_servers(folder, "") as servers:
        server = VllmServer(servers[0].url)
        servers[0].paths -= {"/collective_rpc", "/server_info"}
        found = server.problems(WANTED, policy.tokenizer)
        assert len(found) == 2 and all("VLLM_SERVER_DEV_MODE=1" in one for one in found)
        servers[0].paths -= {"/v1/load_lora_adapter"}
        adapted = Wanted("float32", 200, 89, rank=4)
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in server.problems(adapted, policy.tokenizer)[0]
        servers[0].paths -= {"/v1/completions"}
        assert "it is no vLLM server" in server.problems(WANTED, policy.tokenizer)[0]


def test_an_adapter_of_a_higher_rank_than_the_server_takes_is_refused(folder, policy):
    adapted = Wanted("float32", 200, 89, rank=16)
    with fake_servers(folder, "", lora_rank=8) as servers:
        (found,) = VllmServer(servers[0].url).problems(adapted, policy.tokenizer)
    assert "rank 8 at most, and the policy's is 16" in found and "--max-lora-rank 16" in found


def test_an_adapter_is_not_put_on_whole_weights_of_another_run(folder, policy):
    adapted = Wanted("float32", 200, 89, rank=4)
    with fake_servers(folder, "", lora_rank=8) as servers:
        server = VllmServer(servers[0].url)
        assert server.problems(adapted, policy.tokenizer) == []
        servers[0].weight_version = "version-3-00ff"
        (found,) = server.problems(adapted, policy.tokenizer)
        assert "was given whole weights by another run (version-3-00ff)" in found
        assert server.problems(WANTED, policy.tokenizer) == [], "whole weights are replaced"


def test_another_vocabulary_is_another_model(folder, policy):
    with fake_servers(folder, "") as servers:
        for size in (88, 90):
            (found,) = VllmServer(servers[0].url).problems(
                Wanted("float32", 200, size), policy.tokenizer
            )
            assert found.startswith("serves another model")


def test_another_tokenizer_is_refused(folder, policy):
    with fake_servers(folder, "") as servers:
        servers[0].tokenizer = byte_tokenizer()
        (found,) = VllmServer(servers[0].url).problems(WANTED, policy.tokenizer)
    assert found.startswith("has another tokenizer")
