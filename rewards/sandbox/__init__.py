"""One untrusted program, contained: on plain Linux, as root or as an ordinary user, without a daemon or a container.

Full isolation (L3) withholds: the machine's processes and signals to them; its files, except read-only views of /usr,
/lib, /bin and Python's folders; its network, System V and POSIX message objects, mounts, namespaces, and the kernel
interfaces that attract attacks (ptrace, bpf, io_uring, perf, keys, userfaultfd, memfd); new processes unless requested.
It limits CPU time, wall-clock time, address space, tasks, descriptors, bytes and number of files (in memory, removed
afterwards) and output. Programs inherit none of the trainer's memory, environment or descriptors, and see nothing of
each other.

Not covered: what the CPU leaks (timing, caches), kernel bugs, disk or memory bandwidth, and the time of day. At L2
there are no namespaces: programs cannot write files at all, but can read /usr and see process ids; at L1 only limits
apply, which is refused unless ``allow_unsafe`` is set.

`Sandbox` runs programs (`Sandbox.run`) and lends confined processes to ``rewards.programs``. `Program`, `Limits` and
`Result` are its nouns; `SandboxFault` is raised when it is the sandbox that failed, never the program.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from rewards.sandbox import cgroups, languages
from rewards.sandbox.isolation import (
    FEATURES,
    LEVELS,
    PROBE,
    Isolation,
    IsolationError,
    isolation_of,
    refusal,
)
from rewards.sandbox.packages import folders_of
from rewards.sandbox.supervisor import (
    Limits,
    Program,
    Result,
    Running,
    SandboxFault,
    Supervisor,
    job_of,
)

__all__ = [
    "ENGINES",
    "Isolation",
    "IsolationError",
    "LEVELS",
    "Limits",
    "Program",
    "Result",
    "Running",
    "Sandbox",
    "SandboxFault",
    "SandboxOptions",
    "open_sandbox",
]

ENGINES = ("local", "sandboxfusion", "piston")


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Where programs run, and how well they must be isolated.

    ``engine`` is ``local``, or the kind of server at ``url``. ``slots`` programs run at once; by default one more than
    there are cores. ``packages`` are installed ones that programs may import, here, besides the standard library.
    """

    min_isolation: str = "L2"
    allow_unsafe: bool = False
    engine: str = "local"
    url: str | None = None
    slots: int | None = None
    packages: Sequence[str] = ()


