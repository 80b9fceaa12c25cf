"""The fork server: a small process that confines itself once, then makes a confined child for each program.

Started by ``rewards.sandbox.supervisor`` in a fresh interpreter with an empty environment, so that it shares nothing
with the trainer. It never sees a program: the child reads its job from the supervisor itself, once it is confined.
One child at a time. Standard library only, and no pathlib, which is slow to import.
"""

from __future__ import annotations

import _socket
import gc
import math
import os
import resource
import select
import signal
import struct
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import assertion_process  # type: ignore[import-not-found]  # noqa: E402,F401
import messages  # type: ignore[import-not-found]  # noqa: E402
import program_process  # type: ignore[import-not-found]  # noqa: E402
import syscalls  # type: ignore[import-not-found]  # noqa: E402

PRELOADED = """
ast bisect collections copy functools heapq itertools math operator random re site string time typing
""".split()
MORE = """
array asyncio calendar cmath concurrent.futures contextlib csv dataclasses datetime decimal difflib enum fractions
hashlib inspect json numbers pprint queue secrets shutil socket statistics subprocess tempfile textwrap threading
traceback unittest urllib.parse urllib.request uuid weakref
""".split()
"""Imported in advance if a slot's uid may not read Python's folder (root's, say) and no namespace shows it."""
INSIDE_UID = 1000
EXECUTABLE_PLACES = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/lib32",
    "/etc/alternatives",
    "/etc/ld.so.cache",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random")
MOUNT_POINTS = ("/mnt", "/media", "/srv", "/opt", "/run", "/tmp")
REQUEST = struct.Struct("<BBBxIQQQIQ")
"""Processes, programs, number of descriptors; most tasks, memory, file bytes, CPU milliseconds, files, reserve."""
READY = messages.pack_frame({"ready": True})
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
}


