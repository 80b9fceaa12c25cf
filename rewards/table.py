"""The built-in rewards by name, and how a name, a path or a callable becomes a function."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Callable, Collection, Iterable, Mapping

TABLE: Mapping[str, str] = MappingProxyType(
    {
        "math_answer": "rewards.math_answer:math_answer",
        "arithmetic": "rewards.math_answer:math_answer",
        "countdown": "rewards.tasks:countdown",
        "countdown_format": "rewards.tasks:countdown_format",
        "knights_and_knaves": "rewards.tasks:knights_and_knaves",
        "gym_answer": "rewards.tasks:gym_answer",
        "code_tests": "rewards.code_tests:code_tests",
        "think_format": "rewards.shaping.format:think_format",
        "tag_count": "rewards.shaping.format:tag_count",
        "soft_overlong": "rewards.shaping.length:soft_overlong",
        "cosine": "rewards.shaping.length:cosine",
        "kimi_length": "rewards.shaping.length:kimi_length",
        "language_consistency": "rewards.shaping.language:language_consistency",
        "repetition": "rewards.shaping.repetition:repetition",
    }
)
"""The built-in rewards by name. All are pure: the same completion and columns always score the same."""


# ------------------------------------------------------------------------------------------ finding a reward


def load(
    use: str | Callable[..., Any], *, base_dir: str | Path | None = None
) -> Callable[..., Any]:
    """The function that ``use`` names; `ValueError` with the nearest name where there is none.

    ``use`` is a name from `TABLE`, ``package.module:function``, ``path/file.py:function`` (relative to
    ``base_dir``, by default the working folder), the name of an entry point in the group ``grpo.rewards``,
    or a callable, which is returned as it is. A class stands for its instances: it is made once in each worker.
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
        return _from_file(Path(base_dir or ".", target), name, use)
    return _from_module(target, name, use)


def _from_module(module: str, name: str, use: str) -> Callable[..., Any]:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise ValueError(
            f"reward {use!r}: cannot import {module}: {type(error).__name__}: {error}"
        ) from error
    return _attribute(loaded, name, use)


def _from_file(path: Path, name: str, use: str) -> Callable[..., Any]:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"reward {use!r}: there is no file {path}")
    return _attribute(_module_of_file(path, use), name, use)


def _module_of_file(path: Path, use: str) -> ModuleType:
    """The file as a module, run once for each version of it that is on disk."""
    version = f"{path}:{path.stat().st_mtime_ns}"
    name = f"_reward_file_{path.stem}_{hashlib.sha256(version.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(
            str(path.parent)
        )  # the file's neighbours can be imported; last, so they shadow nothing
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise ValueError(
            f"reward {use!r}: running {path} failed: {type(error).__name__}: {error}"
        ) from error
    return module


def _from_entry_point(name: str) -> Callable[..., Any]:
    from importlib.metadata import entry_points

    offered = {point.name: point for point in entry_points(group="grpo.rewards")}
    if name not in offered:
        known = sorted({*TABLE, *offered})
        raise ValueError(
            f"no reward is called {name!r}{_nearest(name, known)}; known are {', '.join(known)}; "
            "one's own is named as package.module:function or path/file.py:function"
        )
    try:
        return offered[name].load()
    except Exception as error:
        raise ValueError(
            f"reward {name!r}: its entry point failed: {type(error).__name__}: {error}"
        ) from error


def _attribute(module: ModuleType, name: str, use: str) -> Callable[..., Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if callable(found):
        return found
    where = module.__file__ or module.__name__
    if found is not None:
        raise ValueError(
            f"reward {use!r}: {name} in {where} is {type(found).__name__}, not a function"
        )
    public = [
        key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
    ]
    raise ValueError(f"reward {use!r}: there is no {name} in {where}{_nearest(name, public)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


# --------------------------------------------------------------------------------- what a reward asks of the data


def wanted_columns(
    function: Callable[..., Any], style: str | None = None, given: Collection[str] = ()
) -> tuple[set[str], bool]:
    """The columns a reward cannot do without, and whether it takes every column there is.

    ``given`` names the arguments that the recipe sets, which need no column.
    >>> from rewards.shaping.format import think_format
    >>> wanted_columns(think_format)
    (set(), False)
    """
    from rewards.conventions import convention_of

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
    from rewards.conventions import convention_of

    return convention_of(function, style, given).missing(columns)
