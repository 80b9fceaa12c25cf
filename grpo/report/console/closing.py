"""The end of a run on the screen: what it was before and is after, what became of every completion, what comes next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from grpo.recipe.shorthands import HELD_OUT
from grpo.report.console.ink import Glyphs, Line, Span, aligned
from grpo.report.console.numbers import interval, is_number, rough_time, short
from grpo.report.console.words import outcomes, shown_set

Summary = Mapping[str, Any]
NEXT = (
    ("evaluate", "{run}", "accuracy with intervals, pass@k, maj@k"),
    ("report", "{run}", "one page: curves, completions, every figure"),
    ("sample", "{run} --rows 4", "completions to read"),
)
"""Commands for a finished run: name, arguments, what they give. Shown are those that this version has."""
MAX_EXAMPLE = 300
HEADS = ("", "before", "after", "change")


def closing_lines(summary: Summary, folder: Path, glyphs: Glyphs) -> Iterator[Line]:
    """The last lines of a run, from what its ``summary.json`` holds."""
    yield Line.of("")
    yield from comparison(summary, glyphs)
    yield from _examples(summary)
    yield Line.of("")
    yield Line.of(outcomes(summary["ledger"]))
    alarms = summary.get("alarms") or []
    if alarms:
        gates = ", ".join(dict.fromkeys(str(alarm["gate"]) for alarm in alarms))
        yield Line.of((f"{len(alarms)} alarms of gates, kept in alarms.jsonl: {gates}", "warn"))
    yield Line.of(
        f"{summary['steps']} steps in {rough_time(summary['seconds'])}, "
        f"{short(summary['tokens']['sampled'])} tokens sampled; the model is in ",
        (shown_path(folder / "final"), "title"),
    )
    yield from next_lines(folder)


def comparison(summary: Summary, glyphs: Glyphs) -> Iterator[Line]:
    """The table of before and after: accuracy by set, mean reward, length, the parts of the reward."""
    sets = {HELD_OUT: {"before": summary["before"], "after": summary["after"]}, **summary["sets"]}
    rows: list[Sequence[str]] = []
    styles: list[str] = []
    for name, both in sets.items():
        for cells, style in _rows_of_set(name, both["before"], both["after"], glyphs):
            rows.append(cells)
            styles.append(style)
    if not rows:
        return
    has_before = any(row[1] != glyphs.dash for row in rows)
    heads = HEADS if has_before else ("", HEADS[2])
    if not has_before:
        rows = [(row[0], row[2]) for row in rows]
    head, *lines = aligned([heads, *rows])
    yield Line.of((head, "head"))
    for line, style in zip(lines, styles):
        yield Line.of((line, style))


def _rows_of_set(
    name: str, before: Summary | None, after: Summary | None, glyphs: Glyphs
) -> Iterator[tuple[tuple[str, str, str, str], str]]:
    """(cells, style) of the rows of one set; a change whose intervals lie apart is coloured."""
    if not after:
        return
    first = before or {}
    shown = f"{shown_set(name)} accuracy"
    old = interval(before) if before else glyphs.dash
    change = _difference(first.get("accuracy"), after["accuracy"], 100, ".1f")
    yield (shown, old, interval(after), f"{change} points" if change else ""), _style(first, after)
    if is_number(after.get("reward")) and after["reward"] != after["accuracy"]:
        yield _row("mean reward", first, after, "reward", ".3f", glyphs), ""
    yield _row("length in tokens", first, after, "length", ".1f", glyphs), ""
    for part in _telling_parts(first, after):
        old = first.get("details") or {}
        yield _row(part, old, after["details"], part, ".3f", glyphs), ""


def _telling_parts(before: Summary, after: Summary) -> Iterator[str]:
    """The parts of the reward that are not the accuracy again, and have changed."""
    old = before.get("details") or {}
    details = after.get("details") or {}
    for part in sorted(details):
        pair = (old.get(part), details[part])
        is_accuracy = pair == (before.get("accuracy"), after["accuracy"])
        if details[part] is not None and pair[0] != pair[1] and not is_accuracy:
            yield part


def _row(
    name: str, before: Summary, after: Summary, key: str, spec: str, glyphs: Glyphs
) -> tuple[str, str, str, str]:
    old = before.get(key)
    new = after[key]
    cells = [f"{value:{spec}}" if is_number(value) else glyphs.dash for value in (old, new)]
    return name, cells[0], cells[1], _difference(old, new, 1, spec)


def _difference(old: Any, new: Any, scale: float, spec: str) -> str:
    """``+27.4``; empty where one of the two is missing."""
    if not is_number(old) or not is_number(new):
        return ""
    return f"{scale * (new - old):+{spec}}"


def _style(before: Summary, after: Summary) -> str:
    bounds = [before.get("low"), before.get("high"), after.get("low"), after.get("high")]
    if not all(map(is_number, bounds)):
        return ""
    if after["low"] > before["high"]:
        return "good"
    return "bad" if after["high"] < before["low"] else ""


def _examples(summary: Summary) -> Iterator[Line]:
    """The same prompt before and after, where that is short enough to be read here."""
    pairs = {when: examples[:1] for when, examples in summary["examples"].items() if examples}
    texts = {when: f"{one['prompt']} {one['completion']}" for when, (one,) in pairs.items()}
    if len(texts) < 2 or max(map(len, texts.values())) > MAX_EXAMPLE:
        return
    yield Line.of("")
    for when, text in texts.items():
        reward = pairs[when][0]["reward"]
        spans: list[Span] = [(f"{when:>6} ", "dim"), (" ".join(text.split()), "")]
        if is_number(reward):
            spans.append((f"   (reward {reward:g})", "dim"))
        yield Line(tuple(spans))


def next_lines(folder: Path) -> Iterator[Line]:
    """The commands that come next, of those that this version has."""
    run = shlex.quote(shown_path(folder))
    commands = {
        f"{launcher()} {name} {arguments.format(run=run)}": what
        for name, arguments, what in NEXT
        if find_spec(f"grpo.commands.{name}") is not None
    }
    width = max(map(len, commands), default=0)
    yield Line.of(("next:", "dim"))
    for command, what in commands.items():
        yield Line.of(f"  {command:<{width}}", (f"   {what}", "dim"))


def launcher() -> str:
    """How a command of this library is typed here: ``grpo``, or the interpreter with ``-m grpo``."""
    if shutil.which("grpo"):
        return "grpo"
    interpreter = Path(sys.executable)
    beside = interpreter.with_name("grpo")
    if beside.is_file():
        return shlex.quote(shown_path(beside))
    return f"{shlex.quote(shown_path(interpreter))} -m grpo"


def shown_path(path: Path) -> str:
    """A path, relative to the working folder where it is inside."""
    try:
        return str(path.absolute().relative_to(Path.cwd())) or os.curdir
    except (ValueError, OSError):
        return str(path)
