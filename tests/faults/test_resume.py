"""What a resumed run gets back: everything, proven by runs that are stopped and gone on with, and what is refused."""

from __future__ import annotations

import gc
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from small_runs import REWARDS, assert_same, outcome, recipe, run
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import RecipeError, Trainer
from grpo.run import checkpoint
from grpo.run.async_writer import Writer
from grpo.run.folder import lock

VARIANTS = {
    "pass rates decide what is drawn": [
        "advantage.flat=refill",
        "advantage.flat_by=accuracy",
        "advantage.retire_at=0.7",
        "data.pass_low=0.1",
        "data.pass_high=0.9",
        "data.pass_again=1",
        "data.args.count=12",
    ],
    "faults, masked truncations": [
        "rewards.correct.use=mine.py:faulty",
        "advantage.mask_truncated=true",
        "sample.max_tokens=24",
        "sample.prompts=5",
        "sample.group_size=4",
    ],
    "groups in flight, filters": [
        "sample.over_request=1.0",
        "sample.max_rows=8",
        "sample.top_k=9",
        "sample.top_p=0.9",
        "sample.max_tokens=24",
        "optim.updates=2",
    ],
    "the entropy bonus follows a target": [
        "loss.entropy=0.01",
        "loss.entropy_target=0.4",
        "loss.entropy_step=0.01",
    ],
    "8-bit moments": ["optim.state=8bit"],
    "moments on the host": ["optim.offload=true", "optim.warmup=3", "optim.schedule=linear"],
    "a reference that is replaced, in the reward": [
        "loss.beta=0.05",
        "loss.kl_in=reward",
        "loss.reference_every=2",
        "model.lora.rank=2",
    ],
    "statistics over the update, oversampled": [
        "loss.policy=clip_cov",
        "loss.cov_share=0.2",
        "loss.top_entropy=0.5",
        "sample.oversample=0.5",
        "advantage.flat=drop",
    ],
}


SLOW = list(VARIANTS)[3:]


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in VARIANTS],
)
@pytest.mark.thin(1)
def test_everything_that_adapts_or_waits_comes_back(reward: Path, variant: str) -> None:
    whole = run(reward / "whole", *VARIANTS[variant])
    trainer = Trainer(recipe(reward / "cut", *VARIANTS[variant]))
    for record in trainer:
        if record["step"] == 3:
            break
    trainer.close()
    cut = run(reward / "cut", *VARIANTS[variant], resume=True)
    assert_same(reward / "whole", reward / "cut")
    assert cut.curriculum.state() == whole.curriculum.state()
    assert cut.curriculum.stream.state() == whole.curriculum.stream.state()
    assert cut.ledger.state() == whole.ledger.state()
    assert cut.learner.bonus.state() == whole.learner.bonus.state()
    assert cut.engine.expected == whole.engine.expected
    assert cut.policy.version == whole.policy.version
    assert [group.to_mapping() for group in cut.progress.partial_groups] == [
        group.to_mapping() for group in whole.progress.partial_groups
    ]
    assert cut.parts.log.accuracy == whole.parts.log.accuracy
    assert cut.progress.tokens == whole.progress.tokens


@pytest.mark.slow
def test_a_finished_run_made_longer_evaluates_where_it_would_have(reward: Path) -> None:
    run(reward / "whole")
    run(reward / "longer", "steps=2")
    run(reward / "longer", "steps=4", resume=True)
    run(reward / "longer", resume=True)
    assert_same(reward / "whole", reward / "longer")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.py").write_text(REWARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "whole")
    return folder / "whole"


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(
    reward: Path, whole: Path, capsys
) -> None:
    run(reward / "cut", "steps=4")
    file = reward / "cut" / "checkpoints" / "step-000004" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)
    capsys.readouterr()
    run(reward / "cut", resume=True)
    said = capsys.readouterr().out
    assert (
        "step-000004 is damaged: weights.safetensors holds other bytes" in said
        and "resumed after step 2" in said
    )
    assert_same(whole, reward / "cut")


def test_where_no_checkpoint_is_whole_the_run_is_refused_in_one_line(reward: Path) -> None:
    run(reward / "cut", "steps=2")
    (reward / "cut" / "checkpoints" / "step-000002" / "state.json").unlink()
    for _ in range(2):
        with pytest.raises(RecipeError, match="no checkpoint of .* is whole"):
            run(reward / "cut", resume=True)


def test_a_run_killed_before_its_first_checkpoint_says_that_it_starts_anew(
    reward: Path, whole: Path, capsys
) -> None:
    trainer = Trainer(recipe(reward / "cut", "checkpoint.every=0"))
    next(iter(trainer))
    trainer.close()
    capsys.readouterr()
    run(reward / "cut", resume=True)
    assert "no checkpoint yet, so it starts from the beginning" in capsys.readouterr().out
    assert_same(whole, reward / "cut")


