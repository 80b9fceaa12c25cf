"""The run folder: when a run may start or continue in it, who holds it, and how a file in it is written or cut back."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Iterator, Mapping

from safetensors import SafetensorError

from grpo.recipe import Recipe, RecipeError, differences, read_yaml

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

FREE_KEYS = (
    "steps",
    "run_dir",
    "evaluate.",
    "checkpoint.",
    "log.",
    "watchdog.",
    "gates",
    "cost.",
    "rewards_service.",
)
MEMORY_KEYS = (
    "sample.max_rows",
    "sample.kv_memory_gib",
    "sample.keep_graphs",
    "sample.servers",
    "sample.server_folder",
    "sample.server_silence",
    "sample.server_load",
    "sample.probe_every",
    "optim.tokens_per_micro_batch",
    "model.gradient_checkpointing",
    "distributed.shard",
    "threads",
)
DECIDES_WHAT_IS_RIGHT = ("evaluate.reward", "evaluate.threshold")
JOURNALS = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl", "alarms.jsonl")
"""The files that grow line by line."""
LOCK_TRIES = 4
LOCK_WAIT_SECONDS = 0.05


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to overwrite a run, to resume what is not there, or to resume under another recipe."""
    _check_writable(folder)
    if not resume:
        if os.path.lexists(folder) and not _is_fresh(folder):
            raise RecipeError(
                f"run folder: {folder} exists; continue it with --resume (from Python resume=True), "
                "or choose another run_dir"
            )
        return
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(
            f"run folder: there is no run to resume in {folder}; leave --resume out to start one"
        )
    refused = [
        f"{name} was {old!r}, is {new!r}"
        for name, old, new in changes(folder, recipe)
        if not may_change(name, recipe)
    ]
    if refused:
        raise RecipeError(
            f"run folder: {folder} was made by another recipe: {'; '.join(refused)}; resume with the "
            "old values, or choose another run_dir"
        )


def may_change(key: str, recipe: Recipe) -> bool:
    """Whether a run may be resumed with another value of `key`."""
    if key == "evaluate.reward" and chooses_prompts(recipe):
        return False
    if recipe.stage == "reject" and key in DECIDES_WHAT_IS_RIGHT:
        return False
    return key.startswith(FREE_KEYS) or key in MEMORY_KEYS


def _is_fresh(folder: Path) -> bool:
    """Whether `folder` holds nothing, or no more than a run that was killed before it wrote its recipe."""
    return folder.is_dir() and not any(
        path.is_dir() or path.stat().st_size and not path.name.startswith(".writing-")
        for path in folder.iterdir()
    )


def changes(folder: Path, recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) where `recipe` differs from the one last used in `folder`."""
    old = Recipe.from_mapping(read_yaml(folder / "recipe.yaml"))
    return list(differences(old.to_mapping(), recipe.to_mapping()))


def chooses_prompts(recipe: Recipe) -> bool:
    """Whether the accurate reward decides what is sampled or trained."""
    return bool(
        recipe.advantage.retire_at
        or recipe.advantage.flat_by == "accuracy"
        or recipe.data.pass_low > 0
        or recipe.data.pass_high < 1
    )


def _check_writable(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if nearest == folder and not nearest.is_dir():
        return
    reason = _why_not_writable(nearest)
    if not reason:
        return
    verb = "written" if nearest == folder else "made"
    raise RecipeError(
        f"run folder: {folder} cannot be {verb}, since {reason}; choose another run_dir"
    )


def _why_not_writable(place: Path) -> str:
    """Why nothing can be made in `place`; empty if something can. Found out by making and removing a folder."""
    if not place.is_dir():
        return f"{place} is not a folder"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place} is read-only"
    try:
        Path(tempfile.mkdtemp(prefix=".writing-", dir=place)).rmdir()
    except OSError as error:
        return f"nothing can be made in {place} ({error.strerror})"
    return ""


def lock(folder: Path, file: str = JOURNALS[0]) -> BinaryIO:
    """Keep other runs out of `folder` while the returned file is open; `RecipeError` if one is active there."""
    held = (folder / file).open("ab")
    try:
        if fcntl is not None:
            _take(held)
    except BlockingIOError:
        held.close()
        raise RecipeError(
            f"run folder: another run is active in {folder}; end it first (close() a Trainer), or choose "
            "another run_dir"
        ) from None
    except OSError:
        pass  # a file system without locks
    return held


def _take(held: BinaryIO) -> None:
    """Lock an open file, also while a reader looks for an instant whether it is locked; `BlockingIOError` if it is."""
    assert fcntl is not None
    for _ in range(LOCK_TRIES - 1):
        with suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_WAIT_SECONDS)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    writing = path.with_name(f".writing-{path.name}")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what Python, safetensors and torch raise where a file cannot be written into an OSError that names it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror or error})") from None
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OSError(f"{path} cannot be written ({reason}); is the disk full?") from None


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether the run in `folder` has made all steps of `recipe` and written its summary."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        is_whole = recipe.stage == "reject"  # its steps follow from its prompts
        return is_whole or bool(summary["steps"] >= recipe.steps)
    except (OSError, ValueError, KeyError, TypeError):
        return False


# ---- what grows line by line ----------------------------------------------------------------------------------


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each journal."""
    files = {name: folder / name for name in JOURNALS}
    return {name: file.stat().st_size for name, file in files.items() if file.exists()}


def truncate_to_step(file: Path, step: int, size: int | None = None) -> None:
    """Keep the first `size` bytes of a JSONL file; where no line ends there, the records up to `step`.

    A last line that was cut off by a crash goes too.
    """
    if not file.exists():
        return
    with file.open("rb+") as lines:
        if size is None or not _ends_a_line(lines, size):
            size = _end_of(lines, step)
        lines.truncate(size)


def _ends_a_line(lines: BinaryIO, size: int) -> bool:
    if not size:
        return True
    lines.seek(size - 1)
    return lines.read(1) == b"\n"


def _end_of(lines: BinaryIO, step: int) -> int:
    """The offset at which the records up to `step` end."""
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
