"""All that a run needs to continue as if it had never stopped: written whole or not at all, and verified when read.

A checkpoint is a folder ``checkpoints/step-000020``: tensors as safetensors, everything else as JSON, and a manifest
with the size and CRC-32 of each file. It is written under another name, flushed to the disk and renamed, so a crash
at any moment leaves the previous one whole. Nothing in it is unpickled. Which parts of a run are in it is decided in
``state``, when and in which thread it is written in ``storage`` and ``async_writer``.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, cast

import numpy
import torch
from safetensors.torch import load_file
from torch import Tensor

from grpo.recipe import RecipeError
from grpo.run.folder import disk_errors
from grpo.run.tensor_file import (
    Output,
    SummedFile,
    checked,
    copied,
    flatten_tensors,
    flush,
    nothing,
    open_large,
    put_together,
    tensors_in,
    write_tensors,
)

FORMAT = 2
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")
_DAMAGED = re.compile(r"damaged-step-(\d{6,})")
_LEFT = re.compile(r"\.(writing|dropping)-.*")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A run at the end of `step`: weights, reference and optimizer hold tensors, `state` plain values.

    ``generators`` are the states of the random generators of each process (see `random_state`). ``held_out`` is the
    accuracy that was evaluated at this step, None if none was.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    reference: Mapping[str, Tensor] | None
    state: Mapping[str, Any]
    generators: Sequence[Mapping[str, Any]] = field(default_factory=list)
    held_out: float | None = None

    def copied(self) -> Checkpoint:
        """A copy in the host's memory, which later updates do not change; a reference is never changed in place."""
        reference = self.reference
        if reference is not None:
            reference = {name: tensor.cpu() for name, tensor in reference.items()}
        return replace(
            self,
            weights=copied(self.weights),
            optimizer=copied(self.optimizer),
            reference=reference,
            generators=copied(self.generators),
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors: nearly the size of the folder, and at least that of a copy in memory."""
        total = 0
        for part in (self.weights, self.optimizer, self.reference):
            total += sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(part))
        return total


def folder_of(run: Path) -> Path:
    """Where the checkpoints of a run are."""
    return run / "checkpoints"


def path_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of `step`."""
    return folder_of(run) / f"step-{step:06d}"


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


# ---- writing ------------------------------------------------------------------------------------------------


def save(
    run: Path,
    checkpoint: Checkpoint,
    keep: int,
    best: int = 0,
    *,
    journals: Sequence[Path] = (),
    between: Callable[[], None] = nothing,
) -> Path:
    """Write `checkpoint` under `run`; returns its folder.

    The last `keep` checkpoints stay (this one among them), and the `best` by held-out accuracy. `journals` are
    files that the checkpoint relies on; they are flushed before it counts. `between` is called between pieces and may
    raise, which leaves everything as it was. Raises `OSError` if the disk does not take it.
    """
    path = path_of(run, checkpoint.step)
    writing = path.with_name(f".writing-{path.name}")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        _write(writing, checkpoint, between)
        for file in journals:
            flush(file)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)  # half a checkpoint would keep a full disk full
        raise
    if path.exists():
        _drop(path)
    writing.rename(path)
    flush(path.parent)
    rotate(run, keep, best, checkpoint.step)
    return path


def _write(folder: Path, checkpoint: Checkpoint, between: Callable[[], None]) -> None:
    contents: dict[str, dict[str, Tensor]] = {"weights": dict(checkpoint.weights)}
    if checkpoint.reference is not None:
        contents["reference"] = dict(checkpoint.reference)
    plain: dict[str, Any] = {"step": checkpoint.step, "state": checkpoint.state}
    for name in ("optimizer", "generators"):
        contents[name] = {}
        plain[name] = flatten_tensors(getattr(checkpoint, name), contents[name])
    entries: dict[str, Any] = {}
    for name, tensors in contents.items():
        file = folder / f"{name}.safetensors"
        write = partial(write_tensors, tensors=tensors)
        entries[file.name] = _write_file(file, between, write, open_large)
    entries["state.json"] = _write_text(folder / "state.json", json.dumps(plain), between)
    manifest = {
        "format": FORMAT,
        "step": checkpoint.step,
        "held_out": checkpoint.held_out,
        "files": entries,
    }
    _write_text(folder / MANIFEST, _manifest_text(manifest), between)
    flush(folder)