def test_a_trainer_that_was_closed_or_stopped_may_be_iterated_again(
    reward: Path, whole: Path
) -> None:
    for every in (0, 2):  # without a checkpoint it starts anew, with one it goes on
        folder = reward / f"every-{every}"
        trainer, steps = Trainer(recipe(folder, f"checkpoint.every={every}")), []
        for record in trainer:
            steps.append(record["step"])
            if record["step"] == 3:
                break
        trainer.close()
        for record in trainer:
            steps.append(record["step"])
            if record["step"] == 4:
                trainer.request_stop()
        assert trainer.stopped and not (folder / "summary.json").exists()
        steps += [record["step"] for record in trainer]
        assert steps == ([1, 2, 3, 1, 2, 3, 4, 5, 6] if every == 0 else [1, 2, 3, 3, 4, 5, 6])
        assert_same(whole, folder)


def test_the_best_checkpoint_by_held_out_accuracy_stays(reward: Path) -> None:
    trainer = run(
        reward / "run",
        "steps=10",
        "evaluate.every=1",
        "checkpoint.every=1",
        "checkpoint.keep=1",
        "data.held_out=16",
        "optim.lr=3e-3",
    )
    found: dict[int, list[float]] = {}
    for line in (reward / "run" / "evaluations.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["step"], []).append(row["reward"])
    accuracy = {step: sum(values) / len(values) for step, values in found.items() if 0 < step < 10}
    best = max(accuracy, key=lambda step: (accuracy[step], step))
    names = {place.name for place in (reward / "run" / "checkpoints").iterdir()}
    assert names == {f"step-{best:06d}", "step-000010"} and len(set(accuracy.values())) > 1
    assert checkpoint.best(trainer.folder) == (
        checkpoint.path_of(trainer.folder, best),
        pytest.approx(accuracy[best]),
    )


# ---- what is refused, and what is said --------------------------------------------------------------------------


def data(folder: Path, answer: str = "7", number: int = 20) -> list[str]:
    """Overrides for a data set in a file of which one answer, or the number of rows, is a choice."""
    rows = [
        {"prompt": f"{i} {i + 1} make {2 * i + 1} :", "answer": answer if i == 9 else "1"}
        for i in range(number)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data.source=data.jsonl", "data.args={}", "steps=2"]


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"answer": "8"},
            r"data: the prompts that train are not those that the run began with: 17 rows, now as many, but others",
        ),
        ({"number": 21}, r"data: the prompts that train .*: 17 rows, now 18"),
    ],
)
def test_other_data_under_the_same_name_is_refused(reward: Path, change: dict, words: str) -> None:
    overrides = data(reward)
    run(reward / "run", *overrides)
    data(reward, **change)
    with pytest.raises(RecipeError, match=words):
        run(reward / "run", *overrides, "steps=3", resume=True)
    data(reward)
    run(reward / "run", *overrides, "steps=3", resume=True)


def copy_of_the_model(folder: Path) -> Path:
    shutil.copytree(
        Path(checkpoint.__file__).parents[2] / "recipes" / "quickstart_base",
        folder / "model",
        ignore=shutil.ignore_patterns("*.py", "*.md"),
    )
    return folder / "model"


def test_other_weights_under_the_adapters_are_refused(reward: Path) -> None:
    place = copy_of_the_model(reward)
    overrides = [f"model.name={place}", "model.lora.rank=2"]
    run(reward / "run", *overrides, "steps=2")
    model = AutoModelForCausalLM.from_pretrained(place)
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    model.save_pretrained(place)
    with pytest.raises(
        RecipeError, match="the weights that do not train are not those that the run began with"
    ):
        run(reward / "run", *overrides, "steps=3", resume=True)


def test_other_tokens_of_the_same_rows_are_refused(reward: Path) -> None:
    place = copy_of_the_model(reward)
    run(reward / "run", f"model.name={place}", "steps=2")
    tokenizer = AutoTokenizer.from_pretrained(place)
    words = list(tokenizer.get_vocab())
    text = (place / "tokenizer.json").read_text()
    seven, eight = (tokenizer.get_vocab()[word] for word in ("7", "8"))
    assert words and text.count(f'"7": {seven}') == text.count(f'"8": {eight}') == 1
    text = text.replace(f'"7": {seven}', f'"7": {eight}', 1).replace(
        f'"8": {eight}', f'"8": {seven}', 1
    )
    (place / "tokenizer.json").write_text(text)
    with pytest.raises(RecipeError, match="the same rows become other tokens"):
        run(reward / "run", f"model.name={place}", "steps=3", resume=True)


