"""``python -m rewards.check DATA --reward NAME``: whether a reward and a data set fit, before any GPU is used.

For each row three completions are made and judged: one with the gold answer must score 1, an empty one 0, and one
with a wrong answer (the gold with its last digit changed, and the like) less than 1. A table says how many did;
rows that did not are listed with what the judge said. Where more than ``--tolerance`` of the rows (1 %) fail any
of the three, the exit code is 1. Training data with unreadable answers is the usual finding.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

from rewards.conventions import TRUTH_COLUMNS
from rewards.sandbox import SandboxOptions
from rewards.score import OneLineParser, add_sandbox_options, sandbox_options
from rewards.service.service import RewardService
from rewards.table import load, missing_columns
from rewards.types import RewardSpec, Sample, Score

__all__ = ["Failure", "check", "main", "perturbed"]

TEMPLATE = "<think>\nThis is the answer that the data gives.\n</think>\n<answer>{gold}</answer>"
MOST_SHOWN = 20
ROWS_AT_ONCE = 512

Row = Mapping[str, Any]


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
}
"""What each kind of completion must score, in words and as a test."""


# -------------------------------------------------------------------------------------------- checking


def check(
    rows: Sequence[Row],
    spec: RewardSpec,
    completions: Callable[[Row], tuple[str, str]],
    workers: int | None = None,
    sandbox: SandboxOptions | None = None,
) -> list[Failure]:
    """Scorer every row's gold, empty and perturbed completion; return those that did not score what they must.

    ``completions`` gives a row's completion with the gold answer and with a wrong one.
    """
    failures = []
    numbered = iter(enumerate(rows, 1))
    with RewardService([spec], workers=workers, sandbox=sandbox) as service:
        while portion := list(itertools.islice(numbered, ROWS_AT_ONCE)):
            texts = [
                (number, row, dict(zip(CHECKS, _three(completions(row)))))
                for number, row in portion
            ]
            samples = [_sample(text, row) for _, row, kinds in texts for text in kinds.values()]
            scores = iter(service.judge(samples))
            for number, _, kinds in texts:
                for name, text in kinds.items():
                    score = next(scores).parts[spec.name]
                    if not CHECKS[name][1](score):
                        failures.append(Failure(number, name, text, score))
    return failures


def _three(gold_and_wrong: tuple[str, str]) -> tuple[str, str, str]:
    gold, wrong = gold_and_wrong
    return gold, "", wrong


def _sample(text: str, row: Row) -> Sample:
    prompt = row.get("prompt")
    return Sample(
        text,
        columns={"num_tokens": len(text.split()), **row},
        prompt=prompt if isinstance(prompt, str) else "",
    )


_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def perturbed(gold: str) -> str:
    """A wrong answer that looks like the gold one: another last digit, choice or truth value.

    >>> perturbed(r"\\frac{3}{19}"), perturbed("B"), perturbed("Yes"), perturbed(r"\\pi")
    ('\\\\frac{3}{18}', 'C', 'no', '7\\\\pi')
    """
    digits = list(re.finditer(r"[0-9]", gold))
    if digits:
        place = digits[-1].start()
        digit = int(gold[place])
        return gold[:place] + str(digit + 1 if digit < 9 else 8) + gold[place + 1 :]
    bare = gold.strip()
    if bare.lower() in _OPPOSITES:
        return _OPPOSITES[bare.lower()]
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return "A" if bare in "Zz" else chr(ord(bare) + 1)
    return "7" + bare


def _completions(options: argparse.Namespace) -> Callable[[Row], tuple[str, str]]:
    """How a row's right and wrong completion are made."""
    if options.completion:
        return lambda row: (str(row[options.completion]), perturbed(str(row[options.completion])))
    reads_mathematics = load(options.reward).__module__ == "rewards.math_answer"

    def from_gold(row: Row) -> tuple[str, str]:
        gold = str(row[options.gold])
        if reads_mathematics:
            gold = _bare(gold)
        return options.template.replace("{gold}", gold), options.template.replace(
            "{gold}", perturbed(gold)
        )

    return from_gold


def _bare(gold: str) -> str:
    """The answer alone, where the column holds a whole solution."""
    from rewards.mathematics.extraction import bare_answer

    return bare_answer(gold, lenient=True).text or gold


