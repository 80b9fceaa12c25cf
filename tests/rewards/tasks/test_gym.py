"""reasoning-gym's generators as tasks: every one judged without executing what a completion says."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.tasks import TASKS, load_task, num_shared
from rewards.tasks.gym import AUDITED, OURS, REFUSED, THEIRS, UNIQUE, gym_answer

ROOT = Path(__file__).resolve().parents[3]
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


SPELLINGS = ["28080", "The answer is 28,080.", "Answer: 28080", "= 28080", "the final answer is: $28080$", "28,080", "$28,080", r"\$28,080", r"\boxed{28,080}", r"$\boxed{28{,}080}$", "28080.", "28,080.", "28080.0",
    "28,080.00", "28 080 dollars", "28080 dollars", "**28,080**", "$28080$", r"\(28{,}080\)", "x = 28080", "+28080", " 28080 ",
    "2.808e4", r"2.808 \times 10^4", "28080 USD"]  # fmt: skip
OTHERS = ["28080 or 7", "The answer is not 28080", "Answer: 28080 or 7", "= 28080 - 0", "7 or 28080", "28080, 7", "28,080 and 28,081", "28", "080", "28,08", "-28080", "280800", "28081", "28080 28080",
    "28,080.01", "20000+8080", "28080+0", "28080*1", "(28080)", "sqrt(28080^2)", "not 28080", "28080 or so many", "1 28080", "28080e1",
    "28080/2", r"\boxed{28080} \boxed{7}", "between 28080 and 28081", "[28080]", "28, 080", "28080!", "28080 - \\sin\\pi", "answer", "x", "28080 x"]  # fmt: skip


@pytest.mark.parametrize(
    "task", ["gsm_symbolic", "chain_sum", "products", "rectangle_count", "lcm"]
)
def test_one_number_may_be_written_as_people_write_it_and_nothing_else_is_it(task):
    for value, texts in ((1.0, SPELLINGS), (0.0, OTHERS)):
        for text in texts:
            assert judged(text, task=task, answer="28080", metadata={}).value == value, text
    big = "6769988418200343"
    assert judged("6,769,988,418,200,343", task=task, answer=big, metadata={}).value == 1.0
    assert judged("6,769,988,418,200,344", task=task, answer=big, metadata={}).value == 0.0
    assert judged("14.0", task=task, answer="14", metadata={}).value == 1.0
    assert judged("-5", task=task, answer="5", metadata={}).value == 0.0
    assert judged("-5", task=task, answer="-5", metadata={}).value == 1.0


SIMPLIFIED = {"simplified_numerator": 4, "simplified_denominator": 5}
PLACES = {"difficulty": {"decimal_places": (3, 3)}}
NUMBERS = [
    ("fraction_simplification", "$4/5$", SIMPLIFIED,
     ["4/5", r"\frac{4}{5}", r"$\dfrac{4}{5}$", r"\boxed{\frac45}", "4 / 5.", "$4/5$"],
     ["8/10", "0.8", r"\frac{8}{10}", "4/5 or 1/2", "-4/5", "4/5/1", "5/4"]),
    ("decimal_arithmetic", "4.86090396050", PLACES,
     ["4.86090396050", "4.8609", "4.861", "$4.8609$", "4.8609."], ["4.9", "4.8609 or 5", "4.86 + 0.0009", "4,861", "-4.861"]),
    ("number_format", "592641326.305", {}, ["592,641,326.305", "5.92641326305e8", "592641326.31", "592641326.305."],
     ["592641326", "592,641,326.305 or 7", "592641326.4"]),
    ("power_function", "1.7574418454559584e-22", {}, ["1.76e-22", r"1.76 \times 10^{-22}", "1.757e-22", r"$1.7574 \cdot 10^{-22}$"],
     ["1.75e-22", "1.76e22", "1.76", "1.76e-22 or 2", "-1.76e-22"]),
    ("complex_arithmetic", "8.0 - 3.0i", {}, ["8 - 3i", "8-3i", "8.0 + -3.0i", r"\boxed{8-3i}", "-3i + 8", "(8-3i)", "8 - 3j."],
     ["8 + 3i", "8", "-3i", "8.005 - 3i", "8 - 3i or 2", "8 - 3i - 0i", "(4 - 1.5i)*2"]),
    ("complex_arithmetic", "0.0 + 1.0i", {}, ["i", "1i", "0 + i"], ["1", "-i", "0"]),
    ("prime_factorization", "5 × 7 × 7", {}, ["5 × 7 × 7", "7 x 5 x 7", "5*7*7", r"5 \times 7^2", r"5 \cdot 7 \cdot 7", "245 = 5 × 7 × 7", "5 * 7**2"],
     ["5 × 49", "245", "5 × 7", "5 × 7 × 7 × 1", "5 × 7 × 7 or 2", "5 + 7 + 7"]),
    ("polynomial_equations", "-0.7757, 0.0, 1.9717", {}, ["-0.7757, 0, 1.9717", "x = 0, x = -0.7757, x = 1.9717", "[1.9717, 0.0, -0.7757]", "-0.7757, 0 and 1.9717"],
     ["-0.7757, 0.0", "-0.7757, 0.0, 1.9717, 5", "-0.7757, 0.0, 0.0", "0.7757, 0, 1.9717"]),
    ("advanced_geometry", "16.91°", {"task_type": "angle_measure"}, ["16.91°", "16.91", r"16.91^\circ", "16.91 degrees", r"$16.91^{\circ}$."],
     ["16.9", "16.92°", "16.91 or 17", "-16.91"]),
    ("advanced_geometry", "1.186", {"task_type": "incircle_radius"}, ["1.186", "1.1862", "$1.186$"], ["1.19", "1.187", "1.186, 2"]),
    ("advanced_geometry", "(7.765, 7.882)", {"task_type": "orthocenter"}, ["(7.765, 7.882)", "7.765, 7.882", "(7.76471, 7.88235)"],
     ["(7.882, 7.765)", "(7.765, 7.882, 5)", "(7.765, 7.882) or (1, 2)", "7.765"]),
    ("coin_flip", "3.051757812e-05", {}, ["3.051757812e-05", "1/32768", r"\frac{1}{32768}", "0.0000305"], ["0", "0.0001", "1/32768 or 1"]),
    ("coin_flip", "0.234375", {}, ["0.2344", "15/64", "23.4375%", "0.234375."], ["0.23", "0.25", "15/64 or 1/4"]),
    ("calendar_arithmetic", "14", {}, ["14", "14 days", "14."], ["15", "14 or 15", "-14"]),
    ("calendar_arithmetic", "Tuesday", {}, ["Tuesday", "tuesday."], ["Wednesday", "Tuesday or Wednesday"]),
    ("time_intervals", "67 days, 01:04:00", {}, ["67 days, 01:04:00", "67 days 1:04:00", "67 days, 01:04"],
     ["67 days, 01:04:00, or 68 days", "67 days", "67", "67 days, 01:05:00"]),
    ("time_intervals", "67 days", {}, ["67 days", "67"], ["67 or 8", "68 days", "67 days, 00:01:00"]),
    ("time_intervals", "03:22:03", {}, ["03:22:03", "3:22:03."], ["03:22", "03:22:03 or 03:22:04", "12123"]),
    ("bitwise_arithmetic", "-0x3d2d", {}, ["-0x3D2D", "-0x03d2d"], ["0x3d2d", "-15661", "-0x3d2d or 1"]),
    ("number_filtering", "['18.5', '-26.0090']", {}, ["['18.5', '-26.0090']", "[18.5, -26.009]", "18.5, -26.009"], ["[-26.009, 18.5]", "[18.5]", "[18.5, -26.009, 1]"]),
    ("list_functions", "[4]", {}, ["[4]", "[4.0]", "4"], ["[4, 4]", "[5]", "[]"]),
    ("pool_matrix", "3.0 5.22\n4.67 3.67", {}, ["3 5.22\n4.67 3.67", "[[3.0, 5.22], [4.67, 3.67]]", "3.0 5.222\n4.6667 3.6667"],
     ["3.0 5.22 4.67 3.67", "3.0 5.22\n4.67 3.9", "3.0 5.22\n4.67 3.67\n1 1"]),
    ("game_of_life", "[[0,1],[1,0]]", {}, ["[[0, 1], [1, 0]]"], ["[[0,1],[1,0],[1,1]]", "[[0,1,1],[1,0,0]]", "[[1,0],[0,1]]"]),
]  # fmt: skip


@pytest.mark.parametrize("task, gold, metadata, right, wrong", NUMBERS)
def test_numeric_tasks_have_rules_of_their_own(task, gold, metadata, right, wrong):
    for value, texts in ((1.0, [gold, *right]), (0.0, wrong)):
        for text in texts:
            assert judged(text, task=task, answer=gold, metadata=metadata).value == value, text


FAKE = """
import random
class Data:
    def __init__(self, size, seed, low=0):
        self.size, self.seed, self.low = size, seed, low
        assert low >= 0, "low must be positive"
    def __getitem__(self, index):
        print("generators may print")
        names = list({f"name {n}" for n in range(self.seed + index + 5)})
        metadata = {"order": tuple(names), 3: {1, 2}, "drawn": random.random()}
        return {"question": " ".join(names) + str(index), "answer": names[0], "metadata": metadata}
