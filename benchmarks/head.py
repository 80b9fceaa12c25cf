"""The log-prob head beside its peers: seconds, memory beyond inputs and gradients, error against float64.

    python -m benchmarks.head                                  CPU, all cases; TRL and Liger are taken if they import
    python -m benchmarks.head --device cuda --cases NAME ...   GPU; each case by its name, `--list` names them

Every provider computes log-prob and entropy of N target tokens from hidden states [N, H] and a head [V, H], and
the gradient of sum(g logp) (entropy without gradient). Rounds go through the providers in alternating order; the
median and the quartiles stand. On CUDA the three bare products run beside them. Peers read from the installed
packages: ``trl`` (its kernel, or on CPU its fallback), ``liger_kernel`` (its GRPO head), ``cut_cross_entropy``
(exact; no entropy), else they are left out and named. A provider that fails is reported with its error.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # as grpo sets it, before torch reads it; for all providers

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from grpo.kernels import log_prob  # noqa: E402
from grpo.kernels.log_prob import (  # noqa: E402
    Gradients,
    Head,
    reference,  # noqa: E402
)

ROOT = Path(__file__).resolve().parent.parent
CPU_CASES: dict[str, dict[str, Any]] = {
    f"{name}-{dtype}-{kind}": {"N": number, "H": width, "V": size, "dtype": dtype, "kind": kind}
    for name, number, width, size in (("qwen", 384, 896, 151936), ("smollm2", 1024, 576, 49152))
    for dtype in ("float32", "bfloat16")
    for kind in ("train", "frozen")
}
GPU_CASES: dict[str, dict[str, Any]] = {
    **{
        f"4096-{kind}": {"N": 8192, "H": 4096, "V": 151936, "kind": kind}
        for kind in ("train", "frozen", "score")
    },
    **{
        f"896-{kind}": {"N": 8192, "H": 896, "V": 151936, "kind": kind}
        for kind in ("train", "frozen", "score")
    },
    "1536-train": {"N": 8192, "H": 1536, "V": 151936, "kind": "train"},
    "2048-train": {"N": 8192, "H": 2048, "V": 128256, "kind": "train"},
    "3584-train": {"N": 8192, "H": 3584, "V": 152064, "kind": "train"},
    "4096-32k-train": {"N": 8192, "H": 4096, "V": 32000, "kind": "train"},
    "896-ragged-t0.7-kept0.6": {
        "N": 7919,
        "H": 896,
        "V": 151936,
        "kind": "train",
        "kept": 0.6,
        "temperature": 0.7,
    },
    "4096-flat": {"N": 8192, "H": 4096, "V": 151936, "kind": "train", "logits": "flat"},
}
CASES = {**CPU_CASES, **GPU_CASES}


class Problem:
    """Inputs of a case: logits as a trained policy has them (peaked), or of some width (mid), or flat."""

    def __init__(self, case: dict[str, Any], device: str, seed: int):
        generator = torch.Generator(device).manual_seed(seed)
        self.number, self.width, self.size = case["N"], case["H"], case["V"]
        self.kind, self.temperature = case["kind"], case.get("temperature", 1.0)
        dtype = getattr(torch, case.get("dtype", "bfloat16"))
        spread = {"flat": 0.02, "mid": 3.0, "peaked": 2.0}[case.get("logits", "peaked")]
        drawn: dict[str, Any] = {"generator": generator, "device": device}
        weight = torch.randn(self.size, self.width, **drawn) * spread / self.width**0.5
        hidden = torch.randn(self.number, self.width, **drawn)
        self.target_T = torch.randint(self.size, (self.number,), **drawn)
        if (
            case.get("logits", "peaked") == "peaked"
        ):  # targets from certain to unlikely, entropy as in RL
            pull = 24 * torch.rand(self.number, 1, **drawn)
            hidden += pull * weight[self.target_T] / spread**2
        self.g_T = torch.randn(self.number, **drawn) / self.number
        self.kept_T = torch.rand(self.number, **drawn) < case.get("kept", 1.0)
        self.hidden_TD, self.weight_VD = hidden.to(dtype), weight.to(dtype)

    @property
    def trainable(self) -> bool:
        return self.kind == "train"


Found = tuple[Tensor, "Tensor | None", "Tensor | None", "Tensor | None"]
"""(logp of the kept tokens, entropy or None, dL/dh of all tokens or None, dL/dW or None)."""


def ours(problem: Problem, using: str | None = None) -> Found:
    kept = problem.kept_T.nonzero()[:, 0]
    hidden_TD, target_T, g_T = problem.hidden_TD[kept], problem.target_T[kept], problem.g_T[kept]
    head = Head(problem.weight_VD, temperature=problem.temperature)
    if problem.kind == "score":
        swept = log_prob.fused_log_prob(hidden_TD, head, target_T, using=using)
        return swept.logp_T, swept.entropy_T, None, None
    made = (
        Gradients(torch.zeros_like(problem.weight_VD, dtype=torch.float32))
        if problem.trainable
        else None
    )
    swept = log_prob.fused_log_prob(
        hidden_TD, head, target_T, lambda a, b, *_: (g_T[a:b], None), made, using=using
    )
    assert swept.hidden_TD is not None, "a gradient was asked for"
    whole = torch.zeros_like(problem.hidden_TD).index_copy_(0, kept, swept.hidden_TD)
    return swept.logp_T, swept.entropy_T, whole, made.weight_VD if made else None


def ours_tiles(problem: Problem) -> Found:
    from grpo.kernels.log_prob import fused

    before, fused.FORM = fused.FORM, "tiles"
    try:
        return ours(problem, "triton")
    finally:
        fused.FORM = before


def _by_autograd(
    problem: Problem,
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    select: bool = True,
) -> Found:
    """`function` of (hidden, weight) gives log-prob and entropy; gradients are autograd's."""
    scores = problem.kind == "score"
    hidden_TD = problem.hidden_TD.detach().requires_grad_(not scores)
    weight_VD = problem.weight_VD.detach().requires_grad_(problem.trainable)
    with torch.set_grad_enabled(not scores):
        logp_T, entropy_T = function(hidden_TD, weight_VD)
    logp_T = logp_T[problem.kept_T] if select else logp_T
    if scores:
        return logp_T, entropy_T, None, None
    (logp_T * problem.g_T[problem.kept_T]).sum().backward()
    return logp_T.detach(), entropy_T, hidden_TD.grad, weight_VD.grad


