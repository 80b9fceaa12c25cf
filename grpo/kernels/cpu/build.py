"""Builds the C++ kernels: finds a compiler, compiles once per machine, keeps the library in a cache of the user's.

The cache holds code that is loaded, so its folder must be one that only this user can write, and a library there counts
only with its digest. Loading and calling it is left to ``ops``.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Iterator, Sequence

import torch

SOURCE = Path(__file__).with_name("kernels.cpp")
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fPIC")
COMPILER_TIMEOUT_SECONDS = 600.0
DIGEST_BYTES = 32


class Unavailable(Exception):
    """Why there are no native kernels."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler, its version as it prints it, and what it links for OpenMP."""

    compiler: str
    version: str
    openmp: str


def build_library() -> Path:
    """The compiled library, from the cache if this machine has built it before; raises `Unavailable`."""
    if os.environ.get("GRPO_NATIVE") == "0":
        raise Unavailable("GRPO_NATIVE=0")
    if sys.platform != "linux":
        raise Unavailable(f"they are built on Linux, not on {sys.platform}")
    toolchain = _find_toolchain()
    digest = hashlib.sha256(repr(_build_inputs(toolchain)).encode()).hexdigest()
    path = _cache_folder() / f"native-{digest[:24]}.so"
    if not _is_intact(path):
        _compile(path, toolchain)
    return path


def _find_toolchain() -> Toolchain:
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    paths = [path for path in map(shutil.which, names) if path]
    if not paths:
        raise Unavailable("no C++ compiler: $CXX, g++ and clang++ were looked for")
    compiler = paths[0]
    version = _output_of([compiler, "--version"])
    openmp = _loaded_openmp()
    if openmp is None or ("clang" in version and "gomp" in Path(openmp).name):
        openmp = "-fopenmp"  # libgomp lacks functions that clang++ calls
    return Toolchain(compiler, version, openmp)


def _build_inputs(toolchain: Toolchain) -> tuple[object, ...]:
    """Everything the library depends on."""
    return (
        SOURCE.read_bytes(),
        OPTIONS,
        *astuple(toolchain),
        platform.machine(),
        _processor(),
    )


def _compile(path: Path, toolchain: Toolchain) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        library = Path(folder) / "native.so"
        objects = Path(folder) / "native.o"
        compiler = toolchain.compiler
        _output_of([compiler, *OPTIONS, "-c", str(SOURCE), "-o", str(objects)])
        _output_of([compiler, "-shared", str(objects), toolchain.openmp, "-o", str(library)])
        content = library.read_bytes()
        library.write_bytes(content + hashlib.sha256(content).digest())
        library.replace(path)  # atomic: another process may be building the same file


def _is_intact(path: Path) -> bool:
    """Whether a library is complete, by the digest at its end: loading a truncated one kills the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


def _loaded_openmp() -> str | None:
    """The OpenMP that torch has loaded: with another, two thread pools would compete for the same cores."""
    paths = set()
    for line in os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) > 5 and re.search(r"/lib(gomp|iomp5|omp)[^/ ]*$", fields[5]):
            paths.add(fields[5])
    torch_folder = str(Path(torch.__file__).resolve().parent)
    return min(paths, key=lambda path: (not path.startswith(torch_folder), path), default=None)


def _processor() -> str:
    """What the compiler tunes for: machines that differ may share the cache."""
    keys = re.compile(r"flags|Features|model name|vendor_id|CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if keys.match(line)}))


def _cache_folder() -> Path:
    """A folder that only this user can write: its files are loaded as code."""
    for folder in _cache_candidates():
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                is_private = _is_private(folder)
        except OSError:
            continue
        if is_private:
            return folder
    tried = ", ".join(map(str, _cache_candidates()))
    raise Unavailable(f"no folder that this user alone can write: {tried} were tried")


def _cache_candidates() -> Iterator[Path]:
    """First the user's cache, if there is one; a relative $XDG_CACHE_HOME is ignored, as its standard says."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        try:
            cache = Path("~/.cache").expanduser()
        except RuntimeError:  # a user without a home
            cache = Path()
    if cache.is_absolute():
        yield cache / "grpo"
    yield Path(tempfile.gettempdir()) / f"grpo-{os.getuid()}"


def _is_private(folder: Path) -> bool:
    """Whether nobody else can put a file into a folder, or another folder in its place."""
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
        return False
    parent_modes = [path.stat().st_mode for path in folder.resolve().parents]
    return all(mode & stat.S_ISVTX or not mode & 0o022 for mode in parent_modes)


def _output_of(command: Sequence[str]) -> str:
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILER_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        message = f"{program} took more than {COMPILER_TIMEOUT_SECONDS:g} seconds"
        raise Unavailable(message) from None
    if done.returncode:
        raise Unavailable(f"{program} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
