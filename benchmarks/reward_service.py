"""The reward service under load: `python benchmarks/reward_service.py [--json FILE]`, about a minute on two cores.

Beside it, on the same rewards in the same run, the pattern most trainers use: a process pool whose futures are
waited for with a timeout (``pool``). Figures:

- rows a second for a reward that costs nothing, and the trainer's own CPU time for it;
- stuck answers among 64: right answers scored 0 in that batch and in the next, clean one, and the seconds it took;
- how late after its deadline a stuck answer's verdict comes, and how long a caller's event loop ever stood still;
- what a reward that sleeps 100 ms a completion adds to a step that samples meanwhile;
- how long starting a worker keeps the trainer waiting, with a gigabyte resident.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as PoolTimeout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rewards import RewardSpec, Sample
from rewards.service.service import RewardService

REWARDS = """
import time
def free(text): return 1.0
def sleeps(text): time.sleep(0.1); return 1.0
def tower(text):
    if text.startswith("stuck"): 9 ** (9 ** 9)
    return 1.0
"""
LIMIT = 1.0


def pool_reward(text: str) -> float:
    """The same reward for the process pool."""
    if text.startswith("stuck"):
        9 ** (9**9)
    return 1.0


def samples(texts: list[str]) -> list[Sample]:
    """Completions without columns."""
    return [Sample(text) for text in texts]


def throughput(file: str) -> dict[str, float]:
    """Quick rewards: rows a second, and what they cost the trainer's process."""
    rows = samples([f"completion {index}" for index in range(20_000)])
    with RewardService([RewardSpec("free", f"{file}:free")], workers=2) as service:
        service.judge(rows[:200])
        began, cpu = time.perf_counter(), time.process_time()
        service.judge(rows)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "rows_per_second": len(rows) / seconds,
        "trainer_cpu_microseconds_per_row": 1e6 * cpu / len(rows),
    }


def with_stuck(number: int) -> list[str]:
    """64 completions, so many of them stuck."""
    places = {round((index + 0.5) * 64 / number) for index in range(number)} if number else set()
    return [f"stuck {index}" if index in places else f"fine {index}" for index in range(64)]


def stuck_in_service(file: str, number: int) -> dict[str, float]:
    """False zeros of our service."""
    with RewardService(
        [RewardSpec("tower", f"{file}:tower", timeout_seconds=LIMIT)], workers=2
    ) as service:
        service.judge(samples(["warm"]))
        texts = with_stuck(number)
        began = time.perf_counter()
        scores = service.score(samples(texts))
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        clean = service.score(samples([f"clean {index}" for index in range(64)]))
        clean_seconds = time.perf_counter() - began
    false = sum(score.value != 1 for score, text in zip(scores, texts) if text.startswith("fine"))
    assert all(
        score.status == "timeout" for score, text in zip(scores, texts) if text.startswith("stuck")
    )
    return {
        "false_zeros": false,
        "seconds": seconds,
        "false_zeros_next_batch": sum(score.value != 1 for score in clean),
        "seconds_next_batch": clean_seconds,
    }


def stuck_in_pool(number: int) -> dict[str, float]:
    """The same with a process pool; its stuck workers are never freed, and are killed here at the end."""
    pool = ProcessPoolExecutor(2)
    pool.submit(pool_reward, "warm").result()
    result: dict[str, float] = {}
    for name, texts in (("", with_stuck(number)), ("_next_batch", ["clean"] * 64)):
        began = time.perf_counter()
        values = _waited_for(pool, texts)
        result[f"false_zeros{name}"] = sum(
            value != 1 for value, text in zip(values, texts) if not text.startswith("stuck")
        )
        result[f"seconds{name}"] = time.perf_counter() - began
    for process in list(pool._processes.values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
    return result


def _waited_for(pool: ProcessPoolExecutor, texts: list[str]) -> list[float]:
    deadline = time.perf_counter() + 3 * LIMIT
    futures = [pool.submit(pool_reward, text) for text in texts]
    values = []
    for future in futures:
        try:
            values.append(future.result(max(0.0, deadline - time.perf_counter())))
        except PoolTimeout:
            values.append(0.0)
    return values


def standstill(file: str) -> dict[str, float]:
    """A caller's event loop while a power tower is judged: its longest pause, and the verdict's delay."""

    async def watch(service: RewardService) -> tuple[float, float]:
        began = last = time.perf_counter()
        longest = 0.0
        ticket = service.submit(samples(["stuck"]))
        while not ticket.done():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return longest, time.perf_counter() - began

    with RewardService(
        [RewardSpec("tower", f"{file}:tower", timeout_seconds=LIMIT)], workers=1
    ) as service:
        service.judge(samples(["warm"]))
        longest, seconds = asyncio.run(watch(service))
    return {"longest_pause_milliseconds": 1e3 * longest, "late_seconds": seconds - 2 * LIMIT}


def hidden_sleep(
    file: str, groups: int = 64, size: int = 8, step_seconds: float = 12.0
) -> dict[str, float]:
    """A step that samples groups one after another, each judged by a sleeping reward as it comes."""
    with RewardService([RewardSpec("sleeps", f"{file}:sleeps")]) as service:
        service.judge(samples(["warm"]))
        began = time.perf_counter()
        tickets = []
        for group in range(groups):
            time.sleep(step_seconds / groups)
            tickets.append(service.submit(samples([f"{group} {index}" for index in range(size)])))
        sampled = time.perf_counter() - began
        for ticket in tickets:
            ticket.result()
        total = time.perf_counter() - began
    return {
        "added_percent": 100 * (total - sampled) / sampled,
        "serial_seconds": groups * size * 0.1,
        "seconds": total,
    }


def starting(resident_bytes: int = 2**30) -> dict[str, float]:
    """Starting processes from a trainer with so much memory resident: ours, and a fork for comparison."""
    ballast = bytearray(resident_bytes)
    ballast[::4096] = b"x" * len(range(0, resident_bytes, 4096))
    ours, forks = [], []
    for _ in range(10):
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
        ours.append(time.perf_counter() - began)
        process.wait()
        began = time.perf_counter()
        if (pid := os.fork()) == 0:
            os._exit(0)
        forks.append(time.perf_counter() - began)
        os.waitpid(pid, 0)
    return {
        "start_milliseconds": 1e3 * sorted(ours)[5],
        "fork_milliseconds": 1e3 * sorted(forks)[5],
    }


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    record["load_before"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/mine.py"
        Path(file).write_text(REWARDS)
        record["throughput"] = throughput(file)
        record["stuck"] = {number: stuck_in_service(file, number) for number in (1, 2, 4)}
        record["stuck_pool"] = {number: stuck_in_pool(number) for number in (1, 2)}
        record["standstill"] = standstill(file)
        record["hidden_sleep"] = hidden_sleep(file)
        record["starting"] = starting()
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
