"""Packing: the packed forward is each row's own forward, and where rows are counted and by which outcome."""

from __future__ import annotations

import random

import pytest
import torch
from tiny import FAMILIES, plain_logits, plain_model, random_prompts, tiny_policy

from grpo.learner.batch import make_batch
from grpo.model.packing import BUCKET, bucket_rows, micro_batches, pack
from grpo.types import Completion, Prompt, Row, ScoredGroup
from rewards import Score

EXACT = dict(atol=1e-10, rtol=0)


def rows_of(seed: int, *shapes: tuple[int, list[int]]) -> list[Row]:
    """Rows of groups, each given as (prompt length, completion lengths)."""
    rows = []
    for group, (length, completions) in enumerate(shapes):
        prompt, *texts = random_prompts(seed + 97 * group, [length, *completions])
        rows += [
            Row(
                len(rows) + i,
                group,
                prompt.token_ids,
                text.token_ids,
                torch.zeros(len(text.token_ids)),
                1.0,
                True,
                True,
                "trained",
            )
            for i, text in enumerate(texts)
        ]
    return rows


def logps(policy, rows: list[Row]) -> dict[int, torch.Tensor]:
    with torch.no_grad():
        actual = policy.token_stats(pack(rows), 0.9).logp_T.split([row.num_tokens for row in rows])
    return {row.index: logp for row, logp in zip(rows, actual)}


def plain_logp(policy, row: Row, model=None) -> torch.Tensor:
    logp_TV = (plain_logits(policy, row.prompt_ids, row.token_ids, model) / 0.9).log_softmax(-1)
    return logp_TV.gather(-1, torch.tensor(row.token_ids)[:, None])[:, 0]


SHAPES = [(1, [1, 3, 40]), (9, [15, 16, 17, 7]), (30, [2]), (17, [1, 1])]


# ------------------------------------------------------------------------------------- one forward


@pytest.mark.parametrize("family", FAMILIES)
def test_the_packed_forward_is_each_rows_own_plain_forward(family, seed):
    policy, rows = tiny_policy(family, seed, dtype=torch.float64), rows_of(seed, *SHAPES)
    actual, model = logps(policy, rows), plain_model(policy)
    for row in rows:
        with torch.no_grad():
            torch.testing.assert_close(actual[row.index], plain_logp(policy, row, model), **EXACT)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "qwen3_moe"])
def test_the_packed_gradient_is_the_sum_of_the_rows_own(family, seed):
    policy, rows = tiny_policy(family, seed, dtype=torch.float64), rows_of(seed, *SHAPES)
    weight_T = torch.randn(sum(row.num_tokens for row in rows), dtype=torch.float64)
    (weight_T * policy.token_stats(pack(rows), 0.9).logp_T).sum().backward()
    model = plain_model(policy)
    model.zero_grad()
    for row, weight in zip(rows, weight_T.split([row.num_tokens for row in rows])):
        (weight * plain_logp(policy, row, model)).sum().backward()
    expected = dict(model.named_parameters())
    for name, p in policy.model.named_parameters():
        scale = expected[name].grad.abs().max() + 1e-30
        assert (p.grad - expected[name].grad).abs().max() / scale <= 1e-10, name


