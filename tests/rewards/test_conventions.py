"""Functions written for other trainers are recognised by their parameter names and called unchanged."""

import importlib.util
import math
import os

import pytest

from rewards import RewardSpec, Sample, Score
from rewards.calling import judge
from rewards.conventions import as_score, convention_of, truth_of
from rewards.service.service import RewardService, applies


def judged(function, samples, style=None, **args):
    scores = [None] * len(samples)

    def emit(index, score, seconds):
        scores[index] = score

    judge(convention_of(function, style, args), function, samples, args, emit)
    return scores


def values(function, samples, style=None, **args):
    return [score.value for score in judged(function, samples, style, **args)]


PLAIN = [
    Sample("4", {"answer": "4", "level": 1}, prompt="2+2=", token_ids=(7, 8), group="a"),
    Sample("5", {"answer": "6", "level": 2}, prompt="3+3=", token_ids=(7, 8, 9), group="b"),
]
CHAT = [
    Sample(
        "4", {"answer": "4", "prompt": [{"role": "user", "content": "2+2?"}]}, prompt="<user>2+2?"
    )
]


def test_native_gets_the_columns_it_names():
    assert values(lambda text, answer, level: (text == answer) * level, PLAIN) == [1.0, 0.0]


def test_native_gets_every_column_where_it_takes_all_and_no_more():
    seen = []
    values(lambda text, **columns: seen.append(columns) or 1.0, PLAIN)
    assert seen == [{"answer": "4", "level": 1}, {"answer": "6", "level": 2}]


def test_native_gets_what_is_known_of_the_completion_where_it_asks():
    def mine(text, prompt, token_ids, group, finish):
        return Score(1.0, detail=f"{prompt} {len(token_ids)} {group} {finish}")

    assert [score.detail for score in judged(mine, PLAIN)] == ["2+2= 2 a None", "3+3= 3 b None"]


def test_arguments_of_the_recipe_reach_the_function():
    assert values(lambda text, answer, bonus=0: (text == answer) + bonus, PLAIN, bonus=2) == [
        3.0,
        2.0,
    ]


def test_batch_gets_lists():
    def relative(texts, groups, token_ids, answer):
        assert texts == ["4", "5"] and groups == ["a", "b"] and answer == ["4", "6"]
        return [len(ids) / 10 for ids in token_ids]

    assert values(relative, PLAIN) == [0.2, 0.3]


def test_trl_gets_texts_ids_columns_and_the_trainers_keywords():
    def reward(
        prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric, **kwargs
    ):
        assert prompts == ["2+2=", "3+3="] and completion_ids == [[7, 8], [7, 8, 9]]
        assert kwargs == {"level": [1, 2]} and trainer_state.global_step == 0
        log_extra("seen", completions)
        log_extra("half", [0.5, 0.25])
        log_metric("mean", 0.5)
        return [float(completion == truth) for completion, truth in zip(completions, answer)]

    first, second = judged(reward, PLAIN)
    assert (first.value, second.value) == (1.0, 0.0)
    assert first.parts == {"half": 0.5} and "seen='4'" in first.detail


def test_trl_gets_messages_where_the_prompt_is_a_list_of_messages():
    def reward(completions, **kwargs):
        assert kwargs["prompts"] == [[{"role": "user", "content": "2+2?"}]]
        return [float(completion[0]["content"] == "4") for completion in completions]

    assert values(reward, CHAT) == [1.0]


def test_trl_none_is_not_applicable():
    assert [score.status for score in judged(lambda completions: [None, 1], PLAIN)] == [
        "not_applicable",
        "scored",
    ]


def test_verl_gets_its_names_and_may_return_a_dictionary():
    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        return {
            "score": float(solution_str == ground_truth),
            "length": len(solution_str),
            "pred": solution_str,
        }

    first, second = judged(compute_score, PLAIN)
    assert (first.value, second.value) == (1.0, 0.0)
    assert first.parts == {"length": 1.0}


def test_verl_finds_the_truth_where_verl_keeps_it():
    row = {
        "data_source": "gsm8k",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 3},
    }

    def compute_score(data_source, solution_str, ground_truth, extra_info):
        return float((data_source, ground_truth, extra_info["index"]) == ("gsm8k", "4", 3))

    assert values(compute_score, [Sample("4", row)]) == [1.0]


