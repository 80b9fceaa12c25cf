"""Rows that the package datasets reads: data sets on the hub, and folders that its ``save_to_disk`` wrote.

Where the hub cannot be reached, the package datasets takes the copy that was cached last, whatever revision is asked
for (huggingface/datasets#7928). So what came is compared with what was wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from grpo.monitor.redaction import redacted
from grpo.recipe import RecipeError, RowsSection
from rewards.arrow_rows import has_json, rows_of_table
from rewards.readers import DEFAULT_SPLIT
from rewards.spelling import nearest
from rewards.tasks import TASKS

SAVED_TO_DISK = ("dataset_dict.json", "state.json")
"""What is in a folder that datasets' ``save_to_disk`` wrote."""
MAX_REASON_LENGTH = 300  # characters of a hub client's error that are shown
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows as their source has them, and the commit of the hub that they are of, None for other sources."""

    rows: list[dict[str, Any]]
    revision: str | None = None


# ---- the hub ----------------------------------------------------------------------------------------------------


def read_hub(section: RowsSection, say: Callable[[str], None]) -> Table:
    """The rows of a data set on the hub; `say` hears of the commit they are of, unless the recipe names it."""
    source = section.label
    dataset, commit = load_hub(source, section)
    try:
        rows = rows_of(dataset, say)
    except Exception as error:  # noqa: BLE001  columns with images or sound want packages that may be missing
        raise not_provided(source, error) from None
    if commit is not None and commit != section.revision:
        say(
            f"{source} was read at commit {commit}; set data.revision to it to have the same rows again"
        )
    return Table(rows, commit)


def load_hub(source: str, section: RowsSection) -> tuple[Any, str | None]:
    """(the split as a `datasets.Dataset`, the commit it is of if that can be told). Raises `RecipeError`."""
    import datasets  # noqa: PLC0415  heavy, and only needed for data sets on the hub

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            source, section.subset, split=section.split, revision=section.revision
        )
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; each is for the user to read
        raise not_provided(source, error) from None
    found = commit_of(loaded)
    wanted = section.revision
    if found is None or wanted is None or not _COMMIT.fullmatch(wanted) or found == wanted:
        return loaded, found
    return _cached_copy(source, section, Path(loaded.cache_files[0]["filename"])), wanted


def commit_of(dataset: Any) -> str | None:
    """The commit of the hub that a `datasets.Dataset` was made from: the name of its folder in the cache."""
    files = dataset.cache_files
    name = Path(files[0]["filename"]).parent.name if files else ""
    return name if _COMMIT.fullmatch(name) else None


def _cached_copy(source: str, section: RowsSection, other: Path) -> Any:
    """The cached copy at the commit that `section` names, beside that of another commit, to which the file belongs."""
    from datasets.packaged_modules.cache.cache import Cache  # noqa: PLC0415  heavy

    wanted = str(section.revision)
    folder = other.parent
    if not folder.with_name(wanted).is_dir():
        raise RecipeError(
            f"data: data.revision is {wanted}, which is neither cached nor can the hub be reached; the cached copy of "
            f"{source} is of commit {folder.name}: go online once, or set data.revision to that commit"
        )
    try:
        builder = Cache(
            dataset_name=source.rpartition("/")[2],
            config_name=folder.parent.parent.name,
            version=folder.parent.name,
            hash=wanted,
            repo_id=source,
        )
        builder.download_and_prepare()
        return builder.as_dataset(split=section.split)
    except Exception as error:  # noqa: BLE001  as above
        raise not_provided(source, error) from None


def not_provided(source: str, error: Exception) -> RecipeError:
    """What is said of an error of a hub client, or of the package datasets."""
    reason = redacted(" ".join(str(error).split())) or type(error).__name__
    return RecipeError(
        f"data: {source} is not a file or task, and the hub does not provide it: "
        f"{reason[:MAX_REASON_LENGTH]}{nearest(source, TASKS)}"
    )


# ---- folders ----------------------------------------------------------------------------------------------------


def is_saved(source: str) -> bool:
    """Whether ``save_to_disk`` wrote a folder of this name."""
    return any((Path(source) / name).is_file() for name in SAVED_TO_DISK)


def read_saved(section: RowsSection, say: Callable[[str], None]) -> Table:
    """The rows of a folder that ``save_to_disk`` wrote."""
    import datasets  # noqa: PLC0415  heavy, and only needed here

    saved = datasets.load_from_disk(section.label)
    if isinstance(saved, datasets.DatasetDict):
        if section.split not in saved:
            raise RecipeError(
                f"data: {section.label} has no split {section.split}; set data.split to {' or '.join(saved)}"
            )
        saved = saved[section.split]
    elif section.split != DEFAULT_SPLIT:
        raise RecipeError(
            f"recipe: data.split is {section.split}, but {section.label} is a saved data set without splits; take "
            "data.split out"
        )
    return Table(rows_of(saved, say))


def rows_of(dataset: Any, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a data set of the package datasets; columns of mixed types as they were written."""
    table = dataset.with_format("arrow")[:]
    return rows_of_table(table, say) if has_json(table.schema) else dataset.to_list()
