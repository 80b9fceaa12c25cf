"""A server of cheap lives, and rewards that a run under test judges by."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from lives import Lives
from small_runs import REWARDS


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
