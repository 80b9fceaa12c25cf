"""A terminal as a person sees it: the live area stays below, whoever prints; nothing is left when it goes."""

import os
import re
import sys
import threading

import pytest
from terminals import Terminal, console_on, screen_on

from grpo.monitor import waits
from grpo.report.console.console import Console, is_terminal, open_console
from grpo.report.console.display import Plain
from grpo.report.console.history import History
from grpo.report.console.ink import Line
from grpo.report.console.page import Page

AREA = ["the curves", "what is done", "the bar"]


def area(width: int, height: int) -> list[Line]:
    return [Line.of((text, "good")) for text in AREA]


@pytest.fixture
def terminal():
    return Terminal(columns=40, rows=12)


@pytest.fixture
def screen(terminal):
    screen = screen_on(terminal)
    yield screen
    screen.hide()


def said(number: int) -> list[Line]:
    return [Line.of(f"line {number}")]


def test_lines_go_above_the_area_and_hiding_it_leaves_only_them(screen, terminal):
    screen.print(said(1))
    screen.show(area)
    assert terminal.lines == ["line 1", "", *AREA]
    for number in range(2, 30):
        screen.print(said(number))
        screen.refresh()
        assert terminal.lines[-4:] == ["", *AREA] and terminal.lines[-5] == f"line {number}"
    screen.hide()
    assert terminal.everything == [f"line {number}" for number in range(1, 30)]


def test_what_python_prints_while_there_is_an_area_appears_above_it_line_by_line(screen, terminal):
    before = sys.stdout, sys.stderr
    screen.show(area)
    print("one\ntwo")
    sys.stderr.write("half a ")
    assert terminal.lines == ["one", "two", "", *AREA]
    sys.stderr.write("line\rover\n")
    print("no end", end="", flush=True)
    kept = sys.stdout
    screen.hide()
    assert terminal.lines == ["one", "two", "over", "no end"]
    assert (sys.stdout, sys.stderr) == before and sys.stdout.fileno is not None
    kept.write("")  # whoever kept it may go on to use it


def test_what_writes_past_python_starts_on_a_line_of_its_own_and_stays(screen, terminal):
    screen.print(said(1))
    screen.show(area)
    terminal.write("a native library\r\n")  # at the cursor, as a child process does
    screen.refresh()
    screen.print(said(2))
    assert terminal.lines == ["line 1", "a native library", "line 2", "", *AREA]


def test_several_lines_past_python_between_two_drawings_stay_clear_of_the_area():
    terminal = Terminal(columns=40, rows=40)
    screen = screen_on(terminal)
    screen.show(area)
    for _ in range(20):
        terminal.write("a\r\nb\r\nc\r\n")
        screen.refresh()
    assert terminal.everything[-6:] == ["", "", "", *AREA]
    screen.hide()
    assert terminal.everything == ["a", "b", "c"] * 20


def test_a_terminal_that_changes_its_size_is_drawn_right_again(terminal):
    screen = screen_on(terminal)
    screen.print(said(1))
    screen.show(lambda width, height: [Line.of("x" * 100), Line.of("the bar")])
    assert terminal.lines[2] == "x" * 38 + "…"
    terminal.history.resize(12, 20)
    screen.terminal.size = (20, 12)
    screen.refresh()
    assert terminal.lines[-2:] == ["x" * 18 + "…", "the bar"]
    screen.hide()
    assert "the bar" not in terminal.lines


def test_the_cursor_is_never_hidden_and_one_drawing_is_one_write(screen, terminal):
    writes = []
    screen.stream = type("Counted", (), {"write": writes.append, "flush": lambda self: None})()
    screen.show(area)
    screen.print([*said(1), *said(2)])
    assert len(writes) == 2 and not any("\x1b[?25l" in text for text in writes)


def test_a_signal_handler_that_prints_in_the_middle_of_a_drawing_loses_and_breaks_nothing(
    screen, terminal
):
    write = terminal.write

    def interrupted(text: str) -> int:
        terminal.write = write
        print("from the handler")
        return write(text)

    screen.show(area)
    terminal.write = interrupted
    screen.print(said(1))
    assert sorted(terminal.lines[:2]) == ["from the handler", "line 1"]
    assert terminal.lines[2:] == ["", *AREA]


