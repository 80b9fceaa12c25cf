"""What a reward prints is seen where standard error goes: the process's own, or what stands in its place."""

import io
import os
import sys
import time

import pytest

from rewards import RewardSpec, Sample
from rewards.service.service import RewardService

REWARD = '''
import os, sys

def loud(text):
    """Prints as careless rewards do: to both streams, from a child, without an end of the line."""
    print("printed", text)
    print("to standard error", text, file=sys.stderr)
    os.system("echo from a child")
    sys.stdout.write("no end")
    sys.stdout.flush()
    if text == "dies":
        os._exit(7)
    return 1.0
'''


@pytest.fixture
def reward(tmp_path):
    file = tmp_path / "loud.py"
    file.write_text(REWARD)
    return RewardSpec("loud", f"{file}:loud", timeout_seconds=20.0)


def judged(reward: RewardSpec, *texts: str) -> list:
    with RewardService([reward], workers=1) as service:
        return [one.score.value for one in service.judge([Sample(text, {}) for text in texts])]


def test_where_something_stands_in_for_standard_error_it_gets_each_line(monkeypatch, reward, capfd):
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    assert judged(reward, "a", "b") == [1.0, 1.0]
    said = lines.getvalue()
    for text in ("printed a\n", "to standard error a\n", "from a child\n", "printed b\n", "no end"):
        assert text in said, said
    assert capfd.readouterr() == ("", "")


def test_what_a_worker_said_before_it_died_is_not_lost(monkeypatch, reward):
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    assert judged(reward, "dies") == [None]
    assert "printed dies" in lines.getvalue()


def test_otherwise_a_worker_inherits_standard_error_and_no_descriptor_is_used(
    monkeypatch, reward, capfd
):
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    assert judged(reward, "a") == [1.0]
    out, err = capfd.readouterr()
    assert out == "" and "printed a" in err and "from a child" in err


def test_a_listener_that_is_gone_changes_no_verdict(monkeypatch, reward):
    gone = io.StringIO()
    monkeypatch.setattr(sys, "stderr", gone)
    gone.close()
    assert judged(reward, "a") == [1.0]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
def test_no_descriptor_is_left_open(monkeypatch, reward):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    judged(reward, "a")
    before = len(os.listdir("/proc/self/fd"))
    judged(reward, "a", "dies")
    deadline = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before
