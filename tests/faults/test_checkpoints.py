"""Checkpoints are whole or not there: damage of any kind is found and named, and the one before is used."""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import random
import resource
import shutil
import signal
import threading
from contextlib import closing
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import recipe

from grpo import Trainer
from grpo.model.info import load_config, load_tokenizer
from grpo.preflight import dry_run
from grpo.preflight.memory import example_rows, predict
from grpo.recipe import RecipeError
from grpo.run import checkpoint
from grpo.run.async_writer import Writer
from grpo.run.checkpoint import Checkpoint
from grpo.run.folder import truncate_to_step
from grpo.run.tensor_file import (
    PIECE,
    DirectFile,
    SummedFile,
    checked,
    copied,
    flatten_tensors,
    open_large,
    put_together,
    write_tensors,
)

FILES = [
    "weights.safetensors",
    "reference.safetensors",
    "optimizer.safetensors",
    "generators.safetensors",
    "state.json",
    "manifest.json",
]


def example(step: int, reference: bool = True, held_out: float | None = None) -> Checkpoint:
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16()}
    optimizer = {
        "adamw": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2)}},
            "param_groups": [{"betas": (0.9, 0.999), "params": [0]}],
        },
        "num_updates": step,
    }
    return Checkpoint(
        step,
        weights,
        optimizer,
        {"a": torch.randn(3, 4)} if reference else None,
        {"stream": {"epoch": 1, "cursor": 2, "deferred": [3]}, "seconds": 1.5},
        [checkpoint.random_state()],
        held_out,
    )


