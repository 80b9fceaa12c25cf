"""A server of cheap lives, and rewards that a run under test judges by."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from lives import Lives

REWARDS = '''
import os, time

def mixed(text):
    """Groups are flat now and then, so that some are refilled."""
    return float(len(text) % 3 == 0)

def nth_call():
    with open("calls", "ab") as calls:
        calls.write(b".")
        return calls.tell()

def signals(text, at, number):
    """`mixed`; its calls of those numbers send the trainer a signal, whatever it does meanwhile."""
    call = nth_call()
    if call in at:
        time.sleep(0.4 * at.index(call))  # two signals at once would be one
        os.kill(os.getppid(), number)
    return mixed(text)

def faulty(text):
    """`mixed`, with a fault now and then, always for the same texts."""
    if sum(map(ord, text)) % 17 == 0:
        raise ValueError("no verdict on that")
    return mixed(text)
'''


@pytest.fixture(scope="session")
def lives() -> Iterator[Lives]:
    with Lives() as server:
        yield server


@pytest.fixture
def reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the rewards in ``mine.py``."""
    (tmp_path / "mine.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path