class Confinement:
    """What this fork server managed to set up, and how each of its children is confined."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.masked = set(config["without"])
        self.trouble: dict[str, str] = {}
        self.landlock = 0 if "landlock" in self.masked else syscalls.landlock_version()
        self.uid: int | None = None
        self.own_uid = False
        self.proc = -1
        self.readable = [*EXECUTABLE_PLACES, *config["readable"]]
        self.namespaces = self._try("namespaces", self._enter_namespaces)
        self.read_places = [] if self.namespaces else self._open(self.readable)
        if not self.namespaces and os.getuid() == 0:
            for name in MORE:
                __import__(name)
            self._try("uid", self._change_uid)
        self.filters: dict[tuple[bool, bool], bytes] = {}
        self.has_seccomp = "seccomp" not in self.masked
        if self.namespaces:
            for processes, programs in ((False, False), (False, True), (True, True)):
                self.filters[processes, programs] = syscalls.build_filter(
                    processes=processes, programs=programs
                )

    def _try(self, name: str, step: Any) -> bool:
        if name in self.masked:
            self.trouble[name] = "masked"
            return False
        try:
            step()
        except OSError as error:
            self.trouble[name] = str(error)
            return False
        return True

    # ---- who we are

    def _enter_namespaces(self) -> None:
        """Enter namespaces with a root of our own; tried in a child first, since half of it cannot be undone."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            try:
                self._try_all(writing)
            except BaseException as error:  # noqa: BLE001  whatever failed is reported to the parent
                os.write(writing, f"{type(error).__name__}: {error}".encode()[:300])
            os._exit(0)
        os.close(writing)
        message = os.read(reading, 300).decode()
        os.close(reading)
        os.waitpid(pid, 0)
        if message != "fine":
            raise OSError(message or "the first try ended without a message")
        self._enter_confinement()

    def _try_all(self, descriptor: int) -> None:
        """In a throw-away child: everything that a fork server and its children will do."""
        self._enter_confinement()
        syscalls.mount_tmpfs("/tmp", 1 << 20, 16)
        child, _ = syscalls.clone(syscalls.CLONE_NEWPID)
        if child == 0:
            os._exit(0 if os.getpid() == 1 else 1)
        code = os.waitpid(child, 0)[1]
        syscalls.unmount("/tmp")
        os.write(descriptor, b"fine" if code == 0 else b"a child is not the first of its namespace")

    def _enter_confinement(self) -> None:
        spaces = (
            syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWIPC
            | syscalls.CLONE_NEWUTS
        )
        is_root = os.getuid() == 0 and self._can_change_uid()
        self.proc = os.open("/proc/self", os.O_PATH | os.O_CLOEXEC)
        if is_root:
            self._change_uid(keep=True)
            syscalls.unshare(spaces)
        else:
            self.uid = os.getuid()
            uid = os.getuid()
            gid = os.getgid()
            syscalls.unshare(spaces | syscalls.CLONE_NEWUSER)
            self._map(uid, gid)
        self._build_root()
        if is_root:
            self._drop_root()
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)

    def _can_change_uid(self) -> bool:
        """Whether other uids than ours exist here (in a user namespace of one uid they do not)."""
        with open("/proc/self/uid_map") as file:
            lines = file.readlines()
        for line in lines:
            start, _, size = map(int, line.split())
            if start <= self.config["uid"] < start + size:
                return True
        return False

    def _change_uid(self, keep: bool = False) -> None:
        uid = self.config["uid"]
        if keep:
            syscalls.keep_capabilities()
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if keep:
            syscalls.raise_capabilities()
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        self.uid = uid
        self.own_uid = True

    def _drop_root(self) -> None:
        """Exchange root's capabilities for those of a user namespace, if one can be had."""
        uid = self.config["uid"]
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        except OSError:
            return
        self._map(uid, uid)

    def _map(self, uid: int, gid: int) -> None:
        files = {
            "setgroups": "deny",
            "uid_map": f"{INSIDE_UID} {uid} 1",
            "gid_map": f"{INSIDE_UID} {gid} 1",
        }
        for name, text in files.items():
            descriptor = os.open(name, os.O_WRONLY, dir_fd=self.proc)
            os.write(descriptor, text.encode())
            os.close(descriptor)

    # ---- the file system

    def _build_root(self) -> None:
        syscalls.detach_propagation()
        root = next(
            path for path in MOUNT_POINTS if os.path.isdir(path) and not self._holds_source(path)
        )
        syscalls.mount_tmpfs(root, 1 << 20, 2000, "755")
        for path in self.readable:
            self._show(path, root)
        for path in DEVICES:
            if os.path.exists(path):
                os.makedirs(f"{root}/dev", exist_ok=True)
                open(root + path, "w").close()
                syscalls.bind(path, root + path, keep_devices=True)
        os.mkdir(f"{root}/tmp")
        syscalls.pivot_into(root)
        syscalls.read_only("/", keep_devices=True)

    def _holds_source(self, folder: str) -> bool:
        return any(path == folder or path.startswith(folder + "/") for path in self.readable)

    def _show(self, path: str, root: str) -> None:
        target = root + path
        if os.path.lexists(target) or not os.path.lexists(path):
            return
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
        elif os.path.isdir(path):
            os.mkdir(target, 0o755)
            syscalls.bind(path, target)
        else:
            open(target, "w").close()
            syscalls.bind(path, target)

    # ---- in a child

    def prepare_children(self) -> None:
        """What all children need, made once: limits that never change, and the filter that also binds this process."""
        for kind, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_NOFILE, 64),
        ):
            resource.setrlimit(kind, (value, value))
        if self.has_seccomp:
            syscalls.install_filter(syscalls.build_base_filter())
        self.read_places = self.read_places or self._open(["/"])
        self.device_places = self._open(["/dev"] if self.namespaces else DEVICES)

    def _open(self, paths: Any) -> list[int]:
        descriptors = map(syscalls.open_path, paths)
        return [descriptor for descriptor in descriptors if descriptor >= 0]

    def confine(self, processes: bool, programs: bool, limits: tuple[int, ...]) -> None:
        """Confine this process, for good."""
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if self.namespaces:
            os.chdir("/tmp")
        else:
            os.setpgid(0, 0)
            os.chdir("/")
        self._limit(limits)
        syscalls.drop_capabilities()
        if self.landlock:
            writable = [syscalls.open_path("/tmp")] if self.namespaces else []
            syscalls.restrict_files(self.landlock, self.read_places, writable, self.device_places)
        if self.has_seccomp:
            code = self.filters.get((processes, programs)) or syscalls.build_filter(
                processes=processes, programs=programs, own_pid=os.getpid()
            )
            syscalls.install_filter(code)

    def _limit(self, limits: tuple[int, ...]) -> None:
        most_tasks, memory_bytes, file_bytes, cpu_ms, _, reserve_bytes = limits
        seconds = math.ceil(cpu_ms / 1000)
        most_tasks += 0 if self.namespaces or self.own_uid else _num_tasks()
        for kind, soft, hard in (
            (resource.RLIMIT_CPU, seconds, seconds + 1),
            (resource.RLIMIT_AS, memory_bytes + reserve_bytes, memory_bytes + reserve_bytes),
            (resource.RLIMIT_DATA, memory_bytes, memory_bytes),
            (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
            (resource.RLIMIT_STACK, 64 << 20, 64 << 20),
            (resource.RLIMIT_NPROC, most_tasks, most_tasks),
        ):
            resource.setrlimit(kind, (soft, hard))


def _num_tasks() -> int:
    """How many tasks the machine runs: if the uid is shared with others, its limit must leave room for them."""
    with open("/proc/loadavg") as file:
        return int(file.read().split()[3].partition("/")[2])


# --------------------------------------------------------------------------------------------- the loop


def serve(control: _socket.socket, confinement: Confinement) -> None:
    """Make a child for each request until the supervisor leaves."""
    while True:
        data, ancillary, _, _ = control.recvmsg(REQUEST.size, 256)
        descriptors = [
            number for _, _, numbers in ancillary for (number,) in struct.iter_unpack("i", numbers)
        ]
        if len(data) < REQUEST.size:
            return
        processes, programs, _, *limits = REQUEST.unpack(data)
        request = _Request(bool(processes), bool(programs), tuple(limits), descriptors)
        _run_one(control, confinement, request)


class _Request:
    """What the supervisor asks of one child."""

    def __init__(
        self, processes: bool, programs: bool, limits: tuple[int, ...], descriptors: list[int]
    ) -> None:
        self.processes = processes
        self.programs = programs
        self.limits = limits
        self.descriptors = descriptors


def _run_one(control: Any, confinement: Confinement, request: _Request) -> None:
    limits = request.limits
    descriptors = request.descriptors
    try:
        if confinement.namespaces:
            syscalls.mount_tmpfs("/tmp", limits[2], limits[4])
        pid, pidfd = syscalls.clone(syscalls.CLONE_NEWPID if confinement.namespaces else 0)
    except OSError as error:
        _close(descriptors)
        control.sendall(b"E" + str(error).encode()[:200].ljust(200))
        return
    if pid == 0:
        _child(confinement, request)
    _close(descriptors)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", pidfd))]
    control.sendmsg([b"P" + struct.pack("<I", pid)], rights)
    _wait(control, confinement, pid, pidfd)
    os.close(pidfd)
    _, status, usage = os.wait4(pid, 0)
    if confinement.namespaces:
        syscalls.unmount("/tmp")
    cpu = int((usage.ru_utime + usage.ru_stime) * 1e6)
    control.sendall(
        b"X" + struct.pack("<iQQ", os.waitstatus_to_exitcode(status), cpu, usage.ru_maxrss)
    )


def _wait(control: Any, confinement: Confinement, pid: int, pidfd: int) -> None:
    """Wait for the child's end; if the supervisor leaves first, kill it and exit."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(control, 0)
    while True:
        events = dict(poll.poll())
        if pidfd in events:
            if not confinement.namespaces:
                _kill_group(pid)
            return
        if control.fileno() in events:
            _kill_group(pid) if not confinement.namespaces else os.kill(pid, signal.SIGKILL)
            os._exit(0)


def _kill_group(pid: int) -> None:
    """Without a PID namespace: kill what is left of the child's process group before its number is free again."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _child(confinement: Confinement, request: _Request) -> None:
    """In the child: take the descriptors, confine the process, run the job that the supervisor sends."""
    try:
        _prefer_when_memory_runs_out(confinement.proc)
        high = [os.dup(descriptor) for descriptor in request.descriptors]
        while high[0] < len(high) + 8:
            high = [os.dup(descriptor) for descriptor in high]
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, number)
        confinement.confine(request.processes, request.programs, request.limits)
        syscalls.close_from(len(high))
    except BaseException as error:  # noqa: BLE001  whatever failed is reported to the supervisor
        try:
            messages.write_frame(
                program_process.CHANNEL,
                {"ready": False, "detail": f"{type(error).__name__}: {error}"},
            )
        finally:
            os._exit(99)
    messages.write_bytes(program_process.CHANNEL, READY)
    program_process.run(messages.read_frame(program_process.CHANNEL))


