"""Groups get their verdicts in order, with their statuses; what was never finished is never judged."""

import pytest
import torch
from light_rewards import by_text, wants

from grpo.recipe import Recipe, RecipeError
from grpo.scoring import Scorer, check_columns, reward_specs
from grpo.types import Completion, Group, Prompt
from rewards import RewardSpec


def completion(text: str, finish: str = "stop", tokens: int = 3) -> Completion:
    return Completion(text, tuple(range(tokens)), torch.zeros(tokens), finish)


def group(*completions: Completion, **truth) -> Group:
    return Group(Prompt("p0", (1, 2), truth, "the prompt"), completions)


def judged(given: Group, *specs: RewardSpec):
    with Scorer(specs) as judge:
        return judge.submit(given).result()


def test_each_completion_gets_its_own_score_and_status_in_order():
    texts = ["one", "raise", "half", "nothing", "nan", "true", "none", "inf", "text", "list"]
    scored = judged(group(*map(completion, texts)), RewardSpec("mine", by_text, weight=2.0))
    assert [score.value for score in scored.scores] == [
        2.0,
        None,
        1.0,
        0.0,
        None,
        2.0,
        None,
        None,
        None,
        None,
    ]
    assert [score.status for score in scored.scores] == [
        "scored",
        "fault",
        "scored",
        "no_answer",
        "fault",
        "scored",
        "not_applicable",
        "fault",
        "fault",
        "fault",
    ]
    assert [verdict["mine"].status for verdict in scored.verdicts] == [
        score.status for score in scored.scores
    ]
    assert "RuntimeError: broken on purpose" in scored.verdicts[1]["mine"].detail
    assert [c.text for c in scored.completions] == texts and scored.prompt.id == "p0"


def test_what_was_cancelled_or_failed_is_not_judged_and_moves_no_neighbours_score():
    given = group(
        completion("one"),
        completion("raise", "cancelled"),
        completion("half", "length"),
        completion("raise", "error"),
        completion("true"),
    )
    scored = judged(given, RewardSpec("mine", by_text))
    assert [(score.value, score.status) for score in scored.scores] == [
        (1.0, "scored"),
        (None, "not_applicable"),
        (0.5, "scored"),
        (None, "fault"),
        (1.0, "scored"),
    ]
    assert scored.verdicts[1] == scored.verdicts[3] == {}


def test_a_group_of_which_nothing_was_finished_asks_no_judge():
    scored = judged(
        group(completion("one", "cancelled"), completion("one", "error")),
        RewardSpec("mine", by_text),
    )
    assert [score.value for score in scored.scores] == [None, None] and scored.flat


def test_a_reward_sees_the_columns_the_finish_and_the_number_of_tokens():
    given = group(completion("x", "length", 7), completion("y", "stop", 2), answer="y")
    scored = judged(given, RewardSpec("mine", wants, args={"factor": 0.5}))
    assert [score.value for score in scored.scores] == [3.5, 1.0]
    assert [dict(v["mine"].parts) for v in scored.verdicts] == [
        {"long": 1.0, "right": 0.0},
        {"long": 0.0, "right": 1.0},
    ]


def test_parts_that_do_not_apply_leave_the_sum_and_all_parts_null_leave_the_completion_out():
    specs = [
        RewardSpec("a", by_text, when={"kind": "math"}),
        RewardSpec("b", by_text, weight=0.5, when={"level": [1, 2]}),
    ]
    assert judged(group(completion("one"), kind="math", level=3), *specs).scores[0].value == 1.0
    assert judged(group(completion("one"), kind="code", level=2), *specs).scores[0].value == 0.5
    assert (
        judged(group(completion("one"), kind="code", level=3), *specs).scores[0].status
        == "not_applicable"
    )


def test_groups_may_be_waited_for_in_any_order():
    with Scorer([RewardSpec("mine", by_text)]) as judge:
        pending = [judge.submit(group(completion(text))) for text in ("one", "half", "true")]
        assert [p.result().scores[0].value for p in reversed(pending)] == [1.0, 0.5, 1.0]


# ---- before anything loads -------------------------------------------------------------------------------------


