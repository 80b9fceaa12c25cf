"""What it takes to sample where weights are divided over processes: all weights gathered, or a layer at a time.

    python -m benchmarks.divided_weights [--processes 4] [--layers 24] [--width 384] [--vocabulary 8000] [--rows 8]

Gathered: every process has all weights while it samples (what runs do). By layers: each layer's weights are gathered
for every decoding step, by all processes in step, and nothing more is held. A decoding step is the forward of one
token of so many rows, without earlier ones: what differs between the two is the gathering. Bytes are those of weights.
Prints JSON with the processor; gloo over the loopback says nothing about NVLink.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
import torch.distributed as dist

from benchmarks.forked import fork_ranks
from grpo.distributed.process_group import Ranks
from grpo.model.policy import Policy

STEPS = 5


def make_policy(options: argparse.Namespace) -> Policy:
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", unk_token="w0")
    return Policy(LlamaForCausalLM(config), tokenizer)


def median_seconds(work: Callable[[], Any]) -> float:
    """Of several times, each begun by all processes together."""
    seconds = []
    for _ in range(STEPS):
        dist.barrier()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@torch.no_grad()
def measured(options: argparse.Namespace, ranks: Ranks) -> dict[str, Any]:
    policy = make_policy(options)
    total = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    policy.shard(ranks)
    shards = policy.shards
    assert shards is not None
    token_R1 = torch.ones(options.rows, 1, dtype=torch.long)

    def gather() -> None:
        policy.split()
        policy.gather()

    def by_layers() -> None:
        policy.model(input_ids=token_R1, use_cache=False)
        shards.end_pass()

    def whole() -> None:
        policy.model(input_ids=token_R1, use_cache=False)

    gather_seconds = median_seconds(gather)
    with policy.own_attention():
        whole_seconds = median_seconds(whole)
    policy.split()
    with policy.own_attention():
        layer_seconds = median_seconds(by_layers)
    largest = max(
        sum(p.numel() * p.element_size() for p in layer.parameters())
        for layer in policy.base.model.layers
    )
    return {
        "bytes": {"all": total, "slices": total // ranks.world, "a layer": largest},
        "seconds": {
            "gathering all": gather_seconds,
            "a decoding step, all gathered": whole_seconds,
            "a decoding step by layers": layer_seconds,
        },
        "gathering pays from steps": gather_seconds / max(layer_seconds - whole_seconds, 1e-9),
    }


def as_rank(rank: int, options: argparse.Namespace, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=options.processes
    )
    found = measured(options, Ranks(rank, options.processes))
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--rows", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        fork_ranks(options.processes, lambda rank: as_rank(rank, options, Path(name)))
        found = json.loads((Path(name) / "found.json").read_text())
    processor = next(
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    shown = {"options": vars(options), "processor": processor, "cores": os.cpu_count(), **found}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
