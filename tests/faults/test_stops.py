"""Signals, full and read-only disks, no memory: the run ends in words, and what is gone on with is the run never stopped."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from lives import NO_DISK, Lives
from small_runs import REWARDS, TINY, assert_same

STEPS = ["quickstart", *TINY, "steps=4"]


def arguments(folder: Path, *overrides: str) -> list[str]:
    resume = ["--resume"] if (folder / "recipe.yaml").exists() else []
    return [*STEPS, f"run_dir={folder}", *overrides, *resume]


def signals(number: int, *at: int, after: Path | None = None) -> list[str]:
    """Overrides by which the reward sends the trainer a signal while it samples or evaluates, once `after` exists."""
    wait = "" if after is None else f", after: {after}"
    return [
        "rewards.correct.use=mine.py:signals",
        f"rewards.correct.args={{at: {list(at)}, number: {int(number)}{wait}}}",
    ]


@pytest.fixture(scope="module")
def whole(lives: Lives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is never stopped."""
    place = tmp_path_factory.mktemp("whole")
    (place / "mine.py").write_text(REWARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert lives.live(arguments(place / "run"), place / "run")["code"] == 0
    return place / "run"


# three completions are evaluated before training, nine sampled a step, three evaluated after step 2, and three at the end
@pytest.mark.parametrize(
    "at, steps",
    [
        pytest.param(2, (0,), id="in the evaluation before", marks=pytest.mark.slow),
        pytest.param(5, (1,), id="in step 1", marks=pytest.mark.slow),
        pytest.param(15, (2,), id="in step 2, after which an evaluation is due"),
        pytest.param(23, (2, 3), id="in the evaluation after step 2"),
        pytest.param(44, (4,), id="in the last evaluation", marks=pytest.mark.slow),
    ],
)
@pytest.mark.thin(1)
def test_sigterm_ends_the_step_or_the_evaluation_and_loses_nothing(
    lives: Lives, reward: Path, whole: Path, at: int, steps: tuple[int, ...]
) -> None:
    cut, overrides = reward / "cut", signals(signal.SIGTERM, at)
    life = lives.live(arguments(cut, *overrides), cut)
    if life["code"] != 0:  # the signal of the last evaluation may come after its last word
        assert life["code"] == 3 and "stopping after this step" in life["said"], life["said"]
        assert any(f"stopped after step {step}. To resume: " in life["said"] for step in steps), (
            life["said"]
        )
        assert lives.live(arguments(cut, *overrides), cut)["code"] == 0
    assert_same(whole, cut)


@pytest.mark.parametrize(
    "place",
    [
        "step-000002/weights.safetensors",
        pytest.param("step-000002/manifest.json", marks=pytest.mark.slow),
        pytest.param("step-000004/state.json", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_sigterm_while_a_checkpoint_is_written(
    lives: Lives, reward: Path, whole: Path, place: str
) -> None:
    cut = reward / "cut"
    life = lives.live(
        arguments(cut, "checkpoint.keep=1"),
        cut,
        path=f".writing-{place}",
        signal=int(signal.SIGTERM),
    )
    done = place.startswith(
        "step-000004"
    )  # the last step is made, and may be all that there was to do
    assert life["code"] == 3 or done and life["code"] == 0, life["said"]
    if life["code"] == 3:
        assert lives.live(arguments(cut, "checkpoint.keep=1"), cut)["code"] == 0
    assert_same(whole, cut)


def test_ctrl_c_twice_stops_at_once_and_the_last_checkpoint_stands(
    lives: Lives, reward: Path, whole: Path
) -> None:
    cut = reward / "cut"
    written = (
        cut / "checkpoints" / "step-000002"
    )  # in the background, and given up where it is not done
    overrides = signals(signal.SIGINT, 38, 39, after=written)
    life = lives.live(arguments(cut, *overrides), cut)
    assert life["code"] == 1, life["said"]
    assert (
        "\nstopped at once; the checkpoint of step 2 stands. To resume: python -m grpo.train quickstart "
        in life["said"]
    ), life["said"]
    assert "Traceback" not in life["said"]
    assert lives.live(arguments(cut, *overrides), cut)["code"] == 0
    assert_same(whole, cut)


def test_ctrl_c_twice_in_the_first_step_says_that_nothing_was_saved(
    lives: Lives, reward: Path, whole: Path
) -> None:
    cut, overrides = reward / "cut", signals(signal.SIGINT, 5, 6)
    life = lives.live(arguments(cut, *overrides), cut)
    last = life["said"].splitlines()[-1]
    assert life["code"] == 1 and not list((cut / "checkpoints").glob("step-*")), life["said"]
    assert last.startswith("stopped at once; no checkpoint was saved yet. To begin again: "), last
    assert last in (cut / "console.log").read_text()
    assert lives.live(arguments(cut, *overrides), cut)["code"] == 0
    assert_same(whole, cut)


# ---- disks ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_that_may_grow_no_further_is_one_line_and_the_run_goes_on_later(
    lives: Lives, reward: Path, whole: Path
) -> None:
    cut = reward / "cut"
    assert lives.live(arguments(cut, "steps=1"), cut)["code"] == 0
    life = lives.live(arguments(cut), cut, largest=400_000)
    last = life["said"].splitlines()[-1]
    assert life["code"] == 1 and "Traceback" not in life["said"], life["said"]
    assert (
        "step-000002/weights.safetensors cannot be written (File too large); the checkpoint of step 1 stands"
        in last
    )
    assert [p.name for p in (cut / "checkpoints").iterdir()] == ["step-000001"]
    assert lives.live(arguments(cut), cut)["code"] == 0
    assert_same(whole, cut)


def test_a_full_disk_is_one_line_and_what_was_on_it_goes_on_elsewhere(
    lives: Lives, reward: Path, whole: Path
) -> None:
    (reward / "disk").mkdir()
    life = lives.live(
        arguments(reward / "disk" / "run"), reward / "disk", disk="2300k", copy=str(reward / "copy")
    )
    if life["code"] == NO_DISK:
        pytest.skip("no disk may be mounted here")
    assert life["code"] == 1 and "Traceback" not in life["said"], life["said"]
    last = life["said"].splitlines()[
        -1
    ]  # of the last checkpoint or of final/, which are written side by side
    assert all(
        words in last
        for words in (
            "cannot be written (",
            "No space left on device",
            "; the checkpoint of step 2 stands. To resume: ",
        )
    )
    assert [p.name for p in (reward / "copy" / "run" / "checkpoints").iterdir()] == ["step-000002"]
    assert lives.live(arguments(reward / "copy" / "run"), reward / "copy")["code"] == 0
    assert_same(whole, reward / "copy" / "run")


@pytest.mark.parametrize("begun", [False, True])
def test_a_read_only_disk_is_refused_before_anything_loads(
    lives: Lives, reward: Path, begun: bool
) -> None:
    cut = reward / "cut"
    if begun:
        assert lives.live(arguments(cut, "steps=1"), cut)["code"] == 0
    life = lives.live(arguments(cut), reward, disk="read-only")
    if life["code"] == NO_DISK:
        pytest.skip("no disk may be mounted here")
    assert life["code"] == 2 and life["said"].count("\n") == 1, life["said"]
    assert "is read-only; choose another run_dir" in life["said"]


# ---- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_memory_is_one_line_with_the_keys_to_lower_and_lowering_them_goes_on(
    lives: Lives, reward: Path
) -> None:
    whole, large = (
        reward / "whole",
        ["sample.prompts=32", "sample.group_size=8", "sample.max_tokens=64", "checkpoint.every=1"],
    )
    assert lives.live(arguments(whole, *large, "steps=1"), whole)["code"] == 0
    for mib in (330, 320, 310):  # in some processes the first is enough
        cut = reward / str(mib)
        shutil.copytree(whole, cut)
        life = lives.live(arguments(cut, *large, "steps=2"), cut, memory=mib * 2**20)
        if life["code"]:
            break
    last = life["said"].splitlines()[-1]
    assert life["code"] == 1 and "Traceback" not in life["said"], life["said"]
    assert (
        "out of memory" in last
        and "lower optim.tokens_per_micro_batch" in last
        and "sample.max_rows" in last
    )
    life = lives.live(
        arguments(cut, *large, "steps=2", "optim.tokens_per_micro_batch=600", "sample.max_rows=32"),
        cut,
    )
    assert life["code"] == 0 and "optim.tokens_per_micro_batch was 16384, is 600" in life["said"], (
        life["said"]
    )
