"""The built-in rewards by name, how a name or path becomes a function, and how long each kind may take.

Which columns a function asks for is read by ``rewards.conventions``; running it is ``rewards.service``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType
from typing import Any, Callable, Collection, Mapping

from rewards.conventions import convention_of
from rewards.spelling import nearest
from rewards.types import RewardSpec

__all__ = [
    "DEFAULT_SECONDS",
    "PROGRAM_SECONDS",
    "TABLE",
    "default_timeout_seconds",
    "judges_without_gold",
    "load",
    "missing_columns",
    "run_source",
    "runs_programs",
    "source_of",
    "timeout_seconds_of",
    "wanted_columns",
]

TABLE: Mapping[str, str] = MappingProxyType(
    {
        "math_answer": "rewards.math_answer:math_answer",
        "arithmetic": "rewards.math_answer:math_answer",
        "countdown": "rewards.tasks:countdown",
        "countdown_format": "rewards.tasks:countdown_format",
        "knights_and_knaves": "rewards.tasks:knights_and_knaves",
        "gym_answer": "rewards.tasks.gym:gym_answer",
        "code_tests": "rewards.code_tests:code_tests",
        "think_format": "rewards.shaping.format:think_format",
        "tag_count": "rewards.shaping.format:tag_count",
        "soft_overlong": "rewards.shaping.length:soft_overlong",
        "cosine": "rewards.shaping.length:cosine",
        "kimi_length": "rewards.shaping.length:kimi_length",
        "language_consistency": "rewards.shaping.language:language_consistency",
        "repetition": "rewards.shaping.repetition:repetition",
        "environment": "rewards.environments.reward:environment",
    }
)
"""The built-in rewards by name. All are pure: the same completion and columns always score the same."""

DEFAULT_SECONDS = 10.0
PROGRAM_SECONDS = 6.0
SOURCE = "_grpo_source"
"""The name under which the module of a file has what was run of it."""


# ------------------------------------------------------------------------------------------ deadlines


def default_timeout_seconds(use: str | Callable[..., Any]) -> float:
    """The deadline of one call where the recipe sets none: the same in training and in every command.

    `PROGRAM_SECONDS` for built-in rewards that run programs (it bounds one test of a program), `DEFAULT_SECONDS` for
    all others: several times what a slow machine needs, so that only a completion that stalls its reward meets it.
    >>> default_timeout_seconds("math_answer"), default_timeout_seconds("code_tests")
    (10.0, 6.0)
    """
    is_built_in = isinstance(use, str) and use in TABLE
    return PROGRAM_SECONDS if is_built_in and runs_programs(load(use)) else DEFAULT_SECONDS


def timeout_seconds_of(spec: RewardSpec) -> float:
    """The deadline of one call of this reward: what the spec sets, or the default of its kind."""
    if spec.timeout_seconds is not None:
        return spec.timeout_seconds
    return default_timeout_seconds(spec.use)


def runs_programs(function: Any) -> bool:
    """Whether a reward hands programs to a sandbox."""
    return getattr(function, "runs_programs", False) is True


def judges_without_gold(function: Any) -> bool:
    """Whether a reward can judge a row whose gold is None, by the row's other columns."""
    return getattr(function, "judges_without_gold", False) is True


# ------------------------------------------------------------------------------------------ finding a reward


def load(
    use: str | Callable[..., Any],
    *,
    base_dir: str | Path | None = None,
    source: bytes | None = None,
) -> Callable[..., Any]:
    """The function that ``use`` names; `ValueError`, with the nearest known name, if there is none.

    ``use`` is a name from `TABLE`, ``package.module:function``, ``path/file.py:function`` (relative to
    ``base_dir``, by default the working folder), the name of an entry point in the group ``grpo.rewards``,
    or a callable, which is returned unchanged. A class stands for its instances: each worker creates one.
    ``source`` is what is run of a file named by path in place of what it holds now (`source_of`).
    """
    if callable(use):
        return use
    if not isinstance(use, str):
        raise ValueError(
            f"reward: expected a name or a callable, found {type(use).__name__} {use!r}"
        )
    if use in TABLE:
        module, _, name = TABLE[use].partition(":")
        return _from_module(module, name, use)
    target, colon, name = use.rpartition(":")
    if not colon:
        return _from_entry_point(use)
    if target.endswith(".py"):
        return _from_file(_file_of(target, base_dir), name, use, source)
    return _from_module(target, name, use)


