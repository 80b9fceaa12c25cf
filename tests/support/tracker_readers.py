"""Reads back what a tracker holds of a run folder's runs, by the tracker's own means where it has some.

A reader gives, by the name of each run that the tracker shows, ``{"values": {key: [[step, value], ...]}, "tables":
{key: [[step, number of rows], ...]}, "files": [...], "config": {...}, "tags": [...]}``.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any, Iterator

Held = dict[str, Any]


def nothing() -> Held:
    return {
        "values": defaultdict(list),
        "tables": defaultdict(list),
        "files": [],
        "config": {},
        "tags": [],
    }


# ---- wandb, offline -------------------------------------------------------------------------------------------

BLOCK = 32768
HEADER = struct.Struct("<IHB")
WHOLE_OR_LAST = (1, 4)


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a ``.wandb`` file, which is a LevelDB log: blocks of pieces with checksum, length and kind."""
    position = 7
    record = b""
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        record += data[position : position + length]
        position += length
        if kind in WHOLE_OR_LAST:
            yield record
            record = b""


def read_wandb(folder: Path) -> dict[str, Held]:
    """By file, so that two files of one run are two entries."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits until all is written, as the end of a process does
    found = {}
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        held = nothing()
        for raw in wandb_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(raw)
            add_wandb_record(held, record)
        found[file.parent.name] = held
    return found


def add_wandb_record(held: Held, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        held["tags"] = list(record.run.tags)
        held["name"] = record.run.display_name
        held["config"] = {
            item.key: json.loads(item.value_json) for item in record.run.config.update
        }
    elif kind == "artifact" and record.artifact.type == "run":
        held["files"] += [entry.path for entry in record.artifact.manifest.contents]
    elif kind == "history":
        items = {
            (item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item
        }
        step = json.loads(items["_step"])
        for key, text in items.items():
            name, _, part = key.rpartition("/")
            if key.startswith("completions/"):
                if part == "nrows":
                    held["tables"][name].append([step, json.loads(text)])
            elif not key.startswith("_"):
                held["values"][key].append([step, json.loads(text)])


# ---- TensorBoard ----------------------------------------------------------------------------------------------


def read_tensorboard(folder: Path) -> dict[str, Held]:
    """As TensorBoard loads a folder; everything in it is one run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    if not list((folder / "tensorboard").glob("*")):
        return {}
    loaded = EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}
    )
    loaded.Reload()
    held = nothing()
    for key in loaded.Tags()["scalars"]:
        held["values"][key] = [[event.step, event.value] for event in loaded.Scalars(key)]
    for key in loaded.Tags()["tensors"]:
        events = loaded.Tensors(key)
        if key.startswith("completions/"):
            arrays = [tensor_util.make_ndarray(event.tensor_proto) for event in events]
            held["tables"][key] = [
                [event.step, len(array) - 1] for event, array in zip(events, arrays)
            ]
            held["cells"] = arrays[-1].tolist()[-1]
        else:
            held["config"][key] = len(events)
    held["cells"] = [cell.decode() for cell in held.get("cells", [])]
    return {"tensorboard": held}


# ---- trackio --------------------------------------------------------------------------------------------------


def read_trackio(folder: Path) -> dict[str, Held]:
    """The runs of the project on this machine."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    found = {}
    for run in trackio.Api().runs("grpo"):
        held = nothing()
        for row in SQLiteStorage.get_logs("grpo", run.name, run_id=run.id):
            for key, value in row.items():
                if isinstance(value, dict):
                    held["tables"][key].append([row["step"], len(value["_value"])])
                elif key not in ("step", "timestamp"):
                    held["values"][key].append([row["step"], value])
        held["config"] = run.config
        held["tags"] = run.config["tags"]
        held["name"] = run.name
        for made in SQLiteStorage.get_run_artifacts("grpo", run.name, run_id=run.id)["output"]:
            manifest = SQLiteStorage.get_artifact_manifest("grpo", made["name"], "latest")
            held["files"] = sorted(entry["path"] for entry in manifest["manifest"])
        found[run.name] = held
    return found


# ---- MLflow ---------------------------------------------------------------------------------------------------


def read_mlflow(folder: Path) -> dict[str, Held]:
    """The active runs of the experiment, as MLflow lists them."""
    import os

    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("grpo")
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        held = nothing()
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            held["values"][key] = [[metric.step, metric.value] for metric in history]
        for part in client.list_artifacts(run.info.run_id, "completions"):
            files = client.list_artifacts(run.info.run_id, part.path)
            held["tables"][part.path] = [
                [int(Path(file.path).stem.removeprefix("step-")), 8] for file in files
            ]
        held["files"] = sorted(
            file.path for file in client.list_artifacts(run.info.run_id) if not file.is_dir
        )
        held["config"] = run.data.params
        held["tags"] = sorted(key for key in run.data.tags if not key.startswith("mlflow."))
        held["name"] = run.info.run_name
        held["status"] = run.info.status
        held["latest"] = run.data.metrics
        found[run.info.run_id] = held
    return found


READERS = {
    "wandb": read_wandb,
    "tensorboard": read_tensorboard,
    "trackio": read_trackio,
    "mlflow": read_mlflow,
}
