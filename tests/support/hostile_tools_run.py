"""Hostile programs and tools through a pool of environments; says, as JSON lines, what became of each. For the cage.

Behind each, an ordinary call must be answered as ever, by a pool whose processes are those it should have.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from hostile_programs import HOSTILE  # noqa: E402

from rewards.environments import Call, EnvironmentPool, EnvironmentSpec, format_of  # noqa: E402
from rewards.sandbox import SandboxOptions  # noqa: E402

PROGRAMS = (
    "fork bomb", "thread bomb", "signal to all", "ignores signals", "memory kept after errors", "file bytes",
    "writes outside", "reads secrets", "environment", "control socket", "sockets", "shell", "endless loop",
    "endless output", "binary output", "one giant line",
)  # fmt: skip


def forks(count: int) -> str:
    """Starts children that go on as if they were the worker.

    Args:
        count: How many
    """
    for _ in range(count):
        if os.fork() == 0:
            return "child"
    return "parent"


def shouts(count: int) -> str:
    """Writes to whatever its process has open.

    Args:
        count: How many bytes
    """
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff\x00{" * (count // 3) + b"\n")
        except OSError:
            pass
    return "shouted"


def eats(step: int) -> str:
    """Takes memory until there is none.

    Args:
        step: Bytes at a time
    """
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    kept = []
    while True:
        kept.append(bytearray(step))


def add(a: int, b: int) -> int:
    """Adds.

    Args:
        a: The first
        b: The second
    """
    return a + b


TOOLS = {"forks": {"count": 3}, "shouts": {"count": 300_000}, "eats": {"step": 1 << 24}}


def main() -> None:
    me = str(Path(__file__))
    hermes = format_of("hermes")
    tools = ["python", *(f"{me}:{name}" for name in ("add", *TOOLS))]
    spec = EnvironmentSpec(tools=tools, format="hermes", timeout_seconds=0.5, workers=1)
    with EnvironmentPool(spec, sandbox=SandboxOptions(slots=2, allow_unsafe=True)) as pool:
        print(json.dumps({"isolation": pool.isolation, "uid": os.getuid()}))
        pool.open("a", {})
        calls = {
            name: Call("python", {"code": HOSTILE[name].replace("ROOT", repr(str(ROOT)))})
            for name in PROGRAMS
        }
        calls |= {name: Call(name, arguments) for name, arguments in TOOLS.items()}
        for name, call in calls.items():
            observed = pool.step("a", hermes.write(call)).result(120)
            after = pool.step("a", hermes.write(Call("add", {"a": 1, "b": 2}))).result(120)
            said = [line[:200] for line in observed.text.splitlines() if line.startswith("ESCAPED")]
            record = {"name": name, "status": observed.status, "bytes": len(observed.text.encode())}
            print(json.dumps({**record, "escaped": said, "next": after.text}), flush=True)
    print(json.dumps({"end": True}))


if __name__ == "__main__":
    main()
