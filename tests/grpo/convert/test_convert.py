"""Recipes from TRL's and verl's configurations: every setting is accounted for, and the result runs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from grpo import cli
from grpo.convert import convert, convert_file
from grpo.convert.functions import module_of
from grpo.convert.page import settings_markdown
from grpo.data.rows import load_rows
from grpo.recipe import Recipe, RecipeError, describe_keys, other_trainers
from grpo.recipe.other_trainers import TABLE, UNSET, find
from rewards.table import load

HERE = Path(__file__).parent
BASE = HERE.parents[2] / "recipes" / "quickstart_base"
SECTIONS = {"model.lora", "log.wandb", "data.columns.prompt"}
LORA = {f"model.lora.{name}" for name in ("rank", "alpha", "targets", "rslora")}
OURS = {name for name, _, _ in describe_keys()} | SECTIONS | LORA | {"log.wandb.project"}
TRL_START = {
    "model_name_or_path": "m",
    "dataset_name": "d",
    "reward_funcs": ["accuracy_reward"],
    "max_steps": 10,
}
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
VERL_START = {
    "actor_rollout_ref.model.path": "m",
    "data.train_files": "d.parquet",
    "trainer.total_training_steps": 10,
    "algorithm.adv_estimator": "grpo",
    "custom_reward_function.path": "score.py",
}
START = {"trl": TRL_START, "verl": VERL_START}


# ---- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trainer, file", [("trl", "names_trl_1.16.txt"), ("verl", "names_verl_0.9.1.txt")]
)
def test_every_setting_of_the_other_trainer_is_in_the_table(trainer, file):
    names = (HERE / file).read_text().split()
    assert len(names) > 150 and [name for name in names if find(trainer, name) is None] == []


def test_every_key_that_the_table_names_exists_and_every_other_row_has_a_reason():
    for rows in TABLE.values():
        names = [row.name for row in rows]
        assert len(names) == len(set(names))
        for row in rows:
            assert set(filter(None, row.ours.split(", "))) <= OURS, row.name
            assert bool(row.ours) == (row.fate in ("same", "joint")) and (row.ours or row.note), (
                row.name
            )


def test_the_page_of_the_docs_names_every_setting_once():
    page = settings_markdown()
    for rows in TABLE.values():
        for row in rows:
            assert f"`{row.name}`" in page, row.name


# ---- one setting after the other ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", ["trl", "verl"])
def test_every_setting_with_another_value_is_taken_over_or_named_as_left_out(trainer):
    """What a user writes is in the report by its name, whatever it is."""
    rows = [row for row in TABLE[trainer] if not row.name.endswith("*")]
    needless = {
        row.name: value for row in rows for value in another(row) if row.fate == "none needed"
    }
    report = "\n".join(convert({**START[trainer], **needless}, trainer).report)
    assert all(name in report for name in needless)
    for row in rows:
        if row.fate == "none needed":
            continue
        for value in another(row):
            settings = {**START[trainer], row.name: value}
            try:
                converted = convert(settings, trainer)
            except (TypeError, ValueError):
                pytest.fail(f"{row.name}: {value!r}")
            assert any(row.name in line for line in converted.report), (row.name, value)


def another(row):
    """A value that is not the default, of its type."""
    default = row.default
    if row.values:
        return [value for value in row.values if value != default][:2]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, (int, float)):
        return [default + 1]
    if isinstance(default, list):
        return []
    return SPECIAL.get(row.name, [] if isinstance(default, str) else [1])


SPECIAL = {
    "loss_type": ["grpo", "vespo"],
    "importance_sampling_level": ["sequence"],
    "multi_objective_aggregation": ["normalize_then_sum"],
    "eval_strategy": ["steps", "epoch"],
    "eval_dataset": [{"path": "t.jsonl"}],
    "data.val_files": ["t.parquet"],
    "data.apply_chat_template_kwargs": [{"enable_thinking": False}],
    "save_strategy": ["no", "epoch"],
    "optim": ["adamw_8bit", "sgd"],
    "report_to": ["wandb", "swanlab"],
    "model_init_kwargs": [{"dtype": "bfloat16", "odd": 1}],
    "datasets": [[{"path": "a"}, {"path": "b"}]],
    "reward_weights": [[2.0]],
    "algorithm.adv_estimator": ["rloo", "gae"],
    f"{ACTOR}.policy_loss.loss_mode": ["gspo", "dro"],
    f"{ACTOR}.loss_agg_mode": ["seq-mean-token-sum-norm", "odd"],
    f"{ACTOR}.kl_loss_type": ["mse"],
    "data.train_files": [["a.parquet", "b.parquet"]],
    "algorithm.rollout_correction.rollout_is": ["token", "odd"],
    "chat_template_kwargs": [{"enable_thinking": False}],
}


def flat(values, where=""):
    for name, value in values.items():
        key = f"{where}.{name}" if where else name
        if isinstance(value, dict):
            yield from flat(value, key)
        else:
            yield key, value


GSM8K = {"dataset_name": "openai/gsm8k", "dataset_config": "main"}
GSM8K_TEST = {"source": "openai/gsm8k", "subset": "main", "split": "test"}
TEXT = str(HERE / "prompts.jsonl")
VERL_FILES = ["~/data/gsm8k/{}.parquet", "~/data/math/{}.parquet"]
CASES = {
    "a mixture": (
        "trl",
        {"datasets": [{"path": "o/a", "name": "main", "columns": ["x"]}, {"path": "o/b"}]},
        {
            "data.sources.a.source": "o/a",
            "data.sources.a.subset": "main",
            "data.sources.b.source": "o/b",
            "data.sources.b.weight": 1.0,
            "data.source": UNSET,
        },
    ),
    "a mixture of one": (
        "trl",
        {"datasets": [{"path": "o/a", "name": "main", "split": "half"}], "dataset_config": "odd"},
        {"data.source": "o/a", "data.subset": "main", "data.split": "half"},
    ),
    "two subsets of a data set": (
        "trl",
        {"datasets": [{"path": "o/a", "name": "x"}, {"path": "o/a", "name": "y"}]},
        {"data.sources.a_x.subset": "x", "data.sources.a_y.subset": "y"},
    ),
    "a mixture of files, by their rows": (
        "trl",
        {"datasets": [{"path": "json", "data_files": [TEXT]}, {"path": TEXT, "fraction": 0.5}]},
        {
            "data.sources.convert_prompts_1.weight": 3.0,
            "data.sources.convert_prompts_2.weight": 1.5,
            "data.template": "plain",
        },
    ),
    "the test split": (
        "trl",
        {**GSM8K, "eval_strategy": "steps", "eval_steps": 5},
        {"evaluate.every": 5, "evaluate.before": False}
        | {f"evaluate.sets.gsm8k.{name}": value for name, value in GSM8K_TEST.items()},
    ),
    "the test split where nothing is evaluated": ("trl", GSM8K, {"evaluate.sets": UNSET}),
    "an evaluation before the first step": (
        "trl",
        {**GSM8K, "eval_strategy": "steps", "eval_on_start": True},
        {"evaluate.before": UNSET},
    ),
    "an evaluation every epoch": (
        "trl",
        {"dataset_name": TEXT, "eval_strategy": "epoch", "num_generations": 4},
        {"sample.prompts": 2, "evaluate.every": 2},
    ),
    "a test split of the rows": (
        "trl",
        {"dataset_name": TEXT, "eval_strategy": "steps", "test_split_size": 0.3},
        {"data.held_out": 1, "evaluate.sets": UNSET},
    ),
    "arguments of the chat template": (
        "trl",
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"data.template_args.enable_thinking": False, "data.template": "chat"},
    ),
    "epochs": (
        "trl",
        {"max_steps": -1, "num_train_epochs": 2},
        {"epochs": 2.0, "steps": UNSET},
    ),
    "verl's files": (
        "verl",
        {
            "data.train_files": [name.format("train") for name in VERL_FILES],
            "data.val_files": [name.format("test") for name in VERL_FILES],
            "data.prompt_key": "question",
            "data.val_max_samples": 50,
            f"{ROLLOUT}.val_kwargs.top_p": 0.7,
            "data.apply_chat_template_kwargs": {"enable_thinking": False},
            "trainer.val_before_train": False,
        },
        {
            "data.sources.gsm8k_train.source": VERL_FILES[0].format("train"),
            "data.sources.math_train.source": VERL_FILES[1].format("train"),
            "evaluate.sets.gsm8k_test.source": VERL_FILES[0].format("test"),
            "evaluate.sets.math_test.columns.prompt": "question",
            "evaluate.sets.math_test.limit": 50,
            "evaluate.sets.math_test.top_p": 0.7,
            "data.template_args.enable_thinking": False,
            "evaluate.before": False,
        },
    ),
    "verl's own scorers": (
        "verl",
        {"custom_reward_function.path": None, "data.val_files": "test.parquet"},
        {
            "evaluate.sets.test.columns.answer": "reward_model.ground_truth",
            "evaluate.sets.test.limit": UNSET,
            "evaluate.sets.test.top_p": UNSET,
        },
    ),
    "a batch by accumulation": (
        "trl",
        {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "num_generations": 4},
        {"sample.prompts": 8, "sample.group_size": 4, "optim.updates": UNSET},
    ),
    "a generation for several updates": (
        "trl",
        {
            "per_device_train_batch_size": 16,
            "steps_per_generation": 4,
            "num_generations": 8,
            "num_iterations": 2,
            "max_steps": 80,
            "save_steps": 16,
            "eval_strategy": "steps",
            "eval_steps": 8,
        },
        {
            "sample.prompts": 8,
            "optim.updates": 4,
            "optim.epochs": 2,
            "steps": 10,
            "checkpoint.every": 2,
            "evaluate.every": 1,
        },
    ),
    "a generation batch": (
        "trl",
        {"generation_batch_size": 64, "per_device_train_batch_size": 16, "num_generations": 8},
        {"sample.prompts": 8, "optim.updates": 4},
    ),
    "TRL's defaults": (
        "trl",
        {},
        {
            "loss.aggregation": "token_mean",
            "optim.schedule": "linear",
            "seed": 42,
            "model.dtype": "bfloat16",
            "model.gradient_checkpointing": True,
            "sample.max_tokens": 512,
            "evaluate.every": 0,
            "checkpoint.every": 500,
            "rewards.accuracy.use": "math_answer",
            "sample.prompts": 1,
        },
    ),
    "dr_grpo": (
        "trl",
        {"loss_type": "dr_grpo", "scale_rewards": False},
        {"loss.aggregation": "constant", "advantage.rule": "center", "loss.policy": UNSET},
    ),
    "dapo's clip": (
        "trl",
        {"epsilon": 0.1, "epsilon_high": 0.28},
        {"loss.epsilon_low": 0.1, "loss.epsilon_high": 0.28},
    ),
    "one clip": ("trl", {"epsilon": 0.1}, {"loss.epsilon_low": 0.1, "loss.epsilon_high": 0.1}),
    "cispo's cap": (
        "trl",
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"loss.policy": "cispo", "loss.epsilon_low": 1.0, "loss.epsilon_high": 4.0},
    ),
    "gspo": (
        "trl",
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"loss.policy": "gspo", "loss.aggregation": UNSET, "loss.correction": "geometric"},
    ),
    "gspo by tokens": (
        "trl",
        {"importance_sampling_level": "sequence"},
        {"loss.policy": "gspo_token", "loss.aggregation": "token_mean"},
    ),
    "luspo": (
        "trl",
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"loss.policy": "gspo", "loss.aggregation": "sequence_sum"},
    ),
    "KL": ("trl", {"beta": 0.04}, {"loss.beta": 0.04, "loss.kl": "k3_unbiased"}),
    "plain KL": (
        "trl",
        {"beta": 0.04, "use_bias_correction_kl": False},
        {"loss.beta": 0.04, "loss.kl": UNSET},
    ),
    "a reference that is replaced": (
        "trl",
        {
            "beta": 0.1,
            "sync_ref_model": True,
            "ref_model_mixup_alpha": 1.0,
            "ref_model_sync_steps": 64,
        },
        {"loss.reference_every": 64},
    ),
    "warm-up in steps": (
        "trl",
        {"warmup_steps": 20},
        {"optim.warmup": 20, "optim.warmup_ratio": UNSET},
    ),
    "warm-up as a share": ("trl", {"warmup_steps": 0.05}, {"optim.warmup_ratio": 0.05}),
    "warm-up by its older name": ("trl", {"warmup_ratio": 0.1}, {"optim.warmup_ratio": 0.1}),
    "8-bit AdamW": (
        "trl",
        {"optim": "paged_adamw_8bit"},
        {"optim.state": "8bit", "optim.offload": True},
    ),
    "fp32": ("trl", {"bf16": False}, {"model.dtype": UNSET}),
    "fp16": ("trl", {"fp16": True}, {"model.dtype": "float16"}),
    "LoRA": (
        "trl",
        {
            "use_peft": True,
            "lora_r": 8,
            "lora_alpha": 64,
            "use_rslora": True,
            "lora_target_modules": ["q_proj"],
            "load_in_4bit": True,
        },
        {
            "model.lora.rank": 8,
            "model.lora.alpha": 64.0,
            "model.lora.rslora": True,
            "model.lora.targets": ["q_proj"],
            "model.quantize": "nf4",
        },
    ),
    "rewards": (
        "trl",
        {
            "reward_funcs": ["accuracy_reward", "my.lib.short", "think_format_reward"],
            "reward_weights": [1.0, 0.5, 0.1],
        },
        {
            "rewards.accuracy.use": "math_answer",
            "rewards.short.use": "my.lib:short",
            "rewards.short.weight": 0.5,
            "rewards.think_format.use": "think_format",
            "rewards.think_format.weight": 0.1,
        },
    ),
    "normalised rewards": (
        "trl",
        {"multi_objective_aggregation": "normalize_then_sum"},
        {"advantage.rule": "gdpo"},
    ),
    "vLLM's correction": (
        "trl",
        {
            "use_vllm": True,
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": 3.0,
        },
        {"loss.correction_cap": 3.0, "loss.correction_mask": UNSET},
    ),
    "wandb": ("trl", {"report_to": ["wandb"], "project": "p"}, {"log.wandb.project": "p"}),
    "trackers of TRL": (
        "trl",
        {"report_to": ["trackio", "tensorboard"], "project": "p", "trackio_space_id": "me/p"},
        {"log.trackio.project": "p", "log.trackio.space": "me/p", "log.tensorboard": True},
    ),
    "trackers of verl": (
        "verl",
        {"trainer.logger": ["console", "mlflow"], "trainer.project_name": "p"},
        {"log.mlflow.experiment": "p"},
    ),
    "verl's defaults": (
        "verl",
        {},
        {
            "sample.prompts": 1024,
            "optim.updates": 4,
            "sample.group_size": 1,
            "loss.aggregation": "token_mean",
            "loss.dual_clip": 3.0,
            "optim.weight_decay": 0.01,
            "advantage.epsilon": 1e-6,
            "evaluate.temperature": 0.0,
            "data.template": "chat",
            "rewards.correct.use": "score.py:compute_score",
            "checkpoint.every": 0,
        },
    ),
    "verl's mini-batches": (
        "verl",
        {
            "data.train_batch_size": 64,
            f"{ACTOR}.ppo_mini_batch_size": 16,
            f"{ACTOR}.ppo_epochs": 2,
            f"{ACTOR}.optim.lr_warmup_steps": 5,
        },
        {"sample.prompts": 64, "optim.updates": 4, "optim.epochs": 2, "optim.warmup": 40},
    ),
    "verl's KL in the loss": (
        "verl",
        {
            f"{ACTOR}.use_kl_loss": True,
            f"{ACTOR}.kl_loss_coef": 0.01,
            f"{ACTOR}.kl_loss_type": "mse",
        },
        {"loss.beta": 0.01, "loss.kl": "k2", "loss.kl_in": UNSET},
    ),
    "verl's KL in the reward": (
        "verl",
        {"algorithm.use_kl_in_reward": True, "algorithm.kl_ctrl.kl_coef": 0.02},
        {"loss.beta": 0.02, "loss.kl": "k1", "loss.kl_in": "reward"},
    ),
    "verl's KL switched off": ("verl", {f"{ACTOR}.kl_loss_coef": 0.01}, {"loss.beta": UNSET}),
    "Dr. GRPO in verl": (
        "verl",
        {
            "algorithm.norm_adv_by_std_in_grpo": False,
            f"{ACTOR}.loss_agg_mode": "seq-mean-token-sum-norm",
            f"{ACTOR}.loss_scale_factor": 2048,
        },
        {"advantage.rule": "center", "loss.aggregation": "constant", "loss.constant": 2048},
    ),
    "GSPO in verl": (
        "verl",
        {
            f"{ACTOR}.policy_loss.loss_mode": "gspo",
            f"{ACTOR}.clip_ratio_low": 3e-4,
            f"{ACTOR}.clip_ratio_high": 4e-4,
        },
        {
            "loss.policy": "gspo",
            "loss.aggregation": UNSET,
            "loss.epsilon_low": 3e-4,
            "loss.epsilon_high": 4e-4,
            "loss.dual_clip": UNSET,
        },
    ),
    "one clip in verl": (
        "verl",
        {f"{ACTOR}.clip_ratio": 0.1},
        {"loss.epsilon_low": 0.1, "loss.epsilon_high": 0.1},
    ),
    "kl_cov in verl": (
        "verl",
        {f"{ACTOR}.policy_loss.loss_mode": "kl_cov", f"{ACTOR}.policy_loss.kl_cov_ratio": 0.02},
        {"loss.policy": "kl_cov", "loss.cov_share": 0.02, "loss.cov_kl": 0.1},
    ),
    "DAPO's filter in verl": (
        "verl",
        {
            "algorithm.filter_groups.enable": True,
            "algorithm.filter_groups.metric": "acc",
            "algorithm.filter_groups.max_num_gen_batches": 10,
            f"{ROLLOUT}.n": 8,
        },
        {"advantage.flat": "refill", "advantage.flat_by": "accuracy", "advantage.refills": 9},
    ),
    "LoRA in verl": (
        "verl",
        {"actor_rollout_ref.model.lora_rank": 32, "actor_rollout_ref.model.lora_alpha": 64},
        {"model.lora.rank": 32, "model.lora.alpha": 64.0, "model.lora.targets": "all-linear"},
    ),
    "an adapter in verl": (
        "verl",
        {"actor_rollout_ref.model.lora_rank": 32, "actor_rollout_ref.model.lora_adapter_path": "a"},
        {"model.adapter": "a", "model.lora.rank": UNSET},
    ),
    "sampled evaluation in verl": (
        "verl",
        {
            f"{ROLLOUT}.val_kwargs.do_sample": True,
            f"{ROLLOUT}.val_kwargs.temperature": 0.6,
            f"{ROLLOUT}.val_kwargs.n": 16,
            "trainer.test_freq": 5,
            f"{ROLLOUT}.top_k": 50,
        },
        {
            "evaluate.temperature": 0.6,
            "evaluate.samples": 16,
            "evaluate.every": 5,
            "sample.top_k": 50,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_settings_become_these_keys(case):
    trainer, settings, expected = CASES[case]
    found = dict(flat(convert({**START[trainer], **settings}, trainer).values))
    for key, value in expected.items():
        assert found.get(key, UNSET) == value, (key, found)


LOST = {
    "dropout": (
        "trl",
        {"use_peft": True, "lora_dropout": 0.1},
        "lora_dropout: a token's log-prob in training",
    ),
    "dropout, at a default that is not 0": (
        "trl",
        {"use_peft": True, "lora_dropout": 0.05},
        "lora_dropout: a token's log-prob in training",
    ),
    "modules_to_save": (
        "trl",
        {"lora_modules_to_save": ["lm_head"]},
        "lora_modules_to_save: only low-rank matrices",
    ),
    "vespo": ("trl", {"loss_type": "vespo"}, "loss_type: vespo is not among loss.policy"),
    "a repetition penalty": (
        "trl",
        {"repetition_penalty": 1.1},
        "repetition_penalty: it would sample from another",
    ),
    "a mixed reference": (
        "trl",
        {"beta": 0.1, "sync_ref_model": True},
        "sync_ref_model: TRL mixes the reference",
    ),
    "a schedule": (
        "trl",
        {"lr_scheduler_type": "polynomial"},
        "lr_scheduler_type: optim.schedule has no polynomial",
    ),
    "upload": ("trl", {"push_to_hub": True}, "push_to_hub: upload the folder final/"),
    "cispo's cap below 1": (
        "trl",
        {"loss_type": "cispo"},
        "epsilon_high: TRL caps cispo's ratio at 0.2 itself",
    ),
    "GAE": (
        "verl",
        {"algorithm.adv_estimator": "gae"},
        "algorithm.adv_estimator: gae is not among advantage.rule",
    ),
    "a part of a data set": (
        "trl",
        {"datasets": [{"path": "a", "fraction": 0.5}, {"path": "b"}]},
        "datasets: the fraction of a data set became its weight",
    ),
    "a folder of a data set": (
        "trl",
        {"datasets": [{"path": "a", "data_dir": "x"}]},
        "datasets: left out: data_dir",
    ),
    "arguments of a chat template that is not used": (
        "trl",
        {"dataset_name": TEXT, "chat_template_kwargs": {"enable_thinking": False}},
        "chat_template_kwargs: prompts that are text get no chat template",
    ),
    "a share of rows that cannot be counted": (
        "trl",
        {"test_split_size": 0.1},
        "test_split_size: data.held_out is a number of rows",
    ),
    "evaluation every epoch of unknown length": (
        "trl",
        {"eval_strategy": "epoch"},
        "eval_strategy: evaluations come every so many steps",
    ),
    "validation rows that are drawn": (
        "verl",
        {"data.val_files": "t.parquet", "data.val_max_samples": 8},
        "data.val_max_samples: it became limit",
    ),
    "two KLs": (
        "verl",
        {f"{ACTOR}.use_kl_loss": True, "algorithm.use_kl_in_reward": True},
        "has one place here",
    ),
}


@pytest.mark.parametrize("case", LOST)
def test_what_has_no_counterpart_is_said_with_the_reason(case):
    trainer, settings, words = LOST[case]
    report = convert({**START[trainer], **settings}, trainer).report
    left_out = report[report.index("without a counterpart, so left out:") :]
    assert any(words in line for line in left_out), report


def test_an_unknown_setting_is_listed_with_the_nearest():
    report = convert({**TRL_START, "num_generation": 8, "zzz": 1}, "trl").report
    unknown = report[report.index("UNKNOWN, so left out: not settings of TRL:") :]
    assert "  num_generation; did you mean num_generations?" in unknown and "  zzz" in unknown


@pytest.mark.parametrize("trainer", ["trl", "verl"])
def test_the_recipe_is_one(trainer):
    converted = convert({**START[trainer], f"{ROLLOUT}.n": 8}, trainer)
    recipe = Recipe.from_mapping(yaml.safe_load(converted.yaml) | {"name": "x"})
    assert (
        recipe.steps == 10 and recipe.model.name == "m" and "TO DO" not in str(converted.report[-1])
    )


def test_all_of_trls_own_configuration_at_its_defaults_loses_nothing():
    """What ``GRPOConfig().to_json_string()`` holds: every field, tokens masked, its own attributes."""
    rows = [row for row in TABLE["trl"] if row.default is not UNSET]
    settings = {row.name: row.default for row in rows} | TRL_START
    report = convert(settings, "trl").report
    assert not any(line.startswith(("without", "UNKNOWN")) for line in report), report


# ---- files --------------------------------------------------------------------------------------------------------

SCRIPT = """
import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer
from my_rewards import accuracy

