"""What a run or a long command talks to: lines for good, and a live area that a thread of its own keeps up to date.

Which display it is, a terminal, a notebook, a file or none, is decided by `open_console`. On a terminal a step is a row
of a table and comes with colours; everywhere else it is a sentence. The run itself only says what has happened; what is
happening is read from its waits.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence, TextIO

from grpo.report.console.area import Curves, area_lines
from grpo.report.console.columns import Layout, layout
from grpo.report.console.completion import completion_lines
from grpo.report.console.display import Display, Nothing, Plain
from grpo.report.console.heartbeat import RUNNING, Heartbeat
from grpo.report.console.history import History, evaluations_of
from grpo.report.console.ink import Line
from grpo.report.console.page import Page, is_notebook
from grpo.report.console.screen import Screen
from grpo.report.console.sentences import evaluation_sentence, step_sentence
from grpo.report.console.status import Phases, Status
from grpo.report.folder import RunFolder, is_step

Record = Mapping[str, Any]
TICK_SECONDS = 0.25
SLOW_TICK_SECONDS = 1.0
LINES_BETWEEN_HEADS = 12
LINES_OF_AREA = 8
IDLE = Status("idle: whoever drives the run has not asked for the next step", 0.0)
PREFIXES = {"warning:": "warn", "note:": "note", "stopped": "warn"}
"""Styles of lines by how they begin."""


class Console:
    """Shows a run, or a command that works for long, on one display.

    Outside of `working` blocks there is no live area, so that whoever holds the run may use the terminal. ``history``
    is what has been shown of the run, ``notice`` stands beside the status, e.g. that the run is stopping.
    """

    def __init__(self, display: Display, *, verbose: bool = False):
        self.display = display
        self.verbose = verbose
        self.history = History()
        self.notice = ""
        self._phases = Phases()
        self._look = self._phases.look
        self._lock = threading.RLock()
        self._has_title = False
        self._layout: Layout | None = None
        self._curves = Curves()
        self._rows_since_heads = 0
        self._depth = 0
        self._is_shown = False
        self._heartbeat: Heartbeat | None = None
        self._last_beat = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # -- lines --------------------------------------------------------------------------------------------------

    def title(self, text: str) -> None:
        """Print the first line, unless there is one already."""
        if not self._has_title:
            self._has_title = True
            self.show_lines([Line.of((text, "title"))])

    def say(self, *lines: str) -> None:
        """Print lines as they are; a warning or a note is coloured."""
        shown: list[Line] = []
        for line in lines:
            style = style_of(line)
            shown += [Line.of((part, style)) for part in line.split("\n")]
        if shown:
            self.show_lines(shown)

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Print lines."""
        with self._lock:
            folded = [part for line in lines for part in self._fitting(line)]
            self._rows_since_heads += len(folded)
            self.display.print(folded)

    def _fitting(self, line: Line) -> list[Line]:
        return line.folded(self.display.width) if self.display.is_live else [line]

    def step(self, record: Record) -> None:
        """Print a step: a row of the table, or a sentence."""
        with self._lock:
            history = self.history
            history.add_step(record)
            if self.display.is_live:
                self.show_lines(_drawn(self._row(record)))
            else:
                self.say(step_sentence(record, history.steps, history.evaluations))

    def _row(self, record: Record) -> Iterator[Line]:
        """The row of a step, below the heads where those are not in sight or no longer true."""
        history = self.history
        chosen_layout = layout(
            self.display.width, record, history.steps, sets=list(history.evaluations)
        )
        in_sight = max(LINES_BETWEEN_HEADS, self.display.height - LINES_OF_AREA)
        if chosen_layout != self._layout or self._rows_since_heads > in_sight:
            self._layout = chosen_layout
            self._rows_since_heads = 0
            yield chosen_layout.heads()
        yield chosen_layout.row(record, history.steps, history.evaluations, self.display.glyphs)
        remarks = chosen_layout.remarks(record)
        if remarks is not None:
            yield remarks

    def evaluations(self, results: Mapping[str, Record], when: str, seconds: float = 0.0) -> None:
        """Print the evaluations of sets after one step, by name, which took `seconds`; `when` is that step in words."""
        with self._lock:
            self.history.add_evaluations(results, seconds)
            with_parts = self.verbose or not self.display.is_live
            for name, result in results.items():
                text = evaluation_sentence(name, when, result, with_parts)
                self.show_lines([Line.of((text, "note"))])

    def completion(self, row: Record, group: Sequence[float | None]) -> None:
        """Show a completion, a `row` of ``samples.jsonl``, where there is a screen; `group` are its group's rewards."""
        if self.display.is_live:
            display = self.display
            lines = completion_lines(
                row, group, width=display.width, height=display.height, glyphs=display.glyphs
            )
            self.show_lines(_drawn(lines))
            self._layout = None  # the heads stand above the next row again

    # -- the live area ------------------------------------------------------------------------------------------

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show inside the block what this thread does."""
        self._begin_work()
        try:
            yield
        finally:
            self._end_work()

    def _begin_work(self) -> None:
        with self._lock:
            self._depth += 1
            self._phases.thread = threading.get_ident()
        self._start_thread()
        if not self._is_shown:
            self._tick()

    def _end_work(self) -> None:
        with self._lock:
            self._depth = max(0, self._depth - 1)
        if self._thread is None:
            self.rest()

    def rest(self) -> None:
        """Take the live area away at once, as nobody is to see it while other code runs."""
        with self._lock:
            if self._is_shown and not self._depth:
                self._is_shown = False
                self.display.hide()

    def begin(self, folder: Path, *, steps: int, step: int, evaluates_every: int) -> None:
        """The run in `folder` goes on after `step`: take in what it has shown before, and keep its state there."""
        records = RunFolder(folder).metrics() if step else []
        with self._lock:
            self.history = History(steps=steps, every=evaluates_every, step=step)
            for record in records:
                self.take_in(record)
            self._heartbeat = Heartbeat(folder)
        self._start_thread()

    def take_in(self, record: Record) -> None:
        """Know of a record of ``metrics.jsonl`` without showing it."""
        if is_step(record):
            self.history.add_step(record)
        else:
            self.history.add_evaluations(evaluations_of(record))

    def show_status(self, look: Callable[[], Status]) -> None:
        """Ask `look` from now on for what is being done, instead of the waits of this process."""
        self._look = look

    def forget(self) -> None:
        """Forget what has been shown of the run."""
        self.history = History()

    def _start_thread(self) -> None:
        has_task = self._heartbeat is not None or not isinstance(self.display, Nothing)
        if self._thread is not None or not has_task:
            return
        self._ended.clear()
        thread = threading.Thread(target=self._run, name="console", daemon=True)
        with suppress(RuntimeError):  # no memory for a thread: the lines are printed all the same
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        seconds = TICK_SECONDS if self.display.is_live else SLOW_TICK_SECONDS
        while not self._ended.wait(seconds):
            self._tick()

    def _tick(self) -> None:
        """Draw the area anew, or take it away where no work has been done since the last time."""
        with self._lock:
            if not self._depth:
                self.rest()
            elif not self._is_shown:
                self._is_shown = True
                self.display.show(self._area)
            else:
                self.display.refresh()
            now = time.monotonic()
            if now - self._last_beat >= SLOW_TICK_SECONDS:
                self._last_beat = now
                self._beat(RUNNING)

    def _area(self, width: int, height: int) -> Sequence[Line]:
        return _drawn(
            area_lines(
                self._look(),
                self.history,
                self._curves,
                notice=self.notice,
                width=width,
                height=height,
                glyphs=self.display.glyphs,
            )
        )

    def _beat(self, state: str) -> None:
        if self._heartbeat is None:
            return
        status = self._look() if self._depth else IDLE
        history = self.history
        left = history.seconds_left()
        self._heartbeat.write(state, status, step=history.step, steps=history.steps, left=left)

    def close(self, state: str = "") -> None:
        """Take the area away and end the thread; `state` is what became of the run, for who watches its folder."""
        self._ended.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * SLOW_TICK_SECONDS)
        self._thread = None
        with self._lock:
            if self._heartbeat is not None:
                if state:
                    self._beat(state)
                self._heartbeat.close()
                self._heartbeat = None
            self._depth = 0
            self.rest()
            self.notice = ""


def _drawn(lines: Iterator[Line]) -> list[Line]:
    """`lines`; a mistake in drawing them is shown as one line and must not end a run."""
    try:
        return list(lines)
    except Exception as error:  # noqa: BLE001  the border between a run and its picture
        return [Line.of((f"this cannot be shown: {type(error).__name__}: {error}", "dim"))]


def style_of(line: str) -> str:
    """The style of a line by its first word."""
    return next((style for prefix, style in PREFIXES.items() if line.startswith(prefix)), "")


def open_console(
    *, quiet: bool = False, verbose: bool = False, stream: TextIO | None = None
) -> Console:
    """The console that suits where this process writes: `stream`, by default standard output."""
    return Console(_display(quiet, stream), verbose=verbose)


def _display(quiet: bool, stream: TextIO | None) -> Display:
    if quiet:
        return Nothing()
    if is_notebook():
        return Page()
    target = sys.stdout if stream is None else stream
    return Screen(target) if is_terminal(target) else Plain(stream)


def is_terminal(stream: Any) -> bool:
    """Whether cursor movements make sense there; ``FORCE_COLOR`` does not make a file a terminal."""
    from rich.console import Console as Terminal  # noqa: PLC0415  not needed where nothing is live

    try:
        if not stream.isatty():
            return False
    except (AttributeError, ValueError):
        return False
    terminal = Terminal(file=stream)
    return not (terminal.is_dumb_terminal or terminal.legacy_windows)
