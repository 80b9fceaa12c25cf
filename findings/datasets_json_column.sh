#!/bin/sh
# datasets: a column that mixes text and numbers turns text into numbers, None and booleans.
#
# Guess: a column with both strings and integers is refused, or each value comes back as it was written. A JSON
# lines file with such a column loads as the feature Json, where a string that is itself valid JSON is stored without
# its quotes and decoded as what it says: "007" comes back as 7, "NaN" as None, "true" as True. "x" stays "x". The
# same after a way through Parquet, whose stored text still has 007; it no longer tells "7" from 7.
#
# Seen:
#     datasets 5.2.0 {'answer': Json(decode=True)}
#     expected: [7, '007', '7', 'NaN', 'true', '1e3', 'x']
#     seen:     [7, 7, 7, None, True, 1000.0, 'x']
#     stored in Parquet: ['7', '007', '7', 'NaN', 'true', '1e3', '"x"']
#     read from Parquet: [7, 7, 7, None, True, 1000.0, 'x']
#     as recorded
set -eu
VERSION=${VERSION:-5.2.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "datasets==$VERSION" pyarrow==26.0.1 pandas==3.1.1 >&2 || exit 2
venv/bin/python -I - <<'END'
import json
import sys
from pathlib import Path

import datasets
import pyarrow.parquet
from datasets import load_dataset

WRITTEN = [7, "007", "7", "NaN", "true", "1e3", "x"]
RECORDED = [7, 7, 7, None, True, 1000.0, "x"]


def load(kind, path):
    return load_dataset(kind, data_files=path, split="train", cache_dir="cache")


def values(rows):
    return [row["answer"] for row in rows]


datasets.disable_progress_bars()
lines = [json.dumps({"answer": value}) for value in WRITTEN]
Path("rows.jsonl").write_text("\n".join(lines))
loaded = load("json", "rows.jsonl")
loaded.to_parquet("rows.parquet")
stored = pyarrow.parquet.read_table("rows.parquet").column("answer").to_pylist()
again = load("parquet", "rows.parquet")
print("datasets", datasets.__version__, loaded.features)
print("expected:", WRITTEN)
print("seen:    ", values(loaded))
print("stored in Parquet:", stored)
print("read from Parquet:", values(again))
as_before = repr(values(loaded)) == repr(values(again)) == repr(RECORDED) and stored[1] == "007"
print("as recorded" if as_before else "CHANGED")
sys.exit(not as_before)
END
