"""Sets beside the training data: what they inherit, that they keep their draws, and a mixture run with two of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_cache import add_commit, use_cache
from light_rewards import reward_of_length
from quick_runs import lines, records
from small_runs import REWARDS, TINY, outcome

from grpo import Recipe, RecipeError, Trainer
from grpo.recipe.benchmarks import BENCHMARKS
from grpo.run.evaluation_sets import sampling_of_evaluation
from rewards.tasks import load_task

PROMPTS = [row["prompt"] for row in load_task("countdown").rows(style="symbols", count=60)]


def write(name: str, rows: list[dict]) -> str:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows))
    return name


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("mine.jsonl", [{"question": prompt, "answer": "1"} for prompt in PROMPTS[:20]])
    write("other.jsonl", [{"prompt": prompt, "answer": "2"} for prompt in PROMPTS[20:40]])
    write("test.jsonl", [{"question": prompt, "answer": "#### 3"} for prompt in PROMPTS[40:46]])
    Path("mine.py").write_text(REWARDS)
    return tmp_path


MIXED = [
    "data={sources: {first: {source: mine.jsonl, columns: {prompt: question}, weight: 0.7, held_out: 3}, "
    "second: {source: other.jsonl, weight: 0.3}}}",
    "data.template=plain",
    "sample.prompts=10",
    "rewards={correct: {use: 'mine.py:mixed'}, second_only: {use: 'mine.py:mixed', when: {source: second}}}",
    "evaluate.sets={gsm: {benchmark: gsm8k, source: test.jsonl, samples: 2}, "
    "dense: {source: other.jsonl, limit: 4, rewards: {length: {use: 'mine.py:mixed'}}}}",
]


def recipe(name: str, *overrides: str) -> Recipe:
    base = [part for part in TINY if not part.startswith(("data.", "rewards", "sample.prompts"))]
    values = Recipe.load("quickstart").to_mapping()
    values["data"] = {}
    return Recipe.from_mapping(values, *base, *MIXED, f"run_dir={name}", *overrides)


@pytest.mark.slow
def test_a_mixture_with_two_sets_trains_reports_each_and_resumes_exactly(folder):
    whole = Trainer(recipe("whole"), quiet=True)
    summary = whole.train()
    steps = records(folder / "whole")
    assert [(r["source/first/groups"], r["source/second/groups"]) for r in steps] == [(7, 3)] * 6
    assert all(r["source/first/rewards/correct"] is not None for r in steps)
    assert all("source/first/rewards/second_only" not in r for r in steps)
    assert all("source/second/rewards/second_only" in r for r in steps)
    found = [row for row in lines(folder / "whole") if "reward/mean" not in row]
    assert [row["step"] for row in found] == [0, 2, 4, 6]
    for row in found:
        for key in ("heldout/accuracy", "eval/gsm/accuracy", "eval/dense/accuracy"):
            low, high = row[key.replace("accuracy", "low")], row[key.replace("accuracy", "high")]
            assert 0 <= low <= row[key] <= high <= 1
    sets = {(row["step"], row["set"]) for row in lines(folder / "whole", "evaluations.jsonl")}
    assert sets == {(step, name) for step in (0, 2, 4, 6) for name in ("heldout", "gsm", "dense")}
    assert set(summary["sets"]) == {"gsm", "dense"} and summary["before"]["prompts"] == 3
    assert summary["sets"]["gsm"]["after"]["samples"] == 12

    cut = Trainer(recipe("cut"), quiet=True)
    for record in cut:
        if record["step"] == 3:
            cut.request_stop()
    Trainer(recipe("cut"), resume=True, quiet=True).train()
    assert outcome(folder / "cut") == outcome(folder / "whole")


def test_a_sets_draws_do_not_change_when_another_is_added(folder):
    few = ["steps=0", "evaluate.sets.dense=null"]
    with pytest.raises(RecipeError, match="evaluate.sets.dense must be a section"):
        recipe("x", *few)
    alone = [part for part in MIXED if not part.startswith("evaluate.sets")]
    alone.append("evaluate.sets={gsm: {benchmark: gsm8k, source: test.jsonl, samples: 2}}")
    values = {**recipe("one").to_mapping(), "evaluate": {}, "data": {}}
    Trainer(Recipe.from_mapping(values, *alone, "steps=0", "run_dir=one"), quiet=True).train()
    Trainer(recipe("both", "steps=0"), quiet=True).train()

    def texts(name: str) -> list[str]:
        rows = lines(folder / name, "evaluations.jsonl")
        return [row["completion"] for row in rows if row["set"] == "gsm"]

    assert texts("one") == texts("both") and len(texts("one")) == 12


def test_a_benchmark_needs_no_further_key_and_takes_a_local_file(folder):
    made = recipe("x").evaluate.sets["gsm"]
    assert made.columns == {"prompt": "question", "answer": "answer"}
    assert (made.samples, made.max_tokens, made.temperature, made.split) == (2, 1024, 0.0, "train")
    assert made.source == str(folder / "test.jsonl") and made.template == "plain"
    trainer = Trainer(recipe("x"), quiet=True)
    gsm = next(part for part in trainer.inputs.sets if part.name == "gsm")
    context = trainer.inputs.config.max_position_embeddings
    longest = max(len(prompt.token_ids) for prompt in gsm.prompts)
    assert gsm.max_tokens == min(1024, context - longest)
    assert gsm.facts()["version"] == BENCHMARKS["gsm8k"].version
    assert gsm.prompts[0].truth["answer"] == "#### 3" and gsm.accurate == "correct"


COLUMNS = {"prompt": "problem.text", "answer": "{right:letter}"}


@pytest.fixture
def trained(folder) -> Path:
    """Training data with columns of its own, and sets that share all, some or none of them."""
    rows = [
        {"problem": {"text": prompt}, "right": index % 4} for index, prompt in enumerate(PROMPTS)
    ]
    write("train.jsonl", rows[:20])
    write("same.jsonl", rows[20:24])
    write("usual.jsonl", [{"prompt": prompt, "answer": "A"} for prompt in PROMPTS[24:28]])
    write("half.jsonl", [{**row, "prompt": "Which?", "answer": "B"} for row in rows[28:30]])
    write("none.jsonl", [{"text": "Which?", "answer": "B"}])
    return folder


def sets_of(*names: str, **data) -> dict:
    """The sets in files of those names, made as a run makes them."""
    values = Recipe.load("quickstart", *TINY, "run_dir=x", "evaluate.samples=1").to_mapping()
    values["data"] = {"source": "train.jsonl", "template": "plain", "columns": COLUMNS, **data}
    sets = {name: {"source": f"{name}.jsonl"} for name in names}
    values |= {"evaluate": {"sets": sets}, "rewards": {"correct": {"use": "math_answer"}}}
    return {of.name: of for of in Trainer(Recipe(**values), quiet=True).inputs.sets}


def test_a_set_without_columns_is_read_by_those_of_training_where_it_lacks_the_usual_ones(trained):
    sets = sets_of("same", "usual", "half")
    assert [prompt.text for prompt in sets["same"].prompts] == PROMPTS[20:24]
    assert [prompt.truth["answer"] for prompt in sets["same"].prompts] == ["A", "B", "C", "D"]
    note = "columns as in training (prompt: problem.text, answer: {right:letter})"
    assert sets["same"].describe().endswith(note)
    for name, text, answer in (("usual", PROMPTS[24], "A"), ("half", "Which?", "B")):
        first = sets[name].prompts[0]
        assert (first.text, first.truth["answer"]) == (text, answer)
        assert "columns" not in sets[name].describe()


def test_a_set_is_read_by_the_columns_of_that_source_of_a_mixture_which_fits(trained):
    own = {"a": {"source": "usual.jsonl", "columns": {}}, "b": {"source": "train.jsonl"}}
    made = sets_of("same", source=None, sources=own)["same"]
    assert made.columns == COLUMNS and made.prompts[1].truth["answer"] == "B"


def test_a_set_without_any_known_column_is_refused_by_its_own_key(trained):
    with pytest.raises(
        RecipeError,
        match=r"^evaluate.sets.none: data: row 1 of none.jsonl has no column prompt; its columns are text, answer; "
        r"set evaluate.sets.none.columns.prompt to one of them: evaluate.sets.none.columns.prompt=text$",
    ):
        sets_of("none")


def test_an_evaluation_records_the_commit_of_its_rows(folder, monkeypatch, capsys):
    cache = folder / "cache"
    use_cache(cache, monkeypatch)
    old, new = BENCHMARKS["gsm8k"].keys["revision"], "b" * 40
    for commit, answer in ((old, "#### 1"), (new, "#### 2")):
        rows = [{"question": prompt, "answer": answer} for prompt in PROMPTS[:3]]
        splits = {"train": rows, "test": rows}
        add_commit(cache, "openai/gsm8k", commit, splits, config="main", age=60 * (commit == old))
    values = recipe("x").to_mapping()
    names = {"pinned": {}, "newest": {"revision": None}}
    values["evaluate"] = {"sets": {name: {"benchmark": "gsm8k", **names[name]} for name in names}}
    sets = {of.name: of for of in Trainer(Recipe.from_mapping(values), quiet=True).inputs.sets}
    assert [sets[name].facts()["revision"] for name in names] == [old, new]
    assert [sets[name].prompts[0].truth["answer"] for name in names] == ["#### 1", "#### 2"]
    said = capsys.readouterr().err.splitlines()
    rows = "openai/gsm8k has 3 rows, where gsm8k has 1319: results do not compare with others of that name"
    assert f"evaluate.sets.pinned: {rows}" in said
    commit = f"evaluate.sets.newest: data: openai/gsm8k was read at commit {new}; set evaluate.sets.newest.revision to it"
    assert [line for line in said if line.startswith(commit)] and not any(
        old in line for line in said
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_makes_a_set_that_the_recipe_takes(name):
    made = Recipe.from_mapping({"evaluate": {"sets": {"it": {"benchmark": name}}}}).evaluate.sets[
        "it"
    ]
    assert made.source and made.rewards and made.max_tokens and made.benchmark == name
    assert sampling_of_evaluation(Recipe(), made).top_k == 0


def test_evaluation_before_training_can_be_skipped_and_another_threshold_counts(folder):
    trainer = Trainer(
        recipe("x", "evaluate.before=false", "evaluate.threshold=-1", "steps=1"), quiet=True
    )
    summary = trainer.train()
    assert summary["before"] is None and summary["after"]["accuracy"] == 1.0
    assert [row["step"] for row in lines(folder / "x") if "reward/mean" not in row] == [1]


def test_checkpoints_are_ranked_by_the_set_that_best_by_names(folder):
    Trainer(recipe("x", "checkpoint.best_by=gsm/reward", "steps=4"), quiet=True).train()
    manifests = sorted((folder / "x" / "checkpoints").glob("*/manifest.json"))
    figures = {row["step"]: row for row in lines(folder / "x") if "eval/gsm/reward" in row}
    ranked = [json.loads(file.read_text()) for file in manifests]
    for file, manifest in zip(manifests, ranked):
        step = int(file.parent.name.partition("-")[2])
        if manifest["held_out"] is not None:
            assert manifest["held_out"] == pytest.approx(figures[step]["eval/gsm/reward"])
    assert any(manifest["held_out"] is not None for manifest in ranked)


@pytest.mark.parametrize(
    "override, message",
    [
        ("evaluate.sets.gsm.source=none.jsonl", "evaluate.sets.gsm: data: .*none.jsonl"),
        (
            "evaluate.sets.dense.columns={prompt: text}",
            "evaluate.sets.dense: data: .*no column text",
        ),
        ("evaluate.sets.dense.rewards={a: {use: countdwn}}", "did you mean countdown"),
        ("data.sources.second.weight=30", "data.sources.second has 20 rows"),
    ],
)
def test_a_set_or_source_that_cannot_be_used_is_named_before_a_model_loads(
    folder, override, message
):
    extra = ["sample.prompts=30"] if "weight" in override else []
    with pytest.raises(RecipeError, match=message):
        Trainer(recipe("x", override, *extra))


# ---- data, rewards and recipes from Python --------------------------------------------------------------------


def test_rows_and_rewards_may_come_from_python(folder, capsys):
    values = Recipe.load("quickstart", *TINY, "steps=1", "run_dir=x").to_mapping()
    values |= {"data": {"template": "plain", "held_out": 2}, "rewards": {}}
    trainer = Trainer(
        Recipe(**values),
        data=[{"prompt": prompt} for prompt in PROMPTS[:12]],
        rewards=[reward_of_length],
        quiet=True,
    )
    summary = trainer.train()
    assert "reward_of_length" in summary["after"]["details"] and capsys.readouterr().out == ""
    assert repr(trainer).startswith("Trainer(") and "1 of 1 step, finished" in repr(trainer)


def test_a_reward_that_never_reaches_the_threshold_is_said_to_leave_accuracy_at_0(folder, capsys):
    few = ["steps=0", "run_dir=x", "evaluate.samples=5"]
    values = Recipe.load("quickstart", *TINY, *few).to_mapping()
    values |= {"data": {"template": "plain", "held_out": 3}, "rewards": {}}
    data = [{"prompt": prompt} for prompt in PROMPTS[:12]]
    Trainer(Recipe(**values), data=data, rewards=[reward_of_length]).train()
    said = capsys.readouterr().out
    assert "no completion reached 1 by reward_of_length" in said and "evaluate.threshold" in said


def test_epochs_stand_in_for_steps(folder):
    values = Recipe.load("quickstart", *TINY, "run_dir=x").to_mapping()
    del values["steps"]
    values |= {"data": {"template": "plain"}, "epochs": 1.5}
    data = [{"prompt": prompt} for prompt in PROMPTS[:12]]
    trainer = Trainer(Recipe(**values), data=data, quiet=True)
    assert trainer.recipe.steps == 6
    with pytest.raises(RecipeError, match="steps and epochs are both set"):
        Recipe(**values, steps=3)
