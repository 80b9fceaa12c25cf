"""Programs that attack whoever runs them, by what they attack. Only ever run inside the cage of ``contained.py``.

Each prints ``ESCAPED`` where it got what it must not get. What it leaves behind is for the runner to find.
"""

from __future__ import annotations

import textwrap

__all__ = ["HOSTILE", "NEEDS_PROCESSES"]

_TRY = """
import os, sys, ctypes, time, signal, socket, threading, resource
libc = ctypes.CDLL(None, use_errno=True)
def escaped(what): print("ESCAPED", what, flush=True)
def attempt(what, name=""):
    try:
        result = what()
    except BaseException as error:
        return error
    escaped(name or what)
    return result
def call(number, *args):
    if libc.syscall(number, *args) >= 0: escaped(f"system call {number}")
"""

_PLAIN = {
    # processes, threads, signals
    "fork bomb": "while True:\n    try: os.fork()\n    except OSError: pass",
    "raw clone bomb": "while libc.syscall(56, 17, 0, 0, 0, 0) < 0 and libc.syscall(57) < 0 and libc.syscall(58) < 0 and time.process_time() < .2: pass\nelse:\n    if time.process_time() < .2: escaped('clone')",
    "clone3 bomb": "buffer = (ctypes.c_uint64 * 11)()\nbuffer[4] = 17\nfor _ in range(100):\n    if libc.syscall(435, buffer, 88) >= 0: escaped('clone3')",
    "thread bomb": "def wait():\n    time.sleep(60)\nwhile True:\n    try: threading.Thread(target=wait).start()\n    except RuntimeError: pass",
    "daemon": "import subprocess\nattempt(lambda: os.posix_spawn('/bin/sh', ['sh', '-c', 'setsid sleep 100 &'], {}))\nattempt(lambda: subprocess.Popen(['/bin/sleep', '100'], start_new_session=True))",
    "zombies": "for _ in range(1000):\n    try:\n        if os.fork() == 0: os._exit(0)\n    except OSError: pass",
    "signal to all": "for number in (9, 15, 19): \n    try: os.kill(-1, number)\n    except OSError: pass\ntime.sleep(.1)",
    "signal to many": "for pid in range(1, 3000):\n    for number in (9, 19):\n        try: os.kill(pid, number) if pid != os.getpid() else None\n        except OSError: pass",
    "signal to groups": "for pid in range(1, 3000):\n    try: os.killpg(pid, 9) if pid != os.getpid() else None\n    except OSError: pass\ntry: os.killpg(0, 19)\nexcept OSError: pass",
    "signal to the parent": "for number in (9, 15, 19, 11):\n    try: os.kill(os.getppid() or 1, number)\n    except OSError: pass",
    "thread signals": "for pid in range(1, 3000):\n    if pid != os.getpid():\n        libc.syscall(200, pid, 9); libc.syscall(234, pid, pid, 9)",
    "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)\nlibc.raise_ if False else None\ntime.sleep(100)",
    "ignores signals": "for number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "blocks signals": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nlibc.prctl(1, 0)\ntime.sleep(100)",
    "signal by descriptor owner": "import fcntl\nr, w = os.pipe()\nfor pid in range(1, 3000):\n    for step in (lambda: fcntl.fcntl(r, 10, 9), lambda: fcntl.fcntl(r, fcntl.F_SETOWN, pid)):\n        try: step()\n        except OSError: pass\n    try: fcntl.fcntl(r, fcntl.F_SETFL, fcntl.FASYNC | os.O_NONBLOCK)\n    except OSError: pass\n    os.write(w, b'x'); os.read(r, 10)",
    "limits of others": "for pid in range(1, 2000):\n    if pid != os.getpid():\n        try: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0)); escaped('prlimit')\n        except OSError: pass",
    "raises its own limits": "for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n    attempt(lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2), 'limit')",
    # memory
    "memory in steps": "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))",
    "memory at once": "bytearray(1 << 40)",
    "memory kept after errors": "kept = []\nwhile True:\n    try: kept.append(bytearray(16 << 20))\n    except MemoryError: pass",
    "huge number": "9 ** 9 ** 9",
    "memfd": "for _ in range(50):\n    fd = libc.syscall(319, b'x', 0)\n    if fd >= 0:\n        escaped('memfd')",
    "shared memory": "for number, args in ((29, (0, 1 << 30, 0o1600)), (68, (0, 0o1600)), (64, (0, 10, 0o1600)), (240, (b'x', 0o102, 0o600, None))): call(number, *args)",
    "pipe memory": "import fcntl\npipes = []\ntry:\n    while True:\n        r, w = os.pipe(); pipes.append((r, w))\n        os.set_blocking(w, False)\n        try: fcntl.fcntl(w, 1031, 1 << 20)\n        except OSError: pass\n        try: os.write(w, b'x' * (1 << 20))\n        except OSError: pass\nexcept OSError: pass",
    # files
    "file bytes": "try:\n    for number in range(10000):\n        with open(f'/tmp/f{number}', 'wb') as file: file.write(b'x' * (8 << 20))\nexcept OSError: pass",
    "one big file": "try:\n    with open('/tmp/big', 'wb') as file:\n        while True: file.write(b'x' * (1 << 20))\nexcept OSError: pass",
    "sparse file": "try:\n    fd = os.open('/tmp/sparse', os.O_RDWR | os.O_CREAT)\n    os.ftruncate(fd, 1 << 50)\n    escaped('sparse')\nexcept OSError: pass",
    "inodes": "try:\n    for number in range(1000000): open(f'/tmp/i{number}', 'w').close()\nexcept OSError: pass",
    "deep folders": "try:\n    while True:\n        os.mkdir('d'); os.chdir('d')\nexcept OSError: pass",
    "descriptors": "try:\n    while True: os.dup(0)\nexcept OSError: pass",
    "writes outside": "for place in ('/', '/usr', '/etc', '/root', '/home', '/var/tmp', '/dev/shm', '/lib', '/dev', '/proc', '/sys', ROOT):\n    for name in ('hostile', '../hostile'):\n        attempt(lambda: open(f'{place}/{name}', 'w'), place)",
    "deletes and changes outside": "import shutil\nfor step in (lambda: shutil.rmtree('/usr'), lambda: os.unlink('/bin/sh'), lambda: os.chmod(ROOT, 0), lambda: os.rename('/usr', '/xxx'), lambda: os.truncate(ROOT + '/README.md', 0), lambda: os.utime(ROOT), lambda: os.chown(ROOT, 1, 1), lambda: os.setxattr(ROOT, 'user.x', b'1')):\n    attempt(step, 'change')",
    "reads secrets": "for place in ('/etc/passwd', '/etc/shadow', ROOT + '/README.md', '/root', '/home', '/work', '/proc/1/environ', '/proc/self/environ', '/proc/self/mem', '/proc/1/maps', '/sys/kernel', '/var/log', '/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/run', '/dev/shm', '/dev/tty', '/dev/ptmx'):\n    attempt(lambda: (os.listdir if os.path.isdir(place) else lambda p: open(p, 'rb').read(1))(place) if os.path.lexists(place) and place != '/root' else 1 / 0, place)",
    "links": "for place in ('/etc/passwd', '/root/.bashrc', ROOT + '/README.md', '/proc/1/root/etc/passwd'):\n    attempt(lambda: (os.symlink(place, '/tmp/l'), open('/tmp/l').read()), 'symlink')\n    try: os.unlink('/tmp/l')\n    except OSError: pass\n    attempt(lambda: os.link(place, '/tmp/h'), 'link')",
    "dot dot": "path = '/tmp' + '/..' * 40 + ROOT + '/README.md'\nattempt(lambda: open(path), path)\nfd = os.open('/', os.O_RDONLY) if not isinstance(attempt(lambda: 1 / 0), OSError) else -1\nattempt(lambda: os.open('..' + ROOT, os.O_RDONLY, dir_fd=fd), 'openat')",
    "bytes of the root": "for name in ('mnt', 'media', 'srv', 'opt', 'work', 'home', 'boot', 'var'):\n    attempt(lambda: os.listdir('/' + name), name)",
    "shadows modules": "try:\n    for name in ('json', 'os', 're', 'kernel', 'wire', 'candidate', 'tester'): open(f'/tmp/{name}.py', 'w').write('print(\"ESCAPED\")')\nexcept OSError: pass",
    # what could be inherited
    "environment": "for name in os.environ:\n    if name not in ('PATH', 'HOME', 'LANG', 'OMP_NUM_THREADS', 'LC_CTYPE', 'PYTHONHASHSEED'): escaped(name)",
    "descriptors inherited": "for fd in range(3, 2000):\n    attempt(lambda: os.fstat(fd), f'descriptor {fd}')",
    "control socket": "for fd in range(3, 100):\n    for step in (lambda: os.write(fd, b'X' * 21), lambda: socket.socket(fileno=fd).sendall(b'X' * 21)):\n        attempt(step, 'socket')",
    "fork_server's memory": "attempt(lambda: open(f'/proc/{os.getppid()}/mem', 'rb'))\ncall(310, 1 if os.getpid() != 1 else 2, None, 0, None, 0, 0)\ncall(101, 16, os.getppid() or 2, 0, 0)",
    # network
    "sockets": "for family in range(0, 46):\n    for kind in (1, 2, 3, 5):\n        attempt(lambda: socket.socket(family, kind), f'socket {family} {kind}')",
    "connections": "attempt(lambda: socket.create_connection(('127.0.0.1', 22), .2))\nattempt(lambda: socket.getaddrinfo('example.org', 80))\nimport urllib.request\nattempt(lambda: urllib.request.urlopen('http://127.0.0.1:1', timeout=.2))",
    # the kernel
    "user namespace": "for flags in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80):\n    call(272, flags)\n    call(56, flags | 17, 0, 0, 0, 0)\n    call(308, 0, flags)",
    "mounts": "for kind in (b'proc', b'tmpfs', b'sysfs', b'cgroup2', b'overlay', b'devtmpfs'):\n    if libc.mount(b'none', b'/tmp', kind, 0, None) == 0: escaped('mount')\ncall(161, b'/tmp')\ncall(155, b'/tmp', b'/tmp')\nif libc.mount(b'none', b'/', None, 4096 | 32, None) == 0: escaped('remount')\ncall(166, b'/tmp', 2)\ncall(430, b'tmpfs', 0)\ncall(428, -100, b'/', 1)",
    "tracing": "for request in (0, 16, 0x4206):\n    for pid in range(0, 50): call(101, request, pid, 0, 0) if (request, pid) != (99, 0) else None",
    "dangerous calls": "for number in (321, 298, 323, 425, 426, 427, 248, 249, 250, 175, 313, 246, 169, 163, 304, 300, 172, 173, 167, 164, 227, 170, 171, 134, 153, 179, 438, 434, 424, 440, 447, 160 if False else 159): call(number, 0, 0, 0, 0, 0)",
    "old interfaces": "for number in (0x40000000 + 39, ):\n    libc.syscall(number)\nescaped('x32')",
    "becomes root": "for step in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0), lambda: os.seteuid(0)):\n    attempt(step)\nfor path in ('/usr/bin/su', '/bin/su', '/usr/bin/sudo', '/usr/bin/passwd', '/bin/mount', '/bin/sh'):\n    attempt(lambda: os.execv(path, [path, '-c', 'echo ESCAPED']))",
    "shell": "import subprocess\nattempt(lambda: subprocess.run(['/bin/sh', '-c', 'id'], check=True))\nif os.system('true') == 0: escaped('system')\nattempt(lambda: os.popen('id').close() and 1 / 0 or 1 / 0)",
    "priorities": "attempt(lambda: os.nice(-5))\nattempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))\nattempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))",
    "clock": "attempt(lambda: time.clock_settime(time.CLOCK_REALTIME, 0))\ntime.time = lambda: 0\ntime.monotonic = lambda: 0\nwhile True: pass",
    # time and output
    "endless loop": "while True: pass",
    "sleep": "time.sleep(1000)",
    "reads without end": "import select\nselect.select([], [], [], 1000)",
    "endless output": "while True: print('x' * 1000)",
    "endless errors": "while True: print('x' * 1000, file=sys.stderr)",
    "both outputs": "while True:\n    os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)",
    "one giant line": "sys.stdout.write('x' * (1 << 26))",
    "binary output": "sys.stdout.buffer.write(bytes(range(256)) * 1000); sys.stdout.buffer.write(b'\\xff\\xfe\\x00' * 1000)",
    "closes its outputs": "os.close(1); os.close(2); os.close(0)\nwhile True: pass",
    "holds a pipe": "try:\n    if os.fork() == 0: time.sleep(1000)\nexcept OSError: pass\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    "trickles output": "while True:\n    print('.', flush=True); time.sleep(.01)",
    "crash": "ctypes.string_at(0)",
    "deep recursion": "sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
    "deep recursion in C": "sys.setrecursionlimit(10 ** 8)\nx = []\nfor _ in range(10 ** 6): x = [x]\nrepr(x)",
    "alive at the end": "import atexit\natexit.register(lambda: time.sleep(1000))\nclass Late:\n    def __del__(self):\n        while True: pass\nlate = Late()",
    "threads at the end": "def f():\n    while True: pass\nfor _ in range(4): threading.Thread(target=f).start()",
    "regular expression": "import re\nre.match('(a*)*b', 'a' * 100)",
    "bypasses exceptions": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "leaves at once": "os._exit(0)",
    "bad exit codes": "sys.exit(10 ** 30)",
}  # fmt: skip

