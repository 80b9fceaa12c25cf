"""What a process says of the run when it ends: only the first, which writes the folder, knows what stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from launches import train_all

REWARDS = '''
import os

def kills_the_first(text):
    """The first process is killed once the checkpoint of the first step is there."""
    if os.environ["RANK"] == "0" and os.path.exists("run/checkpoints/step-000001"):
        os.kill(os.getppid(), 9)
    return float(len(text) % 3 == 0)
'''
ARGUMENTS = [
    "quickstart",
    "steps=50",
    "data.args.count=400",
    "data.held_out=0",
    "evaluate.every=0",
    "sample.prompts=2",
    "sample.group_size=2",
    "sample.max_tokens=16",
    "checkpoint.every=1",
    "rewards.correct.use=mine.py:kills_the_first",
    "run_dir=run",
]


@pytest.mark.slow
def test_another_process_than_the_first_claims_nothing_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    (ended,) = train_all((2, ARGUMENTS))
    assert ended.codes == [-9, 1], ended.err
    last = next(line for line in ended.err.splitlines() if line.startswith("stopped: "))
    assert "; rank 0 says what stands; if it could not, go on by: " in last
    assert last.endswith("run_dir=run --resume")
    assert "no checkpoint was saved yet" not in ended.err
