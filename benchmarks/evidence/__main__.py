"""Answers the questions of docs/evidence.md: ``make evidence``, or ``python -m benchmarks.evidence``.

    python -m benchmarks.evidence --list
    python -m benchmarks.evidence --only solvable faults --seeds 0 1
    python -m benchmarks.evidence --page                  writes docs/evidence.md's tables from what was run

What has a result is not run again, unless ``--again``; each result is written before the next run begins.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.evidence import frame, page
from benchmarks.evidence.frame import Scale
from benchmarks.evidence.parts import PARTS


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(PARTS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: each part's own")
    parser.add_argument("--list", action="store_true", help="the parts, and how far each is")
    parser.add_argument("--again", action="store_true", help="run what has a result too")
    parser.add_argument("--resume", action="store_true", help="the default: go on where it stopped")
    parser.add_argument("--try", dest="is_try", action="store_true", help="sizes that mean nothing")
    parser.add_argument("--most", type=int, metavar="N", help="at most so many runs of each part")
    parser.add_argument(
        "--workers", type=int, default=2, help="runs at a time, where none is timed (default: 2)"
    )
    parser.add_argument("--page", action="store_true", help="write the tables; run nothing")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/evidence")
    parser.add_argument("--child", nargs=2, metavar=("PART", "JOB"), help=argparse.SUPPRESS)
    return parser.parse_args()


def scale_of(name: str, given: argparse.Namespace) -> Scale:
    seeds = PARTS[name].seeds[:1] if given.is_try else PARTS[name].seeds
    return Scale(tuple(given.seeds) if given.seeds else seeds, given.is_try)


def listing(folder: Path, given: argparse.Namespace) -> list[str]:
    """A line a part: how many of its runs are there, how long all of them take, its question."""
    lines = []
    for name in given.only:
        part = PARTS[name]
        jobs = part.jobs(scale_of(name, given))
        content = frame.read(folder / f"{name}.json") or frame.begun(part)
        done = len(jobs) - len(frame.left_over(content, jobs))
        lack = part.lacks()
        note = f" ({lack})" if lack else ""
        lines.append(
            f"{name:14} {done:3}/{len(jobs):<3} {part.minutes:>4} min  {part.question}{note}"
        )
    return lines


def run_all(folder: Path, given: argparse.Namespace) -> None:
    for name in given.only:
        part = PARTS[name]
        lack = part.lacks()
        if lack:
            print(f"{name}: left out: {lack}", flush=True)
            continue
        scale = scale_of(name, given)
        frame.run_part(
            part,
            scale,
            folder,
            again=given.again,
            most=given.most,
            workers=given.workers,
            say=_say,
        )


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    given = options()
    if given.child:
        name, job = given.child
        frame.answer_child(PARTS[name], json.loads(job), given.is_try)
        return
    folder = given.out or (Path(tempfile.mkdtemp()) if given.is_try else frame.RESULTS)
    if given.list:
        print("\n".join(listing(folder, given)))
        return
    if not given.page:
        run_all(folder, given)
    if not given.is_try and given.out is None:
        page.write(folder)
        page.draw()


if __name__ == "__main__":
    main()
