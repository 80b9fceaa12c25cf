"""The watchdog's arithmetic: what counts as progress, whose clock runs, what a pause does."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo.monitor import interpreter_watch, watchdog
from grpo.monitor.peers import Peers
from grpo.monitor.waits import PROCESS, beat, collective, describe_failure, waiting
from grpo.monitor.watchdog import Watchdog, bounded, report
from grpo.recipe import Recipe, RecipeError, WatchdogSection


class Store:
    """What a process group's store does, in one process."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def set(self, name: str, value: str) -> None:
        self.held[name] = value.encode()

    def get(self, name: str) -> bytes:
        return self.held[name]

    def check(self, names: list[str]) -> bool:
        return all(name in self.held for name in names)


def idle(*passed: float) -> list[float]:
    """The seconds that each open wait has been idle after looks `passed` seconds apart."""
    for seconds in passed:
        for wait in PROCESS.innermost():
            wait.count(seconds)
    return [wait.idle_seconds for wait in PROCESS.open]


def test_the_clock_of_a_wait_runs_until_it_makes_progress() -> None:
    done = [0]
    with waiting("engine", owner="a test", progress=lambda: done[0]) as wait:
        assert idle(1.0, 2.0, 3.0) == [5.0]  # the first look only sees where it is
        done[0] = 1
        assert idle(4.0) == [0.0] and idle(1.5) == [1.5]
        wait.beat()
        assert idle(4.0) == [0.0]
        assert idle(7.0) == [7.0]
    assert PROCESS.open == []


def test_only_the_innermost_wait_of_a_thread_counts_and_its_end_is_progress_of_the_outer() -> None:
    with waiting("update", owner="a test"):
        idle(1.0, 1.0)
        with waiting("collective", owner="a test"):
            assert idle(10.0, 10.0) == [1.0, 10.0]
        assert idle(3.0) == [0.0]
        beat()
        assert idle(3.0) == [0.0] and idle(2.0) == [2.0]


def test_waits_of_different_threads_are_watched_side_by_side() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with waiting("checkpoint", owner="another thread"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with waiting("engine", owner="a test") as mine:
        idle(1.0)
        mine.beat()
        assert dict(zip((w.name for w in PROCESS.open), idle(2.0))) == {
            "checkpoint": 2.0,
            "engine": 0.0,
        }
    leave.set()
    thread.join()


def test_a_deadline_is_the_recipes_the_callers_or_what_is_needed_at_least() -> None:
    dog = Watchdog(WatchdogSection(engine_seconds=7.0, judge_seconds=5.0))
    with (
        waiting("engine", owner="a test") as a,
        waiting("engine", owner="a test", timeout_seconds=3.0) as b,
        waiting("judge", owner="a test", at_least_seconds=50.0) as c,
    ):
        assert [dog._limit(wait) for wait in (a, b, c)] == [7.0, 3.0, 50.0]


def test_progress_that_cannot_be_told_is_no_progress() -> None:
    def broken() -> int:
        raise KeyError("gone")

    with waiting("engine", owner="a test", progress=broken, state=broken) as wait:
        assert idle(1.0, 1.0, 1.0) == [2.0]
        lines = report(wait, 1.0, 0)
    assert (
        "its state cannot be read: KeyError" in "\n".join(lines)
        and "engine (a test) made no progress" in lines[0]
    )


def test_an_error_remembers_the_innermost_wait_that_it_came_out_of() -> None:
    with pytest.raises(OSError) as caught:
        with waiting("checkpoint", owner="a disk"), waiting("collective", owner="a rank"):
            raise OSError("no space")
    assert describe_failure(caught.value).startswith(
        "collective (a rank) died of OSError: no space"
    )
    assert PROCESS.open == []


def test_what_takes_too_long_is_left_to_itself_and_what_is_done_is_returned() -> None:
    assert bounded(lambda: 42, 10.0) == 42
    before = time.monotonic()
    assert bounded(lambda: time.sleep(60), 0.1) is None and time.monotonic() - before < 30


def test_a_process_that_was_stopped_for_long_raises_no_alarm_when_it_continues(
    tmp_path: Path,
) -> None:
    code = (
        "import time; from grpo.recipe import WatchdogSection; from grpo.monitor.watchdog import Watchdog, waiting\n"
        f"dog = Watchdog(WatchdogSection(engine_seconds=1.5, interpreter_seconds=1.5)).start()\n"
        f"import pathlib; dog.keep_in(pathlib.Path({str(tmp_path)!r}))\n"
        "with waiting('engine', owner='a test'):\n    print('in', flush=True); time.sleep(0.4)\nprint('out')\ndog.stop()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(watchdog.__file__).parents[2],
    )
    assert process.stdout.readline() == "in\n"
    os.kill(process.pid, 19)  # SIGSTOP
    time.sleep(3.5)
    os.kill(process.pid, 18)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "out\n", "") and not list(tmp_path.iterdir())


def test_a_rank_that_has_not_arrived_is_told_from_one_that_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, ranks = Store(), [Peers(Store(), rank, 3) for rank in range(3)]
    for peer in ranks:
        peer.store = store
    monkeypatch.setattr(PROCESS, "num_collectives", 5)
    with collective("grpo.distributed.process_group, sum"):
        ranks[2]._exchange(ranks[2]._note(PROCESS.open[-1]))
    monkeypatch.setattr(PROCESS, "num_collectives", 5)
    with waiting("engine", owner="grpo.rollout"):
        ranks[1]._exchange(ranks[1]._note(PROCESS.open[-1]))
    monkeypatch.setattr(PROCESS, "num_collectives", 6)
    ranks[0]._exchange(ranks[0]._note(None))
    first, second = ranks[0].lines()
    assert first.startswith("rank 1 has NOT arrived: it waits for engine (grpo.rollout)")
    assert second.startswith(
        "rank 2 has arrived: it waits for collective (grpo.distributed.process_group, sum, number 6)"
    )
    assert Peers(Store(), 0, 2).lines() == ["rank 1 has NOT arrived: it never reported where it is"]