def test_threads_that_print_at_once_keep_their_lines_whole(screen, terminal):
    def prints(name: str) -> None:
        for number in range(40):
            print(f"{name} {number}")

    screen.show(area)
    threads = [threading.Thread(target=prints, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    screen.hide()
    expected = sorted(f"{name} {number}" for name in "abc" for number in range(40))
    assert sorted(terminal.everything) == expected


def test_a_terminal_that_is_gone_ends_the_picture_and_not_the_run(screen):
    screen.show(area)
    screen.stream = open(os.devnull)  # cannot be written to
    screen.print(said(1))
    screen.refresh()
    screen.hide()


@pytest.mark.parametrize("no_color", [True, False])
def test_colours_are_there_unless_no_color_is_set(monkeypatch, terminal, no_color):
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    screen = screen_on(terminal)
    screen.print([Line.of(("careful", "warn"))])
    assert bool(re.search(r"\x1b\[[\d;]*m", terminal.written)) != no_color
    assert terminal.lines == ["careful"]


def test_a_file_is_no_terminal_even_if_colour_is_forced(monkeypatch, tmp_path):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with (tmp_path / "file").open("w") as file:
        assert not is_terminal(file)
        assert isinstance(open_console(stream=file).display, Plain)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(Terminal())


def test_a_page_holds_the_same_lines_as_html_with_every_text_escaped():
    page = Page()
    page.refresh = lambda: None  # there is no notebook here
    page.print([Line.of(("<script>alert(1)</script>\x1b[2J", "warn"))])
    page.show(lambda width, height: [Line.of("a & b")])
    html = page.content()
    assert "<script>" not in html and "&lt;script&gt;" in html and "a &amp; b" in html
    assert "\x1b" not in html and "color:" in html


# ---- a console on a screen -------------------------------------------------------------------------------------


RECORD = {
    "step": 1,
    "reward/mean": 0.25,
    "completion/length": 12.5,
    "group/flat": 0.5,
    "policy/drift": 3e-7,
    "update/made": 1,
    "ledger/faulted": 0,
    "seconds/step": 2.0,
}
HELD_OUT = {"step": 0, "accuracy": 0.3, "low": 0.25, "high": 0.35, "length": 9.0, "truncated": 0.0}


def drawn(console: Console) -> None:
    """One tick of the console, without its thread."""
    console._tick()


@pytest.fixture
def console(terminal):
    terminal.history.resize(24, 80)
    console = console_on(terminal, width=80, height=24)
    console._start_thread = lambda: None  # ticks are ours
    console.history = History(steps=10, every=5)
    yield console
    console.close()


def test_a_run_on_a_screen_is_a_table_with_what_is_done_and_what_is_left_below_it(
    console, terminal
):
    counts = waits.Counts(130, 256, "completions", tokens=900)
    console.title("grpo 0.1.0  quickstart  ->  runs/x")
    with console.working():
        console.evaluations({"heldout": HELD_OUT}, "before training", seconds=1.0)
        console.step(RECORD)
        console.step({**RECORD, "step": 2, "reward/mean": 0.5})
        with waits.waiting("engine", owner="x", counts=lambda: counts):
            drawn(console)
        shown = terminal.lines
    assert shown[0].startswith("grpo 0.1.0") and shown[1].startswith(
        "held-out before training: 30.0 %"
    )
    assert shown[2].split() == [
        "step",
        "reward",
        "held-out",
        "length",
        "zero-var",
        "mismatch",
        "seconds",
    ]
    assert shown[3].split()[:3] == ["1/10", "0.250", "30.0"] and "0.500" in shown[4]
    assert shown[6].startswith("reward ") and "0.5" in shown[6]
    assert shown[7].startswith("step 3/10 · sampling 130/256 completions · 0:0")
    assert re.fullmatch(r"━+─+ 20% · \d+ s left", shown[8])


def test_work_with_a_name_of_its_own_shows_how_far_the_wait_inside_is(console, terminal):
    counts = waits.Counts(41, 512, "completions")
    with console.working(), waits.doing("evaluating gsm8k"):
        with waits.waiting("engine", owner="x", counts=lambda: counts):
            drawn(console)
            assert "evaluating gsm8k 41/512 completions" in terminal.lines[-2]
        with waits.waiting("judge", owner="x"):
            drawn(console)
            assert "evaluating gsm8k, judging" in terminal.lines[-1]
    with console.working(), waits.writing("grpo.run.checkpoint, a checkpoint", "/tmp"):
        drawn(console)
        assert "saving a checkpoint" in "\n".join(terminal.lines)
    with console.working(), waits.loading("grpo.model.loading, the model"):
        drawn(console)
        assert "loading the model" in "\n".join(terminal.lines)


def test_another_threads_waits_are_not_shown(console, terminal):
    with console.working(), waits.waiting("update", owner="x"):
        entered, leave = threading.Event(), threading.Event()

        def elsewhere() -> None:
            with waits.waiting("checkpoint", owner="x, a checkpoint in y"):
                entered.set()
                leave.wait(10)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        entered.wait(10)
        drawn(console)
        shown = terminal.lines[-1]
        leave.set()
        thread.join()
    assert "updating" in shown and "saving" not in shown


def test_the_area_goes_while_other_code_has_the_run_and_comes_back(console, terminal):
    with console.working():
        console.say("a line")
        assert "step 1/10" in terminal.lines[-1]
    drawn(console)  # the tick after the work
    assert terminal.lines == ["a line"] and sys.stdout is not None
    with console.working():
        assert "step 1/10" in terminal.lines[-1]
    console.rest()
    assert terminal.lines == ["a line"]


def test_a_mistake_in_drawing_ends_no_run(console, terminal):
    with console.working():
        console.completion({"step": 1}, [])  # not a row
        console.step({"step": 3})
    text = "\n".join(terminal.everything)
    assert "this cannot be shown: KeyError" in text


def test_on_a_low_screen_the_area_is_one_line(terminal):
    terminal.history.resize(8, 60)
    console = console_on(terminal, width=60, height=8)
    console.history = History(steps=10)
    with console.working():
        console.step(RECORD)
        console.step({**RECORD, "step": 2})
        drawn(console)
        assert terminal.lines[-2] == "" and terminal.lines[-1].startswith("step 3/10")
    console.close()


def test_the_time_left_counts_steps_and_evaluations_and_what_of_the_step_is_over():
    history = History(steps=100, every=20)
    assert history.seconds_left() is None
    for step in (1, 2, 3):
        history.add_step({**RECORD, "step": step, "seconds/step": 10.0})
    left = history.seconds_left()
    assert 969 <= left <= 970
    history.add_evaluations({"heldout": HELD_OUT}, seconds=60.0)
    assert (
        5 * 60 + 969 <= history.seconds_left() <= 5 * 60 + 970
    )  # after 20, 40, 60, 80 and at the end
    history.add_step({**RECORD, "step": 100})
    assert history.seconds_left() == 60.0


SCRIPT = """
import os, signal, sys, time
from grpo.report.console.console import open_console
console = open_console()
console.say("a line")
with console.working():
    child = os.fork()
    if not child:
        print("from a forked child", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.6)  # one line between two drawings is whole, a further one stands on what was drawn
    os.system("echo from a shell")
    {end}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no pseudo-terminal here")
@pytest.mark.parametrize(
    "end", ["raise KeyboardInterrupt", "sys.exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_a_process_leaves_a_usable_terminal_however_it_ends(end):
    import pty

    process, ours = pty.fork()
    if not process:
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT.format(end=end)])
    written = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:
            break
        if not data:
            break
        written += data
    os.waitpid(process, 0)
    os.close(ours)
    terminal = Terminal()
    terminal.write(written.decode())
    assert terminal.history.cursor.x == 0 and not terminal.history.cursor.hidden
    shown = [line for line in terminal.everything if line]
    assert shown[:3] == ["a line", "from a forked child", "from a shell"], shown
    if "SIGKILL" not in end:
        assert not any("starting" in line for line in shown)


def test_a_console_that_is_quiet_writes_nothing_and_starts_no_thread(capsys):
    before = threading.active_count()
    console = open_console(quiet=True)
    with console.working():
        console.say("words")
        console.step(RECORD)
        assert threading.active_count() == before
    console.close()
    assert capsys.readouterr() == ("", "")


def test_no_thread_is_left_after_the_end(terminal):
    before = set(threading.enumerate())
    console = console_on(terminal)
    with console.working():
        assert set(threading.enumerate()) - before
    console.close()
    assert set(threading.enumerate()) == before