def recipe(**rewards) -> Recipe:
    return Recipe.from_mapping({"rewards": rewards})


def test_the_recipes_entries_arrive_as_they_stand():
    (spec,) = reward_specs(
        recipe(
            mine={
                "use": "math_answer",
                "weight": 2,
                "args": {"a": 1},
                "when": {"b": 2},
                "style": "native",
                "timeout_seconds": 3,
            }
        )
    )
    assert spec == RewardSpec("mine", "math_answer", 2.0, {"a": 1}, {"b": 2}, "native", 3.0)


def test_a_callable_from_python_takes_the_place_of_the_entry_and_keeps_its_weight():
    specs = reward_specs(
        recipe(mine={"use": "x", "weight": 3}, other={"use": "y"}),
        {"mine": by_text, "new": by_text},
    )
    assert {spec.name: (spec.use, spec.weight) for spec in specs} == {
        "mine": (by_text, 3.0),
        "other": ("y", 1.0),
        "new": (by_text, 1.0),
    }


def test_no_reward_and_no_weight_are_refused():
    with pytest.raises(
        RecipeError, match="rewards is empty; name one, e.g. rewards: {correct: {use: math_answer}}"
    ):
        reward_specs(recipe())
    with pytest.raises(RecipeError, match="every reward has weight 0"):
        reward_specs(recipe(a={"use": "x", "weight": 0}))
    assert len(reward_specs(recipe(a={"use": "x", "weight": -1}, b={"use": "y", "weight": 0}))) == 2


ROWS = [
    {"prompt": "p", "answer": "1", "kind": "math"},
    {"prompt": "q", "tests": "t", "kind": "code"},
]


def refusal(spec: RewardSpec, rows=ROWS) -> str:
    with pytest.raises(RecipeError) as caught:
        check_columns([spec], rows)
    return str(caught.value)


def test_a_missing_column_is_refused_with_its_row_and_the_columns_there_are():
    assert refusal(RewardSpec("mine", "math_answer")) == (
        "recipe: rewards.mine wants the column answer, but row 2 of the data set has prompt, tests, kind; map it with "
        "data.columns or pass it in rewards.mine.args"
    )


def test_a_column_may_come_from_the_arguments_or_be_wanted_only_where_the_reward_applies():
    check_columns([RewardSpec("mine", "math_answer", args={"answer": "3"})], ROWS)
    check_columns([RewardSpec("mine", "math_answer", when={"kind": "math"})], ROWS)
    check_columns([RewardSpec("mine", "math_answer", when={"kind": ["math", "logic"]})], ROWS)
    assert "row 2" in refusal(RewardSpec("mine", "math_answer", when={"kind": ["math", "code"]}))


def test_a_condition_on_a_column_that_no_row_has_is_refused():
    assert refusal(RewardSpec("mine", "think_format", when={"knd": "math"})) == (
        "recipe: rewards.mine.when names the column knd, but the data set has prompt, answer, kind"
    )


@pytest.mark.parametrize(
    "use, words",
    [
        ("math_anwser", "no reward is called 'math_anwser'; did you mean math_answer?"),
        ("no.such.module:f", "cannot import no.such.module"),
        ("rewards.shaping.format:think_fromat", "there is no think_fromat in"),
        ("/no/file.py:f", "there is no file /no/file.py"),
        ("math:pi", "pi in .* is float, not a function"),
    ],
)
def test_a_reward_that_cannot_be_found_is_refused(use, words):
    with pytest.raises(RecipeError, match=f"recipe: rewards.mine: .*{words}"):
        check_columns([RewardSpec("mine", use)], ROWS)


def test_a_file_that_does_not_run_is_refused_with_its_error(tmp_path):
    (tmp_path / "bad.py").write_text("def f(text):\n    return 1 +\n")
    assert "SyntaxError: invalid syntax (bad.py, line 2)" in refusal(
        RewardSpec("mine", f"{tmp_path}/bad.py:f")
    )


def test_an_unknown_calling_convention_is_refused():
    assert "unknown style 'trll'" in refusal(RewardSpec("mine", by_text, style="trll"))
