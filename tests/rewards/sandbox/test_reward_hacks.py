"""Programs that cheat score nothing: ``hacks_inside.py``, run in the cage, as root and as an ordinary user."""

from __future__ import annotations

import contained
import pytest

OPTIONS = ["-q", "--no-header", "-p", "no:cacheprovider", "-o", "addopts="]


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=[pytest.mark.slow] if mode == "root" else [])
        for mode in contained.modes()
    ],
)
@pytest.mark.slow
def test_no_program_that_cheats_is_paid(mode):
    if contained.why_not(mode):
        pytest.skip(contained.why_not(mode))
    done = contained.run(mode, ["-m", "pytest", *OPTIONS, "tests/support/hacks_inside.py"], 200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