_RAW = {
    "compile bomb": "x = " + "(" * 150 + "1" + ")" * 150 + "\n" + "a = 10 ** 100 ** 100\n",
    "compile memory": "x = 'a' * (1 << 62) + 'b' * (1 << 60)\ny = (1,) * (1 << 40)\nz = 1 << (1 << 40)",
    "deep source": "-" * 100_000 + "1",
    "deep brackets": "[" * 100_000,
    "long source": "x = 1\n" * 150_000 + "while True: pass",
    "null bytes": "x = 1\0\nprint('ESCAPED')",
    "odd encoding": "# -*- coding: no_such_coding -*-\n\udcff = 1",
    "wrong indentation": "\tif True:\n        x\n\ty",
    "empty": "",
}

_WITH_PROCESSES = {
    "process bomb": "while True:\n    try: os.fork()\n    except OSError: pass",
    "daemons": "for _ in range(20):\n    try:\n        if os.fork() == 0:\n            os.setsid()\n            if os.fork() == 0:\n                signal.signal(15, signal.SIG_IGN)\n                time.sleep(1000)\n            os._exit(0)\n    except OSError: pass",
    "orphans that hold the outputs": "for _ in range(5):\n    if os.fork() == 0:\n        while True: print('.', flush=True); time.sleep(.01)",
    "kills everything": "if os.fork() == 0:\n    os.kill(-1, 9)\ntime.sleep(.2)",
    "namespace from a shell": "import subprocess\nif subprocess.run(['unshare', '--user', '--map-root-user', 'true'], capture_output=True).returncode == 0: escaped('unshare')",
    "setuid programs": "import subprocess\nout = subprocess.run('su -c id; sudo id; mount -t tmpfs x /tmp; id -u', shell=True, capture_output=True, text=True).stdout\nif 'uid=0' in out or out.strip() == '0': escaped(out)",
}  # fmt: skip

HOSTILE: dict[str, str] = {
    name: _TRY + textwrap.dedent(body) for name, body in _PLAIN.items()
} | _RAW
NEEDS_PROCESSES: dict[str, str] = {name: _TRY + body for name, body in _WITH_PROCESSES.items()}
