"""kill -9 in any stage of a recipe, and in between: what is gone on with is what was never killed."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from lives import Lives
from small_runs import assert_same
from stage_runs import RL, START, TABLE, statuses, values

from grpo.recipe.files import to_yaml

STAGES = (START, RL, TABLE)
MADE = ("table.json", "table.md", "stages/table/completions/rl.jsonl")


@pytest.fixture(scope="module")
def whole(lives: Lives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages in one life."""
    folder = tmp_path_factory.mktemp("whole")
    life = lives.live([recipe(folder)], folder)
    assert life["code"] == 0, life["said"]
    return folder / "run"


def recipe(folder: Path) -> str:
    file = folder / "recipe.yaml"
    file.write_text(to_yaml(values(folder / "run", *STAGES)))
    return str(file)


def assert_same_stages(whole: Path, cut: Path) -> None:
    assert set(statuses(cut).values()) == {"done"}
    for name in ("start", "rl"):
        assert_same(whole / "stages" / name, cut / "stages" / name)
    for file in MADE:
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file


@pytest.mark.slow
def test_stages_killed_in_each_of_them_are_the_stages_never_killed(
    lives: Lives, tmp_path: Path, whole: Path, seed: int
) -> None:
    rng = random.Random(seed)
    file = recipe(tmp_path)
    cut = tmp_path / "run"
    places = ["stages/start/checkpoints", "stages/rl/checkpoints", "stages/table", "stages.json"]
    killed = 0
    for place in places:
        resume = ["--resume=auto"]
        end = {"path": place, "event": rng.randint(1, 6)}
        life = lives.live([file, *resume], tmp_path, **end)
        assert life["code"] in (0, -9), life["said"]
        killed += life["code"] == -9
    life = lives.live([file, "--resume=auto"], tmp_path)
    assert life["code"] == 0, life["said"]
    assert killed >= 2
    assert_same_stages(whole, cut)


@pytest.mark.slow
def test_stages_killed_at_any_time_are_the_stages_never_killed(
    lives: Lives, tmp_path: Path, whole: Path, seed: int
) -> None:
    rng = random.Random(seed + 1)
    file = recipe(tmp_path)
    code = None
    num_kills = 0
    while code != 0:
        end = {"event": rng.randint(3, 150)} if num_kills < 6 else {}
        life = lives.live([file, "--resume=auto"], tmp_path / "run", **end)
        code = life["code"]
        assert code in (0, -9), life["said"]
        num_kills += code == -9
    assert num_kills
    assert_same_stages(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_signal_stops_the_stage_that_runs_and_the_stages_resume(
    lives: Lives, tmp_path: Path, whole: Path
) -> None:
    file = recipe(tmp_path)
    run = tmp_path / "run"
    life = lives.live([file], tmp_path, path="stages/rl/metrics.jsonl", signal=15)
    assert life["code"] == 3, life["said"]
    assert "stopped in stage rl" in life["said"]
    assert statuses(run) == {"start": "done", "rl": "stopped", "table": "waiting"}
    life = lives.live([str(run), "--resume"], tmp_path)
    assert life["code"] == 0, life["said"]
    assert_same_stages(whole, run)


@pytest.mark.slow
def test_a_signal_in_each_kind_of_stage_names_it_and_loses_nothing(
    lives: Lives, tmp_path: Path
) -> None:
    answers = {"name": "answers", "reject": {"prompts": 12, "right": False, "finished": False}}
    learnt = {"name": "again", "sft": {"steps": 3, "batch": 2}, "data": {"from": "answers"}}
    taught = {"name": "taught", "distill": {"teacher": "again", "steps": 2}, "from": "base"}
    file_of = {"name": "file", "export": {"to": "safetensors"}}
    stages = (RL, answers, learnt, taught, TABLE, file_of)
    files = {}
    for name in ("whole", "cut"):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(to_yaml(values(tmp_path / name, *stages)))
    alone = lives.live([str(files["whole"])], tmp_path)
    assert alone["code"] == 0, alone["said"]
    for name, place, number in (
        ("rl", "rl/checkpoints/.writing-step-000001", signal.SIGINT),
        ("answers", "answers/.writing-progress.json", signal.SIGTERM),
        ("again", "again/checkpoints/.writing-step-000001", signal.SIGTERM),
        ("taught", "taught/checkpoints/.writing-step-000001", signal.SIGINT),
        ("table", "table/done/.writing-base.json", signal.SIGINT),
        ("file", "file/recipe.yaml", signal.SIGTERM),
    ):
        end = {"path": place, "event": 2 if name == "answers" else 1, "signal": int(number)}
        life = lives.live([str(files["cut"]), "--resume=auto"], tmp_path, **end)
        if name == "file":  # it is one piece, and the last
            assert life["code"] == 0 or "stopped in stage file" in life["said"], life["said"]
            continue
        assert life["code"] == 3 and f"stopped in stage {name}. " in life["said"], life["said"]
        assert statuses(tmp_path / "cut")[name] == "stopped"
    life = lives.live([str(files["cut"]), "--resume=auto"], tmp_path)
    assert life["code"] == 0, life["said"]
    for file in (*MADE[:2], "stages/answers/accepted.jsonl"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    for name in ("rl", "again", "taught"):
        weights = f"stages/{name}/final/model.safetensors"
        assert (tmp_path / "whole" / weights).read_bytes() == (
            tmp_path / "cut" / weights
        ).read_bytes()
