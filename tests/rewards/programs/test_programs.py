"""Finding programs, reading tests, comparing outputs: beside slow references, on random inputs."""

from __future__ import annotations

import base64
import decimal
import json
import math
import pickle
import random
import zlib

import pytest

from rewards.programs import (
    AssertTests,
    CallTests,
    IOTests,
    extract_program,
    read_tests,
    same_output,
    same_value,
)
from rewards.programs.formats import BadTests
from rewards.sandbox.messages import Untravelable, decode, encode
from rewards.tasks import load_task
from rewards.tasks.programs import OPERATIONS, run_chain

# ------------------------------------------------------------------------------------------------- values


def random_value(rng: random.Random, depth: int = 3):
    kinds = [
        lambda: rng.randrange(-(10**30), 10**30),
        rng.random,
        lambda: rng.choice([True, False, None, "", "é\ud800"]),
        lambda: float(rng.choice(["nan", "inf", "-inf"])),
        lambda: b"\0\xff",
        lambda: complex(1, -2),
        lambda: range(3, 9, 2),
    ]
    if depth:
        kinds += [
            lambda: [random_value(rng, depth - 1) for _ in range(rng.randrange(4))],
            lambda: tuple(random_value(rng, depth - 1) for _ in range(rng.randrange(3))),
            lambda: {rng.randrange(9): random_value(rng, depth - 1) for _ in range(3)},
            lambda: set(range(rng.randrange(5))),
            lambda: frozenset("a"),
        ]
    return rng.choice(kinds)()


def test_values_of_built_in_types_come_back_as_they_were(seed):
    rng = random.Random(seed)
    for _ in range(500):
        value = random_value(rng)
        again = decode(json.loads(json.dumps(encode(value))))
        assert repr(again) == repr(value) and type(again) is type(value)


@pytest.mark.parametrize(
    "value",
    [type("I", (int,), {})(3), type("L", (list,), {})(), object(), print, [1, [object()]]],
    ids=lambda value: type(value).__name__,
)
def test_what_could_lie_does_not_travel(value):
    with pytest.raises(Untravelable):
        encode(value)


def test_what_never_ends_or_contains_itself_does_not_travel():
    loop: list = []
    loop.append(loop)
    for value in (loop, (x for x in iter(int, 1))):
        with pytest.raises(Untravelable):
            encode(value)


def test_returned_values_are_compared_like_python_does_but_for_lists_tolerance_and_truth_values(
    seed,
):
    rng = random.Random(seed)

    def plain(depth: int = 3):
        kinds = [
            lambda: rng.randrange(-3, 3),
            lambda: rng.choice(["a", "b", None]),
            lambda: rng.random(),
        ]
        if depth:
            kinds += [
                lambda: [plain(depth - 1) for _ in range(rng.randrange(3))],
                lambda: {k: plain(depth - 1) for k in "ab"},
            ]
        return rng.choice(kinds)()

    equal = 0
    for _ in range(3000):
        a, b = plain(), plain()
        assert same_value(encode(a), b, 0.0) == (a == b)
        assert same_value(encode(a), json.loads(json.dumps(a)), 0.0)
        equal += a == b
    assert equal > 20


@pytest.mark.parametrize("got, wanted, is_same", [
    ((1, 2), [1, 2], True), ([(1, "a")], [[1, "a"]], True), (True, 1, False), (0, False, False), (1, 1.0, True),
    (0.1 + 0.2, 0.3, True), (0.3001, 0.3, False), (10**30, 10**30, True), (10**30, 10**30 + 1, False),
    (10**400, 1.5, False), ({1: 2}, {"1": 2}, True), ({1, 2}, [1, 2], False), (float("inf"), float("inf"), True),
    (None, None, True), ("1", 1, False), (b"a", "a", False), ([1], [1, 2], False), ({}, [], False),
])  # fmt: skip
def test_cases_of_comparison(got, wanted, is_same):
    assert same_value(encode(got), wanted) is is_same


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"t": 3},
        {"d": [[1]]},
        {"d": [[[], 1]]},
        {"i": 5},
        {"f": "1"},
        {"x": 1},
        {"t": [1], "l": 2},
        {"h": 0},
    ],
)
def test_forged_values_equal_nothing(forged):
    for wanted in (3, 1.0, [], {}, [1], None, "x"):
        assert same_value(forged, wanted) is False


# ------------------------------------------------------------------------------------------------- output


