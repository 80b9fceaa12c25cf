"""Distillation against reinforcement learning on the small model, DeepSeek-R1's experiment, on the quickstart's task.

    python recipes/distill_vs_rl/run.py OUT [--seeds 0 1 2] [--steps 40] [--student FOLDER] [--teacher FOLDER]

Three ways to improve the same small model, each with as many completions sampled, 256 a step: reinforcement learning
of the small model alone; supervised fine-tuning on the large model's completions that the reward found right; on-policy
distillation, where the small model samples and the large one gives each token's log-prob. The small model is
``quickstart_small_base``, the large one the quickstart's after its run, which is made first without --teacher. Writes
``table.json`` and ``table.md`` into OUT; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Iterator

from grpo import Recipe
from grpo.report.console.numbers import interval
from grpo.report.folder import RunFolder
from grpo.sample import write
from grpo.stages import trainer_of
from grpo.statistics.comparison import compare
from rewards.tasks import countdown, held_out, load_task

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import arms  # noqa: E402  beside the folders of the recipes

SMALL = HERE.parent / "quickstart_small_base"
NUM_HELD_OUT = 256
COMPLETIONS_A_STEP = 256
ARMS = {
    "rl": "RL on the small model",
    "traces": "SFT on the large model's right traces",
    "on_policy": "on-policy distillation",
}
AGAINST_RL = (ARMS["traces"], ARMS["on_policy"])


# ---- model and rows ----------------------------------------------------------------------------------------------


def large_model(out: Path) -> Path:
    """The quickstart's model after its run."""
    run_dir = out / "teacher"
    if not (run_dir / "summary.json").exists():
        train(Recipe.load("quickstart", f"run_dir={run_dir}", "evaluate.every=0"))
    return run_dir / "final"