def equal(a: object, b: object) -> bool:
    """Whether two trees of values are the same to the bit, types of containers included."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a, b)
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# ---- what is written is what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [True, False])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, seed: int, reference: bool) -> None:
    saved = example(7, reference, 0.25)
    loaded = checkpoint.load(checkpoint.save(tmp_path, saved, keep=2))
    assert (loaded.step, loaded.held_out) == (7, 0.25) and loaded.state == saved.state
    for part in ("weights", "optimizer", "reference", "generators"):
        assert equal(getattr(loaded, part), getattr(saved, part)), part


def test_a_tree_of_values_comes_back_with_its_kinds_of_keys_and_sequences(seed: int) -> None:
    tree = {
        0: (1, 2.5, None),
        "0": [torch.randn(2, 3), {True: torch.zeros(0)}],
        "x": {"y": ((), [], {})},
        "numbers": [0.1 + 0.2, 1e-310, -0.0, math.inf, 2**70],
    }
    tensors: dict[str, torch.Tensor] = {}
    plain = json.loads(json.dumps(flatten_tensors(tree, tensors)))
    assert len(tensors) == 2 and equal(put_together(plain, tensors), tree)


def test_tensors_are_written_as_safetensors_writes_them(tmp_path: Path, seed: int) -> None:
    kinds = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ]
    shapes = [(), (0,), (1,), (7, 3), (2, 1, 5), (3_000_001,)]  # the last is longer than a piece
    tensors = {
        f"{kind}{i}": (100 * torch.randn(shape)).to(kind)
        for i, shape in enumerate(shapes)
        for kind in kinds
        if i < 5 or kind == torch.float32
    }
    tensors["transposed"] = torch.randn(4, 6).t()
    with (tmp_path / "ours").open("wb") as out:
        written = SummedFile(out)
        write_tensors(written, tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
    assert set(ours) == set(theirs) and all(equal(ours[name], theirs[name]) for name in theirs)
    assert written.entry() == checked(tmp_path / "ours")


@pytest.mark.parametrize(
    "pieces",
    [[0, 1], [PIECE - 1, 1], [PIECE], [5, PIECE, 7], [3 * PIECE + 4097], [PIECE, PIECE, 1]],
)
@pytest.mark.parametrize("refused", [False, True], ids=["", "refused"])
def test_a_file_past_the_cache_holds_what_it_was_given(
    tmp_path: Path, pieces: list[int], refused: bool
) -> None:
    try:
        out = DirectFile(tmp_path / "file")
    except (OSError, AttributeError):
        pytest.skip("this file system is always cached")
    if refused:  # the kernel takes no buffer at an odd address
        out._buffer = memoryview(mmap.mmap(-1, PIECE + 1))[1:]
    given = [os.urandom(size) for size in pieces]
    with closing(out):
        for data in given:
            out.write(memoryview(data))
    assert (tmp_path / "file").read_bytes() == b"".join(given)
    assert out._direct == (sum(pieces) % PIECE == 0 and not refused)


def test_a_full_disk_is_an_error_and_not_a_short_file(tmp_path: Path) -> None:
    child = os.fork()
    if not child:  # in a process of its own: a limit cannot be raised again
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (PIECE + 1000,) * 2)
        code = 1
        try:
            with closing(open_large(tmp_path / "file")) as out:
                out.write(memoryview(bytes(2 * PIECE)))
        except OSError as error:
            code = 0 if error.errno == errno.EFBIG else 2
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_copy_does_not_change_with_what_it_was_taken_of(seed: int) -> None:
    live = {"a": [torch.randn(3)], "b": torch.randn(2, 2)[:, 0]}
    copy = copied(live)
    expected = [live["a"][0].clone(), live["b"].clone()]
    live["a"][0].zero_(), live["b"].add_(1)
    assert torch.equal(copy["a"][0], expected[0]) and torch.equal(copy["b"], expected[1])


def test_every_random_generator_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    random.gauss(0, 1), numpy.random.randn()  # each keeps a second number back
    place = checkpoint.save(tmp_path, example(1), keep=1)
    expected = [
        random.random(),
        numpy.random.rand(),
        torch.rand(3),
        random.gauss(0, 1),
        numpy.random.randn(),
    ]
    random.seed(99), numpy.random.seed(99), torch.manual_seed(99)
    checkpoint.set_random_state(checkpoint.load(place).generators[0])
    again = [
        random.random(),
        numpy.random.rand(),
        torch.rand(3),
        random.gauss(0, 1),
        numpy.random.randn(),
    ]
    assert torch.equal(expected.pop(2), again.pop(2)) and expected == again


# ---- which are kept ---------------------------------------------------------------------------------------------


def steps(run: Path) -> list[int]:
    return sorted(int(place.name[5:]) for place in checkpoint.folder_of(run).iterdir())


def test_the_last_few_are_kept_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (5, 10, 999_999, 1_000_000):
        checkpoint.save(tmp_path, example(step), keep=2)
    assert steps(tmp_path) == [999_999, 1_000_000]
    assert checkpoint.newest_whole(tmp_path)[0].name == "step-1000000"


@pytest.mark.parametrize("keep, best", [(1, 0), (1, 1), (2, 1), (3, 2), (1, 3)])
def test_the_last_and_the_best_are_kept_as_a_list_of_all_would_have_it(
    tmp_path: Path, seed: int, keep: int, best: int
) -> None:
    rng, alive = random.Random(seed), {}
    for step in range(1, 13):
        held_out = rng.choice([None, 0.1, 0.2, 0.3])
        checkpoint.save(tmp_path, example(step, held_out=held_out), keep, best)
        alive[step] = held_out
        ranked = sorted(
            (s for s in alive if alive[s] is not None), key=lambda s: (alive[s], s), reverse=True
        )
        alive = {s: alive[s] for s in alive if s in sorted(alive)[-keep:] or s in ranked[:best]}
        assert steps(tmp_path) == sorted(alive)
    left = [step for step in ranked if step in alive]
    assert checkpoint.best(tmp_path) == (
        (checkpoint.path_of(tmp_path, left[0]), alive[left[0]]) if left else None
    )


# ---- damage -----------------------------------------------------------------------------------------------------


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def lengthen(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randint(1, 9)))


def swap(file: Path, rng: random.Random) -> None:
    """Two stretches of the file change places; its length stays."""
    data = file.read_bytes()
    at = rng.randrange(1, len(data))
    file.write_bytes(data[at:] + data[:at] if data[at:] + data[:at] != data else data[::-1])


def remove(file: Path, rng: random.Random) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, lengthen, swap, remove])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, seed: int, name: str, damage
) -> None:
    rng = random.Random(seed)
    before = checkpoint.save(tmp_path, example(1), keep=2)
    whole = checkpoint.save(tmp_path, example(2), keep=2)
    for attempt in range(8 if damage is flip else 2):
        place = tmp_path / f"{attempt}" / "checkpoints" / "step-000002"
        shutil.copytree(whole, place)
        shutil.copytree(before, place.parent / before.name)
        damage(place / name, rng)
        found, notes = checkpoint.newest_whole(tmp_path / f"{attempt}")
        assert found == place.parent / "step-000001" and checkpoint.load(found).step == 1
        assert len(notes) == 1 and "step-000002 is damaged" in notes[0] and name in notes[0], notes
        assert (place.parent / "damaged-step-000002").is_dir() and not place.exists()


def test_every_single_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, example(1, reference=False), keep=1)
    whole = (place / "manifest.json").read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        (place / "manifest.json").write_bytes(data)
        assert any("manifest.json" in problem for problem in checkpoint.problems(place)), bit
    (place / "manifest.json").write_bytes(whole)
    assert checkpoint.problems(place) == []


def test_a_file_that_does_not_belong_there_is_named_and_never_read(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, example(3, reference=False), keep=1)
    save_file({"a": torch.ones(1)}, place / "reference.safetensors")
    found, notes = checkpoint.newest_whole(tmp_path)
    assert found == place and checkpoint.load(found).reference is None
    assert len(notes) == 1 and "also holds reference.safetensors" in notes[0]


def test_a_checkpoint_under_another_ones_name_is_found(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, example(3), keep=1)
    place.rename(place.with_name("step-000009"))
    with pytest.raises(
        RecipeError,
        match=r"step-000009 is damaged: manifest.json is that of step 3.*no checkpoint of .* is whole",
    ):
        checkpoint.newest_whole(tmp_path)


def test_where_none_is_whole_all_are_named_now_and_the_next_time(tmp_path: Path, seed: int) -> None:
    for step in (1, 2):
        flip(
            checkpoint.save(tmp_path, example(step), keep=2) / "weights.safetensors",
            random.Random(seed),
        )
    with pytest.raises(
        RecipeError,
        match="step-000002 is damaged: weights.*step-000001 is damaged: weights.*start again",
    ):
        checkpoint.newest_whole(tmp_path)
    with pytest.raises(RecipeError, match="no checkpoint of .* is whole"):
        checkpoint.newest_whole(tmp_path)


def test_what_was_set_aside_goes_when_its_step_is_made_again_and_not_before(
    tmp_path: Path, seed: int
) -> None:
    for step in (2, 4):
        place = checkpoint.save(tmp_path, example(step), keep=2)
    truncate(place / "optimizer.safetensors", random.Random(seed))
    assert checkpoint.newest_whole(tmp_path)[0].name == "step-000002"
    checkpoint.save(tmp_path, example(3), keep=1)
    assert sorted(p.name for p in checkpoint.folder_of(tmp_path).iterdir()) == [
        "damaged-step-000004",
        "step-000003",
    ]
    checkpoint.save(tmp_path, example(4), keep=1)
    assert steps(tmp_path) == [4]


def test_a_checkpoint_of_another_version_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    place = checkpoint.save(tmp_path, example(3), keep=1)
    monkeypatch.undo()
    with pytest.raises(RecipeError, match="has format 3, and this version reads 2"):
        checkpoint.newest_whole(tmp_path)
    assert place.is_dir()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    place = checkpoint.save(tmp_path, example(3), keep=1)
    torch.save({"adamw": Trap()}, place / "optimizer.safetensors")
    torch.save({"adamw": Trap()}, place / "optimizer.pt")
    manifest = checkpoint.read_manifest(place)
    manifest["files"]["optimizer.safetensors"] = checked(
        place / "optimizer.safetensors"
    )  # whoever made it knows how
    (place / "manifest.json").write_text(checkpoint._manifest_text(manifest))
    assert checkpoint.problems(place) == []
    with pytest.raises(Exception, match="(?i)header"):
        checkpoint.load(place)
    assert not (tmp_path / "sprung").exists()


# ---- crashes and full disks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", FILES)
def test_a_disk_that_takes_no_more_leaves_the_previous_one_whole_and_no_rest(
    tmp_path: Path, victim: str
) -> None:
    checkpoint.save(tmp_path, example(1), keep=1)
    writing = tmp_path / "checkpoints" / ".writing-step-000002"

    def full() -> None:
        if (writing / victim).exists():
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=f"{victim} cannot be written .No space left on device"):
        checkpoint.save(tmp_path, example(2), keep=1, between=full)
    assert (
        steps(tmp_path) == [1] and checkpoint.load(checkpoint.newest_whole(tmp_path)[0]).step == 1
    )


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path, example(1), keep=1)
    shutil.copytree(place, place.with_name(".writing-step-000002"))
    shutil.copytree(place, place.with_name(".dropping-step-000000"))
    (tmp_path / ".writing-recipe.yaml").write_text("name: x")
    checkpoint.clear(tmp_path)
    assert steps(tmp_path) == [1] and [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


# ---- beside the training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [True, False])
def test_a_checkpoint_holds_what_stood_when_it_was_saved_however_late_it_is_written(
    tmp_path: Path, seed: int, beside: bool
) -> None:
    live = example(1)
    expected = live.copied()
    go, writer = threading.Event(), Writer(tmp_path, 2, 1, beside)
    if beside:
        writer._raise_if_abandoned = lambda: go.wait(20)
    writer.save(live, [])
    if beside:
        assert checkpoint.newest_whole(tmp_path)[0] is None
    for tensor in (*live.weights.values(), live.optimizer["adamw"]["state"][0]["exp_avg"]):
        tensor.fill_(7)
    go.set()
    writer.wait()
    found = checkpoint.load(checkpoint.newest_whole(tmp_path)[0])
    assert equal(found.weights, expected.weights) and equal(found.optimizer, expected.optimizer)
    assert writer.num_written == 1 and writer.describe()


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 5, 0, True)
    for step in range(1, 6):
        writer.save(example(step), [])
    writer.wait()
    assert steps(tmp_path) == [1, 2, 3, 4, 5] and all(
        not checkpoint.problems(checkpoint.path_of(tmp_path, s)) for s in range(1, 6)
    )


def test_what_the_writer_could_not_do_is_raised_where_the_run_next_looks_and_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    writer = Writer(tmp_path, 2, 1, True)
    with pytest.raises(OSError, match="checkpoints"):
        writer.save(example(1), [])  # raises here already if the thread was quick
        writer.wait()
    writer.wait()
    writer.check()
    assert Writer(tmp_path, 2, 1, True).finish() == []


def test_a_copy_that_memory_could_not_hold_is_not_made_and_that_is_said(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("grpo.run.async_writer.MOST_OF_MEMORY", 1e-12)
    writer = Writer(tmp_path, 2, 1, True)
    note = writer.save(example(1), [])
    assert note and "the run waits while it is written" in note
    assert checkpoint.newest_whole(tmp_path)[0].name == "step-000001"


def test_a_checkpoint_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    writer, begun = Writer(tmp_path, 2, 1, True), threading.Event()
    checkpoint.save(tmp_path, example(1), keep=2)
    own = writer._raise_if_abandoned

    def between() -> None:
        begun.set()
        writer._abandoned.wait(20)
        own()

    writer._raise_if_abandoned = between
    writer.save(example(2), [])
    assert begun.wait(20)
    writer.abandon()
    writer.wait()
    assert steps(tmp_path) == [1] and writer.num_written == 0


# ---- journals ---------------------------------------------------------------------------------------------------


def test_records_after_the_checkpoint_and_a_torn_line_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "x": step / 3}) + "\n" for step in (1, 2, 3, 4)]
    file.write_text("".join(lines) + '{"step": 5, "x"')
    truncate_to_step(file, 3)
    assert file.read_text() == "".join(lines[:3])
    truncate_to_step(file, -1)
    assert file.read_text() == ""


def test_a_journal_is_cut_at_its_size_and_by_its_steps_where_that_ends_no_line(
    tmp_path: Path,
) -> None:
    file = tmp_path / "evaluations.jsonl"
    lines = [
        json.dumps({"step": step, "when": when}) + "\n"
        for step, when in ((0, "a"), (2, "a"), (2, "b"))
    ]
    for size, expected in (
        (len("".join(lines[:2])), 2),
        (0, 0),
        (len("".join(lines[:2])) + 1, 3),
        (10**6, 3),
    ):
        file.write_text("".join(lines) + '{"step"')
        truncate_to_step(file, 2, size)
        assert file.read_text() == "".join(lines[:expected])


@pytest.mark.parametrize(
    "overrides", [[], ["model.lora.rank=4", "loss.beta=0.1"], ["model.dtype=bfloat16"]]
)
@pytest.mark.thin(1)
def test_the_dry_run_predicts_a_checkpoints_size(reward: Path, overrides: list[str]) -> None:
    found = recipe(reward / "run", "data.held_out=0", "steps=2", *overrides)
    assert sum(record["update/made"] for record in Trainer(found))
    saved = checkpoint.load(checkpoint.newest_whole(reward / "run")[0])
    memory = predict(
        load_config(found.model),
        load_tokenizer(found.model),
        found.model,
        found.optim,
        found.loss,
        example_rows(1, 2, 8, 8),
    )
    assert dry_run.checkpoint_bytes(found, memory) == pytest.approx(saved.num_bytes, rel=0.01)
    assert sum("a checkpoint: about" in line for line in dry_run.memory(found)) == 1
