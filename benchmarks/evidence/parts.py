"""All parts by name, in the order of the page."""

from __future__ import annotations

from typing import Mapping

from benchmarks.evidence import (
    code_tasks,
    faults,
    presets,
    quickstart,
    smollm2_sums,
    solvable,
    word_problems,
)
from benchmarks.evidence.frame import Part

ALL = (
    solvable.PART,
    faults.PART,
    quickstart.PART,
    presets.PART,
    smollm2_sums.PART,
    word_problems.PART,
    code_tasks.PART,
)
PARTS: Mapping[str, Part] = {part.name: part for part in ALL}
