"""The command that starts a server has every setting that a run checks, and says when the server is what is wanted."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from grpo import Recipe, RecipeError
from grpo.cli import main
from grpo.run.serving import ServerEnded, Serving, check, rank_of, serve
from tests.support.fake_server import VLLM, fake_servers
from tests.support.fake_sglang import SGLANG
from tests.support.quick_runs import ROOT


def _recipe(*overrides):
    return Recipe.load("quickstart", *overrides)


def _value(words, flag):
    return words[words.index(flag) + 1]


def test_the_command_has_what_the_handshake_wants():
    recipe = _recipe("data.max_prompt_tokens=100", "sample.max_tokens=50", "model.lora.rank=12")
    words = Serving("/env/bin/python", port=8011).command(recipe)
    assert words[:3] == ["/env/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert _value(words, "--dtype") == "float32"
    assert _value(words, "--logprobs-mode") == "processed_logprobs"
    assert _value(words, "--generation-config") == "vllm"
    assert _value(words, "--max-model-len") == "150"
    assert _value(words, "--host") == "127.0.0.1"
    assert _value(words, "--max-lora-rank") == "16", "of the sizes that vLLM knows"
    assert rank_of(recipe) == 12


def test_an_sglang_command_has_what_its_handshake_wants():
    recipe = _recipe("data.max_prompt_tokens=100", "sample.max_tokens=50", "model.lora.rank=12")
    words = Serving("/env/bin/python", engine="sglang", port=8011).command(recipe)
    assert words[:3] == ["/env/bin/python", "-m", "sglang.launch_server"]
    assert _value(words, "--dtype") == "float32" and _value(words, "--port") == "8011"
    assert {"--enable-deterministic-inference", "--incremental-streaming-output"} <= set(words)
    assert _value(words, "--context-length") == "152", "SGLang keeps two tokens free"
    assert _value(words, "--max-lora-rank") == "12"
    assert _value(words, "--lora-target-modules") == "all"
    hub = _recipe("model={name: org/model, revision: abc, trust_remote_code: true}")
    words = Serving("python", engine="sglang").command(hub)
    assert _value(words, "--revision") == "abc" and "--trust-remote-code" in words
    assert "--enable-lora" not in words


def test_an_sglang_server_draws_by_seeds_on_accelerators_only():
    with pytest.raises(RecipeError, match="leave out --cpu, or serve with --engine vllm"):
        check(_recipe(), Serving(sys.executable, engine="sglang", on_cpu=True))
    with pytest.raises(RecipeError, match="has no SGLang; install it"):
        check(_recipe(), Serving(sys.executable, engine="sglang"))


def test_the_recipe_says_what_is_served(capsys):
    served = "sample={engine: sglang, servers: ['http://127.0.0.1:8011']}"
    for more in (["--engine", "sglang"], [served]):
        assert main(["serve", "quickstart", "--dry-run", *more]) == 0
        line = capsys.readouterr().out.strip()
        assert line.startswith("SGLANG_RETURN_ORIGINAL_LOGPROB=0 ")
        assert "sglang.launch_server" in line and "vllm.entrypoints" not in line


def test_a_cpus_server_reads_every_prompt_whole():
    words = Serving("python", on_cpu=True, max_tokens=20000).command(_recipe())
    assert _value(words, "--max-num-batched-tokens") == "20000"
    assert "--enable-lora" not in words and "--max-num-batched-tokens" not in Serving("p").command(
        _recipe()
    )


def test_a_dry_run_prints_the_command_with_its_environment(capsys):
    code = main(["serve", "quickstart", "--dry-run", "--port", "8011", "--vllm-args", "--seed 3"])
    assert code == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 ")
    assert line.endswith("--seed 3") and "--port 8011" in line


def test_a_python_without_vllm_is_the_users_mistake():
    with pytest.raises(RecipeError, match="has no vLLM; install it in an environment of its own"):
        check(_recipe(), Serving(sys.executable))
    with pytest.raises(RecipeError, match="no/python cannot be run"):
        check(_recipe(), Serving("no/python"))


class _Started(Serving):
    """A process in the place of vLLM."""

    def command(self, recipe):
        return [sys.executable, "-c", self.arguments[0]]


def test_a_tied_output_layer_on_a_cpu_is_said_before_it_costs_a_step():
    said = []
    serving = _Started(sys.executable, port=1, on_cpu=True, arguments=("",))
    with pytest.raises(ServerEnded):
        serve(_recipe(), serving, said.append, timeout_seconds=60)
    assert len(said) == 1 and "tied to its embedding" in said[0] and "wrong head" in said[0]
    for recipe, on_cpu in ((_recipe("model.lora.rank=4"), True), (_recipe(), False)):
        serving = _Started(sys.executable, port=1, on_cpu=on_cpu, arguments=("",))
        with pytest.raises(ServerEnded):
            serve(recipe, serving, said.append, timeout_seconds=60)
    assert len(said) == 1, "adapters leave the layer as it is, and other devices replace it"


@pytest.mark.parametrize("wire", [VLLM, SGLANG], ids=lambda wire: wire.engine)
def test_it_waits_for_the_handshake_and_ends_with_its_server(capfd, wire):
    said = []
    with fake_servers(ROOT / "recipes" / "quickstart_base", "", wire=wire) as servers:
        port = int(servers[0].url.rpartition(":")[2])
        sleeping = ("import time; time.sleep(2)",)
        serving = _Started(sys.executable, wire.engine, port=port, arguments=sleeping)
        with pytest.raises(ServerEnded, match="ended with code 0"):
            serve(_recipe("sample.max_tokens=99"), serving, said.append, timeout_seconds=60)
        assert said == [f"ready: sample.engine={wire.engine} 'sample.servers=[{servers[0].url}]'"]
        started = time.monotonic()
        with pytest.raises(RecipeError, match="serve: http.* sequences of 256 tokens at most"):
            serve(_recipe("sample.max_tokens=900"), serving, said.append, timeout_seconds=60)
        assert time.monotonic() - started < 30 and threading.active_count() < 50


def test_a_server_that_ends_before_it_is_well_is_a_fault():
    serving = _Started(sys.executable, port=9, arguments=("raise SystemExit(7)",))
    with pytest.raises(ServerEnded, match="ended with code 7 before it was well"):
        serve(_recipe(), serving, print, timeout_seconds=60)


def test_an_engine_that_dies_when_it_is_asked_is_a_fault_of_the_server():
    with fake_servers(ROOT / "recipes" / "quickstart_base", "dead engine") as servers:
        port = int(servers[0].url.rpartition(":")[2])
        serving = _Started(sys.executable, port=port, arguments=("import time; time.sleep(60)",))
        with pytest.raises(
            ServerEnded, match="that it is well, and then: http.* with 500: EngineC"
        ):
            serve(_recipe(), serving, print, timeout_seconds=60)


def test_the_command_says_in_one_line_that_its_server_ended(tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || exit 7\n')
    python.chmod(0o755)
    code = main(["serve", "quickstart", "--python", str(python), "--port", "9"])
    said = capsys.readouterr().err
    assert code == 1 and "Traceback" not in said
    assert said.strip().endswith("stopped: the server ended with code 7 before it was well")