def _write_text(file: Path, text: str, between: Callable[[], None]) -> dict[str, Any]:
    return _write_file(file, between, lambda out: out.write(text.encode()), _open_small)


def _open_small(file: Path) -> Output:
    return file.open("wb")


def _write_file(
    file: Path,
    between: Callable[[], None],
    write: Callable[[SummedFile], None],
    open_file: Callable[[Path], Output],
) -> dict[str, Any]:
    """Write a file and have the disk hold it; returns its entry in the manifest."""
    with disk_errors(file):
        with closing(open_file(file)) as out:
            summed = SummedFile(out, between)
            write(summed)
        flush(file)
    return summed.entry()


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest's file, which holds a checksum of itself too."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1) + "\n"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in `path`; `ValueError` with a message if it is missing or was changed."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        manifest.pop("sha256")
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{MANIFEST} cannot be read ({type(error).__name__})") from None
    if text != _manifest_text(manifest):
        raise ValueError(f"{MANIFEST} was changed")
    return manifest


def rotate(run: Path, keep: int, best: int, step: int) -> None:
    """Drop the checkpoints under `run` that are neither among the last `keep` nor the `best`, after one of `step`.

    Damaged ones that have now been made again go too.
    """
    paths = _all(run)
    accuracy = _accuracies(paths)
    ranked = sorted(accuracy, key=lambda path: (accuracy[path], step_of(path)))
    staying = {*paths[-keep:]}
    if best:
        staying.update(ranked[-best:])
    for path in paths:
        if path not in staying:
            _drop(path)
    for path in folder_of(run).iterdir():
        match = _DAMAGED.fullmatch(path.name)
        if match and int(match[1]) <= step:
            _drop(path)


def _drop(path: Path) -> None:
    """Remove a folder so that half of it is never taken for a checkpoint."""
    dropping = path.with_name(f".dropping-{path.name}")
    shutil.rmtree(dropping, ignore_errors=True)
    path.rename(dropping)
    shutil.rmtree(dropping)


def _accuracies(paths: Sequence[Path]) -> dict[Path, float]:
    """The held-out accuracy of the checkpoints that have one."""
    accuracies = {path: _held_out(path) for path in paths}
    return {path: accuracy for path, accuracy in accuracies.items() if accuracy is not None}


def _held_out(path: Path) -> float | None:
    try:
        return read_manifest(path)["held_out"]
    except ValueError:
        return None


