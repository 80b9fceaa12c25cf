"""Makes updates of a model whose weights are divided over processes, and prints the peak of each process by phase.

``python shard_memory_child.py WORLD CASE`` prints JSON: what is predicted, and by rank the bytes above those held
before the model was made, at the peak of loading, of two updates, and of having all weights to sample. The processes
are forked from one that has made a tiny update, which loads all code and tables.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from memory_child import (
    config_of,
    make_them,
    make_updates,
    model_of,
    resident_bytes,
    rows_of,
    sections,
    update_of,
)
from tiny import tiny_tokenizer

from benchmarks.forked import fork_ranks
from grpo.distributed.process_group import Ranks
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.model.policy import Policy
from grpo.preflight.memory import predict

TINY = {"V": 200, "D": 32, "I": 64, "L": 1}
"""A model whose updates load all code and tables; each process makes some, for after a fork pages are read anew."""


def peak_bytes() -> int:
    """The most that this process held since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peaks(case: dict[str, Any], ranks: Ranks, tokenizer: Any) -> dict[str, int]:
    """By phase, bytes at the peak above those before."""
    model_section, optim, loss = sections(case)
    forget_peak()
    before = resident_bytes()
    model = model_of(case, config_of(case))
    policy = Policy(model, tokenizer, gradient_checkpointing=model_section.gradient_checkpointing)
    del model
    if ranks.world > 1:
        policy.shard(ranks)
    found = {"load": peak_bytes() - before}
    update = update_of(case)
    learner = Learner(
        policy,
        Optimizer(policy.held(), optim, 10, shards=policy.shards),
        loss,
        temperature=1.0,
        tokens_per_micro_batch=optim.tokens_per_micro_batch,
        ranks=ranks,
    )
    policy.split()
    forget_peak()
    make_them(learner, update, 2)
    found["update"] = peak_bytes() - before
    forget_peak()
    policy.gather()
    found["sample"] = peak_bytes() - before
    return found


def as_rank(rank: int, world: int, folder: Path, case: dict[str, Any], tokenizer: Any) -> None:
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world
        )
    peaks({**case, **TINY, "prompts": 1}, Ranks(rank, world), tiny_tokenizer(80))
    found = peaks(case, Ranks(rank, world), tokenizer)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if world > 1:
        dist.barrier()


def main() -> None:
    world = int(sys.argv[1])
    case = json.loads(sys.argv[2])
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer(80)
    make_updates({**case, "prompts": 1}, config_of(TINY), tokenizer, 2)
    config = config_of(case)
    tokenizer.add_tokens([f"<f{i}>" for i in range(config.vocab_size - len(tokenizer))])
    predicted = predict(config, tokenizer, *sections(case), rows_of(case), processes=world)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fork_ranks(world, lambda rank: as_rank(rank, world, folder, case, tokenizer))
        found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
    print(
        json.dumps(
            {
                "predicted": {"update": predicted.update_peak, "sample": predicted.sample_peak},
                "ranks": found,
                "terms": list(predicted.lines()),
            }
        )
    )


if __name__ == "__main__":
    main()
