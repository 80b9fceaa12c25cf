"""How far `grpo plan` is off where it can be compared: steps of small models on this CPU, predicted and measured.

    python -m benchmarks.plan [--steps 5] [--output benchmarks/results] [--case NAME ...]

First the bare processor is measured: the rate of a large product, the bandwidth at which a product of one row reads a
large matrix. Two runs then calibrate what stands between them and a model (`FITTED`);
every other case is predicted from its sizes alone and measured afterwards, in processor seconds of one thread, so that
what else the machine does matters little. The mean length of completions and the share of flat groups, which a plan is
given, are taken from the run.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from grpo import Recipe, Trainer
from grpo.plan.assumed import Assumed
from grpo.plan.device import Device
from grpo.plan.sampling import Sampler, sample
from grpo.plan.shape import Shape, shape_of_config
from grpo.plan.update import Trainer as Trainers
from grpo.plan.update import update
from grpo.plan.work import Work

VOCABULARY = 4096


@dataclass(frozen=True)
class Case:
    """A model by width and layers, and the sizes of a step."""

    name: str
    width: int
    layers: int
    prompts: int
    group: int
    prompt_tokens: int
    new: int


CASES = (
    Case("small", 128, 2, 8, 8, 32, 48),
    Case("middle", 512, 8, 4, 8, 64, 48),
    Case("one prompt", 512, 8, 1, 32, 64, 48),
    Case("many prompts", 512, 8, 16, 2, 64, 48),
    Case("few rows", 512, 8, 2, 4, 64, 48),
    Case("many rows", 512, 8, 8, 16, 64, 32),
    Case("long completions", 512, 8, 4, 4, 64, 192),
    Case("long prompts", 512, 8, 4, 4, 384, 32),
    Case("wide", 1024, 4, 4, 8, 64, 32),
    Case("deep", 256, 16, 4, 8, 64, 48),
    Case("narrow", 256, 4, 16, 8, 32, 64),
    Case("fresh, short", 768, 6, 3, 6, 128, 48),
    Case("fresh, long", 384, 12, 8, 4, 48, 80),
)
FITTED = ("small", "middle")
ROUNDS = 200


# ---- the bare processor ---------------------------------------------------------------------------------------------


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of one call, the median of so many."""
    work()
    taken = []
    for _ in range(repeats):
        begun = time.thread_time()
        work()
        taken.append(time.thread_time() - begun)
    return statistics.median(taken)


def bare_device() -> Device:
    """This processor, one thread, in float32."""
    left = torch.randn(1024, 1024)
    right = torch.randn(1024, 1024)
    matrix = torch.randn(8192, 4096)
    row = torch.randn(1, 4096)
    product = seconds_of(lambda: left @ right, 9)
    reading = seconds_of(lambda: row @ matrix.T, 9)
    return Device(
        name=platform.processor() or platform.machine(),
        operations=2 * 1024**3 / product,
        bandwidth=matrix.numel() * 4 / reading,
        memory=16e9,
        link=float("inf"),
        network=float("inf"),
        number_bytes=4,
        overlaps=False,
    )


# ---- a run ----------------------------------------------------------------------------------------------------------


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, w0 to w4095."""
    words = {f"w{i}": i for i in range(VOCABULARY - 3)}
    for special in ("<pad>", "<s>", "</s>"):
        words[special] = len(words)
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def config_of(case: Case) -> Qwen2Config:
    heads = max(2, case.width // 64)
    return Qwen2Config(
        hidden_size=case.width,
        intermediate_size=4 * case.width,
        num_hidden_layers=case.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )


def by_words(text: str) -> float:
    """A reward with some spread in every group."""
    return float(sum(map(ord, text)) % 5)


def rows_of(case: Case, number: int) -> list[dict[str, str]]:
    """Prompts of the case's length."""
    count = case.prompt_tokens
    return [
        {"prompt": " ".join(f"w{(number * i + 7 * j) % 4000}" for j in range(count))}
        for i in range(number)
    ]


def recipe_of(case: Case, steps: int, folder: Path) -> Recipe:
    """A run of nothing but steps."""
    return Recipe.from_mapping(
        {
            "steps": steps,
            "run_dir": str(folder),
            "threads": 1,
            "data": {"template": "plain"},
            "sample": {
                "prompts": case.prompts,
                "group_size": case.group,
                "max_tokens": case.new,
            },
            "optim": {"lr": 1e-6},
            "evaluate": {"before": False, "every": 0},
            "checkpoint": {"every": 0},
            "log": {"report": False},
            "gates": {"flat": "off"},
        }
    )


