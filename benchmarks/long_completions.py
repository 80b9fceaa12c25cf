"""How time and memory grow with the length of completions, at a small shape: sampling and one update.

    python benchmarks/long_completions.py --lengths 2048 4096 8192 16384 32768

Each length is a process of its own, whose peak memory is its own. A Llama of 2 layers and width 64 with 115 tokens and
no end token writes one group of 8 completions of exactly that length and makes one update from them. Attention reads
everything before each token, so its work grows with the square of the length; memory and all else should grow with the
length. ``host`` is what a decoded token costs outside the model's forward: sampling, books, Python.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
WIDTH, LAYERS, VOCABULARY, GROUP = 64, 2, 115, 8


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def small_policy(context: int) -> Any:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from grpo.model.policy import Policy

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
    )
    policy = Policy(
        LlamaForCausalLM(config),
        AutoTokenizer.from_pretrained(ROOT / "recipes" / "quickstart_base"),
    )
    policy.stop_ids = frozenset()
    return policy


def measure(length: int) -> dict[str, float]:
    """Seconds and memory of a group of `length` tokens each: sampled, packed, learnt from."""
    import torch

    from grpo.kernels.sampling.spec import Sampling
    from grpo.learner.batch import make_batch
    from grpo.learner.learner import Learner
    from grpo.learner.optimizer import Optimizer
    from grpo.model.packing import pack
    from grpo.recipe import LossSection, OptimSection
    from grpo.rollout.engine import Engine
    from grpo.types import Prompt, ScoredGroup
    from rewards import Score

    torch.set_num_threads(1)
    policy = small_policy(length + 64)
    forward, inside = policy.logits, [0.0]

    def timed(*arguments: Any, **keywords: Any) -> Any:
        begun = time.process_time()
        try:
            return forward(*arguments, **keywords)
        finally:
            inside[0] += time.process_time() - begun

    policy.logits = timed
    base, begun = peak_mib(), time.process_time()
    group = next(
        g
        for _, g in Engine(policy).sample(
            [Prompt("p", tuple(range(3, 35)), {})],
            group_size=GROUP,
            max_tokens=length,
            sampling=Sampling(),
            seed=(0,),
        )
    )
    sampled, decode, after_sampling = time.process_time() - begun, inside[0], peak_mib()
    policy.logits = forward
    scored = ScoredGroup(
        group.prompt,
        group.completions,
        tuple(Score(float(i)) for i in range(GROUP)),
        tuple({} for _ in range(GROUP)),
    )
    batch = make_batch(
        [scored],
        [[i - 3.5 for i in range(GROUP)]],
        num_updates=1,
        epochs=1,
        max_tokens=length,
        mask_truncated=False,
        forward_flat=False,
    )
    begun = time.process_time()
    pack(batch.rows)
    packed = time.process_time() - begun
    learner = Learner(
        policy,
        Optimizer(policy.trainable(), OptimSection(), 1),
        LossSection(),
        temperature=1.0,
        tokens_per_micro_batch=length + 64,
    )
    begun = time.process_time()
    learner.begin(batch)
    learner.update(batch.updates[0])
    return {
        "length": length,
        "sample_cpu_seconds": sampled,
        "host_us_per_token": 1e6 * (sampled - decode) / (length * GROUP),
        "pack_cpu_seconds": packed,
        "update_cpu_seconds": time.process_time() - begun,
        "sample_mib": after_sampling - base,
        "update_mib": peak_mib() - base,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    found = []
    for length in options.lengths:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(length)],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{name} {value:.4g}" for name, value in found[-1].items()), flush=True)
    options.out.mkdir(exist_ok=True)
    file = options.out / f"long-completions-{datetime.now(timezone.utc):%Y-%m-%d}.json"
    file.write_text(
        json.dumps(
            {
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "threads": 1,
                "shape": {
                    "width": WIDTH,
                    "layers": LAYERS,
                    "vocabulary": VOCABULARY,
                    "group": GROUP,
                },
                "load_average": os.getloadavg(),
                "measured": found,
            },
            indent=1,
        )
        + "\n"
    )
    print(f"written to {file}")


if __name__ == "__main__":
    main()
