"""A run of distillation: on the policy's own completions and from traces, resume, records, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from distill_runs import make_teacher, recipe, run
from sft_runs import TINY as TINY_TRACES
from sft_runs import run as run_sft
from small_runs import assert_same
from small_updates import tiny_policy
from transformers import AutoConfig

from grpo import Recipe, RecipeError, SftTrainer, Trainer
from grpo.cli import main
from grpo.stages import trainer_of


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher") / "model", noise=0.3)


@pytest.fixture(scope="module")
def whole(teacher: Path) -> Path:
    """A run that was never stopped."""
    folder = teacher.parent / "whole"
    run(folder, teacher)
    return folder


def lines(folder: Path) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "update/lr" in record]


def test_a_policy_comes_nearer_to_its_teacher_and_needs_no_rewards(tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path / "teacher", noise=0.6)
    settings = ["steps=8", "sample.prompts=24", "sample.max_tokens=16", "optim.lr=1e-3"]
    run(tmp_path / "run", teacher, *settings, "rewards={}", "checkpoint.every=0")
    records = lines(tmp_path / "run")
    kls = [record["policy/teacher_kl"] for record in records]
    assert sum(kls[-3:]) < 0.95 * sum(kls[:3])
    assert not any(
        "rewards/correct" in r or "reward/mean" in r or "group/flat" in r for r in records
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ledger"]["trained"] == summary["ledger"]["sampled"] == 8 * 24
    assert summary["before"] is None and not summary["final"]["problems"]


def test_rewards_measure_and_a_judge_that_fails_keeps_nothing_from_training(
    teacher: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def broken(text):\n    raise ValueError('no verdict')\n")
    with_judge = tmp_path / "with"
    settings = ["steps=2", "evaluate.every=0", "evaluate.before=false", "data.held_out=0"]
    broken = [f"rewards.correct.use={tmp_path / 'mine.py'}:broken", "gates.faults=off"]
    run(with_judge, teacher, *settings, *broken)
    run(tmp_path / "without", teacher, *settings, "rewards={}")
    assert [record["reward/faults"] for record in lines(with_judge)] == [3, 3]
    for name in ("ledger/trained", "policy/teacher_kl", "update/grad_norm"):
        mine = [record[name] for record in lines(with_judge)]
        assert mine == [record[name] for record in lines(tmp_path / "without")]
    assert lines(with_judge)[0]["ledger/trained"] == 3


def test_a_stopped_run_goes_on_as_if_it_never_had(
    teacher: Path, whole: Path, tmp_path: Path
) -> None:
    settings = recipe(tmp_path / "cut", teacher)
    trainer = trainer_of(settings)(settings, quiet=True)
    for record in trainer:
        if record["step"] == 3:
            trainer.request_stop()
    assert trainer.stopped and trainer.num_steps == 3
    run(tmp_path / "cut", teacher, resume=True)
    assert_same(whole, tmp_path / "cut")


def test_the_held_out_rows_are_evaluated_as_ever(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["stage"] == "distill"
    assert summary["before"]["samples"] == summary["after"]["samples"] == 3


def test_a_teacher_held_in_bfloat16_pulls_nearly_the_same_way(
    teacher: Path, whole: Path, tmp_path: Path
) -> None:
    settings = ["steps=1", "distill.teacher_dtype=bfloat16", "distill.offload=true"]
    run(tmp_path / "run", teacher, *settings, "evaluate.before=false")
    exact = lines(whole)[0]["policy/teacher_kl"]
    assert lines(tmp_path / "run")[0]["policy/teacher_kl"] == pytest.approx(exact, abs=0.02)
    assert lines(tmp_path / "run")[0]["policy/teacher_kl"] != exact


def test_a_teacher_that_changed_since_is_refused_at_a_resume(teacher: Path, tmp_path: Path) -> None:
    other = tmp_path / "teacher"
    shutil.copytree(teacher, other)
    quick = ["evaluate.before=false", "evaluate.every=0"]
    run(tmp_path / "run", other, *quick, "steps=2")
    shutil.rmtree(other)
    make_teacher(other, noise=0.2)
    with pytest.raises(RecipeError, match="the weights of the teacher are not those that"):
        run(tmp_path / "run", other, *quick, "steps=4", resume=True)


def test_traces_are_learnt_as_in_supervised_fine_tuning(tmp_path: Path) -> None:
    quick = ["epochs=1", "evaluate.before=false"]
    run_sft(tmp_path / "sft", *quick)
    settings = Recipe.load(
        "sft_countdown",
        *TINY_TRACES,
        *quick,
        "distill.method=traces",
        f"run_dir={tmp_path / 'run'}",
    )
    assert settings.stage == "distill"
    trainer = trainer_of(settings)(settings, quiet=True)
    assert isinstance(trainer, SftTrainer)
    trainer.train()
    ours = (tmp_path / "run" / "final" / "model.safetensors").read_bytes()
    assert ours == (tmp_path / "sft" / "final" / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stage"] == "distill"


# ---- the recipe and the command -------------------------------------------------------------------------------------


def test_the_section_names_the_stage_and_sets_the_loss() -> None:
    settings = Recipe.from_mapping(
        {"distill": {"teacher": "t", "teacher_dtype": "bfloat16", "offload": True}}
    )
    loss = settings.loss
    assert (settings.stage, loss.policy, loss.aggregation) == ("distill", "none", "token_mean")
    assert (loss.teacher, loss.teacher_dtype, loss.teacher_offload) == ("t", "bfloat16", True)
    assert Recipe.from_mapping(settings.to_mapping()) == settings
    assert Recipe.from_mapping({"distill": {"teacher": "t"}}, "loss.beta=0.1").loss.beta == 0.1
    traces = Recipe.from_mapping({"distill": {"method": "traces"}, "sft": {"batch": 4}})
    assert traces.stage == "distill" and traces.loss == Recipe().loss


def test_the_command_says_what_a_run_would_do(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"distill.teacher={teacher}", "loss={}", f"run_dir={tmp_path / 'run'}"]
    assert main(["distill", "quickstart", *settings, "rewards={}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "on-policy distillation" in said and "r (old_logp - teacher_logp)" in said
    assert "accurate means" not in said and "R - mean" not in said
    assert main(["distill", "quickstart", *settings, "loss.policy=clip"]) == 2
    assert "stage distill learns from its teacher alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distill.teacher=null"], "distill.teacher is missing"),
        (["distill.teacher=./nowhere"], "distill.teacher names .*nowhere, but there is no such"),
        (["advantage.rule=center"], "advantage.rule is set, but stage distill compares no"),
        (["loss.policy=clip"], "loss.policy is clip, but stage distill learns from its teacher"),
        (["loss.teacher=other"], "loss.teacher is other, but distill.teacher is"),
        (["loss.beta=0.1", "loss.kl_in=reward"], "stage distill learns from no reward"),
        (["sft.batch=4"], "sft.batch is set, but the recipe's stage is distill"),
        (["stage=grpo"], "distill.teacher is set, but the recipe's stage is grpo"),
        (
            ["distill.method=traces", "sample.prompts=32", "sample.group_size=8"],
            "distill.teacher is set, but the method traces loads no",
        ),
        (["rewards={}", "evaluate.sets.x.source=countdown"], "evaluate.sets.x is scored"),
    ],
)
def test_what_a_run_cannot_be_is_refused_in_a_sentence(
    teacher: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        settings = recipe(tmp_path / "run", teacher, *overrides)
        trainer_of(settings)(settings, quiet=True)


def test_a_teacher_of_other_tokens_or_of_a_shorter_context_is_refused_before_weights_load(
    teacher: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    tiny_policy(torch.float32).save(other)
    (other / "model.safetensors").unlink()
    settings = recipe(tmp_path / "run", other)
    with pytest.raises(RecipeError, match="distill.teacher .* has another tokenizer .* unknown"):
        trainer_of(settings)(settings, quiet=True)
    short = tmp_path / "short"
    shutil.copytree(teacher, short)
    config = AutoConfig.from_pretrained(short)
    config.max_position_embeddings = 12
    config.save_pretrained(short)
    settings = recipe(tmp_path / "run", short)
    with pytest.raises(RecipeError, match="distill.teacher .* reads 12 tokens, but a prompt with"):
        trainer_of(settings)(settings, quiet=True)


def test_the_loop_of_reinforcement_learning_takes_no_other_stage(
    teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="stage is distill, and Trainer makes runs of stage grpo"):
        Trainer(recipe(tmp_path / "run", teacher))
