"""Rewards that shape length, language and repetition, against the closed forms they are published with."""

import math

import pytest

from rewards import RewardSpec, Sample
from rewards.service.service import RewardService
from rewards.shaping.language import LANGUAGES, language_consistency
from rewards.shaping.length import cosine, kimi_length, soft_overlong
from rewards.shaping.repetition import repetition

RIGHT, WRONG = r"\boxed{4}", r"\boxed{5}"


def dapo_equation_13(length, longest, cache):
    if length <= longest - cache:
        return 0.0
    return (longest - cache - length) / cache if length <= longest else -1.0


def test_soft_overlong_is_equation_13_at_every_length():
    for length in range(0, 130):
        assert soft_overlong("", length, 100, 20) == pytest.approx(
            dapo_equation_13(length, 100, 20)
        )


def test_soft_overlong_refuses_a_cache_that_cannot_be():
    with pytest.raises(ValueError, match="cache_tokens is 0"):
        soft_overlong("", 5, 100, 0)


def test_cosine_leads_from_its_value_at_zero_to_its_value_at_the_limit():
    assert cosine(RIGHT, 0, 100, answer="4").value == pytest.approx(2.0)
    assert cosine(RIGHT, 50, 100, answer="4").value == pytest.approx(1.5)
    assert cosine(RIGHT, 25, 100, answer="4").value == pytest.approx(
        1 + 0.5 * (1 + math.cos(math.pi / 4))
    )
    assert cosine(WRONG, 0, 100, answer="4").value == pytest.approx(-10.0)
    assert cosine(WRONG, 99, 100, answer="4").value == pytest.approx(0.0, abs=0.01)
    assert cosine(RIGHT, 100, 100, answer="4").value == -10.0
    assert cosine(RIGHT, 10_000, 100, answer="4", exceeding=-3).value == -3.0


def test_cosine_falls_with_length_where_right_and_rises_where_wrong():
    right = [cosine(RIGHT, length, 100, answer="4").value for length in range(100)]
    wrong = [cosine(WRONG, length, 100, answer="4").value for length in range(100)]
    assert right == sorted(right, reverse=True) and wrong == sorted(wrong)


def test_a_fault_of_the_inner_judge_stays_a_fault():
    assert cosine(RIGHT, 10, 100).status == "fault"
    assert cosine(RIGHT, 10, 100, answer=None).status == "fault"


def test_kimi_length_is_its_closed_form_within_each_group():
    scores = kimi_length(
        [RIGHT, RIGHT, WRONG, WRONG, RIGHT, WRONG, RIGHT],
        [10, 30, 10, 50, 50, 7, 7],
        ["a", "a", "a", "a", "a", "b", "b"],
        answer=["4"] * 7,
    )
    assert [score.value for score in scores] == [0.5, 0.0, 0.0, -0.5, -0.5, 0.0, 0.0]


def test_the_length_rewards_get_the_count_of_tokens_from_the_service():
    specs = [
        RewardSpec("overlong", "soft_overlong", args={"max_tokens": 10, "cache_tokens": 4}),
        RewardSpec("kimi", "kimi_length"),
        RewardSpec("cosine", "cosine", args={"max_tokens": 10}),
    ]
    samples = [
        Sample(RIGHT, {"answer": "4"}, token_ids=range(8), group="a"),
        Sample(RIGHT, {"answer": "4", "num_tokens": 4}, group="a"),
    ]
    with RewardService(specs, workers=1) as service:
        first, second = service.judge(samples)
    assert (first.parts["overlong"].value, second.parts["overlong"].value) == (-0.5, 0.0)
    assert (first.parts["kimi"].value, second.parts["kimi"].value) == (-0.5, 0.5)
    assert first.parts["cosine"].value < second.parts["cosine"].value


SENTENCES = {
    "en": "So the sum of both numbers is seven, and we are done.",
    "ja": "したがって、二つの数の合計は七になります。",
    "ko": "따라서 두 수의 합은 칠이 됩니다.",
    "zh": "因此两个数的和是七，证明完毕。",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_told_by_its_script(language):
    for name, sentence in SENTENCES.items():
        assert language_consistency(sentence, language).value == (1.0 if name == language else 0.0)


def test_mixed_reasoning_is_worth_the_share_of_the_target_language():
    score = language_consistency("We add them. 因此和是七", "en")
    assert score.value == pytest.approx(3 / 8)
    assert score.parts == pytest.approx({"en": 3 / 8, "zh": 5 / 8})


def test_only_the_reasoning_is_looked_at():
    assert language_consistency("<think>We add.</think><answer>七</answer>", "en").value == 1.0


def test_formulas_code_and_variables_are_in_no_language():
    text = r"因此 $\text{area} = \pi r^2$，\(x\) 和 y 是 `value` ```print('hello world')```"
    assert language_consistency(text, "zh").value == 1.0
    assert language_consistency("$x = 1$ 12 + 7", "zh").status == "no_answer"
    assert language_consistency("The angle α is 2π, so β too.", "en").value == 1.0
    assert language_consistency("Η γωνία", "en").value == 0.0
    assert language_consistency("Дважды два четыре", "en").value == 0.0


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="known are en, ja, ko, zh"):
        language_consistency("x", "xx")


def slow_repetition(words, n, penalty):
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    repeated = sum(gram in grams[:index] for index, gram in enumerate(grams))
    return penalty * repeated / len(grams) if grams else 0.0


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_repetition_is_the_share_of_ngrams_seen_before(n):
    text = "so we try and we try and so we try and fail and Fail"
    assert repetition(text, n=n, max_penalty=-2) == pytest.approx(
        slow_repetition(text.lower().split(), n, -2)
    )
    tokens = [1, 2, 1, 2, 1, 2, 3]
    assert repetition("", tokens, n=n, unit="tokens") == pytest.approx(
        slow_repetition(tokens, n, -1)
    )


def test_repetition_reads_scripts_without_spaces_by_character():
    assert repetition("好好好好好") == pytest.approx(-2 / 3)
    assert repetition("ok") == 0.0
