"""The sandbox: hostile programs are contained, ordinary ones run, and what a machine cannot do is said.

Programs that attack run only in the cage of ``contained.py``; those run here directly are ordinary ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import textwrap

import contained
import psutil
import pytest
from hostile_programs import HOSTILE, NEEDS_PROCESSES

from rewards.sandbox import IsolationError, Limits, Program, Sandbox, SandboxFault, SandboxOptions
from rewards.sandbox.isolation import isolation_of, refusal

ROOT = str(contained.ROOT)
CONTAINED = {"ok", "error", "timeout", "output_limit", "compile_error"}


def needs_cage(mode: str) -> None:
    if contained.why_not(mode):
        pytest.skip(f"no outer namespace can be had: {contained.why_not(mode)}")


def inside(mode: str, code: str, *arguments: str, seconds: float = 60) -> str:
    """What a script prints in the cage."""
    start = f"import sys; sys.path[:0] = [{ROOT!r}, {ROOT + '/tests'!r}]\n"
    done = contained.run(mode, ["-c", start + textwrap.dedent(code), *arguments], seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(
    *programs: Program,
    stdin: bytes = b"",
    limits: Limits | None = None,
    without: tuple[str, ...] = (),
) -> list:
    """The results of ordinary programs, side by side."""

    async def all_of_them() -> list:
        async with Sandbox(SandboxOptions(slots=2, allow_unsafe=True), without=without) as sandbox:
            return await asyncio.gather(
                *(sandbox.run(program, stdin, limits) for program in programs)
            )

    return asyncio.run(all_of_them())


# ------------------------------------------------------------------------------------------- the cage itself


@pytest.mark.parametrize("mode", contained.modes())
def test_the_cage_shows_no_process_of_the_machine_and_no_file_to_write(mode):
    needs_cage(mode)
    said = inside(
        mode,
        f"""
        import os
        print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit())[-1] < 20, os.getuid())
        for place in ({ROOT!r}, '/tmp', '/var/tmp', '/home'):
            try: open(place + '/x', 'w'); print('WROTE', place)
            except OSError: pass
    """,
    )
    assert said.split() == [
        "True",
        "0" if mode == "root" else str(contained.UID if os.getuid() == 0 else os.getuid()),
    ]


def test_a_signal_to_all_in_the_cage_ends_at_its_walls():
    needs_cage("user")
    uid = {"user": contained.UID} if os.getuid() == 0 else {}
    outside = subprocess.Popen([shutil.which("sleep"), "60"], **uid)
    try:
        done = contained.run("user", ["-c", "import os; os.kill(-1, 9); os.kill(0, 9)"], 20)
        assert done.returncode not in (0, 125) and outside.poll() is None
    finally:
        outside.kill()
        outside.wait()


# ------------------------------------------------------------------------------------------ hostile programs


def check_hostile(mode: str, rounds: int, *without: str, level: str | None = None) -> None:
    needs_cage(mode)
    done = contained.run(mode, ["tests/support/hostile_run.py", str(rounds), *without], 280)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and records, done.stderr[-2000:]
    first, *results, last = records
    if level is None and first["level"] in ("L1", "L2"):
        pytest.skip(f"the outer namespace is there, but not an inner one: {first['line']}")
    assert level is None or first["level"] == level
    names = [*HOSTILE, *([] if "namespaces" in without else NEEDS_PROCESSES)]
    assert sorted(result["program"] for result in results) == sorted(names * max(rounds, 1))
    assert len(names) >= 34
    for result in results:
        assert result["status"] in CONTAINED and not result["escaped"], result
        assert not result.get("left") and result.get("next", "42 ['x']\nok") == "42 ['x']\nok", (
            result
        )
    assert last["end"] and not last["left"] and last["next"].startswith("42 ['x']"), last


def test_hostile_programs_side_by_side_are_contained():
    check_hostile("user", 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", contained.modes())
def test_hostile_programs_are_contained_and_leave_nothing_in_three_rounds(mode):
    check_hostile(mode, 3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", contained.modes())
def test_hostile_programs_are_contained_without_namespaces(mode):
    check_hostile(mode, 1, "namespaces", level="L2")


# ------------------------------------------------------------------------------------------------- levels

LEVEL_OF = """
    import asyncio, sys
    from rewards.sandbox import *
    async def main():
        async with Sandbox(SandboxOptions(allow_unsafe=True, slots=2), without=sys.argv[1:]) as sandbox:
            result = await sandbox.run(Program('print(input()[::-1])'), b'abc')
            print(sandbox.isolation.level, result.stdout.decode().strip(), len(sandbox.lines), sandbox.isolation.line)
    asyncio.run(main())
