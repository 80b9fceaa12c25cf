"""Plots a run folder: training reward, held-out accuracy with its interval, and completion length by step.

    python examples/04_plot_a_run.py runs/quickstart-1 --out run.svg

Needs matplotlib (``pip install matplotlib``). Everything comes from `metrics.jsonl` and `evaluations.jsonl`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the back end is chosen first


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def held_out(folder: Path, part: str) -> list[tuple[int, float, float]]:
    """(step, accuracy, half the width of a 95 % interval over prompts) of every evaluation."""
    by_prompt: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_lines(folder / "evaluations.jsonl"):
        value = row["parts"].get(part)
        if value is not None:
            by_prompt[row["step"]][row["prompt_id"]].append(float(value == 1))
    points = []
    for step, prompts in sorted(by_prompt.items()):
        means = [fmean(values) for values in prompts.values()]
        error = stdev(means) / len(means) ** 0.5 if len(means) > 1 else 0.0
        points.append((step, fmean(means), 1.96 * error))
    return points


def plot(folder: Path, out: Path, part: str) -> None:
    metrics = read_lines(folder / "metrics.jsonl")
    steps = [record["step"] for record in metrics]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    rewards = [record["reward/mean"] for record in metrics]
    left.plot(steps, rewards, color="tab:blue", linewidth=1, label="training reward")
    points = held_out(folder, part)
    left.errorbar(
        [step for step, _, _ in points],
        [accuracy for _, accuracy, _ in points],
        yerr=[half for _, _, half in points],
        color="tab:red",
        marker="o",
        capsize=3,
        label="held-out accuracy, 95 % interval",
    )
    left.set(xlabel="step", ylim=(0, 1), title=f"{folder.name}: accuracy")
    left.legend(frameon=False, loc="lower right")
    lengths = [record["completion/length"] for record in metrics]
    right.plot(steps, lengths, color="tab:green", linewidth=1)
    right.set(xlabel="step", ylabel="tokens", title="completion length")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a run folder")
    parser.add_argument(
        "--out", type=Path, default=Path("run.svg"), help="an .svg, .png or .pdf file"
    )
    parser.add_argument("--part", default="correct", help="the reward whose full score is accuracy")
    arguments = parser.parse_args()
    plot(arguments.folder, arguments.out, arguments.part)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
