"""The rows of a reasoning-gym task, kept in the run folder: a resumed run learns from the rows it began with.

The package may be another by then, or not be installed. Rows of files, of the hub and of this library's own tasks are
read or made again; that they are the same is checked by the fingerprint.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Mapping, Sequence

from grpo.data.where import matching
from grpo.recipe import DataSection, RecipeError, RowsSection
from rewards.sandbox.messages import Untravelable, decode, encode
from rewards.tasks import GYM_PREFIX

Row = dict[str, Any]


def keep_rows(folder: Path, data: DataSection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write each source's rows into the run folder, unless its source makes the same ones at any time."""
    for name, section in data.each().items():
        _keep(folder, section, name, [row for row in rows if not name or row["source"] == name])


def _keep(folder: Path, section: RowsSection, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not _is_kept(section) or kept_rows(folder, section, name) is not None:
        return
    try:
        data = {"of": _key(section), "rows": [encode(dict(row)) for row in rows]}
    except Untravelable:
        return  # the generator's child sends nothing that cannot be written; a caller's own rows may hold anything
    file = _file(folder, name)
    writing = file.with_name(f".writing-{file.name}")
    writing.write_bytes(gzip.compress(json.dumps(data).encode(), mtime=0))
    writing.replace(file)


def kept_rows(folder: Path, section: RowsSection, name: str = "") -> list[Row] | None:
    """The rows that the run in this folder began with; None if none were kept, or of another source or arguments.

    `name` is that of a mixture's source. An evaluation may take fewer of them than the run, by another ``where``.
    """
    file = _file(folder, name)
    if not _is_kept(section) or not file.is_file():
        return None
    try:
        data = json.loads(gzip.decompress(file.read_bytes()))
        if data["of"] != _key(section):
            return None
        rows = [decode(row) for row in data["rows"]]
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise RecipeError(
            f"data: {file}, the rows that the run began with, cannot be read ({error}); delete it to have "
            "them made again"
        ) from None
    return matching(rows, section.where, section.label)


def _file(folder: Path, name: str) -> Path:
    return folder / (f"rows-{name}.json.gz" if name else "rows.json.gz")


def _is_kept(section: RowsSection) -> bool:
    return section.source is not None and section.source.startswith(GYM_PREFIX)


def _key(section: RowsSection) -> str:
    return json.dumps([section.source, section.args, section.columns], sort_keys=True, default=str)
