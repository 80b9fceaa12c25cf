"""kill -9 of a run that mixes two sources and is evaluated on two other sets: gone on with, it is the run never killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator

import pytest
from lives import ROOT, Lives
from small_runs import REWARDS, assert_same

from rewards.tasks import load_task

DEADLY = '''
import json, signal

def deadly(text, source):
    """`mixed`, but of the rows of one source one call, which the file `kill-at` counts, is the trainer's end."""
    if os.path.exists("kill-at"):
        end = json.load(open("kill-at"))
        if source == end["source"] and nth_call() == end["call"]:
            os.kill(os.getppid(), signal.SIGKILL)
    return mixed(text)
'''
# 9 completions of `second` a step; 12 of `gsm` an evaluation, at steps 0, 2, 4 and 6
RECIPE = f"""
steps: 6
threads: 1
model: {{name: {ROOT / "recipes" / "quickstart_base"}}}
data:
  template: plain
  sources:
    first: {{source: first.jsonl, columns: {{prompt: question}}, weight: 0.7, held_out: 3}}
    second: {{source: second.jsonl, weight: 0.3}}
sample: {{prompts: 10, group_size: 3, max_tokens: 8}}
rewards:
  correct: {{use: "mine.py:deadly"}}
  second_only: {{use: "mine.py:mixed", when: {{source: second}}}}
evaluate:
  every: 2
  samples: 1
  sets:
    gsm: {{benchmark: gsm8k, source: gsm.jsonl, samples: 2, rewards: {{correct: {{use: "mine.py:deadly"}}}}}}
    dense: {{source: second.jsonl, limit: 4, rewards: {{length: {{use: "mine.py:mixed"}}}}}}
checkpoint: {{every: 2}}
optim: {{lr: 1.0e-3, updates: 2}}
"""
KEYS = ("heldout/accuracy", "eval/gsm/accuracy", "eval/dense/accuracy")


pytestmark = pytest.mark.slow  # lives of six steps and four evaluations


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with two sources, two sets of other rows, and the recipe."""
    folder = tmp_path_factory.mktemp("mixture")
    prompts = [row["prompt"] for row in load_task("countdown").rows(style="symbols", count=46)]
    files = {
        "first.jsonl": [{"question": prompt, "answer": "1"} for prompt in prompts[:20]],
        "second.jsonl": [{"prompt": prompt, "answer": "2"} for prompt in prompts[20:40]],
        "gsm.jsonl": [{"question": prompt, "answer": "#### 3"} for prompt in prompts[40:]],
    }
    for name, rows in files.items():
        (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "mine.py").write_text(REWARDS + DEADLY)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def whole(lives: Lives, mixture: Path) -> Path:
    """The run never killed."""
    folder = mixture / "whole"
    assert live(lives, folder)["code"] == 0
    return folder


def live(lives: Lives, folder: Path, *arguments: str, **end: Any) -> dict[str, Any]:
    return lives.live(["recipe.yaml", f"run_dir={folder}", *arguments], folder, **end)


def killed_by_a_reward(lives: Lives, cut: Path, source: str, call: int) -> None:
    """The trainer dies by SIGKILL at that call for rows of `source`."""
    Path("calls").unlink(missing_ok=True)
    Path("kill-at").write_text(json.dumps({"source": source, "call": call}))
    life = live(lives, cut)
    Path("kill-at").unlink()
    assert life["code"] == -9, life["said"]


def go_on(lives: Lives, cut: Path) -> None:
    life = live(lives, cut, "--resume")
    assert life["code"] == 0, life["said"]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_never_killed_keeps_its_shares_learns_and_reports_every_set(whole: Path) -> None:
    steps = [row for row in records(whole) if "reward/mean" in row]
    shares = [(row["source/first/groups"], row["source/second/groups"]) for row in steps]
    assert shares == [(7, 3)] * 6 and any(row["group/trained"] for row in steps)
    assert [row["step"] for row in records(whole) if all(key in row for key in KEYS)] == [
        0,
        2,
        4,
        6,
    ]


def test_killed_in_the_middle_of_a_step(lives: Lives, mixture: Path, whole: Path) -> None:
    cut = mixture / "in-a-step"
    killed_by_a_reward(lives, cut, "second", call=5 * 9 + 4)
    assert records(cut)[-1]["step"] == 5  # since the checkpoint of step 4 a step that is made again
    go_on(lives, cut)
    assert_same(whole, cut)


def test_killed_while_a_set_is_evaluated(lives: Lives, mixture: Path, whole: Path) -> None:
    cut = mixture / "in-a-set"
    killed_by_a_reward(lives, cut, "gsm", call=2 * 12 + 5)
    last = records(cut)[-1]
    assert last["step"] == 4 and "eval/gsm/accuracy" not in last
    go_on(lives, cut)
    assert_same(whole, cut)


def test_killed_while_a_checkpoint_is_written(lives: Lives, mixture: Path, whole: Path) -> None:
    cut = mixture / "in-a-checkpoint"
    life = live(lives, cut, path=".writing-step-000004/optimizer.safetensors")
    assert life["code"] == -9, life["said"]
    left = {place.name for place in (cut / "checkpoints").iterdir()}
    assert left == {"step-000002", ".writing-step-000004"}
    go_on(lives, cut)
    assert_same(whole, cut)