def create_dataset(name, size, seed, **settings):
    return Data(size, seed, **settings)
"""


def made_with(hash_seed: str, folder, *, count: int = 4, seed: int = 0) -> list:
    code = (
        "from rewards.tasks import load_task; import json, random; random.seed(); "
        f"print(repr(load_task('gym-ransom_note').rows(count={count}, seed={seed})))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    return ast.literal_eval(done.stdout)


@pytest.fixture
def fake_gym(tmp_path):
    (tmp_path / "reasoning_gym").mkdir()
    (tmp_path / "reasoning_gym" / "__init__.py").write_text(FAKE)
    return tmp_path


def test_rows_are_the_same_in_every_process_and_do_not_depend_on_how_many_there_are(fake_gym):
    rows = made_with("1", fake_gym)
    assert rows == made_with("2", fake_gym) and len(rows) == 4
    assert made_with("3", fake_gym, count=6)[:4] == rows
    assert rows[0]["metadata"][3] == {1, 2} and type(rows[0]["metadata"]["order"]) is tuple


def test_what_the_generator_refuses_is_said_in_one_sentence(fake_gym, monkeypatch):
    monkeypatch.syspath_prepend(str(fake_gym))
    with pytest.raises(ValueError, match="refuses these arguments: low must be positive"):
        load_task("gym-gcd").rows(count=2, low=-1)
    with pytest.raises(ValueError, match="unexpected keyword argument 'high'"):
        load_task("gym-gcd").rows(count=2, high=1)


def test_sets_of_neighbouring_seeds_share_all_rows_but_one():
    assert [num_shared(500, 0, 500, seed) for seed in (0, 1, 499, 500, -3)] == [500, 499, 1, 0, 497]
    assert num_shared(10, 5, 100, 0) == 10 and num_shared(10, 50, 5, 0) == 0


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
@pytest.mark.slow
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
