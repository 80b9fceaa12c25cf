"""Writes event files until a limit on their size, fails, lifts the limit and goes on; prints what was taken and is read."""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

from tracker_readers import read_tensorboard

from grpo.recipe import TensorboardSection
from grpo.report.trackers import Opening, Point
from grpo.report.trackers.tensorboard_run import open_run

LIMIT = 3000


def main(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = open_run(TensorboardSection(), Opening(folder, "x", {}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, most))
    taken: list[int] = []
    failed = 0
    for step in range(1, 101):
        while step not in taken and failed < 5:
            try:
                run.log([Point(step, {"reward/mean": 0.5}, 0.0)])
                taken.append(step)
            except OSError:
                failed += 1
            if failed == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    read = read_tensorboard(folder)["tensorboard"]["values"]["reward/mean"]
    print(json.dumps({"taken": taken, "failed": failed, "read": [step for step, _ in read]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
