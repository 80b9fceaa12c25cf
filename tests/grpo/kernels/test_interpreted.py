"""Runs the tests of ``interpreted/`` in a process where Triton's interpreter is on before triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))


def interpret(file: str, marked: str, seed: int) -> None:
    versions = [
        tuple(map(int, pytest.importorskip(name).__version__.split(".")[:2]))
        for name in ("triton", "numpy")
    ]
    if versions[0] < (3, 7) and versions[1] >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 cannot loop to a run-time bound with numpy 2.4")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "GRPO_TEST_SEED": str(seed),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            marked,
            str(FOLDER / file),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(done.stdout[-8000:], done.stderr[-2000:])
    assert done.returncode == 0 and " passed" in done.stdout and " skipped" not in done.stdout


@pytest.mark.parametrize("file", FILES)
@pytest.mark.slow
def test_kernels_match_their_references_in_tritons_interpreter(file, seed):
    interpret(file, "not slow", seed)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_kernels_match_their_references_at_more_shapes(file, seed):
    interpret(file, "slow", seed)
