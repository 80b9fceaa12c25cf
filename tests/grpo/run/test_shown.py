"""A Trainer in a notebook: what it shows and plots in the middle of a run, after it, and after a resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from quick_runs import recipe

from grpo import Trainer
from grpo.report.plots.curves import PANELS


def drawn(trainer: Trainer, panel: str) -> list[tuple[float, float]]:
    [axis] = trainer.plot(panels=[panel]).axes
    assert axis.get_title() == PANELS[panel].title
    return list(zip(*axis.get_lines()[-1].get_data()))


def shown(trainer: Trainer) -> str:
    """The text of what a notebook shows."""
    return re.sub(r"<[^>]+>", " ", trainer._repr_html_())


def rewards(records: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(record["step"], record["reward/mean"]) for record in records]


def test_a_run_is_shown_and_plotted_at_any_time(tmp_path: Path) -> None:
    trainer = Trainer(recipe(tmp_path / "run"), quiet=True)
    assert "0 of 4 steps not open" in " ".join(shown(trainer).split())
    assert trainer.evaluations == {} and len(trainer.plot().texts) > 0
    trainer.open()
    before = trainer.evaluations["heldout"]
    assert before.accuracy == trainer.before["accuracy"] and len(before.groups) == 12
    records = []
    for record in trainer:
        records.append(record)
        if record["step"] == 2:
            break
    assert "2 of 4 steps open" in " ".join(shown(trainer).split())
    assert drawn(trainer, "reward") == rewards(records)
    assert [step for step, _ in drawn(trainer, "accuracy")] == [0, 2]
    records += list(trainer)
    text = " ".join(shown(trainer).split())
    assert "4 of 4 steps finished" in text and "held-out, step 4" in text
    assert f"completions: {trainer.ledger['sampled']} sampled" in text
    assert drawn(trainer, "reward") == rewards(records)

    resumed = Trainer(recipe(tmp_path / "run", "steps=5"), quiet=True, resume=True)
    assert "4 of 5 steps not open" in " ".join(shown(resumed).split())
    records += list(resumed)
    assert drawn(resumed, "reward") == rewards(records)
    assert resumed.evaluations["heldout"].accuracy == resumed.after["accuracy"]
