"""The sandbox measured: ``python -m benchmarks.sandbox [--humaneval FILE] [--json FILE]``, some minutes on two cores.

- CPU time of a small program at full isolation, summed over supervisor, fork_server and child; programs a second;
- how late after the limit the verdict on a program that never ends, sleeps, floods or ignores signals comes;
- ten megabytes of output, read to the end;
- how long handing over a program keeps the caller with four gigabytes resident;
- beside it what a harness without isolation costs: a fresh interpreter for each program, and a fork of this process;
- with ``--humaneval`` (the data set's .jsonl.gz): canonical solutions that pass, and wrong mutants that do. A mutant
  changes one constant, comparison or operator; wrong is one that fails when it runs plainly beside its tests.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import copy
import datetime
import gzip
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from typing import Any, Iterator

from rewards import RewardSpec, Sample
from rewards.sandbox import Limits, Program, Sandbox, SandboxOptions
from rewards.service.service import RewardService

SMALL = Program("a, b = map(int, input().split())\nprint(a + b)")
MUCH = """import sys
for _ in range(160):
    sys.stdout.write('x' * 65536)
    sys.stderr.write('y' * 65536)
"""
LIMIT = 1.0
CHANGED = (ast.Compare, ast.BinOp, ast.Constant, ast.Return)
LATE = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(100)",
    "ignores signals": "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "C code": "9 ** 9 ** 9",
    "alive at the end": "import atexit, time\natexit.register(time.sleep, 100)",
    "threads": "import threading, time\nfor _ in range(20): threading.Thread(target=time.sleep, args=(100,)).start()",
    "trickles": "import time\nwhile True:\n    print('.', flush=True)\n    time.sleep(.001)",
}


def cpu_seconds(pid: int) -> float:
    """CPU time of another process so far, without its children's."""
    return time.clock_gettime((~pid << 3) | 2)


async def throughput(slots: int, count: int) -> dict[str, float]:
    """Small programs: CPU time each, and how many a second."""
    async with Sandbox(SandboxOptions(slots=slots)) as sandbox:
        await asyncio.gather(*(sandbox.run(SMALL, b"20 22") for _ in range(20)))
        fork_servers, own = sum(map(cpu_seconds, sandbox.pids)), time.process_time()
        began = time.perf_counter()
        results = await asyncio.gather(*(sandbox.run(SMALL, b"20 22") for _ in range(count)))
        seconds = time.perf_counter() - began
        fork_servers, own = (
            sum(map(cpu_seconds, sandbox.pids)) - fork_servers,
            time.process_time() - own,
        )
    assert all(result.stdout == b"42\n" for result in results)
    child = sum(result.cpu_seconds for result in results)
    each = {
        "child": child,
        "fork_server": fork_servers,
        "supervisor": own,
        "all": child + fork_servers + own,
    }
    return {f"cpu_ms_{name}": 1e3 * value / count for name, value in each.items()} | {
        "per_second": count / seconds
    }


async def latency(count: int) -> dict[str, float]:
    """One small program at a time: milliseconds from handing it over to its result."""
    async with Sandbox(SandboxOptions(slots=2)) as sandbox:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            await sandbox.run(SMALL, b"1 2")
            times.append(1e3 * (time.perf_counter() - began))
    times.sort()
    return {"median_ms": statistics.median(times), "p99_ms": times[int(0.99 * len(times))]}


async def verdicts() -> dict[str, Any]:
    """Seconds between the limit and the verdict, by program; and ten megabytes of output."""
    late = {}
    async with Sandbox(SandboxOptions(slots=2)) as sandbox:
        for name, source in LATE.items():
            began = time.perf_counter()
            result = await sandbox.run(Program(source), b"", Limits(seconds=LIMIT))
            late[name] = time.perf_counter() - began - LIMIT
            assert result.status == "timeout", (name, result)
        began = time.perf_counter()
        much = Program(MUCH)
        result = await sandbox.run(
            much, b"z" * 10_485_760, Limits(seconds=20, output_bytes=11 << 20)
        )
        assert result.status == "ok" and len(result.stdout) == len(result.stderr) == 10_485_760
        seconds = time.perf_counter() - began
    return {"seconds_after_the_limit": late, "seconds_for_10_MB_each_way": seconds}


async def dispatch(gigabytes: int, count: int) -> dict[str, float]:
    """Milliseconds that handing over a program keeps the caller, with so much memory resident; and a fork's."""
    resident = [bytearray(os.urandom(1 << 20) * 1024) for _ in range(gigabytes)]
    async with Sandbox(SandboxOptions(slots=2)) as sandbox:
        times, cpu = [], time.process_time()
        for _ in range(count):
            began = time.perf_counter()
            task = asyncio.ensure_future(sandbox.run(SMALL, b"1 2"))
            await asyncio.sleep(0)
            times.append(1e3 * (time.perf_counter() - began))
            await task
        cpu = 1e3 * (time.process_time() - cpu) / count
    forks = []
    for _ in range(3):
        began = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        forks.append(1e3 * (time.perf_counter() - began))
        os.waitpid(pid, 0)
    assert len(resident) == gigabytes
    times.sort()
    return {
        "gigabytes": gigabytes,
        "dispatch_ms_median": statistics.median(times),
        "dispatch_ms_worst": times[-1],
        "caller_cpu_ms_per_program": cpu,
        "fork_ms_median": statistics.median(forks),
    }


