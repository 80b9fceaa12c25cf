"""The quickstart's base model: it loads, it is what its script makes, and it has never seen a held-out problem."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rewards.tasks import countdown, countdown_format, retries

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "quickstart_base"


def script():
    """The script that makes the base, as a module."""
    spec = importlib.util.spec_from_file_location("quickstart_pretrain", FOLDER / "pretrain.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pretrain = script()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads share a matrix this small at a loss."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def traces():
    return list(itertools.islice(pretrain.corpus(), 20_000))


def truth(prompt: str) -> dict:
    *numbers, _, target, _ = prompt.split()
    return {"numbers": [int(number) for number in numbers], "target": int(target)}


# ------------------------------------------------------------------------------------------------ corpus


def test_the_corpus_never_shows_a_held_out_problem(traces):
    train, held = pretrain.problems()
    held_prompts = {row["prompt"] for row in held}
    assert len(held_prompts) == 256
    assert not held_prompts & {row["prompt"] for row in train}
    assert not held_prompts & {trace.prompt for trace in traces}


@pytest.mark.slow
def test_not_one_trace_of_the_whole_pre_training_shows_a_held_out_problem():
    held_prompts = {row["prompt"] for row in pretrain.problems()[1]}
    training = pretrain.Training()
    whole = itertools.islice(pretrain.corpus(), training.steps * training.traces)
    assert not any(trace.prompt in held_prompts for trace in whole)


def test_the_corpus_is_the_same_for_the_same_seed(traces):
    assert list(itertools.islice(pretrain.corpus(), 500)) == traces[:500]
    assert list(itertools.islice(pretrain.corpus(seed=1), 500)) != traces[:500]


def test_the_corpus_plants_the_two_habits_in_the_stated_shares(traces):
    habits = pretrain.Habits()
    searching = [trace for trace in traces if trace.searches]
    guessing = [trace for trace in traces if not trace.searches]
    assert len(searching) / len(traces) == pytest.approx(habits.searching, abs=0.02)
    assert share_right(guessing) == pytest.approx(habits.guess_right, abs=0.02)
    expected = 1 - (1 - habits.attempt_right) ** habits.max_attempts
    assert share_right(searching) == pytest.approx(expected, abs=0.03)
    assert all(retries(trace.completion) == 0 for trace in guessing)
    assert max(retries(trace.completion) for trace in searching) == habits.max_attempts - 1


def share_right(traces) -> float:
    return sum(countdown(trace.completion, **truth(trace.prompt)).value for trace in traces) / len(
        traces
    )


def test_a_search_says_no_to_what_misses_the_target_and_only_to_that(traces):
    for trace in traces[:5000]:
        *denied, last = trace.completion.partition(" answer ")[0].split(" no ")
        target = truth(trace.prompt)["target"]
        assert not any(attempt.endswith(f" = {target}") for attempt in denied)
        assert len({*denied, last}) == len(denied) + 1


def test_every_trace_is_well_formed_and_true_arithmetic(traces):
    for trace in traces[:5000]:
        assert countdown_format(trace.completion).value == 1.0
        for step in trace.completion.partition(" answer ")[0].replace(" no ", " , ").split(" , "):
            left, sign, right, _, result = step.split()
            made = {"+": "__add__", "-": "__sub__", "*": "__mul__", "/": "__floordiv__"}[sign]
            assert getattr(int(left), made)(int(right)) == int(result)


# --------------------------------------------------------------------------------------------- tokenizer


def test_the_committed_tokenizer_is_the_one_the_script_makes(tokenizer):
    assert tokenizer.get_vocab() == pretrain.make_tokenizer().get_vocab()
    assert len(tokenizer) == 115


def test_text_survives_the_tokenizer_and_each_whole_number_is_one_token(tokenizer, traces):
    for trace in traces[:500]:
        for text in (trace.prompt, trace.completion):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert len(ids) == len(text.split())
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids


def test_a_prompt_starts_with_the_start_token_and_nothing_is_added_after_it(tokenizer):
    ids = tokenizer("3 5 7 make 56 :").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "3", "5", "7", "make", "56", ":"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "3 5 7 make 56 :"


def test_a_trace_with_its_end_fits_into_eighty_tokens(traces):
    assert max(len(trace.completion.split()) + 1 for trace in traces) <= pretrain.MAX_NEW_TOKENS


# ------------------------------------------------------------------------------------------------- model


def test_the_model_is_tiny_and_in_single_precision(model):
    assert sum(weight.numel() for weight in model.parameters()) == 138_752
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert (FOLDER / "model.safetensors").stat().st_size < 600_000


def test_the_special_tokens_agree_between_model_and_tokenizer(model, tokenizer):
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
        assert config.bos_token_id == tokenizer.bos_token_id


def test_the_base_is_right_less_than_35_percent_of_the_time_and_mostly_does_not_search(
    model, tokenizer
):
    found = pretrain.measure(model, tokenizer)
    assert 0.20 <= found["avg@4"] <= 0.35
    assert found["pass@4"] >= 0.5
    assert found["ended"] >= 0.97
    assert 0.15 <= found["searching"] <= 0.35


def test_a_few_steps_of_training_are_reproducible_and_learn():
    def trained():
        model, tokenizer = pretrain.make_model(), pretrain.make_tokenizer()
        losses = pretrain.train(
            model, tokenizer, pretrain.Training(steps=12, traces=16, slices=2, warmup=4)
        )
        return model.state_dict(), losses

    (first, losses), (second, _) = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses[-1] < losses[0] - 0.5
