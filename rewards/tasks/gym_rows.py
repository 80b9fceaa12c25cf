"""Rows of reasoning-gym's generators, made in a process of their own so that they are the same everywhere.

Several generators follow the order of sets, which changes with ``PYTHONHASHSEED`` from process to process, and one
draws from the global random numbers. The child has a fixed hash seed, and both global generators are seeded for each
row. What it sends back is JSON that keeps tuples, sets and keys that are no text (``rewards.sandbox.messages``).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping

from rewards.sandbox.messages import Untravelable, decode, encode

__all__ = ["MissingPackage", "entries", "plain"]

HASH_SEED = "0"
_ROOT = str(Path(__file__).resolve().parents[2])
_START = "import sys; sys.path[:] = {path!r}; from rewards.tasks.gym_rows import main; main()"
Entry = dict[str, Any]


class MissingPackage(Exception):
    """reasoning-gym is not installed."""


def entries(name: str, count: int, seed: int, settings: Mapping[str, Any]) -> list[Entry]:
    """``question``, ``answer`` and ``metadata`` of the first ``count`` rows of a task, by the task's own row seeds.

    Raises `ValueError` with reasoning-gym's reason if it refuses the settings, `MissingPackage` if it is not installed.
    """
    request = json.dumps([name, count, seed, dict(settings)], sort_keys=True)
    reply = json.loads(_reply_of_child(request))
    if "missing" in reply:
        raise MissingPackage(reply["missing"])
    if "refused" in reply:
        raise ValueError(reply["refused"])
    return [decode(entry) for entry in reply["entries"]]


@functools.lru_cache(maxsize=8)
def _reply_of_child(request: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": HASH_SEED, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _START.format(path=[*sys.path, _ROOT])],
        input=request,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"its generator failed: {reason}")
    return done.stdout


# ---- in the child -----------------------------------------------------------------------------------------------


def main() -> None:
    """Answer the one request on standard input; what generators print goes to standard error."""
    reply_to = os.dup(1)
    os.dup2(2, 1)
    reply = json.dumps(_reply(*json.loads(sys.stdin.read())))
    with os.fdopen(reply_to, "w", encoding="utf-8") as file:
        file.write(reply)


def _reply(name: str, count: int, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from reasoning_gym import create_dataset  # noqa: PLC0415  optional, and heavy
    except ImportError as error:
        return {"missing": str(error)}
    try:
        dataset = create_dataset(name, size=count, seed=seed, **settings)
    except (TypeError, AssertionError, ValueError) as error:
        return {"refused": str(error)}
    return {"entries": [encode(_entry(dataset, index, seed)) for index in range(count)]}


def _entry(dataset: Any, index: int, seed: int) -> Entry:
    """One row; the global generators start from the number that the task's own generator starts from."""
    _seed_globals(seed + index)
    entry = dataset[index]
    return {key: plain(entry[key]) for key in ("question", "answer", "metadata")}


def _seed_globals(seed: int) -> None:
    import random  # noqa: PLC0415  only the child draws

    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def plain(value: Any) -> Any:
    """A value of built-in types only: numbers of numpy become Python's, members of enumerations their values."""
    try:
        encode(value)
    except Untravelable:
        return _rebuilt(value)
    return value


def _rebuilt(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(getattr(value, "value", value))
    return plain(value.value) if hasattr(value, "value") else str(value)