def unisolated(count: int) -> dict[str, float]:
    """A fresh interpreter for each program, nothing held: CPU milliseconds each."""
    began = os.times()
    for _ in range(count):
        subprocess.run(
            [sys.executable, "-I", "-c", SMALL.source],
            input=b"1 2",
            capture_output=True,
            check=True,
        )
    ended = os.times()
    spent = (
        ended.children_user + ended.children_system - began.children_user - began.children_system
    )
    return {
        "cpu_ms_fresh_interpreter": 1e3
        * (spent + ended.user + ended.system - began.user - began.system)
        / count
    }


# ----------------------------------------------------------------------------------------------- HumanEval


def mutants(row: dict[str, Any], most: int, rng: random.Random) -> Iterator[str]:
    """Whole programs with one place of the canonical solution changed; the prompt's helpers stay as they are."""
    tree = ast.parse(row["prompt"] + row["canonical_solution"])
    asked = [part for part in tree.body if getattr(part, "name", "") == row["entry_point"]]
    inside = {id(node) for part in asked for node in ast.walk(part)}
    places = [
        n
        for n, node in enumerate(ast.walk(tree))
        if isinstance(node, CHANGED) and id(node) in inside
    ]
    for place in rng.sample(places, min(most, len(places))):
        changed = copy.deepcopy(tree)
        node: Any = list(ast.walk(changed))[place]
        if isinstance(node, ast.Compare):
            node.ops[0] = rng.choice([ast.NotEq(), ast.Lt(), ast.GtE(), ast.Eq()])
        elif isinstance(node, ast.BinOp):
            node.op = rng.choice([ast.Add(), ast.Sub(), ast.Mult(), ast.FloorDiv()])
        elif isinstance(node, ast.Return):
            node.value = ast.Constant(None)
        elif isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            node.value += 1
        else:
            continue
        yield ast.unparse(ast.fix_missing_locations(changed))


async def plainly(rows: list[dict[str, Any]], programs: list[str]) -> list[bool]:
    """Whether each program passes when its tests simply follow it in one file."""
    async with Sandbox(SandboxOptions()) as sandbox:
        sources = [
            f"{program}\n{row['test']}\ncheck({row['entry_point']})"
            for row, program in zip(rows, programs)
        ]
        results = await asyncio.gather(
            *(sandbox.run(Program(s), b"", Limits(seconds=3)) for s in sources)
        )
    return [result.status == "ok" for result in results]


def humaneval(file: str, per_problem: int) -> dict[str, Any]:
    """How many canonical solutions pass, and how many wrong mutants."""
    with gzip.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rng = random.Random(0)
    pairs = [(row, text) for row in rows for text in mutants(row, per_problem, rng)]
    passes = asyncio.run(plainly([row for row, _ in pairs], [text for _, text in pairs]))
    columns = ("prompt", "test", "entry_point")
    with RewardService([RewardSpec("tests", "code_tests", timeout_seconds=3.0)]) as service:
        began = time.perf_counter()
        given = [
            Sample(row["canonical_solution"], columns={c: row[c] for c in columns}) for row in rows
        ]
        right = service.score(given)
        seconds = time.perf_counter() - began
        given = [
            Sample(f"```python\n{text}\n```", columns={c: row[c] for c in columns})
            for row, text in pairs
        ]
        told = service.score(given)
    wrong = [score for score, is_right in zip(told, passes) if not is_right]
    same = [score for score, is_right in zip(told, passes) if is_right]
    for (row, text), score, is_right in zip(pairs, told, passes):
        if score.value == 1 and not is_right:
            print(f"a wrong mutant of {row['task_id']} passes:\n{text}", file=sys.stderr)
    return {
        "canonical": len(rows),
        "canonical_pass": sum(score.value == 1 for score in right),
        "seconds": seconds,
        "wrong_mutants": len(wrong),
        "wrong_mutants_pass": sum(score.value == 1 for score in wrong),
        "faults": sum(score.status == "fault" for score in [*right, *told]),
        "equivalent_mutants": len(same),
        "equivalent_mutants_pass": sum(score.value == 1 for score in same),
    }


async def describe() -> str:
    async with Sandbox(SandboxOptions(slots=2)) as sandbox:
        return sandbox.isolation.line


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--humaneval", metavar="FILE", help="HumanEval.jsonl.gz")
    parser.add_argument("--mutants", type=int, default=6, help="mutants a problem (6)")
    parser.add_argument(
        "--gigabytes", type=int, default=4, help="resident memory for the dispatch figure (4)"
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }
    result["isolation"] = asyncio.run(describe())
    result["two_slots"] = asyncio.run(throughput(2, 600))
    result["three_slots"] = asyncio.run(throughput(3, 600))
    result["one_at_a_time"] = asyncio.run(latency(200))
    result["without_isolation"] = unisolated(30)
    result["verdicts"] = asyncio.run(verdicts())
    if options.humaneval:
        result["humaneval"] = humaneval(options.humaneval, options.mutants)
    result["dispatch"] = asyncio.run(dispatch(options.gigabytes, 50))
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
