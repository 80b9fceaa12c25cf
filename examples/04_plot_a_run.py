"""Plots run folders: held-out accuracy with its interval, reward, length, zero-variance groups, mismatch, entropy.

    python examples/04_plot_a_run.py runs/quickstart-1 --out run.svg

Several folders are drawn over each other; a run may be under way. Needs matplotlib (``pip install matplotlib``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import grpo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument(
        "--out", type=Path, default=Path("run.svg"), help="an .svg, .png or .pdf file"
    )
    arguments = parser.parse_args()
    grpo.plot(*arguments.folders).savefig(arguments.out)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
