"""Completions from servers are those of the embedded engine in every respect but where the tokens were computed."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from grpo.rollout.engine import EngineFailed
from tests.support.fake_server import VLLM, fake_servers
from tests.support.fake_sglang import SGLANG
from tests.support.served import (
    PROMPTS,
    engine_of,
    fleet_of,
    moved,
    sampled,
    served_policy,
    tokens_of,
)
from tests.support.tiny import plain_logits


@pytest.fixture(params=[VLLM, SGLANG], ids=lambda wire: wire.engine)
def wire(request):
    return request.param


def _assert_logps_are_the_policys(policy, groups):
    for group in groups.values():
        for completion in group.completions:
            logits = plain_logits(policy, group.prompt.token_ids, completion.token_ids)
            ids = torch.tensor(completion.token_ids)
            expected = logits.log_softmax(-1)[torch.arange(len(ids)), ids]
            assert completion.sampled_logps.sub(expected).abs().max() < 1e-5


@pytest.mark.parametrize("lora", [False, True])
def test_log_probs_are_the_policys_before_and_after_a_push(tmp_path, lora, wire):
    policy = served_policy(tmp_path / "model", lora=lora)
    with fake_servers(tmp_path / "model", "", wire=wire, lora_rank=8 * lora) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        first = sampled(engine)
        _assert_logps_are_the_policys(policy, first)
        moved(policy)
        second = sampled(engine)
        _assert_logps_are_the_policys(policy, second)
        assert len(servers[0].loaded) == 2
        assert second[0].completions[0].versions == (
            (1, 0, len(second[0].completions[0].token_ids)),
        )
        if lora:
            assert len(servers[0].adapters) == 1, "the earlier version is unloaded"


def test_a_completion_is_one_request_with_a_seed_of_its_own_and_repeats(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", "", wire=wire) as servers:
        one = engine_of(policy, fleet_of(policy, servers[:1], tmp_path))
        first = sampled(one)
        assert tokens_of(first) == tokens_of(sampled(one))
        assert (
            len({body["seed"] for body in servers[0].requests}) == 9 == len(servers[0].requests) / 2
        )
        (tmp_path / "other").mkdir()
        two = engine_of(policy, fleet_of(policy, servers, tmp_path / "other"))
        assert tokens_of(first) == tokens_of(sampled(two)), "whichever server writes"
        assert servers[1].requests
        everything = [c for g in first.values() for c in g.completions]
        assert two.stats.tokens == sum(len(c.token_ids) for c in everything)


def test_ids_stops_and_limits_end_completions_as_in_the_engine(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    policy.stop_ids |= {30, 31, 32}
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path), stop=["q", "z"])
        completions = [
            c for g in sampled(engine, max_tokens=12, group_size=6).values() for c in g.completions
        ]
        finishes = {c.finish for c in completions}
        assert finishes == {"stop", "length"}
        for c in completions:
            if c.finish == "length":
                assert len(c.token_ids) == 12 and not {"q", "z"} & set(c.text)
            elif isinstance(c.stop, int):
                assert c.token_ids[-1] == c.stop and c.stop in policy.stop_ids
            else:
                assert c.text.endswith(c.stop) and c.text.count(c.stop) == 1
        assert len({type(c.stop) for c in completions if c.finish == "stop"}) == 2
        assert all(body["temperature"] == 1.0 for body in servers[0].requests)
        assert all(body["ignore_eos"] == (wire is VLLM) for body in servers[0].requests), (
            "SGLang ignores the ids that it is told with those of the model"
        )


def test_ids_that_no_tokenizer_knows_are_never_drawn(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        groups = sampled(engine, max_tokens=40)
        assert (
            max(max(c.token_ids) for g in groups.values() for c in g.completions)
            < policy.vocab_size
        )
        assert policy.vocab_size < policy.base.config.vocab_size


def test_an_interruption_keeps_what_was_written_and_the_server_stops_working(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        servers[0].seconds = 0.02
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        groups = sampled(engine, max_tokens=60, interrupted=lambda: servers[0].num_tokens > 30)
        completions = [c for g in groups.values() for c in g.completions]
        assert len(completions) == 9 and "cancelled" in {c.finish for c in completions}
        _assert_logps_are_the_policys(policy, {0: groups[0]})
        assert 20 < engine.stats.tokens < 200
        for _ in range(200):
            number = servers[0].num_broken_off
            if number:
                break
            time.sleep(0.02)
        assert number, "the server noticed"


def test_groups_that_are_left_when_there_are_enough_go_on_in_the_next_call(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        servers[0].seconds = 0.01
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        limit = lambda prompt, i: 4 if prompt.id == "p0" else 40  # noqa: E731
        groups = sampled(engine, max_tokens=limit, enough=1)
        assert list(groups) == [0] and len(engine.partial_groups) == 2
        before = engine.partial_groups
        moved(policy)
        after = dict(
            engine.sample(
                [],
                group_size=3,
                max_tokens=40,
                sampling=_plain(),
                seed=("t",),
                partial_groups=before,
            )
        )
        assert len(after) == 2 and not engine.partial_groups
        for index, group in after.items():
            for old, new in zip(before[index].completions, group.completions):
                assert new.token_ids[: len(old.token_ids)] == old.token_ids
                assert new.finish in ("stop", "length")
                if len(new.token_ids) > len(old.token_ids) > 0:
                    assert [span[0] for span in new.versions] == [0, 1]
        begun = {body["seed"] for body in servers[0].requests if body["prompt"] in _prompts()}
        continued = [
            body["seed"] for body in servers[0].requests if body["prompt"] not in _prompts()
        ]
        assert continued and len(begun | set(continued)) == len(begun) + len(continued)


def _plain():
    from tests.support.served import PLAIN  # noqa: PLC0415

    return PLAIN


def _prompts():
    return [list(prompt.token_ids) for prompt in PROMPTS]


def test_a_server_that_dies_in_the_middle_is_survived_and_nothing_counts_twice(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", "", wire=wire) as servers:
        fleet = fleet_of(policy, servers, tmp_path)
        engine = engine_of(policy, fleet)
        whole = sampled(engine)
        servers[1].dies_after = servers[1].num_tokens + 20
        cut = sampled(engine)
        assert tokens_of(cut) == tokens_of(whole), "the same seeds, so the same completions"
        assert engine.stats.tokens == sum(
            len(c.token_ids) for g in cut.values() for c in g.completions
        )
        assert engine.stats.replayed > 0
        assert [note for note in engine.stats.notes if "is lost, 1 server left" in note]
        moved(policy)
        sampled(engine)
        servers[1].start_again()
        third = sampled(engine)
        assert any("is back" in note for note in engine.stats.notes)
        assert servers[1].weight_version == servers[0].weight_version, (
            "it was given the weights again"
        )
        _assert_logps_are_the_policys(policy, third)


def test_all_servers_dying_is_said_at_once(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", "", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        sampled(engine)
        for server in servers:
            server.dies_after = server.num_tokens + 10
        started = time.monotonic()
        with pytest.raises(EngineFailed, match="all of 2 servers are lost .*--resume"):
            sampled(engine)
        assert time.monotonic() - started < 15


def test_a_server_that_hangs_is_given_up_after_its_silence(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", "", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path), silence=0.5)
        whole = sampled(engine)
        servers[0].hangs_after = servers[0].num_tokens + 10
        assert tokens_of(sampled(engine)) == tokens_of(whole)
        assert any("has sent nothing for" in note for note in engine.stats.notes)


def test_a_server_started_anew_between_two_steps_gets_the_weights_again(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        moved(policy)
        before = sampled(engine)
        servers[0].stop()
        servers[0].start_again()
        assert tokens_of(sampled(engine)) == tokens_of(before)


def test_a_failure_is_tried_again_once_and_a_refusal_never(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        whole = sampled(engine)
        servers[0].fails = 2
        assert tokens_of(sampled(engine)) == tokens_of(whole)
        servers[0].fails = 1000
        with pytest.raises(
            EngineFailed, match="failed 3 times, the last time since .* (500: EngineCore|broke off)"
        ):
            sampled(engine)
        servers[0].fails = 0
        server = engine.open_decoder(engine.stats).fleet.members[0].server
        setattr(server, "model" if wire is VLLM else "adapter", "gone")
        refusal = "(refuses /v1/completions with 404: The model `gone`|has never been loaded: gone)"
        with pytest.raises(EngineFailed, match=refusal):
            sampled(engine)


def test_a_prefix_cache_that_does_not_empty_stops_the_push(tmp_path, monkeypatch, wire):
    monkeypatch.setattr("grpo.rollout.servers.vllm.CACHE_SECONDS", 0.2)
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "full cache", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        with pytest.raises(
            EngineFailed,
            match="keeps keys of earlier weights|refuses /update_weights_from_disk .*flush failed",
        ):
            sampled(engine)


def test_no_thread_is_left_behind(tmp_path, wire):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        engine = engine_of(policy, fleet_of(policy, servers, tmp_path))
        groups = engine.sample(PROMPTS, group_size=3, max_tokens=30, sampling=_plain(), seed=("t",))
        next(groups)
        groups.close()
        for _ in range(100):
            left = [t for t in threading.enumerate() if t.name.startswith("completion at")]
            if not left:
                break
            time.sleep(0.02)
        assert not left