def measured(case: Case, steps: int) -> dict[str, float]:
    """Processor seconds of sampling and update a step, medians without the first two; mean length."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config_of(case)).float()
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(case, steps + 3, Path(folder) / "run")
        rows = rows_of(case, (steps + 3) * case.prompts)
        trainer = Trainer(
            recipe,
            data=rows,
            rewards={"words": by_words},
            model=model,
            tokenizer=tokenizer(),
            quiet=True,
        )
        records = list(itertools.islice(trainer, steps + 2))  # its last step never comes
        lines = (Path(folder) / "run" / "costs.jsonl").read_text().splitlines()
    sums = [json.loads(line) for line in lines]
    marks = [line["phases"] for line in sums if line["event"] == "step"]
    return {
        "sample": _median_step(marks, "sample"),
        "update": _median_step(marks, "update"),
        "length": statistics.mean(record["completion/length"] for record in records[2:]),
        "flat": statistics.mean(record["group/flat"] for record in records[2:]),
    }


def _median_step(marks: list[dict[str, Any]], phase: str) -> float:
    """The median over steps of what this process spent in the phase."""
    spent = [_own(mark, phase) for mark in marks]
    return statistics.median(b - a for a, b in zip(spent[1:], spent[2:]))


def _own(mark: dict[str, Any], phase: str) -> float:
    found = mark.get(phase) or {}
    return float(found.get("cpu", 0.0)) - float(found.get("children", 0.0))


# ---- a prediction ---------------------------------------------------------------------------------------------------


def work_of(case: Case, seen: dict[str, float]) -> Work:
    return Work(
        prompts=case.prompts,
        group=case.group,
        prompt_tokens=case.prompt_tokens,
        mean=seen["length"],
        longest=case.new,
        flat=seen["flat"],
    )


def predicted(
    case: Case, seen: dict[str, float], device: Device, assumed: Assumed
) -> dict[str, float]:
    shape = shape_of_config(config_of(case), case.name)
    work = work_of(case, seen)
    sampler = Sampler(device, rows=256)
    sampling = sample(shape, sampler, work, assumed, completions=work.completions)
    return {
        "sample": sampling.seconds,
        "update": update(shape, Trainers(device), work, assumed).seconds,
    }


START = Assumed(
    weights=1.0,
    keys=0.7,
    product=0.7,
    training=0.6,
    head=0.8,
    kernel_seconds=8e-6,
    row_seconds=1e-5,
    launch_seconds=8e-6,
    element_passes=12.0,
    optimizer_bytes=28,
    spread=0.0,
)
"""What the fit begins with; it changes four of them."""


def fitted(seen: dict[str, dict[str, float]], device: Device, start: Assumed = START) -> Assumed:
    """The assumptions under which `FITTED` come out: operations and logits by the small one, shares by the other."""
    assumed = start
    small, middle = (next(case for case in CASES if case.name == name) for name in FITTED)
    for _ in range(ROUNDS):
        for case, phase, name, falls in (
            (small, "sample", "kernel_seconds", False),
            (middle, "sample", "product", True),
            (small, "update", "logit_bytes", False),
            (middle, "update", "training", True),
        ):
            found = predicted(case, seen[case.name], device, assumed)[phase]
            ratio = seen[case.name][phase] / found
            value = getattr(assumed, name) * ratio ** (-1 if falls else 1)
            assumed = replace(assumed, **{name: value})
    return assumed


# ---- the table ----------------------------------------------------------------------------------------------------


def rows(
    cases: list[Case], seen: dict[str, dict[str, float]], device: Device, assumed: Assumed
) -> Iterator[dict[str, Any]]:
    for case in cases:
        found = predicted(case, seen[case.name], device, assumed)
        shape: Shape = shape_of_config(config_of(case), case.name)
        yield {
            "case": asdict(case),
            "parameters": shape.total,
            "fitted": case.name in FITTED,
            "measured": seen[case.name],
            "predicted": found,
            "ratio": {phase: found[phase] / seen[case.name][phase] for phase in found},
        }


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    titles = "case, model, prompts x group, prompt, new, sampling s, predicted, ratio, update s, predicted, ratio"
    yield f"| {titles.replace(', ', ' | ')} |"
    yield "|---" * 11 + "|"
    for row in results:
        case, seen, found, ratio = row["case"], row["measured"], row["predicted"], row["ratio"]
        name = f"{case['name']} (fitted)" if row["fitted"] else case["name"]
        yield (
            f"| {name} | {row['parameters'] / 1e6:.1f}M, {case['layers']} x {case['width']} | "
            f"{case['prompts']} x {case['group']} | {case['prompt_tokens']} | {case['new']} | "
            f"{seen['sample']:.2f} | {found['sample']:.2f} | {ratio['sample']:.2f} | "
            f"{seen['update']:.2f} | {found['update']:.2f} | {ratio['update']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--case", action="append", help="beside the fitted ones; default: all")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = FITTED + tuple(options.case or [case.name for case in CASES])
    cases = [case for case in CASES if case.name in wanted]
    device = bare_device()
    seen = {}
    for case in cases:
        seen[case.name] = measured(case, options.steps)
        print(case.name, seen[case.name], flush=True)
    assumed = fitted(seen, device)
    results = list(rows(cases, seen, device, assumed))
    today = datetime.date.today().isoformat()
    result = {
        "date": today,
        "processor": device.name,
        "torch": torch.__version__,
        "operations": device.operations,
        "bandwidth": device.bandwidth,
        "assumed": asdict(assumed),
        "cases": results,
    }
    place = options.output / f"plan-cpu-{today}.json"
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{device.operations / 1e9:.1f} GFLOP/s, {device.bandwidth / 1e9:.1f} GB/s", assumed)
    print(*table(results), place, sep="\n")


if __name__ == "__main__":
    main()
