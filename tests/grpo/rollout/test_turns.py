"""Completions of several turns: paused, answered and continued by both decoders, in any company and order."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from expert_rows import mixture
from scripted_turns import ScriptedTurns, random_answer
from tiny import plain_logits, plain_model, random_prompts, tiny_policy, wide_heads

from grpo.kernels.sampling.spec import Sampling, completion_seed
from grpo.model.packing import pack, stack_logps
from grpo.rollout import contiguous_decoder
from grpo.rollout.contiguous_cache import ContiguousCache
from grpo.rollout.engine import Engine
from grpo.rollout.sequence import PartialGroup
from grpo.rollout.width_bucket import WidthBucket
from grpo.types import FINISHES, Completion, Group, Row

SIZES = [9, 40, 1, 150, 33]
PLAIN = Sampling()
STOPS = frozenset(range(2, 14))
OPTIONS = {"group_size": 2, "max_tokens": 60, "sampling": PLAIN, "seed": (0,)}
TOKEN_BYTES = 2 * 2 * 2 * 16 * 4  # layers, keys and values, kv heads, width, fp32


def talker(family: str = "llama", seed: int = 0, **options):
    """A policy that ends a turn every seventh token or so."""
    policy = tiny_policy(family, seed, peak=1.5, **options)
    policy.stop_ids = STOPS
    return policy


def wide(seed: int = 0):
    """One whose keys the native kernel reads."""
    return talker("llama", seed, max_position_embeddings=1024, **wide_heads("llama"))


def sample(policy, prompts, turns, *, paged=False, max_rows=256, budget=None, stop=(), **options):
    engine = Engine(policy, paged=paged, max_rows=max_rows, kv_memory_gib=budget, stop=stop)
    groups = dict(engine.sample(prompts, turns=turns, **{**OPTIONS, **options}))
    return by_name(groups.values()), engine


def by_name(groups) -> dict[str, tuple[Completion, ...]]:
    return {group.prompt.id: group.completions for group in groups}


def assert_same(some, others, tolerance: float = 0.0) -> None:
    assert some.keys() == others.keys()
    for name, completions in some.items():
        for one, other in zip(completions, others[name]):
            for key in ("token_ids", "given", "finish", "stop", "text", "turns"):
                assert getattr(one, key) == getattr(other, key), (name, key)
            assert (one.sampled_logps - other.sampled_logps).abs().max() <= tolerance


@torch.no_grad()
def furthest(policy, prompts, sampled, temperature: float = 1.0) -> float:
    """The largest distance of the log-probs from those of one plain forward over all tokens."""
    plain = plain_model(policy)
    worst = 0.0
    for prompt in prompts:
        for c in sampled[prompt.id]:
            logits = plain_logits(policy, prompt.token_ids, c.token_ids, plain) / temperature
            token_T1 = torch.tensor(c.token_ids)[:, None]
            logps = logits.log_softmax(-1).gather(-1, token_T1)[written(c), 0]
            under_temperature = c.sampled_logps + (0.0 if c.log_kept is None else c.log_kept)
            worst = max(worst, float((logps - under_temperature).abs().max()))
    return worst


def written(c: Completion) -> list[int]:
    """The indices of the tokens that the policy wrote."""
    given = {index for start, end in c.given for index in range(start, end)}
    return [index for index in range(len(c.token_ids)) if index not in given]


# ------------------------------------------------------------------------------------ tokens and log-probs


@pytest.mark.parametrize("paged", [False, True])
def test_token_ids_are_what_was_sampled_and_given_bit_for_bit(paged):
    prompts = random_prompts(0, SIZES)
    turns = ScriptedTurns(opens=True)
    sampled, engine = sample(talker(), prompts, turns, paged=paged)
    assert engine.stats.given == sum(len(t) for all_ in turns.observed.values() for t in all_)
    for name, completions in sampled.items():
        for index, c in enumerate(completions):
            assert len(c.sampled_logps) == c.num_tokens == len(written(c))
            observed = turns.observed[name, index]
            assert [list(c.token_ids[start:end]) for start, end in c.given] == observed
            for before in turns.written[name, index]:
                assert list(c.token_ids[: len(before)]) == before
            assert len(c.turns) == len(observed) == 3 and c.finish == "stop"
            assert c.given[0][0] == 0 and all(c.token_ids[s - 1] in STOPS for s, _ in c.given[1:])


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize(
    "family, lora", [("llama", False), ("qwen3", True), ("gemma3_text", False), ("gemma2", True)]
)
@pytest.mark.thin(4)
def test_over_twenty_turns_log_probs_are_those_of_one_forward(family, lora, paged):
    policy, prompts = talker(family, lora=lora), random_prompts(1, [30, 5])
    turns = ScriptedTurns(random_answer(1, 16), max_calls=20, turn_length=9)
    sampled, _ = sample(policy, prompts, turns, paged=paged, group_size=1, max_tokens=300)
    assert all(len(c.turns) == 20 for (c,) in sampled.values())
    assert furthest(policy, prompts, sampled) <= 1e-5


@pytest.mark.parametrize("paged", [False, True])
def test_filters_and_temperature_hold_in_every_turn(paged):
    policy, prompts = talker(), random_prompts(2, [9, 70])
    sampled, _ = sample(
        policy, prompts, ScriptedTurns(), paged=paged, sampling=Sampling(0.8, 20, 0.9, 0.02)
    )
    for completions in sampled.values():
        assert all(len(c.log_kept) == c.num_tokens and c.given for c in completions)
    assert furthest(policy, prompts, sampled, 0.8) <= 2e-5


def rows_of(prompts, sampled) -> list[Row]:
    rows = []
    for group, prompt in enumerate(prompts):
        for c in sampled[prompt.id]:
            row = Row(
                index=len(rows),
                group=group,
                prompt_ids=prompt.token_ids,
                token_ids=c.token_ids,
                sampled_logps=c.sampled_logps,
                advantage=1.0,
                mask=True,
                forwarded=True,
                outcome="trained",
                given=c.given,
                routing=c.routing,
            )
            rows.append(row)
    return rows


@torch.no_grad()
@pytest.mark.parametrize("paged", [False, True])
def test_experts_of_written_and_given_tokens_are_recorded_and_replayed(paged):
    policy, prompts = mixture("qwen3_moe"), random_prompts(0, [5, 40])
    policy.stop_ids = STOPS
    turns = ScriptedTurns(opens=True)
    sampled, _ = sample(policy, prompts, turns, paged=paged)
    rows = rows_of(prompts, sampled)
    assert all(len(row.given) == 3 for row in rows)
    assert [len(row.routing) for row in rows] == [len(row.token_ids) - 1 for row in rows]

    def apart(rows: list[Row]) -> float:
        return float((policy.token_stats(pack(rows), 1.0).logp_T - stack_logps(rows)).abs().max())

    assert apart(rows) < 1e-5
    assert apart([replace(row, routing=row.routing.roll(1, 0)) for row in rows]) > 1e-2


# ----------------------------------------------------------------------- what a completion depends on


def shuffled(seed: int):
    """Delays by which answers come in another order than they were asked for."""
    drawn = random.Random(seed)
    return lambda sequence: drawn.choice([0, 0, 3, 40])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("budget", [None, 1, 700, 1500])
@pytest.mark.thin(4)
def test_neither_order_nor_company_nor_memory_changes_a_bit(budget):
    policy, prompts = wide(), random_prompts(0, SIZES)
    expected, free = sample(policy, prompts, ScriptedTurns(opens=True))
    assert free.stats.replayed == 0
    turns = ScriptedTurns(opens=True, delay=shuffled(1))
    budget_gib = None if budget is None else budget * TOKEN_BYTES / 2**30
    again, engine = sample(policy, prompts[::-1], turns, max_rows=8, budget=budget_gib)
    assert_same(again, expected)
    assert engine.stats.tokens == free.stats.tokens and engine.stats.given == free.stats.given
    assert (engine.stats.replayed > 0) == (budget in (1, 700))
    if budget == 1500:
        assert engine.stats.kv_bytes < free.stats.kv_bytes
    alone, _ = sample(policy, prompts[3:4], ScriptedTurns(opens=True), group_size=1)
    assert_same(alone, {"p3": expected["p3"][:1]})


@pytest.mark.parametrize("pages", [None, 10, 24])
@pytest.mark.thin(2)
def test_the_paged_decoder_writes_the_same_whatever_it_could_keep(pages):
    policy, prompts = talker(), random_prompts(0, SIZES)
    expected, _ = sample(policy, prompts, ScriptedTurns(opens=True))
    turns = ScriptedTurns(opens=True, delay=shuffled(1), most_given=150)
    budget = None if pages is None else pages * 64 * TOKEN_BYTES / 2 / 2**30
    again, engine = sample(policy, prompts, turns, paged=True, max_rows=8, budget=budget)
    assert_same(again, expected, tolerance=1e-5)
    assert (engine.stats.replayed > 0) == (pages == 10)


def test_short_observations_are_read_a_token_a_step_and_long_ones_at_once(monkeypatch):
    policy, prompts = talker(), random_prompts(0, SIZES)
    answer = random_answer(1, 6)
    expected, mixed = sample(policy, prompts, ScriptedTurns(answer))
    counts = []
    for least in (1, 100):
        monkeypatch.setattr(contiguous_decoder, "READ_AT_ONCE", least)
        again, engine = sample(policy, prompts, ScriptedTurns(answer))
        assert_same(again, expected, tolerance=1e-5)
        counts.append((engine.stats.rows_alive, engine.stats.prefill_tokens))
    (fewest, most_read), (most, fewest_read) = counts
    assert fewest == mixed.stats.tokens < mixed.stats.rows_alive < most
    assert most_read - fewest_read == most - fewest == mixed.stats.given
    assert mixed.stats.replayed == 0


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("failing", [(9,), (20, 21), (30,)], ids=str)
@pytest.mark.thin(3)
def test_memory_that_runs_out_between_turns_loses_nothing(paged, failing):
    policy, prompts = talker(), random_prompts(0, SIZES)
    turns = ScriptedTurns(delay=shuffled(2))
    expected, _ = sample(policy, prompts, ScriptedTurns())
    calls = iter(range(100_000))

    def refuse(module, args):
        if next(calls) in failing:
            raise MemoryError("12 MiB are left of this process's limit of memory")

    hook = policy.base.model.layers[1].mlp.down_proj.register_forward_pre_hook(refuse)
    again, engine = sample(policy, prompts, turns, paged=paged, max_rows=64)
    hook.remove()
    assert engine.stats.notes
    assert_same(again, expected, tolerance=1e-5 if paged else 0.0)


def test_where_memory_does_not_do_for_a_copy_of_the_keys_they_are_made_anew(monkeypatch):
    policy, prompts = talker(), random_prompts(0, SIZES)
    expected, _ = sample(policy, prompts, ScriptedTurns())
    calls = iter(range(1000))
    pause = ContiguousCache.pause

    def sparing(cache, row):
        if next(calls) % 3 == 0:
            raise MemoryError("12 MiB are left of this process's limit of memory")
        return pause(cache, row)

    monkeypatch.setattr(ContiguousCache, "pause", sparing)
    again, engine = sample(policy, prompts, ScriptedTurns())
    assert_same(again, expected)
    assert engine.stats.replayed


# ------------------------------------------------------------------------------------ how turns end


@pytest.mark.parametrize("paged", [False, True])
def test_a_call_in_the_middle_of_a_turn_is_answered_and_never_a_finish(paged):
    policy, prompts = talker(), random_prompts(0, SIZES)
    policy.stop_ids = frozenset()
    turns = ScriptedTurns(call_tokens=frozenset({20, 30, 40}), max_calls=2)
    sampled, _ = sample(policy, prompts, turns, paged=paged, max_tokens=90)
    completions = [c for group in sampled.values() for c in group]
    assert {c.finish for c in completions} <= set(FINISHES)
    for c in completions:
        ends = [c.token_ids[start - 1] for start, _ in c.given]
        assert set(ends) <= turns.call_tokens and len(ends) == len(c.turns)
        if c.finish == "stop":  # by a call beyond the budget
            assert len(ends) == 2 and c.token_ids[-1] in turns.call_tokens and c.stop == "<call>"
    assert {"stop"} <= {c.finish for c in completions} and turns.num_asked > 5


def test_stop_strings_are_looked_for_in_the_turn_alone_and_text_has_no_observations():
    policy, prompts = talker(), random_prompts(0, SIZES)
    decode = policy.tokenizer.decode
    stop_token = policy.tokenizer.convert_tokens_to_ids("ak")
    turns = ScriptedTurns(lambda sequence: [stop_token] * 9, max_calls=2)
    sampled, _ = sample(policy, prompts, turns, stop=["ak"])
    stops = set()
    for completions in sampled.values():
        for c in completions:
            assert len(c.given) == 2 and [end - start for start, end in c.given] == [9, 9]
            bounds = [0, *(place for span in c.given for place in span), len(c.token_ids)]
            texts = []
            for start, end in zip(bounds[::2], bounds[1::2]):
                ids = list(c.token_ids[start:end])
                texts.append(decode(ids[:-1] if ids[-1] in STOPS else ids))
            last = texts[-1]
            texts[-1] = last[: last.find("ak") + 2] if c.stop == "ak" else last
            assert c.text == "\n".join(texts)
            stops.add(c.stop)
    assert "ak" in stops


def test_a_text_is_cut_at_the_call_that_ended_it_not_at_its_string_before():
    policy, (prompt,) = talker(), random_prompts(0, [9])
    policy.stop_ids = frozenset()

    class Fence(ScriptedTurns):
        def ends_call(self, sequence):
            written = policy.tokenizer.decode(sequence.tokens[sequence.turn_start :])
            return "b" if written.count("b") >= 3 else ""

    sampled, _ = sample(policy, [prompt], Fence(max_calls=0), group_size=4)
    ended = [c for c in sampled[prompt.id] if c.finish == "stop"]
    assert ended and all(c.text.count("b") == 3 and c.text.endswith("b") for c in ended)


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize(
    "turn_length, options, finish, written, tokens, turns, given",
    [
        (6, {"max_tokens": 25}, "length", 25, 61, 4, 4),
        (6, {"max_tokens": 12}, "length", 12, 21, 2, 1),  # the last call is answered, and not read
        (6, {"max_tokens": 500}, "context", 42, 96, 7, 6),
        (7, {"max_tokens": 500}, "context", 46, 100, 6, 6),
        (6, {"max_tokens": 50, "most_given": 30}, "context", 35, 80, 5, 5),
    ],
)
@pytest.mark.thin(6)
def test_written_tokens_fill_the_limit_and_all_tokens_the_context(
    turn_length, options, finish, written, tokens, turns, given, paged
):
    policy, prompts = talker(max_position_embeddings=120), random_prompts(0, [20])
    policy.stop_ids = frozenset()
    script = ScriptedTurns(lambda sequence: [5] * 9, max_calls=20, turn_length=turn_length)
    script.most_given = options.get("most_given", script.most_given)
    limit = options["max_tokens"]
    sampled, _ = sample(policy, prompts, script, paged=paged, group_size=1, max_tokens=limit)
    (c,) = sampled["p0"]
    assert (c.finish, c.num_tokens, len(c.token_ids)) == (finish, written, tokens)
    assert (len(c.turns), len(c.given)) == (turns, given)


@pytest.mark.parametrize("paged", [False, True])
def test_an_environment_that_is_done_ends_a_completion_and_nothing_stands_behind_its_turn(paged):
    policy, prompts = talker(), random_prompts(0, SIZES)
    turns = ScriptedTurns(done=lambda sequence: len(sequence.turns) == 1)
    sampled, engine = sample(policy, prompts, turns, paged=paged)
    for completions in sampled.values():
        for c in completions:
            assert (c.finish, len(c.turns), len(c.given)) == ("stop", 2, 1)
            assert c.token_ids[-1] == c.stop and c.turns[-1].observed is None
    assert engine.stats.ended == len(SIZES) * 2


@pytest.mark.parametrize("paged", [False, True])
def test_all_may_end_before_the_first_token(paged):
    policy, prompts = talker(), random_prompts(0, SIZES)
    turns = ScriptedTurns(opens=True, done=lambda sequence: True)
    sampled, engine = sample(policy, prompts, turns, paged=paged)
    assert all(not c.token_ids and len(c.turns) == 1 for group in sampled.values() for c in group)
    assert engine.stats.steps == 0


def test_an_empty_observation_parts_two_turns():
    policy, (prompt,) = talker(), random_prompts(0, [9])
    (c,) = sample(policy, [prompt], ScriptedTurns(lambda sequence: []), group_size=1)[0]["p0"]
    assert len(c.turns) == 3 and c.text.count("\n") == 3 and c.num_tokens == len(c.token_ids)


def test_where_generate_samples_turns_are_refused_before_work():
    policy, prompts = talker(), random_prompts(0, SIZES)
    policy.fall_back_because("its attention is its own")
    with pytest.raises(ValueError, match="environment: not with this model.*attention is its own"):
        sample(policy, prompts, ScriptedTurns())


# -------------------------------------------------------------------------- waiting, cancelled, resumed


@pytest.mark.parametrize("paged", [False, True])
def test_64_that_wait_for_slow_answers_stop_nobody(paged):
    policy, prompts = talker(), random_prompts(0, [9] * 40)
    alone, few = sample(policy, prompts[:8], ScriptedTurns(max_calls=1), paged=paged)
    turns = ScriptedTurns(delay=lambda one: 10**6 if one.group_index >= 8 else 0, max_calls=1)
    engine, groups, waits, steps = Engine(policy, paged=paged), {}, {}, {}
    for index, group in engine.sample(prompts, turns=turns, **OPTIONS):
        groups[index] = group
        waits[index] = turns.waits
        steps[index] = engine.stats.steps
    fast = by_name(groups[index] for index in range(8))
    assert_same(fast, alone, tolerance=1e-5 if paged else 0.0)
    assert turns.most_waiting >= 64 and len(groups) == 40 and turns.waits == 1
    assert not any(waits[index] for index in range(8))
    assert max(steps[index] for index in range(8)) == few.stats.steps
    assert engine.stats.rows_paused > 64 and engine.stats.replayed == 0


def test_little_memory_does_not_let_those_that_wait_stop_the_others():
    """40 whose keys would fill the budget five times wait to the end; the others decode meanwhile."""
    policy, prompts = wide(), random_prompts(0, [9] * 26)

    def is_slow(sequence) -> int:
        return 10**6 if sequence.group_index < 20 else 0

    turns = ScriptedTurns(delay=is_slow, max_calls=1)
    budget = 8 * 64 * TOKEN_BYTES / 2**30
    sampled, engine = sample(policy, prompts, turns, budget=budget)
    expected, _ = sample(policy, prompts, ScriptedTurns(max_calls=1))
    assert_same(sampled, expected)
    assert turns.waits == 1 and turns.most_waiting >= 40 and engine.stats.replayed > 0


@pytest.mark.parametrize("paged", [False, True])
def test_what_waits_is_cancelled_with_its_group_and_told(paged):
    policy, prompts = talker(), random_prompts(0, [9] * 4)
    engine = Engine(policy, paged=paged)
    turns = ScriptedTurns(delay=lambda one: 10**6 if one.group_index == 3 else 0)
    finished = {}
    for index, group in engine.sample(prompts, turns=turns, **OPTIONS):
        engine.cancel(3)
        finished[index] = {c.finish for c in group.completions}
    assert finished[3] == {"cancelled"} and finished.keys() == {0, 1, 2, 3}
    assert all(finishes == {"stop"} for index, finishes in finished.items() if index < 3)
    assert {sequence.group_index for sequence in turns.cancelled} == {3} and not turns.waiting


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.thin(3)
def test_partial_groups_go_on_with_the_same_tokens_through_a_checkpoint(paged, routed):
    policy = mixture("mixtral") if routed else talker()
    policy.stop_ids = STOPS
    prompts = random_prompts(0, SIZES)
    expected, _ = sample(policy, prompts, ScriptedTurns(opens=True))
    engine = Engine(policy, paged=paged, max_rows=8)
    sampled, partial, waiting, was_paused, steps = {}, [], prompts, 0, 0
    while waiting or partial:
        turns = ScriptedTurns(opens=True, delay=shuffled(steps))
        stopped = iter([False] * 6)
        groups = engine.sample(
            waiting,
            partial_groups=partial,
            turns=turns,
            interrupted=lambda stopped=stopped: next(stopped, True),
            **OPTIONS,
        )
        delivered = [group for _, group in sorted(groups, key=lambda item: item[0])]
        cut = [g for g in delivered if any(c.finish == "cancelled" for c in g.completions)]
        sampled |= by_name(group for group in delivered if group not in cut)
        was_paused += sum(
            c.stop is not None for g in cut for c in g.completions if c.finish == "cancelled"
        )
        stored = json.loads(json.dumps([as_partial(group).to_mapping() for group in cut]))
        partial = [
            PartialGroup.from_mapping(values, {p.id: p for p in prompts}) for values in stored
        ]
        waiting, steps = [], steps + 1
        assert steps < 60
    assert was_paused > 0
    assert_same(sampled, expected, tolerance=1e-5)
    if routed:
        rows = rows_of(prompts, sampled)
        assert [len(row.routing) for row in rows] == [len(row.token_ids) - 1 for row in rows]


def as_partial(group: Group) -> PartialGroup:
    seeds = tuple(completion_seed(0, group.prompt.id, i) for i in range(len(group.completions)))
    return PartialGroup(group.prompt, seeds, group.completions)


def test_enough_groups_leave_those_that_wait_for_a_later_call():
    policy, prompts = talker(), random_prompts(0, [9] * 6)
    expected, _ = sample(policy, prompts, ScriptedTurns())
    engine = Engine(policy)
    turns = ScriptedTurns(delay=lambda one: 10**6 if one.group_index > 2 else 0)
    first = by_name(g for _, g in engine.sample(prompts, turns=turns, enough=3, **OPTIONS))
    partial = engine.partial_groups
    assert [len(c.turns) for group in partial for c in group.completions] == [0] * 6
    assert all(c.stop in STOPS for group in partial for c in group.completions)
    with pytest.raises(ValueError, match="6 completions of an earlier step wait"):
        list(engine.sample([], partial_groups=partial, **OPTIONS))
    rest = engine.sample([], partial_groups=partial, turns=ScriptedTurns(), **OPTIONS)
    assert_same(first | by_name(g for _, g in rest), expected, tolerance=1e-5)


def test_partial_groups_of_earlier_versions_have_no_turns():
    policy, prompts = talker(), random_prompts(0, [9])
    stops = iter([False] * 3)
    sampled, _ = sample(policy, prompts, None, interrupted=lambda: next(stops, True))
    values = PartialGroup(prompts[0], (1, 2), sampled["p0"]).to_mapping()
    for completion in values["completions"]:
        del completion["given"], completion["turns"]
    read = PartialGroup.from_mapping(values, {"p0": prompts[0]})
    assert [(c.given, c.turns) for c in read.completions] == [((), ())] * 2


# ------------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize(
    "paged, turn_counts, written, given",
    [(False, (1, 128), 129, 512), (False, (8, 32), 129, 512), (True, (1, 4), 33, 64)],
)
@pytest.mark.thin(2)
def test_many_turns_compute_as_many_tokens_as_one_of_equal_length(
    paged, turn_counts, written, given
):
    policy, prompts = talker(max_position_embeddings=2048), random_prompts(0, [20])
    policy.stop_ids = frozenset()
    read = []
    for number in turn_counts:
        turns = ScriptedTurns(
            lambda sequence, number=number: [5] * (given // number),
            max_calls=number,
            turn_length=(written - 1) // number,
        )
        options = {"paged": paged, "group_size": 1, "max_tokens": written}
        sampled, engine = sample(policy, prompts, turns, **options)
        (c,) = sampled["p0"]
        assert (len(c.turns), len(c.token_ids), c.num_tokens) == (number, given + written, written)
        assert engine.stats.replayed == 0 and engine.stats.answered == number
        read.append(engine.stats.prefill_tokens)
        if not paged:
            assert engine.stats.steps == engine.stats.rows_alive == written
    assert set(read) == {19 + given}


@pytest.mark.parametrize("paged", [False, True])
def test_a_turn_costs_one_forward_for_all_that_are_answered_with_it(paged, monkeypatch):
    """And its keys are moved twice, whatever their number: out of the row, and back with room for the observation."""
    policy, prompts = talker(max_position_embeddings=2048), random_prompts(0, [20] * 6)
    policy.stop_ids = frozenset()
    forwards = counted(monkeypatch, policy, "logits")
    steps = counted(monkeypatch, policy, "next_logits")
    moves = [counted(monkeypatch, WidthBucket, name) for name in ("put", "take", "append")]
    turns = ScriptedTurns(lambda sequence: [5] * 9, max_calls=8, turn_length=5)
    options = {"paged": paged, "group_size": 1, "max_tokens": 45}
    sampled, engine = sample(policy, prompts, turns, **options)
    assert all(len(c.turns) == 8 and c.num_tokens == 45 for (c,) in sampled.values())
    assert (
        len(forwards) - len(steps) == 2 + 8
    )  # two before the first step: the size of a token, prompts
    if not paged:
        assert len(steps) == engine.stats.steps == 45
        assert list(map(len, moves)) == [6 + 6 * 8, 6 * 8, 6 * 8]


def counted(monkeypatch, owner, name: str) -> list[str]:
    """A list that grows with each call of a method."""
    calls = []
    method = getattr(owner, name)

    def counting(*args, **options):
        calls.append(name)
        return method(*args, **options)

    monkeypatch.setattr(owner, name, counting)
    return calls
