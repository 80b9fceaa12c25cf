"""TensorBoard: event files, written without torch or TensorFlow.

A life that does not go on where the last one was closed empties the run's event files and writes its history anew. Its
first event tells a TensorBoard that is running to forget what it has read (``purge_step``).
"""

from __future__ import annotations

import io
import os
import time
import uuid
from pathlib import Path
from typing import Iterable, Sequence

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from grpo.recipe import TensorboardSection, to_yaml
from grpo.report.trackers.tracker import COLUMNS, Opening, Point, Table

FOLDER = "tensorboard"
SUFFIX = "grpo"
ACCURACY = "/accuracy"


class TensorboardRun:
    """The event files of a run; its id is in their names."""

    def __init__(self, folder: Path, id: str, *, is_new: bool):
        self.id = id
        self.is_new = is_new
        self.where = f"tensorboard --logdir {folder}"
        self._file = _next_file(folder, id).open("xb", buffering=0)
        self._has_layout = not is_new
        self._write([Event(file_version="brain.Event:2", wall_time=time.time())])
        if is_new:
            start = SessionLog(status=SessionLog.START)
            self._write([Event(session_log=start, step=0, wall_time=time.time())])

    def log(self, points: Sequence[Point]) -> None:
        self._write([*self._layout(points), *map(_scalars, points)])
        self._has_layout = self._has_layout or any(map(_stems, points))

    def table(self, table: Table) -> None:
        header = [f"**{column}**" for column in COLUMNS]
        value = _text(table.name, [header, *map(_literals, table.rows)])
        self._write([Event(summary=Summary(value=[value]), step=table.step, wall_time=table.when)])

    def describe(self, opening: Opening) -> None:
        """Show the recipe and the tags as text."""
        values = [_text("recipe", [[_literal(to_yaml(dict(opening.config)))]])]
        if opening.tags:
            values.append(_text("tags", [[_literal(tag)] for tag in opening.tags]))
        self._write([Event(summary=Summary(value=values), step=0, wall_time=time.time())])

    def keep(self, files: Sequence[Path]) -> None:
        """Nothing: TensorBoard keeps no files."""

    def close(self, failed: bool) -> None:
        self._file.close()

    def _layout(self, points: Sequence[Point]) -> list[Event]:
        """Before the first evaluation: charts of each set's accuracy within its interval."""
        stems = next((found for found in map(_stems, points) if found), [])
        if self._has_layout or not stems:
            return []
        value = _layout_of(stems)
        return [Event(summary=Summary(value=[value]), step=0, wall_time=time.time())]

    def _write(self, events: Iterable[Event]) -> None:
        """Append `events`; where that fails, leave the file as it was, since nothing after half a record is read."""
        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            writer.write(event.SerializeToString())
        end = self._file.tell()
        left = memoryview(records.getvalue())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            raise


def open_run(section: TensorboardSection, opening: Opening) -> TensorboardRun:
    """The run's event files."""
    folder = opening.folder / FOLDER
    is_inside = section.folder is None
    if section.folder is not None:
        folder = Path(section.folder) / opening.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    id = uuid.uuid4().hex[:8]
    if opening.former and opening.may_continue and _files_of(folder, opening.former):
        return TensorboardRun(folder, opening.former, is_new=False)
    if opening.former and (is_inside or opening.may_delete):
        _empty(_files_of(folder, opening.former))
        id = opening.former
    run = TensorboardRun(folder, id, is_new=True)
    run.describe(opening)
    return run


def _files_of(folder: Path, id: str) -> list[Path]:
    return list(folder.glob(f"events.out.tfevents.*.{SUFFIX}.{id}"))


def _empty(files: Iterable[Path]) -> None:
    """Drop what `files` hold; they stay until the next time, as TensorBoard is stuck at a file that goes under it."""
    for file in files:
        if file.stat().st_size:
            os.truncate(file, 0)
        else:
            file.unlink()


def _next_file(folder: Path, id: str) -> Path:
    """A file that readers take after all that are there: they go by the names, which begin with a time in seconds."""
    seconds = int(time.time())
    for file in folder.glob("events.out.tfevents.*"):
        taken = file.name.split(".")[3]
        if taken.isdigit():
            seconds = max(seconds, int(taken) + 1)
    return folder / f"events.out.tfevents.{seconds:010d}.{SUFFIX}.{id}"


def _scalars(point: Point) -> Event:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
    return Event(summary=Summary(value=values), step=point.step, wall_time=point.when)


def _text(tag: str, cells: Sequence[Sequence[str]]) -> Summary.Value:
    """Text in rows and columns, for TensorBoard's text page."""
    shape = TensorShapeProto(
        dim=[TensorShapeProto.Dim(size=len(cells)), TensorShapeProto.Dim(size=len(cells[0]))]
    )
    texts = [cell.encode() for row in cells for cell in row]
    tensor = TensorProto(dtype=DT_STRING, string_val=texts, tensor_shape=shape)
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    described = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    return Summary.Value(tag=tag, metadata=described, tensor=tensor)


def _literals(row: Sequence[str | float | None]) -> list[str]:
    return [_literal(cell) for cell in row]


def _literal(cell: str | float | None) -> str:
    """A cell as Markdown shows it unchanged: text as a block of code."""
    if not isinstance(cell, str):
        return "" if cell is None else f"{cell:g}"
    return "\n".join(f"    {line}" for line in cell.splitlines())


def _stems(point: Point) -> list[str]:
    """The keys of accuracies that have an interval, without their last part."""
    stems = [name.removesuffix(ACCURACY) for name in point.values if name.endswith(ACCURACY)]
    return [stem for stem in stems if f"{stem}/low" in point.values]


def _layout_of(stems: Sequence[str]) -> Summary.Value:
    """A page of TensorBoard's custom scalars: the accuracy of each set as a line in a band."""
    charts = [layout_pb2.Chart(title=f"{stem}{ACCURACY}", margin=_band(stem)) for stem in stems]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="accuracy", chart=charts)])
    tensor = TensorProto(
        dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto()
    )
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)
    described = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
    return Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=described, tensor=tensor)


def _band(stem: str) -> layout_pb2.MarginChartContent:
    series = layout_pb2.MarginChartContent.Series(
        value=f"{stem}{ACCURACY}", lower=f"{stem}/low", upper=f"{stem}/high"
    )
    return layout_pb2.MarginChartContent(series=[series])
