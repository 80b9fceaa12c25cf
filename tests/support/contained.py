"""An outer cage for tests that run hostile programs: nothing in it can reach the machine's own processes or files.

``python -m tests.contained MODE SECONDS COMMAND...`` runs a command in a PID namespace of its own, with every file
system read-only but a small tmpfs (``/dev/shm``, which is also TMPDIR), few processes and a deadline. In MODE ``user``
the command runs under a non-root uid; in MODE ``root`` as root of the namespace, which the sandbox then leaves for
its slots' uids. It uses nothing of ``rewards``: what is tested does not hold its own cage.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEWNS, NEWUSER, NEWPID = 0x20000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 0x4000, 0x40000
AT_RECURSIVE, AT_EMPTY_PATH, RDONLY = 0x8000, 0x1000, 1
MOUNT_SETATTR, OPEN_TREE, MOVE_MOUNT = 442, 428, 429
UID = 64_321
MOST_PROCESSES, MOST_BYTES = 400, 2 << 30
SCRATCH = "/dev/shm"

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    args = [text.encode() if text is not None else None for text in (source, target, kind)]
    check(libc.mount(*args, ctypes.c_ulong(flags), data.encode()), f"mounting {target}")


def make_read_only(path: str, read_only: bool = True) -> None:
    attributes = (ctypes.c_uint64 * 4)(RDONLY if read_only else 0, 0 if read_only else RDONLY, 0, 0)
    flags = ctypes.c_uint(AT_RECURSIVE)
    check(
        libc.syscall(MOUNT_SETATTR, -100, path.encode(), flags, attributes, 32), f"read-only {path}"
    )


def expose(path: Path) -> None:
    """Let every uid walk to `path`: a closed folder on the way is covered by an open one that holds only the next."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 1:
            inner = (
                path.parents[len(path.parents) - len(folder.parts) - 1]
                if folder != path.parent
                else path
            )
            tree = check(
                libc.syscall(OPEN_TREE, -100, str(inner).encode(), 1 | AT_RECURSIVE),
                f"cloning {inner}",
            )
            mount("tmpfs", str(folder), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
            inner.mkdir() if path.is_dir() or inner != path else inner.touch()
            check(
                libc.syscall(MOVE_MOUNT, tree, b"", -100, str(inner).encode(), 4), f"moving {inner}"
            )
            os.close(tree)


def enter(is_root: bool) -> None:
    """Unshare what this process may."""
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(NEWNS | NEWPID | (0 if uid == 0 else NEWUSER)), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    elif not is_root:
        assert UID != 0


def arrange_files(is_root: bool) -> None:
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    if not is_root and os.getuid() == 0:
        for path in {
            Path(sys.executable).resolve(),
            Path(sys.base_prefix).resolve(),
            Path(sys.prefix).absolute(),
            ROOT,
        }:
            expose(path)
    make_read_only("/")
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    mount("tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=256m,nr_inodes=20000")
    if is_root and os.path.isdir("/sys/fs/cgroup"):
        make_read_only("/sys/fs/cgroup", False)


def become_ordinary() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    assert os.getuid() != 0


def first_process(is_root: bool, command: list[str]) -> int:
    """As process 1 of the cage: run the command, reap, and leave, which kills whatever is left."""
    assert os.getpid() == 1
    libc.prctl(1, signal.SIGKILL)
    arrange_files(is_root)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
        if not is_root:
            become_ordinary()
        os.chdir(ROOT)
        environment = {
            **os.environ,
            "TMPDIR": SCRATCH,
            "HOME": SCRATCH,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        os.execve(command[0], command, environment)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 0xFF


def main(mode: str, seconds: float, command: list[str]) -> int:
    is_root = mode == "root"
    if is_root and os.getuid():
        raise OSError("only root can be root")
    enter(is_root)
    init = os.fork()
    if init == 0:
        try:
            os._exit(first_process(is_root, command))
        except BaseException as error:
            print(f"contained: {error}", file=sys.stderr, flush=True)
            os._exit(125)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(init, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) & 0xFF
        time.sleep(0.02)
    os.kill(init, signal.SIGKILL)
    os.waitpid(init, 0)
    return 124


# ----------------------------------------------------------------------------------------- for the tests


def modes() -> list[str]:
    """Who may be played here."""
    return ["root", "user"] if os.getuid() == 0 else ["user"]


@functools.lru_cache
def why_not(mode: str) -> str:
    """Why the cage cannot be had, or nothing."""
    done = run(mode, ["-c", "import os; print('pid', os.getpid())"], 20)
    return "" if done.stdout.startswith("pid ") else (done.stderr.strip() or "no outer namespace")


def run(mode: str, arguments: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `arguments` in the cage."""
    command = [sys.executable, str(Path(__file__)), mode, str(seconds), sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds + 15)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
