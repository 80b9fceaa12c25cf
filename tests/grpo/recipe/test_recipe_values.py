"""Every key refuses a value of the wrong type or out of range by its name, with what would do."""

import re
from dataclasses import fields, is_dataclass

import pytest

from grpo.recipe import Recipe, RecipeError, SampleSection, describe_keys


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "optim: {lr: '1e-6'}",
            "optim.lr must be a number, not the text '1e-6'; write it without quotes",
        ),
        ("steps: '5'", "steps must be a whole number, not the text '5'; write it without quotes"),
        ("seed: 1:30", "seed must be a whole number, not the text '1:30'"),
        ("seed: 2020-01-01", "seed must be a whole number, not the text '2020-01-01'"),
        ("steps: 1e3", "steps must be a whole number, not 1000.0; write 1000"),
        ("steps: 2.5", "steps must be a whole number, not 2.5"),
        ("steps: true", "steps must be a whole number, not true"),
        ("steps:", "steps must be a whole number, not nothing"),
        ("steps: [1]", "steps must be a whole number, not a list"),
        ("optim: {lr: true}", "optim.lr must be a number, not true"),
        ("optim: {lr: .nan}", "optim.lr must be a number, not nan"),
        ("optim: {lr: .inf}", "optim.lr must be a number, not inf"),
        ("optim: {lr: 1e400}", "optim.lr must be a number, not inf"),
        (
            "deterministic: no",
            "deterministic must be true or false, not the text 'no'; write false",
        ),
        ("deterministic: on", "deterministic must be true or false, not the text 'on'; write true"),
        ("deterministic: 1", "deterministic must be true or false, not 1"),
        ("name: 5", 'name must be text, not 5; write "5" in quotes'),
        ("name: true", 'name must be text, not true; write "true" in quotes'),
        ("threads: auto", "threads must be a whole number or null, not the text 'auto'"),
        ("sample: {stop: END}", "sample.stop must be a list, not the text 'END'"),
        ("data: {columns: [prompt]}", "data.columns must be a mapping, not a list"),
        ("model: some/model", "model must be a section of keys, not the text 'some/model'"),
        (
            "evaluate:",
            "evaluate must be a section of keys, not nothing; put keys under it, or leave it out",
        ),
        ("loss:", "loss must be a section of keys, not nothing"),
        ("loss: {preset: [dapo]}", "loss.preset must be text, not a list"),
        ("loss: {preset: {dapo: 1}}", "loss.preset must be text, not a mapping"),
        ("model: {lora: true}", "model.lora must be a section of keys, not true"),
        ("rewards: [math_answer]", "rewards must be a section of keys, not a list"),
        (
            "rewards: {correct: math_answer}",
            "rewards.correct must be a section of keys, not the text 'math_answer'",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_would_do(refusal, text, message):
    assert refusal(text).startswith(f"recipe: {message}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("sample: {groupsize: 3}", "unknown key sample.groupsize; did you mean group_size?"),
        ("samples: {prompts: 3}", "unknown key samples; did you mean sample?"),
        (
            "optim: {learning_rate: 1}",
            "unknown key optim.learning_rate; TRL's learning_rate is optim.lr here",
        ),
        ("group_size: 8", "unknown key group_size; did you mean sample.group_size?"),
        ("lr: 1e-6", "unknown key lr; did you mean optim.lr?"),
        ("rewards: {a: {ues: x}}", "unknown key rewards.a.ues; did you mean use?"),
        (
            "model: {lora: {r: 8}}",
            "unknown key model.lora.r; peft's r is model.lora.rank here",
        ),
        ("log: {wandb: {projet: x}}", "unknown key log.wandb.projet; did you mean project?"),
        ("qqq: 1", "unknown key qqq; the keys there are name, stage, seed, steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(refusal, text, message):
    assert refusal(text).startswith(f"recipe: {message}")


def test_python_may_not_name_a_reward_by_a_number():
    with pytest.raises(
        RecipeError, match='rewards: a reward\'s name must be text, not 1; write "1" in quotes'
    ):
        Recipe.from_mapping({"rewards": {1: {"use": "x"}}})


OUT_OF_RANGE = {
    "name": ["", "' '"],
    "seed": [-1, 2**63],
    "steps": [-1],
    "epochs": [0, "x"],
    "run_dir": ["''"],
    "deterministic": ["maybe"],
    "threads": [0],
    "distributed.shard": ["on", 2],
    "model.name": ["''"],
    "model.dtype": ["float8", "fp32"],
    "model.quantize": [4, "int4"],
    "model.lora": [3],
    "model.lora.rank": [0],
    "model.lora.alpha": [0, -1],
    "model.lora.targets": [3],
    "model.lora.rslora": ["yes"],
    "model.adapter": ["' '", 3],
    "model.trust_remote_code": ["yes"],
    "model.gradient_checkpointing": ["on"],
    "model.routing_replay": ["on"],
    "checkpoint.background": ["on"],
    "model.revision": [3],
    "data.source": ["''"],
    "data.subset": [1],
    "data.split": [1],
    "data.args": ["[]"],
    "data.columns": ["[]"],
    "data.template": ["r2", "''", "x {promt}"],
    "data.where": ["[]", "{level: {at_least: 3}}"],
    "data.system": [3],
    "data.template_args": ["[]"],
    "data.revision": [3],
    "data.sources": ["3", "{a: 3}", "{'a b': {source: x}}", "{heldout: {source: x}}"],
    "data.held_out": [-1],
    "data.max_prompt_tokens": [0],
    "sample.engine": ["tensorrt"],
    "sample.servers": [
        "http://a:1",
        "[127.0.0.1:8000]",
        "[ftp://a]",
        "['http://a:x']",
        "['http://u@a']",
        "[3]",
    ],
    "sample.server_folder": ["''", 3],
    "sample.server_silence": [0, -1],
    "sample.server_load": [0],
    "sample.probe_every": [-1],
    "sample.prompts": [0],
    "sample.group_size": [0],
    "sample.max_tokens": [0],
    "sample.max_tokens_from": ["[]", "{2: 4}", "{0: 0}"],
    "sample.temperature": [-0.1],
    "sample.top_k": [-1, 0.5],
    "sample.top_p": [0, -1, 1.1],
    "sample.min_p": [-0.1, 1.1],
    "sample.stop": ["a", "[1]", "['']"],
    "sample.max_rows": [0],
    "rewards_service.servers": [
        "http://a:1",
        "[127.0.0.1:8100]",
        "[http://a b:1]",
        "[3]",
    ],
    "rewards_service.silence": [0, -1],
    "rewards": [1],
    "rewards.<name>.use": [3],
    "rewards.<name>.weight": [".inf", "x"],
    "rewards.<name>.args": ["[]"],
    "rewards.<name>.when": ["[]"],
    "rewards.<name>.from_step": [-1, 0.5],
    "rewards.<name>.workers": [0],
    "rewards.<name>.style": [3],
    "rewards.<name>.timeout_seconds": [0, -1],
    "tools": ["python", "[3]", "['']", "[python, python]"],
    "environment.use": ["''", 3],
    "environment.args": ["[]"],
    "environment.format": ["json", "<calc", "<a b>"],
    "environment.max_calls": [0],
    "environment.max_turns": [0, 1.5],
    "environment.observation_tokens": [8],
    "environment.timeout_seconds": [0],
    "environment.workers": [0],
    "advantage.rule": ["rank"],
    "advantage.epsilon": [-1],
    "advantage.mask_truncated": ["no"],
    "advantage.k": [-1, 1.5],
    "advantage.flat": ["remove"],
    "advantage.flat_by": ["reward"],
    "advantage.refills": [0],
    "advantage.retire_at": [-0.1, 1.1],
    "data.pass_low": [-0.1, 2],
    "data.pass_high": [-0.1, 2],
    "data.pass_again": [0],
    "sample.oversample": [-0.5],
    "sample.over_request": [-0.5, 1.5],
    "sample.staleness": [-1, 0.5],
    "sample.kv_memory_gib": [0, -1],
    "sample.keep_graphs": ["no"],
    "sample.compile": ["no"],
    "loss.policy": ["ppo"],
    "loss.dual_clip": [1, 0.5, -3],
    "loss.ratio_cap": [1, -4],
    "loss.sapo_positive": [0],
    "loss.sapo_negative": [0],
    "loss.divergence": [0],
    "loss.regularizer": [-1],
    "loss.cov_share": [-0.1, 2],
    "loss.cov_low": ["low"],
    "loss.cov_high": ["high"],
    "loss.cov_kl": [-1],
    "loss.second_moment": [0],
    "loss.off_policy_mask": [-1],
    "loss.kl": ["k4"],
    "loss.kl_in": ["gradient"],
    "loss.correction": ["prompt"],
    "loss.correction_cap": [-1],
    "loss.correction_mask": ["batch"],
    "loss.correction_low": [-1],
    "loss.correction_high": [0],
    "loss.entropy": [-0.1],
    "loss.load_balance": [-0.1],
    "loss.entropy_target": [-0.2],
    "loss.entropy_step": [0],
    "loss.top_entropy": [0, 1.2],
    "loss.teacher": ["''"],
    "loss.teacher_weight": [0],
    "loss.teacher_dtype": ["int8"],
    "loss.teacher_offload": ["on"],
    "loss.preset": ["ppo"],
    "loss.epsilon_low": [-0.1],
    "loss.epsilon_high": [-0.1],
    "loss.aggregation": ["mean"],
    "loss.constant": [0],
    "loss.beta": [-0.1],
    "loss.reference_every": [-1],
    "loss.old": ["never"],
    "optim.lr": [0, -1e-6],
    "optim.updates": [0],
    "optim.epochs": [0],
    "optim.warmup": [-1],
    "optim.warmup_ratio": [-0.1, 1, "5%"],
    "optim.schedule": ["step"],
    "optim.min_lr_ratio": [-0.1, 1],
    "stage": ["ppo", 1],
    "data.pass_column": ["''", 3],
    "reject.prompts": [0],
    "reject.samples": ["runs/first", "[3]"],
    "reject.faults": ["maybe"],
    "reject.finished": [1],
    "reject.right": ["maybe"],
    "reject.min_reward": ["x"],
    "reject.min_tokens": [0],
    "reject.max_tokens": [0, 2.5],
    "reject.language": ["fr"],
    "reject.min_language": [-0.1, 1.1],
    "reject.ngram": [0],
    "reject.max_repetition": [-0.1, 1.1],
    "reject.max_paragraph": [0],
    "reject.code": ["maybe"],
    "reject.duplicates": ["maybe"],
    "reject.near_duplicates": [-0.1, 1.1],
    "reject.per_prompt": [-1],
    "sft.batch": [0],
    "sft.form": ["prose"],
    "sft.train_on": ["user"],
    "sft.aggregation": ["constant"],
    "sft.max_tokens": [1, 0.5],
    "sft.too_long": ["cut"],
    "sft.chat_template": ["' '", 3],
    "distill.method": ["off_policy"],
    "distill.teacher": ["''", 3],
    "distill.teacher_dtype": ["int8"],
    "distill.offload": ["on"],
    "optim.weight_decay": [-1],
    "optim.max_grad_norm": [-1],
    "optim.tokens_per_micro_batch": [0],
    "optim.beta1": [-0.1, 1],
    "optim.beta2": [-0.1, 1],
    "optim.eps": [0],
    "optim.state": ["4bit"],
    "optim.offload": ["maybe"],
    "evaluate.every": [-1],
    "evaluate.before": ["no"],
    "evaluate.samples": [0],
    "evaluate.threshold": ["x"],
    "evaluate.sets": ["3", "{a: 3}", "{a: {benchmark: gsm9k}}", "{a: {reward: x}}"],
    "evaluate.temperature": [-1],
    "evaluate.reward": [3],
    "checkpoint.every": [-1],
    "checkpoint.keep": [0],
    "checkpoint.keep_best": [-1],
    "checkpoint.best_by": ["''", "nothing"],
    "log.wandb": ["3", "yes"],
    "log.wandb.project": [3],
    "log.wandb.entity": [3],
    "log.wandb.mode": ["of"],
    "log.wandb.tags": ["a"],
    "log.report": ["no"],
    "log.show_every": [-1, 2.5],
    "log.token_logprobs": [-1],
    "log.tensorboard": ["here"],
    "log.tensorboard.folder": ["''", 3],
    "log.trackio": ["[]"],
    "log.trackio.project": ["''"],
    "log.trackio.space": ["''"],
    "log.trackio.server": ["''"],
    "log.mlflow": ["sqlite"],
    "log.mlflow.experiment": ["''"],
    "log.mlflow.uri": ["''"],
    "log.tags": ["a"],
    "log.completions": [-1, 2.5],
    "evaluate.models": [3, "''"],
    "export.to": ["onnx"],
    "export.precision": [3, [1]],
    "export.compare": ["maybe"],
    "export.license": ["''"],
    "export.pre": ["''"],
    "cost.price_per_hour": ["2", "{tpu: 1}", "{gpu: -1}", "{cpu: free}"],
    "cost.currency": ["''"],
    "gates": ["[]", "off"],
    "gates.<name>.upto": ["mask", 3],
    "gates.<name>.note": [-1, "x"],
    "gates.<name>.warn": [-1],
    "gates.<name>.skip": [-0.5],
    "gates.<name>.stop": ["never"],
    "sandbox.min_isolation": ["L9", 2],
    "sandbox.allow_unsafe": ["yes"],
    "sandbox.engine": ["docker"],
    "sandbox.url": ["''"],
    "sandbox.slots": [0],
    "sandbox.packages": [3, [1]],
    "watchdog.action": ["bark"],
    **{
        f"watchdog.{name}_seconds": [0]
        for name in (
            "engine",
            "judge",
            "update",
            "collective",
            "checkpoint",
            "server",
            "loading",
            "interpreter",
        )
    },
}
ROWS = ("source", "subset", "split", "args", "columns", "where", "template", "system")
ROWS += ("template_args", "max_prompt_tokens", "revision")
OUT_OF_RANGE |= {f"data.sources.<name>.{name}": OUT_OF_RANGE[f"data.{name}"] for name in ROWS}
OUT_OF_RANGE |= {f"evaluate.sets.<name>.{name}": OUT_OF_RANGE[f"data.{name}"] for name in ROWS}
OUT_OF_RANGE |= {
    "data.sources.<name>.held_out": [-1],
    "data.sources.<name>.weight": [0, -1],
    "evaluate.sets.<name>.benchmark": ["''", "gsm9k"],
    "evaluate.sets.<name>.limit": [0],
    "evaluate.sets.<name>.rewards": [3],
    "evaluate.sets.<name>.reward": [3],
    "evaluate.sets.<name>.threshold": ["x"],
    "evaluate.sets.<name>.samples": [0],
    "evaluate.sets.<name>.temperature": [-1],
    "evaluate.sets.<name>.top_p": [0, 2],
    "evaluate.sets.<name>.max_tokens": [0],
}
OUT_OF_RANGE |= {
    f"evaluate.sets.<name>.{key}": values
    for key, values in OUT_OF_RANGE.items()
    if key.startswith("rewards.")
}


def test_every_key_has_help_and_an_entry_in_the_list_of_wrong_values():
    keys = {name: help for name, _, help in describe_keys()}
    assert [name for name, help in keys.items() if not help.strip()] == []
    assert set(keys) - set(OUT_OF_RANGE) == set() and set(OUT_OF_RANGE) - set(keys) == set()


@pytest.mark.parametrize(
    "key, value", [(key, value) for key, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_key(refusal, key, value):
    key = key.replace("<name>", "flat" if key.startswith("gates") else "mine")
    if key.endswith(("sources", "sets", "where")):
        assert key in refusal("seed: 1", f"{key}={value}")
        return
    text = "rewards: {mine: {use: x}}" if "mine" in key else "seed: 1"
    assert re.match(rf"recipe: {re.escape(key)}\b", refusal(text, f"{key}={value}"))


def test_every_default_passes_its_own_check():
    assert Recipe.from_mapping(Recipe().to_mapping()) == Recipe()


# ---- from Python -----------------------------------------------------------------------------------------------


def test_a_recipe_made_in_python_takes_mappings_and_equals_the_one_from_a_mapping():
    values = {
        "model": {"name": "m", "lora": {"rank": 4}},
        "data": [{"name": "a", "source": "x"}, {"name": "b", "source": "y", "weight": 2}],
        "rewards": {"c": {"use": "math_answer"}},
        "loss": {"preset": "dapo"},
        "steps": 3,
    }
    made = Recipe(**values)
    assert made == Recipe.from_mapping(values) and made.loss.epsilon_high == 0.28
    assert list(made.data.each()) == ["a", "b"] and made.model.lora.rank == 4


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model": {"nam": "m"}}, "unknown key model.nam; did you mean name"),
        ({"steps": "ten"}, "steps must be a whole number, not the text 'ten'"),
        ({"steps": -1}, "steps is -1; it must be at least 0"),
        ({"model": "m"}, "model must be a section of keys, not the text 'm'"),
        ({"rewards": {"c": "math_answer"}}, "rewards.c must be a section of keys"),
        ({"sample": SampleSection(group_size=0)}, "sample.group_size is 0; it must be at least 1"),
        ({"sample": SampleSection(temperature=0)}, "sample.temperature is 0; greedy"),
        ({"data": [{"source": "x"}]}, r"data.sources\[0\] needs a name"),
        ({"data": [{"name": "a"}, {"name": "a"}]}, "the name a is taken"),
        ({"data": {"source": "x", "sources": {"a": {"source": "y"}}}}, "both set; name one source"),
        ({"evaluate": {"sets": {"a": {}}}}, "evaluate.sets.a names no source"),
        ({"data": {"template": "r1", "system": "s"}}, "data.system is read by the chat template"),
    ],
)
def test_a_recipe_made_in_python_is_checked_as_a_files_is(values, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**values)


def test_the_repr_of_a_recipe_is_what_it_changes():
    made = Recipe(steps=3, rewards={"c": {"use": "math_answer", "weight": 0.5}})
    assert repr(made) == "Recipe(steps=3, rewards.c.use='math_answer', rewards.c.weight=0.5)"


def test_the_repr_of_a_section_is_what_it_changes():
    made = Recipe.load("quickstart")
    assert repr(made.data) == (
        "DataSection(source='countdown', args={'style': 'symbols'}, template='plain', held_out=256)"
    )
    assert repr(made.reject) == "RejectSection()"
    mixed = Recipe(data={"sources": {"a": {"source": "countdown"}, "b": {"source": "y"}}})
    assert repr(mixed.data) == (
        "DataSection(sources={'a': SourceSection(source='countdown'), 'b': SourceSection(source='y')})"
    )
    values = [getattr(made, part.name) for part in fields(made)]
    shown = [repr(value) for value in values if is_dataclass(value)]
    assert "ModelSection(name=" in shown[0] and max(map(len, shown)) < 300
