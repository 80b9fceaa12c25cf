"""``python -m rewards.score NAME < in.jsonl > out.jsonl``: score completions from the command line.

Each input line is a JSON object with ``completion`` and the columns the reward wants (``answer`` for math_answer).
``prompt_text`` is what the model was shown, by default ``prompt``, if that is text: it may have opened the reasoning.
Each output line, in the same order, has the row's ``id`` if it has one, ``value`` (null for a fault), ``status``,
``extracted``, ``parts``, ``seconds`` and, if there is something to explain, ``detail``. With ``--pairs`` the lines
hold two bare answers, ``gold`` and ``pred``. A malformed line becomes a fault that names its number; the rest is
scored all the same. Lines are written as soon as they and those before them are judged. Rewards run as in training:
in worker processes, under the same deadlines.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import queue
import sys
import threading
from dataclasses import dataclass, field
from typing import IO, Any, Iterable, Iterator, Sequence

from rewards.command_line import OneLineParser, json_object
from rewards.conventions import convention_of, fault
from rewards.reasoning import shown_text
from rewards.sandbox import ENGINES, LEVELS, SandboxOptions
from rewards.service.service import RewardService
from rewards.service.ticket import Judged, Ticket
from rewards.table import (
    DEFAULT_SECONDS,
    PROGRAM_SECONDS,
    default_timeout_seconds,
    load,
)
from rewards.types import RewardSpec, Sample, Score

__all__ = [
    "add_arguments",
    "add_deadline_option",
    "add_sandbox_options",
    "main",
    "sandbox_options",
]

MAX_UNWRITTEN_PORTIONS = 1024
LINES_A_CALL = 256
"""How many lines a reward that judges lists gets in one call."""

PROG = "python -m rewards.score"

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command, which the user typed as `prog`; returns its exit code."""
    parser = OneLineParser(prog=prog, description="Score completions, one JSON object a line.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        spec = _spec(options)
        service = RewardService([spec], workers=options.workers, sandbox=sandbox_options(options))
    except ValueError as error:
        print(f"rewards.score: {error}", file=sys.stderr)
        return 2
    for line in service.isolation:
        print(line, file=sys.stderr)
    with service:
        try:
            _stream(service, sys.stdin.buffer, sys.stdout, pairs=options.pairs)
        except BrokenPipeError:  # the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            return 3
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "name", help="a reward of the table, package.module:function or path/file.py:function"
    )
    parser.add_argument(
        "--pairs", action="store_true", help="compare two bare answers, gold and pred"
    )
    parser.add_argument(
        "--lenient", action="store_true", help="evaluation's rules instead of training's"
    )
    parser.add_argument(
        "--args", type=json_object, default={}, metavar="JSON", help="arguments of the reward"
    )
    parser.add_argument(
        "--style", help="the reward's calling convention, if its parameters do not tell"
    )
    add_deadline_option(parser)
    parser.add_argument("--workers", type=int, help="worker processes; by default one a core")
    add_sandbox_options(parser)


def add_deadline_option(parser: argparse.ArgumentParser) -> None:
    """The option ``--timeout``; None stands for the default of the reward's kind."""
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help=f"a completion's deadline (as in training: {DEFAULT_SECONDS:g}; "
        f"{PROGRAM_SECONDS:g} for code_tests)",
    )


def add_sandbox_options(parser: argparse.ArgumentParser) -> None:
    """The options for rewards that run programs."""
    parser.add_argument(
        "--min-isolation", choices=LEVELS, default="L2", help="weakest isolation of programs (L2)"
    )
    parser.add_argument(
        "--allow-unsafe", action="store_true", help="run programs even below that level"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="where programs run (local)"
    )
    parser.add_argument("--url", help="the address of the server that runs programs")
    parser.add_argument(
        "--packages",
        nargs="+",
        default=[],
        metavar="NAME",
        help="installed packages that programs may import besides the standard library",
    )


def sandbox_options(options: argparse.Namespace) -> SandboxOptions:
    """The sandbox's options, as parsed."""
    return SandboxOptions(
        min_isolation=options.min_isolation,
        allow_unsafe=options.allow_unsafe,
        engine=options.engine,
        url=options.url,
        packages=options.packages,
    )


def _spec(options: argparse.Namespace) -> RewardSpec:
    """The reward that the options describe; `ValueError` if it cannot do what they ask."""
    function = load(options.name)
    use = options.name
    if options.pairs:
        use = f"{function.__module__}:pairs"
        try:
            function = load(use)
        except ValueError:
            raise ValueError(f"{options.name} cannot compare pairs; math_answer can") from None
    args = dict(options.args)
    if options.lenient:
        if "lenient" not in inspect.signature(function).parameters:
            raise ValueError(f"{options.name} has no lenient rules")
        args["lenient"] = True
    if options.pairs:
        args = {"use": use, "args": args}
        use = "rewards.score:PairReward"
    seconds = options.timeout
    if seconds is None:
        seconds = default_timeout_seconds(options.name)  # the named reward's, also for its pairs
    return RewardSpec("reward", use, args=args, style=options.style, timeout_seconds=seconds)


