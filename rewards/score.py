"""``python -m rewards.score NAME < in.jsonl > out.jsonl``: score completions from the command line.

Each input line is a JSON object with ``completion`` and the columns the reward wants (``answer`` for math_answer);
each output line, in the same order, has the row's ``id`` if it has one, ``value`` (null for a fault), ``status``,
``extracted``, ``parts``, ``seconds`` and, where there is something to say, ``detail``. With ``--pairs`` the lines
hold two bare answers, ``gold`` and ``pred``. A malformed line becomes a fault that names its number; the rest goes
on. Lines are written as soon as they and those before them are judged. Rewards run as in training: in worker
processes, under a deadline.
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
from typing import IO, Any, Iterable, Iterator, NoReturn, Sequence

from rewards.conventions import convention_of, fault
from rewards.sandbox import ENGINES, LEVELS, SandboxOptions
from rewards.service.service import Judged, RewardService, Ticket
from rewards.table import load
from rewards.types import RewardSpec, Sample, Score

__all__ = ["main"]

MOST_UNWRITTEN = 1024
LINES_AT_ONCE = 256
"""How many lines a reward that judges lists is given in one call."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """Print the user's mistake and leave."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        spec = _spec(options)
        service = RewardService([spec], workers=options.workers, sandbox=sandbox_options(options))
    except ValueError as error:
        print(f"rewards.score: {error}", file=sys.stderr)
        return 2
    print(*service.isolation, sep="\n", end="\n" if service.isolation else "", file=sys.stderr)
    with service:
        try:
            _stream(service, sys.stdin.buffer, sys.stdout, options.pairs)
        except BrokenPipeError:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # the reader has seen enough
        except KeyboardInterrupt:
            return 3
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m rewards.score", description="Score completions, one JSON object a line."
    )
    parser.add_argument(
        "name", help="a reward of the table, package.module:function or path/file.py:function"
    )
    parser.add_argument(
        "--pairs", action="store_true", help="compare two bare answers, gold and pred"
    )
    parser.add_argument(
        "--lenient", action="store_true", help="by evaluation's rules instead of training's"
    )
    parser.add_argument(
        "--args", type=_json_object, default={}, metavar="JSON", help="arguments of the reward"
    )
    parser.add_argument(
        "--style", help="the reward's calling convention, where its parameters do not tell"
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


def add_sandbox_options(parser: argparse.ArgumentParser) -> None:
    """The options for rewards that run programs."""
    parser.add_argument(
        "--min-isolation", choices=LEVELS, default="L2", help="weakest isolation of programs (L2)"
    )
    parser.add_argument(
        "--allow-unsafe", action="store_true", help="run programs below that all the same"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="where programs run (local)"
    )
    parser.add_argument("--url", help="the address of the server that runs programs")


def sandbox_options(options: argparse.Namespace) -> SandboxOptions:
    """What those options say."""
    return SandboxOptions(options.min_isolation, options.allow_unsafe, options.engine, options.url)


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("is not a JSON object")
    return value


def _spec(options: argparse.Namespace) -> RewardSpec:
    """The reward that the options describe; `ValueError` where it cannot do what they ask."""
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
            raise ValueError(f"{options.name} knows no lenient rules")
        args["lenient"] = True
    if options.pairs:
        args = {"use": use, "args": args}
        use = "rewards.score:PairReward"
    return RewardSpec(
        "reward", use, args=args, style=options.style, timeout_seconds=options.timeout
    )


class PairReward:
    """A function of two bare answers as a reward: the prediction is the completion."""

    def __init__(self, use: str, args: dict[str, Any]) -> None:
        self._compare = load(use)
        self._args = {**_only_in_workers(self._compare), **args}

    def __call__(self, text: str, gold: Any) -> Any:
        """Compare the prediction with the gold answer."""
        return self._compare(gold, text, **self._args)


def _only_in_workers(function: Any) -> dict[str, Any]:
    """Sympy, which `PairReward` may ask: it is only ever made in a worker."""
    return {"allow_sympy": True} if "allow_sympy" in inspect.signature(function).parameters else {}


# --------------------------------------------------------------------------------------------- the stream


@dataclass(slots=True)
class _Portion:
    """Lines judged together: what is known of each, and the ticket of those that could be read."""

    ids: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample | Score] = field(default_factory=list)
    ticket: Ticket | None = None

    def results(self) -> Iterator[dict[str, Any]]:
        """One output record for each line, in order."""
        judged = iter(self.ticket.result() if self.ticket else ())
        for row_id, sample in zip(self.ids, self.samples):
            yield {
                **row_id,
                **(_of_fault(sample) if isinstance(sample, Score) else _of_judged(next(judged))),
            }


def _stream(service: RewardService, lines: Iterable[bytes], out: IO[str], pairs: bool) -> None:
    """Read in one thread and write in this one, so that neither waits for the other's next line."""
    portions: queue.Queue[_Portion | None] = queue.Queue(MOST_UNWRITTEN)
    reader = threading.Thread(target=_read, args=(service, lines, pairs, portions), daemon=True)
    reader.start()
    while (portion := portions.get()) is not None:
        for record in portion.results():
            out.write(json.dumps(record) + "\n")
        if portions.empty():
            out.flush()
    out.flush()


def _read(
    service: RewardService,
    lines: Iterable[bytes],
    pairs: bool,
    portions: queue.Queue[_Portion | None],
) -> None:
    whole_list = convention_of(load(service.specs[0].use), service.specs[0].style).whole_list
    portion, size = _Portion(), LINES_AT_ONCE if whole_list else 1
    try:
        for number, line in enumerate(lines, 1):
            row_id, sample = _sample(line, number, pairs)
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


def _sample(line: bytes, number: int, pairs: bool) -> tuple[dict[str, Any], Sample | Score]:
    """The row's id, if it has one, and the sample; or a fault that names the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, fault(
            f"line {number} is not JSON: {error}" if line.strip() else f"line {number} is empty"
        )
    if not isinstance(row, dict):
        return {}, fault(f"line {number} is {type(row).__name__}, not an object")
    row_id = {"id": row["id"]} if "id" in row else {}
    text_key = "pred" if pairs else "completion"
    for key in ("gold", "pred") if pairs else ("completion",):
        if not isinstance(row.get(key), str):
            found = f"is {type(row[key]).__name__}, not text" if key in row else "is missing"
            return row_id, fault(f"line {number}: {key} {found}")
    prompt = row.get("prompt")
    columns = {name: value for name, value in row.items() if name != text_key}
    return row_id, Sample(
        row[text_key], columns=columns, prompt=prompt if isinstance(prompt, str) else ""
    )


def _of_judged(judged: Judged) -> dict[str, Any]:
    score = judged.parts["reward"]
    record = _record(score, judged.seconds)
    return record | ({"detail": score.detail} if score.detail else {})


def _of_fault(score: Score) -> dict[str, Any]:
    return _record(score, 0.0) | {"detail": score.detail}


def _record(score: Score, seconds: float) -> dict[str, Any]:
    return {
        "value": score.value,
        "status": score.status,
        "extracted": score.extracted,
        "parts": dict(score.parts),
        "seconds": round(seconds, 6),
    }


if __name__ == "__main__":
    sys.exit(main())
