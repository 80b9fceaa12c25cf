"""Whether verdicts depend on the machine: the same answers judged warm, cold, and with a third of one core.

    python -m benchmarks.verdicts --pairs PAIRS.jsonl ... --programs HumanEval.jsonl.gz ... [--out FILE]

A pair file holds one ``{"gold", "pred"}`` a line, a program file HumanEval's columns, with the solutions that are run.
Each set is judged four times: by all cores; in reverse order by one worker, so that other questions meet a cold one;
what reached sympy or ran out of time, each alone in a fresh process; and all of it under a quota of a third of one core
(``--quota``), or, without the right to set one, on one core beside two busy loops. Prints how many verdicts differ; the
exit code is 1 if any does.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Sequence

from rewards import RewardSpec, Sample
from rewards.service.service import RewardService

ROOT = Path(__file__).resolve().parents[1]
PERIOD_MICROSECONDS = 30_000
BUSY = "while True: pass"
Verdict = tuple[str, float | None]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, gzipped or not."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines() if line.strip()]


# ---- judging ----------------------------------------------------------------------------------------------------


def questions(pairs: Sequence[Path], programs: Sequence[Path]) -> list[dict[str, Any]]:
    """What is judged: ``use`` and ``args`` of a reward, the completion, the row's columns."""
    asked: list[dict[str, Any]] = []
    for row in [row for path in pairs for row in read(path)]:
        for lenient in (False, True):
            columns = {"gold": row["gold"], "pred": row["pred"]}
            asked.append({"use": "pairs", "args": {"lenient": lenient}, "text": "", "row": columns})
    for row in [row for path in programs for row in read(path)]:
        code = row["prompt"] + row["canonical_solution"]
        asked.append(
            {"use": "code_tests", "args": {}, "text": f"```python\n{code}\n```", "row": row}
        )
    return asked


def judged(
    asked: Sequence[dict[str, Any]], workers: int | None = None
) -> list[tuple[Verdict, str]]:
    """(status and value, detail) of each question, in order; every kind of reward by a service of its own."""
    found: list[tuple[Verdict, str]] = [(("", None), "")] * len(asked)
    kinds = dict.fromkeys((one["use"], json.dumps(one["args"])) for one in asked)
    for use, args in kinds:
        numbers = [
            number
            for number, one in enumerate(asked)
            if (one["use"], json.dumps(one["args"])) == (use, args)
        ]
        samples = [
            Sample(asked[number]["text"], columns=asked[number]["row"]) for number in numbers
        ]
        named = f"{__file__}:pair" if use == "pairs" else use
        spec = RewardSpec("verdict", named, args=json.loads(args))
        with RewardService([spec], workers=workers) as service:
            scores = [one.parts["verdict"] for one in service.judge(samples)]
        for number, score in zip(numbers, scores):
            found[number] = ((score.status, score.value), score.detail)
    return found


def pair(text: str, gold: str, pred: str, lenient: bool, allow_sympy: bool = False) -> Any:
    """A bare answer against a bare gold; a function of this file, so that workers ask it anew each time."""
    from rewards.math_answer import pairs  # noqa: PLC0415  only workers need it

    return pairs(gold, pred, lenient=lenient, allow_sympy=allow_sympy)


def cold(
    asked: Sequence[dict[str, Any]], first: Sequence[tuple[Verdict, str]]
) -> dict[int, Verdict]:
    """The verdicts on what is sensitive, each in a process that has judged nothing before."""
    verdicts = {}
    for number, ((status, _), detail) in enumerate(first):
        if "tier=c" in detail or status == "timeout":
            verdicts[number] = judged([asked[number]], workers=1)[0][0]
    return verdicts


# ---- a slow machine ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def third_of_a_core(quota: float) -> Iterator[tuple[str, Any]]:
    """(what slows, what a child calls before it starts) for processes that get ``quota`` of one core."""
    group = next(filter(None, (_limited(Path(root), quota) for root in _ROOTS)), None)
    if group is not None:
        try:
            yield f"a quota of {quota:.2f} cores", lambda: _enter(group)
        finally:
            group.rmdir()
        return
    core = min(os.sched_getaffinity(0))
    pin = lambda: os.sched_setaffinity(0, {core})  # noqa: E731
    busy = [subprocess.Popen([sys.executable, "-c", BUSY], preexec_fn=pin) for _ in range(2)]
    try:
        yield "one core beside two busy loops", pin
    finally:
        for process in busy:
            process.kill()
            process.wait()


_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu")
"""Where a group of version 2 is made, and of version 1."""


def _limited(root: Path, quota: float) -> Path | None:
    group = root / f"verdicts-{os.getpid()}"
    microseconds = int(quota * PERIOD_MICROSECONDS)
    try:
        group.mkdir()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{microseconds} {PERIOD_MICROSECONDS}")
            return group
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(microseconds))
            return group
    group.rmdir()  # no control group, or one without a quota
    return None


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def throttled(asked: Sequence[dict[str, Any]], quota: float) -> tuple[str, list[Verdict]]:
    """(what slowed it, the verdicts) of another process that judges everything slowly."""
    with third_of_a_core(quota) as (how, slow_down):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.verdicts", "--judge"],
            cwd=ROOT,
            input=json.dumps(list(asked)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=slow_down,
        )
    return how, [(status, value) for status, value in json.loads(done.stdout)]


# ---- the report -------------------------------------------------------------------------------------------------


def compared(asked: Sequence[dict[str, Any]], quota: float = 1 / 3) -> dict[str, Any]:
    """How many verdicts differ from those of the first pass, by the way of judging, and which."""
    first = judged(asked)
    backwards = [verdict for verdict, _ in judged(asked[::-1], workers=1)][::-1]
    alone = cold(asked, first)
    how, slow = throttled(asked, quota)
    ways = {"in reverse, by one worker": dict(enumerate(backwards)), "alone and cold": alone}
    ways[f"with {how}"] = dict(enumerate(slow))
    report: dict[str, Any] = {"judged": len(asked), "differ": {}}
    for way, verdicts in ways.items():
        changed = [
            {"question": asked[number], "first": first[number], "then": verdict}
            for number, verdict in verdicts.items()
            if verdict != first[number][0]
        ]
        report["differ"][way] = {"of": len(verdicts), "changed": changed}
    statuses = [status for (status, _), _ in first]
    report["statuses"] = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", nargs="*", type=Path, default=[])
    parser.add_argument("--programs", nargs="*", type=Path, default=[])
    parser.add_argument("--quota", type=float, default=1 / 3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--judge", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge:
        print(json.dumps([verdict for verdict, _ in judged(json.loads(sys.stdin.read()))]))
        return 0
    report = compared(questions(options.pairs, options.programs), options.quota)
    print(f"{report['judged']} judged: {report['statuses']}")
    for way, found in report["differ"].items():
        print(f"{way}: {len(found['changed'])} of {found['of']} verdicts differ")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    return int(any(found["changed"] for found in report["differ"].values()))


if __name__ == "__main__":
    sys.exit(main())