def test_a_rank_that_is_no_longer_heard_from_is_not_said_to_be_where_it_was() -> None:
    store = Store()
    peers, other = Peers(store, 0, 3, silence_seconds=0.0), Peers(store, 1, 3)
    with waiting("engine", owner="grpo.rollout") as wait:
        other._exchange(other._note(wait))
    peers._exchange(peers._note(None))
    first, second = peers.lines()
    assert re.fullmatch(
        rf"rank 1 \(process {os.getpid()} on {re.escape(socket.gethostname())}\) has NOT been heard from for 0 s, look "
        r"at its machine and the network; when last heard from, it was in engine \(grpo.rollout\) at \S+:\d+ in .*",
        first,
    )
    assert second == "rank 2 has NOT arrived: it never reported where it is"
    peers.silence_seconds = 1000.0
    assert peers.lines()[0].startswith("rank 1 has NOT arrived: it waits for engine (grpo.rollout)")


def test_a_store_that_is_gone_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Store):
        def set(self, name: str, value: str) -> None:
            asked.append(name)
            raise RuntimeError("Broken pipe")

    asked: list[str] = []
    peers = Peers(Gone(), 1, 2)
    for _ in range(3):
        peers.exchange([])
        assert peers._helper is not None
        peers._helper.join(60)
    assert asked == ["rank1"]
    assert peers.lines()[-1] == "the store that the ranks share cannot be reached: Broken pipe"


def test_a_connection_to_another_machine_that_breaks_is_told_by_the_rank_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    peers = Peers(store, 0, 3)
    for rank in (1, 2):
        note = Peers(store, rank, 3)._note(None)
        elsewhere = {"host": f"node{rank}", "addresses": [f"10.0.0.{rank}", "172.17.0.1"]}
        store.set(f"rank{rank}", json.dumps({**note, **elsewhere}))
    peers._exchange(peers._note(None))
    monkeypatch.setattr(PROCESS, "watcher", SimpleNamespace(peers=peers))
    with pytest.raises(RuntimeError) as raised, collective("grpo.distributed, sum"):
        raise RuntimeError("Connection closed by peer [10.0.0.2]:4711")
    assert re.fullmatch(
        r"collective \(grpo.distributed, sum, number \d+\) without rank 2 on node2, to which the connection broke, died "
        r"of RuntimeError: Connection closed by peer \[10.0.0.2\]:4711",
        describe_failure(raised.value),
    )


def test_a_collective_makes_progress_while_another_rank_works_and_not_while_it_is_stuck() -> None:
    store = Store()
    waiting_rank, working = Peers(store, 0, 2), Peers(store, 1, 2)
    with waiting("engine", owner="grpo.rollout") as wait:
        seen = []
        for idle_seconds in (0.0, 0.0, 4.0, 9.0, 0.0):
            wait.idle_seconds = idle_seconds
            working._exchange(working._note(wait))
            waiting_rank._exchange(waiting_rank._note(None))
            seen.append(waiting_rank.progress())
    assert [a != b for a, b in zip(seen, seen[1:])] == [True, False, False, True]


def test_a_collective_that_breaks_names_the_ranks_that_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    peers = Peers(store, 0, 3)
    for rank, process in ((1, os.getpid()), (2, ended.pid)):
        note = Peers(store, rank, 3)._note(None)
        store.set(f"rank{rank}", json.dumps({**note, "process": process}))
    peers._exchange(peers._note(None))
    assert peers.ended() == [2]
    monkeypatch.setattr(PROCESS, "watcher", SimpleNamespace(peers=peers))
    with pytest.raises(RuntimeError) as raised, collective("grpo.distributed, sum"):
        raise RuntimeError("Connection reset by peer")
    assert re.fullmatch(
        r"collective \(grpo.distributed, sum, number \d+\) without rank 2, whose process has ended, died of "
        r"RuntimeError: Connection reset by peer",
        describe_failure(raised.value),
    )


def test_deadlines_are_keys_of_the_recipe() -> None:
    recipe = Recipe.from_mapping({}, "watchdog.judge_seconds=12", "watchdog.action=warn")
    assert recipe.watchdog.judge_seconds == 12 and recipe.watchdog.engine_seconds == 1800
    with pytest.raises(RecipeError, match="watchdog.engine_seconds is 0.0; it must be above 0"):
        Recipe.from_mapping({}, "watchdog.engine_seconds=0")


def test_a_watchdog_that_is_off_or_stopped_leaves_no_thread_and_no_process(tmp_path: Path) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "watchdog"]

    with Watchdog(WatchdogSection(action="off")).watching() as dog:
        dog.keep_in(tmp_path)
        assert threads() == [] and dog._interpreter_watch is None
    with Watchdog(WatchdogSection()).watching() as dog:
        dog.keep_in(tmp_path)
        assert threads() == ["watchdog"]
        process = dog._interpreter_watch._process
        assert process.poll() is None and interpreter_watch.state(process.pid) in "RSD"
    assert threads() == [] and process.returncode == 0
