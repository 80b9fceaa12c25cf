"""The examples and the README's commands, as a reader would run them; the notebooks are in ``test_notebooks.py``."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "sample.prompts=4",
    "sample.group_size=4",
    "sample.max_tokens=30",
    "data.held_out=8",
    "evaluate.samples=1",
]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def load(script: str) -> Any:
    """An example as a module: its name is none that an import could have."""
    spec = importlib.util.spec_from_file_location("example", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_quickstart_example_runs_from_any_folder(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "01_quickstart.py"), "steps=10", *SMALL)
    assert re.search(r"accuracy \d+\.\d% -> \d+\.\d% on 8 held-out problems", printed)
    assert len(list((tmp_path / "runs").glob("example-*/summary.json"))) == 1


@pytest.mark.slow
def test_the_reward_example_trains_on_the_reward_it_writes(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "02_write_a_reward.py"), "steps=2", *SMALL)
    assert len(re.findall(r"correct \d\.\d+ +few_tries 0\.\d+", printed)) == 2


@pytest.mark.slow
def test_the_reward_model_example_trains_on_a_model_held_by_a_worker(tmp_path: Path) -> None:
    printed = run(tmp_path, str(ROOT / "examples" / "03_reward_model.py"), "steps=1", *SMALL)
    fluency = re.findall(r"correct \d\.\d+ +fluency (\d\.\d+)", printed)
    assert len(fluency) == 1 and 0.1 < float(fluency[0]) < 1.0
    assert " completions sampled: " in printed and "not scored" not in printed


@pytest.mark.slow
def test_the_preference_example_prefers_what_its_pairs_do_and_counts_later(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "05_preference_reward.py")
    later = "rewards.preference.from_step=2"
    printed = run(tmp_path, script, "steps=2", later, *SMALL)
    shown = re.findall(r"correct \d\.\d+ +preference (not yet|\d\.\d+)", printed)
    assert shown[0] == "not yet" and 0 < float(shown[1]) < 1
    example = load(script)
    pairs = list(example.pairs_of_countdown(200))
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs[:100]))
    preference = example.Preference(str(tmp_path / "pairs.jsonl"))
    agrees = [
        preference(pair["chosen"], pair["prompt"]) > preference(pair["rejected"], pair["prompt"])
        for pair in pairs[100:]
    ]
    assert sum(agrees) > 0.8 * len(agrees)


@pytest.mark.slow
def test_the_tool_example_answers_calls_by_the_function_it_writes(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "06_write_a_tool.py")
    printed = run(tmp_path, script, "steps=2", "sample.prompts=16", *SMALL[1:])
    shown = re.findall(r"right \d\.\d+ +call (\d\.\d+) +errors (\d\.\d+)", printed)
    assert len(shown) == 2
    assert 0 < float(shown[1][0]) and float(shown[1][1]) < 0.5
    rows = next((tmp_path / "runs").glob("tool-*/samples.jsonl")).read_text().splitlines()
    turns = [turn for row in map(json.loads, rows) for turn in row.get("turns", ())]
    asked = next(turn for turn in turns if turn["text"].startswith("<calc>"))
    expression = asked["text"].removeprefix("<calc>").removesuffix("</calc>")
    assert asked["observed"] == f"<result>{load(script).work_out(expression)}</result>"


@pytest.mark.slow
def test_a_reward_in_a_file_can_be_named_by_its_path(tmp_path: Path) -> None:
    printed = run(
        ROOT,
        "-m",
        "grpo.train",
        "recipes/quickstart.yaml",
        f"run_dir={tmp_path / 'run'}",
        "steps=1",
        *SMALL,
        "rewards.few_tries.use=examples/02_write_a_reward.py:few_tries",
    )
    assert "1 x few_tries" in printed


@pytest.mark.slow
def test_a_run_can_be_plotted(tmp_path: Path) -> None:
    run(
        tmp_path, "-m", "grpo.train", "quickstart", "steps=2", f"run_dir={tmp_path / 'run'}", *SMALL
    )
    script = str(ROOT / "examples" / "04_plot_a_run.py")
    assert "written to" in run(tmp_path, script, "run", "run", "--out", "run.svg")
    picture = (tmp_path / "run.svg").read_text()
    assert "<svg" in picture and picture.count("<path") > 20
