"""Hostile programs and tools through a pool of environments, in the cage of ``contained.py``: the pool goes on."""

from __future__ import annotations

import json

import contained
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("mode", contained.modes())
def test_a_pool_survives_hostile_programs_and_tools_and_answers_the_next_call(mode):
    if contained.why_not(mode):
        pytest.skip(f"no outer namespace can be had: {contained.why_not(mode)}")
    done = contained.run(mode, ["tests/support/hostile_tools_run.py"], 200)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0 and records, done.stderr[-2000:]
    first, *results, last = records
    assert last == {"end": True}
    statuses = {result["name"]: result["status"] for result in results}
    assert len(results) == 19
    for result in results:
        assert result["next"] == "3", result
        assert not result["escaped"] or "L1" in first["isolation"][0], result
        assert result["bytes"] <= 16_384, result
    assert statuses["endless loop"] == "timeout"
    assert statuses["endless output"] == "error"
    assert statuses["binary output"] == "error"  # more of it than is read
    assert statuses["forks"] == "ok"
    assert statuses["shouts"] == "died"