def _prefer_when_memory_runs_out(proc: int) -> None:
    try:
        folder = os.open("../self", os.O_PATH, dir_fd=proc)
        descriptor = os.open("oom_score_adj", os.O_WRONLY, dir_fd=folder)
        os.write(descriptor, b"1000")
    except OSError:
        pass


def import_packages(config: dict[str, Any]) -> tuple[list[str], str]:
    """Import what programs may use, and have its folders shown; returns (names that can be imported, what failed)."""
    folders = config.get("package_folders", [])
    before = set(sys.modules)
    path = list(sys.path)
    sys.path += folders
    name = ""
    try:
        for name in config.get("packages", ()):
            __import__(name)
        if "numpy" in sys.modules:
            __import__(
                "numpy.random"
            )  # loaded late otherwise, with a seed of its own in each program
    except BaseException as error:  # noqa: BLE001  whatever it is, it is reported
        return [], f"{name} cannot be imported: {type(error).__name__}: {error}"[:500]
    finally:
        sys.path[:] = path
    found = set()
    for module in set(sys.modules) - before:
        file = getattr(sys.modules[module], "__file__", None) or ""
        for folder in folders:
            if file.startswith(folder + "/"):
                found.add(os.path.join(folder, file[len(folder) + 1 :].split("/")[0]))
    names = sorted({os.path.basename(place).split(".")[0] for place in found})
    config["readable"] += sorted({*found, *_libraries(folders, names)})
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(0)  # type: ignore[attr-defined]
    return names, ""


def _libraries(folders: list[str], names: list[str]) -> list[str]:
    """The folders with the shared libraries of packages, as wheels bring them."""
    return [
        os.path.join(folder, entry)
        for folder in folders
        for entry in os.listdir(folder)
        if entry.endswith(".libs") and entry[: -len(".libs")].replace("-", "_") in names
    ]


def main(descriptor: int) -> None:
    """Confine this process, report what was managed, serve."""
    control = _socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    config = messages.read_frame(descriptor)
    for name in PRELOADED:
        __import__(name)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    packages, import_error = import_packages(config)
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    confinement = Confinement(config)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    confinement.prepare_children()
    program_process.text_streams()
    sys.modules["random"].seed(0)
    sys.path[:] = [path for path in sys.path[1:] if path]
    gc.collect()
    gc.freeze()
    report = {
        "namespaces": confinement.namespaces,
        "landlock": confinement.landlock,
        "seccomp": confinement.has_seccomp,
        "uid": confinement.uid,
        "trouble": confinement.trouble,
        "packages": packages,
        "import_error": import_error,
    }
    messages.write_frame(descriptor, report)
    serve(control, confinement)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, ConnectionError, messages.Gone):
        pass
