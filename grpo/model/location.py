"""Where a model's files are: a hub id, a folder or a GGUF file; and why one that cannot be loaded cannot.

What is read from them before the weights is up to ``info``, the weights to ``loading``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

from grpo.monitor.redaction import first_words
from grpo.recipe import ModelSection, RecipeError

_UNREACHABLE = (
    "couldn't connect",
    "connection error",
    "offline mode",
    "max retries",
    "failed to establish",
    "cannot reach",
    "timed out",
    "name resolution",
    "connection refused",
    "outgoing traffic",
    "couldn't reach",
    "offlinemode",
    "hub cannot be reached",  # our own words
)


@dataclass(frozen=True, slots=True)
class Location:
    """A model's files. ``path``, or a hub id, and ``options`` are what transformers' ``from_pretrained`` takes.

    ``name`` is the recipe's word for them, ``gguf`` the file if they are a single GGUF file.
    """

    name: str
    path: str
    options: Mapping[str, Any]
    gguf: Path | None = None


def locate(section: ModelSection) -> Location:
    """The files that ``model.name`` means; raises `RecipeError` if it is missing, or a folder or file is not there."""
    name = section.name
    if name is None:
        raise RecipeError("recipe: model.name is missing; name a hub id or a folder")
    file = gguf_file(name)
    if file is None:
        is_path = name.startswith((".", "/", "~"))
        if is_path and not Path(name).expanduser().is_dir():
            raise RecipeError(f"recipe: model.name names {name}, but there is no such folder")
        options = {"trust_remote_code": section.trust_remote_code, "revision": section.revision}
        return Location(name, name, options)
    if importlib.util.find_spec("gguf") is None:
        raise RecipeError(
            f"model: {file} is a GGUF file, and reading one needs the package gguf; pip install "
            "'grpo-reasoner[gguf]'"
        )
    return Location(name, str(file.parent), {"gguf_file": file.name}, file)


def gguf_file(name: str) -> Path | None:
    """The GGUF file that `name` means: itself, or the only one of a folder without a config.json.

    Raises `RecipeError` if there is no such file, or several in the folder.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise RecipeError(f"recipe: model.name names {name}, but there is no such file")
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise RecipeError(
            f"recipe: model.name names the folder {name}, which holds {len(files)} GGUF files; name one "
            f"of {', '.join(file.name for file in files)}"
        )
    return files[0] if files else None


def is_unreachable(message: str) -> bool:
    """Whether a message, of the hub's client or of `refusal`, says that the hub cannot be reached."""
    return any(phrase in message.lower() for phrase in _UNREACHABLE)


def refusal(name: str, error: BaseException, otherwise: str) -> str:
    """Why the model `name` cannot be loaded and what to do: gated, hub unreachable, ..., or `otherwise`."""
    message = " ".join(str(error).split()).lower()
    if "gated repo" in message or ("401" in message and "restricted" in message):
        return (
            f"model: {name} is gated: accept its terms on its page, then log in with `hf auth login`, or name a "
            "folder that holds it"
        )
    if not Path(name).exists() and is_unreachable(message):
        return (
            f"model: {name} is not a folder here, and the hub cannot be reached; check the connection, or name a "
            "folder that holds it"
        )
    if "trust_remote_code" in message:
        return (
            f"model: {name} comes with Python code of its own, which was not run; if you trust its source, set "
            "model.trust_remote_code: true"
        )
    if any(phrase in message for phrase in ("weights_only", "unpickling", "vulnerability")):
        return (
            f"model: {name} holds its weights as a pickle, which may run code when it is read, and was not fully "
            "read; convert it to safetensors, or take a source that has it as safetensors"
        )
    return f"model: {name} {otherwise}: {first_words(error)}"
