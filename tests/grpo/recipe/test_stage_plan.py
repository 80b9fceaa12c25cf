"""Recipes with stages, planned: what each stage's recipe becomes, and what is refused before anything works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage_runs import BASE, RL, START, TABLE, values

from grpo.recipe import Recipe, RecipeError
from grpo.recipe.files import to_yaml
from grpo.recipe.plan import Plan, has_stages


def plan(*stages: dict[str, Any], overrides: tuple[str, ...] = (), **keys: Any) -> Plan:
    return Plan.from_mapping({**values("/runs/small", *stages), **keys}, *overrides)


def test_a_stage_is_an_ordinary_recipe_of_what_is_shared_and_its_own() -> None:
    start, rl, table = plan(START, RL, TABLE).stages
    assert start.recipe.model.name == BASE
    assert rl.recipe.model.name == "/runs/small/stages/start/final"
    assert (start.recipe.stage, start.recipe.sft.batch, start.recipe.optim.lr) == ("sft", 8, 2e-3)
    assert start.recipe.data.args == {"style": "symbols", "traces": "search", "count": 60}
    assert rl.recipe.data.args == {"style": "symbols", "count": 60}
    assert rl.recipe.run_dir == "/runs/small/stages/rl"
    assert rl.needs == ("start",) and rl.origin == BASE
    assert list(table.recipe.evaluate.models) == ["base", "start", "rl"]
    assert table.recipe.evaluate.samples == 1


def test_by_default_every_model_is_evaluated_with_what_it_began_from() -> None:
    student = {"name": "student", "sft": {"model": {"name": "me/tiny-0.5B"}}}
    table = plan(START, student, {"name": "more", "grpo": {}}, TABLE).stages[-1]
    assert dict(table.recipe.evaluate.models) == {
        "base": BASE,
        "start": "/runs/small/stages/start/final",
        "tiny-0-5B-base": "me/tiny-0.5B",
        "student": "/runs/small/stages/student/final",
        "more": "/runs/small/stages/more/final",
    }


def test_overrides_reach_into_stages_by_name() -> None:
    changed = plan(overrides=("stages.rl.grpo.steps=7", "stages.start.sft.batch=5", "seed=3"))
    start, rl = changed.stages
    assert (rl.recipe.steps, start.recipe.sft.batch) == (7, 5)
    assert (start.recipe.seed, rl.recipe.seed) == (3, 3)


def test_shared_keys_that_a_kind_does_not_read_are_no_mistake_and_its_own_are() -> None:
    shared = {"loss": {"aggregation": "token_mean"}, "optim": {"updates": 2}}
    start, rl = plan(**shared).stages
    assert rl.recipe.loss.aggregation == "token_mean" and rl.recipe.optim.updates == 2
    assert start.recipe.optim.updates == 1
    with pytest.raises(RecipeError, match="stages.s: loss.aggregation is set, but stage sft"):
        plan({"name": "s", "sft": shared})


def test_divided_weights_are_shared_with_the_stages_that_train() -> None:
    kinds = [START, RL, {"name": "right", "reject": {}}, TABLE, {"name": "out", "export": {}}]
    stages = plan(*kinds, distributed={"shard": True}).stages
    assert [s.recipe.distributed.shard for s in stages] == [True, True, False, False, False]
    own = {"name": "right", "reject": {"distributed": {"shard": True}}}
    with pytest.raises(RecipeError, match="stages.right: distributed.shard is true, but"):
        plan(START, own)


def test_a_plan_written_and_read_again_is_the_same() -> None:
    first = plan(START, RL, TABLE)
    second = Plan.from_mapping(first.to_mapping())
    assert [stage.recipe for stage in first.stages] == [stage.recipe for stage in second.stages]
    assert not any(second.changes(first).values())


def test_a_stage_may_begin_at_the_base_or_at_any_earlier_model() -> None:
    again = {"name": "again", "from": "base", "sft": {}}
    student = {"name": "student", "sft": {"model": {"name": "other/model"}}}
    stages = plan(START, RL, again, student, {"name": "last", "grpo": {}}).stages
    assert [stage.model_from for stage in stages] == ["base", "start", "base", None, "student"]
    assert stages[-1].origin == "other/model"


def test_the_rows_that_a_stage_accepts_are_the_data_of_a_later_one() -> None:
    answers = {"name": "answers", "reject": {"per_prompt": 2}}
    again = {"name": "again", "from": "base", "sft": {"batch": 4}, "data": {"from": "answers"}}
    stored = {"name": "stored", "reject": {"samples": ["rl"]}}
    _, rejecting, learning, taking = plan(RL, answers, again, stored, optim={"lr": 1e-4}).stages
    assert rejecting.recipe.reject.per_prompt == 2
    assert rejecting.recipe.model.name == "/runs/small/stages/rl/final"
    assert learning.needs == ("answers",) and learning.recipe.model.name == BASE
    data = learning.recipe.data
    assert data.source == "/runs/small/stages/answers/accepted.jsonl"
    assert (data.args, data.held_out, data.template) == ({}, 0, "plain")
    assert taking.recipe.reject.samples == ["/runs/small/stages/rl"] and "rl" in taking.needs


def test_what_was_made_of_a_stage_is_found_through_others() -> None:
    stages = (START, RL, {"name": "other", "from": "base", "grpo": {}}, TABLE)
    assert plan(*stages).dependants("start") == ("rl", "table")
    assert plan(*stages).dependants("other") == ("table",)


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ([], "stages names no stage"),
        ([{"sft": {}}, {"sft": {}}], "stage 2 of stages is called sft, as one before it"),
        ([{"name": "base", "sft": {}}], "base, which means the recipe's own model"),
        ([{"name": "a/b", "sft": {}}], "may hold letters, digits"),
        ([{"name": "x"}], "stages.x has no kind; it takes one of sft"),
        ([{"name": "x", "sft": {}, "grpo": {}}], "stages.x has sft and grpo at once"),
        ([{"name": "x", "gpro": {}}], "unknown key gpro; did you mean grpo"),
        ([{"name": "x", "grpo": 3}], "stages.x.grpo must be a section of keys"),
        ([{"name": "x", "grpo": {"stepz": 3}}], "stages.x: unknown key stepz; did you mean steps"),
        ([{"name": "x", "grpo": {"run_dir": "y"}}], "stages.x.grpo.run_dir is set"),
        ([{"name": "x", "grpo": {}, "from": "y"}], "names 'y', and there is no such stage"),
        ([{"name": "x", "grpo": {}, "from": "rl"}, RL], "names rl, which does not come before it"),
        ([TABLE, {"name": "x", "grpo": {}, "from": "table"}], "a stage evaluate, which makes no model"),
        ([START, {"name": "x", "sft": {}, "data": {"from": "start"}}], "start, a stage sft, which makes no data"),
        ([{"name": "x", "grpo": {"model": {"name": "m"}}, "from": "base"}], "both from and model.name"),
        ([{"name": "x", "grpo": {"data": {"from": "y"}}}], "write data: {from: y} beside grpo"),
        ([{"name": "x", "evaluate": {"models": ["rl"]}}, RL], "evaluate.models names rl, which does not"),
        ([{"name": "x", "evaluate": {}, "from": "base"}], "names its models under it"),
        ([{"name": "x", "export": {"to": "onnx"}}], "stages.x: export.to is 'onnx'"),
        ([{"name": "x", "sft": {"batch": 3, "sft": {"batch": 4}}}], "batch of a stage sft is given twice"),
    ],
)  # fmt: skip
def test_stages_that_make_no_sense_are_refused_in_a_sentence(
    stages: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason) as error:
        Plan.from_mapping({**values("/runs/small"), "stages": stages})
    assert "\n" not in str(error.value)


def test_overrides_of_an_unknown_stage_and_stages_of_another_form_are_refused() -> None:
    with pytest.raises(RecipeError, match="stages.lr is set, but there is no stage lr"):
        plan(overrides=("stages.lr.grpo.steps=7",))
    with pytest.raises(RecipeError, match="stages must be a list of stages"):
        Plan.from_mapping({**values("/runs/small"), "stages": "sft"})
    with pytest.raises(RecipeError, match="model.name is missing, and stages.rl starts from it"):
        plan(RL, model={})


def test_a_recipe_with_stages_is_told_from_one_run(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(to_yaml(values("runs/x")))
    assert has_stages(file) and not has_stages("quickstart") and not has_stages(tmp_path)
    assert Plan.load(file).folder == tmp_path / "runs" / "x"
    with pytest.raises(RecipeError, match="grpo.Pipeline"):
        Recipe.load(file)


def test_paths_in_stages_are_taken_from_the_recipe_and_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path / "small")
    file = tmp_path / "r.yaml"
    own = {"model": {"name": "small"}, "rewards": {"mine": {"use": "mine.py:right"}}}
    rows = {"name": "x", "sft": own, "data": {"source": "rows.jsonl"}}
    file.write_text(to_yaml(values("runs/x", rows)))
    (stage,) = Plan.load(file, "stages.x.sft.evaluate.sets.s={source: set.jsonl}").stages
    assert stage.recipe.model.name == str(tmp_path / "small")
    assert stage.recipe.rewards["mine"].use == f"{tmp_path}/mine.py:right"
    assert stage.recipe.data.source == str(tmp_path / "rows.jsonl")
    assert stage.recipe.evaluate.sets["s"].source == str(tmp_path / "small" / "set.jsonl")


def test_a_recipe_of_one_run_is_written_as_before() -> None:
    written = Recipe.load("quickstart").to_mapping()
    assert not {"stages", "export"} & written.keys()
    assert "models" not in written["evaluate"]
