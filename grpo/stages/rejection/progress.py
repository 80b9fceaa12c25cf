"""What a resumed run of rejection sampling needs: ``progress.json``, written whole after each step.

It holds the books and the sizes of the files that grow line by line. A run that is killed anywhere cuts these back to
those sizes and goes on; the seeds of completions do the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

from grpo.recipe import RecipeError
from grpo.run.folder import disk_errors, write_text
from grpo.run.tensor_file import flush

PROGRESS = "progress.json"
FILES = ("samples.jsonl", "accepted.jsonl", "pass_rates.jsonl", "metrics.jsonl")


@dataclass(slots=True, eq=False)
class RejectProgress:
    """How far a run has come: its steps, seconds, the state of its books, the sizes of its files in bytes.

    ``fingerprint`` says what it was begun with.
    """

    fingerprint: dict[str, Any]
    num_steps: int = 0
    seconds: float = 0.0
    books: Mapping[str, Any] | None = None
    sizes: dict[str, int] = field(default_factory=dict)


def save_progress(folder: Path, progress: RejectProgress) -> None:
    """Write `progress` with the sizes that the files have now, all of which the disk holds by then."""
    progress.sizes = {}
    for name in FILES:
        file = folder / name
        if file.exists():
            with disk_errors(file):
                flush(file)
            progress.sizes[name] = file.stat().st_size
    values = {name: getattr(progress, name) for name in RejectProgress.__slots__}
    with disk_errors(folder / PROGRESS):
        write_text(folder / PROGRESS, json.dumps(values, indent=1) + "\n")
        flush(folder / PROGRESS)
        flush(folder)


def read_progress(folder: Path) -> RejectProgress | None:
    """The progress of the run in `folder`; None if it has made none. `RecipeError` if it cannot be read."""
    try:
        values = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        return RejectProgress(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(
            f"run folder: {folder / PROGRESS} cannot be read ({error}); restore it from a backup, or choose another "
            "run_dir"
        ) from None


def kept_steps(folder: Path) -> int:
    """How many steps of a run of rejection sampling in `folder` a resumed run keeps; 0 if there is none."""
    try:
        found = read_progress(folder)
    except RecipeError:
        return 0
    return 0 if found is None else found.num_steps


def cut_back(folder: Path, progress: RejectProgress | None) -> None:
    """Cut the files back to where `progress` was saved, to nothing without one. Raises `RecipeError`."""
    sizes = {} if progress is None else progress.sizes
    for name in FILES:
        file = folder / name
        size = sizes.get(name, 0)
        found = file.stat().st_size if file.exists() else 0
        if found < size:
            raise RecipeError(
                f"run folder: {file} has {found} bytes, and the run had written {size}; restore it from a backup, or "
                "choose another run_dir"
            )
    for name in FILES:
        if (folder / name).exists():
            with (folder / name).open("rb+") as lines:
                lines.truncate(sizes.get(name, 0))
