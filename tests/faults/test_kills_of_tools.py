"""kill -9 in the middle of a tool's call: the run that is gone on with is the run never killed, however slow its tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from lives import Lives
from quick_runs import lines
from tool_runs import recipe_file

DEADLY = '''
import os, random, signal, time

def deadly(expression: str) -> str:
    """Answers after some time or other; the call whose number is in the file kill-at is the trainer's end.

    Args:
        expression: A product
    """
    with open("FOLDER/calls", "ab") as calls:
        calls.write(b".")
        number = calls.tell()
    time.sleep(random.SystemRandom().uniform(0, 0.05))
    if os.path.exists("FOLDER/kill-at") and number == int(open("FOLDER/kill-at").read()):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    first, second = expression.split("*")
    return str(int(first) * int(second))
'''


def assert_same(whole: Path, cut: Path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        assert lines(whole, name) == lines(cut, name), name
    weights = "final/model.safetensors"
    assert (whole / weights).read_bytes() == (cut / weights).read_bytes()


@pytest.mark.slow
def test_killed_in_the_middle_of_calls(lives: Lives, tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY.replace("FOLDER", str(tmp_path)))
    file = recipe_file(
        tmp_path,
        tools=[f"{tmp_path}/deadly.py:deadly"],
        environment={"workers": 1},
        data={"held_out": 2},
    )
    whole = tmp_path / "whole"
    assert lives.live([str(file), f"run_dir={whole}"], whole)["code"] == 0
    calls = tmp_path / "calls"
    num_calls = calls.stat().st_size
    cut = tmp_path / "cut"
    kill_at = tmp_path / "kill-at"
    for number in (num_calls // 3, num_calls // 2):  # in a step; once more in what is left
        calls.unlink()
        kill_at.write_text(str(number))
        resume = ["--resume"] if (cut / "recipe.yaml").exists() else []
        life = lives.live([str(file), f"run_dir={cut}", *resume], cut)
        assert life["code"] == -9, life["said"]
    kill_at.unlink()
    life = lives.live([str(file), f"run_dir={cut}", "--resume"], cut)
    assert life["code"] == 0, life["said"]
    samples = lines(cut, "samples.jsonl")
    assert sum(len(turn["calls"]) for row in samples for turn in row.get("turns", [])) > 5
    assert_same(whole, cut)
