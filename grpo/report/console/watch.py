"""A run of another process, shown from its files: ``grpo watch RUN``.

What the run writes is all that is asked for: its records, alarms and completions as they come, ``status.json`` for what
it does at this second, its lock for whether it lives. Nothing is written here.
"""

from __future__ import annotations

import json
import shlex
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Iterator

import psutil

from grpo.report.console.closing import closing_lines
from grpo.report.console.completion import chosen
from grpo.report.console.console import Console
from grpo.report.console.heartbeat import FAILED, FINISHED, RUNNING, STOPPED, Beat, read_beat
from grpo.report.console.history import evaluations_of
from grpo.report.console.ink import Line
from grpo.report.console.numbers import rough_time
from grpo.report.console.status import Status
from grpo.report.folder import RunFolder, State, is_step

Record = dict[str, Any]
LOOK_SECONDS = 0.5
SILENT_SECONDS = 30.0
"""A run on another machine, or on a file system without locks, is taken for dead after so long without a sign."""
LAST_STEPS = 15
HEADER = ("grpo ", "  policy ", "  data ", "  rewards ", "  training ", "  resumed ")


class Tail:
    """The records that are added to a JSONL file; from the beginning again where the file was cut back."""

    def __init__(self, file: Path):
        self.file = file
        self._offset = 0

    def was_cut(self) -> bool:
        """Whether the file has lost what was read of it already, as by a resume; it is then read anew."""
        try:
            is_cut = self.file.stat().st_size < self._offset
        except OSError:
            is_cut = self._offset > 0
        if is_cut:
            self._offset = 0
        return is_cut

    def skip(self) -> None:
        """Leave out what is there."""
        for _ in self.new():
            pass

    def new(self) -> Iterator[Record]:
        """The records of whole lines since the last call."""
        try:
            lines = self.file.open("rb")
        except OSError:
            return
        with lines:
            lines.seek(self._offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


class Watch:
    """Shows the run in `folder` on `console`; `look` takes in what is new, and says what has become of the run."""

    def __init__(self, folder: RunFolder, console: Console, now: Callable[[], float] = time.time):
        self.folder = folder
        self.console = console
        self._now = now
        recipe = folder.recipe()
        self._show_every = int((recipe.get("log") or {}).get("show_every", 0))
        self._history_of(recipe)
        self._metrics = Tail(folder.path / "metrics.jsonl")
        self._alarms = Tail(folder.path / "alarms.jsonl")
        self._samples = Tail(folder.path / "samples.jsonl")
        self._rows: list[Record] = []
        self._num_shown = 0
        self.beat = read_beat(folder.path)
        console.show_status(self.status)

    def _history_of(self, recipe: Record) -> None:
        history = self.console.history
        history.steps = int(recipe.get("steps", 0))
        history.every = int((recipe.get("evaluate") or {}).get("every", 0))

    def status(self) -> Status:
        """What the run did when it was last heard of."""
        if self.beat is None:
            return Status("no status yet", 0.0)
        return self.beat.status(self._now())

    # -- what is shown ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Show the run's header, its evaluations and its last steps."""
        lines = [line for line in last_life(self.folder.console()) if line.startswith(HEADER)]
        title, *header = lines or [f"grpo  {self.folder.name}  ->  {self.folder.path}"]
        self.console.title(title)
        self.console.say(*header)
        recent: deque[Record] = deque(maxlen=LAST_STEPS)
        for record in self._metrics.new():
            self._remember(recent)
            recent.append(record)
        for record in recent:
            self._show(record)
        self._alarms.skip()
        self._samples.skip()

    def _remember(self, recent: deque[Record]) -> None:
        """Take in the record that leaves the last ones, without showing it."""
        if len(recent) == recent.maxlen:
            self.console.take_in(recent[0])

    def look(self) -> State:
        """Show what is new; the state of the run."""
        if self._metrics.was_cut():
            self._start_over()
        self.beat = read_beat(self.folder.path) or self.beat
        for alarm in self._alarms.new():
            if alarm.get("level") in ("warn", "skip", "stop"):
                self.console.say(
                    f"warning: step {alarm['step']}: gate {alarm['gate']}: {alarm['says']}"
                )
        self._rows += self._samples.new()
        for record in self._metrics.new():
            self._show(record)
        return state_of(self.folder, self.beat, self._now())

    def _start_over(self) -> None:
        """The run went back to an older step: what it shows from now on counts."""
        self.console.say("note: the run has gone back to a checkpoint")
        self.console.forget()
        self._history_of(self.folder.recipe())
        self._rows = []
        self._samples.was_cut()
        self._samples.skip()
        records = list(self._metrics.new())
        for record in records:
            self.console.take_in(record)

    def _show(self, record: Record) -> None:
        if is_step(record):
            self.console.step(record)
            self._show_a_completion(record["step"])
            return
        results = evaluations_of(record)
        when = f"after step {record['step']}" if record["step"] else "before training"
        self.console.evaluations(results, when)

    def _show_a_completion(self, step: int) -> None:
        rows = [row for row in self._rows if row["step"] == step]
        self._rows = [row for row in self._rows if row["step"] > step]
        if not self._show_every or step % self._show_every:
            return
        found = chosen(rows, self._num_shown)
        self._num_shown += 1
        if found is not None:
            self.console.completion(*found)

    def end(self, state: State) -> None:
        """Show how the run ended."""
        if state.name == FINISHED:
            glyphs = self.console.display.glyphs
            self.console.show_lines(
                list(closing_lines(self.folder.summary(), self.folder.path, glyphs))
            )
            return
        style = "bad" if state.name == FAILED else "warn"
        self.console.show_lines([Line.of((f"{state.name}: {state.reason}", style))])


def watch(
    folder: RunFolder, console: Console, sleep: Callable[[float], None] = time.sleep
) -> State:
    """Show the run until it ends; returns what became of it."""
    shown = Watch(folder, console)
    shown.begin()
    with console.working():
        while (state := shown.look()).name == RUNNING:
            sleep(LOOK_SECONDS)
    console.rest()
    shown.end(state)
    return state


def state_of(folder: RunFolder, beat: Beat | None, now: float) -> State:
    """What has become of a run, by its summary, its lock, its last sign of life and its last words."""
    state = folder.state()
    if state.name in (FINISHED, RUNNING) or beat is None or beat.state != RUNNING:
        return state
    silent = now - beat.time
    is_here = beat.host == socket.gethostname()
    if silent < SILENT_SECONDS and (not is_here or psutil.pid_exists(beat.pid)):
        return State(RUNNING)
    where = "" if is_here else f" on {beat.host}"
    words = (
        f"no sign of life for {rough_time(silent)}, and process {beat.pid}{where} no longer holds the folder: killed, "
        f"or the machine went down, while {beat.what} in step {beat.step + 1}"
    )
    again = f"grpo train {shlex.quote(str(folder.path))} --resume"
    return State(STOPPED, f"{words}. To resume: {again}")


def last_life(lines: list[str]) -> list[str]:
    """The lines of ``console.log`` since the run was last started."""
    starts = [number for number, line in enumerate(lines) if line.startswith("--- ")]
    return lines[starts[-1] + 1 :] if starts else lines
