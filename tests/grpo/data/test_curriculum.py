"""Which prompts are sampled and which groups trained: refilling, over-sampling, pass rates, and all of it resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quick_runs import assert_same_run, recipe, records, run, summary

from grpo import Recipe, RecipeError, Trainer
from grpo.data.curriculum import Curriculum, PassRate
from grpo.data.stream import PromptStream
from grpo.types import Completion, Prompt, ScoredGroup
from rewards import Score

ROOT = Path(__file__).resolve().parents[3]


def group(name: str, values: list[float], shaped: list[float] | None = None) -> ScoredGroup:
    completions = tuple(Completion("", (1, 2), torch.zeros(2), "stop") for _ in values)
    return ScoredGroup(
        Prompt(name, (1,), {}),
        completions,
        tuple(Score(v) for v in shaped or values),
        tuple({"correct": Score(v)} for v in values),
    )


def curriculum(number: int = 6, **options) -> Curriculum:
    return Curriculum(
        PromptStream([Prompt(f"p{i}", (i,), {}) for i in range(number)], 0), "correct", **options
    )


def test_the_first_groups_that_spread_are_trained_and_the_others_accounted_for() -> None:
    groups = [
        group("a", [1, 1]),
        group("b", [1, 0]),
        group("c", [0, 0]),
        group("d", [0, 1]),
        group("e", [0, 1]),
    ]
    assert curriculum(flat="drop").choose(groups, 2) == ({0: "flat", 2: "flat", 4: "cancelled"}, 0)
    assert curriculum(flat="refill").choose(groups, 5) == ({0: "flat", 2: "flat"}, 2)
    assert curriculum(flat="keep").choose(groups, 2) == ({}, 0)


def test_noise_of_a_judge_and_masked_truncations_do_not_make_a_group_teach() -> None:
    assert not curriculum(flat="drop").teaches(group("a", [0.5, 0.5000001]))
    cut = group("b", [1, 1, 0])
    ends = [replace(completion, finish="stop") for completion in cut.completions]
    ends[2] = replace(ends[2], finish="length")
    cut = replace(cut, completions=tuple(ends))
    assert curriculum(flat="drop").teaches(cut)
    assert not curriculum(flat="drop", mask_truncated=True).teaches(cut)


def test_flat_by_accuracy_looks_through_a_shaped_score() -> None:
    shaped = group("a", [1, 1], [1.0, 0.7])
    assert curriculum(flat="drop").teaches(shaped)
    assert not curriculum(flat="drop", flat_by="accuracy").teaches(shaped)
    assert curriculum(flat="drop", flat_by="accuracy").teaches(group("a", [1, 0]))


def test_a_prompt_that_is_passed_retires_for_good() -> None:
    order = curriculum(retire_at=0.9)
    order.learn([group("p1", [1] * 9 + [0]), group("p2", [1, 0]), group("p3", [1, 1])])
    seen = {prompt.id for _ in range(6) for prompt in order.take(3)}
    assert seen == {"p0", "p2", "p4", "p5"} and order.num_retired == 2


def test_a_prompt_outside_the_band_waits_some_epochs_and_is_tried_again() -> None:
    order = curriculum(4, low=0.2, high=0.8, again=2)
    order.learn([group("p1", [0, 0]), group("p2", [1, 0])])
    epochs = [(order.stream.epoch, prompt.id) for _ in range(40) for prompt in order.take(1)]
    tried = [epoch for epoch, name in epochs if name == "p1"]
    assert (
        tried
        and min(tried) == 3
        and {name for epoch, name in epochs if epoch < 3} == {"p0", "p2", "p3"}
    )


def test_pass_rates_that_were_measured_before_count_as_the_last_sampling() -> None:
    rates = [0.0, 0.5, 1.0, None]
    prompts = [Prompt(f"p{n}", (3,), {"pass_rate": rate}) for n, rate in enumerate(rates)]
    of = Curriculum(PromptStream(prompts, seed=0), "", low=0.1, high=0.9, again=2)
    of.begin_with("pass_rate")
    assert sorted(prompt.id for prompt in of.take(2)) == ["p1", "p3"]
    later = {prompt.id for _ in range(4) for prompt in of.take(2)}
    assert later == {"p0", "p1", "p2", "p3"}  # those outside have waited
    with pytest.raises(RecipeError, match="no row has a value there"):
        Curriculum(PromptStream(prompts, seed=0), "").begin_with("solved")
    prompts[0].truth["pass_rate"] = 50
    with pytest.raises(RecipeError, match="lies between 0 and 1"):
        of.begin_with("pass_rate")


def test_pass_rates_add_up_over_all_samples() -> None:
    order = curriculum()
    order.learn([group("p1", [1, 0, 0])])
    order.learn([group("p1", [1, 1, 1])])
    assert order.history["p1"] == PassRate(4, 6, 1.0, 0) and order.history[
        "p1"
    ].overall == pytest.approx(2 / 3)


def test_a_refill_never_samples_a_prompt_twice_in_a_step() -> None:
    order = curriculum(6)
    first = order.take(4)
    again = order.take(4, [group(prompt.id, [1, 1]) for prompt in first])
    assert len(again) == 2 and not {p.id for p in first} & {p.id for p in again}
    assert order.take(1, [group(f"p{i}", [1, 1]) for i in range(6)]) == []


def test_when_every_prompt_has_retired_the_run_says_so() -> None:
    order = curriculum(2, retire_at=0.5)
    order.learn([group("p0", [1]), group("p1", [1])])
    with pytest.raises(RecipeError, match="no prompt is left to train on: of 2, 2 have retired"):
        order.take(1)


def test_the_history_goes_through_json() -> None:
    order, other = curriculum(retire_at=0.9, low=0.1), curriculum(retire_at=0.9, low=0.1)
    order.learn([group("p1", [1, 1]), group("p2", [0, 0])])
    other.restore(json.loads(json.dumps(order.state())))
    assert other.history == order.history


# ---- whole runs -------------------------------------------------------------------------------------------------

EASY = ["sample.group_size=3", "sample.prompts=5"]
VARIANTS = {
    "a band and a led entropy": [
        "data.pass_low=0.1",
        "data.pass_high=0.9",
        "data.pass_again=1",
        "loss.entropy_target=9",
        "loss.entropy=0.001",
        "loss.top_entropy=0.3",
        *EASY,
    ],
    "dapo, refilled": ["loss.preset=dapo", "loss.aggregation=token_mean", *EASY, "optim.updates=2"],
    "scalerl, retiring": [
        "loss.preset=scalerl",
        *EASY,
        "sample.oversample=0.5",
        "advantage.retire_at=0.6",
    ],
    "reinforce_pp": ["loss.preset=reinforce_pp", "loss.beta=0.1", "optim.updates=2", *EASY],
    "rloo": ["loss.preset=rloo", "loss.aggregation=sequence_sum", *EASY],
    "kl_cov": ["loss.policy=kl_cov", "loss.cov_share=0.1", "optim.updates=2", *EASY],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.thin(1)
def test_a_resumed_run_draws_and_learns_what_one_never_stopped_does(
    tmp_path: Path, variant: str
) -> None:
    overrides = VARIANTS[variant]
    run(tmp_path / "whole", *overrides)
    trainer = Trainer(recipe(tmp_path / "cut", *overrides))
    for record in trainer:
        if record["step"] == 3:
            break
    trainer.close()
    run(tmp_path / "cut", *overrides, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_refilled_groups_are_charged_in_tokens_and_ledger(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", "loss.preset=dapo", *EASY, "steps=3")
    rows = records(tmp_path / "run", "samples.jsonl")
    assert trainer.ledger["sampled"] == len(rows) > 3 * 5 * 3
    assert sum(n for outcome, n in trainer.ledger.items() if outcome != "sampled") == len(rows)
    assert summary(tmp_path / "run")["tokens"]["sampled"] == sum(row["num_tokens"] for row in rows)
    for record in records(tmp_path / "run"):
        mine = [row for row in rows if row["step"] == record["step"]]
        assert (
            len({(row["prompt_id"], row["index"]) for row in mine})
            == len(mine)
            == record["ledger/sampled"]
        )
        assert record["group/trained"] <= 5 and record["group/sampled"] <= 4 * 5
        assert (
            record["ledger/trained"]
            == 3 * record["group/trained"] - record["ledger/truncated_masked"]
            or record["ledger/truncated_masked"]
        )


def test_over_sampled_groups_that_are_not_needed_count_as_cancelled(tmp_path: Path) -> None:
    trainer = run(
        tmp_path / "run",
        "advantage.flat=drop",
        "sample.oversample=2",
        "sample.prompts=3",
        "steps=2",
        "sample.group_size=6",
    )
    assert trainer.ledger["sampled"] == 2 * 9 * 6 and trainer.ledger["cancelled"] > 0
    assert all(record["group/trained"] <= 3 for record in records(tmp_path / "run"))


@pytest.mark.slow
def test_a_teacher_pulls_the_policy_to_itself(tmp_path: Path) -> None:
    run(tmp_path / "teacher", "steps=6", "optim.lr=1e-3", "sample.prompts=16")
    teacher = tmp_path / "teacher" / "final"
    trainer = run(
        tmp_path / "run",
        "loss.policy=none",
        f"loss.teacher={teacher}",
        "steps=6",
        "optim.lr=1e-3",
        "sample.prompts=16",
    )
    kls = [record["policy/teacher_kl"] for record in records(tmp_path / "run")]
    assert (
        kls[-1] < 0.7 * kls[0]
        and trainer.ledger["trained"] + trainer.ledger["flat"] == trainer.ledger["sampled"]
    )


def test_a_teacher_with_other_tokens_is_refused(tmp_path: Path) -> None:
    from small_updates import tiny_policy

    tiny_policy(torch.float32).save(tmp_path / "other")
    with pytest.raises(RecipeError, match="loss.teacher .* has another tokenizer"):
        run(tmp_path / "run", f"loss.teacher={tmp_path / 'other'}")


def test_all_truncated_and_masked_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    trainer = run(
        tmp_path / "run",
        "sample.max_tokens=3",
        "advantage.mask_truncated=true",
        "loss.beta=0.1",
        "data.held_out=0",
    )
    first = Trainer(
        Recipe.load(
            ROOT / "recipes" / "quickstart.yaml",
            "steps=0",
            f"run_dir={tmp_path / 'base'}",
            "data.held_out=0",
        )
    )
    list(first)
    assert trainer.ledger["truncated_masked"] == trainer.ledger["sampled"]
    assert all(record["update/made"] == 0 for record in records(tmp_path / "run"))
    theirs = first.policy.trainable()
    assert all(torch.equal(theirs[name], p) for name, p in trainer.policy.trainable().items())


@pytest.mark.parametrize("preset", ["r1", "r1_zero", "deepseekmath", "dr_grpo", "gspo", "cispo"])
@pytest.mark.thin(3)
def test_every_preset_makes_updates_and_its_ledger_adds_up(tmp_path: Path, preset: str) -> None:
    values = recipe(tmp_path / "run", "steps=1", "data.held_out=0").to_mapping()
    values["loss"], values["advantage"] = {"preset": preset}, {}
    trainer = Trainer(Recipe.from_mapping(values))
    (record,) = list(trainer)
    assert record["update/made"] == 1 and record["update/grad_norm"] > 0
    assert (
        record["correction/ess"] > 0.999
        and record["correction/dropped"] == 0
        and abs(record["correction/lost"]) < 1e-3
    )
    assert (
        sum(n for outcome, n in trainer.ledger.items() if outcome != "sampled")
        == trainer.ledger["sampled"]
    )
