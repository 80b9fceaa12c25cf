"""The tool that runs Python: what the policy reads, what is kept from call to call, and where it is cut off."""

from __future__ import annotations

import asyncio

import pytest

from rewards.environments.python_tool import SILENT, PythonOptions, PythonTool
from rewards.sandbox import SandboxOptions, open_sandbox


@pytest.fixture(scope="module")
def run():
    """Runs programs one after another, each by a tool of its own, or of one session."""
    loop = asyncio.new_event_loop()
    sandbox = loop.run_until_complete(
        open_sandbox(SandboxOptions(min_isolation="L1", allow_unsafe=True))
    )

    def run(*programs, **options):
        options.setdefault("timeout_seconds", 2.0)
        kept = PythonOptions(**options)
        session = PythonTool(sandbox, kept)
        tools = [session if kept.session else PythonTool(sandbox, kept) for _ in programs]

        async def all_of():
            return [await tool.call({"code": program}) for tool, program in zip(tools, programs)]

        results = loop.run_until_complete(all_of())
        return results if len(results) > 1 else results[0]

    yield run
    loop.run_until_complete(sandbox.close())
    loop.close()


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("print('a')\nx = 3\nx + 1", "a\n4"),
        ("None", SILENT),
        ("", SILENT),
        ("import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('out')", "out\nerr\nout"),
        ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe!')", "\ufffd\ufffd!3"),
        ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nf(20)", "2432902008176640000"),
        ("class A:\n    pass\nA.__module__", "'__main__'"),
    ],
)
def test_what_is_printed_and_the_last_value_are_shown(run, program, text):
    result = run(program)
    assert (result.text, result.status, result.name) == (text, "ok", "python")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "x = 1\ny = x / 0",
            ['File "<python>", line 2', "y = x / 0", "ZeroDivisionError: division by zero"],
        ),
        ("(", ["SyntaxError"]),
        ("raise SystemExit(3)", ["SystemExit: 3"]),
        ("input()", ["EOFError"]),
        ("import os\nos._exit(7)", ["exit code 7"]),
        ("x = 'a' * (3 << 30)", ["MemoryError"]),
    ],
)
def test_what_fails_shows_its_error_and_nothing_of_ours(run, program, said):
    result = run(program)
    assert result.status == "error"
    for words in said:
        assert words in result.text
    assert "json" not in result.text and "/rewards/" not in result.text


def test_a_program_that_does_not_end_is_stopped_and_its_output_shown(run):
    result = run("print('so far', flush=True)\nwhile True:\n    pass", timeout_seconds=0.3)
    assert result.status == "timeout"
    assert result.text == "so far\nError: the program ran longer than 0.3 s"


def test_a_flood_is_cut_off(run):
    result = run("while True:\n    print('x' * 1000)", output_bytes=5000)
    assert result.status == "error"
    assert "more than 5000 bytes" in result.text
    assert len(result.text) < 5200


def test_without_a_session_nothing_is_kept(run):
    _, second = run("x = 3", "x")
    assert "NameError" in second.text


def test_a_session_keeps_names_and_shows_each_output_once(run):
    texts = [
        result.text
        for result in run(
            "x = [1]\nprint('once')", "x.append(2)\nx", "y = 5\n1 / 0", "x, y", session=True
        )
    ]
    assert texts[0] == "once"
    assert texts[1] == "[1, 2]"
    assert "ZeroDivisionError" in texts[2]
    assert texts[3] == "([1, 2], 5)"


def test_what_was_cut_off_is_no_part_of_the_session(run):
    endless = "x = 'lost'\nwhile True:\n    pass"
    results = run(
        "x = 'kept'",
        endless,
        "x = 'gone'\nimport os\nos._exit(0)",
        "x",
        session=True,
        timeout_seconds=0.3,
    )
    assert [result.status for result in results] == ["ok", "timeout", "ok", "ok"]
    assert results[-1].text == "'kept'"


def test_a_session_played_again_gives_the_same(run):
    programs = [
        "import random\na = random.random()",
        "b = random.random()\na, b",
        "set('abcdef'), hash('x')",
    ]
    first = run(*programs, session=True)
    assert run(*programs, session=True) == first
    assert run(*programs[:2], session=True) == first[:2]


def test_programs_see_nothing_of_the_machine_that_they_should_not(run):
    result = run("import socket\nsocket.create_connection(('127.0.0.1', 1), 1)")
    assert result.status == "error"


def test_options_are_checked():
    assert PythonOptions.of({"session": True}, 3.0) == PythonOptions(
        session=True, timeout_seconds=3.0
    )
    with pytest.raises(ValueError, match="no option sesion"):
        PythonOptions.of({"sesion": True}, 3.0)
    with pytest.raises(ValueError, match="memory_mib"):
        PythonOptions(memory_mib=0)
    for name, value in {"session": "maybe", "timeout_seconds": "1 s", "output_bytes": 0.5}.items():
        with pytest.raises(ValueError, match=f"args.{name}: .* is not"):
            PythonOptions.of({name: value}, 3.0)


def test_arguments_that_do_not_fit_are_told(run):
    tool = PythonTool(None)
    assert "needs the argument code" in asyncio.run(tool.call({})).text
