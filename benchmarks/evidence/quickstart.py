"""How good is the quickstart after equal seconds, trained by this library and by TRL?"""

from __future__ import annotations

from benchmarks.evidence.frame import ROOT
from benchmarks.evidence.versus import Case, part_of

CASE = Case(
    recipe=ROOT / "recipes" / "quickstart.yaml",
    model=lambda: str(ROOT / "recipes" / "quickstart_base"),
    reward="countdown",
    trl_loss="dapo",
    points=(10, 20, 30, 40, 60),
    samples=4,
    threshold=0.5,
    tiny=(
        "steps=2",
        "sample.prompts=2",
        "sample.group_size=4",
        "data.held_out=4",
        "evaluate.samples=1",
    ),
)
PART = part_of(
    "quickstart",
    CASE,
    question="The quickstart by this library and by TRL: how accurate after equal seconds, how soon at 50 %?",
    minutes="16",
    seeds=(0, 1, 2, 3, 4),
)
