"""A mixture draws by its weights to within one prompt at every moment, repeats by its seed, and resumes exactly."""

from __future__ import annotations

from collections import Counter

import pytest

from grpo.data.stream import MixedStream
from grpo.recipe import RecipeError
from grpo.types import Prompt


def mixed(weights: dict[str, float], *, rows: int = 50, seed: int = 0) -> MixedStream:
    sources = {
        name: [Prompt(f"{name}:train-{i}", (i,), {}, source=name) for i in range(rows)]
        for name in weights
    }
    return MixedStream(sources, weights, seed)


def ids(prompts: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in prompts]


@pytest.mark.parametrize(
    "weights", [{"a": 0.7, "b": 0.3}, {"a": 1, "b": 1, "c": 1}, {"a": 5, "b": 0.01}]
)
@pytest.mark.parametrize("number", [1, 7, 10])
def test_after_any_number_of_prompts_each_source_gave_its_share_to_within_one(weights, number):
    stream = mixed(weights)
    total = sum(weights.values())
    given: Counter[str] = Counter()
    for step in range(1, 101):
        given.update(prompt.source for prompt in stream.take(number))
        for name, weight in weights.items():
            assert abs(given[name] - step * number * weight / total) < 1


def test_weights_of_seven_and_three_tenths_are_exact_in_every_step_of_ten():
    stream = mixed({"a": 0.7, "b": 0.3})
    for _ in range(100):
        assert Counter(prompt.source for prompt in stream.take(10)) == {"a": 7, "b": 3}


def test_each_source_gives_all_of_its_prompts_once_before_it_repeats_one():
    stream = mixed({"a": 1, "b": 3}, rows=12)
    drawn = [prompt for _ in range(8) for prompt in stream.take(6)]
    first_of_b = [prompt.id for prompt in drawn if prompt.source == "b"][:12]
    assert len(set(first_of_b)) == 12
    assert len(ids(drawn)) == 48 and Counter(p.source for p in drawn) == {"b": 36, "a": 12}


def test_the_seed_decides_the_order_and_sources_are_shuffled_apart():
    first = ids(mixed({"a": 1, "b": 1}).take(40))
    assert (
        first
        == ids(mixed({"a": 1, "b": 1}).take(40))
        != ids(mixed({"a": 1, "b": 1}, seed=1).take(40))
    )
    order = {name: [i.partition("-")[2] for i in first if i.startswith(name)] for name in "ab"}
    assert order["a"] != order["b"]


def test_a_prompt_of_one_take_is_never_drawn_twice_in_it():
    stream = mixed({"a": 1, "b": 1}, rows=5)
    for _ in range(20):
        taken = ids(stream.take(10))
        assert len(taken) == len(set(taken)) == 10


def test_a_source_with_nothing_to_give_is_passed_over_and_catches_up():
    stream = mixed({"a": 1, "b": 1})
    taken = stream.take(6, lambda prompt: prompt.source == "b")
    assert {prompt.source for prompt in taken} == {"b"} and len(taken) == 6
    assert Counter(prompt.source for prompt in stream.take(8)) == {"a": 7, "b": 1}


@pytest.mark.parametrize("before", [0, 1, 13, 60])
def test_a_restored_stream_goes_on_as_the_one_never_stopped(before):
    whole = mixed({"a": 0.7, "b": 0.3}, rows=20)
    for _ in range(before):
        whole.take(3)
    other = mixed({"a": 0.7, "b": 0.3}, rows=20)
    other.restore(whole.state())
    for _ in range(30):
        assert ids(whole.take(3)) == ids(other.take(3))
    assert whole.state() == other.state()


def test_other_sources_are_refused_at_resume():
    with pytest.raises(RecipeError, match="began with other sources"):
        mixed({"a": 1, "c": 1}).restore(mixed({"a": 1, "b": 1}).state())
    with pytest.raises(RecipeError, match="began with 50 training prompts, now there are 20"):
        mixed({"a": 1, "b": 1}, rows=20).restore(mixed({"a": 1, "b": 1}).state())
