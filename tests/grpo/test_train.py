"""Whole runs of the quickstart's model: determinism, resume, the run folder, stopping, the Python interface."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from quick_runs import QUICK, ROOT, assert_same_run, recipe, records, run, summary, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import Recipe, RecipeError, Trainer
from grpo.train import main
from grpo.types import ScoredGroup

VARIANTS = {
    "plain": [],
    "two updates, two epochs, KL": [
        "optim.updates=2",
        "optim.epochs=2",
        "loss.beta=0.02",
        "loss.reference_every=3",
        "optim.schedule=cosine",
        "optim.warmup=2",
    ],
    "lora": ["model.lora.rank=4", "loss.beta=0.01"],
    "bfloat16": ["model.dtype=bfloat16"],
    "float16": ["model.dtype=float16"],
    "over-requested": ["sample.over_request=0.5", "sample.max_rows=16", "steps=5"],
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run that came to its end; its folder is for reading."""
    return run(tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.thin(1)
def test_a_resumed_run_equals_one_never_stopped(
    tmp_path: Path, plain: Trainer, variant: str
) -> None:
    whole = plain.folder
    if variant != "plain":
        whole = tmp_path / "whole"
        run(whole, *VARIANTS[variant])
    trainer = Trainer(recipe(tmp_path / "cut", *VARIANTS[variant]))
    for record in trainer:
        if record["step"] == 3:
            break  # one step past the checkpoint, which the resumed run must make again
    trainer.close()
    run(tmp_path / "cut", *VARIANTS[variant], resume=True)
    assert_same_run(whole, tmp_path / "cut")


def test_groups_that_a_step_did_not_wait_for_go_on_in_the_next_and_none_is_lost(
    tmp_path: Path,
) -> None:
    trainer = Trainer(
        recipe(
            tmp_path / "run",
            "sample.over_request=0.5",
            "sample.max_rows=16",
            "steps=2",
            "evaluate.every=1",
        )
    )
    names, carried = [], []
    for record in trainer:
        names += [group.prompt.id for group in trainer.groups]
        assert len(trainer.groups) >= 6 and record["ledger/sampled"] == 4 * len(trainer.groups)
        spans = [c.versions for group in trainer.groups for c in group.completions]
        old = [versions for versions in spans if len(versions) > 1]
        assert all(first[0] < second[0] and first[2] == second[1] for first, second, *_ in old)
        assert record["completion/carried"] == len(old)
        carried.append(len(old))
    assert any(carried) and not carried[0]
    left = [group.prompt.id for group in trainer.progress.partial_groups]
    ledger = summary(tmp_path / "run")["ledger"]
    assert left and ledger["cancelled"] == 4 * len(left)
    assert ledger["sampled"] == 4 * (len(names) + len(left))
    drawn = trainer.curriculum.stream.prompts  # the first epoch, in its order
    assert len(set(names + left)) == len(names + left) <= len(drawn)


def test_the_same_seed_gives_the_same_run_twice_and_another_seed_another(
    tmp_path: Path, plain: Trainer
) -> None:
    run(tmp_path / "again")
    assert_same_run(plain.folder, tmp_path / "again")
    run(tmp_path / "other", "seed=1", "steps=1", "evaluate.before=false")
    other = records(tmp_path / "other", "samples.jsonl")
    assert len(other) == 24 and other != records(plain.folder, "samples.jsonl")[:24]


@pytest.mark.parametrize("changed", ["sample.max_rows=8", "optim.tokens_per_micro_batch=100"])
@pytest.mark.thin(1)
def test_settings_of_speed_and_memory_change_no_token(tmp_path: Path, changed: str) -> None:
    run(tmp_path / "a", "steps=1")
    run(tmp_path / "b", "steps=1", changed)
    assert records(tmp_path / "a", "samples.jsonl") == records(tmp_path / "b", "samples.jsonl")


def test_the_run_folder_holds_what_it_should(plain: Trainer) -> None:
    folder = plain.folder
    assert {p.name for p in folder.iterdir()} - {"alarms.jsonl"} == {
        "recipe.yaml",
        "metrics.jsonl",
        "samples.jsonl",
        "evaluations.jsonl",
        "console.log",
        "status.json",
        "environment.jsonl",
        "costs.jsonl",
        "report.html",
        "checkpoints",
        "final",
        "summary.json",
    }
    assert Recipe.load(folder / "recipe.yaml") == plain.recipe
    assert [record["step"] for record in records(folder)] == [1, 2, 3, 4]
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == [
        "step-000002",
        "step-000004",
    ]
    result = summary(folder)
    for when in ("before", "after"):
        assert result[when]["low"] <= result[when]["accuracy"] <= result[when]["high"]
        assert result[when]["samples"] == 24
    assert len(result["examples"]["before"]) == len(result["examples"]["after"]) == 3


def test_every_sampled_completion_is_written_and_booked_once(tmp_path: Path) -> None:
    trainer = run(
        tmp_path / "run", "steps=2", "advantage.mask_truncated=true", "sample.max_tokens=20"
    )
    rows = records(tmp_path / "run", "samples.jsonl")
    assert len(rows) == 2 * 6 * 4 == trainer.ledger["sampled"]
    assert (
        sum(n for outcome, n in trainer.ledger.items() if outcome != "sampled")
        == trainer.ledger["sampled"]
    )
    assert trainer.ledger["truncated_masked"] == sum(row["finish"] == "length" for row in rows) > 0
    for record in records(tmp_path / "run"):
        outcomes = [
            record[key] for key in record if key.startswith("ledger/") and key != "ledger/sampled"
        ]
        assert sum(outcomes) == record["ledger/sampled"] == 24
    assert summary(tmp_path / "run")["tokens"]["sampled"] == sum(row["num_tokens"] for row in rows)


def test_the_final_model_loads_in_plain_transformers_and_writes_the_same(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", "model.lora.rank=4")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "final")
    group = trainer.groups[0]
    ids = torch.tensor([[*group.prompt.token_ids, *group.completions[0].token_ids]])
    assert tokenizer(group.prompt.text)["input_ids"] == list(group.prompt.token_ids)
    merged = model(input_ids=ids).logits
    trainer.policy.base.set_attn_implementation("sdpa")
    live = trainer.policy.model(input_ids=ids).logits
    assert (merged - live).abs().max() <= 5e-5  # logits up to 15, summed by two libraries


def test_a_run_folder_is_never_overwritten(plain: Trainer) -> None:
    before = (plain.folder / "samples.jsonl").read_bytes()
    with pytest.raises(RecipeError, match="exists; continue it with --resume"):
        Trainer(recipe(plain.folder))
    assert (plain.folder / "samples.jsonl").read_bytes() == before


def test_resume_refuses_another_recipe_and_shows_the_difference(
    tmp_path: Path, plain: Trainer
) -> None:
    with pytest.raises(RecipeError, match=r"optim\.lr was 0\.0003, is 0\.001"):
        Trainer(recipe(plain.folder, "optim.lr=1e-3"), resume=True)
    with pytest.raises(RecipeError, match="no run to resume"):
        Trainer(recipe(tmp_path / "nowhere"), resume=True)


def test_a_finished_run_can_be_made_longer(tmp_path: Path, plain: Trainer) -> None:
    run(tmp_path / "longer", "steps=2")
    run(tmp_path / "longer", "steps=4", resume=True)
    assert records(plain.folder) == records(tmp_path / "longer")
    first, second = weights(plain.folder), weights(tmp_path / "longer")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_iteration_may_be_broken_off_and_gone_on_with(tmp_path: Path, plain: Trainer) -> None:
    trainer = Trainer(recipe(tmp_path / "a"))
    steps = []
    for record in trainer:
        steps.append(record["step"])
        if len(steps) == 2:
            break
    for record in trainer:
        steps.append(record["step"])
    assert steps == [1, 2, 3, 4] and (tmp_path / "a" / "summary.json").exists()
    assert list(trainer) == []
    assert records(tmp_path / "a") == records(plain.folder)


def test_rewards_model_and_tokenizer_may_come_from_python(tmp_path: Path) -> None:
    folder = ROOT / "recipes" / "quickstart_base"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    plain = recipe(tmp_path / "run", "steps=2").to_mapping()
    plain["rewards"], plain["model"]["name"] = {}, None
    seen = []

    def shorter(text: str, num_tokens: int) -> float:
        seen.append(num_tokens)
        return -num_tokens / 40

    trainer = Trainer(
        Recipe.from_mapping(plain), rewards={"shorter": shorter}, model=model, tokenizer=tokenizer
    )
    result = list(trainer)
    assert len(seen) >= 48 and result[0]["rewards/shorter"] == pytest.approx(
        result[0]["reward/mean"]
    )
    assert [group.scores[0].value for group in trainer.groups] == [
        -len(group.completions[0].token_ids) / 40 for group in trainer.groups
    ]


def test_a_policy_learns_what_is_rewarded(tmp_path: Path) -> None:
    def long(text: str, num_tokens: int) -> float:
        return num_tokens / 40

    trainer = Trainer(
        recipe(
            tmp_path / "run",
            "steps=10",
            "sample.prompts=16",
            "sample.group_size=8",
            "optim.lr=1e-3",
            "data.held_out=0",
        ),
        rewards={"correct": long},
    )
    lengths = [record["completion/length"] for record in trainer]
    assert sum(lengths[-3:]) / 3 > 1.2 * lengths[0]


def test_rewards_that_fail_stop_the_run_with_the_culprit_named(tmp_path: Path) -> None:
    def broken(text: str) -> float:
        raise KeyError("no such thing")

    trainer = Trainer(recipe(tmp_path / "run", "data.held_out=0"), rewards={"broken": broken})
    with pytest.raises(
        RuntimeError,
        match=r"24 of 24 completions could not be judged.*rewards\.broken.*no such thing",
    ):
        list(trainer)
    rows = records(tmp_path / "run", "samples.jsonl")
    assert len(rows) == 24 and all(
        row["reward"] is None and row["status"] == "fault" for row in rows
    )


def test_the_faults_of_a_step_are_counted_alike_in_reward_and_ledger(tmp_path: Path) -> None:
    def sometimes(text: str) -> float:
        return float("nan") if len(text) % 11 == 0 else float(len(text) % 2)

    trainer = Trainer(
        recipe(tmp_path / "run", "steps=2", "data.held_out=0"), rewards={"correct": sometimes}
    )
    result = list(trainer)
    assert sum(record["ledger/faulted"] for record in result) >= 1
    assert all(record["reward/faults"] == record["ledger/faulted"] for record in result)


def without_faults(groups: list[ScoredGroup]) -> list[ScoredGroup]:
    """The groups as if the completions with a fault had never been sampled."""
    left = []
    for group in groups:
        good = [i for i, score in enumerate(group.scores) if score.status != "fault"]
        if good:
            columns = (group.completions, group.scores, group.verdicts)
            left.append(ScoredGroup(group.prompt, *(tuple(c[i] for i in good) for c in columns)))
    return left


def test_a_faulted_completion_changes_the_weights_as_little_as_one_never_sampled(
    tmp_path: Path,
) -> None:
    def sometimes(text: str) -> float:
        return float("nan") if len(text) % 7 == 0 else float(len(text) % 2)

    overrides = ["steps=1", "data.held_out=0", "gates.faults.upto=off"]
    rewards = {"correct": sometimes}
    trainer = Trainer(recipe(tmp_path / "masked", *overrides), rewards=rewards)
    (record,) = trainer
    assert record["ledger/faulted"] >= 1 and record["update/made"] == 1
    batch = trainer._make_batch(trainer.groups, {})
    faulted = [row for row in batch.rows if row.outcome == "faulted"]
    assert len(faulted) == record["ledger/faulted"]
    assert not any(row.mask or row.forwarded or row.advantage for row in faulted)
    other = Trainer(recipe(tmp_path / "absent", *overrides), rewards=rewards)
    other.open()
    batch = other._make_batch(without_faults(trainer.groups), {})
    assert not any(row.outcome == "faulted" for row in batch.rows)
    other.learner.begin(batch)
    other.learner.update(batch.updates[0])
    other.close()
    masked, absent = trainer.policy.trainable(), other.policy.trainable()
    assert all(torch.equal(masked[name], absent[name]) for name in masked)


@pytest.mark.slow
def test_sigterm_ends_the_step_saves_and_exits_with_3_and_resume_goes_on_bit_for_bit(
    tmp_path: Path,
) -> None:
    command = [
        sys.executable,
        "-m",
        "grpo.train",
        str(ROOT / "recipes" / "quickstart.yaml"),
        *QUICK,
        "steps=500",
        "checkpoint.every=0",
        "evaluate.every=0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, f"run_dir={tmp_path / 'cut'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (
        metrics.exists() and metrics.read_text().count("\n") >= 2
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert "To resume: python -m grpo.train" in errors and "--resume" in errors
    stopped_after = len(records(tmp_path / "cut"))
    assert 1 <= stopped_after < 500
    assert (
        main(
            [*command[3:], f"run_dir={tmp_path / 'cut'}", f"steps={stopped_after + 2}", "--resume"]
        )
        == 0
    )
    assert main([*command[3:], f"run_dir={tmp_path / 'whole'}", f"steps={stopped_after + 2}"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_resume_cannot_use(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "grpo.train",
        str(ROOT / "recipes" / "quickstart.yaml"),
        *QUICK,
        "steps=40",
        "checkpoint.every=1",
        "evaluate.every=0",
        f"run_dir={tmp_path / 'cut'}",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (
        metrics.exists() and metrics.read_text().count("\n") >= 3
    ):
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = len(records(tmp_path / "cut")) if metrics.read_text().endswith("\n") else 3
    last = f"steps={done + 2}"
    assert main([*command[3:], last, "--resume"]) == 0
    assert main([*command[3:-1], f"run_dir={tmp_path / 'whole'}", last]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_zero_steps_evaluate_and_write_the_base(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", "steps=0")
    assert trainer.before == trainer.after
    base = AutoModelForCausalLM.from_pretrained(ROOT / "recipes" / "quickstart_base").state_dict()
    assert all(torch.equal(base[name], value) for name, value in weights(tmp_path / "run").items())


def test_nothing_held_out_means_no_evaluation(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", "steps=1", "data.held_out=0")
    result = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (
        result["before"] is None
        and result["after"] is None
        and trainer.inputs.prompts.held_out == ()
    )


def test_a_long_stop_string_and_filters_train(tmp_path: Path) -> None:
    trainer = run(
        tmp_path / "run",
        "steps=2",
        "sample.stop=['answer (']",
        "sample.top_k=20",
        "sample.top_p=0.9",
        "sample.min_p=0.01",
        "sample.temperature=0.8",
    )
    stops = {completion.stop for group in trainer.groups for completion in group.completions}
    assert "answer (" in stops
    drifts = [
        record["policy/drift"] for record in records(tmp_path / "run") if record["update/made"]
    ]
    assert drifts and max(drifts) < 1e-4


# ---- what there is before and after opening -------------------------------------------------------------------


def test_a_trainer_says_that_it_must_be_opened_and_open_does_it_once(tmp_path: Path) -> None:
    trainer = Trainer(recipe(tmp_path / "run", "steps=1"))
    for part in ("policy", "engine", "learner", "scorer", "curriculum", "gates"):
        with pytest.raises(RuntimeError, match=r"not open yet.*call open\(\) or start to iterate"):
            getattr(trainer, part)
    assert trainer.before is None and trainer.num_steps == 0
    trainer.open()
    policy, before = trainer.policy, trainer.before
    assert before is not None and policy.version == 0
    trainer.open()
    (record,) = trainer
    assert trainer.policy is policy and trainer.before is before and record["step"] == 1


def test_a_trainer_that_cannot_be_opened_leaves_the_folder_to_others(tmp_path: Path) -> None:
    first = Trainer(recipe(tmp_path / "run", "steps=1"))
    second = Trainer(recipe(tmp_path / "run", "steps=1"))
    first.open()
    with pytest.raises(RecipeError, match="another run is active"):
        second.open()
    first.close()
    assert len(list(Trainer(recipe(tmp_path / "run", "steps=1"), resume=True))) == 1


# ---- rewards that look at the trainer -------------------------------------------------------------------------


def test_a_reward_in_trls_style_sees_the_step_and_its_metrics_reach_the_record(
    tmp_path: Path,
) -> None:
    seen: list[tuple[int, int]] = []

    def mine(completions, trainer_state, log_metric, **columns):
        seen.append((trainer_state.global_step, len(completions)))
        log_metric("seen", trainer_state.global_step)
        return [float(len(text) % 2) for text in completions]

    trainer = Trainer(
        recipe(tmp_path / "run", "steps=3", "evaluate.every=1"), rewards={"correct": mine}
    )
    result = list(trainer)
    assert [record["metric/seen"] for record in result] == [1, 2, 3]
    trained = [step for step, size in seen if size == 4]
    assert trained == [1] * 6 + [2] * 6 + [3] * 6
    evaluated = [step for step, size in seen if size == 2]
    assert sorted(set(evaluated)) == [0, 1, 2, 3]
    written = records(tmp_path / "run")
    assert [record["metric/seen"] for record in written] == [1, 2, 3]
