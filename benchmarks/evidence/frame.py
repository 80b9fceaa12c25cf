"""What every part of the evidence has: jobs in processes of their own, and one file that each result is added to.

A part asks one question. Its jobs are plain mappings of JSON; each runs alone as a process, and its result is in the
file before the next one begins, so a kill loses one job at most and what is there is not run again.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence"
PACKAGES = ("torch", "transformers", "numpy", "trl", "accelerate", "datasets", "peft")
FLAGS = ("avx", "fma", "f16c", "amx", "sse4", "bf16")
"""Beginnings of the processor flags that change how numbers are computed or how fast."""
LAST_LINES = 3000

Job = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much a part runs: its seeds, and whether only its code is tried, at sizes that mean nothing."""

    seeds: tuple[int, ...]
    is_try: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One question, the jobs that answer it, and how their rows become an answer.

    ``jobs`` come in the order in which they run. ``run`` makes one job's result, in the job's own process.
    ``summarise`` takes the rows that have a result, those of the parts that it ``uses`` included. ``answer`` says in a
    sentence what was found, ``table`` the figures as Markdown, both from the summary. ``lacks`` says what is missing on
    this machine, or nothing. ``minutes`` are those of all seeds on one core. ``is_timed``: its runs are timed, so that
    each has the machine for itself.
    """

    name: str
    question: str
    minutes: str
    seeds: tuple[int, ...]
    jobs: Callable[[Scale], list[Job]]
    run: Callable[[Job, bool], Any]
    summarise: Callable[[Sequence[Row]], dict[str, Any]]
    answer: Callable[[Mapping[str, Any]], str]
    table: Callable[[Mapping[str, Any]], str]
    uses: tuple[str, ...] = ()
    is_timed: bool = False
    lacks: Callable[[], str] = lambda: ""


# ---- the file of a part -----------------------------------------------------------------------------------------


def key_of(job: Job) -> str:
    """What tells a job from others."""
    return json.dumps(job, sort_keys=True)


def cpu_info() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``; nothing where there is none."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return {}
    lines = file.read_text().partition("\n\n")[0].splitlines()
    pairs = [line.partition(":") for line in lines]
    return {name.strip(): value.strip() for name, _, value in pairs}


def machine() -> dict[str, Any]:
    """The processor, the flags that matter for numbers, and the versions of what computes."""
    found = cpu_info()
    flags = found.get("flags", "").split()
    return {
        "cpu": found.get("model name") or platform.processor() or platform.machine(),
        "flags": sorted(flag for flag in flags if flag.startswith(FLAGS)),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Those of the packages of this interpreter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read(file: Path) -> dict[str, Any] | None:
    """What a part's file holds; None if it was never run."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Replace the file in one go."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(".writing")
    written.write_text(dumped(content), encoding="utf-8")
    written.replace(file)


def dumped(content: Mapping[str, Any]) -> str:
    """JSON with a row a line.

    >>> print(dumped({"part": "x", "rows": [{"seed": 0}]}), end="")
    {
    "part": "x",
    "rows": [
    {"seed": 0}
    ]
    }
    """
    parts = []
    for name, value in content.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def begun(part: Part) -> dict[str, Any]:
    """The content of a file without a row."""
    return {"part": part.name, "question": part.question, "machines": [], "rows": [], "summary": {}}


def good_rows(content: Mapping[str, Any]) -> list[Row]:
    """The rows that have a result."""
    return [row for row in content["rows"] if "error" not in row]


# ---- running ------------------------------------------------------------------------------------------------------


def child(part: Part, job: Job, is_try: bool) -> Row:
    """One job in a process of its own: its result or the end of what it said, with its seconds."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.get("threads", 1)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "benchmarks.evidence", "--child", part.name, key_of(job)]
    load = os.getloadavg()[0]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, *(["--try"] if is_try else [])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    row: Row = {
        "job": dict(job),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load": round(load, 2),
        "seconds": round(time.perf_counter() - started, 2),
    }
    if done.returncode:
        return {**row, "error": (done.stderr or done.stdout)[-LAST_LINES:]}
    found = json.loads(done.stdout.splitlines()[-1])
    return {**row, **found}


def cpu_seconds() -> float:
    """Those of this process and of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def answer_child(part: Part, job: Job, is_try: bool) -> None:
    """Be the process of a job: the last line printed is its result."""
    result = part.run(job, is_try)
    spent = round(cpu_seconds(), 2)
    print("\n" + json.dumps({"cpu_seconds": spent, "result": result, "machine": machine()}))


def left_over(content: Mapping[str, Any], jobs: Sequence[Job]) -> list[Job]:
    """The jobs without a result in the file."""
    known = {key_of(row["job"]) for row in good_rows(content)}
    return [job for job in jobs if key_of(job) not in known]


def add(content: dict[str, Any], row: Row) -> None:
    """Put a row in place of an earlier one of the same job; machines are named once, and rows hold their index."""
    found = row.pop("machine", None)
    if found is not None:
        if found not in content["machines"]:
            content["machines"].append(found)
        row["machine"] = content["machines"].index(found)
    key = key_of(row["job"])
    content["rows"] = [old for old in content["rows"] if key_of(old["job"]) != key] + [row]


def run_part(
    part: Part,
    scale: Scale,
    folder: Path = RESULTS,
    *,
    again: bool = False,
    most: int | None = None,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> Path:
    """Run the jobs that have no result yet, or all of them `again`, at `most` so many; returns the part's file.

    `workers` jobs run at a time, unless the part's need the machine for themselves.
    """
    file = folder / f"{part.name}.json"
    asked = part.jobs(scale)
    jobs = (asked if again else left_over(read(file) or begun(part), asked))[:most]
    say(f"{part.name}: {len(jobs)} to run")
    lock = threading.Lock()

    def one(job: Job) -> None:
        row = child(part, job, scale.is_try)
        with lock:
            content = read(file) or begun(part)  # another process may have added rows meanwhile
            add(content, row)
            content["summary"] = summary_of(part, content, folder)
            write(file, content)
        say(f"{part.name} {key_of(job)}: {said(row)}")

    _side_by_side(one, jobs, 1 if part.is_timed else workers)
    return file


def _side_by_side(one: Callable[[Job], None], jobs: Sequence[Job], workers: int) -> None:
    """Call `one` with each job, so many at a time; after an error or an interrupt no further one begins."""
    failed = threading.Event()

    def unless_failed(job: Job) -> None:
        if failed.is_set():
            return
        try:
            one(job)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        try:
            for done in [pool.submit(unless_failed, job) for job in jobs]:
                done.result()
        finally:
            failed.set()


def said(row: Mapping[str, Any]) -> str:
    """How long a run took, or the last line of its error."""
    if "error" in row:
        return f"no result: {row['error'].strip().splitlines()[-1]}"
    return f"{row['seconds']:.0f} s, {row['cpu_seconds']:.0f} CPU s"


def summary_of(part: Part, content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the rows of the file come to; empty where none has a result."""
    rows = good_rows(content)
    if not rows:
        return {}
    for name in part.uses:
        used = read(folder / f"{name}.json")
        rows += [] if used is None else good_rows(used)
    return part.summarise(rows)
