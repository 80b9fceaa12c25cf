"""Math equality against labelled pairs, beside math-verify where that is installed.

    python benchmarks/rewards.py PAIRS.jsonl [PAIRS.jsonl ...] [--solutions GSM8K.jsonl] [--hostile] [--out FOLDER]

A pair file holds one ``{"gold": ..., "pred": ..., "label": true|false}`` a line. A file of solutions holds GSM8K's
``answer`` column; of it, completions are made that end in the right number and in a wrong one, in the usual ways.
Prints accuracy, recall, false positives, the share of pairs that each tier decides, and the time a pair takes, and
writes the same as JSON with the date. math-verify is given ``\\boxed{...}`` around a text without delimiters.
``--hostile`` gives the answers of tests/support/hostile.py to the comparison and to the reward service: the longest
times, the verdicts, and the longest pause of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import platform
import random
import re
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from rewards import RewardSpec, Sample
from rewards.math_answer import math_answer, pairs
from rewards.service.service import Judged, RewardService

Scorer = Callable[[str, str], tuple[bool, str]]


def ours(lenient: bool, bare: bool) -> Scorer:
    """Return our judge of (gold, pred): the verdict and the tier; `bare` pairs need extraction on both sides."""

    def judge(gold: str, pred: str) -> tuple[bool, str]:
        score = (
            pairs(gold, pred, lenient=lenient) if bare else math_answer(pred, gold, lenient=lenient)
        )
        tier = re.search(r" tier=(\w)", score.detail)
        return bool(score.value), tier[1] if tier else score.status

    return judge


def math_verify() -> Scorer | None:
    """Return math-verify's judge, or None where it is not installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None

    def judge(gold: str, pred: str) -> tuple[bool, str]:
        return bool(verify(parse(delimited(gold)), parse(delimited(pred)))), "-"

    return judge


def delimited(text: str) -> str:
    """Return a bare answer in a box; texts that have delimiters, boxes or sentences stay."""
    bare = "$" not in text and "\\boxed" not in text and "\\[" not in text and "\\(" not in text
    return f"\\boxed{{{text}}}" if bare and len(text) < 200 else text