class Sandbox:
    """Runs programs in confined processes on this machine; start and close it, or use it as ``async with``.

    ``without`` names features of `FEATURES` not to use. Raises `IsolationError` if the machine cannot isolate programs
    at ``min_isolation`` and ``allow_unsafe`` is not set. All methods belong to the loop that started it.
    """

    runs_here = True

    def __init__(
        self, options: SandboxOptions | None = None, *, without: Sequence[str] = ()
    ) -> None:
        self.options = options or SandboxOptions()
        unknown = set(without) - set(FEATURES)
        if unknown:
            raise ValueError(
                f"sandbox: there is no feature {sorted(unknown)[0]}; there are {', '.join(FEATURES)}"
            )
        self.slots = max(2, self.options.slots or len(os.sched_getaffinity(0)) + 1)
        self._without = tuple(without)
        packages = self.options.packages
        self._supervisor = Supervisor(
            self.slots,
            without,
            _readable(),
            packages={"packages": list(packages), "package_folders": folders_of(packages)},
        )
        self.importable: frozenset[str] = frozenset()
        self.isolation = Isolation("L1", {})

    async def start(self) -> Sandbox:
        """Start the fork servers and test the isolation."""
        if not sys.platform.startswith("linux"):
            raise IsolationError(
                "sandbox: programs can be held on Linux only; choose a server as sandbox.engine"
            )
        no_cgroup = "masked" if "cgroup" in self._without else cgroups.available()
        self._supervisor.use_cgroups = not no_cgroup
        reports = await self._supervisor.start()
        self._take_packages(reports[0])
        probe = await self._supervisor.run(
            job_of(Program(PROBE), "program"), b"", Limits(seconds=60)
        )
        self.isolation = isolation_of(reports[0], probe.stdout.decode(errors="replace"), no_cgroup)
        why = refusal(self.isolation, self.options.min_isolation)
        if why and not self.options.allow_unsafe:
            self._supervisor.close()
            raise IsolationError(why)
        return self

    def _take_packages(self, report: Mapping[str, Any]) -> None:
        """Learn which modules programs can import; raises `IsolationError` if a package could not be imported."""
        if report["import_error"]:
            self._supervisor.close()
            raise IsolationError(f"sandbox.packages: {report['import_error']}")
        self.importable = sys.stdlib_module_names | frozenset(report["packages"])

    @property
    def lines(self) -> list[str]:
        """Lines for the run's log."""
        lines = [self.isolation.line]
        if refusal(self.isolation, self.options.min_isolation):
            lines.append(
                f"WARNING: sandbox.allow_unsafe is set: programs of the policy run at {self.isolation.level}, below "
                f"{self.options.min_isolation}; they may reach this machine's files, processes and network"
            )
        return lines

    @property
    def pids(self) -> list[int]:
        """The process ids of the fork_servers."""
        return self._supervisor.pids

    async def run(
        self, program: Program, stdin: bytes = b"", limits: Limits | None = None
    ) -> Result:
        """Run a program to its end. A failure of the sandbox is retried once, then raises `SandboxFault`."""
        limits = limits or Limits()
        if program.language == "python":
            return await self._twice(job_of(program, "program"), stdin, limits)
        return await languages.run(self._twice, program, stdin, limits)

    async def _twice(self, job: Any, stdin: bytes, limits: Limits) -> Result:
        try:
            return await self._supervisor.run(job, stdin, limits)
        except SandboxFault:
            return await self._supervisor.run(job, stdin, limits)

    def lease(self, count: int) -> Lease:
        """``count`` confined processes that can talk to the caller, and to each other, while they run."""
        return Lease(self._supervisor, count)

    def begin_to_close(self) -> None:
        """Stop starting processes."""
        self._supervisor.begin_to_close()

    async def close(self) -> None:
        """Kill and reap everything."""
        self._supervisor.close()

    async def __aenter__(self) -> Sandbox:
        return await self.start()

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class Lease:
    """Confined processes for one verdict: ``async with sandbox.lease(2) as lease: lease.begin(...)``."""

    def __init__(self, supervisor: Supervisor, count: int) -> None:
        self._supervisor = supervisor
        self._count = count
        self._running: list[Running] = []

    async def __aenter__(self) -> Lease:
        self._fork_servers = await self._supervisor.take(self._count)
        return self

    def begin(self, job: Any, limits: Limits, link: int | None = None) -> Running:
        """Start a job in the next process; ``link`` is a descriptor for it to use."""
        fork_server = self._fork_servers[len(self._running)]
        running = Running(fork_server, limits=limits, job=job, link=link)
        self._running.append(running)
        return running

    async def __aexit__(self, *error: object) -> None:
        for running in self._running:
            running.stop("ended")
        try:
            await asyncio.gather(
                *(running.end() for running in self._running), return_exceptions=True
            )
        except asyncio.CancelledError:
            for fork_server in self._fork_servers:
                fork_server.kill()
            raise
        finally:
            self._supervisor.give_back(self._fork_servers)


def _readable() -> list[str]:
    """Python's folders, which programs may read; none inside another."""
    folders = {Path(sys.base_prefix).resolve(), Path(sys.base_exec_prefix).resolve()}
    folders.add(Path(sys.executable).resolve().parent)
    outermost = [folder for folder in folders if not folders.intersection(folder.parents)]
    return sorted(map(str, outermost))


async def open_sandbox(options: SandboxOptions) -> Any:
    """The engine named by the options, started."""
    if options.engine == "local":
        return await Sandbox(options).start()
    from rewards.sandbox.remote import open_server  # noqa: PLC0415  imports this module

    return await open_server(options)
