"""wandb's own process, stopped in the middle of a run, holds up neither the run nor the end of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_read_back import ROOT, environment

from grpo.report.trackers.registry import is_installed

SCRIPT = """
import sys
from pathlib import Path

import psutil
from tracked_lives import FakeRun, wait_until_seen

run = FakeRun(Path(sys.argv[1]), "log.wandb=true")
run.trackers._patience_seconds = 2
run.open(0)
run.live(0, 2, 0.5)
wait_until_seen(run)
for child in psutil.Process().children(recursive=True):
    if child.name() == "wandb-core":
        child.suspend()
run.live(2, 300, 0.5)
run.trackers.close()
print(*run.said, sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("wandb"), reason="wandb is not installed")
def test_a_service_that_stands_still_ends_neither_the_run_nor_keeps_its_process(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("warning: wandb took nothing for 2 s at the end of the run")