def reference(got: str, wanted: str) -> bool:
    """Line by line, token by token, by exact fractions."""

    def rows(text):
        return "\n".join(line.rstrip() for line in text.split("\n")).rstrip("\n").split("\n")

    if len(rows(got)) != len(rows(wanted)):
        return False
    for a, b in zip(rows(got), rows(wanted)):
        if len(a.split()) != len(b.split()):
            return False
        for x, y in zip(a.split(), b.split()):
            if x != y:
                try:
                    p, q = decimal.Decimal(x), decimal.Decimal(y)
                except decimal.InvalidOperation:
                    return False
                near = (
                    abs(p - q) <= decimal.Decimal("1e-6") * max(1, abs(q)) if "." in y else p == q
                )
                if not near:
                    return False
    return True


def test_outputs_are_compared_like_the_slow_reference(seed):
    rng = random.Random(seed)
    tokens = ["1", "2", "1.0", "1.0000001", "1.01", "-0.5", "x", "+1", "01"]
    same = 0
    for _ in range(5000):
        wanted = "".join(rng.choice(tokens) + rng.choice(" \n") for _ in range(rng.randrange(1, 4)))
        got = (
            wanted
            if rng.random() < 0.4
            else "".join(
                rng.choice(tokens) + rng.choice([" ", "\n", "  "])
                for _ in range(rng.randrange(1, 4))
            )
        )
        assert same_output(got.encode(), wanted) == reference(got, wanted), (got, wanted)
        same += reference(got, wanted)
    assert 500 < same < 4500


@pytest.mark.parametrize("comparison, got, wanted, is_same", [
    ("exact", "a ", "a", False), ("exact", "a\n", "a\n", True), ("lines", "a  \nb\n\n", "a\nb", True), ("lines", " a", "a", False),
    ("tokens", "1.0", "1.00", True), ("tokens", "1.0000001", "1.0", False), ("tokens", "a  b", "a b", True),
    ("tokens", "a\nb", "a b", False), ("floats", "1e400", "1.0", False), ("floats", "nan", "nan", True), ("floats", "inf", "1.5", False),
    ("unordered", "b\na\n", "a\nb", True), ("unordered", "a\na", "a\nb", False), ("floats", "YES", "Yes", False),
    ("floats", "1e9999", "1.5", False), ("floats", "9" * 500, "1.5", False), ("floats", "", "\n", True),
])  # fmt: skip
def test_each_comparison_has_its_rule(comparison, got, wanted, is_same):
    assert same_output(got.encode(), wanted, comparison) is is_same


def test_output_that_is_no_text_is_wrong():
    assert not same_output(b"\xff\xfe", "x")


# --------------------------------------------------------------------------------------------- extraction


@pytest.mark.parametrize("text, found", [
    ("x = 1", "x = 1"), ("   ", None), ("", None), ("```\nx = 1\n```", "x = 1\n"), ("```py\na\n```\n```python3\nb\n```", "b\n"),
    ("```python\na\n```\nthen\n```python\nb", "a\n"), ("```python\nb", None), ("<think>```\na\n```</think>```\nb\n```", "b\n"),
    ("````python\na\n```\nb\n````", "a\n```\nb\n"), ("~~~python\na\n~~~", "a\n"), ("```python\na\n```\n```bash\nls\n```", "a\n"),
    ("```bash\nls\n```", "ls\n"), ("say ```python x``` and", "say ```python x``` and"), ("```python\n```", None),
    ("  ```python\n  a\n  ```", "  a\n"), ("```python title=x\na\n```", "a\n"), ("```python\r\na\r\n```\r\n", "a\r\n"),
    ("```python\na\n``` b\n```", "a\n``` b\n"),
])  # fmt: skip
def test_the_last_complete_block_is_the_program(text, found):
    assert extract_program(text) == found


def test_blocks_of_another_language_are_passed_over():
    text = "```cpp\nint x;\n```\n```python\nx\n```"
    assert extract_program(text, "cpp") == "int x;\n" and extract_program(text) == "x\n"


# ------------------------------------------------------------------------------------------------ formats


def coded(cases: list) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


IO_ROW = {"inputs": ["1\n"], "outputs": ["2\n"]}
CALL_ROW = {"fn_name": "f", "inputs": [[1]], "outputs": [2]}
IO_TESTS = IOTests(["1\n"], ["2\n"], [False])
CALL_TESTS = CallTests("f", [[1]], [2], [False], may_be_wrapped=True)