def clear(run: Path) -> None:
    """Remove what a process that was killed while it wrote has left under `run`."""
    for folder in (run, folder_of(run)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if _LEFT.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


# ---- reading ------------------------------------------------------------------------------------------------


def problems(path: Path) -> list[str]:
    """What keeps the checkpoint in `path` from being used, each with the file's name; nothing if it is whole.

    Raises `RecipeError` for one that another version of the library wrote.
    """
    try:
        manifest = read_manifest(path)
    except ValueError as error:
        return [str(error)]
    if manifest["format"] != FORMAT:
        raise RecipeError(
            f"checkpoint: {path} has format {manifest['format']}, and this version reads {FORMAT}; "
            "continue with the version that wrote it, or choose another run_dir"
        )
    if path.name != f"step-{manifest['step']:06d}":
        return [f"{MANIFEST} is that of step {manifest['step']}"]
    entries = manifest["files"].items()
    checks = [_problem(path / name, entry["bytes"], entry["crc32"]) for name, entry in entries]
    return [problem for problem in checks if problem is not None]


def _problem(file: Path, size: int, crc32: int) -> str | None:
    try:
        actual_size = file.stat().st_size
        if actual_size != size:
            return f"{file.name} has {actual_size} bytes instead of {size}"
        entry = checked(file)
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    if entry["bytes"] != size:
        return f"{file.name} has {entry['bytes']} bytes instead of {size}"
    return None if entry["crc32"] == crc32 else f"{file.name} holds other bytes than were written"


def unlisted_files(path: Path) -> list[str]:
    """Files in `path` that its manifest does not name; they are never read."""
    known = {MANIFEST, *read_manifest(path)["files"]}
    return sorted(file.name for file in path.iterdir() if file.name not in known)


def newest_step(run: Path) -> int | None:
    """The step of the newest checkpoint that was written to its end; None without one."""
    paths = _all(run)
    return step_of(paths[-1]) if paths else None


def newest_whole(run: Path) -> tuple[Path | None, list[str]]:
    """(the newest checkpoint of `run` that is whole, what a reader should know of the others).

    Damaged ones are set aside as ``damaged-step-...``. None if the run has made no checkpoint yet; if it has and
    none is whole, `RecipeError`.
    """
    notes: list[str] = []
    for path in reversed(_all(run)):
        damage = problems(path)
        if not damage:
            return path, [*notes, *_notes_on_unlisted(path)]
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        notes.append(
            f"checkpoint: {path.name} is damaged: {'; '.join(damage)}; it is set aside as {aside}"
        )
    if any(_DAMAGED.fullmatch(path.name) for path in _content(folder_of(run))):
        advice = (
            f"no checkpoint of {run} is whole, so the run cannot continue; start again with another "
            "run_dir, or restore the folder from a backup"
        )
        raise RecipeError("; ".join([*notes, advice]))
    return None, notes


def _notes_on_unlisted(path: Path) -> list[str]:
    return [
        f"checkpoint: {path} also holds {name}, which no checkpoint wrote and nothing reads"
        for name in unlisted_files(path)
    ]


def load(path: Path) -> Checkpoint:
    """Read the checkpoint in `path`, which is whole, into the host's memory."""
    manifest = read_manifest(path)
    plain = json.loads((path / "state.json").read_text(encoding="utf-8"))
    files = [path / name for name in manifest["files"] if name.endswith(".safetensors")]
    tensors = {file.stem: load_file(file) for file in files}
    return Checkpoint(
        step=plain["step"],
        weights=tensors["weights"],
        optimizer=put_together(plain["optimizer"], tensors["optimizer"]),
        reference=tensors.get("reference"),
        state=plain["state"],
        generators=put_together(plain["generators"], tensors["generators"]),
        held_out=manifest["held_out"],
    )


def best(run: Path) -> tuple[Path, float] | None:
    """The checkpoint of `run` with the highest held-out accuracy, the later of equals; None if none was evaluated."""
    accuracy = _accuracies(_all(run))
    if not accuracy:
        return None
    path = max(accuracy, key=lambda path: (accuracy[path], step_of(path)))
    return path, accuracy[path]


def _all(run: Path) -> list[Path]:
    """The checkpoints of `run`, whole or not, in the order of their steps."""
    paths = [path for path in _content(folder_of(run)) if _NAME.fullmatch(path.name)]
    return sorted(paths, key=step_of)


def _content(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


# ---- random generators --------------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """The state of every generator of this process, as plain values and tensors."""
    version, integers, gauss = random.getstate()
    legacy = cast(tuple[str, numpy.ndarray, int, int, float], numpy.random.get_state(legacy=True))
    name, keys, position, has_gauss, cached = legacy
    return {
        "python": [version, list(integers), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(keys.astype("int64")),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set every generator of this process to a `random_state`."""
    version, integers, gauss = state["python"]
    random.setstate((version, tuple(integers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
