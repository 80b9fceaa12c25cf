"""What Linux offers to isolate a program, called from plain Python: namespaces, mounts, Landlock, seccomp.

Imported by a fork server (``rewards.sandbox.fork_server``) by its path, so it needs only the standard library. Every
function either does what its name says or raises `OSError`; which of them a machine allows is found by trying
(``rewards.sandbox.isolation``). x86-64 and ARM64.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import signal
import struct

__all__ = [
    "CLONE_NEWPID",
    "bind",
    "build_base_filter",
    "build_filter",
    "clone",
    "close_from",
    "drop_capabilities",
    "install_filter",
    "keep_capabilities",
    "landlock_version",
    "mount_tmpfs",
    "open_path",
    "pivot_into",
    "prctl",
    "read_only",
    "restrict_files",
    "unmount",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWTIME = 0x00000080
CLONE_THREAD = 0x00010000
CLONE_PIDFD = 0x1000
CLONE_CHILD_CLEARTID = 0x200000
CLONE_CHILD_SETTID = 0x1000000
ANY_NAMESPACE = (
    CLONE_NEWNS
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_NEWCGROUP
) | CLONE_NEWTIME
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
AT_RECURSIVE = 0x8000
AT_FDCWD = -100
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECUREBITS = 28
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT = 47

_libc = ctypes.PyDLL(
    None, use_errno=True
)  # PyDLL keeps the interpreter's lock, so that a clone has it too
_ARM = platform.machine() == "aarch64"

# Linux's numbers: name, x86-64, ARM64 (- where it has none)
_TABLE = """
mount 165 40; umount2 166 39; pivot_root 155 41; chroot 161 51; open_tree 428 428; move_mount 429 429; fsopen 430 430;
fsconfig 431 431; fsmount 432 432; fspick 433 433; mount_setattr 442 442; swapon 167 224; swapoff 168 225;
unshare 272 97; setns 308 268; statmount 457 457; listmount 458 458; open_tree_attr 467 467;
ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; process_madvise 440 440;
process_mrelease 448 448; kcmp 312 272; pidfd_getfd 438 438; pidfd_send_signal 424 424; pidfd_open 434 434;
bpf 321 280; perf_event_open 298 241; io_uring_setup 425 425; io_uring_enter 426 426; io_uring_register 427 427;
userfaultfd 323 282; keyctl 250 219; add_key 248 217; request_key 249 218; init_module 175 105;
finit_module 313 273; delete_module 176 106; kexec_load 246 104; kexec_file_load 320 294; reboot 169 142; acct 163 89;
quotactl 179 60; quotactl_fd 443 443; syslog 103 116; settimeofday 164 170; clock_settime 227 112;
clock_adjtime 305 266; adjtimex 159 171; sethostname 170 161; setdomainname 171 162; iopl 172 -; ioperm 173 -;
vhangup 153 58; name_to_handle_at 303 264; open_by_handle_at 304 265; fanotify_init 300 262; fanotify_mark 301 263;
inotify_init 253 -; inotify_init1 294 26; lookup_dcookie 212 18; nfsservctl 180 42; uselib 134 -;
personality 135 92; modify_ldt 154 -; seccomp 317 277; memfd_create 319 279; memfd_secret 447 447; shmget 29 194;
shmat 30 196; shmctl 31 195; msgget 68 186; msgsnd 69 189; msgrcv 70 188; msgctl 71 187; semget 64 190; semop 65 193;
semctl 66 191; semtimedop 220 192; mq_open 240 180; mq_unlink 241 181; mq_notify 244 184; mq_timedsend 242 182;
mq_timedreceive 243 183; mq_getsetattr 245 185; socket 41 198; socketpair 53 199; connect 42 203; bind 49 200;
listen 50 201; accept 43 202; accept4 288 242; setpriority 141 140; sched_setscheduler 144 119;
sched_setattr 314 274; sched_setparam 142 118; ioprio_set 251 30; migrate_pages 256 238; move_pages 279 239;
mbind 237 235; set_mempolicy 238 237; mlock 149 228; mlock2 325 284; mlockall 151 230; sync 162 81; syncfs 306 267;
clone 56 220; clone3 435 435; fork 57 -; vfork 58 -; execve 59 221; execveat 322 281; prctl 157 167;
prlimit64 302 261; sched_setaffinity 203 122; fcntl 72 25; ioctl 16 29; kill 62 129; tkill 200 130; tgkill 234 131;
rt_sigqueueinfo 129 138; rt_tgsigqueueinfo 297 240; setsid 112 157; setpgid 109 154; chmod 90 -; fchmod 91 52;
fchmodat 268 53; fchmodat2 452 452; chown 92 -; fchown 93 55; lchown 94 -; fchownat 260 54; utime 132 -; utimes 235 -;
utimensat 280 88; futimesat 261 -; setxattr 188 5; lsetxattr 189 6; fsetxattr 190 7; setxattrat 463 463;
removexattr 197 14; lremovexattr 198 15; fremovexattr 199 16; removexattrat 466 466; mknod 133 -; mknodat 259 33;
setuid 105 146; setgid 106 144; setreuid 113 145; setregid 114 143; setresuid 117 147; setresgid 119 149;
setgroups 116 159; setfsuid 122 151; setfsgid 123 152; capset 126 91;
landlock_create_ruleset 444 444; landlock_add_rule 445 445; landlock_restrict_self 446 446; close_range 436 436
"""
NUMBERS: dict[str, int] = {}
for _entry in _TABLE.split(";"):
    _name, _x86, _arm = _entry.split()
    if (_ARM and _arm != "-") or (not _ARM and _x86 != "-"):
        NUMBERS[_name] = int(_arm if _ARM else _x86)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(name: str, *args: object) -> int:
    """A system call by name; raises `OSError` if it fails."""
    return _check(_libc.syscall(NUMBERS[name], *args), name)


def prctl(option: int, *values: int) -> int:
    """Set an option of this process (prctl)."""
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _check(_libc.prctl(option, *arguments), f"prctl {option}")


# ------------------------------------------------------------------------------------------- processes

_pidfd = ctypes.c_int(-1)
_tid_address = ctypes.c_void_p()


def clone(flags: int) -> tuple[int, int]:
    """Fork with namespace ``flags``: ``(0, -1)`` in the child, its process id and a pidfd in the parent.

    For a process of one thread only: the interpreter is not told, so that neither side pays for its bookkeeping.
    """
    if not _tid_address.value:
        try:  # so that the child's C library knows its own thread id, as after its own fork
            prctl(PR_GET_TID_ADDRESS, ctypes.addressof(_tid_address))
        except OSError:
            pass
    if _tid_address.value:
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
    tail = (ctypes.c_ulong(0), _tid_address) if _ARM else (_tid_address, ctypes.c_ulong(0))
    flags |= CLONE_PIDFD | signal.SIGCHLD
    arguments = (ctypes.c_ulong(flags), ctypes.c_void_p(0), ctypes.byref(_pidfd), *tail)
    pid = _libc.syscall(NUMBERS["clone"], *arguments)
    return _check(pid, "clone"), _pidfd.value if pid else -1


def unshare(flags: int) -> None:
    """Move this process into new namespaces (unshare)."""
    _call("unshare", ctypes.c_ulong(flags))


def close_from(lowest: int) -> None:
    """Close every descriptor from ``lowest`` on."""
    try:
        _call("close_range", ctypes.c_uint(lowest), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(0))
    except OSError:
        os.closerange(lowest, 65536)


def keep_capabilities() -> None:
    """Let the next change of the user id leave root's capabilities in place."""
    prctl(PR_SET_KEEPCAPS, 1)


