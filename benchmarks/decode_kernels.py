"""The GPU kernels of sampling on a CUDA device, as dated JSON: decode attention, sampler, floor of a graph.

    python -m benchmarks.decode_kernels [--output benchmarks/results] [--quick]

Every kernel is compared with its reference on fresh inputs before it is timed. Times are medians of CUDA events
over graph replays, rotating among input sets larger than the L2 cache. Beside them: a device-to-device copy for
the bandwidth there is, SDPA over keys copied out for every row, torch's own chain of operators as sampler.

What is expected on an H100 (3.35 TB/s by its data sheet, about 3.0 in a copy), from bytes alone; none of it was
measured when this was written:

    attention, one layer, bf16, 32 prompts x 8 rows       bytes: prompts + own + partial results    at 3.0 TB/s
    Qwen2.5-0.5B  14/2 heads of 64,  200 + 512 tokens      3 + 67 + 6 MB                             25 us
    Qwen2.5-1.5B  12/2 heads of 128, 200 + 512 tokens      7 + 134 + 9 MB                            50 us
    Qwen2.5-7B    28/4 heads of 128, 1000 + 512 tokens     66 + 268 + 44 MB                          126 us
    Qwen3-0.6B    16/8 heads of 128, 1000 + 512 tokens     131 + 537 + 25 MB                         231 us
    products, padding counted: 1 to 17 GFLOP, at most 45 us at 400 TFLOP/s; they hide behind the reading

    sampler, vocabulary 151,936, fp32 logits               bytes                                     at 3.0 TB/s
    256 rows, no filter: one pass                          156 MB; and about 75 integer and fp32
                                                           operations a logit: 0.10 ms of them       0.10 ms
    256 rows, top-p: 1 + 8 + 1 passes                      1.56 GB                                   0.5-1.0 ms
    8 rows, no filter                                      5 MB                                      5-10 us

    floor of a graph: 500 empty kernels                    about 1-2 us each                         0.5-1 ms
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from grpo.kernels.decode_attention import dispatch as decode
from grpo.kernels.decode_attention import reference as decode_reference
from grpo.kernels.sampling import exact as sampler
from grpo.kernels.sampling import torch_sampler as engine_sampler
from grpo.kernels.sampling.spec import Sampling
from grpo.rollout.paged_cache import PagedCache

SHAPES = {  # heads, kv heads, width, prompt, own tokens
    "Qwen2.5-0.5B": (14, 2, 64, 200, 512),
    "Qwen2.5-1.5B": (12, 2, 128, 200, 512),
    "Qwen2.5-7B": (28, 4, 128, 1000, 512),
    "Qwen3-0.6B": (16, 8, 128, 1000, 512),
}
VOCAB = 151936
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FILTERS = {
    "none": Sampling(),
    "top_k": Sampling(top_k=50),
    "top_p": Sampling(top_p=0.95),
    "top_k top_p min_p": Sampling(0.8, 50, 0.95, 0.02),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repeats")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("decode_kernels: needs a CUDA device")
    repeats, rates = (20, copy_rate(20)) if options.quick else (60, copy_rate(60))
    rows = (8, 256) if options.quick else (8, 64, 256)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_bytes_per_second": rates,
        "attention": attempts(
            {
                f"{name} {number}": partial(attention, name, number, repeats, rates)
                for name in SHAPES
                for number in rows
            }
        ),
        "sampler": attempts(
            {
                f"{name} {number}": partial(sampling, name, number, repeats, rates)
                for name in FILTERS
                for number in rows
            }
        ),
        "graph_floor": graph_floor(repeats),
    }
    place = options.output / f"{result['date']}-decode-kernels-gpu.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result, indent=1) + "\n")
    for part in ("attention", "sampler"):
        for case, row in result[part].items():
            print(
                part,
                case,
                *(
                    f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                    for key, value in row.items()
                ),
            )
    print("graph floor", result["graph_floor"], place, sep="\n")


def seconds(works: Sequence[Callable[[], object]], repeats: int) -> float:
    """The median of one work's time, all of them captured one after another in a graph that is replayed.

    Without CUDA they are run one after another, once, which tries the code and measures nothing.
    """
    for work in works:
        work()
    if not torch.cuda.is_available():
        return 1.0
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(works))
    return statistics.median(times)


def timed(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Median seconds of `work`, by events on CUDA."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            work()
            ended.record()
            ended.synchronize()
            times.append(begun.elapsed_time(ended) / 1e3)
        else:
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def attempts(works: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Each work's result, or its error."""
    found: dict[str, Any] = {}
    for name, work in works.items():
        try:
            found[name] = work()
        except Exception as error:
            found[name] = {
                "error": f"{type(error).__name__}: {error}"[:1500],
                "at": traceback.format_exc().splitlines()[-5:-1],
            }
    return found


def copy_rate(repeats: int, numbers: int = 1 << 28) -> float:
    """Bytes read and written a second by a large copy."""
    source, target = torch.randn(2, numbers, device=DEVICE)
    return 2 * source.numel() * 4 / seconds([lambda: target.copy_(source)], repeats)


# ------------------------------------------------------------------------------------------ attention


