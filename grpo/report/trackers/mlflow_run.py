"""MLflow, at a server or in a database file.

MLflow never forgets a value, and the latest of a metric is that of the highest step. A run that was closed in peace
goes on; any other is deleted there (MLflow can restore it) and begins anew with the history of the run folder.
"""

from __future__ import annotations

import re
import zlib
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from grpo.recipe import MlflowSection
from grpo.report.trackers.tracker import COLUMNS, Opening, Point, Table
from grpo.report.trackers.values import flattened

MAX_METRICS = 1000  # of one request
MAX_PARAMS = 100
MAX_PARAM = 500  # characters that every store takes
MAX_NAME = 250
_STRANGE = re.compile(r"[^\w\-. /]|(?<![^/])\.{1,2}(?![^/])|/(?=/)|^/|/$")


class MlflowRun:
    """A run of an MLflow experiment."""

    def __init__(self, client: MlflowClient, id: str, *, where: str, is_new: bool):
        self.id = id
        self.is_new = is_new
        self.where = where
        self._client = client

    def log(self, points: Sequence[Point]) -> None:
        metrics = [
            Metric(name_of(key), value, int(1000 * point.when), point.step)
            for point in points
            for key, value in point.values.items()
        ]
        for part in parts_of(metrics, MAX_METRICS):
            self._client.log_batch(self.id, metrics=part)

    def table(self, table: Table) -> None:
        rows = [list(row) for row in table.rows]
        file = f"{table.name}/step-{table.step:06d}.json"
        self._client.log_dict(self.id, {"columns": list(COLUMNS), "data": rows}, file)

    def describe(self, opening: Opening) -> None:
        """Keep the recipe as parameters."""
        params = [
            Param(name_of(key), str(value)[:MAX_PARAM])
            for key, value in flattened(opening.config).items()
        ]
        for part in parts_of(params, MAX_PARAMS):
            self._client.log_batch(self.id, params=part)

    def keep(self, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self.id, str(file))

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self.id, status="FAILED" if failed else "FINISHED")


def open_run(section: MlflowSection, opening: Opening) -> MlflowRun:
    """The run at MLflow."""
    client = MlflowClient(section.uri)
    where = f"MLflow experiment {section.experiment} at {client.tracking_uri}"
    if opening.former and opening.may_continue and _is_active(client, opening.former):
        client.update_run(opening.former, status="RUNNING")
        return MlflowRun(client, opening.former, where=where, is_new=False)
    tags = {name_of(tag): "true" for tag in opening.tags}
    if opening.former:
        tags["replaces"] = opening.former
        if opening.may_delete:
            with suppress(MlflowException):  # it is gone already
                client.delete_run(opening.former)
    experiment = _experiment(client, section.experiment)
    made = client.create_run(experiment, run_name=opening.name, tags=tags)
    run = MlflowRun(client, made.info.run_id, where=where, is_new=True)
    run.describe(opening)
    return run


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _is_active(client: MlflowClient, id: str) -> bool:
    try:
        return str(client.get_run(id).info.lifecycle_stage) == "active"
    except MlflowException:
        return False


def name_of(key: str) -> str:
    """`key` as MLflow allows it: what it does not is ``_``, and a checksum keeps two such names apart.

    >>> name_of("reward/mean"), name_of("metric/a (b)")
    ('reward/mean', 'metric/a _b_.729b')
    """
    allowed = _STRANGE.sub("_", key)[: MAX_NAME - 5]
    return key if allowed == key else f"{allowed}.{zlib.crc32(key.encode()) & 0xFFFF:04x}"


def parts_of(things: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """`things` in lists of at most `size`."""
    rest = iter(things)
    while part := list(islice(rest, size)):
        yield part
