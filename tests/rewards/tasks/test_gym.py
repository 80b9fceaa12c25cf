"""reasoning-gym's generators as tasks: every one judged without executing what a completion says."""

import importlib.util

import pytest

from rewards.tasks import TASKS, load_task
from rewards.tasks.gym import AUDITED, OURS, REFUSED, THEIRS, UNIQUE, gym_answer

needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)
NAMES = sorted(UNIQUE | THEIRS | OURS.keys())

EVALUATES_THE_ANSWER = {
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
}  # fmt: skip
PAYLOADS = [
    "__import__('pathlib').Path({path!r}).touch()",
    "(lambda: open({path!r}, 'w'))()",
    "[open({path!r}, 'w')]",
    "[\"__import__('os').system('touch {path}')\"]",
]


def judged(final_answer, **columns):
    return gym_answer(f"<think>so</think><answer>{final_answer}</answer>", **columns)


def test_no_verifier_that_evaluates_the_answer_is_called():
    assert not EVALUATES_THE_ANSWER & THEIRS
    assert not (
        UNIQUE & THEIRS
        or UNIQUE & OURS.keys()
        or THEIRS & OURS.keys()
        or REFUSED.keys() & set(NAMES)
    )


def test_a_task_that_was_not_read_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="gym-chainsum is refused: .* did you mean gym-chain_sum"):
        load_task("gym-chainsum")
    with pytest.raises(ValueError, match="gym-codeio is refused: its generator executes"):
        load_task("gym-codeio")


def test_the_names_are_known_and_not_listed():
    assert "gym-gcd" in TASKS and load_task("gym-gcd").reward == "gym_answer"
    assert not any(name.startswith("gym-") for name in TASKS)


@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is not None, reason="reasoning-gym is installed"
)
def test_where_the_package_is_missing_the_command_that_installs_it_is_named():
    with pytest.raises(ValueError, match="pip install reasoning-gym=="):
        load_task("gym-gcd").rows()


def test_a_task_that_is_compared_with_a_gold_faults_without_one():
    for task in ("gcd", "polynomial_multiplication"):
        assert judged("4", task=task, answer=None, metadata={}).status == "fault"


X = {"task": "simple_integration", "metadata": {"variable": "x"}}


@pytest.mark.parametrize(
    "final_answer, value",
    [
        ("x**3/3 + C", 1), ("x^3/3", 1), ("1/3*x**3 + 5", 1), ("(x**3 + 3)/3 + C", 1), ("x**3/3 + C + 0*x", 1),
        ("x**3", 0), ("x**3/3 + x", 0), ("y**3/3", 0), ("", 0), ("x**(3/3)", 0), ("log(-1)", 0), ("x**3/3 + 1e-9*x", 0),
    ],
)  # fmt: skip
def test_an_antiderivative_is_right_up_to_a_constant(final_answer, value):
    assert judged(final_answer or " ", answer="x**3/3 + C", **X).value == value


@pytest.mark.parametrize(
    "task, metadata, final_answer, value",
    [
        ("puzzle24", {"numbers": [8, 5, 10, 6]}, "10*(8 - 5) - 6", 1),
        ("puzzle24", {"numbers": [8, 5, 10, 6]}, "8+8+8", 0),
        ("puzzle24", {"numbers": [8, 5, 10, 6]}, "6*4", 0),
        ("countdown", {"numbers": [2, 5, 62], "target": 55}, "-2 + 62 - 5", 1),
        ("countdown", {"numbers": [2, 5, 62], "target": 55}, "55", 0),
        ("countdown", {"numbers": [2, 5, 62], "target": 55}, "62 - 2 - 5 if 1 else 0", 0),
        ("number_sorting", {"sorted_numbers": ["-1", "2.5"]}, "['-1', '2.5']", 1),
        ("number_sorting", {"sorted_numbers": ["-1", "2.5"]}, "[-1, 2.50]", 1),
        ("number_sorting", {"sorted_numbers": ["-1", "2.5"]}, "[-1, 3]", 0),
        ("n_queens", {"valid_answers": ["Q _\n_ Q"]}, "Q _\n_ Q", 1),
        ("n_queens", {"valid_answers": ["Q _\n_ Q"]}, "['Q _', '_ Q']", 0),
    ],
)
def test_our_own_rules_judge_what_theirs_would_evaluate(task, metadata, final_answer, value):
    assert judged(final_answer, task=task, answer="", metadata=metadata).value == value


def test_one_right_answer_is_compared_whole():
    for final_answer, value in (
        ("1,234", 1),
        (" 1234 ", 1),
        ("1234 or 5", 0),
        ("it is 1234", 0),
        ("1235", 0),
    ):
        assert judged(final_answer, task="chain_sum", answer="1234", metadata={}).value == value, (
            final_answer
        )
    assert judged("A B\nB A", task="maze", answer="a  b\nb a", metadata={}).value == 1


def test_an_unknown_task_is_a_fault_and_an_empty_completion_no_answer():
    assert judged("1", task="new", answer="1", metadata={}).status == "fault"
    assert gym_answer("", "gcd", "1", {}).status == "no_answer"


@needs_gym
def test_the_installed_version_is_the_one_that_was_read():
    from importlib.metadata import version

    from reasoning_gym.factory import DATASETS

    assert version("reasoning-gym") == AUDITED
    assert set(DATASETS) == set(NAMES) | REFUSED.keys()


@needs_gym
@pytest.mark.parametrize("name", NAMES)
def test_a_tasks_own_answer_scores_and_a_payload_neither_scores_nor_runs(name, tmp_path):
    rows = load_task(f"gym-{name}").rows(count=3, seed=5)
    assert rows
    for row in rows:
        columns = {key: value for key, value in row.items() if key != "prompt"}
        if row["answer"] is not None:
            assert judged(row["answer"], **columns).value == 1.0
        for number, payload in enumerate(PAYLOADS):
            target = tmp_path / f"mark{number}"
            assert judged(payload.format(path=str(target)), **columns).value == 0.0
            assert not target.exists(), payload
