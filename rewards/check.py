"""``python -m rewards.check DATA --reward NAME``: whether a reward and a data set fit, before any GPU is used.

For each row three completions are made and judged: one with the gold answer must score 1, an empty one 0, and one
with a wrong answer (the gold with its last digit changed, and the like) less than 1. Where the gold is a number with a
unit and the reward is math_answer, one with the number alone must score 1 too. A table shows how many did;
rows that did not are listed with the judge's explanation. A row without a gold, of a task that is judged by rule
alone, is tried with the empty completion only, and counted; so are all rows of a file that has no column with golds, if
the reward wants none. If more than ``--tolerance`` of the rows (1 %) fail any
of the three, the exit code is 1. The usual finding is training data with unreadable answers. Rewards run as in
training: in worker processes, under the same deadlines.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

from rewards.command_line import OneLineParser, json_object
from rewards.conventions import TRUTH_COLUMNS
from rewards.gold import gold_items, is_placeholder, stated_gold
from rewards.mathematics.bare_values import bare_value
from rewards.mathematics.extraction import bare_answer
from rewards.paths import MISSING
from rewards.patterns import AbsentColumn, named_value
from rewards.progress import shown_progress
from rewards.readers import can_read, read_rows
from rewards.reasoning import continuing, shown_text
from rewards.sandbox import SandboxOptions
from rewards.score import (
    add_deadline_option,
    add_sandbox_options,
    sandbox_options,
)
from rewards.service.service import RewardService, Ticket
from rewards.spelling import agree, many
from rewards.table import judges_without_gold, load, missing_columns
from rewards.tasks import load_task
from rewards.types import RewardSpec, Sample, Score

__all__ = ["Failure", "TEMPLATE", "check", "main", "perturbed", "wrong_answer"]

TEMPLATE = "<think>\nThis is the answer that the data gives.\n</think>\n<answer>{gold}</answer>"
MAX_FAILURES_SHOWN = 20
MAX_DETAIL_CHARS = 160
ROWS_A_SUBMISSION = 512
SECONDS_BETWEEN_LOOKS = 0.25

Row = Mapping[str, Any]
Completions = Callable[[Row], Sequence[str] | None]
"""Makes a row's completion with the gold answer, the one with a wrong answer and, if there is a unit to leave out, one
without it; None where no gold is needed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A completion that did not score what it must: which row (from 1), which check, and the verdict."""

    row: int
    check: str
    completion: str
    score: Score


CHECKS: Mapping[str, tuple[str, Callable[[Score], bool]]] = {
    "gold": ("1", lambda score: score.value is not None and score.value >= 1),
    "empty": ("0", lambda score: score.value == 0),
    "perturbed": ("< 1", lambda score: score.value is not None and score.value < 1),
    "no unit": ("1", lambda score: score.value is not None and score.value >= 1),
}
"""What each kind of completion must score, as text and as a test."""


# -------------------------------------------------------------------------------------------- checking


def check(
    rows: Sequence[Row],
    spec: RewardSpec,
    completions: Completions,
    workers: int | None = None,
    sandbox: SandboxOptions | None = None,
    *,
    progress: Callable[[float], None] = lambda rows: None,
) -> list[Failure]:
    """Judge every row's gold, empty and perturbed completion; return those that did not score what they must.

    ``completions`` makes a row's completion with the gold answer, with a wrong one, and perhaps one without its unit;
    where it makes none, only the empty one is judged. ``progress`` is told how many rows are judged, now and then.
    """
    failures = []
    num_done = 0
    numbered = iter(enumerate(rows, 1))
    with RewardService([spec], workers=workers, sandbox=sandbox) as service:
        while portion := list(itertools.islice(numbered, ROWS_A_SUBMISSION)):
            trials = _trials(portion, completions)
            ticket = service.submit([trial.sample for trial in trials])
            for share in _shares_done(ticket, len(trials)):
                progress(num_done + share * len(portion))
            num_done += len(portion)
            for trial, judged in zip(trials, ticket.result()):
                score = judged.parts[spec.name]
                _, passes = CHECKS[trial.check]
                if not passes(score):
                    failures.append(Failure(trial.row, trial.check, trial.sample.text, score))
    return failures


def _shares_done(ticket: Ticket, number: int) -> Iterator[float]:
    """The share of `number` verdicts that are there, again and again until all of them are."""
    while not ticket.done():
        yield 1 - ticket.num_open / number
        with suppress(TimeoutError):
            ticket.result(SECONDS_BETWEEN_LOOKS)
    yield 1.0


@dataclass(frozen=True, slots=True)
class _Trial:
    """A completion made for a row (from 1), and the check it is made for."""

    row: int
    check: str
    sample: Sample


def _trials(numbered_rows: Sequence[tuple[int, Row]], completions: Completions) -> list[_Trial]:
    trials = []
    for number, row in numbered_rows:
        made = completions(row)
        texts = {"empty": ""}
        if made is not None:
            gold, wrong, *without_unit = made
            texts = dict(zip(CHECKS, (gold, "", wrong, *without_unit)))
        for name, text in texts.items():
            trials.append(_Trial(number, name, _sample(text, row)))
    return trials


def _sample(text: str, row: Row) -> Sample:
    """A completion for a row; where the prompt has opened ``<think>``, it goes on from there."""
    shown = shown_text(row)
    return Sample(
        continuing(text, shown),
        columns={"num_tokens": len(text.split()), **row},
        prompt=shown,
    )


def wrong_answer(gold: str, right: Sequence[Any]) -> str:
    """A wrong answer that looks like the gold one and is none of the right ones, of which a row may have several.

    >>> wrong_answer("4", ["4", "5"])
    '6'
    """
    texts = set(map(str, right))
    wrong = perturbed(gold)
    for _ in texts:
        wrong = perturbed(wrong) if wrong in texts else wrong
    return "7" + wrong if wrong in texts else wrong


_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def perturbed(gold: str) -> str:
    r"""A wrong answer that looks like the gold one: another last digit, choice or truth value.

    >>> perturbed(r"\frac{3}{19}"), perturbed("B"), perturbed("Yes"), perturbed(r"\pi")
    ('\\frac{3}{18}', 'C', 'no', '7\\pi')
    """
    digits = list(re.finditer(r"[0-9]", gold))
    if digits:
        position = digits[-1].start()
        digit = int(gold[position])
        other = digit + 1 if digit < 9 else 8
        return gold[:position] + str(other) + gold[position + 1 :]
    bare = gold.strip()
    if bare.lower() in _OPPOSITES:
        return _OPPOSITES[bare.lower()]
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return "A" if bare in "Zz" else chr(ord(bare) + 1)
    return "7" + bare


def _as_it_is(row: Row, column: str) -> tuple[str, str]:
    """A completion that a column holds whole, as it does a program, and a wrong one made of it."""
    text = str(row.get(column, ""))
    return text, perturbed(text)


def _completions(options: argparse.Namespace) -> Completions:
    """How a row's right and wrong completion are made."""
    if options.completion:
        return lambda row: _as_it_is(row, options.completion)
    function = load(options.reward)
    is_program = function.__module__ == "rewards.code_tests" and options.template == TEMPLATE
    if is_program and options.gold is not None:
        return lambda row: _as_it_is(row, options.gold)
    reads_mathematics = function.__module__ == "rewards.math_answer"

    if options.gold is None:
        return lambda row: None

    def from_gold(row: Row) -> Sequence[str] | None:
        value = row.get(options.gold)
        if value is None and judges_without_gold(function):
            return None
        gold = stated_gold(value, options.args.get("several"))
        if reads_mathematics:
            gold = bare_answer(gold, lenient=True).text or gold  # the column may hold a solution
        right = options.template.replace("{gold}", gold)
        wrong = options.template.replace("{gold}", wrong_answer(gold, gold_items(value)))
        number = bare_value(gold) if reads_mathematics else None
        if number is None:
            return right, wrong
        return right, wrong, options.template.replace("{gold}", number)

    return from_gold


