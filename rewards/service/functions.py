"""From a recipe's entry to a function that can be judged with: checks, deadline, and where workers find it."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Sequence, cast

from rewards.conventions import convention_of
from rewards.paths import MISSING, NotStructured, reach
from rewards.service.request import Function
from rewards.service.worker import Assignment
from rewards.table import load, run_sources, sources_of, timeout_seconds_of
from rewards.types import RewardSpec

__all__ = ["applies", "check_specs", "column_value", "function_of", "importable_name"]


def check_specs(specs: Sequence[RewardSpec], workers: int | None) -> None:
    """Refuse with `ValueError` what no service can run: no rewards, names twice, numbers out of range."""
    if workers is not None and workers < 1:
        raise ValueError(f"rewards: {workers} workers are too few; at least 1")
    if not specs:
        raise ValueError("rewards: there are none")
    names = [spec.name for spec in specs]
    for spec in specs:
        if names.count(spec.name) > 1:
            raise ValueError(f"rewards: {spec.name} occurs twice")
        _check_numbers(spec)


def _check_numbers(spec: RewardSpec) -> None:
    key = f"rewards.{spec.name}"
    if not math.isfinite(spec.weight):
        raise ValueError(f"{key}.weight: {spec.weight} is not a finite number")
    if spec.workers is not None and spec.workers < 1:
        raise ValueError(f"{key}.workers: {spec.workers} are too few; at least 1")
    if spec.timeout_seconds is not None and not spec.timeout_seconds > 0:
        raise ValueError(f"{key}.timeout_seconds: {spec.timeout_seconds} is not above 0")


def function_of(spec: RewardSpec, base_dir: str | Path | None) -> Function:
    """The spec's function, inspected once, so that mistakes show before anything is sampled."""
    sources = sources_of(spec.use, base_dir) if isinstance(spec.use, str) else None
    loaded: Any = load(spec.use, base_dir=base_dir, sources=sources)
    convention = convention_of(loaded, spec.style, tuple(spec.args))
    args = dict(spec.args)
    use: str | None = None
    if isinstance(spec.use, str):
        use = spec.use
    else:
        if isinstance(loaded, functools.partial) and not loaded.args:
            args = {**loaded.keywords, **args}
            loaded = loaded.func
        use = importable_name(loaded)
        sources = run_sources(loaded)
    assignment = Assignment(
        use or convention.name,
        args=args,
        style=spec.style,
        timeout_seconds=timeout_seconds_of(spec),
        base_dir=str(Path(base_dir or ".").resolve()),
        sources=sources,
    )
    if use is not None:
        return Function(convention, assignment, loaded)
    if args.get("allow_sympy"):
        raise ValueError(
            f"rewards.{spec.name}: allow_sympy needs a process that can be killed; put it into a file"
        )
    if not inspect.isclass(loaded):
        return Function(convention, assignment, loaded, local=loaded)
    instance = cast(Any, loaded)(**args)
    return Function(convention, replace(assignment, args={}), loaded, local=instance)


def importable_name(function: Any) -> str | None:
    """How a worker would import this very object; None for what only this process has."""
    module_name = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", "<")
    module = sys.modules.get(module_name)
    if module is None or module_name == "__main__" or "<" in name:
        return None
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if value is not function:
        return None
    file = getattr(module, "__file__", None)
    if module_name.startswith("_reward_file_") and file:
        return f"{file}:{name}"
    return f"{module_name}:{name}" if getattr(module, "__spec__", None) else None


def column_value(name: str, columns: Mapping[str, Any]) -> Any:
    """What a column holds, or a path into one leads to (``metadata.source_dataset``); None where there is nothing."""
    try:
        value = reach(columns, name)
    except NotStructured:
        return None
    return None if value is MISSING else value


def applies(when: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Whether every column or path named by ``when`` has the value, or one of the values, that it asks for."""
    for name, wanted in when.items():
        value = column_value(name, columns)
        is_wanted = value in wanted if isinstance(wanted, (list, tuple, set)) else value == wanted
        if not is_wanted:
            return False
    return True
