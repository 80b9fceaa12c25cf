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
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

from grpo import Recipe, Trainer
from grpo.statistics.intervals import mean_interval, share_interval
from grpo.types import ScoredGroup

ARMS = {"calculator": [], "none": ["tools=[]", "environment={}"]}
"""What each arm sets in the recipe."""
SHOWN = {"calculator": "with the calculator", "none": "without"}


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    """One run to its end: its figures on the held-out questions, the tokens it sampled and its CPU-seconds."""
    file = folder / "result.json"
    if not file.exists():
        started = time.process_time()
        recipe = Recipe.load("arithmetic_tools", f"run_dir={folder}", *overrides)
        trainer = Trainer(recipe, quiet=True)
        summary = trainer.train()
        assert summary is not None, "nothing stops these runs"
        (evaluation,) = trainer.evaluations.values()
        found = {
            "accuracy": shares(evaluation.groups, is_right),
            "calling": shares(evaluation.groups, is_calling),
            "samples": recipe.evaluate.samples,
            "sampled_tokens": summary["tokens"]["sampled"],
            "cpu_seconds": time.process_time() - started,
        }
        file.write_text(json.dumps(found))
    return dict(json.loads(file.read_text()))


def shares(groups: Sequence[ScoredGroup], is_so: Callable[[ScoredGroup, int], bool]) -> list[float]:
    """The share of each question's completions of which something is so."""
    found = []
    for group in groups:
        number = len(group.completions)
        found.append(sum(is_so(group, index) for index in range(number)) / number)
    return found


def is_right(group: ScoredGroup, index: int) -> bool:
    return group.scores[index].value == 1


def is_calling(group: ScoredGroup, index: int) -> bool:
    return any(turn.calls for turn in group.completions[index].turns)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both arms with all seeds, and the base without a step, whose completions another seed draws too."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for arm, settings in ARMS.items():
        found[arm] = {"before": [], "after": []}
        for seed in options.seeds:
            common = [f"seed={seed}", "evaluate.every=0", *settings, *options.overrides]
            for when, steps in (("before", 0), ("after", options.steps)):
                folder = out / f"{arm}-{seed}-{when}"
                result = trained(folder, *common, f"steps={steps}")
                found[arm][when].append(result)
                print(f"{SHOWN[arm]}, seed {seed}, {when}: {shown(result)}", flush=True)
    return {"seeds": options.seeds, "steps": options.steps, "found": found}


# ---- the table ----------------------------------------------------------------------------------------------------


def shown(result: Mapping[str, Any]) -> str:
    return f"{cell(result, 'calling')} call, {cell(result, 'accuracy')} right"


def cell(result: Mapping[str, Any], key: str) -> str:
    """``41.2 % [38.0, 44.5]``: the mean over questions, its interval for new questions."""
    of = share_interval(result[key], samples=result["samples"])
    return f"{100 * of.value:.1f} % [{100 * of.low:.1f}, {100 * of.high:.1f}]"


def over_seeds(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    """The mean over seeds, where there are several, with its interval for new seeds."""
    means = [100 * sum(run[key]) / len(run[key]) for run in runs]
    if len(means) < 2:
        return ""
    of = mean_interval(means)
    return f"{of.value:.1f} % [{of.low:.1f}, {of.high:.1f}]"


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table."""
    heads = [f"seed {seed}" for seed in results["seeds"]]
    yield f"| | {' | '.join(heads)} | mean over seeds |"
    yield f"|---|{'---|' * (len(heads) + 1)}"
    for arm, runs_when in results["found"].items():
        for key, name in (("calling", "completions that call"), ("accuracy", "right")):
            if key == "calling" and arm == "none":
                continue
            for when, runs in runs_when.items():
                cells = [cell(one, key) for one in runs]
                cells.append(over_seeds(runs, key))
                yield f"| {SHOWN[arm]}: {name}, {when} | {' | '.join(cells)} |"
    yield ""
    for arm, runs_when in results["found"].items():
        after = runs_when["after"]
        tokens = sum(run["sampled_tokens"] for run in after) / len(after)
        seconds = sum(run["cpu_seconds"] for run in after) / len(after)
        yield f"{SHOWN[arm]}: {tokens:,.0f} tokens sampled, {seconds:,.0f} CPU-seconds a run"


def main() -> None:
    """Run both arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the runs and the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        default=[],
        metavar="key=value",
        help="recipe keys to set in every run",
    )
    options = parser.parse_args()
    results = run(options)
    lines = list(table(results))
    (options.out / "table.json").write_text(json.dumps(results, indent=1))
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
