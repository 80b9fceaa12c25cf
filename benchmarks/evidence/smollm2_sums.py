"""SmolLM2-135M learns sums, by this library and by TRL: accuracy against seconds. Needs ``make smollm2``."""

from __future__ import annotations

from benchmarks.evidence import smollm2
from benchmarks.evidence.frame import ROOT
from benchmarks.evidence.versus import Case, part_of

CASE = Case(
    recipe=ROOT / "recipes" / "smollm2_arithmetic.yaml",
    model=smollm2.folder,
    reward="sums",
    trl_loss="grpo",
    points=(5, 10),
    samples=2,
    threshold=0.5,
    tiny=(
        "steps=2",
        "sample.prompts=1",
        "sample.group_size=2",
        "sample.max_tokens=4",
        "data.held_out=2",
        "data.template=plain",
        "evaluate.samples=1",
    ),
)
PART = part_of(
    "smollm2_sums",
    CASE,
    question="SmolLM2-135M learns sums, by this library and by TRL: how accurate after equal seconds?",
    minutes="45",
    seeds=(0, 1, 2),
    lacks=smollm2.lacks,
)