@pytest.mark.parametrize(
    "row, expected",
    [
        pytest.param(IO_ROW, IO_TESTS, id="inputs and outputs"),
        pytest.param(CALL_ROW, CALL_TESTS, id="calls of a function"),
        pytest.param(
            {"input_output": json.dumps(IO_ROW)}, IO_TESTS, id="inputs and outputs as JSON"
        ),
        pytest.param({"input_output": json.dumps(CALL_ROW)}, CALL_TESTS, id="calls as JSON"),
        pytest.param(
            {"inputs": [["1", "2"]], "outputs": [["3"]]},
            IOTests(["1\n2"], ["3"], [False]),
            id="lines as lists",
        ),
    ],
)
def test_inputs_with_outputs_are_read_in_every_format(row, expected):
    assert read_tests(row) == expected


def test_lists_of_assertions_are_read_with_their_imports_and_the_challenge_ones_hidden():
    tests = read_tests(
        {
            "test_list": ["assert f(1)"],
            "test_imports": ["import math"],
            "challenge_test_list": ["assert f(2)"],
        }
    )
    assert isinstance(tests, AssertTests)
    assert tests.tests == ["assert f(1)", "assert f(2)"]
    assert tests.hidden == [False, True]
    assert tests.setup.strip() == "import math"


def test_a_check_function_is_read_with_its_entry_point_and_the_prompt_that_it_completes():
    check = "def check(candidate):\n    assert candidate(1)"
    tests = read_tests({"test": check, "entry_point": "f"}, "def f(x):\n")
    assert isinstance(tests, AssertTests)
    assert (tests.check, tests.entry, tests.prompt) == ("check", "f", "def f(x):\n")
    assert tests.tests == [check] and tests.setup == "def f(x):\n    pass\n"


@pytest.mark.parametrize(
    "tests",
    [
        json.dumps(json.dumps([{"input": "1 2", "output": "3"}])),
        "[{'input': '1 2', 'output': '3'}]",
        json.dumps("[{'input': '1 2', 'output': '3'}]"),
    ],
)
def test_tests_are_read_through_json_in_json_and_python_literals(tests):
    assert read_tests({"tests": tests}) == IOTests(["1 2"], ["3"], [False])


@pytest.mark.parametrize("given", ["[1, 2]", "1\n2", "1\n\n2\n"])
def test_a_call_written_as_text_returns_what_its_output_is_the_json_of(given):
    tests = read_tests({"tests": {"fn_name": "f", "inputs": [given], "outputs": ["3"]}})
    assert isinstance(tests, CallTests)
    assert (tests.arguments, tests.outputs) == ([[1, 2]], [3])
    as_values = read_tests({"tests": {"fn_name": "f", "inputs": [[1, 2]], "outputs": ["3"]}})
    assert isinstance(as_values, CallTests) and as_values.outputs == ["3"]


def test_a_check_function_that_the_tests_call_themselves_needs_no_entry_point():
    source = "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n"
    tests = read_tests({"test": source})
    assert isinstance(tests, AssertTests) and (tests.check, tests.suite) == ("", False)
    recursive = "def check(candidate, n=1):\n    assert candidate(n)\n    n or check(candidate)\n"
    tests = read_tests({"test": recursive, "entry_point": "f"})
    assert isinstance(tests, AssertTests) and tests.check == "check"


@pytest.mark.parametrize("body", ["pass", "return f(1) == 2", "f(1)"])
def test_test_functions_that_assert_nothing_are_refused(body):
    with pytest.raises(BadTests, match="assert nothing"):
        read_tests({"test": f"from solution import f\n\ndef test_f():\n    {body}\n"})


@pytest.mark.parametrize(
    "row",
    [
        {"test": "def check(candidate):\n    assert True, 'prints'\n", "entry_point": "f"},
        {"test": "from solution import f\n\ndef test_f():\n    assert 1\n"},
        {"test_list": ["assert True", "assert (1, 2)"]},
        {"tests": "assert True\nassert 'x'"},
    ],
)
def test_tests_that_only_assert_true_are_refused_since_every_program_passes_them(row):
    with pytest.raises(BadTests, match="assert True and nothing else, so every program would pass"):
        read_tests(row)


