"""A model as a plain folder, which every library loads: python -m benchmarks.dequantise models/smollm2 TARGET."""

from __future__ import annotations

import sys
from pathlib import Path

from grpo.model.policy import Policy
from grpo.recipe import ModelSection


def main() -> None:
    source, target = sys.argv[1:]
    Policy.load(ModelSection(name=source)).save(Path(target))
    print(f"written to {target}")


if __name__ == "__main__":
    main()