def write_rows(out: Path) -> tuple[Path, Path]:
    """The files of the problems to train on and of those held out."""
    rows = load_task("countdown").rows(style="symbols")
    parts = dict(zip(("train", "test"), held_out(rows, NUM_HELD_OUT)))
    for name, part in parts.items():
        write_lines(out / f"{name}.jsonl", part)
    return out / "train.jsonl", out / "test.jsonl"


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_traces(file: Path, recipe: Recipe, number: int) -> dict[str, Any]:
    """The right ones of `number` completions of the recipe's model, one a prompt after another; counts and tokens."""
    per_prompt = -(-number // sum(1 for _ in open(recipe.data.source or "")))
    sampled = file.with_suffix(".all.jsonl")
    with sampled.open("w") as stream:
        report = write(
            recipe, stream, n=per_prompt, rows=None, with_tokens=False, say=lambda *lines: None
        )
    lines = [json.loads(line) for line in sampled.read_text().splitlines()]
    taken = sorted(lines, key=lambda line: line["index"])[:number]
    right = [line for line in taken if is_right(line)]
    write_lines(file, [{"prompt": line["prompt_text"], **kept(line)} for line in right])
    tokens = sum(line["num_tokens"] for line in taken)
    return {
        "sampled": len(taken),
        "right": len(right),
        "tokens": tokens,
        "seconds": report["seconds"],
    }


def is_right(line: dict[str, Any]) -> bool:
    score = countdown(line["completion"], line["numbers"], line["target"], finish=line["finish"])
    return score.value == 1


def kept(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in ("completion", "numbers", "target")}


# ---- the arms -----------------------------------------------------------------------------------------------------


def train(recipe: Recipe) -> dict[str, Any]:
    """The summary of a run to its end, with the CPU-seconds that it took."""
    started = time.process_time()
    summary = trainer_of(recipe)(recipe, quiet=True).train()
    assert summary is not None, "nothing stops these runs"
    return {**summary, "cpu_seconds": time.process_time() - started}


def arm(name: str, out: Path, seed: int, *overrides: str) -> dict[str, Any]:
    """What one way came to with one seed: the held-out accuracy, tokens sampled, CPU-seconds."""
    folder = out / f"{name}-{seed}"
    result = folder / "result.json"
    if not result.exists():
        recipe = Recipe.load(HERE / f"{name}.yaml", f"seed={seed}", f"run_dir={folder}", *overrides)
        summary = train(recipe)
        after = summary["sets"]["test"]["after"]
        found = {
            "accuracy": after["accuracy"],
            "low": after["low"],
            "high": after["high"],
            "length": after["length"],
            "sampled_tokens": summary["tokens"]["sampled"],
            "cpu_seconds": summary["cpu_seconds"],
            "shares": shares_right(folder),
        }
        result.write_text(json.dumps(found))
    return dict(json.loads(result.read_text()))


def shares_right(folder: Path) -> list[float]:
    """Of each held-out problem, in the same order for all runs, the share of a run's last completions that is right."""
    right_of: dict[tuple[int, str], list[bool]] = {}
    for row in RunFolder(folder).evaluated():
        right_of.setdefault((row["step"], row["prompt_id"]), []).append(row["right"])
    last = max(step for step, _ in right_of)
    return [
        sum(right) / len(right) for (step, _), right in sorted(right_of.items()) if step == last
    ]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All arms with all seeds, and where the small and the large model stand without them."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    train_file, test_file = write_rows(out)
    small = options.student
    large = options.teacher or large_model(out)
    test = f"evaluate.sets.test.source={test_file}"
    found: dict[str, list[dict[str, Any]]] = {}
    for name, folder in (("the small model", small), ("the large model", large)):
        unchanged = [f"model.name={folder}", f"data.source={train_file}", "data.args={}", test]
        unchanged += ["evaluate.before=true", *options.overrides]
        found[name] = [arm("rl", out / name.split()[1], 0, *unchanged, "steps=0")]
    for seed in options.seeds:
        common = [f"model.name={small}", "data.args={}", test, *options.overrides]
        sampled = [*common, f"data.source={train_file}", f"steps={options.steps}"]
        teaches = Recipe.load(HERE / "rl.yaml", *sampled, f"model.name={large}", f"seed={seed}")
        traces = out / f"traces-{seed}.jsonl"
        written = _traces(traces, teaches, options.steps * COMPLETIONS_A_STEP)
        settings = {
            "rl": sampled,
            "traces": [*common, f"data.source={traces}"],
            "on_policy": [*sampled, f"distill.teacher={large}"],
        }
        for name, shown in ARMS.items():
            result = arm(name, out, seed, *settings[name])
            if name == "traces":
                result["sampled_tokens"] = written["tokens"]
                result["cpu_seconds"] += written["cpu_seconds"]
                result["traces"] = written["right"]
            found.setdefault(shown, []).append(result)
            print(f"{shown}, seed {seed}: {interval(result)}", flush=True)
    return {"seeds": options.seeds, "steps": options.steps, "found": found}


def _traces(traces: Path, recipe: Recipe, number: int) -> dict[str, Any]:
    """What `write_traces` returned, with its CPU-seconds; it is not done again."""
    report = traces.with_suffix(".json")
    if not report.exists():
        started = time.process_time()
        made = write_traces(traces, recipe, number)
        report.write_text(json.dumps({**made, "cpu_seconds": time.process_time() - started}))
    return dict(json.loads(report.read_text()))


# ---- the table ----------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table: accuracy by seed with intervals over problems, the mean with one over seeds.

    Then how far each way is ahead of reinforcement learning, paired by problem, the seeds of each pooled.
    """
    seeds = results["seeds"]
    heads = [f"seed {seed}" for seed in seeds]
    columns = [*heads, "mean over seeds", "against RL", "length", "tokens sampled", "CPU-seconds"]
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for name, runs in results["found"].items():
        cells = [interval(run) for run in runs]
        cells += ["" for _ in range(len(seeds) - len(cells))]
        accuracies = [100 * run["accuracy"] for run in runs]
        mean = arms.over_seeds(accuracies)
        ahead = "" if name not in AGAINST_RL else against(results["found"][ARMS["rl"]], runs)
        sums = [_mean(runs, key) for key in ("length", "sampled_tokens", "cpu_seconds")]
        yield f"| {name} | {' | '.join([*cells, mean, ahead, *(f'{value:,.0f}' for value in sums)])} |"


def against(rl: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """How many points `other` is ahead of `rl`, both a mean over seeds, with an interval for new problems."""
    found = compare(_by_problem(rl), _by_problem(other))
    bounds = (100 * found.low, 100 * found.high)
    return f"{100 * found.difference:+.1f} [{bounds[0]:+.1f}, {bounds[1]:+.1f}]"


def _by_problem(runs: list[dict[str, Any]]) -> list[float]:
    """The share of right completions of each problem, a mean over the runs."""
    return [sum(shares) / len(runs) for shares in zip(*(run["shares"] for run in runs))]


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return sum(run[key] for run in runs) / len(runs)


def main() -> None:
    """Run all arms and print the table."""
    parser = arms.options_of(__doc__)
    parser.add_argument(
        "--student",
        type=Path,
        default=SMALL,
        help="the small model; default: quickstart_small_base",
    )
    parser.add_argument("--teacher", type=Path, help="the large one; default: trained here")
    options = parser.parse_args()
    results = run(options)
    arms.write_table(options.out, results, table(results))


if __name__ == "__main__":
    main()
