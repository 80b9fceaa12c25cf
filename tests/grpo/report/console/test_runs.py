"""Whole runs on a terminal, in a file and in a notebook: what a person sees of them from the first line to the last."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from quick_runs import QUICK
from quick_runs import recipe as quick_recipe
from terminals import Terminal, console_on

from grpo import Recipe, Trainer
from grpo.monitor.waits import PROCESS, Wait
from grpo.report.console.console import Console
from grpo.report.console.display import Plain

ROOT = Path(__file__).resolve().parents[4]
LOUD = '''
import sys

def loud(text, num_tokens):
    """Pays for length, and prints as careless rewards do."""
    print("a reward prints", flush=True)
    sys.stderr.write("and warns\\n")
    return num_tokens / 40
'''


SMALL = ["sample.prompts=3", "sample.group_size=3", "sample.max_tokens=12", "data.held_out=4"]


class DrawnWaits(list[Wait]):
    """The open waits of this process, each drawn by `console` the moment it opens, however short it is."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console
        self._thread = threading.get_ident()

    def append(self, wait: Wait) -> None:
        super().append(wait)
        if wait.thread == self._thread:
            self._console._tick()


def recipe(folder: Path, *overrides: str) -> Recipe:
    return quick_recipe(folder, *SMALL, *overrides)


@pytest.fixture
def loud(tmp_path):
    (tmp_path / "loud.py").write_text(LOUD)
    return [f'rewards={{loud: {{use: "{tmp_path / "loud.py"}:loud"}}}}', "evaluate.threshold=0.5"]


def test_a_run_on_a_terminal_from_its_header_to_the_commands_that_come_next(
    monkeypatch, tmp_path, loud
):
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(columns=80, rows=24)
    console = console_on(terminal)
    monkeypatch.setattr(PROCESS, "open", DrawnWaits(console))
    trainer = Trainer(recipe(Path("run"), *loud, "log.show_every=2"), console=console)
    for record in trainer:
        print(f"the loop has {record['step']}")
    shown = terminal.everything
    text = "\n".join(shown)
    # the header
    assert shown[0].startswith("grpo ") and shown[0].endswith("  quickstart  ->  run")
    header = [line.split()[0] for line in shown[1:8] if re.match(r"  \w", line)]
    assert header == ["policy", "data", "rewards", "training"]
    assert "objective" not in text and "kernels" not in text
    # steps, evaluations, completions
    rows = [line for line in shown if re.match(r" *[1-4]/4 +\d", line)]
    assert len(rows) == 4 and all(len(line) < 80 for line in shown)
    heads = next(line for line in shown if re.match(r" *step +reward", line))
    assert heads.split() == [
        "step",
        "reward",
        "held-out",
        "length",
        "zero-var",
        "mismatch",
        "seconds",
    ]
    assert text.count("held-out after step 2: ") == 1
    assert re.findall(r"─── step (\d) · a completion of", text) == ["1", "2", "4"]
    # what others print
    assert "a reward prints" in shown and "and warns" in shown and "the loop has 4" in shown
    # what was going on
    for phase in ("evaluating held-out", "sampling", "step 2/4 · ", " left", "loading the "):
        assert phase in terminal.written, phase
    # the end, and nothing left of the area
    assert any(re.match(r" +before +after +change$", line) for line in shown)
    assert "36 completions sampled: " in text and "grpo evaluate " in text
    assert not any("━" in line for line in shown) and sys.stdout is not None
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    # the plain lines of the same run
    log = (tmp_path / "run" / "console.log").read_text()
    assert "step 4/4  reward " in log and "objective loss = " in log and "\x1b" not in log


def test_a_verbose_console_says_the_formula_and_a_quiet_one_nothing(tmp_path, capsys):
    small = ["steps=0", "data.held_out=0"]
    Trainer(recipe(tmp_path / "a", *small), verbose=True).train()
    said = capsys.readouterr().out
    assert "objective loss = " in said and "kernels" in said and "reward cache hits: " in said
    Trainer(recipe(tmp_path / "b", *small)).train()
    said = capsys.readouterr().out
    assert "objective" not in said and "training  0 steps of 3 x 3" in said
    Trainer(recipe(tmp_path / "c", *small), quiet=True).train()
    assert capsys.readouterr() == ("", "")
    assert "objective loss = " in (tmp_path / "c" / "console.log").read_text()


def test_breaking_off_the_loop_gives_the_terminal_back_at_once(tmp_path):
    terminal = Terminal()
    before = sys.stdout, sys.stderr
    trainer = Trainer(
        recipe(tmp_path / "run", "data.held_out=0", "steps=3"), console=console_on(terminal)
    )
    for _ in trainer:
        break
    assert (sys.stdout, sys.stderr) == before and not any("━" in line for line in terminal.lines)
    assert len([line for line in terminal.everything if re.match(r" *\d/3 ", line)]) == 1
    for _ in trainer:
        pass
    assert len([line for line in terminal.everything if re.match(r" *\d/3 ", line)]) == 3
    assert (sys.stdout, sys.stderr) == before


