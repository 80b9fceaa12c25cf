"""C++ and JavaScript in the sandbox, if their tools are installed.

A C++ program is compiled in one confined child, which may start the compiler's processes, and run in another, which
may not start any. Python needs none of this: it runs in the fork server's interpreter.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Awaitable, Callable, Mapping

from rewards.sandbox.supervisor import Limits, Program, Result

__all__ = ["ALIASES", "available", "language_of", "run"]

ALIASES: Mapping[str, str] = {
    "python": "python", "py": "python", "python3": "python", "": "python", "cpp": "cpp", "c++": "cpp", "cc": "cpp",
    "cxx": "cpp", "javascript": "javascript", "js": "javascript", "node": "javascript",
}  # fmt: skip
TOOLS = {"cpp": "g++", "javascript": "node"}
COMPILE_SECONDS = 20.0
COMPILE_BYTES = 2 << 30
NODE_BYTES = 24 << 30
"""Address space that node reserves and does not use; its heap is bounded by a separate option."""
LARGEST_PROGRAM = 32 << 20
MOST_COMPILED = 16
_COMPILED: OrderedDict[bytes, bytes] = OrderedDict()
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
}

Run = Callable[[Any, bytes, Limits], Awaitable[Result]]


def language_of(name: str) -> str:
    """The language that a data set or a code fence names; raises `ValueError` for an unknown one."""
    try:
        return ALIASES[name.strip().lower()]
    except KeyError:
        raise ValueError(
            f"programs in {name!r} cannot be run; python, cpp and javascript can"
        ) from None


def available(language: str) -> bool:
    """Whether the language's tool is installed."""
    return language == "python" or shutil.which(TOOLS[language]) is not None


def _job(command: list[str], files: Mapping[str, bytes]) -> dict[str, Any]:
    coded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return {"mode": "exec", "argv": command, "files": coded, "environment": ENVIRONMENT}


async def run(run_job: Run, program: Program, stdin: bytes, limits: Limits) -> Result:
    """Run a program that is not Python; raises `ValueError` if its tool is not installed."""
    language = language_of(program.language)
    tool = shutil.which(TOOLS[language])
    if tool is None:
        raise ValueError(f"{language} programs need {TOOLS[language]}, which is not installed")
    if language == "javascript":
        command = [
            tool,
            f"--max-old-space-size={limits.memory_bytes >> 20}",
            "/tmp/solution.js",
            *program.args,
        ]
        files = {**program.files, "solution.js": program.source.encode()}
        node_limits = replace(limits, programs=True, reserve_bytes=NODE_BYTES)
        return await run_job(_job(command, files), stdin, node_limits)
    return await _cpp(run_job, tool=tool, program=program, stdin=stdin, limits=limits)


_COMPILE_AND_PRINT = (
    "{tool} -std=c++17 -O2 -pipe -o /tmp/solution /tmp/solution.cpp && /bin/cat /tmp/solution"
)


async def _cpp(
    run_job: Run, *, tool: str, program: Program, stdin: bytes, limits: Limits
) -> Result:
    digest = hashlib.sha256(program.source.encode()).digest()
    if digest not in _COMPILED:
        compiled = await _compile(run_job, tool, program, limits)
        if compiled.status == "timeout":
            return replace(compiled, stdout=b"", detail="it does not compile in time")
        if compiled.status != "ok":
            detail = compiled.stderr.decode(errors="replace")[-2000:] or compiled.status
            return replace(compiled, status="compile_error", stdout=b"", detail=detail)
        _COMPILED[digest] = compiled.stdout
        while len(_COMPILED) > MOST_COMPILED:
            _COMPILED.popitem(last=False)
    files = {**program.files, "solution": _COMPILED[digest]}
    job = _job(["/tmp/solution", *program.args], files) | {"executable": "solution"}
    return await run_job(job, stdin, replace(limits, programs=True))


async def _compile(run_job: Run, tool: str, program: Program, limits: Limits) -> Result:
    """The compiled program on standard output; the compiler gets more time on the second try, as programs do."""
    seconds = COMPILE_SECONDS * limits.patience
    compiler_limits = replace(
        limits,
        processes=True,
        programs=True,
        seconds=seconds,
        memory_bytes=COMPILE_BYTES,
        output_bytes=LARGEST_PROGRAM,
    )
    command = ["/bin/sh", "-c", _COMPILE_AND_PRINT.format(tool=tool)]
    job = _job(command, {"solution.cpp": program.source.encode()})
    return await run_job(job, b"", compiler_limits)