"""


@pytest.mark.parametrize("mode", contained.modes())
@pytest.mark.parametrize("without, expected", [
    (["cgroup"], "L3"), (["namespaces"], "L2"), (["namespaces", "cgroup"], "L2"), (["landlock"], "L1"),
    (["seccomp"], "L1"), (["namespaces", "seccomp", "landlock", "cgroup"], "L1"),
])  # fmt: skip
@pytest.mark.thin(7)
def test_the_level_falls_with_what_is_masked_and_programs_still_run(mode, without, expected):
    needs_cage(mode)
    level, said, num_lines, line = inside(mode, LEVEL_OF, *without).split(maxsplit=3)
    assert (level, said) == (expected, "cba")
    assert num_lines == ("2" if expected == "L1" else "1")  # a warning below the default minimum
    assert all(f"no {name} (" in line for name in without) and "\n" not in line.strip()


@pytest.mark.parametrize(
    "without, level", [(["seccomp"], "L2"), (["namespaces"], "L3"), (["cgroup"], "L4")]
)
def test_below_the_minimum_programs_are_refused_with_the_fix_named(without, level):
    async def start() -> None:
        async with Sandbox(SandboxOptions(level, slots=2), without=without):
            pass

    with pytest.raises(
        IsolationError,
        match=f"below min_isolation {level}.*{without[0]} is missing.*allow_unsafe=true",
    ):
        asyncio.run(start())


def test_a_level_is_what_a_program_found_not_what_was_asked_for():
    report = {"namespaces": True, "seccomp": True, "landlock": 6, "trouble": {}}
    assert isolation_of(report, "1 held held", "").level == "L4"
    assert isolation_of(report, "1 held held", "no root").level == "L3"
    assert isolation_of(report, "77 held held", "no root").level == "L2"
    assert isolation_of(report, "1 free held", "").level == "L1"
    assert isolation_of(report | {"landlock": 2}, "1 held held", "").level == "L1"
    assert isolation_of(report, "", "").level == "L1"
    assert "--security-opt" in refusal(isolation_of(report, "77 held held", "x"), "L3")


# ---------------------------------------------------------------------------------------- ordinary programs


def test_programs_read_their_input_and_their_output_comes_back_whole(seed):
    rng = random.Random(seed)
    data = bytes(rng.choice(b"abc \n") for _ in range(rng.randrange(100_000, 300_000)))
    sized = Limits(output_bytes=12 << 20)
    programs = [
        Program("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"),
        Program(
            "import sys\nn = len(sys.stdin.read())\nsys.stdout.write('x' * 10_000_000)\nprint(n, file=sys.stderr)"
        ),
        Program("print('no input is read', end='')"),
    ]
    reversed_, long, plain = run(*programs, stdin=data, limits=sized)
    assert reversed_.stdout == data[::-1] and reversed_.status == "ok"
    assert long.stdout == b"x" * 10_000_000 and long.stderr == f"{len(data)}\n".encode()
    assert plain.stdout == b"no input is read"


def test_how_a_program_ended_is_told_apart():
    sources = {
        "ok": "pass", "error": "1 / 0", "compile_error": "x = (", "output_limit": "print('x' * 100_000_000)",
        "timeout": "while True: pass",
    }  # fmt: skip
    results = run(*map(Program, sources.values()), limits=Limits(seconds=1.0))
    assert [result.status for result in results] == list(sources)
    assert b"ZeroDivisionError" in results[1].stderr and "SyntaxError" in results[2].detail
    assert [
        result.exit_code
        for result in run(Program("import sys; sys.exit(7)"), Program("raise SystemExit"))
    ] == [7, 0]


LIKE_A_SCRIPT = [
    ("print(1); exit()", 0, "1"), ("print(1); quit()", 0, "1"), ("print(1)\nexit(None)", 0, "1"), ("exit(3)", 3, ""),
    ("quit('bye')", 1, ""), ("exit(True)", 1, ""), ("exit(False)", 0, ""), ("exit(-1)", 255, ""), ("exit(256)", 0, ""),
    ("exit(10**30)", 255, ""), ("exit(2.0)", 1, ""), ("exit((0, 1))", 1, ""), ("raise SystemExit(4)", 4, ""),
    ("def main():\n    print(int(input()) + 1)\n    exit(0)\nif __name__ == '__main__':\n    main()", 0, "3"),
    ("try:\n    exit()\nfinally:\n    print('last')", 0, "last"),
    ("try:\n    exit(0)\nexcept SystemExit:\n    print('caught')", 0, "caught"),
    ("import threading\nt = threading.Thread(target=exit, args=(5,))\nt.start(); t.join(); print('on')", 0, "on"),
    ("print(*map(callable, (exit, quit, help, license, credits, copyright)))", 0, "True " * 5 + "True"),
    ("exit = 3\nprint(exit)", 0, "3"), ("import builtins\nprint(__builtins__ is builtins)", 0, "True"),
    ("print(__name__, __doc__, __annotations__, __spec__, __package__, __cached__)", 0, "__main__ None {} None None None"),
    ("import os, sys\nprint(os.path.abspath(sys.argv[0]) == __file__, len(open(__file__).read()))", 0, "True 90"),
    ("import inspect\ndef f(): return 1\nprint(inspect.getsource(f))", 0, "def f(): return 1"),
    ("f = open(1, 'w', closefd=False)\ndef g(): return f\nprint('kept', file=f)", 0, "kept"),
    ("class A:\n    def __del__(self): print(word)\nword = 'gone'\na = A()", 0, "gone"),
    ("import sys\nsys.stdout.write('x')\nsys.stdout.flush()\nsys.stdout.close()", 0, "x"),
    ("import sys\nsys.excepthook = lambda *error: print(error[0].__name__)\n1 / 0", 1, "ZeroDivisionError"),
]  # fmt: skip


def test_programs_run_and_end_as_scripts_do():
    results = run(*(Program(source) for source, _, _ in LIKE_A_SCRIPT), stdin=b"2\n")
    for (source, code, output), result in zip(LIKE_A_SCRIPT, results, strict=True):
        ended = (result.exit_code, result.stdout.decode().strip())
        assert ended == (code, output), (source, result.stderr)
        assert result.status == ("ok" if code == 0 else "error"), source


def test_what_runs_at_the_end_of_an_interpreter_runs():
    source = """
        import atexit, threading, time
        atexit.register(print, 'third')
        threading.Thread(target=lambda: (time.sleep(.05), print('second'))).start()
        print('first')
    """
    (result,) = run(Program(textwrap.dedent(source)))
    assert result.stdout.split() == [b"first", b"second", b"third"]


def test_each_program_finds_an_empty_folder_and_a_clean_interpreter():
    source = (
        "import os, sys, random\nprint(os.listdir(), random.random(), hash('x'), hasattr(sys, 'mark'), sorted(os.environ))\n"
        "sys.mark = 1\nopen('left', 'w').write('behind')"
    )
    first, *others = [result.stdout for result in run(*[Program(source)] * 6)]
    assert first.startswith(b"[]") and set(others) == {first}


def test_a_prompt_is_put_before_what_does_not_define_the_entry_point():
    prompt = "import math\ndef helper(x): return x + 1\ndef f(x):\n    '''Doc.'''\n"
    body = Program("    return helper(math.floor(x))\nprint(f(2.5))", prompt=prompt, entry="f")
    whole = Program(
        "def f(x): return helper(math.floor(x)) * 10\nprint(f(2.5))", prompt=prompt, entry="f"
    )
    inner = Program(
        "if True:\n    def f(x): return 7\nprint(f(1), helper(1))", prompt=prompt, entry="f"
    )
    assert [result.stdout for result in run(body, whole, inner)] == [b"3\n", b"30\n", b"7 2\n"]


def test_asynchronous_programs_and_threads_work():
    source = """
        import asyncio, concurrent.futures as futures
        async def f(): await asyncio.sleep(.01); return 3
        print(asyncio.run(f()), sum(futures.ThreadPoolExecutor(3).map(abs, [-1, 2])))
    """
    assert run(Program(textwrap.dedent(source)))[0].stdout == b"3 3\n"


def test_a_lost_zygote_is_replaced_and_its_program_run_again():
    async def lose() -> tuple:
        async with Sandbox(SandboxOptions(slots=2, allow_unsafe=True)) as sandbox:
            before = set(sandbox.pids)
            tasks = [
                asyncio.ensure_future(sandbox.run(Program("import time; time.sleep(.5); print(1)")))
                for _ in "ab"
            ]
            await asyncio.sleep(0.25)
            os.kill(min(before), signal.SIGKILL)
            results = await asyncio.gather(*tasks)
            more = await asyncio.gather(*(sandbox.run(Program("print(2)")) for _ in range(4)))
            return before, set(sandbox.pids), results, more

    before, after, results, more = asyncio.run(lose())
    assert [result.stdout for result in results] == [b"1\n"] * 2 and [
        result.stdout for result in more
    ] == [b"2\n"] * 4
    assert len(after) == 2 and len(after & before) == 1


def test_nothing_is_left_when_the_sandbox_is_closed_in_the_middle():
    async def close_early() -> list[int]:
        sandbox = await Sandbox(SandboxOptions(slots=2, allow_unsafe=True)).start()
        pids = sandbox.pids
        tasks = [
            asyncio.ensure_future(sandbox.run(Program("import time; time.sleep(60)")))
            for _ in range(5)
        ]
        await asyncio.sleep(0.2)
        await sandbox.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, SandboxFault) for outcome in outcomes)
        return pids

    descriptors = len(os.listdir("/proc/self/fd"))
    for pid in asyncio.run(close_early()):
        assert not os.path.exists(f"/proc/{pid}")
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_programs_die_with_a_trainer_that_is_killed():
    code = """
        import asyncio, os, signal, sys, glob
        def read(path):
            try: return open(path, 'rb').read()
            except OSError: return b''  # it has ended since
        pid = os.fork()
        if pid == 0:
            from rewards.sandbox import *
            async def main():
                sandbox = await Sandbox(SandboxOptions(slots=2, allow_unsafe=True)).start()
                asyncio.ensure_future(sandbox.run(Program('import time; time.sleep(100)'), b'', Limits(seconds=90)))
                await asyncio.sleep(.5)
                os.kill(os.getpid(), signal.SIGKILL)
            asyncio.run(main())
        os.waitpid(pid, 0)
        import time
        for _ in range(100):
            left = [p for p in glob.glob('/proc/[0-9]*/cmdline') if b'fork_' + b'server.py' in read(p)]
            if not left: break
            time.sleep(.05)
        print(len(left))
    """
    needs_cage("user")
    assert inside("user", code).strip() == "0"


# --------------------------------------------------------------------------------------- other languages


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_programs_in_cpp_are_compiled_and_run():
    good = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a * b << '\\n'; return 0; }"
    results = run(
        Program(good, "cpp"),
        Program("int main() { return }", "cpp"),
        Program(
            '#include <unistd.h>\n#include <cstdio>\nint main() { std::printf("%d", fork()); }',
            "cpp",
        ),
        stdin=b"6 7",
    )
    assert (
        results[0].stdout == b"42\n"
        and results[1].status == "compile_error"
        and results[2].stdout == b"-1"
    )


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_programs_in_javascript_run():
    good = "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number); console.log(a * b)"
    results = run(Program(good, "javascript"), Program("let x = ;", "javascript"), stdin=b"6 7")
    assert results[0].stdout == b"42\n", results[0]
    assert results[1].status == "error" and b"SyntaxError" in results[1].stderr


def test_an_unknown_feature_is_refused():
    with pytest.raises(ValueError, match="no feature docker"):
        Sandbox(without=["docker"])


def test_a_program_that_a_busy_machine_starts_late_has_its_time_from_then_on():
    async def late() -> tuple:
        async with Sandbox(SandboxOptions(slots=1, allow_unsafe=True)) as sandbox:
            await sandbox.run(Program("print(1)"), b"")
            fork_servers = [
                child.pid
                for child in psutil.Process().children()
                if "fork_server" in " ".join(child.cmdline())
            ]
            for pid in fork_servers:
                os.kill(pid, signal.SIGSTOP)
            running = asyncio.ensure_future(
                sandbox.run(Program("print(2)"), b"", Limits(seconds=0.3))
            )
            await asyncio.sleep(0.8)
            for pid in fork_servers:
                os.kill(pid, signal.SIGCONT)
            return fork_servers, await running

    fork_servers, result = asyncio.run(late())
    assert fork_servers and result.status == "ok" and result.stdout == b"2\n"
