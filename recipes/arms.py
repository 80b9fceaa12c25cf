"""What the scripts that compare ways of training share: their command line, the mean over seeds, the table's files.

Which arms there are, and what is measured, is up to `arithmetic_tools/run.py` and `distill_vs_rl/run.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from grpo.statistics.intervals import mean_interval


def options_of(description: str) -> argparse.ArgumentParser:
    """The command line: where to write, seeds, steps, recipe keys of every run."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for all that is made and the table")
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
    return parser


def over_seeds(percentages: Sequence[float]) -> str:
    """The mean of a percentage over seeds, with its 95 % interval for new seeds; empty for one seed."""
    if len(percentages) < 2:
        return ""
    of = mean_interval(percentages)
    return f"{of.value:.1f} % [{of.low:.1f}, {of.high:.1f}]"


def write_table(out: Path, results: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Keep the results and the lines of their table, and print these."""
    table = "\n".join(lines)
    (out / "table.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(table + "\n")
    print(table)
