"""Rows that the package datasets reads: data sets on the hub, and folders that its ``save_to_disk`` wrote."""

from __future__ import annotations

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


def read_hub(section: RowsSection, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a data set on the hub."""
    import datasets  # noqa: PLC0415  heavy, and only needed for data sets on the hub

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            section.label, section.subset, split=section.split, revision=section.revision
        )
        return rows_of(loaded, say)
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; each is for the user to read
        reason = redacted(" ".join(str(error).split())) or type(error).__name__
        raise RecipeError(
            f"data: {section.label} is not a file or task, and the hub does not provide it: "
            f"{reason[:MAX_REASON_LENGTH]}{nearest(section.label, TASKS)}"
        ) from None


def is_saved(source: str) -> bool:
    """Whether ``save_to_disk`` wrote a folder of this name."""
    return any((Path(source) / name).is_file() for name in SAVED_TO_DISK)


def read_saved(section: RowsSection, say: Callable[[str], None]) -> list[dict[str, Any]]:
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
    return rows_of(saved, say)


def rows_of(dataset: Any, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a data set of the package datasets; columns of mixed types as they were written."""
    table = dataset.with_format("arrow")[:]
    return rows_of_table(table, say) if has_json(table.schema) else dataset.to_list()