@pytest.mark.parametrize("length", [14, 15, 16, 17, 31, 32, 33])
def test_rows_at_the_edges_of_a_bucket_are_whole(length, seed):
    policy = tiny_policy("llama", seed, dtype=torch.float64)
    rows = rows_of(
        seed, (length - 1, [1]), (1, [length - 1]), (length // 2, [length - length // 2] * 2)
    )
    actual = logps(policy, rows)
    for row in rows:
        with torch.no_grad():
            torch.testing.assert_close(actual[row.index], plain_logp(policy, row), **EXACT)


@pytest.mark.parametrize("shape", [(1, [1]), (2, [1]), (1, [6]), (3, [2, 2])])
def test_a_pack_of_fewer_than_eight_tokens_is_filled_up_unseen(shape, seed):
    policy, rows = tiny_policy("llama", seed, dtype=torch.float64), rows_of(seed, shape)
    packed = pack(rows)
    assert packed.num_tokens == max(8, shape[0] + sum(shape[1]))
    assert len(packed.source_T) == len(packed.target_T) == sum(shape[1])
    for row in rows:
        with torch.no_grad():
            torch.testing.assert_close(
                logps(policy, rows)[row.index], plain_logp(policy, row), **EXACT
            )


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
def test_order_company_and_garbage_in_neighbours_change_no_rows_log_probs(family, seed):
    policy, rows = tiny_policy(family, seed, dtype=torch.float64), rows_of(seed, *SHAPES)
    expected = logps(policy, rows)
    shuffled = random.Random(seed).sample(rows, len(rows))
    garbage = rows_of(seed + 1, (50, [90, 1]), (3, [33]))
    garbage = [
        Row(
            100 + r.index,
            100 + r.group,
            r.prompt_ids,
            r.token_ids,
            r.sampled_logps,
            0.0,
            True,
            True,
            "trained",
        )
        for r in garbage
    ]
    for company in (shuffled, [*garbage[:2], *shuffled, garbage[2]], *([row] for row in rows)):
        for index, logp in logps(policy, company).items():
            if index < 100:
                torch.testing.assert_close(logp, expected[index], **EXACT)


def test_nothing_flows_from_a_completion_into_its_siblings(seed):
    policy, rows = tiny_policy("llama", seed, dtype=torch.float64), rows_of(seed, (9, [12, 12, 5]))
    before = logps(policy, rows)
    other = rows_of(seed + 5, (9, [12]))[0].token_ids
    rows[1] = Row(
        1, 0, rows[1].prompt_ids, other, rows[1].sampled_logps, 1.0, True, True, "trained"
    )
    after = logps(policy, rows)
    assert (after[1] - before[1]).abs().max() > 1e-3
    for index in (0, 2):
        torch.testing.assert_close(after[index], before[index], **EXACT)


def test_a_groups_prompt_is_forwarded_once(seed):
    rows = rows_of(seed, (30, [5, 6, 7]), (11, [4, 4]))
    packed = pack(rows)
    assert packed.num_tokens == 30 + 18 + 11 + 8
    assert packed.target_T.tolist() == [token for row in rows for token in row.token_ids]
    assert sorted(packed.output_index_P.tolist()) == list(range(packed.num_tokens))
    assert sum(len(bucket.take) for bucket in packed.buckets) == packed.num_tokens


@pytest.mark.parametrize("lengths", [[1], [15, 16, 17], [16, 32, 48, 1, 2], [100]])
def test_a_bucket_is_no_wider_than_its_rows_need(lengths):
    start, spans = 0, []
    for n in lengths:
        spans.append(([*range(start, start + n)], 0))
        start += n
    buckets, output_index_P = bucket_rows(spans, start, "cpu")
    widths = sorted(-(-n // BUCKET) * BUCKET for n in lengths)
    assert (
        sorted(b.gather_RL.shape[1] for b in buckets for _ in range(b.gather_RL.shape[0])) == widths
    )
    outputs = torch.cat([b.gather_RL.reshape(-1)[b.take] for b in buckets])[output_index_P]
    assert outputs.tolist() == list(range(start))


# ---------------------------------------------------------------------------------- micro-batches, outcomes


@pytest.mark.parametrize("budget", [1, 20, 64, 100, 10_000])
def test_micro_batches_hold_every_row_once_within_the_budget(budget, seed):
    rows = rows_of(
        seed,
        *[(random.randint(1, 30), [random.randint(1, 30) for _ in range(4)]) for _ in range(6)],
    )
    parts = micro_batches(random.sample(rows, len(rows)), budget)
    assert sorted(row.index for part in parts for row in part) == [row.index for row in rows]
    for part, after in zip(parts, [*parts[1:], None]):
        assert len(part) == 1 or pack(part).num_tokens <= max(budget, 8)
        if after:
            assert pack([*part, after[0]]).num_tokens > budget


def scored(values, *, finish="stop", lengths=None) -> ScoredGroup:
    lengths = lengths or [3] * len(values)
    finishes = [finish] * len(values) if isinstance(finish, str) else finish
    texts = tuple(
        Completion("", tuple(range(3, 3 + n)), torch.full((n,), -1.0), f)
        for n, f in zip(lengths, finishes)
    )
    return ScoredGroup(
        Prompt("p", (5, 6), {}),
        texts,
        tuple(Score(v, status="scored" if v is not None else "fault") for v in values),
    )


def batch_of(groups, advantages, **options):
    return make_batch(
        groups,
        advantages,
        **{
            "num_updates": 1,
            "epochs": 1,
            "max_tokens": 10,
            "mask_truncated": False,
            "forward_flat": False,
            **options,
        },
    )


def test_every_completion_has_one_outcome_and_they_sum_to_what_was_sampled():
    groups = [
        scored([1.0, 0.0, None]),
        scored([1.0, 1.0]),
        scored([1.0, 0.0], finish=["length", "stop"]),
        scored([None, 0.0], finish=["cancelled", "stop"], lengths=[0, 2]),
    ]
    batch = batch_of(
        groups, [[0.5, -0.5, 0.0], [0.0, 0.0], [0.5, -0.5], [0.0, 0.0]], mask_truncated=True
    )
    assert [row.outcome for row in batch.rows] == [
        "trained",
        "trained",
        "faulted",
        "flat",
        "flat",
        "truncated_masked",
        "trained",
        "cancelled",
        "flat",
    ]
    assert (
        batch.ledger["sampled"]
        == 9
        == sum(n for outcome, n in batch.ledger.items() if outcome != "sampled")
    )
    (update,) = batch.updates
    counted = [row for row in batch.rows if row.outcome in ("flat", "trained")]
    assert update.denominators.num_completions == len(counted) == 6
    assert update.denominators.num_tokens == sum(row.num_tokens for row in counted) == 17
    assert [row.forwarded for row in batch.rows] == [row.outcome == "trained" for row in batch.rows]
    assert all(row.advantage == 0 for row in batch.rows if not row.mask)


def test_flat_groups_are_forwarded_where_something_in_the_loss_reaches_them():
    (update,) = batch_of([scored([1.0, 1.0])], [[0.0, 0.0]], forward_flat=True).updates
    assert all(row.forwarded and row.mask for row in update.rows)


def test_truncated_rows_train_unless_they_are_masked():
    groups, advantages = [scored([1.0, 0.0], finish=["context", "length"])], [[0.5, -0.5]]
    assert [r.outcome for r in batch_of(groups, advantages).rows] == ["trained"] * 2
    assert [r.mask for r in batch_of(groups, advantages, mask_truncated=True).rows] == [False] * 2


@pytest.mark.parametrize("num_updates, epochs", [(1, 1), (2, 1), (3, 2), (5, 1)])
def test_updates_are_disjoint_whole_groups(num_updates, epochs):
    groups = [scored([1.0, 0.0]) for _ in range(5)]
    batch = batch_of(groups, [[0.5, -0.5]] * 5, num_updates=num_updates, epochs=epochs)
    assert len(batch.updates) == num_updates * epochs
    first = batch.updates[:num_updates]
    assert [row.index for update in first for row in update.rows] == list(range(10))
    assert all(
        len({row.group for row in update.rows}) * 2 == len(update.rows) > 0 for update in first
    )
    assert batch.updates == first * epochs
    assert sum(update.denominators.num_completions for update in first) == 10


def test_the_samplers_log_probs_travel_without_its_filters():
    completion = Completion(
        "", (3, 4), torch.tensor([-0.5, -1.0]), "stop", log_kept=torch.tensor([-0.25, 0.0])
    )
    group = ScoredGroup(Prompt("p", (5,), {}), (completion,) * 2, (Score(1.0), Score(0.0)))
    assert batch_of([group], [[0.5, -0.5]]).rows[0].sampled_logps.tolist() == [-0.75, -1.0]