class PairReward:
    """A function of two bare answers as a reward: the prediction is the completion."""

    def __init__(self, use: str, args: dict[str, Any]) -> None:
        self._compare = load(use)
        self._args = {**_worker_only_args(self._compare), **args}

    def __call__(self, text: str, gold: Any) -> Any:
        """Compare the prediction with the gold answer."""
        return self._compare(gold, text, **self._args)


def _worker_only_args(function: Any) -> dict[str, Any]:
    """Permission to use sympy: `PairReward` is only ever created in a worker, which can be killed."""
    return {"allow_sympy": True} if "allow_sympy" in inspect.signature(function).parameters else {}


# --------------------------------------------------------------------------------------------- the stream


@dataclass(slots=True)
class _Portion:
    """Lines judged together: each one's id and its sample or fault, and the ticket of the samples."""

    ids: list[Record] = field(default_factory=list)
    samples: list[Sample | Score] = field(default_factory=list)
    ticket: Ticket | None = None

    def results(self) -> Iterator[Record]:
        """One output record for each line, in order."""
        judged = iter(self.ticket.result() if self.ticket else ())
        for row_id, sample in zip(self.ids, self.samples):
            if isinstance(sample, Score):
                yield {**row_id, **_record_of_fault(sample)}
            else:
                yield {**row_id, **_record_of(next(judged))}


_Portions = queue.Queue["_Portion | None"]


def _stream(service: RewardService, lines: Iterable[bytes], out: IO[str], *, pairs: bool) -> None:
    """Read in one thread and write in this one, so that neither waits for the other's next line."""
    portions: _Portions = queue.Queue(MAX_UNWRITTEN_PORTIONS)
    reader = threading.Thread(target=_read, args=(service, lines, pairs, portions), daemon=True)
    reader.start()
    while (portion := portions.get()) is not None:
        for record in portion.results():
            out.write(json.dumps(record) + "\n")
        if portions.empty():
            out.flush()
    out.flush()


def _read(service: RewardService, lines: Iterable[bytes], pairs: bool, portions: _Portions) -> None:
    """In the reader's thread: parse the lines, submit them in portions, and end with None."""
    spec = service.specs[0]
    whole_list = convention_of(load(spec.use), spec.style).whole_list
    size = LINES_A_CALL if whole_list else 1
    portion = _Portion()
    try:
        for number, line in enumerate(lines, 1):
            row_id, sample = _parse(line, number, pairs)
            portion.ids.append(row_id)
            portion.samples.append(sample)
            if len(portion.ids) >= size:
                portions.put(_submitted(service, portion))
                portion = _Portion()
        portions.put(_submitted(service, portion))
    except RuntimeError:
        pass  # the service was closed: nobody reads any more
    finally:
        portions.put(None)


def _submitted(service: RewardService, portion: _Portion) -> _Portion:
    readable = [sample for sample in portion.samples if isinstance(sample, Sample)]
    if readable:
        portion.ticket = service.submit(readable)
    return portion


def _parse(line: bytes, number: int, pairs: bool) -> tuple[Record, Sample | Score]:
    """The row's id, if it has one, and the sample; or a fault that names the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"is not JSON: {error}" if line.strip() else "is empty"
        return {}, fault(f"line {number} {problem}")
    if not isinstance(row, dict):
        return {}, fault(f"line {number} is {type(row).__name__}, not an object")
    row_id = {"id": row["id"]} if "id" in row else {}
    for key in ("gold", "pred") if pairs else ("completion",):
        if key not in row:
            return row_id, fault(f"line {number}: {key} is missing")
        if key != "gold" and not isinstance(row[key], str):
            problem = f"{key} is {type(row[key]).__name__}, not text"
            return row_id, fault(f"line {number}: {problem}")
    text_key = "pred" if pairs else "completion"
    columns = {name: value for name, value in row.items() if name != text_key}
    return row_id, Sample(row[text_key], columns=columns, prompt=shown_text(row))


def _record_of(judged: Judged) -> Record:
    score = judged.parts["reward"]
    record = _record(score, judged.seconds)
    return record | ({"detail": score.detail} if score.detail else {})


def _record_of_fault(score: Score) -> Record:
    return _record(score, 0.0) | {"detail": score.detail}


def _record(score: Score, seconds: float) -> Record:
    return {
        "value": score.value,
        "status": score.status,
        "extracted": score.extracted,
        "parts": dict(score.parts),
        "seconds": round(seconds, 6),
    }


if __name__ == "__main__":
    sys.exit(main())
