"""Gradients, norms, weights and moments of a tiny policy whose weights are divided over several processes.

``python shard_child.py WORLD CASE...`` prints as JSON, for each case, how far they are from those of one process. The
processes are forked from one that has loaded the library and made the expected numbers.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import torch
import torch.distributed as dist
from small_updates import TEMPERATURE, batch_of, random_groups, tiny_policy
from torch import Tensor

from benchmarks.forked import fork_ranks
from grpo.distributed.fsdp import local_part
from grpo.distributed.process_group import Ranks
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.learner.teacher import Teacher
from grpo.model.policy import Policy
from grpo.recipe import LossSection, OptimSection
from grpo.types import Batch

FAR = 1000.0
"""A row of a larger drift is masked."""


class FarRows:
    """Gates that let rows of a drift beyond `FAR` be masked, and ask for nothing else."""

    def limits(self, gate: str) -> dict[str, float]:
        return {"skip": FAR} if gate == "drift_rows" else {}

    def update(self, record: dict[str, Any], why: Any) -> list[str]:
        return ["drift_rows"] if "policy/drift_row" in record else []


@dataclass(frozen=True)
class Case:
    """What is trained, on what."""

    policy: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    budget: int = 50
    groups: int = 5
    updates: int = 2
    half_base: bool = False
    family: str = ""
    teacher: bool = False
    epochs: int = 1
    far_row: bool = False
    divided: bool = True


CASES = {
    "full": Case(),
    "tied": Case(policy={"tied": True}),
    "lora": Case(policy={"lora": True}),
    "tied lora": Case(policy={"lora": True, "tied": True}),
    "kl": Case(loss={"beta": 0.1, "kl": "k3"}),
    "kl lora": Case(policy={"lora": True}, loss={"beta": 0.1, "kl": "k3"}),
    "sequence ratio": Case(loss={"policy": "gspo"}),
    "sequence ratio tied": Case(policy={"tied": True}, loss={"policy": "gspo"}),
    "entropy": Case(loss={"entropy": 0.01}),
    "entropy lora": Case(policy={"lora": True}, loss={"entropy": 0.01}),
    "survey": Case(loss={"policy": "kl_cov", "cov_share": 0.2}),
    "nothing to train": Case(budget=10**6, groups=1, updates=1),
    "checkpointing": Case(policy={"checkpointing": True}),
    "clipped": Case(optim={"max_grad_norm": 1e-3}),
    "lean": Case(optim={"offload": True}),
    "teacher": Case(loss={"teacher": "x", "teacher_weight": 0.3}, teacher=True),
    "penalties": Case(loss={"beta": 0.1, "kl": "k3", "kl_in": "reward"}),
    **{family: Case(family=family) for family in ("gpt2", "gemma2", "qwen2", "gpt_neox", "olmo2")},
    "half base": Case(policy={"lora": True, "dtype": torch.float32}, half_base=True, updates=1),
    "masked row": Case(far_row=True, epochs=2),
    "masked row, copies": Case(far_row=True, epochs=2, divided=False),
    "half": Case(policy={"dtype": torch.bfloat16}, updates=1),
}


def batch(case: Case) -> Batch:
    random.seed(3)
    torch.manual_seed(3)
    groups = random_groups(case.groups)
    if case.far_row:
        groups[0].completions[0].sampled_logps.add_(2 * FAR)
    kl = bool(case.loss.get("beta"))
    return batch_of(groups, num_updates=case.updates, epochs=case.epochs, kl=kl)


def policy_of(case: Case) -> Policy:
    if case.family:
        return tiny.tiny_policy(case.family, dtype=torch.float64)
    return tiny_policy(**case.policy)


def run(case: Case, ranks: Ranks) -> dict[str, Tensor]:
    """What the updates of a step leave: of the first its gradient, then weights, moments and reported norms."""
    policy = policy_of(case)
    for parameter in policy.model.parameters() if case.half_base else ():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    if ranks.world > 1 and case.divided:
        policy.shard(ranks)
        assert policy.shards is not None
        held = [local_part(p).numel() for p in policy.held().values()]
        assert sum(held) < 0.6 * sum(p.numel() for p in policy.trainable().values())
    optim = OptimSection(**{"lr": 1e-2, "weight_decay": 0.1, "max_grad_norm": 0.0, **case.optim})
    optimizer = Optimizer(policy.held(), optim, 10, shards=policy.shards)
    section = LossSection(
        **{"aggregation": "sequence_mean", "correction": "none", "beta": 0.0, **case.loss}
    )
    learner = Learner(
        policy,
        optimizer,
        section,
        temperature=TEMPERATURE,
        tokens_per_micro_batch=case.budget,
        ranks=ranks,
        teacher=Teacher(tiny_policy(seed=1)) if case.teacher else None,
        gates=FarRows() if case.far_row else None,  # type: ignore[arg-type]
    )
    found: dict[str, Tensor] = {}
    step = optimizer.step

    def take() -> None:
        if not any(name.startswith("gradient") for name in found):
            for name, gradient in gradients(policy, optimizer).items():
                found[f"gradient {name}"] = gradient
        step()

    optimizer.step = take  # type: ignore[method-assign]
    data = batch(case)
    learner.begin(data)
    for number, update in enumerate(data.updates):
        stats = learner.update(update)
        assert stats.made and stats.masked == int(case.far_row and number % case.updates == 0)
        found[f"norm {number}"] = torch.tensor(stats.grad_norm, dtype=torch.float64)
        found[f"loss {number}"] = torch.tensor(stats.loss, dtype=torch.float64)
    if (
        section.kl_in == "reward"
    ):  # after the updates, which take the policy away from its reference
        taken = learner.penalties([row for row in data.rows if row.forwarded])
        found["penalty"] = torch.cat([taken[index] for index in sorted(taken)])
        assert found["penalty"].abs().max() > 1e-6, "there is a distance to penalise"
    if policy.is_split:
        assert_slices_are_not_read(policy)
    policy.gather()
    for name, parameter in policy.trainable().items():
        found[f"weight {name}"] = parameter.detach().clone()
    found |= {f"moment {name}": value for name, value in moments(optimizer).items()}
    return found


def assert_slices_are_not_read(policy: Policy) -> None:
    """After an update, what needs all weights says so; it neither reads slices nor waits for other ranks."""
    for read in (policy.fingerprint, lambda: policy.save(Path("nowhere"))):
        try:
            read()
        except RuntimeError as error:
            assert "call policy.gather() in all processes" in str(error), error
        else:
            raise AssertionError("slices were read as if they were the weights")


def gradients(policy: Policy, optimizer: Optimizer) -> dict[str, Tensor]:
    parts = dict(zip(optimizer.masters, optimizer.gradients()))
    return {name: part.clone() for name, part in policy.all_of(parts).items()}


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state()["adamw"]
    parts = state["moments"] if "moments" in state else list(state["state"].values())
    return {
        f"{number} {name}": value.clone()
        for number, values in enumerate(parts)
        for name, value in values.items()
    }


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """By kind, the largest relative difference of a tensor."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    largest: dict[str, float] = {}
    for name, value in expected.items():
        kind = name.partition(" ")[0]
        distance = (found[name].double() - value.double()).norm()
        if kind != "loss":  # which may be 0
            distance = distance / value.double().norm().clamp_min(1e-30)
        largest[kind] = max(largest.get(kind, 0.0), float(distance))
    return largest


def main(world: int, names: list[str]) -> None:
    expected = {name: run(CASES[name], Ranks()) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        fork_ranks(world, lambda rank: as_rank(rank, world, Path(folder), names, expected))
        print((Path(folder) / "found.json").read_text())


def as_rank(
    rank: int, world: int, folder: Path, names: list[str], expected: dict[str, dict[str, Tensor]]
) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world
    )
    found = {}
    for name in names:
        result = run(CASES[name], Ranks(rank, world))
        if rank == 0:
            found[name] = difference(result, expected[name])
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2:] or list(CASES))
