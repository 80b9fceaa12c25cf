"""Runs the tests of ``tests/interpreted`` with Triton's interpreter on: it must be so before triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_kernels_match_their_references_in_tritons_interpreter(file, seed):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GRPO_TEST_SEED": str(seed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file)],
                          env=environment, capture_output=True, text=True)
    print(done.stdout[-8000:], done.stderr[-2000:])
    assert done.returncode == 0 and " passed" in done.stdout and " skipped" not in done.stdout
