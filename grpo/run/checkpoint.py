"""All a run needs to go on as if it had never stopped: written whole or not at all, and known to be whole when read.

A checkpoint is a folder ``checkpoints/step-000020``: tensors as safetensors, everything else as JSON, and a manifest
with the size and CRC-32 of each file. It is written beside its place, flushed to the disk and renamed into it, so a
crash at any moment leaves the one before it whole. Nothing in it is unpickled. Which parts of a run are in it is the
matter of ``resume``, when and in which thread it is written that of ``writer``.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

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
    opened,
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
        reference = (
            None
            if self.reference is None
            else {name: part.cpu() for name, part in self.reference.items()}
        )
        return Checkpoint(
            self.step,
            copied(self.weights),
            copied(self.optimizer),
            reference,
            self.state,
            copied(self.generators),
            self.held_out,
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors: nearly the size of the folder, and at least that of a copy in memory."""
        return sum(
            tensor.numel() * tensor.element_size()
            for part in (self.weights, self.optimizer, self.reference)
            for tensor in tensors_in(part)
        )


def folder_of(run: Path) -> Path:
    return run / "checkpoints"


def place_of(run: Path, step: int) -> Path:
    return folder_of(run) / f"step-{step:06d}"


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

    Of the others the last `keep` stay (this one among them), and the `best` by held-out accuracy. `journals` are
    files that the checkpoint relies on, and are flushed before it counts. `between` is asked between pieces and may
    raise, which leaves everything as it was. Raises `OSError` where the disk does not take it.
    """
    place = place_of(run, checkpoint.step)
    writing = place.with_name(f".writing-{place.name}")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        _write(writing, checkpoint, between)
        for file in journals:
            flush(file)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)  # half a checkpoint would keep a full disk full
        raise
    if place.exists():
        _drop(place)
    writing.rename(place)
    flush(place.parent)
    rotate(run, keep, best, checkpoint.step)
    return place


def _write(writing: Path, checkpoint: Checkpoint, between: Callable[[], None]) -> None:
    contents = {"weights": dict(checkpoint.weights)}
    if checkpoint.reference is not None:
        contents["reference"] = dict(checkpoint.reference)
    plain: dict[str, Any] = {"step": checkpoint.step, "state": checkpoint.state}
    for name in ("optimizer", "generators"):
        contents[name] = {}
        plain[name] = flatten_tensors(getattr(checkpoint, name), contents[name])
    files: dict[str, Any] = {}
    for name, tensors in contents.items():
        files[f"{name}.safetensors"] = _written(
            writing / f"{name}.safetensors",
            between,
            lambda out, tensors=tensors: write_tensors(out, tensors),
            opened,
        )
    files["state.json"] = _written(
        writing / "state.json", between, lambda out: out.write(json.dumps(plain).encode())
    )
    manifest = {
        "format": FORMAT,
        "step": checkpoint.step,
        "held_out": checkpoint.held_out,
        "files": files,
    }
    _written(writing / MANIFEST, between, lambda out: out.write(_manifest_text(manifest).encode()))
    flush(writing)


def _written(
    file: Path,
    between: Callable[[], None],
    content: Callable[[SummedFile], None],
    opens: Callable[[Path], Output] = lambda file: file.open("wb"),
) -> dict[str, Any]:
    """Write a file and have the disk hold it; returns what a manifest says of it."""
    with disk_errors(file):
        with closing(opens(file)) as out:
            summed = SummedFile(out, between)
            content(summed)
        flush(file)
    return summed.entry()


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest's file, which holds a checksum of itself too."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1) + "\n"


def read_manifest(place: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in `place`; `ValueError` with words where it is missing or was changed."""
    try:
        text = (place / MANIFEST).read_text(encoding="utf-8")
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

    What was damaged and has now been made again goes too.
    """
    places = _all(run)
    accuracy = {place: value for place in places if (value := _held_out(place)) is not None}
    ranked = sorted(accuracy, key=lambda place: (accuracy[place], places.index(place)))
    kept = {*places[-keep:], *(ranked[-best:] if best else ())}
    for place in places:
        if place not in kept:
            _drop(place)
    for place in folder_of(run).iterdir():
        match = _DAMAGED.fullmatch(place.name)
        if match and int(match[1]) <= step:
            _drop(place)


def _drop(place: Path) -> None:
    """Remove a folder so that half of it is never taken for a checkpoint."""
    dropping = place.with_name(f".dropping-{place.name}")
    shutil.rmtree(dropping, ignore_errors=True)
    place.rename(dropping)
    shutil.rmtree(dropping)


def _held_out(place: Path) -> float | None:
    try:
        return read_manifest(place)["held_out"]
    except ValueError:
        return None


def clear(run: Path) -> None:
    """Remove what a process that was killed while it wrote has left under `run`."""
    for folder in (run, folder_of(run)):
        for place in folder.iterdir() if folder.is_dir() else ():
            if _LEFT.fullmatch(place.name):
                shutil.rmtree(place) if place.is_dir() else place.unlink()


# ---- reading ------------------------------------------------------------------------------------------------


def problems(place: Path) -> list[str]:
    """What keeps the checkpoint in `place` from being used, each in words with the file's name; nothing if it is whole.

    Raises `RecipeError` for one that another version of the library wrote.
    """
    try:
        manifest = read_manifest(place)
    except ValueError as error:
        return [str(error)]
    if manifest["format"] != FORMAT:
        raise RecipeError(
            f"checkpoint: {place} has format {manifest['format']}, and this version reads {FORMAT}; "
            "go on with the version that wrote it, or choose another run_dir"
        )
    if place.name != f"step-{manifest['step']:06d}":
        return [f"{MANIFEST} is that of step {manifest['step']}"]
    return [
        problem
        for name, entry in manifest["files"].items()
        if (problem := _problem(place / name, entry["bytes"], entry["crc32"]))
    ]


def _problem(file: Path, size: int, crc32: int) -> str | None:
    try:
        found = checked(file) if file.stat().st_size == size else {"bytes": file.stat().st_size}
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    if found["bytes"] != size:
        return f"{file.name} has {found['bytes']} bytes instead of {size}"
    return None if found["crc32"] == crc32 else f"{file.name} holds other bytes than were written"


def unlisted_files(place: Path) -> list[str]:
    """Files in `place` that its manifest does not name; they are never read."""
    known = {MANIFEST, *read_manifest(place)["files"]}
    return sorted(file.name for file in place.iterdir() if file.name not in known)


def newest_whole(run: Path) -> tuple[Path | None, list[str]]:
    """(the newest checkpoint of `run` that is whole, what a reader should know of the others).

    Damaged ones are set aside as ``damaged-step-...``. None if the run has made no checkpoint yet; where it has and
    none is whole, `RecipeError`.
    """
    notes = []
    for place in reversed(_all(run)):
        found = problems(place)
        if not found:
            notes += [
                f"checkpoint: {place} also holds {name}, which no checkpoint wrote and nothing reads"
                for name in unlisted_files(place)
            ]
            return place, notes
        aside = place.with_name(f"damaged-{place.name}")
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        notes.append(
            f"checkpoint: {place.name} is damaged: {'; '.join(found)}; it is set aside as {aside}"
        )
    damaged = (
        [p for p in folder_of(run).iterdir() if _DAMAGED.fullmatch(p.name)]
        if folder_of(run).is_dir()
        else []
    )
    if damaged:
        raise RecipeError(
            "; ".join(
                [
                    *notes,
                    f"no checkpoint of {run} is whole, so the run cannot go on; start anew "
                    "with another run_dir, or bring the folder back from a backup",
                ]
            )
        )
    return None, notes


def load(place: Path) -> Checkpoint:
    """Read the checkpoint in `place`, which is whole, into the host's memory."""
    manifest = read_manifest(place)
    plain = json.loads((place / "state.json").read_text(encoding="utf-8"))
    files = [place / name for name in manifest["files"] if name.endswith(".safetensors")]
    tensors = {file.stem: load_file(file) for file in files}
    return Checkpoint(
        plain["step"],
        tensors["weights"],
        put_together(plain["optimizer"], tensors["optimizer"]),
        tensors.get("reference"),
        plain["state"],
        put_together(plain["generators"], tensors["generators"]),
        manifest["held_out"],
    )


def best(run: Path) -> tuple[Path, float] | None:
    """The checkpoint of `run` with the highest held-out accuracy, the later of equals; None if none was evaluated."""
    found = [
        (value, int(place.name[5:]), place)
        for place in _all(run)
        if (value := _held_out(place)) is not None
    ]
    return (max(found)[2], max(found)[0]) if found else None


def latest(run: Path) -> Path | None:
    """The newest checkpoint under `run`, whole or not."""
    return next(reversed(_all(run)), None)


def _all(run: Path) -> list[Path]:
    folder = folder_of(run)
    return (
        sorted(
            (p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.name[5:])
        )
        if folder.is_dir()
        else []
    )


# ---- random generators --------------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """The state of every generator of this process, as plain values and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    return {
        "python": [version, list(words), gauss],
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
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
