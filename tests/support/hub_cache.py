"""A cache of the package datasets in which data sets of the hub lie at given commits, as a download leaves them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from datasets.packaged_modules.json.json import Json


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the package datasets look for what it has cached in `folder`, and reach no hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def add_commit(
    cache: Path,
    source: str,
    commit: str,
    splits: dict[str, list[dict[str, Any]]],
    config: str = "default",
    age: int = 0,
) -> None:
    """Put `splits` where the data set `source` lies after it was read at `commit`, `age` seconds ago."""
    files = {}
    work = cache / "work"
    work.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        files[split] = str(work / f"{split}.jsonl")
        datasets.Dataset.from_list(rows).to_json(files[split])
    name = source.rpartition("/")[2].lower()
    made = Json(
        cache_dir=str(work), dataset_name=name, config_name=config, hash=commit, data_files=files
    )
    made.download_and_prepare()
    place = cache / source.lower().replace("/", "___") / config / "0.0.0" / commit
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made.cache_dir, place)
    seconds = place.stat().st_mtime - age
    os.utime(place, (seconds, seconds))
    shutil.rmtree(work)
