"""The quickstart's task under each preset: held-out accuracy against sampled tokens and wall-clock.

    python -m benchmarks.presets [--steps 60] [--seeds 0 1 2] [--presets grpo dapo] [--out benchmarks/results]
    python -m benchmarks.presets --show benchmarks/results/presets-DATE.json --docs docs/objectives.md

The first form trains: one process at a time on one thread, each preset with the quickstart's model, task, learning
rate and sizes and with nothing of the loss but its own. It writes JSON after every run and continues where it was
stopped. The second writes the table and the plot.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from grpo.recipe.presets import PRESETS  # noqa: E402

COLOURS = (
    "#1b6ca8",
    "#d1495b",
    "#2e8b57",
    "#e09f3e",
    "#6a4c93",
    "#17a2a2",
    "#8d6e63",
    "#c2185b",
    "#7cb342",
    "#455a64",
    "#ff7043",
)


# ---- training ---------------------------------------------------------------------------------------------------


def train_one(
    preset: str, seed: int, steps: int, every: int, held_out: int, samples: int
) -> dict[str, Any]:
    """One run, in this process: accuracy, tokens and seconds of training at every evaluation."""
    from grpo import Recipe, Trainer
    from grpo.recipe import read_yaml, resolve_paths

    file = ROOT / "recipes" / "quickstart.yaml"
    values = resolve_paths(read_yaml(file), file.parent)
    values["loss"] = {"preset": preset}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            Recipe.from_mapping(
                values,
                f"seed={seed}",
                f"steps={steps}",
                f"evaluate.every={every}",
                f"data.held_out={held_out}",
                f"evaluate.samples={samples}",
                "checkpoint.every=0",
                f"run_dir={folder}/run",
            )
        )
        records = list(trainer)
        rows = [
            json.loads(line)
            for line in (Path(folder) / "run" / "evaluations.jsonl").read_text().splitlines()
        ]
    points = []
    for step in sorted({row["step"] for row in rows}):
        judged = [row["parts"]["correct"] for row in rows if row["step"] == step]
        right = [value >= 1.0 for value in judged if value is not None]
        done = records[:step]
        points.append(
            {
                "step": step,
                "accuracy": fmean(right),
                "tokens": sum(r["completion/tokens"] for r in done),
                "seconds": sum(r["seconds/step"] for r in done),
            }
        )
    last = records[-1] if records else {}
    return {
        "preset": preset,
        "seed": seed,
        "points": points,
        "length": last.get("completion/length"),
        "entropy": last.get("policy/entropy"),
        "ledger": trainer.ledger,
    }


def measure(options: argparse.Namespace) -> Path:
    """Train every preset and seed that the file of today does not have yet."""
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"presets-{datetime.now(timezone.utc):%Y-%m-%d}.json"
    result = (
        json.loads(file.read_text())
        if file.exists()
        else {
            "steps": options.steps,
            "held_out": options.held_out,
            "samples": options.samples,
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "runs": [],
        }
    )
    known = {(run["preset"], run["seed"]) for run in result["runs"]}
    for seed in options.seeds:
        for preset in options.presets:
            if (preset, seed) in known:
                continue
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.presets",
                    "--one",
                    preset,
                    str(seed),
                    "--steps",
                    str(options.steps),
                    "--every",
                    str(options.every),
                    "--held-out",
                    str(options.held_out),
                    "--samples",
                    str(options.samples),
                ],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
            )
            run = json.loads(done.stdout.splitlines()[-1])
            result["runs"].append(run)
            file.write_text(json.dumps(result, indent=1) + "\n")
            print(
                preset, seed, [round(point["accuracy"], 3) for point in run["points"]], flush=True
            )
    return file


# ---- table and plot ---------------------------------------------------------------------------------------------


def averaged(result: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """For each preset its points, each number the mean over seeds, with the spread of accuracy."""
    found: dict[str, list[dict[str, float]]] = {}
    for preset in dict.fromkeys(run["preset"] for run in result["runs"]):
        runs = [run["points"] for run in result["runs"] if run["preset"] == preset]
        found[preset] = [
            {
                **{name: fmean(point[name] for point in points) for name in points[0]},
                "low": min(p["accuracy"] for p in points),
                "high": max(p["accuracy"] for p in points),
                "seeds": len(points),
            }
            for points in zip(*runs)
        ]
    return found


def table(result: Mapping[str, Any]) -> str:
    """Accuracy before and after as Markdown, with what the way there cost."""
    lines = [
        "| preset | seeds | before | after (lowest, highest seed) | tokens sampled | seconds of training |",
        "|---|---|---|---|---|---|",
    ]
    for preset, points in sorted(
        averaged(result).items(), key=lambda item: -item[1][-1]["accuracy"]
    ):
        first, last = points[0], points[-1]
        lines.append(
            f"| `{preset}` | {last['seeds']:.0f} | {100 * first['accuracy']:.1f} % | "
            f"{100 * last['accuracy']:.1f} % ({100 * last['low']:.1f}, {100 * last['high']:.1f}) | "
            f"{last['tokens'] / 1000:.0f}k | {last['seconds']:.0f} |"
        )
    return "\n".join(lines)


def plot(result: Mapping[str, Any]) -> str:
    """Two panels of accuracy, against tokens and against seconds, as SVG."""
    curves = averaged(result)
    panels = [
        panel(curves, "tokens", "sampled tokens (thousands)", 1000, 60),
        panel(curves, "seconds", "seconds of training", 1, 500),
    ]
    names = [
        f'<text x="{950}" y="{60 + 22 * i}" fill="{COLOURS[i % len(COLOURS)]}">{name}</text>'
        for i, name in enumerate(curves)
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1080 400" font-family="sans-serif" font-size="13">\n'
        '<rect width="1080" height="400" fill="white"/>\n'
        + "\n".join([*panels, *names])
        + "\n</svg>\n"
    )


def panel(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    axis: str,
    label: str,
    unit: float,
    left: int,
) -> str:
    """One set of axes with a line for each preset."""
    width, top, bottom = 380, 40, 340
    most = max(point[axis] for points in curves.values() for point in points) or 1
    values = [point["accuracy"] for points in curves.values() for point in points]
    low, high = 0.05 * int(min(values) / 0.05), 0.05 * (int(max(values) / 0.05) + 1)

    def at(point: Mapping[str, float]) -> str:
        y = bottom - (point["accuracy"] - low) / (high - low) * (bottom - top)
        return f"{left + point[axis] / most * width:.1f},{y:.1f}"

    lines = [
        f'<polyline fill="none" stroke="{COLOURS[i % len(COLOURS)]}" stroke-width="2" '
        f'points="{" ".join(map(at, points))}"/>'
        for i, points in enumerate(curves.values())
    ]
    marks = [
        f'<text x="{left - 8}" y="{bottom - share * (bottom - top) + 4}" text-anchor="end">'
        f"{100 * (low + share * (high - low)):.0f} %</text>"
        for share in (0, 0.5, 1)
    ]
    marks += [
        f'<text x="{left + share * width}" y="{bottom + 20}" text-anchor="middle">{share * most / unit:.0f}</text>'
        for share in (0, 0.5, 1)
    ]
    frame = (
        f'<path d="M{left} {top}V{bottom}H{left + width}" fill="none" stroke="black"/>'
        f'<text x="{left + width / 2}" y="{bottom + 42}" text-anchor="middle">{label}</text>'
        f'<text x="{left}" y="{top - 14}">held-out accuracy</text>'
    )
    return "\n".join([frame, *marks, *lines])


def show(file: Path, docs: Path) -> None:
    """Put the table between the marks of `docs` and the plot next to it."""
    result = json.loads(file.read_text())
    begin, end = "<!-- presets: begin -->", "<!-- presets: end -->"
    text = docs.read_text()
    head, _, rest = text.partition(begin)
    docs.write_text(f"{head}{begin}\n{table(result)}\n{end}{rest.partition(end)[2]}")
    docs.with_name("presets.svg").write_text(plot(result))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--one", nargs=2, metavar=("PRESET", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--show", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "objectives.md")
    options = parser.parse_args()
    if options.one:
        print(
            json.dumps(
                train_one(
                    options.one[0],
                    int(options.one[1]),
                    options.steps,
                    options.every,
                    options.held_out,
                    options.samples,
                )
            )
        )
    elif options.show:
        show(options.show, options.docs)
    else:
        print(measure(options))


if __name__ == "__main__":
    main()