@pytest.mark.parametrize("edited", ["mine.py", "helper.py"])
def test_a_reward_file_that_changed_or_a_module_of_it_is_said_and_the_run_goes_on(
    reward: Path, capsys, edited: str
) -> None:
    helper = reward / f"helper_{edited == 'helper.py'}.py"  # modules stay loaded from test to test
    helper.write_text("")
    mine = reward / "mine.py"
    mine.write_text(f"import {helper.stem}\n" + mine.read_text())
    run(reward / "run", "steps=2")
    with (mine if edited == "mine.py" else helper).open("a") as file:
        file.write("# a remark\n")
    capsys.readouterr()
    run(reward / "run", "steps=3", resume=True)
    assert (
        "by rewards whose files have changed since (rewards.correct); the run continues, but not bit for bit"
        in capsys.readouterr().out
    )


def test_keys_of_memory_may_change_and_are_said_and_the_run_is_the_same(
    reward: Path, whole: Path, capsys
) -> None:
    run(reward / "cut", "steps=4")
    capsys.readouterr()
    run(reward / "cut", "sample.max_rows=8", resume=True)
    assert (
        "resume: sample.max_rows was 256, is 8: it changes memory and speed"
        in capsys.readouterr().out
    )
    assert_same(whole, reward / "cut")


@pytest.mark.parametrize(
    "overrides, words",
    [
        (
            ["optim.schedule=cosine"],
            "steps was 2, is 3, so from here on the cosine schedule of optim.lr is not the one",
        ),
        (["evaluate.samples=2"], "held-out accuracy is evaluated differently from here on"),
    ],
)
def test_a_free_key_whose_change_acts_on_what_is_compared_is_said(
    reward: Path, capsys, overrides: list, words: str
) -> None:
    fixed = [override for override in overrides if override.startswith("optim")]
    run(reward / "run", *fixed, "steps=2")
    capsys.readouterr()
    run(reward / "run", *overrides, "steps=3", resume=True)
    assert words in capsys.readouterr().out


def test_the_accurate_reward_may_not_change_where_it_chooses_the_prompts(reward: Path) -> None:
    overrides = ["rewards.other.use=mine.py:mixed", "steps=2"]
    run(reward / "plain", *overrides)
    Trainer(recipe(reward / "plain", *overrides, "evaluate.reward=other"), resume=True)
    run(reward / "chooses", *overrides, "advantage.retire_at=0.9")
    with pytest.raises(RecipeError, match="evaluate.reward was None, is 'other'"):
        Trainer(
            recipe(
                reward / "chooses", *overrides, "advantage.retire_at=0.9", "evaluate.reward=other"
            ),
            resume=True,
        )


@pytest.mark.slow
def test_two_runs_never_write_one_folder(reward: Path) -> None:
    first = Trainer(recipe(reward / "run"))
    next(iter(first))
    with pytest.raises(RecipeError, match="another run is active in .*run"):
        run(reward / "run", resume=True)
    before = outcome_so_far(reward / "run")
    first.close()
    assert before == outcome_so_far(reward / "run")
    run(reward / "run", resume=True)
    run(reward / "whole")
    assert_same(reward / "whole", reward / "run")


class SlowWriter(Writer):
    """One whose disk takes as long as the test wants."""

    def __init__(self, folder: Path):
        super().__init__(folder, keep=1, best=0, background=True)
        self.disk = threading.Event()

    def _write(self, *of: object) -> None:
        assert self.disk.wait(60)


def test_a_run_that_is_dropped_keeps_others_out_until_its_checkpoint_is_written(
    tmp_path: Path,
) -> None:
    writer = SlowWriter(tmp_path)
    writer.folder_lock = lock(tmp_path)
    writer._start(None, ())
    thread, disk = writer._thread, writer.disk
    del writer
    gc.collect()
    with pytest.raises(RecipeError, match="another run is active"):
        lock(tmp_path)
    disk.set()
    thread.join()
    gc.collect()
    lock(tmp_path).close()


def outcome_so_far(folder: Path) -> bytes:
    return (folder / "samples.jsonl").read_bytes()


def test_a_folder_of_a_run_that_was_killed_before_its_recipe_was_written_may_be_begun(
    reward: Path,
) -> None:
    folder = reward / "run"
    folder.mkdir()
    (folder / ".writing-recipe.yaml").write_text("name: qui")
    (folder / "metrics.jsonl").touch()
    run(folder, "steps=1")
    steps = [row for row in outcome(folder)["metrics"] if "reward/mean" in row]
    assert len(steps) == 1 and not list(folder.glob(".writing*"))