def test_verl_batch_gets_plural_names():
    def compute_score_batched(data_sources, solution_strs, ground_truths, extra_infos):
        assert data_sources == ["", ""] and extra_infos == [{}, {}]
        return [float(text == truth) for text, truth in zip(solution_strs, ground_truths)]

    assert values(compute_score_batched, PLAIN) == [1.0, 0.0]


def test_openrlhf_gets_prompt_and_completion_joined_and_returns_rewards():
    class Tensor:
        def __init__(self, items):
            self.items = items

        def tolist(self):
            return self.items

    def reward_func(queries, prompts, labels, **kwargs):
        assert queries == ["2+2=4", "3+3=5"] and prompts == ["2+2=", "3+3="] and kwargs == {}
        right = [float(query.endswith(label)) for query, label in zip(queries, labels)]
        return {"rewards": Tensor(right), "scores": Tensor([9, 9]), "extra_logs": {}}

    assert values(reward_func, PLAIN) == [1.0, 0.0]


def test_verifiers_gets_objects_by_name():
    def exact(completion, answer, state):
        assert state["level"] in (1, 2) and state["prompt"]
        return completion == answer

    assert values(exact, PLAIN) == [1.0, 0.0]
    assert values(lambda completion, answer: completion[-1]["content"] == answer, CHAT) == [1.0]


def test_verifiers_parser_cannot_be_given():
    with pytest.raises(ValueError, match="wants verifiers' parser"):
        convention_of(lambda parser, completion, answer: 1.0)


def test_async_functions_of_every_kind_are_awaited():
    async def one(text):
        return 0.5

    async def many(completions, **kwargs):
        return [0.25] * len(completions)

    class Scorer:
        async def __call__(self, text):
            return 0.75

    assert values(one, PLAIN) == [0.5, 0.5]
    assert values(many, PLAIN) == [0.25, 0.25]
    assert values(Scorer(), PLAIN) == [0.75, 0.75]
    assert values(lambda text: one(text), PLAIN) == [0.5, 0.5]


@pytest.mark.parametrize(
    "returned",
    [
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        "1.0",
        [1.0],
        Score(1.0, status="great"),
        Score(math.nan),
    ],
)
def test_what_is_no_finite_number_is_a_fault(returned):
    score = as_score(returned, "mine")
    assert score.status == "fault" and score.value is None and "mine" in score.detail


@pytest.mark.parametrize(
    "returned, value, status",
    [
        (True, 1.0, "scored"),
        (3, 3.0, "scored"),
        (None, None, "not_applicable"),
        (Score(None), None, "not_applicable"),
        (Score(None, status="no_answer"), 0.0, "no_answer"),
        (Score(0.0, status="timeout"), 0.0, "timeout"),
        (Score(0.7, status="fault"), None, "fault"),
        (Score(0.7, status="no_answer"), None, "fault"),
    ],
)
def test_a_score_keeps_the_status_tables_promises(returned, value, status):
    score = as_score(returned, "mine")
    assert (score.value, score.status) == (value, status)


def test_a_list_of_the_wrong_length_faults_every_row_and_names_the_function():
    def short(completions):
        return [1.0]

    assert [score.status for score in judged(short, PLAIN)] == ["fault", "fault"]
    assert "short returned 1 value for 2 completions" in judged(short, PLAIN)[0].detail


def test_an_exception_names_function_and_line():
    def careless(text):
        return {}["no such key"]

    detail = judged(careless, PLAIN)[0].detail
    assert "careless raised KeyError: 'no such key'" in detail and "test_conventions.py:" in detail


def test_leaving_the_interpreter_is_a_fault():
    def leaves(text):
        raise SystemExit(0)

    assert judged(leaves, PLAIN)[0].status == "fault"


# ----------------------------------------------------------------- other trainers' own files, where installed

needs_trl = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed"
)
needs_verl = pytest.mark.skipif(
    importlib.util.find_spec("verl") is None, reason="verl is not installed"
)
needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


def chat(text, **columns):
    return Sample(
        text, {"prompt": [{"role": "user", "content": "?"}], **columns}, token_ids=list(range(90))
    )