def filled(name: str, rows: int) -> tuple[PagedCache, Tensor]:
    """Groups of 8 rows half way through their completions, with random keys, and queries."""
    heads, kv_heads, width, prompt, own = SHAPES[name]
    pages = rows // 8 * (-(-prompt // 64) + 8 * (-(-own // 64) + 1))
    groups = PagedCache(
        rows,
        pages,
        DEVICE,
        max_prefix=prompt,
        max_tokens=own,
        rows_per_block=max(1, 64 // (heads // kv_heads)),
    )
    for first in range(0, rows, 8):
        prefix = {
            0: tuple(torch.randn(2, kv_heads, prompt, width, device=DEVICE, dtype=torch.bfloat16))
        }
        groups.put(range(first, first + 8), prefix, prompt)
    groups.reserve(own)
    groups._seen_R.fill_(own)
    for store in (groups.keys[0], groups.values[0]):
        for number in range(rows):
            page_N = groups._page_RN.device[number].long()
            store[page_N[page_N >= 0]] = torch.randn_like(store[page_N[page_N >= 0]])
    return groups, torch.randn(rows, heads, width, device=DEVICE, dtype=torch.bfloat16)


def attention(name: str, rows: int, repeats: int, rate: float) -> dict[str, Any]:
    heads, kv_heads, width, prompt, own = SHAPES[name]
    sets = [filled(name, rows) for _ in range(3)]
    scaling = width**-0.5
    works: list[Callable[[], Tensor]] = []
    peers: list[Callable[[], Tensor]] = []
    for groups, query in sets:
        works.append(
            partial(
                decode.attend, query, groups.keys[0], groups.values[0], groups.tables(), scaling
            )
        )
        key, value, _ = decode_reference.gather(
            groups.keys[0], groups.values[0], groups.tables(), None
        )
        edge = -(-prompt // 64) * 64
        key, value = (
            torch.cat([x[:, :, :prompt], x[:, :, edge : edge + own]], 2).contiguous()
            for x in (key, value)
        )
        peers.append(
            partial(
                scaled_dot_product_attention,
                query[:, :, None],
                key,
                value,
                scale=scaling,
                enable_gqa=True,
            )
        )
    groups, query = sets[0]
    exact = decode_reference.attend(
        query.double(),
        groups.keys[0].double(),
        groups.values[0].double(),
        groups.tables(),
        scaling,
    )
    error = relative_error(works[0](), exact)
    num_bytes = 4 * width * kv_heads * (rows // 8 * prompt + rows * own)
    ours, sdpa = seconds(works, repeats), seconds(peers, repeats)
    return {
        "model": name,
        "rows": rows,
        "prompt": prompt,
        "own": own,
        "seconds": ours,
        "sdpa_seconds": sdpa,
        "bytes": num_bytes,
        "of_copy_rate": num_bytes / ours / rate,
        "relative_error": error,
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    error = float((found.double() - expected).norm() / expected.norm())
    assert error < 1e-2, f"attention is off by {error}"
    return error


# -------------------------------------------------------------------------------------------- sampler


def sampling(name: str, rows: int, repeats: int, rate: float, vocab: int = VOCAB) -> dict[str, Any]:
    chosen, position_R = FILTERS[name], torch.arange(rows, device=DEVICE)
    seed_R = torch.randint(-(2**62), 2**62, (rows,), device=DEVICE)
    sets = [torch.randn(rows, vocab, device=DEVICE) * 3 for _ in range(3)]
    ours = [lambda x=x: sampler.sample(x, seed_R, position_R, chosen) for x in sets]
    chain = [lambda x=x: engine_sampler.sample(x, seed_R, position_R, chosen) for x in sets]
    drawn, few = ours[0](), slice(0, 16)  # rows do not depend on each other
    expected = sampler.reference(
        sets[0][few].cpu(), seed_R[few].cpu(), position_R[few].cpu(), chosen
    )
    assert torch.equal(drawn.token_R[few].cpu(), expected.token_R), (
        "the kernels draw other tokens than the reference"
    )
    fast, slow = (
        seconds(ours, repeats),
        timed(chain[0], DEVICE, max(2, repeats // 10)),
    )  # it asks the host
    return {
        "filters": name,
        "rows": rows,
        "seconds": fast,
        "torch_seconds": slow,
        "of_copy_rate_if_read_once": rows * vocab * 4 / fast / rate,
        "logp_error": float((drawn.logp_R[few].cpu() - expected.logp_R).abs().max()),
    }


# -------------------------------------------------------------------------------------- floor of a graph


def graph_floor(repeats: int, kernels: int = 500) -> dict[str, float]:
    """Seconds of a small kernel inside a graph of many, and launched one by one."""
    x = torch.zeros(8, device=DEVICE)
    inside = seconds([lambda: x.add_(1.0)] * kernels, repeats)
    if DEVICE == "cpu":
        return {"seconds_a_kernel_in_a_graph": inside}
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(kernels):
        x.add_(1.0)
    end.record()
    end.synchronize()
    return {
        "seconds_a_kernel_in_a_graph": inside,
        "seconds_a_kernel_eager": start.elapsed_time(end) / 1e3 / kernels,
    }


if __name__ == "__main__":
    main()
