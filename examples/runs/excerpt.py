"""Cuts a run folder down to what the notebooks and the pictures read, small enough to be committed.

    python examples/runs/excerpt.py runs/quickstart-1 examples/runs/quickstart/seed-0 --samples

Metrics keep all records, numbers to four digits (without ``--samples`` of the steps only the keys that pictures draw).
Of the completions, `STEPS` of training and the first and the last evaluation are kept, each for the first few prompts.
Paths lose the folder that they were in.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from grpo.recipe import to_yaml
from grpo.report.folder import RunFolder, is_step

STEPS = (1, 20, 40, 60)
NUM_PROMPTS = 4
NUM_HELD_OUT = 12
DRAWN = (
    "step",
    "reward/mean",
    "rewards/correct/retries",
    "completion/length",
    "completion/tokens",
    "group/flat",
    "policy/drift",
    "policy/entropy",
    "seconds/step",
)


def excerpt(source: RunFolder, out: Path, *, with_samples: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    metrics = [rounded(record) for record in source.metrics()]
    if not with_samples:
        metrics = [drawn(record) if is_step(record) else record for record in metrics]
    write_lines(out / "metrics.jsonl", metrics)
    text = json.dumps(rounded(source.summary()), indent=1, ensure_ascii=False)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    (out / "recipe.yaml").write_text(to_yaml(without_folders(source.recipe())), encoding="utf-8")
    if with_samples:
        samples = (row for row in source.samples() if row["step"] in STEPS)
        write_lines(out / "samples.jsonl", first_prompts(samples, NUM_PROMPTS))
        ends = (row for row in source.evaluated() if row["step"] in (0, STEPS[-1]))
        write_lines(out / "evaluations.jsonl", first_prompts(ends, NUM_HELD_OUT))


def without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the names of model and run folder alone, in place of their paths."""
    model = {**recipe["model"], "name": Path(recipe["model"]["name"]).name}
    return {**recipe, "model": model, "run_dir": f"runs/{Path(recipe['run_dir']).name}"}


def drawn(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in DRAWN}


def first_prompts(rows: Iterable[Mapping[str, Any]], number: int) -> Iterator[Mapping[str, Any]]:
    """The completions of the first prompts of each step."""
    prompts_of: dict[int, list[str]] = {}
    for row in rows:
        prompts = prompts_of.setdefault(row["step"], [])
        if row["prompt_id"] not in prompts and len(prompts) < number:
            prompts.append(row["prompt_id"])
        if row["prompt_id"] in prompts:
            yield row


def rounded(value: Any) -> Any:
    """`value` with its numbers to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return value


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", action="store_true", help="keep completions, and all metrics")
    arguments = parser.parse_args()
    excerpt(RunFolder.at(arguments.run), arguments.out, with_samples=arguments.samples)


if __name__ == "__main__":
    main()
