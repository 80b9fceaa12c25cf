"""What a trainer and a reward server must have in common for verdicts to be the same, and the words for a difference.

Compared are this package's source, the versions of what it computes with, each reward's function, file, arguments,
conditions, style and deadline, and what programs may import. Weights are not: sums are made by the trainer. Of a reward
of the user's own, its file is compared and the modules of the user's own that it imports (``rewards.own_modules``).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Mapping, Sequence

from rewards.own_modules import digest_of
from rewards.sandbox import SandboxOptions
from rewards.service.functions import function_of
from rewards.service.request import Function
from rewards.table import timeout_seconds_of
from rewards.types import RewardSpec

__all__ = ["Identity", "OwnFile", "changed_file", "difference", "identity_of", "own_files"]

PROTOCOL = 1
PACKAGE = Path(__file__).resolve().parents[1]
COMPARED = ("min_isolation", "allow_unsafe", "engine", "packages")
"""The options of the sandbox that both sides must share."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A list of rewards as both sides see it: plain values. ``digest`` names it."""

    common: Mapping[str, Any]
    rewards: Mapping[str, Mapping[str, Any]]

    @property
    def digest(self) -> str:
        return _digest(json.dumps(self.to_mapping(), sort_keys=True).encode())

    def to_mapping(self) -> dict[str, Any]:
        return {"common": dict(self.common), "rewards": dict(self.rewards)}


def identity_of(
    specs: Sequence[RewardSpec],
    sandbox: SandboxOptions,
    base_dir: str | Path | None = None,
) -> Identity:
    """The identity of a recipe's rewards. `ValueError` for a function that only this process has."""
    rewards = {spec.name: _reward(spec, base_dir) for spec in specs}
    options = {name: value for name, value in asdict(sandbox).items() if name in COMPARED}
    return Identity({**_versions(), "sandbox": json.loads(json.dumps(options))}, rewards)


def _reward(spec: RewardSpec, base_dir: str | Path | None) -> dict[str, Any]:
    function = function_of(spec, base_dir)
    if function.local is not None:
        raise ValueError(
            f"rewards.{spec.name} is a function that only this process has; a reward server judges what its recipe "
            "names, so put it into a file and name it as path/file.py:function"
        )
    file = _own_file(function)
    return {
        "function": _name_of(spec, function),
        "file": None if file is None else file.digest(),
        "args": _canonical(function.assignment.args),
        "when": _canonical(spec.when),
        "style": spec.style,
        "timeout_seconds": timeout_seconds_of(spec),
        "from_step": spec.from_step,
    }


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True, default=repr)


def _name_of(spec: RewardSpec, function: Function) -> str:
    """The function's name without the folder that it lies in, which differs between machines."""
    if isinstance(spec.use, str) and ":" not in spec.use:
        return spec.use
    return str(getattr(function.inspected, "__qualname__", type(function.inspected).__qualname__))


@dataclass(frozen=True, slots=True)
class OwnFile:
    """The file that a user's function comes from, and the module that it is there."""

    path: Path
    module: str

    def digest(self) -> str | None:
        """A digest of the file and of what it imports of the user's own; None where it is gone."""
        try:
            return digest_of(self.path, self.module)
        except OSError:
            return None


def own_files(
    specs: Sequence[RewardSpec], base_dir: str | Path | None = None
) -> dict[str, OwnFile]:
    """The files that users' functions come from, by the name of the reward."""
    found = {spec.name: _own_file(function_of(spec, base_dir)) for spec in specs}
    return {name: file for name, file in found.items() if file is not None}


def changed_file(identity: Identity, files: Mapping[str, OwnFile]) -> str:
    """The reward whose file, or a module that it imports, is no longer what `identity` has; empty if there is none."""
    for name, file in files.items():
        if file.digest() != identity.rewards[name]["file"]:
            return name
    return ""


def _own_file(function: Function) -> OwnFile | None:
    """The file that a user's function comes from; None for one of this package."""
    inspected = inspect.unwrap(function.inspected)
    try:
        file = inspect.getsourcefile(inspected)
    except TypeError:
        return None
    if file is None or Path(file).resolve().is_relative_to(PACKAGE):
        return None
    return OwnFile(Path(file).resolve(), getattr(inspected, "__module__", None) or "")


@cache
def _versions() -> dict[str, Any]:
    """What verdicts may depend on beside the rewards themselves."""
    major, minor, _ = platform.python_version_tuple()
    return {
        "protocol": PROTOCOL,
        "code": package_digest(PACKAGE),
        "python": f"{major}.{minor}",
        "sympy": _version("sympy"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_digest(folder: Path) -> str:
    """A digest of every source file below `folder`."""
    sha256 = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        name = file.relative_to(folder).as_posix()
        sha256.update(f"{name} {len(content)}\n".encode() + content)
    return sha256.hexdigest()[:32]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


# ---- in words -----------------------------------------------------------------------------------------------------

_COMMON_WORDS = {
    "protocol": "speaks protocol {theirs}, not {ours}",
    "code": "has other code in its package rewards; install the same version",
    "python": "runs Python {theirs}, not {ours}",
    "sympy": "has sympy {theirs}, not {ours}",
    "sandbox": "confines programs by {theirs}, not {ours}",
}


def difference(ours: Identity, theirs: Sequence[Mapping[str, Any]]) -> str:
    """Why none of the lists of rewards that a server has is ours: the first difference from the one most alike."""
    if not theirs:
        return "judges by no rewards"
    alike = min(theirs, key=lambda other: len(_differences(ours, other)))
    return _differences(ours, alike)[0]


def _differences(ours: Identity, theirs: Mapping[str, Any]) -> list[str]:
    found = []
    common = theirs.get("common") or {}
    for name, words in _COMMON_WORDS.items():
        mine = ours.common.get(name)
        other = common.get(name)
        if mine != other:
            found.append(words.format(ours=mine, theirs=other))
    others = theirs.get("rewards") or {}
    for name, reward in ours.rewards.items():
        found += _reward_differences(name, reward, others.get(name))
    further = [name for name in others if name not in ours.rewards]
    found += [f"also judges by rewards.{name}, which the recipe does not have" for name in further]
    return found or ["has other rewards"]


def _reward_differences(
    name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any] | None
) -> list[str]:
    if theirs is None:
        return [f"has no rewards.{name}"]
    if ours["file"] != theirs.get("file") and ours["function"] == theirs.get("function"):
        return [
            f"has another file of rewards.{name}, or other modules that it imports; give both the same"
        ]
    return [
        f"has rewards.{name}.{key} = {theirs.get(key)}, not {value}"
        for key, value in ours.items()
        if theirs.get(key) != value
    ]
