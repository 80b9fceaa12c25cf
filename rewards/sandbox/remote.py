"""Programs on a server: SandboxFusion or Piston, behind the interface of the local sandbox.

What a server answers about a program is the program's result; anything else (no connection, an HTTP error, a reply
outside the protocol) is a `SandboxFault`, retried once and never a verdict. SandboxFusion: ``POST /run_code``; Piston:
``POST /api/v2/execute``. Standard library only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Mapping

from rewards.sandbox import Limits, Program, Result, SandboxFault, SandboxOptions

__all__ = ["RemoteSandbox", "open_server"]

SLOTS = 16
COMPILE_SECONDS = 20.0
PATIENCE_SECONDS = 30.0
LARGEST_REPLY = 64 << 20


class RemoteSandbox:
    """Runs up to ``slots`` programs at a time on a server, which is responsible for their isolation."""

    runs_here = False

    def __init__(self, options: SandboxOptions) -> None:
        if not options.url:
            raise ValueError(f"sandbox: engine {options.engine} needs the server's url")
        self._engine = options.engine
        self._url = options.url.rstrip("/")
        self.slots = options.slots or SLOTS
        self._free = asyncio.Semaphore(self.slots)
        self._threads = ThreadPoolExecutor(self.slots, "sandbox server")
        self.lines = [f"sandbox: programs run on the {self._engine} server at {self._url}"]

    async def run(
        self, program: Program, stdin: bytes = b"", limits: Limits | None = None
    ) -> Result:
        """Run a program to its end on the server."""
        limits = limits or Limits()
        ask, path, read = _PROTOCOLS[self._engine]
        body = json.dumps(ask(program, stdin, limits)).encode()
        async with self._free:
            began = time.monotonic()
            try:
                reply = await self._post(path, body, limits)
                return read(reply, limits, time.monotonic() - began)
            except SandboxFault:
                began = time.monotonic()
                reply = await self._post(path, body, limits)
                return read(reply, limits, time.monotonic() - began)

    async def _post(self, path: str, body: bytes, limits: Limits) -> Any:
        seconds = limits.seconds + _compile_seconds(limits) + PATIENCE_SECONDS
        loop = asyncio.get_running_loop()
        post = partial(_post, self._url + path, body, seconds)
        return await loop.run_in_executor(self._threads, post)

    def begin_to_close(self) -> None:
        """Nothing is started here."""

    async def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _post(url: str, body: bytes, seconds: float) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            data = reply.read(LARGEST_REPLY + 1)
    except (OSError, ValueError) as error:
        raise SandboxFault(f"{url}: {error}") from None
    if len(data) > LARGEST_REPLY:
        raise SandboxFault(f"{url}: the reply is longer than {LARGEST_REPLY} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SandboxFault(f"{url}: the reply is not JSON: {error}") from None


def _compile_seconds(limits: Limits) -> float:
    return COMPILE_SECONDS * limits.patience


def _joined(program: Program) -> str:
    if program.prompt and program.entry and f"def {program.entry}" not in program.source:
        return program.prompt + program.source
    return program.source


def _text(stdin: bytes) -> str:
    return stdin.decode("utf-8", "replace")


def _status(code: Any, is_late: bool, output: bytes, limits: Limits) -> str:
    if is_late:
        return "timeout"
    if len(output) > limits.output_bytes:
        return "output_limit"
    return "ok" if code == 0 else "error"


# --------------------------------------------------------------------------------------- SandboxFusion

_FUSION_LANGUAGES = {"python": "python", "cpp": "cpp", "javascript": "nodejs"}


def _ask_fusion(program: Program, stdin: bytes, limits: Limits) -> dict[str, Any]:
    files = {name: base64.b64encode(data).decode() for name, data in program.files.items()}
    return {
        "code": _joined(program),
        "language": _FUSION_LANGUAGES[program.language],
        "stdin": _text(stdin),
        "compile_timeout": _compile_seconds(limits),
        "run_timeout": limits.seconds,
        "memory_limit_MB": limits.memory_bytes >> 20,
        "fetch_files": [],
        "files": files,
    }


def _read_fusion(reply: Any, limits: Limits, seconds: float) -> Result:
    if not isinstance(reply, Mapping) or reply.get("status") not in ("Success", "Failed"):
        answer: Any = type(reply).__name__
        if isinstance(reply, Mapping):
            answer = reply.get("status", reply.get("message"))
        raise SandboxFault(f"the server says {answer!r}")
    compiled = reply.get("compile_result")
    ran = reply.get("run_result")
    if isinstance(compiled, Mapping) and (
        compiled.get("status") != "Finished" or compiled.get("return_code")
    ):
        return _compile_error(compiled, seconds)
    if not isinstance(ran, Mapping) or ran.get("status") not in ("Finished", "TimeLimitExceeded"):
        raise SandboxFault(f"the server's run_result is {str(ran)[:200]}")
    output = str(ran.get("stdout") or "").encode("utf-8", "surrogatepass")
    status = _status(ran.get("return_code"), ran["status"] == "TimeLimitExceeded", output, limits)
    return Result(
        status=status,
        exit_code=ran.get("return_code"),
        stdout=output,
        stderr=str(ran.get("stderr") or "").encode("utf-8", "surrogatepass"),
        seconds=float(ran.get("execution_time") or seconds),
        cpu_seconds=0.0,
    )


def _compile_error(compiled: Mapping[str, Any], seconds: float) -> Result:
    is_late = compiled.get("status") in ("TimeLimitExceeded", "TO")
    return Result(
        status="timeout" if is_late else "compile_error",
        exit_code=None,
        stdout=b"",
        stderr=b"",
        seconds=seconds,
        cpu_seconds=0.0,
        detail=str(compiled.get("stderr"))[-2000:],
    )


# ---------------------------------------------------------------------------------------------- Piston

_PISTON_LANGUAGES = {"python": "python", "cpp": "c++", "javascript": "javascript"}
_SOURCES = {"python": "solution.py", "cpp": "solution.cpp", "javascript": "solution.js"}


def _ask_piston(program: Program, stdin: bytes, limits: Limits) -> dict[str, Any]:
    files = [{"name": _SOURCES[program.language], "content": _joined(program)}]
    for name, data in program.files.items():
        files.append(
            {"name": name, "content": base64.b64encode(data).decode(), "encoding": "base64"}
        )
    return {
        "language": _PISTON_LANGUAGES[program.language],
        "version": "*",
        "files": files,
        "stdin": _text(stdin),
        "args": list(program.args[1:]),
        "run_timeout": int(limits.seconds * 1000),
        "compile_timeout": int(_compile_seconds(limits) * 1000),
        "run_memory_limit": limits.memory_bytes,
    }


def _read_piston(reply: Any, limits: Limits, seconds: float) -> Result:
    ran = reply.get("run") if isinstance(reply, Mapping) else None
    compiled = reply.get("compile") if isinstance(reply, Mapping) else None
    if isinstance(compiled, Mapping) and compiled.get("code") != 0:
        return _compile_error(compiled, seconds)
    if (
        not isinstance(ran, Mapping)
        or not {"code", "signal"} & set(ran)
        or ran.get("status") == "XX"
    ):
        raise SandboxFault(f"the server says {str(reply)[:200]}")
    output = str(ran.get("stdout") or "").encode("utf-8", "surrogatepass")
    is_late = ran.get("status") == "TO" or (
        ran.get("signal") == "SIGKILL" and seconds >= limits.seconds
    )
    code = ran.get("code") if ran.get("signal") is None else -9
    status = (
        "output_limit"
        if ran.get("status") in ("OL", "EL")
        else _status(code, is_late, output, limits)
    )
    return Result(
        status=status,
        exit_code=code,
        stdout=output,
        stderr=str(ran.get("stderr") or "").encode("utf-8", "replace"),
        seconds=seconds,
        cpu_seconds=0.0,
    )


_PROTOCOLS: Mapping[str, tuple[Callable[..., Any], str, Callable[..., Result]]] = {
    "sandboxfusion": (_ask_fusion, "/run_code", _read_fusion),
    "piston": (_ask_piston, "/api/v2/execute", _read_piston),
}


async def open_server(options: SandboxOptions) -> RemoteSandbox:
    """The server named by the options. Whether it answers shows with the first program."""
    return RemoteSandbox(options)
