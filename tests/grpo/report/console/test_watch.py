"""A run of another process is shown from its files: what it did, what it does, and how it ended."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

import pytest
from terminals import Terminal, console_on

from grpo import cli
from grpo.monitor.waits import Counts
from grpo.report.console.console import Console
from grpo.report.console.display import Plain
from grpo.report.console.heartbeat import FAILED, RUNNING, SIZE, STOPPED, Heartbeat, read_beat
from grpo.report.console.history import History
from grpo.report.console.status import Status
from grpo.report.console.watch import Tail, Watch, state_of, watch
from grpo.report.folder import RunFolder

RECIPE = "name: x\nsteps: 4\nevaluate: {every: 2}\nlog: {show_every: 2}\n"
SAMPLING = Status("sampling", 7.0, Counts(130, 256, "completions"), rate=1800.0)
CONSOLE = """\
--- 2026-11-01 10:00:00+00:00
grpo 0.0.9  an older life  ->  runs/x
--- 2026-11-02 10:00:00+00:00
resume: a note
grpo 0.1.0  x  ->  runs/x
  policy    LlamaForCausalLM
  data      countdown
  rewards   1 x correct
  training  4 steps
  kernels   internals
"""


def step(number: int, **changes: object) -> dict:
    record = {
        "step": number,
        "reward/mean": number / 10,
        "completion/length": 12.5,
        "group/flat": 0.5,
        "policy/entropy": 0.7,
        "policy/drift": 3e-7,
        "update/made": 1,
        "ledger/faulted": 0,
        "seconds/step": 2.0,
    }
    return {**record, **changes}


def evaluation(number: int, accuracy: float) -> dict:
    bounds = {"heldout/low": accuracy - 0.1, "heldout/high": accuracy + 0.1}
    return {"step": number, "heldout/accuracy": accuracy, **bounds, "heldout/length": 9.0}


def sample(number: int, reward: float) -> dict:
    return {
        "step": number,
        "prompt_id": "p1",
        "prompt": "the prompt",
        "completion": f"written in step {number}",
        "finish": "stop",
        "num_tokens": 3,
        "reward": reward,
        "status": "scored",
        "parts": {"correct": reward},
        "statuses": {"correct": "scored"},
        "detail": "",
    }


def add(folder: Path, file: str, *rows: dict) -> None:
    with (folder / file).open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "console.log").write_text(CONSOLE)
    add(tmp_path, "metrics.jsonl", evaluation(0, 0.3), step(1))
    return tmp_path


@pytest.fixture
def lives(run):
    """The lock that a living run holds."""
    with (run / "metrics.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield held


def beat(run: Path, state: str = RUNNING, status: Status = SAMPLING) -> None:
    heartbeat = Heartbeat(run)
    heartbeat.write(state, status, step=1, steps=4, left=9.0)
    heartbeat.close()


def shown_on(terminal: Terminal, run: Path) -> Watch:
    console = console_on(terminal)
    console._start_thread = lambda: None
    return Watch(RunFolder.at(run), console)


def test_a_watched_run_shows_its_header_its_steps_and_what_it_does_at_this_second(run, lives):
    beat(run)
    terminal = Terminal()
    shown = shown_on(terminal, run)
    shown.begin()
    with shown.console.working():
        assert shown.look().name == RUNNING
        shown.console._tick()
        lines = terminal.lines
    text = "\n".join(lines)
    assert lines[0] == "grpo 0.1.0  x  ->  runs/x" and "older life" not in text
    assert "  policy    LlamaForCausalLM" in lines and "internals" not in text
    assert "held-out before training: 30.0 % [20.0, 40.0]" in text
    assert "step 2/4 · sampling 130/256 completions · 1.8k tok/s · 0:0" in lines[-2]
    assert "25%" in lines[-1]


def test_what_the_run_writes_next_is_shown_and_half_a_line_waits_for_its_end(run, lives):
    terminal = Terminal(rows=40)
    shown = shown_on(terminal, run)
    shown.begin()
    add(run, "samples.jsonl", sample(2, 0.0), sample(2, 1.0), sample(3, 1.0))
    add(run, "alarms.jsonl", {"step": 2, "gate": "flat", "level": "warn", "says": "too easy"})
    add(run, "alarms.jsonl", {"step": 2, "gate": "length", "level": "note", "says": "a mere note"})
    whole = json.dumps(step(2)) + "\n"
    with (run / "metrics.jsonl").open("a") as out:
        out.write(whole[:30])
        out.flush()
        shown.look()
        assert "2/4" not in "\n".join(terminal.lines)
        out.write(whole[30:])
    shown.look()
    add(run, "metrics.jsonl", step(3), evaluation(3, 0.6))
    shown.look()
    text = "\n".join(terminal.everything)
    assert text.count("2/4") == text.count("3/4") == 1 and "after step 3: 60.0 %" in text
    assert "warning: step 2: gate flat: too easy" in text and "a mere note" not in text
    assert "written in step 2" in text and "written in step 3" not in text  # every second


def test_a_run_that_goes_back_to_a_checkpoint_is_taken_up_from_there(run, lives):
    shown = Watch(RunFolder.at(run), Console(Plain()))
    shown.begin()
    add(run, "metrics.jsonl", step(2), step(3))
    shown.look()
    assert shown.console.history.step == 3
    (run / "metrics.jsonl").write_text(json.dumps(step(1)) + "\n")
    shown.look()
    assert shown.console.history.step == 1
    add(run, "metrics.jsonl", step(2, **{"reward/mean": 0.9}))
    shown.look()
    history = shown.console.history
    assert history.step == 2 and history.curves["reward"] == [0.1, 0.9] and history.steps == 4


def test_watching_ends_with_the_run_and_the_exit_code_is_the_runs(run, capsys):
    beat(run, state=STOPPED)
    with (run / "console.log").open("a") as out:
        out.write("stopped after step 1. To resume: grpo train x --resume\n")
    assert cli.main(["watch", str(run)]) == 3
    out = capsys.readouterr().out
    assert "step 1/4  reward 0.100" in out and out.splitlines()[-1].startswith(
        "stopped: stopped after step 1."
    )
    with (run / "console.log").open("a") as out:
        out.write("--- again\nstopped: step 2: gate faults: broken\n")
    assert cli.main(["watch", str(run)]) == 1
    assert "failed: step 2: gate faults: broken" in capsys.readouterr().out
    before = {"accuracy": 0.3, "low": 0.2, "high": 0.4, "length": 9.0, "details": {}}
    summary = {
        "steps": 4,
        "before": before,
        "after": {**before, "accuracy": 0.9, "low": 0.8, "high": 1.0},
        "sets": {},
        "examples": {},
        "ledger": {"sampled": 16, "trained": 12, "flat": 4},
        "alarms": [],
        "seconds": 9.0,
        "tokens": {"sampled": 160},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    assert cli.main(["watch", str(run)]) == 0
    out = capsys.readouterr().out
    assert "30.0 % [20.0, 40.0]  90.0 % [80.0, 100.0]  +60.0 points" in out
    assert "16 completions sampled: 12 trained, 4 in zero-variance groups" in out
    assert "evaluate " in out and "sample " in out


def test_a_killed_run_is_said_to_be_dead_with_the_way_to_resume_it(run):
    process = os.fork()
    if not process:
        beat(run)
        os._exit(0)
    os.waitpid(process, 0)
    state = state_of(RunFolder.at(run), read_beat(run), time.time() + 60)
    assert state.name == STOPPED and f"process {process} no longer holds the folder" in state.reason
    assert "while sampling in step 2. To resume: grpo train" in state.reason


def test_a_run_on_another_machine_lives_as_long_as_its_status_is_young(run, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    beat(run)
    monkeypatch.undo()
    now = read_beat(run).time
    assert state_of(RunFolder.at(run), read_beat(run), now + 5).name == RUNNING
    dead = state_of(RunFolder.at(run), read_beat(run), now + 300)
    assert dead.name == STOPPED and "on elsewhere" in dead.reason and "5 min" in dead.reason


def test_ctrl_c_leaves_the_watch_and_the_run_alone(run, lives, capsys):
    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    files = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        watch(RunFolder.at(run), Console(Plain()), sleep=leave)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == files


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path, capsys):
    assert cli.main(["watch", str(tmp_path)]) == 2
    assert "so it is not a run's" in capsys.readouterr().err


def test_the_status_is_one_size_and_survives_what_is_too_long(tmp_path):
    long = Status("雪" * 500, 1.0, Counts(1, 2, "completions"))
    for status in (SAMPLING, long, Status("idle", 0.0)):
        beat(tmp_path, status=status)
        assert (tmp_path / "status.json").stat().st_size == SIZE
        found = read_beat(tmp_path)
        assert found is not None and found.pid == os.getpid()
    beat(tmp_path, state=FAILED)
    found = read_beat(tmp_path)
    assert (found.state, found.done, found.total, found.rate) == (FAILED, 130, 256, 1800.0)
    assert found.status(found.time + 2).seconds == pytest.approx(9.0, abs=0.05)
    (tmp_path / "status.json").write_text("{half")
    assert read_beat(tmp_path) is None and read_beat(tmp_path / "nowhere") is None


def test_a_status_that_cannot_be_written_costs_nothing_else(tmp_path):
    heartbeat = Heartbeat(tmp_path / "nowhere")
    heartbeat.write(RUNNING, SAMPLING, step=1, steps=2, left=None)
    heartbeat.close()
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_knows_its_earlier_figures(run):
    add(run, "metrics.jsonl", step(2), evaluation(2, 0.5))
    console = Console(Plain())
    console._start_thread = lambda: None
    console.begin(run, steps=4, step=2, evaluates_every=2)
    assert console.history.curves["reward"] == [0.1, 0.2]
    assert console.history.evaluations["heldout"]["accuracy"] == 0.5
    console.begin(run, steps=4, step=0, evaluates_every=2)
    assert console.history == History(steps=4, every=2, since=console.history.since)
    console.close()


def test_a_tail_reads_each_whole_line_once(tmp_path):
    tail = Tail(tmp_path / "x.jsonl")
    assert list(tail.new()) == [] and not tail.was_cut()
    add(tmp_path, "x.jsonl", {"a": 1})
    assert list(tail.new()) == [{"a": 1}] and list(tail.new()) == []
    with (tmp_path / "x.jsonl").open("a") as out:
        out.write('no json\n{"a": 2}\n{"a":')
    assert list(tail.new()) == [{"a": 2}] and not tail.was_cut()
    (tmp_path / "x.jsonl").write_text("")
    assert tail.was_cut() and not tail.was_cut()
