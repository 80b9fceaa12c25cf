"""The end of a run on the screen: what it was before and is after, what became of every completion, what comes next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from grpo.recipe.shorthands import HELD_OUT
from grpo.report.console.closing_without_model import CLOSINGS
from grpo.report.console.ink import Glyphs, Line, Span, aligned
from grpo.report.console.numbers import interval, is_number, rough_time, short
from grpo.report.console.words import outcomes, shown_set
from grpo.report.transcript import told_by
from rewards.spelling import many

Summary = Mapping[str, Any]
NEXT = (
    ("evaluate", "{run}", "accuracy with intervals, pass@k, maj@k"),
    ("report", "{run}", "one page: curves, completions, every figure"),
    ("sample", "{run} --rows 4", "completions to read"),
    ("chat", "{run}", "talk to the model"),
)
"""Commands for a finished run: name, arguments, what they give. Shown are those that fit the run, at most three."""
MAX_EXAMPLE = 300
CALLS = (
    ("tool/share", "completions that call, %", 100.0, ".1f"),
    ("tool/calls", "calls of a completion", 1.0, ".2f"),
)
"""What is told of calls: the key, its words, by how much it is multiplied, its format."""
HEADS = ("", "before", "after", "change")


def closing_lines(summary: Summary, folder: Path, glyphs: Glyphs) -> Iterator[Line]:
    """The last lines of a run, from what its ``summary.json`` holds."""
    yield Line.of("")
    without_model = CLOSINGS.get(str(summary.get("stage")))
    if without_model is not None:
        yield from (Line.of(text) for text in without_model(summary, folder))
        return
    yield from comparison(summary, glyphs)
    yield from _examples(summary)
    yield Line.of("")
    yield Line.of(outcomes(summary["ledger"]))
    alarms = summary.get("alarms") or []
    if alarms:
        gates = ", ".join(dict.fromkeys(str(alarm["gate"]) for alarm in alarms))
        number = f"{len(alarms)} alarm{'s' if len(alarms) > 1 else ''}"
        yield Line.of((f"{number} of gates, kept in alarms.jsonl: {gates}", "warn"))
    does = "sampled" if summary["tokens"].get("sampled") else "trained"
    yield Line.of(
        f"{many(summary['steps'], 'step')} in {rough_time(summary['seconds'])}, "
        f"{short(summary['tokens'].get(does, 0))} tokens {does}; the model is in ",
        (shown_path(folder / "final"), "title"),
    )
    yield from next_lines(folder, _that_fit(summary))


def comparison(summary: Summary, glyphs: Glyphs) -> Iterator[Line]:
    """The table of before and after: accuracy by set, mean reward, length, the parts of the reward."""
    sets = {HELD_OUT: {"before": summary["before"], "after": summary["after"]}, **summary["sets"]}
    rows = list(_losses(summary.get("loss"), glyphs))
    for name, both in sets.items():
        rows += _rows_of_set(name, both["before"], both["after"], glyphs)
    if not rows:
        return
    has_before = any(row.before != glyphs.dash for row in rows)
    heads = HEADS if has_before else (HEADS[0], HEADS[2])
    head, *lines = aligned([heads, *(row.cells(has_before) for row in rows)])
    yield Line.of((head, "head"))
    for line, row in zip(lines, rows):
        yield Line.of((line, row.style))


@dataclass(frozen=True, slots=True)
class _Row:
    """One quantity before and after, in words; coloured where the intervals lie apart."""

    name: str
    before: str
    after: str
    change: str
    style: str = ""

    def cells(self, has_before: bool) -> list[str]:
        """What stands in the table."""
        if has_before:
            return [self.name, self.before, self.after, self.change]
        return [self.name, self.after]


def _losses(both: Summary | None, glyphs: Glyphs) -> Iterator[_Row]:
    """The held-out loss of supervised training."""
    after = (both or {}).get("after")
    if both is None or not after:
        return
    before = both.get("before") or {}
    row = _row("held-out loss", before.get("loss"), after["loss"], spec=".4f", dash=glyphs.dash)
    falls = {"low": -after["high"], "high": -after["low"]}
    stood = {"low": -before["high"], "high": -before["low"]} if before else {}
    yield replace(row, style=_style(stood, falls))


def _rows_of_set(
    name: str, before: Summary | None, after: Summary | None, glyphs: Glyphs
) -> Iterator[_Row]:
    if not after:
        return
    first = before or {}
    change = _difference(first.get("accuracy"), after["accuracy"], 100, ".1f")
    yield _Row(
        name=f"{shown_set(name)} accuracy",
        before=interval(before) if before else glyphs.dash,
        after=interval(after),
        change=f"{change} points" if change else "",
        style=_style(first, after),
    )
    quantities = [("length in tokens", "length", ".1f")]
    if any(_rewards_more_than_accuracy(result) for result in (first, after)):
        quantities.insert(0, ("mean reward", "reward", ".3f"))
    for shown, key, spec in quantities:
        yield _row(shown, first.get(key), after.get(key), spec=spec, dash=glyphs.dash)
    old = first.get("details") or {}
    for key, shown, scale, spec in CALLS:
        if key in (after.get("details") or {}):
            values = (old.get(key), after["details"][key])
            yield _scaled(shown, values, scale=scale, spec=spec, dash=glyphs.dash)
    for part in _telling_parts(first, after):
        yield _row(part, old.get(part), after["details"][part], spec=".3f", dash=glyphs.dash)


def _rewards_more_than_accuracy(result: Summary) -> bool:
    """Whether the mean reward says something that the accuracy does not."""
    return is_number(result.get("reward")) and result["reward"] != result["accuracy"]


def _row(name: str, old: Any, new: Any, *, spec: str, dash: str) -> _Row:
    return _Row(
        name=name,
        before=f"{old:{spec}}" if is_number(old) else dash,
        after=f"{new:{spec}}" if is_number(new) else dash,
        change=_difference(old, new, 1, spec),
    )


def _scaled(name: str, values: tuple[Any, Any], *, scale: float, spec: str, dash: str) -> _Row:
    """As `_row`, of a share in percent where `scale` is 100."""
    known = [scale * value if is_number(value) else None for value in values]
    return _row(name, *known, spec=spec, dash=dash)


def _telling_parts(before: Summary, after: Summary) -> Iterator[str]:
    """The parts of the reward that are not the accuracy again, and have changed."""
    old = before.get("details") or {}
    details = after.get("details") or {}
    for part in sorted(details):
        pair = (old.get(part), details[part])
        is_accuracy = pair == (before.get("accuracy"), after["accuracy"])
        is_new = details[part] is not None and pair[0] != pair[1] and not is_accuracy
        if is_new and not part.startswith("tool/"):
            yield part


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
    texts = {when: f"{one['prompt']} {told_by(one)}" for when, (one,) in pairs.items()}
    if len(texts) < 2 or max(map(len, texts.values())) > MAX_EXAMPLE:
        return
    yield Line.of("")
    for when, text in texts.items():
        reward = pairs[when][0]["reward"]
        spans: list[Span] = [(f"{when:>6} ", "dim"), (" ".join(text.split()), "")]
        if is_number(reward):
            spans.append((f"   (reward {reward:g})", "dim"))
        yield Line(tuple(spans))


def _that_fit(summary: Summary) -> tuple[str, ...]:
    """The commands that a run has what they need for: rewards to evaluate by, rows that ask something to sample."""
    if summary.get("after") or summary["sets"]:
        return ("evaluate", "report", "sample")
    if "rows" in summary:  # supervised: its rows may ask nothing
        return ("report", "chat")
    if summary.get("stage") == "distill":
        return ("report", "sample")
    return ("evaluate", "report", "sample")


def next_lines(folder: Path, names: Sequence[str]) -> Iterator[Line]:
    """The commands that come next, by `names`."""
    run = shlex.quote(shown_path(folder))
    commands = {
        f"{launcher()} {name} {arguments.format(run=run)}": what
        for name, arguments, what in NEXT
        if name in names
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