@pytest.mark.parametrize(
    "row",
    [
        {"test_list": ["assert True", "assert f(1) == 2"]},
        {"test": "def check(c):\n    if c(1) == 2:\n        assert True\n", "entry_point": "f"},
        {"test": "def check(candidate):\n    assert True\n    candidate(1)\n", "entry_point": "f"},
        {"test_list": ["assert f(1) == 2, 'assert True'", "assert False"]},
    ],
)
def test_tests_that_some_program_fails_are_taken(row):
    assert isinstance(read_tests(row), AssertTests)


def test_private_cases_are_unpacked_without_running_what_was_pickled():
    case = {"input": "1\n[2]", "output": "3", "testtype": "functional"}
    row = {
        "public_test_cases": json.dumps([case]),
        "private_test_cases": coded([case] * 2),
        "metadata": '{"func_name": "S.f"}',
    }
    assert read_tests(row) == CallTests("f", [[1, [2]]] * 3, [3] * 3, [False, True, True])
    stdin = {"input": "1", "output": "3", "testtype": "stdin"}
    assert read_tests(
        {"public_test_cases": [stdin], "private_test_cases": coded([stdin])}
    ) == IOTests(["1"] * 2, ["3"] * 2, [False, True])

    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    evil = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(BadTests, match="print"):
        read_tests({"private_test_cases": evil})


def test_codeforces_has_limits_of_its_own_and_a_checker():
    row = {
        "examples": [{"input": "1", "output": "2"}],
        "official_tests": [{"input": "1", "output": "2"}, {"input": "3", "output": "4"}],
        "time_limit": 1.5,
        "memory_limit": 64,
        "generated_checker": "print(1)",
    }
    tests = read_tests(row)
    assert tests == IOTests(["1", "3"], ["2", "4"], [False, True], "print(1)", 1.5, 64 << 20)


@pytest.mark.parametrize("row", [
    {}, {"test_list": []}, {"inputs": [1], "outputs": []}, {"input_output": "{"}, {"input_output": "{}"}, {"test": 3},
    {"test": "def check(candidate): pass"}, {"private_test_cases": "!!"}, {"fn_name": "f", "inputs": [1], "outputs": [1]},
    {"public_test_cases": [{"input": "1", "output": "1", "testtype": "functional"}]}, {"test_list": [3]},
    {"official_tests": [{"input": "x"}]}, {"inputs": 3, "outputs": 4},
], ids=str)  # fmt: skip
def test_tests_that_cannot_be_read_are_refused(row):
    with pytest.raises(BadTests):
        read_tests(row)


# -------------------------------------------------------------------------------------------------- tasks


def test_programming_tasks_are_graded_distinct_and_repeatable():
    rows = load_task("programs").rows(count=300)
    assert (
        rows == load_task("programs").rows(count=300)
        and len({row["prompt"] for row in rows}) == 300
    )
    assert [row["level"] for row in rows[:6]] == [1, 2, 3, 4, 5, 1]
    for row in rows:
        tests = read_tests(row)
        assert len(tests.outputs) == 8 and sum(tests.hidden) == 5
        assert (
            str(tests.outputs[0]) in row["prompt"] and len({str(x) for x in tests.outputs[:3]}) == 3
        )


def test_each_operation_does_what_its_words_say(seed):
    rng = random.Random(seed)
    for _ in range(100):
        xs, k = [rng.randint(-9, 9) for _ in range(rng.randrange(7))], rng.randint(2, 5)
        slow = {
            "add": [x + k for x in xs], "times": [sum([x] * k) for x in xs], "square": [x**2 for x in xs],
            "reverse": list(reversed(xs)), "sort": sorted(xs), "unique": [x for i, x in enumerate(xs) if x not in xs[:i]],
            "even": [x for x in xs if not x & 1], "above": [x for x in xs if not x <= k],
            "drop": [x for i, x in enumerate(xs) if i >= k], "every": [x for i, x in enumerate(xs) if i % k == 0],
            "running": [math.fsum(xs[: i + 1]) for i in range(len(xs))], "rotate": [*xs[1:], *xs[:1]], "twice": [*xs, *xs],
            "sum": math.fsum(xs), "count": sum(1 for _ in xs), "largest": sorted(xs)[-1] if xs else 0,
            "smallest": sorted(xs)[0] if xs else 0, "negative": len([x for x in xs if abs(x) != x]),
        }  # fmt: skip
        assert set(slow) == set(OPERATIONS)
        for name, value in slow.items():
            assert run_chain([(name, k)], xs) == value
