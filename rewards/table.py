"""The built-in rewards by name, how a name or path becomes a function, and how long each kind may take.

Which columns a function asks for is read by ``rewards.conventions``; running it is ``rewards.service``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Callable, Collection, Mapping

from rewards.conventions import convention_of
from rewards.own_modules import LoaderOfSource, Sources, imported_by, own_module
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
    "run_sources",
    "runs_programs",
    "sources_of",
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
SOURCES = "_grpo_sources"
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
    sources: Sources | None = None,
) -> Callable[..., Any]:
    """The function that ``use`` names; `ValueError`, with the nearest known name, if there is none.

    ``use`` is a name from `TABLE`, ``package.module:function``, ``path/file.py:function`` (relative to
    ``base_dir``, by default the working folder), the name of an entry point in the group ``grpo.rewards``,
    or a callable, which is returned unchanged. A class stands for its instances: each worker creates one.
    ``sources`` has what is run of a file named by path in place of what it holds now (`sources_of`).
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
        return _from_file(_file_of(target, base_dir), name, use, sources)
    return _from_module(target, name, use)


def sources_of(use: str, base_dir: str | Path | None = None) -> Sources | None:
    """What the files of the user's own hold that ``use`` names by path or as a module, and what they import.

    A worker that starts later, when a file may have been edited, runs the same code by it. None for what is offered by
    name alone, and where the file cannot be read.
    """
    target, colon, _ = use.rpartition(":")
    if not colon:
        return None
    if not target.endswith(".py"):
        return Sources(modules=own_module(target))
    try:
        return _read(_file_of(target, base_dir))
    except OSError:
        return None


def run_sources(function: Callable[..., Any]) -> Sources | None:
    """What was run for a function that has been loaded: of the file named by path, or of the module it stands in."""
    name = getattr(function, "__module__", None) or ""
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return None
    kept: Sources | None = getattr(module, SOURCES, None)
    return kept or Sources(modules=own_module(name))


def _read(path: Path) -> Sources:
    source = path.read_bytes()
    return Sources(source, imported_by(path, source))


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


def _from_file(path: Path, name: str, use: str, sources: Sources | None) -> Callable[..., Any]:
    if sources is None or sources.file is None:
        if not path.is_file():
            raise ValueError(f"reward {use!r}: there is no file {path}")
        sources = _read(path)
    return _attribute(_module_of_file(path, use, sources), name, use)


def _module_of_file(path: Path, use: str, sources: Sources) -> ModuleType:
    """The file as a module, executed once for each content that it had."""
    source = sources.file
    assert source is not None
    version = hashlib.sha256(f"{path}:".encode() + source)
    name = f"_reward_file_{path.stem}_{version.hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # the file may import its neighbours; last, so they shadow nothing
    loader = LoaderOfSource(name, str(path), source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, SOURCES, sources)
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