def measure(rows: list[dict[str, Any]], judge: Scorer) -> dict[str, Any]:
    """Return the quality and speed of one judge on labelled rows."""
    judge("1", "2")
    outcomes: Counter[tuple[bool, bool]] = Counter()
    tiers: Counter[str] = Counter()
    seconds = []
    for row in rows:
        started = time.perf_counter()
        verdict, tier = judge(row["gold"], row["pred"])
        seconds.append(time.perf_counter() - started)
        outcomes[bool(row["label"]), verdict] += 1
        tiers[tier] += 1
    seconds.sort()
    positives = outcomes[True, True] + outcomes[True, False]
    negatives = outcomes[False, True] + outcomes[False, False]
    return {
        "pairs": len(rows),
        "accuracy": (outcomes[True, True] + outcomes[False, False]) / len(rows),
        "recall": outcomes[True, True] / max(1, positives),
        "false_positives": outcomes[False, True],
        "negatives": negatives,
        "tiers": {tier: count / len(rows) for tier, count in sorted(tiers.items())},
        "pairs_per_second": len(rows) / sum(seconds),
        "median_ms": seconds[len(seconds) // 2] * 1e3,
        "p99_ms": seconds[int(len(seconds) * 0.99)] * 1e3,
        "worst_ms": seconds[-1] * 1e3,
    }


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Return the labelled pairs of a file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def solutions(path: Path, seed: int = 0, limit: int = 2000) -> list[dict[str, Any]]:
    """Return completions made of worked solutions, half of them ending in a wrong number."""
    rng = random.Random(seed)
    rows = []
    for line in path.read_text().splitlines()[:limit]:
        gold = json.loads(line)["answer"]
        work, _, number = gold.rpartition("####")
        value = int(number.strip().replace(",", ""))
        for label in (True, False):
            shown = value if label else value + rng.choice([-2, -1, 1, 10, value or 1])
            ending = rng.choice(
                [
                    "#### {n}",
                    "The answer is {n}.",
                    "So it is \\boxed{{{n}}}.",
                    "**Answer:** ${n}$",
                    "Final answer: {n}",
                ]
            )
            number = rng.choice([f"{shown}", f"{shown:,}", f"{shown}.00"])
            rows.append({"gold": gold, "pred": work + ending.format(n=number), "label": label})
    return rows


# --------------------------------------------------------------------------------------------- hostile answers


def hostile() -> dict[str, Any]:
    """Return what the answers that are made to stall a judge cost: compared in this process, and by the service."""
    from hostile import HOSTILE

    others = ("42", "x^2+1", "\\{1,2\\}", "x<3")
    pairs_of = [
        pair
        for text in HOSTILE
        for other in (*others, text[:-1])
        for pair in ((text, other), (other, text))
    ]
    seconds = []
    for gold, pred in pairs_of:
        started = time.process_time()
        pairs(gold, pred, lenient=True)
        seconds.append(time.process_time() - started)
    samples = [Sample(f"So \\boxed{{{pred}}}", {"answer": gold}) for gold, pred in pairs_of]
    with RewardService(
        [RewardSpec("correct", "math_answer", timeout_seconds=2.0)], workers=2
    ) as service:
        service.judge([Sample("\\boxed{1}", {"answer": "1"})])
        judged, longest_pause = asyncio.run(watched(service, samples))
        killed = service.num_killed
    return {
        "pairs": len(pairs_of),
        "worst_seconds": max(seconds),
        "worst_pair": [side[:80] for side in pairs_of[seconds.index(max(seconds))]],
        "worst_seconds_in_service": max(one.seconds for one in judged),
        "statuses": dict(Counter(one.parts["correct"].status for one in judged)),
        "timeouts": [
            pair for pair, one in zip(pairs_of, judged) if one.parts["correct"].status == "timeout"
        ],
        "killed": killed,
        "longest_pause_milliseconds": 1e3 * longest_pause,
        "longest_pause_of_an_idle_loop_milliseconds": 1e3 * asyncio.run(idle(10.0)),
        "gmpy2": importlib.util.find_spec("gmpy2") is not None,
    }


async def watched(service: RewardService, samples: list[Sample]) -> tuple[list[Judged], float]:
    """Return the verdicts, and how long the caller's event loop stood still while they were made."""
    ticket = service.submit(samples)
    longest, last = 0.0, time.perf_counter()
    while not ticket.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return ticket.result(), longest


async def idle(seconds: float) -> float:
    """Return how long an event loop with nothing to do stood still: what is due to the machine's other work."""
    longest, last = 0.0, time.perf_counter()
    end = last + seconds
    while last < end:
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


HEADER = "set                   judge         pairs    acc  recall       FP    a+b  pairs/s   median     p99   worst"


def line_of(name: str, judge: str, result: dict[str, Any]) -> str:
    """Return a result as a line of the table; times are milliseconds."""
    own = sum(result["tiers"].get(tier, 0.0) for tier in "ab")
    return (
        f"{name:<22}{judge:<13}{result['pairs']:>6}{result['accuracy']:>7.3f}{result['recall']:>8.3f}"
        f"{result['false_positives']:>5}/{result['negatives']:<3}{own:>7.1%}{result['pairs_per_second']:>9.0f}"
        f"{result['median_ms']:>9.3f}{result['p99_ms']:>8.1f}{result['worst_ms']:>8.1f}"
    )


def main() -> None:
    """Measure every set with every judge, print the table, write the JSON."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("pairs", nargs="*", type=Path)
    arguments.add_argument("--solutions", type=Path)
    arguments.add_argument("--hostile", action="store_true")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = arguments.parse_args()
    sets = [(path.stem, read_pairs(path), True) for path in options.pairs]
    if options.solutions:
        sets.append((f"solutions:{options.solutions.stem}", solutions(options.solutions), False))
    results = []
    print(HEADER)
    for name, rows, bare in sets:
        judges = {
            "strict": ours(False, bare),
            "lenient": ours(True, bare),
            "math-verify": math_verify(),
        }
        for title, judge in judges.items():
            if judge is not None:
                result = measure(rows, judge)
                results.append({"set": name, "judge": title, **result})
                print(line_of(name, title, result), flush=True)
    now = datetime.now(timezone.utc)
    record: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "results": results,
    }
    if options.hostile:
        record["hostile"] = hostile()
        print(json.dumps(record["hostile"], indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"rewards-{now:%Y-%m-%d}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