def source_of(use: str, base_dir: str | Path | None = None) -> bytes | None:
    """What the file holds that ``use`` names by path; None for what is named otherwise, or where it cannot be read.

    A worker that starts later, when the file may have been edited, runs the same code by it.
    """
    target, _, _ = use.rpartition(":")
    if not target.endswith(".py"):
        return None
    try:
        return _file_of(target, base_dir).read_bytes()
    except OSError:
        return None


def run_source(function: Callable[..., Any]) -> bytes | None:
    """What was run of the file that a function was loaded from by path; None for every other function."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return getattr(module, SOURCE, None)


def _file_of(target: str, base_dir: str | Path | None) -> Path:
    return Path(base_dir or ".", target).expanduser().resolve()


def _from_module(module: str, name: str, use: str) -> Callable[..., Any]:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise ValueError(
            f"reward {use!r}: cannot import {module}: {type(error).__name__}: {error}{_by_path(module, name)}"
        ) from error
    return _attribute(loaded, name, use)


def _by_path(module: str, name: str) -> str:
    """How to name the function by its file, if the module is one of the working folder, which may not be searched."""
    file = Path(f"{module.replace('.', '/')}.py")
    return f"; the file is here, so name it by path: {file}:{name}" if file.is_file() else ""


def _from_file(path: Path, name: str, use: str, source: bytes | None) -> Callable[..., Any]:
    if source is None:
        if not path.is_file():
            raise ValueError(f"reward {use!r}: there is no file {path}")
        source = path.read_bytes()
    return _attribute(_module_of_file(path, use, source), name, use)


class _SourceAsRead(SourceFileLoader):
    """Loads a module from what its file held when it was read."""

    def __init__(self, name: str, path: str, source: bytes):
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType | None:
        return self.source_to_code(self._source, self.path)


def _module_of_file(path: Path, use: str, source: bytes) -> ModuleType:
    """The file as a module, executed once for each `source` that it had."""
    version = hashlib.sha256(f"{path}:".encode() + source)
    name = f"_reward_file_{path.stem}_{version.hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # the file may import its neighbours; last, so they shadow nothing
    loader = _SourceAsRead(name, str(path), source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, SOURCE, source)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise ValueError(
            f"reward {use!r}: running {path} failed: {type(error).__name__}: {error}"
        ) from error
    return module


def _from_entry_point(name: str) -> Callable[..., Any]:
    from importlib.metadata import entry_points  # noqa: PLC0415  loads the email package

    offered = {point.name: point for point in entry_points(group="grpo.rewards")}
    if name not in offered:
        known = sorted({*TABLE, *offered})
        raise ValueError(
            f"no reward is called {name!r}{nearest(name, known)}; known are {', '.join(known)}; "
            "name your own as package.module:function or path/file.py:function"
        )
    try:
        return offered[name].load()
    except Exception as error:
        raise ValueError(
            f"reward {name!r}: its entry point failed: {type(error).__name__}: {error}"
        ) from error


def _attribute(module: ModuleType, name: str, use: str) -> Callable[..., Any]:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if callable(value):
        return value
    origin = module.__file__ or module.__name__
    if value is not None:
        raise ValueError(
            f"reward {use!r}: {name} in {origin} is {type(value).__name__}, not a function"
        )
    public = [
        key for key, member in vars(module).items() if callable(member) and not key.startswith("_")
    ]
    raise ValueError(f"reward {use!r}: there is no {name} in {origin}{nearest(name, public)}")


# --------------------------------------------------------------------------------- what a reward asks of the data


def wanted_columns(
    function: Callable[..., Any], style: str | None = None, given: Collection[str] = ()
) -> tuple[set[str], bool]:
    """The columns a reward cannot do without, and whether it takes all columns of the row.

    ``given`` names the arguments set by the recipe, which need no column.
    >>> from rewards.shaping.format import think_format
    >>> wanted_columns(think_format)
    (set(), False)
    """
    convention = convention_of(function, style, given)
    return set(convention.required), convention.takes_all


def missing_columns(
    function: Callable[..., Any],
    columns: Collection[str],
    style: str | None = None,
    given: Collection[str] = (),
) -> list[str]:
    """The wanted columns that are not among ``columns``, knowing other trainers' names for the truth.

    verl's ``ground_truth``, OpenRLHF's ``labels`` and verifiers' ``answer`` are satisfied by any of
    `rewards.conventions.TRUTH_COLUMNS`.
    """
    return convention_of(function, style, given).missing(columns)
