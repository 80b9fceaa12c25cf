"""The pool of environments: answers, order, what becomes of tools that hang, die or flood, and of their neighbours."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import light_tools
import pytest

from rewards.environments import (
    Call,
    EnvironmentPool,
    EnvironmentSpec,
    Observation,
    format_of,
    schemas_of,
)
from rewards.environments.executor import KEPT_THREADS
from rewards.sandbox import SandboxOptions
from rewards.service.process import WorkerProcess, _Inbox

FILE = light_tools.__file__
ANYWHERE = SandboxOptions(min_isolation="L1", allow_unsafe=True)
TOOLS = (
    "add",
    "wait",
    "wait_politely",
    "compute",
    "leave",
    "leave_once",
    "fail",
    "flood",
    "no_text",
    "count_threads",
    "runs_a_loop",
    "gives_an_awaitable",
    "note_and_wait",
    "note_and_wait_politely",
    "panic",
    "panic_politely",
)
LIMIT = 0.5


def named(name):
    return f"{FILE}:{name}"


def calling(name, **arguments):
    return format_of("hermes").write(Call(name, arguments))


@pytest.fixture(scope="module")
def tools():
    """Every tool of the file next to the built-in ones, in one worker."""
    spec = EnvironmentSpec(
        tools=["calculator", "python", *map(named, TOOLS)],
        format="hermes",
        timeout_seconds=LIMIT,
        workers=1,
        max_bytes=300,
    )
    with EnvironmentPool(spec, sandbox=ANYWHERE) as pool:
        yield pool


@pytest.fixture(scope="module")
def counters():
    spec = EnvironmentSpec(named("Counter"), {"goal": 9}, timeout_seconds=LIMIT, workers=1)
    with EnvironmentPool(spec) as pool:
        yield pool


def answer(pool, text, key="one"):
    pool.open(key, {})
    return pool.step(key, text).result(60)


# ------------------------------------------------------------------------------------------- tools


def test_calls_of_one_turn_are_answered_in_order(tools):
    text = (
        calling("add", a=1, b="2")
        + calling("calculator", expression="37*48")
        + calling("python", code="5*5")
    )
    observation = answer(tools, text)
    assert [result.text for result in observation.results] == ["3", "1776", "25"]
    assert observation.text == "3\n1776\n25"
    assert observation.calls == ("add", "calculator", "python")
    assert (observation.status, observation.done) == ("ok", False)


def test_a_turn_without_a_call_ends_the_completion(tools):
    assert answer(tools, "The answer is 4.") == Observation(done=True)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (calling("fail", message="not today"), "error", "Error: LookupError: not today"),
        (calling("ad", a=1), "error", "there is no tool ad; did you mean add?"),
        (calling("add", a="x"), "error", 'Error: a: expected an integer, found "x"'),
        ("<tool_call>{", "malformed", "Error: the call cannot be read: it is no JSON"),
        (
            calling("add", a=1) + calling("calculator", expression="1/0"),
            "error",
            "2\nError: division by zero",
        ),
        (calling("leave", code=3), "died", "Error: leave died: left with exit code 3"),
        (calling("wait", seconds=60), "timeout", "Error: wait did not answer within 0.5 s"),
        (
            calling("wait_politely", seconds=60),
            "timeout",
            "Error: wait_politely did not answer within 0.5 s",
        ),
        (calling("no_text", kind="bytes"), "ok", "\ufffd\ufffd ok"),
        (calling("no_text", kind="surrogate"), "ok", "? ok"),
    ],
    ids=lambda value: value[:40] if len(value) > 20 else value,
)
def test_what_goes_wrong_is_text_under_a_named_status(tools, text, status, said):
    observation = answer(tools, text)
    assert observation.status == status
    assert said in observation.text
    assert not observation.done


@pytest.mark.parametrize("name", ["panic", "panic_politely"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [("panic", "Panic"), ("cancelled", "CancelledError"), ("exit", "GeneratorExit")],
)
def test_what_a_tool_raises_that_is_no_exception_is_its_error_too(tools, name, kind, said):
    observation = answer(tools, calling(name, kind=kind))
    assert (observation.status, observation.text) == ("error", f"Error: {said}: stop")


@pytest.mark.parametrize("name", ["note_and_wait", "note_and_wait_politely"])
def test_a_call_that_sleeps_past_its_deadline_is_late_at_once_and_not_tried_again(
    tools, tmp_path, name
):
    file = tmp_path / "notes"
    assert answer(tools, calling(name, file=str(file))).status == "timeout"
    assert file.read_text() == "called\n"


def test_an_environments_odd_answer_is_its_error():
    for kind in ("done", "results"):
        spec = EnvironmentSpec(named("Odd"), {"kind": kind}, timeout_seconds=30, workers=1)
        with EnvironmentPool(spec) as pool:
            pool.open("one", {})
            observation = pool.step("one", "go").result(60)
        expected = "Error: TypeError: neither" if kind == "done" else "odd"
        assert (observation.text, observation.results) == (expected, ())


def test_a_flood_is_cut_before_it_travels(tools):
    observation = answer(tools, calling("flood", count=30_000_000))
    assert observation.status == "ok"
    assert "bytes left out" in observation.text
    assert len(observation.text) <= 300


def test_a_tool_that_died_by_chance_is_tried_again(tools, tmp_path):
    observation = answer(tools, calling("leave_once", marker=str(tmp_path / "marker")))
    assert (observation.status, observation.text) == ("ok", "second")


@pytest.mark.parametrize("name", ["meet", "meet_politely"])
def test_many_calls_wait_at_once_in_one_worker(name):
    """Each ends when all have begun: one behind another they never would."""
    spec = EnvironmentSpec(tools=[named(name)], format="hermes", timeout_seconds=60, workers=1)
    with EnvironmentPool(spec) as pool:
        for key in range(64):
            pool.open(key, {})
        answers = [pool.step(key, calling(name, number=64)) for key in range(64)]
        assert {future.result(60).text for future in answers} == {"met"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("add", {"a": 1}), ("wait_politely", {"seconds": 0.01}), ("wait", {"seconds": 0.01})],
)
def test_a_call_is_one_message_to_a_worker_and_two_back(tools, monkeypatch, name, arguments):
    """Also 64 at once: what comes and goes does not grow with how many wait."""
    answer(tools, calling(name, **arguments))  # the worker is there, the tool is loaded
    sent, received = [], []
    post, arrived = WorkerProcess.post, _Inbox.data_received

    def counted_post(line, message):
        sent.append(message)
        post(line, message)

    def counted_arrived(inbox, data):
        received.append(data)
        arrived(inbox, data)

    monkeypatch.setattr(WorkerProcess, "post", counted_post)
    monkeypatch.setattr(_Inbox, "data_received", counted_arrived)
    for key in range(64):
        tools.open(key, {})
    answers = [tools.step(key, calling(name, **arguments)) for key in range(64)]
    assert {future.result(60).status for future in answers} == {"ok"}
    assert len(sent) == 64
    assert b"".join(received).count(b"\n") <= 2 * 64


def test_threads_that_blocked_are_used_again_and_few_are_kept(tools):
    def threads():
        return len(answer(tools, calling("count_threads", least=0)).text.split())

    answer(tools, calling("wait", seconds=0.01))
    before = threads()
    for _ in range(40):
        assert answer(tools, calling("wait", seconds=0.001)).status == "ok"
    assert threads() == before
    for key in range(32):
        tools.open(key, {})
    crowd = [tools.step(key, calling("wait", seconds=0.2)) for key in range(32)]
    assert {future.result(60).text for future in crowd} == {"awake"}
    assert threads() <= before + KEPT_THREADS


def test_a_blocking_tool_may_run_a_loop_of_its_own(tools):
    assert answer(tools, calling("runs_a_loop", text="so")).text == "so, awaited"
    assert answer(tools, calling("gives_an_awaitable", text="so")).text == "so, awaited"


def test_the_first_calls_at_once_start_as_many_workers_as_there_may_be():
    spec = EnvironmentSpec(tools=[named("where")], format="<where>", workers=2)
    with EnvironmentPool(spec) as pool:
        for key in range(8):
            pool.open(key, {})
        answers = [pool.step(key, "<where></where>") for key in range(8)]
        assert len({answer.result().text for answer in answers}) == 2


def test_a_file_that_is_edited_changes_no_tool_of_workers_that_start_later(tmp_path):
    written = [
        "import os\n",
        "def say(leave: bool) -> str:",
        '    """Says it.\n\n    Args:\n        leave: ends the process\n    """',
        "    return 'old' if not leave else os._exit(1)",
    ]
    file = tmp_path / "mine.py"
    file.write_text("\n".join(written))
    spec = EnvironmentSpec(tools=[f"{file}:say"], format="hermes", workers=1)
    with EnvironmentPool(spec) as pool:
        assert answer(pool, calling("say", leave=False)).text == "old"
        file.write_text("\n".join(written).replace("'old'", "'new'"))
        assert answer(pool, calling("say", leave=True)).status != "ok"
        assert answer(pool, calling("say", leave=False)).text == "old"


def test_neighbours_of_a_tool_that_dies_get_their_answers(tools):
    for key in (0, 1, 2, 4, 5):
        tools.open(key, {})
    slow = [tools.step(key, calling("wait", seconds=0.3)) for key in (0, 1)]
    bad = tools.step(2, calling("leave", code=1))
    quick = [tools.step(key, calling("add", a=key)) for key in (4, 5)]
    assert [future.result(60).text for future in slow] == ["awake", "awake"]
    assert bad.result(60).status == "died"
    assert [future.result(60).text for future in quick] == ["5", "6"]


@pytest.mark.slow
def test_a_tool_that_computes_too_long_is_tried_alone_before_it_is_late(tools):
    observation = answer(tools, calling("compute", seconds=1.2 * LIMIT))
    assert (observation.status, observation.text) == ("ok", "computed")
    assert answer(tools, calling("compute", seconds=100)).status == "timeout"


# ------------------------------------------------------------------------------------- environments


def test_an_environment_keeps_its_state_from_turn_to_turn(counters):
    assert counters.open("a", {"start": 4}).result(60) == Observation("from 4")
    assert counters.open("b", {}).result(60) is None
    turns = [
        counters.step(key, text) for key, text in [("a", "x"), ("b", "u"), ("a", "y"), ("b", "v")]
    ]
    assert [turn.result(60).text for turn in turns] == ["5: x", "1: u", "6: x,y", "2: u,v"]
    assert turns[0].result().reward == 0.5 and turns[0].result().parts == {"n": 5.0}


def test_turns_that_are_asked_at_once_are_answered_in_order(counters):
    counters.open("a", {})
    turns = [counters.step("a", letter) for letter in "abcde"]
    assert [turn.result(60).text for turn in turns][-1] == "5: a,b,c,d,e"


@pytest.mark.parametrize("text", ["die", "sleep 60"])
def test_sessions_of_a_lost_worker_are_rebuilt_without_the_turn_that_broke_it(counters, text):
    status = {"die": "died", "sleep 60": "timeout"}[text]
    for key in "ab":
        counters.open(key, {"start": 10})
        counters.step(key, "first").result(60)
    assert counters.step("a", text).result(60).status == status
    assert counters.step("b", "second").result(60).text == "12: first,second"
    assert counters.step("a", "second").result(60).text == "12: first,second"


def test_a_session_opened_with_its_texts_goes_on_where_it_was(counters):
    assert counters.open("a", {"start": 2}, ["x", "die", "y"]).result(60) == Observation("from 2")
    assert counters.step("a", "z").result(60).text == "5: x,y,z"


def test_an_environment_that_raises_says_so_to_the_policy(counters):
    observation = answer(counters, "raise")
    assert (observation.status, observation.text) == ("error", "Error: LookupError: no such move")


def test_what_cannot_be_imported_runs_in_threads_of_this_process():
    entered = []

    class Echo:
        def reset(self, row):
            entered.append(threading.current_thread() is not threading.main_thread())

        async def step(self, text):
            return Observation(text.upper(), done=text == "bye")

    def shout(text: str) -> str:
        """Shouts."""
        if text == "sleep":
            time.sleep(5)
        return text + "!"

    spec = EnvironmentSpec(Echo, tools=[shout], format="hermes", timeout_seconds=LIMIT)
    with EnvironmentPool(spec) as pool:
        pool.open(1, {})
        assert pool.step(1, "hello").result(60).text == "HELLO"
        assert pool.step(1, calling("shout", text="hey")).result(60).text == "hey!"
        assert pool.step(1, calling("shout", text="sleep")).result(60).status == "timeout"
        assert pool.step(1, calling("shout", text="ho")).result(60).text == "ho!"
        assert pool.step(1, "bye").result(60).done
    assert all(entered)


def test_a_reset_that_raises_ends_the_completion():
    class Refusing:
        def reset(self, row):
            raise KeyError("puzzle")

        def step(self, text):
            return text

    with EnvironmentPool(EnvironmentSpec(Refusing, timeout_seconds=LIMIT)) as pool:
        observation = pool.open(1, {}).result(60)
    assert observation == Observation("Error: KeyError: 'puzzle'", done=True, status="error")


def test_forgetting_cancels_what_waits(counters):
    counters.open("a", {})
    waiting = counters.step("a", "sleep 0.3")
    behind = counters.step("a", "x")
    counters.forget("a")
    for future in (waiting, behind):
        with pytest.raises(CancelledError):
            future.result(60)
    assert counters.open("a", {}).result(60) is None
    assert counters.step("a", "y").result(60).text == "1: y"


def test_answers_are_the_same_whatever_finishes_first(tools):
    def answers(order):
        for key in order:
            tools.open(key, {})
        futures = {
            key: tools.step(key, calling("wait", seconds=0.01 * (key % 3)) + calling("add", a=key))
            for key in order
        }
        return {key: futures[key].result(60) for key in sorted(futures)}

    assert answers(range(8)) == answers(range(7, -1, -1))


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "neither an environment nor a tool"),
        ({"tools": ["pyton"]}, "did you mean python"),
        ({"tools": ["nowhere.py:f"]}, "tool 'nowhere.py:f': there is no file"),
        ({"tools": [named("Counter")], "format": "hermes"}, "it is a class"),
        ({"tools": ["python", "python"], "format": "hermes"}, "python occurs twice"),
        ({"tools": ["python"]}, "auto reads the chat template"),
        (
            {"tools": ["calculator", "python"], "format": "<calc>"},
            "<calc> calls the tool calc, or the only one",
        ),
        ({"use": named("add")}, "no methods reset and step"),
        ({"use": "python", "args": {"sesion": True}, "format": "fenced"}, "no option sesion"),
        ({"use": "calculator", "args": {"x": 1}, "format": "<calc>"}, "takes none"),
        ({"use": "pyhton"}, "no environment is called 'pyhton'; did you mean python"),
        ({"use": named("Counter"), "args": {"gaol": 1}}, "args: Counter.goal.*argument 'gaol'"),
        ({"use": named("Counter"), "timeout_seconds": 0}, "timeout_seconds: 0 is not above 0"),
        ({"use": named("Counter"), "workers": 0}, "workers: 0 are too few"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(spec, said):
    with pytest.raises(ValueError, match=said):
        schemas_of(EnvironmentSpec(**spec))


def test_schemas_are_known_without_a_worker(tools):
    schemas = schemas_of(tools.spec)
    assert schemas == tools.schemas()
    assert [schema["function"]["name"] for schema in schemas] == ["calculator", "python", *TOOLS]


def test_a_closed_pool_says_so(counters):
    pool = EnvironmentPool(EnvironmentSpec(named("Counter")))
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.open(1, {})
