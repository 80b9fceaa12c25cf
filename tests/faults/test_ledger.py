"""The ledger: it sums after every step, finds what is lost or doubled, and goes on where it was."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import recipe, run

from grpo import Trainer
from grpo.learner.batch import make_batch
from grpo.run.ledger import Ledger, LedgerError
from grpo.types import OUTCOMES, Batch, Completion, Prompt, ScoredGroup
from rewards import Score


def scored(rng: random.Random, number: int) -> list[ScoredGroup]:
    """Random groups with completions of every fate."""
    groups = []
    for g in range(number):
        finishes = [
            rng.choice(["stop", "stop", "length", "cancelled", "error"])
            for _ in range(rng.randint(1, 5))
        ]
        completions = tuple(
            Completion("", (5,) * rng.randint(1, 4), torch.zeros(0), finish) for finish in finishes
        )
        completions = tuple(
            replace(c, sampled_logps=torch.zeros(len(c.token_ids))) for c in completions
        )
        scores = tuple(
            Score(None, status="fault")
            if finish in ("cancelled", "error")
            else Score(rng.choice([0.0, 1.0]))
            for finish in finishes
        )
        groups.append(ScoredGroup(Prompt(f"p{g}", (1, 2), {}), completions, scores))
    return groups


def booked(rng: random.Random) -> tuple[list[ScoredGroup], Batch]:
    groups = scored(rng, rng.randint(1, 6))
    values = [
        [0.0 if score.value is None else score.value - 0.5 for score in group.scores]
        for group in groups
    ]
    left_out = {
        g: rng.choice(["flat", "cancelled"]) for g in range(len(groups)) if rng.random() < 0.3
    }
    return groups, make_batch(
        groups,
        values,
        num_updates=1,
        epochs=1,
        max_tokens=4,
        mask_truncated=rng.random() < 0.5,
        forward_flat=True,
        left_out=left_out,
    )


def test_the_books_of_many_steps_are_those_counted_one_by_one(seed: int) -> None:
    rng, ledger, by_hand, begun = (
        random.Random(seed),
        Ledger(),
        dict.fromkeys(("sampled", *OUTCOMES), 0),
        0,
    )
    for step in range(20):
        groups, batch = booked(rng)
        in_flight = rng.randint(0, 3)
        sampled = sum(len(group.completions) for group in groups)
        ledger.begin(sampled + in_flight - (begun - by_hand["sampled"]))
        ledger.add(step, sampled, batch, in_flight)
        for row in batch.rows:
            by_hand[row.outcome] += 1
        by_hand["sampled"] += sampled
        begun = by_hand["sampled"] + in_flight
        assert dict(ledger) == by_hand and sum(by_hand.values()) == 2 * by_hand["sampled"]
    other = Ledger()
    other.restore(json.loads(json.dumps(ledger.state())))
    assert dict(other) == by_hand and other.begun == ledger.begun == begun


def lost(groups, batch: Batch):
    return groups[1:], batch, 0


def doubled(groups, batch: Batch):
    rows = (*batch.rows, batch.rows[0])
    return groups, replace(batch, rows=rows, ledger={**batch.ledger, "sampled": len(rows)}), 0


def misbooked(groups, batch: Batch):
    return (
        groups,
        replace(batch, ledger={**batch.ledger, "trained": batch.ledger["trained"] + 1}),
        0,
    )


def unknown(groups, batch: Batch):
    return (
        groups,
        replace(batch, rows=(replace(batch.rows[0], outcome="elsewhere"), *batch.rows[1:])),
        0,
    )


def forgotten(groups, batch: Batch):
    return groups, batch, 1


@pytest.mark.parametrize("fault", [lost, doubled, misbooked, unknown, forgotten])
def test_what_does_not_sum_is_an_error_of_its_own_name(seed: int, fault) -> None:
    groups, batch = booked(random.Random(seed))
    ledger = Ledger()
    ledger.begin(len(batch.rows))
    with pytest.raises(LedgerError, match="step 3: the ledger does not sum: .*bug of the library"):
        groups, *others = fault(groups, batch)
        ledger.add(3, sum(len(group.completions) for group in groups), *others)


def test_a_group_that_the_engine_loses_stops_the_run(reward: Path) -> None:
    """The engine drops a group that it was asked for; nothing else would notice."""
    trainer = Trainer(
        recipe(
            reward / "run", "sample.over_request=0.5", "sample.max_rows=8", "sample.max_tokens=24"
        )
    )
    records = iter(trainer)
    while (
        not trainer.progress.partial_groups
    ):  # in which step depends on the last bits of the log-probs
        next(records)
    trainer.progress.partial_groups = trainer.progress.partial_groups[1:]
    with pytest.raises(LedgerError, match="step [2-4]: .* completions begun"):
        next(records)


def test_the_summary_has_the_books_of_all_steps_and_the_console_says_them(
    reward: Path, capsys
) -> None:
    run(
        reward / "run",
        "advantage.flat=refill",
        "rewards.correct.use=mine.py:faulty",
        "sample.prompts=5",
        "sample.group_size=4",
        "sample.max_tokens=24",
        "advantage.mask_truncated=true",
    )
    ledger = json.loads((reward / "run" / "summary.json").read_text())["ledger"]
    rows = [
        json.loads(line) for line in (reward / "run" / "samples.jsonl").read_text().splitlines()
    ]
    lines = (reward / "run" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "reward/mean" in record]
    assert ledger == {
        outcome: sum(record[f"ledger/{outcome}"] for record in records)
        for outcome in ("sampled", *OUTCOMES)
    }
    assert len(rows) == ledger["sampled"] == sum(ledger[outcome] for outcome in OUTCOMES)
    assert ledger["faulted"] == sum(row["status"] == "fault" for row in rows) > 0
    said = capsys.readouterr().out
    assert f"{ledger['sampled']} completions sampled: {ledger['trained']} trained, " in said
    assert f"{ledger['flat']} in zero-variance groups" in said
    assert f"{ledger['faulted']} not scored" in said