# ------------------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        rows = [_renamed(row, options.columns) for row in _rows(options.data, options.limit)]
        spec = RewardSpec(
            "reward",
            options.reward,
            args=options.args,
            style=options.style,
            timeout_seconds=options.timeout,
        )
        _refuse_unfit(rows, spec, options)
        failures = check(
            rows, spec, _completions(options), options.workers, sandbox_options(options)
        )
    except (ValueError, OSError) as error:
        print(f"rewards.check: {error}", file=sys.stderr)
        return 2
    print(f"{options.reward} on {len(rows)} rows of {options.data}")
    print("\n".join(_table(failures, len(rows))))
    worst = max(Counter(failure.check for failure in failures).values(), default=0)
    return 1 if worst > options.tolerance * len(rows) else 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m rewards.check", description="Check that a reward and a data set fit."
    )
    parser.add_argument(
        "data", help="a .jsonl, .csv or .parquet file, or the name of a procedural task"
    )
    parser.add_argument(
        "--reward", default="math_answer", help="a reward as recipes name it (math_answer)"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        type=_pair,
        default=[],
        metavar="NAME=COLUMN",
        help="what columns are to be called",
    )
    parser.add_argument(
        "--gold",
        help="the column with the gold answer; by default the first of " + ", ".join(TRUTH_COLUMNS),
    )
    parser.add_argument(
        "--completion",
        metavar="COLUMN",
        help="a column with whole right completions, instead of --gold",
    )
    parser.add_argument(
        "--template", default=TEMPLATE, help="how a gold answer is said; {gold} stands for it"
    )
    parser.add_argument(
        "--args", type=json.loads, default={}, metavar="JSON", help="arguments of the reward"
    )
    parser.add_argument(
        "--style", help="the reward's calling convention, where its parameters do not tell"
    )
    parser.add_argument("--limit", type=int, help="look at this many rows only")
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="the share of rows that may fail (0.01)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="a completion's deadline (10)",
    )
    parser.add_argument("--workers", type=int, help="worker processes; by default one a core")
    add_sandbox_options(parser)
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN")
    return name, column


def _renamed(row: Row, columns: Iterable[tuple[str, str]]) -> Row:
    renamed = dict(row)
    for name, column in columns:
        if column not in row:
            raise ValueError(f"the data has no column {column}; it has {', '.join(row)}")
        renamed[name] = row[column]
    return renamed


def _refuse_unfit(rows: Sequence[Row], spec: RewardSpec, options: argparse.Namespace) -> None:
    """Say before anything is judged what the data lacks; settle which column holds the gold answer."""
    if not rows:
        raise ValueError(f"{options.data} has no rows")
    known = [*rows[0], "num_tokens"]
    missing = missing_columns(load(spec.use), known, spec.style, spec.args)
    if missing:
        raise ValueError(
            f"{options.reward} wants the column {' and '.join(missing)}, but the data has {', '.join(rows[0])}; "
            f"rename one with --columns {missing[0]}=COLUMN"
        )
    options.gold = options.gold or next((name for name in TRUTH_COLUMNS if name in rows[0]), None)
    wanted = options.completion or options.gold
    if wanted is None or wanted not in rows[0]:
        raise ValueError(
            f"the data has no column {wanted or 'for the gold answer'}; it has {', '.join(rows[0])}; "
            "name one with --gold, or one that holds whole right completions with --completion"
        )


def _table(failures: Sequence[Failure], num_rows: int) -> list[str]:
    counts = Counter(failure.check for failure in failures)
    lines = [f"{'completion':<12}{'must score':>12}{'passed':>10}{'failed':>10}"]
    for name, (wanted, _) in CHECKS.items():
        lines.append(f"{name:<12}{wanted:>12}{num_rows - counts[name]:>10}{counts[name]:>10}")
    if failures:
        lines += [
            "",
            f"{'row':>6}  {'completion':<11} {'value':>6}  {'status':<15} what the judge said",
        ]
    for failure in failures[:MOST_SHOWN]:
        score = failure.score
        value = "-" if score.value is None else f"{score.value:g}"
        said = _on_one_line(score.detail or failure.completion)
        lines.append(f"{failure.row:>6}  {failure.check:<11} {value:>6}  {score.status:<15} {said}")
    if len(failures) > MOST_SHOWN:
        lines.append(f"and {len(failures) - MOST_SHOWN} more")
    return lines


def _on_one_line(text: str) -> str:
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= 160 else line[:157] + "..."


# --------------------------------------------------------------------------------------------- reading


def _rows(source: str, limit: int | None) -> list[Row]:
    path = Path(source)
    if path.suffix in _READERS:
        rows = _READERS[path.suffix](path)
    else:
        from rewards.tasks import load_task

        rows = load_task(source).rows()
    return list(itertools.islice(rows, limit))


def _read_jsonl(path: Path) -> Iterable[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} of {path} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {path} is not an object")
            yield row


def _read_csv(path: Path) -> Iterable[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines)


def _read_parquet(path: Path) -> Iterable[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


_READERS: Mapping[str, Callable[[Path], Iterable[Row]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


if __name__ == "__main__":
    sys.exit(main())
