"""GraphRunner between two reads: its records against a plain loop, buckets, stops, limits, failures, and the checksum."""

from __future__ import annotations

import pytest
import torch
from sampling_draws import seeds

from grpo.kernels.sampling.spec import Sampling
from grpo.kernels.sampling.torch_sampler import sample
from grpo.rollout.cuda_graphs import (
    FAILED,
    LIMIT,
    RUNNING,
    STOPPED,
    DecodeStep,
    GraphRunner,
    bucket,
    checksum,
)

V = 23


class Chain:
    """A cache without keys and a model without layers: logits follow from token and position."""

    def __init__(self, rows: int):
        self.seen_R, self.host = torch.zeros(rows, dtype=torch.long), 0
        self.table = torch.randn(V, V)
        self.used = rows

    @property
    def position_R(self):
        return self.seen_R[: self.used]

    @property
    def signature(self):
        return (self.used,)

    def addresses(self):
        return [self.seen_R.data_ptr()]

    def advance_device(self, moving_R=None):
        self.seen_R[: self.used] += 1 if moving_R is None else moving_R

    def advance_host(self, steps=1):
        self.host += steps

    def logits(self, token_R1, position_R1):
        return self.table[token_R1[:, 0]] + 0.3 * torch.sin(position_R1 * torch.arange(V))


def plain(chain, token, seed, limit, sampling, stops):
    """(tokens, logps, log_kepts, state) of one row, a token at a time."""
    tokens, logps, kepts = [], [], []
    while True:
        logits = chain.logits(torch.tensor([[token]]), torch.tensor([[len(tokens)]]))
        new, logp, kept = sample(
            logits, torch.tensor([seed]), torch.tensor([len(tokens)]), sampling
        )
        token = int(new)
        tokens.append(token)
        logps.append(float(logp))
        kepts.append(0.0 if kept is None else float(kept))
        if token in stops or len(tokens) == limit:
            return tokens, logps, kepts, STOPPED if token in stops else LIMIT


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.0), Sampling(0.8, 7, 0.9, 0.05)], ids=str
)
@pytest.mark.parametrize("ring", [1, 4, 7])
def test_many_steps_between_reads_record_what_a_plain_loop_samples(sampling, ring, seed):
    rows, chain = 11, Chain(16)
    step = DecodeStep(chain.logits, chain, sampling, max_rows=16, ring=ring, stop_ids=(3, 19))
    first, seed_R, limits = (
        torch.randint(0, V, (rows,)).tolist(),
        seeds(rows, seed).tolist(),
        [1, 2, 20] * 4,
    )
    step.start(range(rows), first, seed_R, limits[:rows])
    steps, recorded = GraphRunner(step, lambda: []), [([], [], []) for _ in range(rows)]
    states = [RUNNING] * rows
    while RUNNING in states:
        read = steps.run(16, ring)
        for row in range(rows):
            count = int(read.steps_R[row])
            assert count == 0 or states[row] == RUNNING
            for mine, theirs in zip(recorded[row], (read.token_KR, read.logp_KR, read.log_kept_KR)):
                mine += [0.0] * count if theirs is None else theirs[:count, row].tolist()
        states = read.state_R[:rows].tolist()
        assert read.state_R[rows:].eq(STOPPED).all() and not read.steps_R[rows:].any()
    for row in range(rows):
        tokens, logps, kepts, state = plain(
            chain, first[row], seed_R[row], limits[row], sampling, (3, 19)
        )
        assert recorded[row][0] == tokens and states[row] == state
        torch.testing.assert_close(
            torch.tensor(recorded[row][1:]), torch.tensor([logps, kepts]), atol=3e-6, rtol=1e-6
        )
    assert steps.eager_because == "the device is no CUDA device" and steps.captures == 0
    assert chain.host % ring == 0 and chain.seen_R[rows:].sum() == 0


def test_a_row_that_fails_ends_alone(seed):
    chain = Chain(8)
    chain.table[5] = torch.nan
    step = DecodeStep(chain.logits, chain, Sampling(), max_rows=8, ring=3, stop_ids=())
    step.start([0, 1], [5, 6], [1, 2], [3, 3])
    chain.table[6] = torch.where(torch.arange(V) == 7, 50.0, 0.0)
    chain.table[7] = chain.table[6]
    read = GraphRunner(step, lambda: []).run(8, 3)
    assert read.state_R[:2].tolist() == [FAILED, LIMIT] and read.steps_R[:2].tolist() == [1, 3]
    assert (
        read.token_KR[0, 0] == -1
        and read.logp_KR[0, 0].isnan()
        and read.token_KR[:, 1].tolist() == [7, 7, 7]
    )


def test_rows_move_with_all_their_state_and_continue(seed):
    """Compaction between two reads, and a row that starts in the middle of its completion."""
    chain = Chain(8)
    step = DecodeStep(chain.logits, chain, Sampling(), max_rows=8, ring=4, stop_ids=())
    step.start(range(5), [1, 2, 3, 4, 5], [11, 12, 13, 14, 15], [9] * 5)
    steps = GraphRunner(step, lambda: [])
    first = steps.run(8, 4).token_KR
    step.select([4, 1])
    chain.seen_R = torch.cat([chain.seen_R[[4, 1]], chain.seen_R.new_zeros(6)])
    second = steps.run(8, 4)
    for place, row in enumerate((4, 1)):
        tokens = plain(chain, row + 1, 11 + row, 9, Sampling(), ())[0]
        assert [*first[:, row].tolist(), *second.token_KR[:, place].tolist()] == tokens[:8]
    assert second.steps_R.tolist() == [4, 4, 0, 0, 0, 0, 0, 0]
    step.start([3], [tokens[3]], [12], [9], drawn=[4])
    chain.seen_R[3] = 4
    third = steps.run(8, 4)
    assert third.token_KR[:, 3].tolist() == tokens[4:8] and third.token_KR[0, 1] == tokens[8]


@pytest.mark.parametrize(
    "rows, size", [(1, 8), (8, 8), (9, 16), (65, 96), (193, 256), (512, 512), (513, 1024)]
)
def test_the_bucket_is_the_smallest_that_holds_the_rows(rows, size):
    assert bucket(rows) == size


def test_a_checksum_tells_lists_of_addresses_apart():
    lists = ([], [0], [0, 0], [4096, 8192], [8192, 4096], [4096], [4096, 8192, 0])
    assert len({checksum(addresses) for addresses in lists}) == len(lists)
    assert checksum([1 << 60, 5]) == checksum([1 << 60, 5])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a capture succeeds here")
def test_steps_that_cannot_be_captured_run_eagerly_and_say_why(seed, caplog):
    """Without CUDA a capture fails as it does for a model that asks the host: the step made is not lost."""
    chain = Chain(8)
    step = DecodeStep(chain.logits, chain, Sampling(), max_rows=8, ring=5, stop_ids=())
    step.start([0], [4], [9], [20])
    steps = GraphRunner(step, lambda: [], capture=True)
    read = steps.run(8, 5)
    assert "cannot be captured" in steps.eager_because and "without CUDA graphs" in caplog.text
    assert read.token_KR[:, 0].tolist() == plain(chain, 4, 9, 20, Sampling(), ())[0][:5]
    assert len(caplog.records) == 1 and steps.run(8, 2).steps_R[0] == 2 and len(caplog.records) == 1
