"""What has to be known of a GPU before anything is tuned, in one call; each item in a process of its own.

    python -m benchmarks.answers [--items NAME ...] [--model FOLDER] [--out benchmarks/results]
    python -m benchmarks.answers --device cpu --small        tries the code at small shapes; its times mean nothing

``device`` bandwidth of a copy, rate of a large product, clocks; ``products`` the head's three products with fp32
results; ``floor`` a small kernel in a graph and launched alone; ``attention`` the decode kernel next to SDPA;
``sampler``; ``step-0.5B``, ``step-1.5B`` milliseconds of a decoding step of 256 rows, eager and captured, next to
transformers' own forward; ``drift`` sampler against trainer at 1,000 tokens in bf16; ``head`` both forms of the
log-prob head against float64. An item that fails, or a part of one, is recorded with its error; the others continue.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from benchmarks.decode_kernels import attempts, timed

ROOT = Path(__file__).resolve().parent.parent
RATE_AT_MOST = 989e12  # dense bf16 of an H100 by its data sheet


@dataclass(frozen=True)
class Scale:
    """How large the work is."""

    rows: int = 256
    prompt: int = 200
    vocab: int = 151936
    chunk: int = 4096
    widths: tuple[int, ...] = (896, 1536, 4096)
    copied: int = 1 << 28
    square: int = 8192
    repeats: int = 30
    own: tuple[int, ...] = (64, 256, 512)
    tokens: int = 1000
    layers: int | None = None


SMALL = Scale(
    rows=16,
    prompt=20,
    vocab=1003,
    chunk=24,
    widths=(16, 40),
    copied=1 << 10,
    square=64,
    repeats=2,
    own=(48, 64),
    tokens=20,
    layers=2,
)


# ---- items --------------------------------------------------------------------------------------------------


def item_device(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.decode_kernels import copy_rate

    def product() -> dict[str, float]:
        a, b = torch.randn(2, scale.square, scale.square, device=options.device).bfloat16()
        spent = timed(lambda: a @ b, options.device, scale.repeats)
        return {"seconds": spent, "flops": 2 * scale.square**3 / spent}

    def smi() -> str:
        asked = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw,memory.used"
        return subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    def versions() -> dict[str, Any]:
        import transformers
        import triton

        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
            "python": sys.version.split()[0],
            "cores": os.cpu_count(),
        }

    works: dict[str, Callable[[], Any]] = {
        "versions": versions,
        "copy_bytes_per_second": lambda: copy_rate(scale.repeats, scale.copied),
        "square_product": product,
    }
    if options.device == "cuda":
        works |= {"smi": smi, "memory": lambda: torch.cuda.mem_get_info()}
    return attempts(works)


def fp32_product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def item_products(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    """z = h W', dh = u W, dW += u' h of one chunk of tokens, bf16 in; the results in fp32, of dh in bf16 too."""

    def rates(width: int) -> dict[str, Any]:
        hidden, weight, unit = (
            torch.randn(shape, device=options.device).bfloat16()
            for shape in ((scale.chunk, width), (scale.vocab, width), (scale.chunk, scale.vocab))
        )
        total = torch.zeros(scale.vocab, width, device=options.device)

        def add() -> None:
            if total.is_cuda:
                torch.addmm(total, unit.T, hidden, out_dtype=torch.float32, out=total)
            else:
                total.add_(unit.T.float() @ hidden.float())

        works = {
            "logits_fp32": lambda: fp32_product(hidden, weight.T),
            "logits_bf16": lambda: hidden @ weight.T,
            "hidden_fp32": lambda: fp32_product(unit, weight),
            "hidden_bf16": lambda: unit @ weight,
            "weight_fp32_added": add,
        }
        flops = 2.0 * scale.chunk * width * scale.vocab

        def one(work: Callable[[], Any]) -> dict[str, float]:
            spent = timed(work, options.device, scale.repeats)
            return {
                "seconds": spent,
                "flops": flops / spent,
                "of_data_sheet": flops / spent / RATE_AT_MOST,
            }

        return attempts({name: partial(one, work) for name, work in works.items()})

    return attempts({f"H={width}": partial(rates, width) for width in scale.widths})


def item_floor(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.decode_kernels import graph_floor

    return graph_floor(scale.repeats)


def item_attention(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import decode_kernels

    rate = decode_kernels.copy_rate(scale.repeats, scale.copied)
    names = ["tiny"] if options.small else list(decode_kernels.SHAPES)
    if options.small:
        decode_kernels.SHAPES["tiny"] = (4, 2, 16, scale.prompt, 70)
    return attempts(
        {
            name: partial(decode_kernels.attention, name, scale.rows, scale.repeats, rate)
            for name in names
        }
    )


def item_sampler(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import decode_kernels

    rate = decode_kernels.copy_rate(scale.repeats, scale.copied)
    return attempts(
        {
            name: partial(
                decode_kernels.sampling, name, scale.rows, scale.repeats, rate, scale.vocab
            )
            for name in decode_kernels.FILTERS
        }
    )


def shaped_policy(name: str, scale: Scale, options: argparse.Namespace) -> Any:
    from benchmarks import rollouts

    kind, shape = rollouts.SHAPES[name]
    if scale.layers is not None:
        shape = {
            **shape,
            "num_hidden_layers": scale.layers,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "vocab_size": scale.vocab,
        }
        rollouts.SHAPES["answers"], name = (kind, shape), "answers"
    return rollouts.made_in_place(name, "bfloat16", options.device)


class ContiguousDecoder:
    """Groups of 8 rows that decode in place, from random prompts' keys."""

    def __init__(self, policy: Any, scale: Scale):
        from grpo.kernels.sampling.spec import Sampling
        from grpo.rollout.cuda_graphs import DecodeStep
        from grpo.rollout.paged_cache import PAGE, PagedCache

        self.policy, config = policy, policy.base.config
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        most, groups = max(scale.own) + 64, scale.rows // 8
        pages = groups * (-(-scale.prompt // PAGE)) + scale.rows * -(-most // PAGE)
        self.cache = PagedCache(
            scale.rows, pages, policy.device, max_prefix=scale.prompt, max_tokens=most
        )
        shape = (2, config.num_key_value_heads, scale.prompt, width)
        for first in range(0, scale.rows, 8):
            prefix = {
                layer: tuple(torch.randn(shape, device=policy.device).to(policy.base.dtype))
                for layer in range(config.num_hidden_layers)
            }
            self.cache.put(range(first, first + 8), prefix, scale.prompt)
        self.step = DecodeStep(
            lambda token, position: policy.next_logits(token, position, self.cache),
            self.cache,
            Sampling(),
            max_rows=scale.rows,
            ring=8,
            stop_ids=(),
            vocab_size=policy.vocab_size,
            device=policy.device,
        )
        self.step.start(
            range(scale.rows), [5] * scale.rows, list(range(scale.rows)), [10**6] * scale.rows
        )
        self.rows, self.written = scale.rows, 0

    def run(self, steps: Any) -> float:
        """Seconds of a step, over 8 of them and their read."""
        begun = time.perf_counter()
        self.cache.reserve(8)
        read = steps.run(self.rows, 8)
        assert int(read.steps_R.min()) == 8, "a row ended or failed"
        self.written += 8
        return (time.perf_counter() - begun) / 8


@torch.no_grad()
def item_step(scale: Scale, options: argparse.Namespace, name: str) -> dict[str, Any]:
    from grpo.rollout.cuda_graphs import GraphRunner

    policy = shaped_policy(name, scale, options)
    found: dict[str, Any] = {"rows": scale.rows, "prompt": scale.prompt}
    decoding = ContiguousDecoder(policy, scale)
    eager = GraphRunner(decoding.step, lambda: list(policy.model.parameters()), capture=False)
    found["eager_ms"] = [1e3 * decoding.run(eager) for _ in range(4)]
    found["kernels_a_step"] = attempts({"count": lambda: kernels(lambda: decoding.run(eager)) / 8})[
        "count"
    ]
    captured = GraphRunner(decoding.step, lambda: list(policy.model.parameters()))
    times: dict[str, float] = {}
    while decoding.written < max(scale.own):
        spent = [decoding.run(captured) for _ in range(2)]
        times[f"own={decoding.written}"] = 1e3 * min(spent)
    found |= {
        "captured_ms": times,
        "captures": captured.captures,
        "eager_because": captured.eager_because,
    }
    found["captured_tokens_per_second"] = scale.rows * 1e3 / times[list(times)[len(times) // 2]]
    with policy.own_attention():
        found["transformers_forward_ms"] = attempts(
            {"ms": lambda: transformers_step(policy, scale)}
        )["ms"]
    return found


def kernels(work: Callable[[], object]) -> int:
    """How many kernels (on a CPU: operators) `work` launches."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CUDA] if torch.cuda.is_available() else [ProfilerActivity.CPU]
    with profile(activities=kinds) as profiler:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return sum(
        event.count
        for event in profiler.key_averages()
        if not event.key.startswith(("cuda", "Mem"))
    )


def transformers_step(policy: Any, scale: Scale) -> float:
    """Milliseconds of transformers' own forward of one token a row, over a cache of prompt and own tokens."""
    from transformers import DynamicCache

    model, cache = policy.base, DynamicCache()
    held = scale.prompt + scale.own[len(scale.own) // 2]
    ids = torch.randint(10, scale.vocab - 10, (scale.rows, held), device=policy.device)
    for part in ids.split(64, 1):  # a forward of all at once would hold logits of all
        model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
    one = ids[:, :1]
    return 1e3 * timed(
        lambda: model(input_ids=one, past_key_values=cache, use_cache=True), policy.device.type, 10
    )


@torch.no_grad()
def item_drift(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    """Sampled log-probs against the trainer's of the same tokens; random weights are scaled to peaked logits."""

    def of(policy: Any) -> dict[str, float]:
        from grpo.kernels.sampling.spec import Sampling
        from grpo.model.packing import pack
        from grpo.rollout.engine import Engine
        from grpo.types import Prompt, Row

        policy.stop_ids = frozenset()
        most = min(1000, policy.vocab_size)
        prompts = [
            Prompt(str(i), tuple(torch.randint(3, most, (30 + 20 * i,)).tolist()), {})
            for i in range(4)
        ]
        groups = [
            group
            for _, group in Engine(policy).sample(
                prompts, group_size=4, max_tokens=scale.tokens, sampling=Sampling(), seed=(0,)
            )
        ]
        apart, entropy = [], []
        for number, group in enumerate(groups):
            rows = [
                Row(
                    i,
                    number,
                    group.prompt.token_ids,
                    c.token_ids,
                    c.sampled_logps,
                    1.0,
                    True,
                    True,
                    "",
                )
                for i, c in enumerate(group.completions)
            ]
            stats = policy.token_stats(pack(rows, policy.device), 1.0)
            apart.append(
                stats.logp_T.cpu() - torch.cat([c.sampled_logps for c in group.completions])
            )
            entropy.append(float(stats.entropy_T.mean()))
        apart_T = torch.cat(apart).double()
        return {
            "tokens": len(apart_T),
            "mean": float(apart_T.abs().mean()),
            "max": float(apart_T.abs().max()),
            "p99.9": float(apart_T.abs().quantile(0.999)),
            "k3": float((apart_T.exp() - 1 - apart_T).mean()),
            "entropy": statistics.mean(entropy),
        }

    def random() -> dict[str, float]:
        policy = shaped_policy("qwen2.5-0.5b", scale, options)
        policy.base.base_model.norm.weight.mul_(8.0)
        return of(policy)

    def given() -> dict[str, float]:
        from grpo.model.policy import Policy
        from grpo.recipe import ModelSection

        return of(Policy.load(ModelSection(name=options.model, dtype="bfloat16"), options.device))

    return attempts(
        {"qwen2.5-0.5b, random": random, **({"the model given": given} if options.model else {})}
    )


def item_head(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    """Largest errors of the head's forms against float64 at an odd shape."""
    from benchmarks import head

    case = {"N": 777, "H": 896, "V": 5003, "kind": "train", "temperature": 0.7}
    problem = head.Problem(
        {**case, **({"N": 40, "H": 48, "V": 301} if options.small else {})}, options.device, seed=3
    )
    forms = {"chunked": lambda: head.ours(problem, "chunked")}
    if options.device == "cuda":
        forms |= {"rows": lambda: head.ours(problem), "tiles": lambda: head.ours_tiles(problem)}

    def errors(form: Callable[[], head.Found]) -> dict[str, float]:
        return head.errors(problem, form(), sampled=256)

    return attempts({name: partial(errors, form) for name, form in forms.items()})


ITEMS: dict[str, Callable[[Scale, argparse.Namespace], dict[str, Any]]] = {
    "device": item_device,
    "floor": item_floor,
    "products": item_products,
    "head": item_head,
    "attention": item_attention,
    "sampler": item_sampler,
    "step-0.5B": lambda scale, options: item_step(scale, options, "qwen2.5-0.5b"),
    "step-1.5B": lambda scale, options: item_step(scale, options, "qwen2.5-1.5b"),
    "drift": item_drift,
}


# ---- in turn ------------------------------------------------------------------------------------------------


def run_item(name: str, arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """The item's findings from a process of its own, or how it ended."""
    command, begun = (
        [sys.executable, "-m", "benchmarks.answers", "--child", name, *arguments],
        time.perf_counter(),
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=limit)
    except subprocess.TimeoutExpired as error:
        return {"error": f"not done in {limit:.0f} s", "stderr": str(error.stderr or "")[-1500:]}
    spent = round(time.perf_counter() - begun, 1)
    if done.returncode:
        return {
            "error": f"exit code {done.returncode}",
            "stderr": done.stderr[-1500:],
            "wall_seconds": spent,
        }
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_seconds": spent}


def failures(found: Any, place: str = "") -> list[str]:
    """Where in `found` there is an error, and its first line."""
    if not isinstance(found, dict):
        return []
    own = [f"{place}: {str(found['error']).splitlines()[0][:160]}"] if "error" in found else []
    return own + [
        line
        for name, part in found.items()
        for line in failures(part, f"{place}/{name}".lstrip("/"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", nargs="+", choices=ITEMS, default=list(ITEMS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes, to try the code")
    parser.add_argument("--model", help="folder of a real model, for drift")
    parser.add_argument("--limit", type=float, default=100.0, help="seconds that an item may take")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--child", choices=ITEMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.manual_seed(0)
        print("\n" + json.dumps(ITEMS[options.child](SMALL if options.small else Scale(), options)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --small tries the code without one")
    now = datetime.now(timezone.utc)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"answers-{options.device}-{now:%Y-%m-%d-%H%M%S}.json"
    report: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "small": options.small,
        "items": {},
    }
    passed = [
        "--device",
        options.device,
        *(["--small"] if options.small else []),
        *(["--model", options.model] if options.model else []),
    ]
    for name in options.items:
        report["items"][name] = run_item(name, passed, options.limit)
        report["failed"] = failures(report["items"])
        file.write_text(json.dumps(report, indent=1) + "\n")
        print(name, json.dumps(report["items"][name]), flush=True)
    print("failed:", *(report["failed"] or ["nothing"]), sep="\n  ")
    print(file)


if __name__ == "__main__":
    main()
