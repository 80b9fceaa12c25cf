"""Runs the hostile programs in a sandbox and says, as JSON lines, what became of each. For the inside of the cage.

``python tests/support/hostile_run.py ROUNDS [FEATURE_TO_DO_WITHOUT ...]``. Round 0 runs them one by one and looks around after
each; further rounds run them side by side. ROUNDS 0: one round side by side.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from contained import SCRATCH  # noqa: E402
from hostile_programs import HOSTILE, NEEDS_PROCESSES  # noqa: E402

from rewards.sandbox import Limits, Program, Sandbox, SandboxFault, SandboxOptions  # noqa: E402
from rewards.sandbox.cgroups import own_prefix  # noqa: E402

SECONDS = 0.5
NORMAL = "import os\nopen('x', 'w').write('1')\nprint(sum(map(int, input().split())), sorted(os.listdir()))"
IN_THE_OPEN = "print(sum(map(int, input().split())), ['x'])"


def processes() -> list[str]:
    """Every process of the cage, with its state where that is unusual."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            found.append(f"{name}{'' if state in 'RSD' else state}")
    return sorted(found)


def files() -> list[str]:
    """Everything in the places that can be written to."""
    places = [SCRATCH, *map(str, Path("/sys/fs/cgroup").glob(f"*/{own_prefix()}*"))]
    return sorted(
        f"{folder}/{name}"
        for place in places
        for folder, _, names in os.walk(place)
        for name in names
    )


def surroundings() -> dict[str, list[str]]:
    return {
        "processes": processes(),
        "files": files(),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
    }


async def attack(sandbox: Sandbox, name: str) -> dict[str, object]:
    with_processes = name in NEEDS_PROCESSES
    source = (NEEDS_PROCESSES if with_processes else HOSTILE)[name].replace("ROOT", repr(str(ROOT)))
    limits = Limits(
        seconds=SECONDS, memory_bytes=256 << 20, file_bytes=16 << 20, processes=with_processes
    )
    try:
        result = await sandbox.run(Program(source), b"", limits)
    except SandboxFault as error:
        return {"program": name, "status": "fault", "why": str(error)}
    text = result.stdout.decode(errors="replace") + result.stderr.decode(errors="replace")
    said = [line[:200] for line in text.splitlines() if line.startswith("ESCAPED")]
    return {
        "program": name,
        "status": result.status,
        "seconds": round(result.seconds, 3),
        "escaped": said,
    }


async def main(rounds: int, without: list[str]) -> None:
    options = SandboxOptions(slots=2 if rounds else 6, allow_unsafe=True)
    async with Sandbox(options, without=without) as sandbox:
        print(
            json.dumps(
                {
                    "level": sandbox.isolation.level,
                    "line": sandbox.isolation.line,
                    "uid": os.getuid(),
                }
            )
        )
        in_the_open = "namespaces" in sandbox.isolation.missing
        names = [*HOSTILE, *([] if in_the_open else NEEDS_PROCESSES)]
        normal = Program(IN_THE_OPEN if in_the_open else NORMAL)
        await sandbox.run(normal, b"1 2")
        before = surroundings()
        for number in range(rounds) if rounds else (1,):
            if number == 0:  # one by one, so that whatever is left has a culprit
                results = []
                for name in names:
                    result = await attack(sandbox, name)
                    after, again = surroundings(), await sandbox.run(normal, b"20 22")
                    result["left"] = {
                        key: [before[key], after[key]]
                        for key in before
                        if before[key] != after[key]
                    }
                    result["next"] = again.stdout.decode() + again.status
                    results.append(result)
            else:
                results = await asyncio.gather(*(attack(sandbox, name) for name in names))
            for result in results:
                print(json.dumps({"round": number, **result}), flush=True)
        after = surroundings()
        again = await sandbox.run(normal, b"20 22")
        print(
            json.dumps(
                {
                    "end": True,
                    "left": {
                        key: [before[key], after[key]]
                        for key in before
                        if before[key] != after[key]
                    },
                    "next": again.stdout.decode(),
                }
            )
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
