"""Lives of a tracked run without a model: what a run logs, sent to one tracker, killed, resumed, and read back.

Run as a script it forks, so that the tracker's package is imported once: a first life that is killed by SIGKILL in the
middle of its run, then, once the journals are cut back to the second step, one that makes the third to the sixth and
ends in peace, then one that goes on from there to the eighth. It prints as JSON what the tracker holds after each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Sequence

from tracker_readers import READERS

from grpo.recipe import Recipe
from grpo.report.trackers import Life, Trackers

NAME = "lives"
CHECKPOINT = 2
KILLED = 5
STEPS = 6
MORE_STEPS = 8
DEAD, TRUE = 0.25, 0.75
"""The reward of the life that is killed, and of the one that counts from the checkpoint on."""


def record_of(step: int, reward: float) -> dict[str, Any]:
    """A step's record, with what no tracker takes among it."""
    nothing = {"policy/kl": None, "policy/drift": float("nan"), "reward/std": float("inf")}
    return {"step": step, "reward/mean": reward, "metric/an odd (name)": step, **nothing}


def evaluation_of(step: int, accuracy: float) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "low": accuracy - 0.125, "high": accuracy + 0.125}
    return {"step": step, **{f"heldout/{name}": value for name, value in figures.items()}}


def completions_of(step: int, reward: float) -> list[dict[str, Any]]:
    """Twelve completions, a half surrogate pair and markup among them."""
    text = "<script>alert(1)</script> | \ud83d\nsecond line"
    row = {"step": step, "prompt": "1 + 1 =", "completion": text, "status": "scored"}
    return [{**row, "index": index, "reward": reward + index / 100} for index in range(12)]


class FakeRun:
    """Writes the files of a run folder, and tells its trackers, as ``grpo.run.log`` does."""

    def __init__(self, folder: Path, *overrides: str):
        self.folder = folder
        self.recipe = Recipe.from_mapping({"name": NAME}, f"run_dir={folder}", *overrides)
        self.trackers = Trackers(self.recipe.log, folder, patience_seconds=20.0)
        self.said: list[str] = []

    def open(self, step: int, **due: bool) -> None:
        (self.folder / "recipe.yaml").write_text("name: lives\n")
        life = Life(self.recipe.to_mapping(), NAME, step, **due)
        self.trackers.open(life, lambda *lines: self.said.extend(lines))

    def step(self, step: int, reward: float) -> None:
        rows = completions_of(step, reward)
        record = record_of(step, reward)
        self.write("samples.jsonl", rows)
        self.write("metrics.jsonl", [record])
        self.trackers.step(record, rows)

    def evaluate(self, step: int, accuracy: float) -> None:
        rows = completions_of(step, accuracy)
        metrics = evaluation_of(step, accuracy)
        self.write("evaluations.jsonl", [{"set": "heldout", **row} for row in rows])
        self.write("metrics.jsonl", [metrics])
        self.trackers.evaluation(step, metrics, {"heldout": rows})

    def write(self, file: str, rows: Sequence[dict[str, Any]]) -> None:
        with (self.folder / file).open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)

    def cut_back(self, step: int) -> None:
        """As a resume does: the journals end with the checkpoint."""
        for file in self.folder.glob("*.jsonl"):
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))

    def live(self, start: int, end: int, reward: float) -> None:
        """The steps after `start` up to `end`, with an evaluation before the first step of all and after every second."""
        if not start:
            self.evaluate(0, reward / 2)
        for step in range(start + 1, end + 1):
            self.step(step, reward)
            if step % 2 == 0:
                self.evaluate(step, reward)


def killed_life(folder: Path, overrides: Sequence[str]) -> None:
    """A life in a forked process that dies with some of its last records on the way."""
    child = os.fork()
    if not child:
        run = FakeRun(folder, *overrides)
        run.open(0)
        run.live(0, KILLED, DEAD)
        wait_until_seen(run)
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


def wait_until_seen(run: FakeRun) -> None:
    """Until the tracker has taken what it was sent, so that the dead branch is really there."""
    for delivery in run.trackers._deliveries.values():
        while delivery._jobs.qsize() or delivery._backlog:
            signal.sigtimedwait([], 0.01)
    signal.sigtimedwait([], 0.7)  # trackio writes twice a second


def resumed_life(folder: Path, overrides: Sequence[str], start: int, end: int) -> FakeRun:
    run = FakeRun(folder, *overrides)
    run.cut_back(start)
    run.open(start)
    run.live(start, end, TRUE)
    (folder / "report.html").write_text("<p>report</p>")
    run.trackers.close()
    return run


def main(name: str, folder: Path, *overrides: str) -> None:
    import_module(name)
    read: Callable[[Path], dict[str, Any]] = READERS[name]
    killed_life(folder, overrides)
    held = {"killed": read(folder)}
    run = resumed_life(folder, overrides, CHECKPOINT, STEPS)
    held["resumed"] = read(folder)
    resumed_life(folder, overrides, STEPS, MORE_STEPS)
    held["continued"] = read(folder)
    print(json.dumps({**held, "said": run.said}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
