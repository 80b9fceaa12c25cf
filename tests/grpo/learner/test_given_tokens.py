"""What the learner counts in rows whose completion an environment wrote a part of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from expert_rows import mixture
from tiny import plain_logits, random_prompts, tiny_policy

from grpo.learner import sums
from grpo.learner.diagnosis import arbitrate
from grpo.learner.expert_load import ExpertLoad, num_read, recorded_counts
from grpo.model.packing import pack
from grpo.types import Row

GIVENS = [((3, 9),), ((0, 4), (11, 12)), ((0, 1), (5, 5), (8, 15)), ()]


def rows_of(givens) -> list[Row]:
    rows = []
    for index, (prompt, given) in enumerate(zip(random_prompts(0, [5] * len(givens)), givens)):
        token_ids = random_prompts(index, [18])[0].token_ids
        row = Row(
            index=index,
            group=index // 2,
            prompt_ids=prompt.token_ids,
            token_ids=token_ids,
            sampled_logps=torch.zeros(0),
            advantage=1.0,
            mask=True,
            forwarded=True,
            outcome="trained",
            given=given,
        )
        rows.append(replace(row, sampled_logps=torch.zeros(row.num_tokens)))
    return rows


def test_tokens_of_older_weights_are_told_by_their_place_among_all_tokens():
    rows = [replace(row, fresh_from=10) for row in rows_of(GIVENS)]
    expected = [index >= 10 for row in rows for index in row.written]
    assert sums._fresh(pack(rows), torch.device("cpu")).tolist() == expected
    assert 0 < sum(expected) < len(expected)


@torch.no_grad()
def test_choices_counted_from_the_record_are_those_of_a_forward():
    policy = mixture("qwen3_moe")
    rows, recorded = rows_of(GIVENS), []
    load = ExpertLoad(policy.routing, num_read(rows))
    for row in rows:
        alone = replace(row, given=(), sampled_logps=torch.zeros(len(row.token_ids)))
        for one in (row, alone):
            packed = pack([one])
            with policy.routing.watching():
                policy.hidden(packed)
                if one is row:
                    load.add(policy.routing.last, packed)
                chosen_PLK = policy.routing.chosen(policy.routing.last)
        first = len(row.prompt_ids)
        recorded.append(replace(row, routing=chosen_PLK[first : first + len(row.token_ids) - 1]))
    count_E = recorded_counts(recorded, policy.routing)
    assert torch.equal(count_E, load.count_LE.sum(0)) and count_E.sum() == 2 * 2 * num_read(rows)
    assert recorded_counts(rows, policy.routing) is None


@torch.no_grad()
def test_a_diagnosis_compares_the_tokens_that_were_written():
    policy, rows, logps = tiny_policy("llama", 0, peak=1.5), rows_of(GIVENS), {}
    for index, row in enumerate(rows):
        logits = plain_logits(policy, row.prompt_ids, row.token_ids)
        token_T1 = torch.tensor(row.token_ids)[:, None]
        logps[index] = logits.log_softmax(-1).gather(-1, token_T1)[row.written, 0]
        rows[index] = replace(row, sampled_logps=logps[index] + 0.01)
    found = arbitrate(policy, rows, logps, 1.0)
    assert found.trainer < 1e-5 and found.sampler == pytest.approx(0.01, rel=1e-2)