def naive(problem: Problem) -> Found:
    """Whole logits, log_softmax in float32, the entropy beside it."""

    def function(hidden_TD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
        logp_TV = (
            (hidden_TD @ weight_VD.T).div_(problem.temperature).log_softmax(-1, dtype=torch.float32)
        )
        with torch.no_grad():
            entropy_T = -torch.linalg.vecdot(logp_TV.exp(), logp_TV)
        return logp_TV.gather(-1, problem.target_T[:, None])[:, 0], entropy_T

    return _by_autograd(problem, function)


def trl(problem: Problem) -> Found:
    """TRL 1.16's `ChunkedLogProbFunction` on the kept tokens: its Triton kernel on CUDA, torch elsewhere."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    def function(hidden_TD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
        hidden_TD, target_T = hidden_TD[problem.kept_T], problem.target_T[problem.kept_T]
        return ChunkedLogProbFunction.apply(
            hidden_TD,
            weight_VD,
            None,
            target_T,
            problem.temperature,
            32768,
            None,
            1.0,
            ("entropy",),
        )[:2]

    return _by_autograd(problem, function, select=False)


def liger(problem: Problem) -> Found:
    """The head inside Liger's GRPO loss, forward and backward; it has no entropy and leaves no token out."""
    from liger_kernel.chunked_loss import fused_linear_ppo as ppo

    given = problem.hidden_TD, problem.weight_VD, problem.target_T, None
    logp_T, lse_T = ppo._selective_logprob_forward(*given, problem.temperature)
    if problem.kind == "score":
        return logp_T[problem.kept_T], None, None, None
    found = ppo._selective_logprob_backward(
        *given,
        lse_T,
        problem.g_T * problem.kept_T,
        problem.temperature,
        ppo._SELECTIVE_LOGPROB_VOCAB_CHUNK_SIZE,
        compute_grad_weight=problem.trainable,
    )
    return logp_T[problem.kept_T], None, found[0], found[1] if problem.trainable else None


def cce_exact(problem: Problem) -> Found:
    """cut-cross-entropy without its gradient filter; no entropy."""
    from cut_cross_entropy import linear_cross_entropy

    def function(hidden_TD: Tensor, weight_VD: Tensor) -> tuple[Tensor, None]:
        kept = problem.kept_T
        return -linear_cross_entropy(
            hidden_TD[kept] / problem.temperature,
            weight_VD,
            problem.target_T[kept],
            impl="cce_exact",
            reduction="none",
        ), None

    return _by_autograd(problem, function, select=False)


def products(problem: Problem) -> Found:
    """The bare products that the work needs; no result."""
    z_TV = problem.hidden_TD @ problem.weight_VD.T
    if problem.kind != "score":
        z_TV @ problem.weight_VD
    if problem.trainable:
        z_TV.T @ problem.hidden_TD
    return problem.g_T, None, None, None


CPU_PROVIDERS = {"ours": ours, "naive": naive, "trl": trl, "liger": liger, "products": products}
GPU_PROVIDERS = {
    "ours": ours,
    "ours_tiles": ours_tiles,
    "ours_chunked": lambda p: ours(p, "chunked"),
    **{name: CPU_PROVIDERS[name] for name in ("naive", "trl", "liger", "products")},
    "cce_exact": cce_exact,
}


# ---- measured ---------------------------------------------------------------------------------------------------


def seconds_of(action: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        action()
        ended.record()
        torch.cuda.synchronize()
        return begun.elapsed_time(ended) / 1e3
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def peak_of(name: str, problem: Problem, key: str, device: str, threads: int) -> int:
    """Bytes held at most beyond the inputs. On CPU in a process of its own, where freed memory is given back."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        GPU_PROVIDERS[key](problem)
        return torch.cuda.max_memory_allocated() - before
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    command = [
        sys.executable,
        "-m",
        "benchmarks.head",
        "--cases",
        name,
        "--peak",
        key,
        "--threads",
        str(threads),
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=ROOT, check=True
    )
    return int(done.stdout.split()[-1])


def gradient_bytes(problem: Problem, key: str) -> int:
    """Bytes of the gradients that the provider gives back: ours has the weight's in float32."""
    if problem.kind == "score" or key == "products":
        return 0
    hidden, weight = (
        part.numel() * part.element_size() for part in (problem.hidden_TD, problem.weight_VD)
    )
    return hidden + problem.trainable * (
        weight // problem.weight_VD.element_size() * 4 if "ours" in key else weight
    )


def resident_peak(name: str, key: str) -> int:
    """The most resident memory during one call, beyond that before it; a small call loaded the code."""
    CPU_PROVIDERS[key](Problem({**CASES[name], "N": 16, "H": 64, "V": 300}, "cpu", seed=1))
    problem = Problem(CASES[name], "cpu", seed=1)
    gc.collect()
    before, most, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = CPU_PROVIDERS[key](problem)
    most[0] = max(most[0], resident())
    done.set()
    watcher.join()
    del kept
    return most[0] - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def errors(problem: Problem, found: Found, sampled: int = 48) -> dict[str, float]:
    """Largest error of log-prob and entropy, relative error of dL/dh, over some tokens, and over confident ones."""
    logp_T, entropy_T, grad_TD, _ = found
    kept = problem.kept_T.nonzero()[:, 0]
    pick = torch.linspace(0, len(kept) - 1, sampled).long().to(kept.device)
    rows = kept[pick]
    head = Head(problem.weight_VD.double(), temperature=problem.temperature)
    exact = reference.fused_log_prob(
        problem.hidden_TD[rows].double(),
        head,
        problem.target_T[rows],
        lambda *_: (problem.g_T[rows].double(), None),
    )
    result = {"logp": float((logp_T[pick].double() - exact.logp_T).abs().max())}
    if entropy_T is not None:
        at = pick if len(entropy_T) == len(kept) else rows
        result["entropy"] = float((entropy_T.detach()[at].double() - exact.entropy_T).abs().max())
    if grad_TD is not None:
        assert exact.hidden_TD is not None, "a gradient was asked for"
        apart = grad_TD[rows].double() - exact.hidden_TD
        result["hidden"] = float(apart.norm() / exact.hidden_TD.norm())
        sure = exact.logp_T > -1e-6
        if sure.any():
            result["hidden_confident"] = float(apart[sure].norm() / exact.hidden_TD[sure].norm())
    return result


def measured(name: str, device: str, rounds: int, warmup: int, threads: int) -> dict[str, Any]:
    """All providers on one case."""
    problem = Problem(CASES[name], device, seed=1)
    providers = dict(GPU_PROVIDERS if device == "cuda" else CPU_PROVIDERS)
    times: dict[str, list[float]] = {key: [] for key in providers}
    found: dict[str, dict[str, Any]] = {}
    for key, provider in list(providers.items()):
        try:
            found[key] = {"errors": errors(problem, provider(problem)) if key != "products" else {}}
            peak = peak_of(name, problem, key, device, threads)
            found[key] |= {
                "peak_bytes": peak,
                "beyond_gradients_bytes": peak - gradient_bytes(problem, key),
            }
            for _ in range(warmup):
                provider(problem)
        except Exception as error:  # a peer that is missing or fails is named, the others go on
            found[key] = {"error": f"{type(error).__name__}: {error}"[:300]}
            del providers[key]
    for number in range(rounds):
        for key in list(providers)[:: 1 if number % 2 == 0 else -1]:
            times[key].append(seconds_of(partial(providers[key], problem), device))
    for key in providers:
        found[key] |= {
            "seconds": statistics.median(times[key]),
            "each": [round(t, 5) for t in times[key]],
        }
    return {"case": name, **CASES[name], "providers": found}


def table(result: dict[str, Any]) -> Iterator[str]:
    """A line a provider, beside ours."""
    own = result["providers"]["ours"]
    yield f"{result['case']}  N={result['N']} H={result['H']} V={result['V']} {result.get('dtype', 'bfloat16')}"
    for key, part in result["providers"].items():
        if "error" in part:
            yield f"  {key:13} {part['error'][:100]}"
            continue
        shown = " ".join(f"{name} {value:.0e}" for name, value in part.get("errors", {}).items())
        yield (
            f"  {key:13} {part['seconds'] * 1e3:9.1f} ms  {part['seconds'] / own.get('seconds', 1):5.2f} x ours  "
            f"{part['peak_bytes'] / 2**20:8.0f} MiB  {shown}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all of the device's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--peak", choices=CPU_PROVIDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        torch.set_num_threads(options.threads)
        print(resident_peak(options.cases[0], options.peak))
        return
    if options.list:
        print(*CASES, sep="\n")
        return
    torch.set_num_threads(options.threads)
    now, results = datetime.now(timezone.utc), []
    options.out.mkdir(exist_ok=True)
    file = options.out / f"head-{options.device}-{now:%Y-%m-%d-%H%M%S}.json"
    device = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} CPU cores"
    )
    for name in options.cases or (GPU_CASES if options.device == "cuda" else CPU_CASES):
        results.append(
            measured(name, options.device, options.rounds, options.warmup, options.threads)
        )
        print(*table(results[-1]), sep="\n", flush=True)
        file.write_text(
            json.dumps(
                {
                    "date": now.isoformat(timespec="seconds"),
                    "device": device,
                    "torch": torch.__version__,
                    "threads": options.threads,
                    "cases": results,
                },
                indent=1,
            )
            + "\n"
        )
    print(f"written to {file}")


if __name__ == "__main__":
    main()
