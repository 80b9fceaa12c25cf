"""Plots a run folder: training reward, held-out accuracy with its interval, and completion length by step.

    python examples/04_plot_a_run.py runs/quickstart-1 --out run.svg

Needs matplotlib (``pip install matplotlib``). Everything comes from `metrics.jsonl`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the back end is chosen first


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def accuracies(records: list[dict], name: str) -> dict[str, list[float]]:
    """Of every evaluation of a set its step, accuracy, and how far the 95 % interval reaches below and above."""
    found = [record for record in records if record.get(f"{name}/accuracy") is not None]
    values = [record[f"{name}/accuracy"] for record in found]
    return {
        "step": [record["step"] for record in found],
        "accuracy": values,
        "below": [value - record[f"{name}/low"] for value, record in zip(values, found)],
        "above": [record[f"{name}/high"] - value for value, record in zip(values, found)],
    }


def plot(folder: Path, out: Path, name: str) -> None:
    records = read_lines(folder / "metrics.jsonl")
    metrics = [record for record in records if "reward/mean" in record]
    steps = [record["step"] for record in metrics]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    rewards = [record["reward/mean"] for record in metrics]
    left.plot(steps, rewards, color="tab:blue", linewidth=1, label="training reward")
    points = accuracies(records, name)
    left.errorbar(
        points["step"],
        points["accuracy"],
        yerr=[points["below"], points["above"]],
        color="tab:red",
        marker="o",
        capsize=3,
        label=f"{name} accuracy, 95 % interval",
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
    parser.add_argument(
        "--set", default="heldout", help="heldout, or eval/NAME for a set of the recipe"
    )
    arguments = parser.parse_args()
    plot(arguments.folder, arguments.out, arguments.set)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
