"""What a calculator is worth to reinforcement learning: the recipe arithmetic_tools with one, and without.

    python recipes/arithmetic_tools/run.py OUT [--seeds 0 1 2] [--steps 40] [--set key=value ...]

Both begin with the same base and make the same number of steps on the same questions; without a calculator a call is
a text like any other, which nobody answers. Writes ``table.json`` and ``table.md`` into OUT: the share of held-out
completions that call and their accuracy, before and after, with 95 % intervals over questions, and means over seeds.
What is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping

from grpo import Recipe, Trainer
from grpo.statistics.intervals import share_interval

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import arms  # noqa: E402  beside the folders of the recipes

ARMS = {"calculator": [], "none": ["tools=[]", "environment={}"]}
"""What each arm sets in the recipe."""
SHOWN = {"calculator": "with the calculator", "none": "without"}
ROWS = (
    ("calculator", "calling", "completions that call"),
    ("calculator", "accuracy", "right"),
    ("none", "accuracy", "right"),
)
Row = Mapping[str, Any]


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    """One run to its end: its figures on the held-out questions, tokens sampled and CPU-seconds."""
    file = folder / "result.json"
    if not file.exists():
        started = time.process_time()
        recipe = Recipe.load("arithmetic_tools", f"run_dir={folder}", *overrides)
        summary = Trainer(recipe, quiet=True).train()
        assert summary is not None, "nothing stops these runs"
        found = {
            "before": figures(folder, 0),
            "after": figures(folder, recipe.steps),
            "sampled_tokens": summary["tokens"]["sampled"],
            "cpu_seconds": time.process_time() - started,
        }
        file.write_text(json.dumps(found))
    return dict(json.loads(file.read_text()))


def figures(folder: Path, step: int) -> dict[str, Any]:
    """The share of each held-out question's completions that call, and that are right, after a step."""
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] == step]
    return {
        "calling": shares(rows, is_calling),
        "accuracy": shares(rows, is_right),
        "samples": 1 + max(row["index"] for row in rows),
    }


def shares(rows: Iterable[Row], is_so: Callable[[Row], bool]) -> list[float]:
    """The share of each question's completions of which something is so."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        found.setdefault(row["prompt_id"], []).append(is_so(row))
    return [sum(values) / len(values) for values in found.values()]


def is_right(row: Row) -> bool:
    return bool(row["right"])


def is_calling(row: Row) -> bool:
    """Whether a call was answered; one that nobody answers is a text like any other."""
    return any(turn["calls"] for turn in row.get("turns", ()))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both arms with all seeds."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    common = [
        f"steps={options.steps}",
        "evaluate.every=0",
        "checkpoint.every=0",
        *options.overrides,
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for arm, settings in ARMS.items():
            result = trained(out / f"{arm}-{seed}", f"seed={seed}", *settings, *common)
            found.setdefault(arm, []).append(result)
            print(f"{SHOWN[arm]}, seed {seed}: {shown(result)}", flush=True)
    return {"seeds": options.seeds, "steps": options.steps, "found": found}


# ---- the table ----------------------------------------------------------------------------------------------------


def shown(result: Mapping[str, Any]) -> str:
    before = cell(result["before"], "accuracy")
    return f"right {before} -> {cell(result['after'], 'accuracy')}"


def cell(of: Mapping[str, Any], key: str) -> str:
    """``41.2 % [38.0, 44.5]``: the mean over questions, its interval for new questions."""
    found = share_interval(of[key], samples=of["samples"])
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def percentages(runs: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    """The mean over questions of each run."""
    return [100 * sum(run[key]) / len(run[key]) for run in runs]


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table: intervals over questions for each seed, over seeds in the last column."""
    heads = [f"seed {seed}" for seed in results["seeds"]]
    yield f"| | {' | '.join(heads)} | mean over seeds |"
    yield f"|---|{'---|' * (len(heads) + 1)}"
    for arm, key, name in ROWS:
        for when in ("before", "after"):
            runs = [run[when] for run in results["found"][arm]]
            cells = [*(cell(run, key) for run in runs), arms.over_seeds(percentages(runs, key))]
            yield f"| {SHOWN[arm]}: {name}, {when} | {' | '.join(cells)} |"
    yield ""
    for arm, runs in results["found"].items():
        tokens = sum(run["sampled_tokens"] for run in runs) / len(runs)
        seconds = sum(run["cpu_seconds"] for run in runs) / len(runs)
        yield f"{SHOWN[arm]}: {tokens:,.0f} tokens sampled, {seconds:,.0f} CPU-seconds a run"


def main() -> None:
    """Run both arms and print the table."""
    options = arms.options_of(__doc__).parse_args()
    results = run(options)
    arms.write_table(options.out, results, table(results))


if __name__ == "__main__":
    main()
