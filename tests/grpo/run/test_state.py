"""A checkpoint's plain values have the keys they always had, so that older run folders resume."""

from __future__ import annotations

from dataclasses import fields

from grpo.run.state import Progress, RunState

KEYS = [
    "bonus",
    "parts",
    "seconds",
    "tokens",
    "before",
    "examples_before",
    "evaluated",
    "accuracy",
    "carried",
    "expected",
    "version_of_weights",
    "journals",
    "made_of",
]
LATER = ["ranking", "sets_before", "trackers", "ahead"]


def test_the_keys_of_the_file_are_those_of_the_first_format() -> None:
    values = {key: [key] for key in [*KEYS, *LATER]}
    state = RunState.from_mapping(values)
    assert state.partial_groups == ["carried"] and state.fingerprint == ["made_of"]
    assert state.to_mapping() == values and list(state.to_mapping()) == [*KEYS, *LATER]
    assert len(fields(RunState)) == len(values)


def test_a_state_from_before_there_were_sets_has_the_held_out_rows_as_one() -> None:
    state = RunState.from_mapping({**{key: [key] for key in KEYS}, "before": {"accuracy": 0.5}})
    assert state.ranking == ["accuracy"] and state.sets_before == {"heldout": {"accuracy": 0.5}}
    nothing = RunState.from_mapping({**{key: [key] for key in KEYS}, "before": None})
    assert nothing.sets_before == {}


def test_a_state_from_before_there_were_trackers_has_wandb_as_one() -> None:
    earlier = {**{key: [key] for key in [*KEYS, *LATER[:2]]}, "wandb_id": "abc"}
    assert RunState.from_mapping(earlier).trackers == {"wandb": "abc"}
    assert RunState.from_mapping({**earlier, "wandb_id": None}).trackers == {}


def test_a_reset_progress_is_a_new_one() -> None:
    progress = Progress(num_steps=3, seconds=2.0, evaluated_step=2, saved_step=2)
    progress.sets_before = {"heldout": {"accuracy": 1.0}}
    progress.tokens["sampled"] = 7
    progress.reset()
    fresh = Progress()
    for part in fields(Progress):
        assert getattr(progress, part.name) == getattr(fresh, part.name), part.name


def test_the_time_of_a_block_is_counted_once_also_if_it_fails() -> None:
    progress = Progress()
    try:
        with progress.timed():
            assert progress.seconds == 0 <= progress.seconds_now
            raise ValueError
    except ValueError:
        pass
    assert progress.seconds > 0
