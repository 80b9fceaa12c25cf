"""What the parts that train with this library share: the quickstart's recipe, a run's course, small measures."""

from __future__ import annotations

import json
import resource
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from benchmarks.evidence.frame import ROOT

QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


def children_cpu_seconds() -> float:
    """Those of this process's workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def short(value: Any) -> Any:
    """A number with four significant digits; anything else as it is."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


@contextmanager
def folder() -> Iterator[Path]:
    """A place for a run, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="evidence-") as name:
        yield Path(name)


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def quickstart(place: Path, *overrides: str, **sections: Mapping[str, Any]) -> Any:
    """The quickstart's recipe, running in `place` without checkpoints; `sections` are put in place of its own."""
    from grpo import Recipe
    from grpo.recipe import read_yaml, resolve_paths

    values = resolve_paths(read_yaml(QUICKSTART), QUICKSTART.parent)
    values |= {name: dict(section) for name, section in sections.items()}
    fixed = ["checkpoint.every=0", "log.report=false", f"run_dir={place}/run"]
    return Recipe.from_mapping(values, *fixed, *overrides)


def first_above(values: Sequence[float], limit: float, window: int) -> int | None:
    """The first step, counted from 1, at which the mean of the last `window` values exceeds `limit`.

    >>> first_above([0.1, 0.9, 1.0, 1.0], 0.94, 2), first_above([0.1], 0.94, 2)
    (3, None)
    """
    for end in range(window, len(values) + 1):
        if sum(values[end - window : end]) / window > limit:
            return end
    return None
