"""Data files as rows: JSON, JSON lines, CSV and Parquet, read in one way for training and for checking rewards.

A row is a dict from column to value. A source may be a pattern (``data/train-*.parquet``), a file may be compressed.
What a whole JSON document may look like is in ``documents``; what the columns must hold is up to the caller.
"""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import itertools
import json
import lzma
import re
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Mapping

from rewards.documents import DocumentError, document_rows, row_of

__all__ = ["READERS", "DataFileError", "can_read", "files_of", "read_rows"]

Row = dict[str, Any]
Say = Callable[[str], None]
"""Receives a sentence about how a file was read."""
COMPRESSIONS: Mapping[str, Callable[..., IO[Any]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
"""How a compressed file is opened, by the last ending of its name."""
DEFAULT_SPLIT = "train"
_SPLIT_WORD = re.compile(
    r"(?:^|[-_./])(train|test|validation|valid|val|dev|eval)(?=[-_./]|$)", re.IGNORECASE
)


class DataFileError(ValueError):
    """A data file cannot be read; the message names the file, and the line where there is one."""


# ---- which files, and how they are read -------------------------------------------------------------------------


def can_read(source: str | Path) -> bool:
    """Whether `source` is a pattern, or a file whose ending is that of a supported format, in upper or lower case."""
    return is_pattern(source) or ending_of(source) in READERS


def is_pattern(source: str | Path) -> bool:
    """Whether `source` has wildcards; a file that is really called so is a file."""
    return glob.has_magic(str(source)) and not Path(source).is_file()


def ending_of(source: str | Path) -> str:
    """The ending that names a format, in lower case: ``.jsonl`` of ``rows.JSONL.gz``."""
    path = Path(source)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def files_of(source: str | Path) -> list[Path]:
    """The files that `source` names, in order of their names. Raises `DataFileError` if there is none."""
    if not is_pattern(source):
        if not Path(source).is_file():
            raise DataFileError(f"there is no file {source}")
        return [Path(source)]
    matches = sorted(glob.glob(str(source), recursive=True))  # noqa: PTH207  the pattern may be absolute
    files = [Path(match) for match in matches if Path(match).is_file()]
    if not files:
        raise DataFileError(f"no file matches {source}")
    return files


def read_rows(
    source: str | Path,
    limit: int | None = None,
    *,
    split: str = DEFAULT_SPLIT,
    say: Say = lambda sentence: None,
) -> list[Row]:
    """The rows of the files that `source` names, at most `limit`; lines after the last one wanted are not looked at.

    The format follows from a file name's ending, see `READERS`. Where file names or the entries of a JSON object name
    splits, those of `split` are read; where none does, `split` must be ``train``. `say` receives a sentence for
    whatever was not read as it stands in the file. Raises `DataFileError`.
    """
    if not can_read(source):
        raise _unsupported(source)
    files = _of_split(files_of(source), source, split)
    rows = itertools.chain.from_iterable(_rows_of_file(file, split, say) for file in files)
    return list(itertools.islice(rows, limit))


def _unsupported(source: str | Path) -> DataFileError:
    return DataFileError(
        f"{source} is not in a supported format; its name must end in {', '.join(READERS)}"
    )


def _of_split(files: list[Path], source: str | Path, split: str) -> list[Path]:
    """The files of `split` where names tell splits apart, else all of them."""
    words = {file: _split_word(file) for file in files}
    known = sorted({word for word in words.values() if word})
    if len(files) == 1 or known in ([], [split]):
        return files
    if split in known:
        return [file for file in files if words[file] == split]
    if split == DEFAULT_SPLIT and len(known) == 1:
        return files
    raise DataFileError(
        f"{source} matches files of {' and '.join(known)}, none of {split}; set data.split to one of "
        "those, or name the files more closely"
    )


def _split_word(file: Path) -> str:
    """The split that a file's name tells, or nothing."""
    match = _SPLIT_WORD.search(file.name)
    return match[1].lower() if match else ""


def _rows_of_file(path: Path, split: str, say: Say) -> Iterator[Row]:
    reader = READERS.get(ending_of(path))
    if reader is None:
        raise _unsupported(path)
    try:
        yield from reader(path, split, say)
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    except (OSError, EOFError, lzma.LZMAError, csv.Error) as error:
        raise DataFileError(f"{path} cannot be read: {error}") from None


def _opened(path: Path, mode: str = "rt", **options: Any) -> IO[Any]:
    """The file, decompressed if its name says so."""
    opener = COMPRESSIONS.get(path.suffix.lower(), open)
    return opener(path, mode, **options)


def _refuse_split(path: Path, split: str) -> None:
    """Refuse a split that a file without splits is asked for, unless its name says that it holds it."""
    if split not in (DEFAULT_SPLIT, _split_word(path)):
        raise DataFileError(
            f"{path} has no split {split}; name the file that holds it, or leave data.split out"
        )


# ---- the formats ------------------------------------------------------------------------------------------------


def read_jsonl(path: Path, split: str, say: Say) -> Iterator[Row]:
    """One JSON object a line; blank lines and a byte order mark are skipped."""
    _refuse_split(path, split)
    with _opened(path, encoding="utf-8-sig") as lines:
        yield from _rows_of_lines(lines, path)


def _rows_of_lines(lines: Iterator[str] | IO[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_line(line, f"line {number} of {path}")


def parse_line(line: str, where: str) -> Row:
    """The JSON object on a line; `where` names the line in the error."""
    try:
        row = row_of(json.loads(line))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise DataFileError(f"{where} is not JSON: {reason}; each line holds one object") from None
    if row is None:
        raise DataFileError(f"{where} is not a JSON object; each line holds one")
    return row


def read_json(path: Path, split: str, say: Say) -> Iterator[Row]:
    """JSON lines, or a document as ``documents`` describes: an array of rows, ``{"data": [...]}`` and the like."""
    with _opened(path, encoding="utf-8-sig") as file:
        text = file.read()
    if _is_lines(text):
        _refuse_split(path, split)
        yield from _rows_of_lines(iter(text.split("\n")), path)
        return
    try:
        document = json.loads(text)
        rows, has_splits = document_rows(document, split)
    except DocumentError as error:
        raise DataFileError(f"{path} {error}") from None
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reason = getattr(error, "msg", error)
        raise DataFileError(
            f"line {line} of {path} is not JSON: {reason}; a .json file holds an array of objects, or "
            "one object a line"
        ) from None
    if not has_splits:
        _refuse_split(path, split)
    yield from rows


def _is_lines(text: str) -> bool:
    """Whether a text is empty, or its first line is a whole JSON value and others follow."""
    first, _, rest = text.lstrip().partition("\n")
    if not rest.strip():
        return not first
    try:
        json.loads(first)
        return True
    except (ValueError, RecursionError):
        return False


def read_csv(path: Path, split: str, say: Say, delimiter: str = ",") -> Iterator[Row]:
    """The lines of a table whose first line names the columns; every value is text."""
    _refuse_split(path, split)
    with _opened(path, encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines, delimiter=delimiter)


def read_tsv(path: Path, split: str, say: Say) -> Iterator[Row]:
    """The same with tabs between the columns."""
    yield from read_csv(path, split, say, delimiter="\t")


def read_parquet(path: Path, split: str, say: Say) -> Iterator[Row]:
    """The rows of a Parquet file with their types; needs the package pyarrow."""
    import pyarrow  # noqa: PLC0415  heavy, and only needed for this format
    import pyarrow.parquet  # noqa: PLC0415

    from rewards.arrow_rows import rows_of_table  # noqa: PLC0415

    _refuse_split(path, split)
    try:
        with _opened(path, "rb") as file:
            table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowException as error:
        raise DataFileError(f"{path} is not a Parquet file: {error}") from None
    yield from rows_of_table(table, say)


READERS: Mapping[str, Callable[[Path, str, Say], Iterator[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".ndjson": read_jsonl,
    ".tsv": read_tsv,
}
"""The reader of each supported format, by the ending of a file's name (before ``.gz``, ``.bz2`` or ``.xz``)."""
