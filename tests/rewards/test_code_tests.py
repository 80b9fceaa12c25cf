"""The reward for programs in the service, the command, a recipe, and over servers that speak two protocols."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import json
import sys
import threading
from typing import Any, Callable

import pytest

from grpo import Recipe
from grpo.recipe import RecipeError
from grpo.run.reward_specs import check_sandbox, reward_specs
from rewards import RewardSpec, Sample
from rewards.sandbox import Limits, Program, SandboxFault, SandboxOptions, open_sandbox
from rewards.score import main
from rewards.service.service import RewardService

HUMANEVAL = {
    "prompt": "def add(a, b):\n    '''Sum.'''\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 2) == 1\n",
}
MBPP = {
    "test_list": ["assert add(1, 2) == 3", "assert add(5, 5) == 10", "assert add('a', 'b') == 'ab'"]
}
STDIN = {"inputs": ["1 2\n", "5 5\n"], "outputs": ["3\n", "10\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [5, 5], ["a", "b"]], "outputs": [3, 10, "ab"]}
ADD = "def add(a, b):\n    return a + b\n"
HALF = "def add(a, b):\n    return 3 if a == 1 else 0\n"


def judge(text: str, columns: dict[str, Any], **args: Any):
    """The verdict of the service."""
    with RewardService(
        [RewardSpec("tests", "code_tests", args=args, timeout_seconds=3.0)]
    ) as service:
        return service.judge([Sample(text, columns=columns)])[0].parts["tests"]


def fenced(code: str, language: str = "python") -> str:
    return f"So:\n```{language}\n{code}\n```\nDone."


@pytest.mark.parametrize("columns, code, parts", [
    (HUMANEVAL, ADD, [1, 1]), (MBPP, ADD, [1, 1, 1]), (CALLS, ADD, [1, 1, 1]), (CALLS, HALF, [1, 0, 0]), (MBPP, HALF, [1, 0, 0]),
    (STDIN, "print(sum(map(int, input().split())))", [1, 1]), (STDIN, "print(3)", [1, 0]), (HUMANEVAL, HALF, [1, 0]),
])  # fmt: skip
def test_each_test_is_a_part_and_the_score_is_their_share(columns, code, parts):
    verdict = judge(fenced(code), columns, score="fraction")
    assert [verdict.parts[f"test_{number}"] for number in range(len(parts))] == parts
    assert (
        verdict.value == sum(parts) / len(parts)
        and verdict.status == "scored"
        and verdict.extracted.strip() == code.strip()
    )


def test_scores_by_all_weights_first_and_hidden_tests():
    row = {**CALLS, "hidden_inputs": [[1, 0]], "hidden_outputs": [1]}
    assert judge(fenced(HALF), row).value == 0.0 and judge(fenced(ADD), row).value == 1.0
    assert judge(fenced(HALF), CALLS, score="weighted", weights=[3, 1, 0]).value == 0.75
    assert judge(fenced(HALF), CALLS, score="first_k", first=1).value == 1.0
    assert judge(fenced(HALF), CALLS, score="first_k", first=2).value == 0.0
    split = judge(
        fenced("def add(a, b): return {1: 3, 5: 10, 'a': 'ab'}[a]"), row, score="fraction"
    )
    assert (split.parts["visible"], split.parts["hidden"]) == (1.0, 0.0)
    assert (
        judge(
            fenced("def add(a, b): return {1: 3, 5: 10, 'a': 'ab'}[a]"),
            row,
            score="fraction",
            count="hidden",
        ).value
        == 0.0
    )


@pytest.mark.parametrize("columns", [HUMANEVAL, MBPP, CALLS])
@pytest.mark.parametrize("ending", ["exit()", "quit(0)", "import sys; sys.exit()"])
@pytest.mark.thin(3)
def test_a_right_program_that_ends_by_exit_is_right_however_it_is_tested(columns, ending):
    assert judge(fenced(ADD + ending), columns).value == 1.0
    assert judge(fenced("print(sum(map(int, input().split())))\n" + ending), STDIN).value == 1.0


@pytest.mark.parametrize("columns", [HUMANEVAL, MBPP, CALLS, STDIN])
def test_a_program_that_ends_by_exit_before_it_answers_is_wrong(columns):
    code = "print(3)\ndef add(a, b):\n    exit(0)\nexit(0)"
    assert judge(fenced(code), columns).value == 0.0
    assert judge(fenced("exit(0)\n" + ADD), columns).value == 0.0
    assert judge(fenced(ADD + "exit(1)"), columns).value == 0.0


def test_functions_named_like_the_builtins_of_site_are_the_programs_own():
    row = {"test_list": ["assert quit(1) == 2", "assert help(2) == 3"]}
    right = "def quit(n): return n + 1\ndef help(n): return n + 1"
    assert judge(fenced(right), row).value == 1.0
    assert judge(fenced(right.replace("1\n", "2\n")), row).value == 0.0
    assert judge(fenced("x = 1"), row).value == 0.0


SLOW = "import time\ndef add(a, b):\n    time.sleep(0.8)\n    return a + b\n"
SLOW_STDIN = "import time\ntime.sleep(0.8)\nprint(sum(map(int, input().split())))"


@pytest.mark.parametrize(
    "columns, code", [(HUMANEVAL, SLOW), (MBPP, SLOW), (CALLS, SLOW), (STDIN, SLOW_STDIN)]
)
@pytest.mark.thin(1)
def test_what_runs_out_of_time_once_is_decided_with_several_times_as_much(columns, code):
    verdict = judge(fenced(code), columns, test_seconds=0.75)
    assert (verdict.status, verdict.value) == ("scored", 1.0)
    late = judge(fenced(code.replace("0.8", "2.5")), columns, test_seconds=0.5)
    assert (late.status, late.value) == ("timeout", 0.0)


def test_statuses_tell_no_program_a_late_one_and_broken_tests_apart():
    assert judge("```python\nx", CALLS).status == "no_answer"
    late = judge(fenced("def add(a, b):\n    while True: pass"), CALLS, test_seconds=0.3)
    assert (late.status, late.value) == ("timeout", 0.0)
    assert judge(fenced("def add(a: b"), CALLS, on_compile_error=-0.5).value == -0.5
    assert (
        judge(fenced(ADD), {"x": 1}).status == "fault"
        and judge(fenced(ADD), {**CALLS, "language": "cobol"}).status == "fault"
    )
    assert judge(fenced(ADD), CALLS, score="best").status == "fault"


def test_after_a_broken_call_the_next_tests_get_a_fresh_process():
    code = "import os\ndef add(a, b):\n    if a == 5: os._exit(0)\n    return a + b"
    verdict = judge(fenced(code), CALLS, score="fraction")
    assert [verdict.parts[f"test_{number}"] for number in range(3)] == [1, 0, 1]


def test_many_calls_may_take_longer_together_than_one_alone_but_not_longer_than_all():
    row = {"fn_name": "f", "inputs": [[n] for n in range(6)], "outputs": list(range(6))}
    code = "import time\ndef f(n):\n    time.sleep(.3)\n    return n"
    assert judge(fenced(code), row, test_seconds=1.2, total_seconds=20).value == 1.0
    cut = judge(fenced(code), row, test_seconds=1.2, total_seconds=0.2, score="fraction")
    assert 0 < cut.value < 1 and sum(part == 1 for part in cut.parts.values()) <= 3


def test_a_checker_judges_in_a_sandbox_of_its_own():
    checker = "import sys\na, b = open(sys.argv[1]).read(), open(sys.argv[3]).read()\nprint(int(sum(map(int, b.split())) == int(a)))"
    row = {"inputs": ["7", "9"], "outputs": ["3 4", "1 8"], "checker": checker}
    assert judge(fenced("n = int(input())\nprint(n - 1, 1)"), row).value == 1.0
    assert judge(fenced("n = int(input())\nprint(n, 1)"), row).value == 0.0
    assert (
        judge(fenced("print('no number')"), row).value == 0.0
    )  # the checker breaks on this output, not by itself
    assert judge(fenced("print(1)"), {**row, "checker": "print('odd')"}).status == "fault"


def test_programs_of_one_submission_share_verdicts_and_run_side_by_side():
    with RewardService([RewardSpec("tests", "code_tests")]) as service:
        assert service.isolation and service.isolation[0].startswith("sandbox: L")
        verdicts = service.judge([Sample(fenced(code), columns=CALLS) for code in [ADD, HALF] * 10])
        assert [verdict.score.value for verdict in verdicts] == [
            1.0,
            0.0,
        ] * 10 and service.num_from_cache == 18


def test_the_command_scores_lines_of_every_kind(monkeypatch, capsys):
    rows = [
        {**HUMANEVAL, "completion": "    return a + b\n", "id": 1},
        {**MBPP, "completion": fenced(ADD)},
        {**STDIN, "completion": fenced("print(sum(map(int, input().split())))")},
        {**CALLS, "completion": ADD},
        {**CALLS, "completion": ""},
        {"completion": ADD},
        "not json",
    ]
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["code_tests"]) == 0
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["value"] for row in out] == [1.0, 1.0, 1.0, 1.0, 0.0, None, None]
    assert [row["status"] for row in out] == ["scored"] * 4 + ["no_answer", "fault", "fault"]
    assert out[0]["id"] == 1 and out[1]["parts"] == {"test_0": 1.0, "test_1": 1.0, "test_2": 1.0}


# ------------------------------------------------------------------------------------------------- servers


@contextlib.contextmanager
def server(answer: Callable[[str, dict[str, Any]], Any]):
    """A server on loopback; ``answer`` gives the reply, or the number of an HTTP error."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            reply = answer(
                self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            )
            body = b"" if isinstance(reply, int) else json.dumps(reply).encode()
            self.send_response(reply if isinstance(reply, int) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def run_here(code: str, stdin: str) -> tuple[int, str, str]:
    """What a server would do with a program, in the local sandbox."""

    async def ask():
        sandbox = await open_sandbox(SandboxOptions(slots=2))
        try:
            return await sandbox.run(Program(code), stdin.encode(), Limits(seconds=3))
        finally:
            await sandbox.close()

    result = asyncio.run(ask())
    return result.exit_code, result.stdout.decode(), result.stderr.decode()


def fusion(path: str, body: dict[str, Any]) -> dict[str, Any]:
    assert (
        path == "/run_code"
        and body["language"] == "python"
        and body["run_timeout"] > 0
        and body["memory_limit_MB"] == 1024
    )
    code, out, err = run_here(body["code"], body["stdin"])
    ran = {
        "status": "Finished",
        "return_code": code,
        "stdout": out,
        "stderr": err,
        "execution_time": 0.1,
    }
    return {
        "status": "Failed" if code else "Success",
        "message": "",
        "compile_result": None,
        "run_result": ran,
        "files": {},
    }


def piston(path: str, body: dict[str, Any]) -> dict[str, Any]:
    assert (
        path == "/api/v2/execute" and body["language"] == "python" and body["run_timeout"] >= 1000
    )
    code, out, err = run_here(body["files"][0]["content"], body["stdin"])
    return {
        "language": "python",
        "version": "3.12.0",
        "run": {"stdout": out, "stderr": err, "code": code, "signal": None, "output": out + err},
    }


@pytest.mark.parametrize("engine, answer", [("sandboxfusion", fusion), ("piston", piston)])
def test_servers_give_the_same_verdicts(engine, answer):
    with server(answer) as url:
        options = SandboxOptions(engine=engine, url=url)
        with RewardService([RewardSpec("tests", "code_tests")], sandbox=options) as service:
            samples = [
                Sample(fenced(code), columns=columns)
                for columns in (HUMANEVAL, MBPP, CALLS)
                for code in (ADD, HALF)
            ]
            samples += [
                Sample(fenced(code), columns=STDIN)
                for code in ("print(sum(map(int, input().split())))", "1 / 0")
            ]
            verdicts = service.judge(samples)
            assert url in service.isolation[0]
    assert [verdict.score.value for verdict in verdicts] == [1.0, 0.0] * 4
    assert verdicts[0].parts["tests"].parts["weak"] == 1.0  # beside the program, there


@pytest.mark.parametrize("engine, reply", [
    ("sandboxfusion", 500), ("piston", 429), ("sandboxfusion", {"status": "SandboxError", "message": "x"}), ("sandboxfusion", []),
    ("sandboxfusion", {"status": "Success", "run_result": {"status": "Error"}}), ("piston", {"message": "no runtime"}),
    ("piston", {"run": {"stdout": ""}}), ("piston", {"run": {"code": None, "signal": None, "status": "XX"}}),
])  # fmt: skip
def test_a_server_that_fails_is_a_fault_and_not_a_zero(engine, reply):
    with server(lambda path, body: reply) as url:
        with RewardService(
            [RewardSpec("t", "code_tests")], sandbox=SandboxOptions(engine=engine, url=url)
        ) as service:
            verdict = service.judge([Sample(fenced("print(3)"), columns=STDIN)])[0]
    assert (
        (verdict.score.status, verdict.score.value) == ("fault", None)
        and url in verdict.score.detail
        or "server" in verdict.score.detail
    )


def test_limits_and_compile_errors_that_a_server_reports_are_the_programs_own():
    late = {
        "status": "Failed",
        "run_result": {"status": "TimeLimitExceeded", "return_code": None, "stdout": ""},
    }
    broken = {
        "status": "Failed",
        "compile_result": {"status": "Finished", "return_code": 1, "stderr": "expected ;"},
        "run_result": None,
    }
    killed = {
        "run": {"stdout": "", "stderr": "", "code": None, "signal": "SIGKILL", "status": "TO"}
    }

    async def ask(engine, reply):
        with server(lambda path, body: reply) as url:
            sandbox = await open_sandbox(SandboxOptions(engine=engine, url=url))
            try:
                return (await sandbox.run(Program("x"))).status
            finally:
                await sandbox.close()

    asked = [("sandboxfusion", late), ("sandboxfusion", broken), ("piston", killed)]
    assert [asyncio.run(ask(*each)) for each in asked] == ["timeout", "compile_error", "timeout"]


def test_a_server_that_is_not_there_is_a_fault():
    async def ask():
        sandbox = await open_sandbox(SandboxOptions(engine="piston", url="http://127.0.0.1:9"))
        try:
            await sandbox.run(Program("x"))
        finally:
            await sandbox.close()

    with pytest.raises(SandboxFault, match="127.0.0.1:9"):
        asyncio.run(ask())


# ------------------------------------------------------------------------------------------------ recipes


def recipe(**sandbox: Any) -> Recipe:
    return Recipe.from_mapping({"rewards": {"tests": {"use": "code_tests"}}, "sandbox": sandbox})


def test_a_recipe_names_its_server_and_its_limit():
    asked = recipe(engine="piston")
    with pytest.raises(RecipeError, match="sandbox.url is missing"):
        check_sandbox(reward_specs(asked), asked.sandbox)
    assert reward_specs(asked)[0].timeout_seconds == 6.0


def test_a_recipe_that_asks_for_more_than_the_machine_has_is_refused(monkeypatch):
    from rewards.sandbox import cgroups

    monkeypatch.setattr(cgroups, "HOME", cgroups.Path("/nowhere"))
    asked = recipe(min_isolation="L4")
    with pytest.raises(
        RecipeError, match="rewards.tests runs programs, but sandbox: .* below min_isolation L4"
    ):
        check_sandbox(reward_specs(asked), asked.sandbox)
    unsafe = recipe(min_isolation="L4", allow_unsafe=True)
    check_sandbox(reward_specs(unsafe), unsafe.sandbox)