def test_a_run_that_fails_leaves_its_terminal_clean_and_its_state_behind(tmp_path):
    def broken(text: str) -> float:
        raise KeyError("no such thing")

    terminal = Terminal()
    before = sys.stdout, sys.stderr
    trainer = Trainer(
        recipe(tmp_path / "run", "data.held_out=0"),
        rewards={"broken": broken},
        console=console_on(terminal),
    )
    with pytest.raises(RuntimeError):
        trainer.train()
    assert (sys.stdout, sys.stderr) == before and not any("━" in line for line in terminal.lines)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_a_trainer_in_a_pipe_prints_a_line_a_step_and_no_control_character(tmp_path, capsys):
    trainer = Trainer(recipe(tmp_path / "run", "evaluate.every=0"))
    assert isinstance(trainer.console.display, Plain)
    trainer.train()
    out = capsys.readouterr().out
    steps = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in steps] == [f"step {n}/4" for n in range(1, 5)]
    assert all("zero-variance groups " in line for line in steps)
    assert all("mismatch " in line or "no update" in line for line in steps)
    assert all(character.isprintable() or character == "\n" for character in out)


# ---- the real command on a real terminal -----------------------------------------------------------------------


class Session:
    """`grpo` with arguments on a pseudo-terminal, as `Terminal` shows it."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24):
        import fcntl
        import pty
        import struct
        import termios

        self.terminal = Terminal(columns, rows)
        self.began = time.monotonic()
        self.pid, self._ours = pty.fork()
        if not self.pid:
            os.environ["PYTHONPATH"] = str(ROOT)
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, "-m", "grpo", *arguments])
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, words: str) -> None:
        """Read until `words` have been on the screen."""
        while words not in self.terminal.written:
            if not self._read():
                raise AssertionError(f"{words!r} never came: {self.terminal.everything}")

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self._ours)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the end, on Linux
            return False
        self.terminal.write(data.decode("utf-8", "replace"))
        return bool(data)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)


@pytest.mark.slow
def test_the_command_shows_its_first_line_before_torch_is_loaded_and_ctrl_c_ends_it_clean(
    tmp_path, loud
):
    small = [*QUICK, *loud, "steps=500", "checkpoint.every=0", f"run_dir={tmp_path / 'run'}"]
    session = Session("train", "quickstart", *small)
    session.until("loading PyTorch")
    first = session.terminal.everything
    assert first[0].startswith("grpo ")
    session.until("2/500 ")
    session.type(b"\x03")
    session.until("once more to stop at once")
    assert session.end() == 3
    shown = session.terminal.everything
    last = " ".join(line.strip() for line in shown if line)
    assert "stopped after step" in last and "To resume: grpo train quickstart" in last
    assert not any("━" in line for line in shown) and session.terminal.history.cursor.x == 0
    assert not session.terminal.history.cursor.hidden
    assert "a reward prints" in shown
    watched = Session("watch", str(tmp_path / "run"), columns=120, rows=40)
    assert watched.end() == 3
    assert "stopped: stopped after step" in "\n".join(watched.terminal.everything)


@pytest.mark.slow
def test_evaluate_and_sample_show_how_far_they_are_on_standard_error_alone(tmp_path):
    base = str(ROOT / "recipes" / "quickstart_base")
    rows = ["--recipe", "quickstart", "data.held_out=64", "sample.max_tokens=40"]
    session = Session("evaluate", base, *rows, "--samples", "2")
    session.until("evaluating held-out")
    assert session.end() == 0
    words = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", session.terminal.written)
    assert re.search(r"evaluating held-out \d+/128 completions", words)
    assert any("accuracy (avg@2)" in line for line in session.terminal.everything)
    command = [sys.executable, "-m", "grpo", "sample", base, *rows, "--rows", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 4
    quiet = subprocess.run(
        [*command, "--quiet"], env=environment, capture_output=True, text=True, check=True
    )
    assert quiet.stderr.count("\n") == 1 and json.loads(quiet.stderr)["completions"] == 4


@pytest.mark.slow
def test_a_run_in_a_notebook_updates_one_output(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    code = f"""
from grpo import Recipe, Trainer
trainer = Trainer(Recipe.load("quickstart", *{QUICK!r}, "run_dir={tmp_path / "run"}"))
for record in trainer:
    pass
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    NotebookClient(notebook, timeout=280, kernel_name="python3").execute(env=environment)
    outputs = notebook.cells[0].outputs
    (page,) = [output for output in outputs if output.output_type == "display_data"]
    html = page["data"]["text/html"]
    assert html.count("4/4") >= 1 and "color:" in html and "evaluate " in html
    assert "sampling" not in html  # the area is gone at the end
    assert not [output for output in outputs if output.get("name") == "stdout"]
