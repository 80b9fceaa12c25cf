"""All a run needs to go on as if it had never stopped: written whole or not at all.

A checkpoint is a folder ``checkpoints/step-000020``: the trained weights and the reference as safetensors,
the optimizer as tensors, the rest as JSON. It is written beside its place and renamed into it, so a crash
leaves the previous one whole. Nothing in it is unpickled.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo.recipe import RecipeError

_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A run at the end of `step`: weights, reference and optimizer as tensors, everything else in `state`."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    reference: Mapping[str, Tensor] | None
    state: Mapping[str, Any]


def folder_of(run: Path) -> Path:
    return run / "checkpoints"


def save(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `checkpoint` under `run` and drop all but the last `keep`; returns its folder."""
    place = folder_of(run) / f"step-{checkpoint.step:06d}"
    writing = place.with_name(f".writing-{place.name}")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        _write(writing, checkpoint)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)  # half a checkpoint would keep a full disk full
        raise
    shutil.rmtree(place, ignore_errors=True)
    writing.rename(place)
    _flush(place.parent)
    for old in _all(run)[:-keep]:
        shutil.rmtree(old)
    return place


def _write(writing: Path, checkpoint: Checkpoint) -> None:
    with said_by_the_disk(writing):
        save_file(_contiguous(checkpoint.weights), writing / "weights.safetensors")
        if checkpoint.reference is not None:
            save_file(_contiguous(checkpoint.reference), writing / "reference.safetensors")
        torch.save(checkpoint.optimizer, writing / "optimizer.pt")
        torch.save(random_state(), writing / "random.pt")
    (writing / "state.json").write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}), encoding="utf-8")
    for file in writing.iterdir():
        _flush(file)
    _flush(writing)


@contextmanager
def said_by_the_disk(place: Path) -> Iterator[None]:
    """What safetensors and torch raise where a file cannot be written, as the OSError that it is."""
    try:
        yield
    except OSError:
        raise
    except (SafetensorError, RuntimeError) as error:
        raise OSError(f"{place} cannot be written ({' '.join(str(error).split())[:200]}); is the disk full?") from None


def latest(run: Path) -> Path | None:
    """The newest checkpoint under `run`."""
    return next(reversed(_all(run)), None)


def load(place: Path, device: torch.device | str) -> Checkpoint:
    """Read the checkpoint in `place` and set the random generators back to where it left them."""
    try:
        state = json.loads((place / "state.json").read_text(encoding="utf-8"))
        weights = load_file(place / "weights.safetensors", device=str(device))
        optimizer = torch.load(place / "optimizer.pt", map_location=device, weights_only=True)
        file = place / "reference.safetensors"
        reference = load_file(file, device=str(device)) if file.exists() else None
        set_random_state(torch.load(place / "random.pt", weights_only=True))
    except Exception as error:  # a damaged file can fail in any reader
        raise RecipeError(f"checkpoint: {place} is damaged ({type(error).__name__}: {error}); remove that folder to go "
                          "on from the one before it") from None
    return Checkpoint(state.pop("step"), weights, optimizer, reference, state)


def random_state() -> dict[str, Any]:
    """The state of every generator of this process, as plain values and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    return {"python": [version, list(words), gauss],
            "numpy": [name, torch.from_numpy(keys.astype("int64")), position, has_gauss, cached],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])


def cut_back(file: Path, step: int) -> None:
    """Keep of a JSONL file the records up to `step`; a last line that was cut off by a crash goes too."""
    if not file.exists():
        return
    kept = []
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or record["step"] > step:
            break
        kept.append(line)
    writing = file.with_name(f".writing-{file.name}")
    writing.write_bytes(b"".join(kept))
    writing.replace(file)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _all(run: Path) -> list[Path]:
    folder = folder_of(run)
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.name[5:])) \
        if folder.is_dir() else []


def _flush(path: Path) -> None:
    """Ask the disk to hold `path` before it is relied on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
