"""Data files as rows: JSON lines, CSV and Parquet, read in one way for training and for checking rewards.

A row is a dict from column to value. What the columns are called and what they must hold is up to the caller.
"""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

__all__ = ["READERS", "DataFileError", "can_read", "read_rows"]

Row = dict[str, Any]


class DataFileError(ValueError):
    """A data file cannot be read; the message names the file, and the line where there is one."""


def can_read(source: str | Path) -> bool:
    """Whether the ending of a file name is that of a supported format, in upper or lower case."""
    return Path(source).suffix.lower() in READERS


def read_rows(source: str | Path, limit: int | None = None) -> list[Row]:
    """The rows of a data file, at most `limit` of them; lines after the last one wanted are not looked at.

    Raises `DataFileError`. The format follows from the file name's ending, see `READERS`.
    """
    path = Path(source)
    if not can_read(path):
        raise DataFileError(
            f"{source} is not in a supported format; its name must end in {', '.join(READERS)}"
        )
    if not path.is_file():
        raise DataFileError(f"there is no file {source}")
    try:
        return list(itertools.islice(READERS[path.suffix.lower()](path), limit))
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{source} is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    except (OSError, csv.Error) as error:
        raise DataFileError(f"{source} cannot be read: {error}") from None


def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON object a line; blank lines and a byte order mark are skipped."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse_line(line, f"line {number} of {path}")


def parse_line(line: str, where: str) -> Row:
    """The JSON object on a line; `where` names the line in the error."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise DataFileError(f"{where} is not JSON: {reason}; each line holds one object") from None
    if not isinstance(row, dict):
        raise DataFileError(f"{where} is not a JSON object; each line holds one")
    return row


def read_csv(path: Path) -> Iterator[Row]:
    """The lines of a table whose first line names the columns; every value is text."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines)


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file with their types; needs the package pyarrow."""
    import pyarrow  # noqa: PLC0415  heavy, and only needed for this format
    import pyarrow.parquet  # noqa: PLC0415

    try:
        yield from pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataFileError(f"{path} is not a Parquet file: {error}") from None


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""The reader of each supported format, by the ending of a file's name."""
