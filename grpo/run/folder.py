"""The run folder: when it may be begun or gone on with, who holds it, and how a file in it is written or cut back."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping

from safetensors import SafetensorError

from grpo.recipe import Recipe, RecipeError, differences, read_yaml

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

FREE_KEYS = ("steps", "run_dir", "evaluate.", "checkpoint.", "log.", "watchdog.", "gates")
MEMORY_KEYS = (
    "sample.max_rows",
    "sample.kv_memory_gib",
    "sample.keep_graphs",
    "optim.tokens_per_micro_batch",
    "model.gradient_checkpointing",
    "threads",
)
JOURNALS = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl", "alarms.jsonl")


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to overwrite a run, to resume what is not there, or to resume under another recipe."""
    _check_writable(folder)
    if not resume:
        if os.path.lexists(folder) and not _is_fresh(folder):
            raise RecipeError(
                f"run folder: {folder} exists; go on with it by --resume, or choose another run_dir"
            )
        return
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(
            f"run folder: there is no run to resume in {folder}; leave --resume out to start one"
        )
    changed = [
        f"{name} was {a!r}, is {b!r}"
        for name, a, b in changes(folder, recipe)
        if not name.startswith(FREE_KEYS)
        and name not in MEMORY_KEYS
        or name == "evaluate.reward"
        and chooses_prompts(recipe)
    ]
    if changed:
        raise RecipeError(
            f"run folder: {folder} was made by another recipe: {'; '.join(changed)}; resume with the "
            "old values, or choose another run_dir"
        )


def _is_fresh(folder: Path) -> bool:
    """Whether `folder` holds nothing, or no more than a run that was killed before it wrote its recipe."""
    return folder.is_dir() and not any(
        place.is_dir() or place.stat().st_size and not place.name.startswith(".writing-")
        for place in folder.iterdir()
    )


def changes(folder: Path, recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) where `recipe` differs from the one that the run in `folder` was last begun with."""
    return list(
        differences(
            Recipe.from_mapping(read_yaml(folder / "recipe.yaml")).to_mapping(), recipe.to_mapping()
        )
    )


def chooses_prompts(recipe: Recipe) -> bool:
    """Whether the accurate reward decides what is sampled or trained."""
    return bool(
        recipe.advantage.retire_at
        or recipe.advantage.flat_by == "accuracy"
        or recipe.data.pass_low > 0
        or recipe.data.pass_high < 1
    )


def _check_writable(folder: Path) -> None:
    above = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if above == folder and not above.is_dir():
        return
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what, why = (
            "written" if above == folder else "made",
            "read-only" if above.is_dir() else "not a folder",
        )
        raise RecipeError(
            f"run folder: {folder} cannot be {what}, since {above} is {why}; choose another run_dir"
        )


def hold(folder: Path) -> BinaryIO:
    """Keep other runs out of `folder` as long as the returned file is open; refuse where another one goes on there."""
    held = (folder / JOURNALS[0]).open("ab")
    try:
        if fcntl is not None:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise RecipeError(
            f"run folder: another run goes on in {folder}; end it first (close() a Trainer), or choose "
            "another run_dir"
        ) from None
    except OSError:
        pass  # a file system without locks
    return held


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    writing = path.with_name(f".writing-{path.name}")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """What Python, safetensors and torch raise where a file cannot be written, as an OSError that names it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{place} cannot be written ({error.strerror or error})") from None
    except (SafetensorError, RuntimeError) as error:
        raise OSError(
            f"{place} cannot be written ({' '.join(str(error).split())[:200]}); is the disk full?"
        ) from None


# ---- what grows line by line ----------------------------------------------------------------------------------


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each journal as it stands."""
    return {name: (folder / name).stat().st_size for name in JOURNALS if (folder / name).exists()}


def truncate_to_step(file: Path, step: int, size: int | None = None) -> None:
    """Keep of a JSONL file its first `size` bytes; where it does not end a line there, the records up to `step`.

    A last line that was cut off by a crash goes too.
    """
    if not file.exists():
        return
    with file.open("rb+") as lines:
        lines.truncate(
            size if size is not None and _ends_a_line(lines, size) else _end_of(lines, step)
        )


def _ends_a_line(lines: BinaryIO, size: int) -> bool:
    if not size:
        return True
    lines.seek(size - 1)
    return lines.read(1) == b"\n"


def _end_of(lines: BinaryIO, step: int) -> int:
    """Where the records up to `step` end."""
    lines.seek(0)
    end = 0
    for line in lines:
        try:
            record: Mapping[str, Any] = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or record["step"] > step:
            break
        end += len(line)
    return end
