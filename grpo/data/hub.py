"""Data sets of the Hugging Face hub, at the commit that was asked for, and which commit that was.

Where the hub cannot be reached, the package datasets takes the copy that was cached last, whatever revision is asked
for (huggingface/datasets#7928). So what came is compared with what was wanted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from grpo.monitor.redaction import redacted
from grpo.recipe import RecipeError, RowsSection
from rewards.spelling import nearest
from rewards.tasks import TASKS

MAX_REASON_LENGTH = 300  # characters of a hub client's error that are shown
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