def raise_capabilities() -> None:
    """Make the permitted capabilities effective again, after a change of the user id."""
    header = struct.pack("<Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data), "capget")
    low = struct.unpack_from("<I", data, 4)[0]
    high = struct.unpack_from("<I", data, 16)[0]
    words = (low, low, 0, high, high, 0)
    _check(_libc.capset(header, struct.pack("<6I", *words)), "capset")


_CAPABILITY_HEADER = struct.pack("<Ii", 0x20080522, 0)
_NO_CAPABILITIES = struct.pack("<6I", *[0] * 6)


def drop_capabilities() -> None:
    """Give up every capability for good."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _check(_libc.capset(_CAPABILITY_HEADER, _NO_CAPABILITIES), "capset")


# --------------------------------------------------------------------------------------------- mounts


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    arguments = (
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode(),
    )
    _check(_libc.mount(*arguments), f"mount on {target}")


def detach_propagation() -> None:
    """Keep this mount namespace's changes to itself."""
    _mount("none", "/", None, MS_REC | MS_PRIVATE)


def mount_tmpfs(
    target: str, limit_bytes: int, most_files: int, mode: str = "700", flags: int = 0
) -> None:
    """An empty file system in memory, bounded in bytes and inodes."""
    data = f"mode={mode},size={limit_bytes},nr_inodes={most_files}"
    flags |= MS_NOSUID | MS_NODEV
    _mount("tmpfs", target, "tmpfs", flags, data=data)


def unmount(target: str) -> None:
    """Detach what is mounted at ``target``."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount of {target}")


def bind(source: str, target: str, keep_devices: bool = False) -> None:
    """Show ``source`` at ``target``, read-only."""
    _mount(source, target, None, MS_BIND | MS_REC)
    read_only(target, keep_devices)


def read_only(target: str, keep_devices: bool = False) -> None:
    """Make what is mounted at ``target``, and below it, read-only."""
    flags = MS_RDONLY | MS_NOSUID | (0 if keep_devices else MS_NODEV)
    attributes = struct.pack("<4Q", *(flags, 0, 0, 0))
    arguments = (target.encode(), ctypes.c_uint(AT_RECURSIVE), attributes, ctypes.c_size_t(32))
    try:
        _call("mount_setattr", AT_FDCWD, *arguments)
    except OSError:
        _mount("none", target, None, MS_BIND | MS_REMOUNT | flags)


def pivot_into(new_root: str) -> None:
    """Make ``new_root`` the root and detach the old one."""
    os.chdir(new_root)
    _call("pivot_root", b".", b".")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


# -------------------------------------------------------------------------------------------- Landlock

LOWEST_DESCRIPTOR = 16
_EXECUTE = 1
_WRITE_FILE = 2
_READ_FILE = 4
_READ_DIR = 8
_READING = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | (1 << 14) | (1 << 15)
_ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_IOCTL = 1 << 15


def landlock_version() -> int:
    """The kernel's Landlock ABI version; 0 if it has none."""
    try:
        return _call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


def open_path(path: str) -> int:
    """A descriptor that names a path for Landlock, numbered above any that a child uses; -1 if there is none."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return -1
    if descriptor >= LOWEST_DESCRIPTOR:
        return descriptor
    higher = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LOWEST_DESCRIPTOR)
    os.close(descriptor)
    return higher


def restrict_files(
    version: int, readable: list[int], writable: list[int], devices: list[int]
) -> None:
    """By Landlock: only these paths can be opened, no TCP port used, no process outside signalled."""
    handled = _ALL_FILE_RIGHTS.get(version, (1 << 16) - 1)
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("<QQQ", handled, network, scoped)[:size]
    rules = _call("landlock_create_ruleset", attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for paths, rights in ((readable, _READING), (writable, ~_IOCTL), (devices, _OF_FILES)):
            for path in paths:
                _allow(rules, path, rights & handled)
        _call("landlock_restrict_self", rules, ctypes.c_uint(0))
    finally:
        os.close(rules)


def _allow(rules: int, path: int, rights: int) -> None:
    try:
        _add_rule(rules, struct.pack("<Qi", rights, path))
    except OSError:  # a file, for which only some rights make sense
        _add_rule(rules, struct.pack("<Qi", rights & _OF_FILES, path))


def _add_rule(rules: int, rule: bytes) -> None:
    arguments = (rules, 1, rule, ctypes.c_uint(0))
    _call("landlock_add_rule", *arguments)


# --------------------------------------------------------------------------------------------- seccomp

_ALWAYS_DENIED = """
mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr swapon swapoff unshare
setns statmount listmount open_tree_attr ptrace process_vm_readv process_vm_writev process_madvise process_mrelease
kcmp pidfd_getfd pidfd_send_signal pidfd_open bpf perf_event_open io_uring_setup io_uring_enter io_uring_register
userfaultfd keyctl add_key request_key init_module finit_module delete_module kexec_load kexec_file_load reboot acct
quotactl quotactl_fd syslog settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname iopl ioperm
vhangup name_to_handle_at open_by_handle_at fanotify_init fanotify_mark inotify_init inotify_init1 lookup_dcookie
nfsservctl uselib personality modify_ldt seccomp memfd_create memfd_secret shmget shmat shmctl msgget msgsnd msgrcv
msgctl semget semop semctl semtimedop mq_open mq_unlink mq_notify mq_timedsend mq_timedreceive mq_getsetattr socket
connect bind listen accept accept4 setpriority sched_setscheduler sched_setattr sched_setparam ioprio_set migrate_pages
move_pages mbind set_mempolicy mlock mlock2 mlockall sync syncfs rt_sigqueueinfo rt_tgsigqueueinfo
setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset
landlock_create_ruleset landlock_add_rule landlock_restrict_self
""".split()
_DENIED_IN_THE_OPEN = """
tkill setsid setpgid chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat
setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat mknod mknodat
""".split()
"""What a separate namespace makes harmless: signals, and files of others that only permissions protect."""
_STARTING = ("fork", "vfork")
_FCNTLS = (8, 10, 15, 1024, 1026)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX (a signal to anybody of the same uid), F_SETLEASE, F_NOTIFY."""
_IOCTLS = (0x5412, 0x541C, 0x8901, 0x8902)
"""TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP."""
_NEWEST = 471
"""Calls from here on were not known when this list was made."""

_LOAD = 0x20
_JEQ = 0x15
_JGE = 0x35
_JSET = 0x45
_RET = 0x06
_KILL = 0x80000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EPERM = 1
_ENOSYS = 38
_ARGUMENT = 16

_Code = list[tuple[int, int, int, int]]


_NEEDED_BY_FORK_SERVERS = frozenset(
    "mount umount2 seccomp capset landlock_create_ruleset landlock_add_rule landlock_restrict_self".split()
)


def build_base_filter() -> bytes:
    """A seccomp filter, as BPF code, that denies what neither a fork server nor any program needs."""
    return _code([name for name in _ALWAYS_DENIED if name not in _NEEDED_BY_FORK_SERVERS], [])


def build_filter(
    *, processes: bool = False, programs: bool = False, own_pid: int | None = None
) -> bytes:
    """What a program's filter adds to the base filter, as BPF code.

    ``processes``: whether new processes may be made; ``programs``: whether execve may be called. ``own_pid`` is set if
    there is no PID namespace: signals then reach only that process.
    """
    denied = sorted(_NEEDED_BY_FORK_SERVERS)
    denied += _DENIED_IN_THE_OPEN if own_pid is not None else []
    denied += [] if processes else _STARTING
    denied += [] if programs or processes else ["execve", "execveat"]
    return _code(denied, _argument_rules(processes, own_pid))


def _code(denied: list[str], rules: _Code) -> bytes:
    architecture = 0xC00000B7 if _ARM else 0xC000003E
    code = [(_LOAD, 0, 0, 4), (_JEQ, 1, 0, architecture), (_RET, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    code += [
        (_JGE, 0, 1, 0x40000000),
        (_RET, 0, 0, _KILL),
        (_JGE, 0, 1, _NEWEST),
        (_RET, 0, 0, _ERRNO | _ENOSYS),
    ]
    for name in denied:
        if name in NUMBERS:
            code += [(_JEQ, 0, 1, NUMBERS[name]), (_RET, 0, 0, _ERRNO | _EPERM)]
    code += [(_JEQ, 0, 1, NUMBERS["clone3"]), (_RET, 0, 0, _ERRNO | _ENOSYS)]
    code += rules
    code.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _argument_rules(processes: bool, own_pid: int | None) -> _Code:
    """Rules that depend on an argument; each block reloads the system call's number at its end."""
    flags: _Code = [(_JSET, 0, 1, ANY_NAMESPACE), (_RET, 0, 0, _ERRNO | _EPERM)]
    flags += [] if processes else [(_JSET, 1, 0, CLONE_THREAD), (_RET, 0, 0, _ERRNO | _EPERM)]
    code = _block("clone", 0, flags)
    code += _block("prlimit64", 0, _only(0))
    code += _block("sched_setaffinity", 0, _only(0))
    code += _block("socketpair", 0, _only(1))
    code += _block("prctl", 0, _none_of((PR_SET_PDEATHSIG,)))
    code += _block("fcntl", 1, _none_of(_FCNTLS))
    code += _block("ioctl", 1, _none_of(_IOCTLS))
    if own_pid is not None:
        code += _block("kill", 0, _only(own_pid)) + _block("tgkill", 0, _only(own_pid))
    return code


def _block(name: str, argument: int, rules: _Code) -> _Code:
    loaded: _Code = [(_LOAD, 0, 0, _ARGUMENT + 8 * argument), *rules, (_LOAD, 0, 0, 0)]
    return [(_JEQ, 0, len(loaded), NUMBERS[name]), *loaded]


def _only(value: int) -> _Code:
    return [(_JEQ, 1, 0, value), (_RET, 0, 0, _ERRNO | _EPERM)]


def _none_of(values: tuple[int, ...]) -> _Code:
    return [
        step for value in values for step in ((_JEQ, 0, 1, value), (_RET, 0, 0, _ERRNO | _EPERM))
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def install_filter(code: bytes) -> None:
    """Bind this process, and all it starts, to a filter for good."""
    program = _Program(len(code) // 8, code)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _call("seccomp", ctypes.c_uint(1), ctypes.c_uint(0), ctypes.byref(program))
