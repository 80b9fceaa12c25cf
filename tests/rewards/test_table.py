"""Finding rewards by name, file, module and entry point; what they want of the data."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import rewards
from grpo.recipe import Recipe
from grpo.run.reward_specs import reward_specs
from rewards import (
    TABLE,
    RewardSpec,
    check,
    default_timeout_seconds,
    load,
    missing_columns,
    score,
    timeout_seconds_of,
    wanted_columns,
)
from rewards.conventions import convention_of
from rewards.service.functions import function_of
from rewards.service.service import RewardService

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    "rewards",
    "rewards.calling",
    "rewards.check",
    "rewards.conventions",
    "rewards.environments",
    "rewards.environments.pool",
    "rewards.environments.worker",
    "rewards.score",
    "rewards.service",
    "rewards.service.service",
    "rewards.service.worker",
    "rewards.shaping.format",
    "rewards.shaping.language",
    "rewards.shaping.length",
    "rewards.shaping.repetition",
    "rewards.tasks",
]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_name_of_the_table_loads(name):
    function = load(name)
    assert function.__name__ == TABLE[name].partition(":")[2]
    assert function.__doc__


def test_importing_rewards_brings_neither_torch_nor_the_trainer():
    modules = ", ".join(MODULES)
    heavy = "torch", "transformers", "grpo", "numpy", "sympy", "datasets"
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_importing_rewards_loads_no_event_loop():
    code = "import sys, rewards; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_misspelt_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean math_answer"):
        load("math_anwser")


def test_a_misspelt_function_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean think_format"):
        load("rewards.shaping.format:think_formt")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no_such_module_of_mine"):
        load("no_such_module_of_mine:reward")


def test_what_is_not_a_function_is_refused():
    with pytest.raises(ValueError, match="is tuple, not a function"):
        load("rewards:STATUSES")
    with pytest.raises(ValueError, match="expected a name or a callable"):
        load(3)


def test_a_callable_is_returned_as_it_is():
    assert load(len) is len


def test_a_file_is_found_from_the_base_folder_and_may_import_its_neighbours(tmp_path):
    (tmp_path / "my_neighbour_module.py").write_text("WORTH = 0.25\n")
    (tmp_path / "mine.py").write_text(
        "from my_neighbour_module import WORTH\n\ndef reward(text, answer):\n    return WORTH\n"
    )
    function = load("mine.py:reward", base_dir=tmp_path)
    assert function("", "") == 0.25
    assert load(f"{tmp_path}/mine.py:reward") is function
    assert wanted_columns(function) == ({"answer"}, False)


def test_a_file_that_fails_says_why(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match="broken.py failed: ZeroDivisionError"):
        load("broken.py:reward", base_dir=tmp_path)
    with pytest.raises(ValueError, match="there is no file"):
        load("absent.py:reward", base_dir=tmp_path)


def test_an_entry_point_is_a_name(tmp_path, monkeypatch):
    (tmp_path / "their_package.py").write_text("def their_reward(text):\n    return 1.0\n")
    information = tmp_path / "their_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(
        "[grpo.rewards]\ntheirs = their_package:their_reward\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load("theirs")("") == 1.0


# ------------------------------------------------------------------------------------------ deadlines


@pytest.mark.parametrize(
    "use, seconds",
    [
        ("math_answer", 10.0),
        ("kimi_length", 10.0),
        ("code_tests", 6.0),
        ("mine.py:reward", 10.0),
        ("rewards.math_answer:pairs", 10.0),
        (len, 10.0),
    ],
)
def test_the_default_deadline_is_that_of_the_rewards_kind(use, seconds):
    assert default_timeout_seconds(use) == seconds
    assert timeout_seconds_of(RewardSpec("mine", use)) == seconds
    assert timeout_seconds_of(RewardSpec("mine", use, timeout_seconds=0.5)) == 0.5


def parsed(command, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def deadline_of_workers(spec):
    return function_of(spec, None).assignment.timeout_seconds


@pytest.mark.parametrize("use", ["math_answer", "code_tests", "{file}"])
@pytest.mark.parametrize("seconds", [None, 3.0])
def test_training_and_both_commands_judge_by_the_same_clock(use, seconds, tmp_path):
    (tmp_path / "mine.py").write_text("def reward(text, answer):\n    return 1.0\n")
    use = use.format(file=f"{tmp_path}/mine.py:reward")
    section = {"use": use} if seconds is None else {"use": use, "timeout_seconds": seconds}
    option = [] if seconds is None else ["--timeout", str(seconds)]
    trained = reward_specs(Recipe.from_mapping({"rewards": {"mine": section}}))[0]
    scored = score._spec(parsed(score, use, *option))
    checked = check._spec(parsed(check, "data.jsonl", "--reward", use, *option))
    expected = default_timeout_seconds(use) if seconds is None else seconds
    assert deadline_of_workers(trained) == expected
    assert deadline_of_workers(scored) == expected
    assert deadline_of_workers(checked) == expected


def test_pairs_are_compared_under_the_deadline_of_their_reward():
    spec = score._spec(parsed(score, "math_answer", "--pairs"))
    assert deadline_of_workers(spec) == default_timeout_seconds("math_answer")


# ------------------------------------------------------------------------------------------ columns


def test_columns_are_those_without_a_default_that_nothing_else_fills():
    def mine(text, answer, prompt, tolerance, level=1):
        return 1.0

    assert wanted_columns(mine) == ({"answer", "tolerance"}, False)
    assert wanted_columns(mine, given={"tolerance": 0.1}) == ({"answer"}, False)
    assert wanted_columns(lambda text, **columns: 1.0) == (set(), True)


def test_other_trainers_names_for_the_truth_are_known():
    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        return 1.0

    assert missing_columns(compute_score, ["prompt", "answer"]) == []
    assert missing_columns(compute_score, ["prompt", "reward_model"]) == []
    assert missing_columns(compute_score, ["prompt"]) == ["ground_truth"]


def test_a_function_of_no_known_style_is_refused_with_its_parameters():
    with pytest.raises(ValueError, match=r"\(x, y\) fit no known style"):
        wanted_columns(lambda x, y: 1.0)
    assert wanted_columns(lambda x, y: 1.0, style="native") == ({"y"}, False)
    with pytest.raises(ValueError, match="unknown style 'trlx'"):
        wanted_columns(lambda text: 1.0, style="trlx")


def test_the_statuses_are_those_of_the_table():
    assert rewards.STATUSES == ("scored", "no_answer", "timeout", "not_applicable", "fault")


def blocks_of_the_page():
    """The Python of docs/rewards.md."""
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    return [block.partition("```")[0] for block in page.split("```python\n")[1:]]


def test_the_pages_python_runs_and_its_rewards_are_understood():
    functions = []
    for block in blocks_of_the_page():
        names = {"__name__": "page"}
        exec(compile(block, "docs/rewards.md", "exec"), names)
        functions += [
            value for value in names.values() if getattr(value, "__module__", None) == "page"
        ]
    assert [convention_of(reward).style for reward in functions] == [
        "native",
        "native",
        "batch",
        "native",
    ]


def test_the_pages_table_of_built_in_rewards_is_the_table():
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8").partition("## Built in")[2]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name.strip(" `") for row in rows for name in row.split(",")} == set(TABLE)


def test_the_pages_first_reward_works_as_a_recipe_names_it(tmp_path):
    (tmp_path / "mine.py").write_text(blocks_of_the_page()[0])
    spec = rewards.RewardSpec("brief", "mine.py:brief_and_right", weight=0.5, args={"bonus": 0.2})
    samples = [
        rewards.Sample("<think>..</think> 7", {"answer": "7"}),
        rewards.Sample("8", {"answer": "7"}),
    ]
    with RewardService([spec], base_dir=tmp_path, workers=1) as service:
        assert [score.value for score in service.score(samples)] == [pytest.approx(0.6), 0.0]