def scores_by_service(use, samples, **args):
    with RewardService(
        [RewardSpec("theirs", use, args=args, timeout_seconds=60)], workers=1
    ) as service:
        return [judged.parts["theirs"] for judged in service.judge(samples)]


@needs_trl
@needs_math_verify
@pytest.mark.parametrize("name", ["accuracy_reward", "reasoning_accuracy_reward"])
def test_trls_accuracy_rewards_plug_in_unchanged(name):
    samples = [
        chat(rf"<think>x</think> It is \boxed{{{reply}}}", solution=r"$\frac{1}{3}$")
        for reply in (r"\frac{1}{3}", "2")
    ]
    scores = scores_by_service(f"trl.rewards:{name}", samples)
    assert [score.value for score in scores] == [1.0, 0.0], scores


@needs_trl
def test_trls_think_format_reward_plugs_in_unchanged():
    scores = scores_by_service(
        "trl.rewards:think_format_reward", [chat("<think>\na\n</think>\nb"), chat("b")]
    )
    assert [score.value for score in scores] == [1.0, 0.0]


@needs_trl
def test_trls_made_rewards_plug_in_unchanged(tmp_path):
    (tmp_path / "theirs.py").write_text(
        "from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment\n"
        "overlong = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)\n"
        "repetition = get_repetition_penalty_reward(ngram_size=2)\n"
    )
    assert scores_by_service(f"{tmp_path}/theirs.py:overlong", [chat("x")])[0].value == -0.5
    assert scores_by_service(f"{tmp_path}/theirs.py:repetition", [chat("x")])[0].value == 0.0


@needs_trl
@needs_math_verify
def test_trls_cosine_reward_plugs_in_as_a_callable():
    from trl.rewards import get_cosine_scaled_reward

    samples = [chat(r"\boxed{\frac{1}{3}}", solution=r"\frac{1}{3}")]
    score = scores_by_service(get_cosine_scaled_reward(max_len=180), samples)[0]
    assert score.value == pytest.approx(0.75)


@needs_verl
@pytest.mark.parametrize(
    "module, right, wrong",
    [
        ("gsm8k", "so #### 72", "so #### 71"),
        ("math_reward", r"so \boxed{72}", r"so \boxed{71}"),
        ("math_dapo", "so\nAnswer: 72", "so\nAnswer: 71"),
    ],
)
def test_verls_scoring_files_plug_in_unchanged(module, right, wrong):
    file = os.path.join(
        importlib.util.find_spec("verl").submodule_search_locations[0], "utils", "reward_score"
    )
    samples = [Sample(right, {"ground_truth": "72"}), Sample(wrong, {"ground_truth": "72"})]
    scores = scores_by_service(f"{file}/{module}.py:compute_score", samples)
    assert scores[0].value == 1.0, scores
    assert scores[1].value in (0.0, -1.0), scores


@pytest.mark.parametrize(
    "value", [{"ground_truth": "5"}, '{"ground_truth": "5"}', "{'ground_truth': '5'}"]
)
def test_columns_that_keep_a_mapping_as_json_text_are_read_as_mappings(value):
    assert truth_of({"reward_model": value}) == "5"

    def by_verl(data_source, solution_str, ground_truth, extra_info):
        return float(ground_truth == extra_info["ground_truth"] == solution_str)

    def by_verifiers(completion, info):
        return float(completion == info["ground_truth"])

    row = {"reward_model": value, "extra_info": value, "info": value}
    for function in (by_verl, by_verifiers):
        assert values(function, [Sample("5", columns=row)]) == [1.0]


@pytest.mark.parametrize("when, is_wanted", [
    ({"metadata.kind": "sum"}, True), ({"metadata.kind": ["sum", "product"]}, True), ({"metadata.kind": "product"}, False),
    ({"metadata.none": "sum"}, False), ({"note.kind": "sum"}, False), ({"info.level": 3}, True),
])  # fmt: skip
def test_when_may_name_a_path_into_a_column(when, is_wanted):
    row = {"metadata": {"kind": "sum"}, "info": '{"level": 3}', "note": "text"}
    assert applies(when, row) is is_wanted
