"""The head divided over ranks says what the whole head says: two and three processes over gloo."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.distributed as dist
from log_prob_problems import HEADS, doubled, problem
from torch import multiprocessing

from grpo.kernels.log_prob import Gradients, Head, parallel, reference


def part_of(head: Head, rank: int, world: int) -> tuple[Head, int]:
    """A rank's share of the vocabulary, the last one smaller."""
    share = -(-len(head.weight_VD) // world)
    first, last = rank * share, min((rank + 1) * share, len(head.weight_VD))
    bias_V = None if head.bias_V is None else head.bias_V[first:last]
    return Head(
        head.weight_VD[first:last].contiguous(), bias_V, head.scale, head.softcap, head.temperature
    ), first


def work(rank: int, world: int, port: int, inputs, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    found = []
    for hidden_TD, head, target_T, g_T, e_T in inputs:
        own, first = part_of(head, rank, world)
        made = Gradients(
            torch.zeros_like(own.weight_VD),
            None if own.bias_V is None else torch.zeros_like(own.bias_V),
        )
        result = parallel.fused_log_prob(
            hidden_TD,
            own,
            target_T,
            first,
            None,
            lambda a, b, *_: (
                g_T[a:b].to(hidden_TD.dtype),
                None if e_T is None else e_T[a:b].to(hidden_TD.dtype),
            ),
            made,
            rows=8,
        )
        found.append(
            (result.logp_T, result.entropy_T, result.hidden_TD, made.weight_VD, made.bias_V)
        )
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.slow
def test_ranks_together_compute_the_specification(world: int, seed: int, tmp_path) -> None:
    inputs = []
    for options in HEADS.values():
        made = problem(19, 16, 101, torch.float64, **options)
        inputs += [made, (*made[:4], None)]
    inputs.append((*problem(19, 16, 101, torch.float32)[:4], None))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (world, port, inputs, str(tmp_path)), nprocs=world)
    ranks = [torch.load(tmp_path / str(rank)) for rank in range(world)]
    for number, (hidden_TD, head, target_T, g_T, e_T) in enumerate(inputs):
        apart = 1e-10 if hidden_TD.dtype == torch.float64 else 1e-5
        exact, bias_V = doubled(head), head.bias_V
        whole = Gradients(
            torch.zeros_like(exact.weight_VD),
            None if bias_V is None else torch.zeros(len(bias_V)).double(),
        )
        expected = reference.fused_log_prob(
            hidden_TD.double(),
            exact,
            target_T,
            lambda *_: (g_T.double(), None if e_T is None else e_T.double()),
            whole,
        )
        for rank in range(world):
            found = ranks[rank][number]
            torch.testing.assert_close(found[0].double(), expected.logp_T, atol=apart, rtol=0)
            torch.testing.assert_close(
                found[1].double(), expected.entropy_T, atol=10 * apart, rtol=0
            )
            assert (found[2] - expected.hidden_TD).norm() / expected.hidden_TD.norm() < apart
        weight = torch.cat([ranks[rank][number][3] for rank in range(world)])
        assert (weight - whole.weight_VD).norm() / whole.weight_VD.norm() < apart
        if bias_V is not None:
            bias = torch.cat([ranks[rank][number][4] for rank in range(world)])
            assert (bias - whole.bias_V).norm() / whole.bias_V.norm() < apart