MODEL = "base"
ROWS = "rows.jsonl"


def short(completions, **kwargs):
    return [float(len(completion) < 20) for completion in completions]


def main():
    data = load_dataset("json", data_files=ROWS, split="train")
    config = GRPOConfig(
        output_dir="out",
        learning_rate=1e-4,
        num_generations=4,
        max_completion_length=8,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=2,
        beta=0.01,
        loss_type="dr_grpo",
        scale_rewards="none",
        temperature=0.9,
        warmup_ratio=0.5,
        lr_scheduler_type="cosine",
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_steps=1,
        report_to="none",
        reward_weights=[1.0, 0.5],
        seed=7,
    )
    trainer = GRPOTrainer(
        model=MODEL,
        reward_funcs=[accuracy, short],
        args=config,
        train_dataset=data,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()


if __name__ == "__main__":
    main()
"""
TRL_REWARDS = """
def accuracy(completions, answer, **kwargs):
    return [float(str(gold) in completion) for completion, gold in zip(completions, answer)]
"""
VERL_YAML = """
data: {train_files: rows.jsonl, train_batch_size: 4, max_prompt_length: 64, max_response_length: 8}
actor_rollout_ref:
  model: {path: base, enable_gradient_checkpointing: false, use_remove_padding: true}
  actor:
    optim: {lr: 1e-5, lr_warmup_steps_ratio: 0.5}
    ppo_mini_batch_size: 2
    ppo_micro_batch_size_per_gpu: 4
    use_kl_loss: true
    kl_loss_coef: 0.001
    kl_loss_type: low_var_kl
    clip_ratio_high: 0.28
    fsdp_config: {param_offload: false, dtype: fp32}
  rollout: {name: vllm, n: 4, tensor_model_parallel_size: 2, gpu_memory_utilization: 0.6}
algorithm: {adv_estimator: grpo, use_kl_in_reward: false}
custom_reward_function: {path: score.py, name: compute_score}
trainer:
  logger: [console]
  project_name: p
  experiment_name: exp
  n_gpus_per_node: 8
  total_training_steps: 2
  default_local_dir: ckpt/${trainer.project_name}/${trainer.experiment_name}
"""
VERL_REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(str(ground_truth) in solution_str)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(
        BASE, tmp_path / "base", ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__")
    )
    rows = [{"prompt": f"{n} 2 make {n + 2}", "answer": str(n + 2)} for n in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_rewards.py").write_text(TRL_REWARDS)
    (tmp_path / "score.py").write_text(VERL_REWARD)
    return tmp_path


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_trl_script_of_twenty_options_is_converted_and_runs(folder, capsys):
    (folder / "train.py").write_text(SCRIPT)
    assert cli.main(["convert", "train.py", "--out", "recipe.yaml"]) == 0
    said = capsys.readouterr().err
    assert not any(
        line.startswith(("without", "UNKNOWN", "could not", "TO DO")) for line in said.splitlines()
    ), said
    recipe = Recipe.load("recipe.yaml")
    assert (recipe.sample.prompts, recipe.sample.group_size, recipe.optim.updates) == (2, 4, 1)
    assert (recipe.data.source, recipe.data.template) == (str(folder / "rows.jsonl"), "plain")
    assert recipe.model.lora is not None and recipe.model.lora.targets == ["q_proj"]
    assert cli.main(["train", "recipe.yaml"]) == 0
    done = records(folder / "out")
    assert len(done) == 2 and {"rewards/accuracy", "rewards/short"} <= set(done[0])


def test_verls_yaml_is_converted_and_runs(folder, capsys):
    (folder / "verl.yaml").write_text(VERL_YAML)
    assert cli.main(["convert", "verl.yaml", "data.template=plain", "--out", "recipe.yaml"]) == 0
    said = capsys.readouterr().err
    assert not any(
        line.startswith(("without", "UNKNOWN", "could not", "TO DO")) for line in said.splitlines()
    ), said
    assert cli.main(["train", "recipe.yaml"]) == 0
    done = records(folder / "ckpt" / "p" / "exp")
    assert len(done) == 2 and "rewards/correct" in done[0] and done[-1]["update/made"]


def test_the_recipe_goes_to_standard_output_and_the_report_to_standard_error(folder, capsys):
    (folder / "trl.yaml").write_text(yaml.safe_dump({**TRL_START, "dataset_name": "rows.jsonl"}))
    assert cli.main(["convert", "trl.yaml", "steps=3"]) == 0
    out, err = capsys.readouterr()
    assert (
        yaml.safe_load(out)["steps"] == 3 and yaml.safe_load(out)["data"]["source"] == "rows.jsonl"
    )
    assert "max_steps -> steps: 3" in err and "# taken over:" in out


def test_epochs_become_steps_where_the_rows_can_be_counted(folder):
    settings = {
        **TRL_START,
        "dataset_name": "rows.jsonl",
        "max_steps": -1,
        "num_train_epochs": 3,
        "num_generations": 4,
    }
    assert convert(settings, "trl").values["steps"] == 12
    elsewhere = convert({**settings, "dataset_name": "d"}, "trl").values
    assert elsewhere["epochs"] == 3.0 and "steps" not in elsewhere


def test_data_sets_of_a_script_by_split(folder):
    text = SCRIPT.replace("train_dataset=data", 'train_dataset=data["train"], eval_dataset=test')
    text = text.replace(
        "    config = ", '    test = load_dataset("o/t", "main", split="test[:9]")\n    config = '
    )
    (folder / "train.py").write_text(
        text.replace('"json", data_files=ROWS, split="train"', '"o/d"')
    )
    found = convert_file(Path("train.py"), None)
    assert found.values["data"]["source"] == "o/d" and not any(
        "could not" in line for line in found.report
    )
    assert found.values["evaluate"]["sets"] == {
        "t": {"source": "o/t", "subset": "main", "split": "test[:9]"}
    }


def test_json_of_a_configuration_and_a_recipe_for_another_folder(folder):
    values = {
        **TRL_START,
        "dataset_name": "rows.jsonl",
        "_n_gpu": 1,
        "hub_token": "<HUB_TOKEN>",
        "output_dir": "out",
    }
    (folder / "config.json").write_text(json.dumps(values))
    converted = convert_file(Path("config.json"), None, out=Path("recipes/r.yaml"))
    recipe = Recipe.load("recipes/r.yaml")
    assert recipe.data.source == str(folder / "rows.jsonl") and recipe.folder() == folder / "out"
    assert not any("hub_token" in line or "_n_gpu" in line for line in converted.report)
    with pytest.raises(RecipeError, match="recipes/r.yaml exists"):
        convert_file(Path("config.json"), None, out=Path("recipes/r.yaml"))


SHELL = """
set -x
MODEL=base
# a comment
python3 -m verl.trainer.main_ppo \\
    algorithm.adv_estimator=grpo \\
    data.train_files=$HOME_OF_DATA/train.parquet \\
    actor_rollout_ref.model.path=$MODEL \\
    +actor_rollout_ref.actor.optim.lr=1e-5 \\
    actor_rollout_ref.rollout.n=5 \\
    trainer.logger='["console","wandb"]' $@
"""


def test_a_shell_script_that_starts_verl_is_read(folder):
    (folder / "run.sh").write_text(SHELL)
    converted = convert_file(Path("run.sh"), None)
    found = dict(flat(converted.values))
    assert (
        found["model.name"] == "base"
        and found["optim.lr"] == 1e-5
        and found["sample.group_size"] == 5
    )
    assert found["log.wandb.project"] == "verl_examples"
    assert any("$HOME_OF_DATA/train.parquet names a variable" in line for line in converted.report)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("x.yaml", "a: [", "not valid YAML"),
        ("x.json", "{", "is not JSON"),
        ("x.py", "def", "is not Python: line 1"),
        ("x.yaml", "- 1\n", "holds no mapping"),
        ("x.yaml", "alpha_beta: 1\n", "holds no setting of TRL's GRPOConfig and none of verl's"),
        ("x.py", "print(1)\n", "holds no setting of TRL's GRPOConfig and none of verl's"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(folder, capsys, name, text, words):
    (folder / name).write_text(text)
    assert cli.main(["convert", name]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_what_a_script_does_with_its_data_and_what_is_no_literal_is_said(folder):
    text = SCRIPT.replace("    config = ", "    data = data.map(lambda row: row)\n    config = ")
    (folder / "train.py").write_text(text.replace("seed=7", "seed=int(sys.argv[1])"))
    report = "\n".join(convert_file(Path("train.py"), None).report)
    assert ".map(...) is not applied" in report and "int(sys.argv[1]) is no literal" in report


def test_renamed_columns_of_a_script_become_data_columns_in_the_order_of_the_calls(folder):
    rows = [{"question": f"{n} 2 make {n + 2}", "gold": str(n + 2), "id": n} for n in range(1, 9)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = SCRIPT.replace(
        'split="train")',
        'split="train").rename_column("question", "asked").shuffle(seed=1)\n'
        '    data = data.rename_columns({"asked": "prompt", "gold": "answer"}).remove_columns("id")\n'
        '    test = load_dataset("o/t", split="test").rename_column(\n'
        '        original_column_name="problem", new_column_name="prompt")',
    ).replace("train_dataset=data", "train_dataset=data, eval_dataset=test")
    (folder / "train.py").write_text(text)
    converted = convert_file(Path("train.py"), None)
    report = "\n".join(converted.report)
    assert converted.values["data"]["columns"] == {"prompt": "question", "answer": "gold"}
    (test,) = converted.values["evaluate"]["sets"].values()
    assert test["columns"] == {"prompt": "problem"}
    assert converted.values["data"]["template"] == "plain"  # seen under the new name
    assert "is not applied" not in report
    recipe = Recipe.from_mapping(converted.values)
    assert load_rows(recipe.data).rows[0]["prompt"] == "1 2 make 3"


def test_names_that_change_places_do_so_at_once_and_a_name_that_is_computed_is_said(folder):
    swapped = 'split="train").rename_columns({"prompt": "answer", "answer": "prompt"})'
    (folder / "train.py").write_text(SCRIPT.replace('split="train")', swapped))
    converted = convert_file(Path("train.py"), None)
    assert converted.values["data"]["columns"] == {"answer": "prompt", "prompt": "answer"}
    computed = 'split="train").rename_column(names[0], "prompt")'
    (folder / "train.py").write_text(SCRIPT.replace('split="train")', computed))
    converted = convert_file(Path("train.py"), None)
    assert "columns" not in converted.values["data"]
    assert ".rename_column(...) is not applied" in "\n".join(converted.report)


def test_rewards_in_the_script_become_a_module_without_what_trains(folder):
    text = SCRIPT.replace("< 20", "< LIMIT").replace('MODEL = "base"', 'MODEL = "base"\nLIMIT = 20')
    (folder / "train.py").write_text(text.replace("import torch", "import math, torch"))
    report = "\n".join(convert_file(Path("train.py"), None).report)
    assert "move short from train.py to a file of its own" in report
    report = "\n".join(convert_file(Path("train.py"), None, out=Path("r.yaml")).report)
    assert "short of train.py are copied to r_rewards.py" in report
    module = (folder / "r_rewards.py").read_text()
    assert "LIMIT = 20" in module and "def short" in module
    assert not any(
        word in module for word in ("\nimport", "\nfrom", "GRPOTrainer", "MODEL", "def main")
    )
    assert load("r_rewards.py:short")(["x"]) == [1.0]
    assert Recipe.load("r.yaml").rewards["short"].use == f"{folder / 'r_rewards.py'}:short"


def test_a_function_brings_its_imports_decorators_and_helpers():
    text = (
        "import os, re as regular\nfrom math import pi, tau\nfrom trl import GRPOTrainer\n\n"
        "RATE: float = 2 * pi\n\ndef helper(x):\n    return regular.sub('a', 'b', x)\n\n"
        "@staticmethod\ndef reward(text):\n    return RATE * len(helper(text))\n\nGRPOTrainer(reward)\n"
    )
    module = module_of(text, {"reward"}, "x.py")
    assert "import re as regular" in module and "os" not in module and "tau" not in module
    assert (
        "from math import pi" in module
        and "@staticmethod\ndef reward" in module
        and "trl" not in module
    )
    compile(module, "x", "exec")


def test_answers_come_from_the_same_table():
    assert (
        other_trainers.advice("num_generations")
        == "; TRL's num_generations is sample.group_size here"
    )
    assert other_trainers.advice("nothing_of_the_kind") == ""
    assert other_trainers.advice_on_last_part("path") == ""
