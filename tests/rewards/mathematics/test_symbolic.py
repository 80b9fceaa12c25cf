"""Sympy's verdicts depend on the work it does, never on the speed of the machine."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rewards import RewardSpec, Sample
from rewards.math_answer import math_answer, pairs
from rewards.mathematics import symbolic
from rewards.mathematics.equality import equal
from rewards.service.service import RewardService

ROOT = Path(__file__).resolve().parents[3]
EULER = ("e", "\\sum_{k=0}^{\\infty}\\frac{1}{k!}")
BASEL = ("\\frac{\\pi^2}{6}", "\\sum_{k=1}^{\\infty} \\frac{1}{k^2}")
QUESTIONS = [
    (*EULER, True),
    (*BASEL, True),
    ("\\frac{\\pi^2}{8}", BASEL[1], False),
    ("\\sqrt{\\pi}", "\\int_{-\\infty}^{\\infty} e^{-x^2} dx", True),
    ("\\frac{\\pi}{2}", "\\int_0^{\\infty} \\frac{\\sin x}{x} dx", True),
    ("e", "\\lim_{n\\to\\infty}(1+\\frac1n)^n", True),
    ("(x-1)e^x", "\\int x e^x dx", True),
]
TOO_MUCH = "\\int_0^1\\int_0^1\\int_0^1 \\sin(xyz) dx dy dz"


def asked(pred, gold):
    return equal(pred, gold, allow_sympy=True)


def spent(pred, gold, monkeypatch):
    """The calls that a question takes."""
    works = []

    class Recorded(symbolic.Work):
        def __init__(self):
            super().__init__()
            works.append(self)

    with monkeypatch.context() as patched:
        patched.setattr(symbolic, "Work", Recorded)
        asked(pred, gold)
    return sum(symbolic.MAX_CALLS - work.calls_left for work in works)


@pytest.mark.parametrize("pred, gold, same", QUESTIONS)
@pytest.mark.thin(2)
def test_a_first_question_gets_the_verdict_of_every_later_one(pred, gold, same):
    code = (
        "import sys; from rewards.mathematics.equality import equal\n"
        "verdicts = [equal(*sys.argv[1:], allow_sympy=True) for _ in range(3)]\n"
        "print([(verdict.equal, verdict.tier) for verdict in verdicts])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pred, gold], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == str([(same, "c")] * 3), done.stderr


@pytest.mark.parametrize("pred, gold, same", QUESTIONS)
def test_ordinary_questions_take_less_than_half_of_the_calls(pred, gold, same, monkeypatch):
    asked("2", BASEL[1])
    assert 0 < spent(pred, gold, monkeypatch) < symbolic.MAX_CALLS / 2


def test_what_was_asked_before_does_not_pay_for_a_question(monkeypatch):
    first = spent(*EULER, monkeypatch)
    for pred, gold, _ in QUESTIONS:
        asked(pred, gold)
    assert spent(*EULER, monkeypatch) == pytest.approx(first, rel=0.3)


def test_too_many_calls_are_a_verdict_and_too_many_seconds_are_none(monkeypatch):
    by_work = asked("42", TOO_MUCH)
    assert (by_work.equal, by_work.is_out_of_time) == (False, False)
    assert by_work.reason == "not shown equal within bounds"
    monkeypatch.setattr(symbolic.Work, "__init__", out_of_seconds)
    by_clock = asked("42", TOO_MUCH)
    assert (by_clock.equal, by_clock.is_out_of_time) == (None, True)
    assert by_clock.reason == "undecided: out of time"


def out_of_seconds(work):
    work.calls_left = symbolic.MAX_CALLS
    work.seconds_left = 0.05


def test_a_comparison_that_runs_out_of_time_is_a_timeout_and_neither_a_fault_nor_unequal(
    monkeypatch,
):
    monkeypatch.setattr(symbolic.Work, "__init__", out_of_seconds)
    pair = pairs(TOO_MUCH, "42", allow_sympy=True)
    completion = math_answer("\\boxed{42}", TOO_MUCH, allow_sympy=True)
    for score in (pair, completion):
        assert (score.value, score.status, score.extracted) == (0.0, "timeout", "42")
        assert score.detail.endswith("tier=c undecided: out of time")


def test_an_answer_shown_equal_by_other_means_needs_no_clock(monkeypatch):
    monkeypatch.setattr(symbolic.Work, "__init__", out_of_seconds)
    assert asked(f"\\{{1, {TOO_MUCH}\\}}", f"\\{{{TOO_MUCH}, 1\\}}").equal is True


def test_the_count_of_calls_also_holds_outside_the_main_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(asked("42", TOO_MUCH)))
    thread.start()
    thread.join()
    assert (verdicts[0].equal, verdicts[0].is_out_of_time) == (False, False)


def test_the_profiler_and_the_signal_handler_of_others_are_restored():
    import signal

    def profiler(frame, event, argument):
        return None

    handler = signal.getsignal(signal.SIGVTALRM)
    sys.setprofile(profiler)
    try:
        asked(*EULER)
        asked("42", TOO_MUCH)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert signal.getsignal(signal.SIGVTALRM) == handler
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    "huge", ["1.0000001^{10^{9}}", "\\sum_{k=1}^{300} k!^{k!}", "\\sum_{k=1}^{300} k^{k^{k}}"]
)
def test_numbers_too_large_to_write_out_are_refused_before_sympy_computes_them(huge, monkeypatch):
    verdict = asked(f"{huge}+1", huge)
    assert (verdict.equal, verdict.is_out_of_time) == (False, False)
    assert spent(f"{huge}+1", huge, monkeypatch) < symbolic.MAX_CALLS / 2


def test_a_deadline_shorter_than_loading_sympy_decides_nothing():
    code = "import time; b = time.process_time(); import sympy; print(time.process_time() - b)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds_to_load = float(done.stdout)
    spec = RewardSpec("correct", "math_answer", timeout_seconds=0.9 * seconds_to_load)
    with RewardService([spec], workers=1) as service:
        score = service.score([Sample(f"\\boxed{{{BASEL[0]}}}", {"answer": BASEL[1]})])[0]
        assert (score.value, score.status) == (1.0, "scored")
        assert service.num_killed == 0


def test_a_timeout_of_the_reward_is_decided_again_in_a_fresh_worker_and_never_remembered(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\nfrom rewards import Score\n"
        "def judged(text, path):\n"
        "    with open(path, 'a') as file: file.write(f'{os.getpid()}\\n')\n"
        "    return Score(0.0, status='timeout')\n"
        "judged.cache_key = lambda text, path: text\n"
    )
    path = tmp_path / "pids"
    with RewardService([RewardSpec("mine", f"{tmp_path}/mine.py:judged")], workers=1) as service:
        for _ in range(2):
            score = service.score([Sample("a", {"path": str(path)})])[0]
            assert (score.value, score.status) == (0.0, "timeout")
        assert service.num_from_cache == 0
    pids = path.read_text().split()
    assert len(pids) == 4 and len(set(pids)) >= 3