# ------------------------------------------------------------------------------------------- the command


PROG = "python -m rewards.check"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command, which the user typed as `prog`; returns its exit code."""
    parser = OneLineParser(prog=prog, description="Check that a reward and a data set fit.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        read = _rows(options.data, options.limit)
        rows = [_renamed(row, number, options.columns) for number, row in enumerate(read, 1)]
        spec = _spec(options)
        _refuse_unfit(rows, spec, options)
        completions = _completions(options)
        with shown_progress("checking", len(rows), "rows", quiet=options.quiet) as progress:
            failures = check(
                rows,
                spec,
                completions,
                workers=options.workers,
                sandbox=sandbox_options(options),
                progress=progress,
            )
    except (ValueError, OSError) as error:
        print(f"rewards.check: {error}", file=sys.stderr)
        return 2
    print(f"{options.reward} on {many(len(rows), 'row')} of {options.data}")
    made = [completions(row) for row in rows]
    num_unchecked = sum(texts is None for texts in made)
    num_units = sum(texts is not None and len(texts) > 2 for texts in made)
    print("\n".join(_table(failures, len(rows), num_unchecked=num_unchecked, num_units=num_units)))
    print("".join(_remarks(rows, options, num_unchecked)), end="")
    worst = max(Counter(failure.check for failure in failures).values(), default=0)
    return 1 if worst > options.tolerance * len(rows) else 0


def _spec(options: argparse.Namespace) -> RewardSpec:
    return RewardSpec(
        "reward",
        options.reward,
        args=options.args,
        style=options.style,
        timeout_seconds=options.timeout,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "data",
        help="a .jsonl, .json, .csv or .parquet file, a pattern, or the name of a procedural task",
    )
    parser.add_argument(
        "--reward", default="math_answer", help="a reward, named as in recipes (math_answer)"
    )
    _add_column_options(parser)
    parser.add_argument(
        "--args", type=json_object, default={}, metavar="JSON", help="arguments of the reward"
    )
    parser.add_argument(
        "--style", help="the reward's calling convention, if its parameters do not tell"
    )
    parser.add_argument("--limit", type=int, help="check this many rows only")
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="the share of rows that may fail (0.01)"
    )
    add_deadline_option(parser)
    parser.add_argument("--workers", type=int, help="worker processes; by default one a core")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_sandbox_options(parser)


def _add_column_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where a row's right completion comes from."""
    parser.add_argument(
        "--columns",
        nargs="+",
        type=_pair,
        default=[],
        metavar="NAME=COLUMN",
        help="new names for columns, for paths into them, e.g. answer=reward_model.ground_truth, or for texts as "
        "in data.columns, e.g. 'answer={answer:letter}'",
    )
    parser.add_argument(
        "--gold",
        help="the column with the gold answer; by default the first of "
        + ", ".join(TRUTH_COLUMNS)
        + "; without one only the empty completion is tried",
    )
    parser.add_argument(
        "--completion",
        metavar="COLUMN",
        help="a column with whole right completions, instead of --gold",
    )
    parser.add_argument(
        "--template",
        default=TEMPLATE,
        help="the completion that states a gold answer, with {gold} in its place",
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN")
    return name, column


def _renamed(row: Row, number: int, columns: Iterable[tuple[str, str]]) -> Row:
    """Row `number` with the new columns added."""
    renamed = dict(row)
    for name, column in columns:
        try:
            value = named_value(row, column)
        except AbsentColumn as error:
            raise ValueError(_absent(error.column, row)) from None
        except ValueError as error:
            raise ValueError(f"row {number}: --columns {name}={column}: {error}") from None
        if value is MISSING:
            raise ValueError(_absent(column, row))
        renamed[name] = value
    return renamed


def _absent(column: str, row: Row) -> str:
    return f"the data has no column {column}; it has {', '.join(row)}"


def _refuse_unfit(rows: Sequence[Row], spec: RewardSpec, options: argparse.Namespace) -> None:
    """Report before anything is judged what the data lacks; settle which column holds the gold answer, if one does."""
    if not rows:
        raise ValueError(f"{options.data} has no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = ", ".join(names)
    missing = missing_columns(load(spec.use), [*names, "num_tokens"], spec.style, spec.args)
    if missing:
        raise ValueError(
            f"{options.reward} wants the column {' and '.join(missing)}, but the data has {columns}; "
            f"rename one with --columns {missing[0]}=COLUMN, or check a file of prompts alone with a reward that "
            "wants no gold answer, e.g. --reward think_format"
        )
    options.gold = options.gold or next((name for name in TRUTH_COLUMNS if name in names), None)
    wanted = options.completion or options.gold
    if wanted is not None and wanted not in names:
        raise ValueError(f"the data has no column {wanted}; it has {columns}")


def _remarks(rows: Sequence[Row], options: argparse.Namespace, num_unchecked: int) -> list[str]:
    """Lines on golds that were not checked, or that look like no answers; each ends with a line break."""
    if options.completion:
        return []
    if options.gold is None:
        return [
            f"note: only the empty completion was tried: the data has no column with gold answers "
            f"({', '.join(TRUTH_COLUMNS)}), so whether {options.reward} gives a right completion 1 and a wrong one "
            "less is not known; name the column with --gold, or one with whole right completions with --completion\n"
        ]
    lines = []
    if num_unchecked:
        lines.append(
            f"note: gold not checked on {num_unchecked} of {many(len(rows), 'row')}, which "
            f"{agree(num_unchecked, 'have')} none: {options.reward} judges "
            "such a row by rule; only the empty completion was tried\n"
        )
    golds = [row.get(options.gold) for row in rows]
    remarks = [gold for gold in golds if is_placeholder(gold)]
    if remarks:
        lines.append(
            f"note: {len(remarks)} of {many(len(rows), 'gold')} {agree(len(remarks), 'read')} like remarks "
            f"and not like answers, e.g. {remarks[0]!r}\n"
        )
    return lines


def _table(
    failures: Sequence[Failure], num_rows: int, *, num_unchecked: int, num_units: int
) -> list[str]:
    """The counts by kind of completion, and the failures; `num_units` rows have a gold answer with a unit."""
    counts = Counter(failure.check for failure in failures)
    num_with_gold = num_rows - num_unchecked
    num_tried_of = {"empty": num_rows, "no unit": num_units}
    lines = [f"{'completion':<12}{'must score':>12}{'passed':>10}{'failed':>10}"]
    for name, (wanted, _) in CHECKS.items():
        num_tried = num_tried_of.get(name, num_with_gold)
        if name == "no unit" and not num_tried:
            continue
        num_passed = num_tried - counts[name]
        lines.append(f"{name:<12}{wanted:>12}{num_passed:>10}{counts[name]:>10}")
    if failures:
        heading = f"{'row':>6}  {'completion':<11} {'value':>6}  {'status':<15} what the judge said"
        lines += ["", heading]
    lines += [_line(failure) for failure in failures[:MAX_FAILURES_SHOWN]]
    if len(failures) > MAX_FAILURES_SHOWN:
        lines.append(f"and {len(failures) - MAX_FAILURES_SHOWN} more")
    return lines


def _line(failure: Failure) -> str:
    score = failure.score
    value = "-" if score.value is None else f"{score.value:g}"
    detail = _on_one_line(score.detail or failure.completion)
    return f"{failure.row:>6}  {failure.check:<11} {value:>6}  {score.status:<15} {detail}"


def _on_one_line(text: str) -> str:
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= MAX_DETAIL_CHARS else line[: MAX_DETAIL_CHARS - 3] + "..."


# --------------------------------------------------------------------------------------------- reading


def _rows(source: str, limit: int | None) -> list[Row]:
    """The first ``limit`` rows of a file, or of a procedural task."""
    if can_read(source):
        rows = read_rows(source, limit, say=lambda sentence: print(sentence, file=sys.stderr))
        return list(rows)
    return list(itertools.islice(load_task(source).rows(), limit))


if __name__ == "__main__":
    sys.exit(main())
