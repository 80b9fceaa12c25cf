"""Writes a run's ``report.html`` where the run ends. What the page holds is the business of ``grpo.report.html``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Sequence

from grpo.monitor import watchdog
from grpo.monitor.redaction import first_words
from grpo.report.folder import RunFolder, State


def written_report(
    folder: Path, state: State | None = None, *, runs: Sequence[RunFolder] = ()
) -> list[str]:
    """Write the page about the run in `folder`; lines that say where it is, or why there is none.

    `state` is what became of a run that is not finished; the page is about `runs` where they are given.

    Whatever fails here is reported and goes no further: the run itself has succeeded.
    """
    try:
        from grpo.report.html.page import REPORT, write_report  # noqa: PLC0415  only at the end of a run

        with watchdog.writing("grpo.report.html, the report", folder / REPORT):
            page = write_report(list(runs) or [RunFolder(folder)], folder / REPORT, state)
    except Exception as error:  # noqa: BLE001  a border: a page must not cost a run
        again = f"write it again with: grpo report {shlex.quote(str(folder))}"
        return [f"warning: report.html was not written ({first_words(error)}); {again}"]
    return [f"report: {page}"]


def ended_early(failure: BaseException | None) -> State:
    """The state of a run that ends before its last step, by what ended it."""
    if failure is None:
        return State("stopped", "stopped on request")
    return State("failed", first_words(failure))
