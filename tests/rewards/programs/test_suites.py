"""Test functions for pytest and unittest judge a program as these would, and cannot be passed by a wrong one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Iterator

import pytest

from rewards import RewardSpec, Sample
from rewards.programs import sources
from rewards.programs.formats import BadTests, read_tests
from rewards.programs.protocols import _ASSERT_DRIVER, SUITE_SOURCE
from rewards.service import RewardService


@pytest.fixture(scope="module")
def service() -> Iterator[RewardService]:
    with RewardService(
        [RewardSpec("tests", "code_tests", timeout_seconds=6.0)], workers=1
    ) as running:
        yield running


def verdict(service: RewardService, code: str, test: str, **columns: Any) -> Any:
    sample = Sample(f"```python\n{code}\n```", columns={"test": test, **columns})
    return service.judge([sample])[0].parts["tests"]


ADD = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return 3\n"
STACK = """
class Empty(Exception):
    pass

class Stack:
    def __init__(self):
        self.items = []
    def push(self, item):
        self.items.append(item)
    def pop(self):
        if not self.items:
            raise Empty("nothing there")
        return self.items.pop()
    def __len__(self):
        return len(self.items)
"""
QUEUE = STACK.replace("self.items.pop()", "self.items.pop(0)")
PRINTS = "def add(a, b):\n    print(a + b)\n"
NODE = """
class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next

def reverse(node):
    before = None
    while node:
        node.next, before, node = before, node, node.next
    return before
"""
IMPORT = "from solution import add\nimport pytest\n"
SUITES: dict[str, tuple[str, str, str]] = {
    "a function": (IMPORT + "def test_a():\n    assert add(1, 2) == 3\n    assert add(2, 2) == 4", ADD, WRONG),
    "a star import": ("from solution import *\ndef test_a():\n    assert add(1, 5) == 6", ADD, WRONG),
    "a module": ("import solution\ndef test_a():\n    assert solution.add(1, 5) == 6", ADD, WRONG),
    "a renamed import": ("from solution import add as f\ndef test_a():\n    assert f(1, 5) == 6", ADD, WRONG),
    "no import": ("def test_a():\n    assert add(1, 5) == 6", ADD, WRONG),
    "a class": (IMPORT + "class TestAdd:\n    def setup_method(self):\n        self.a = 5\n"
                "    def test_a(self):\n        assert add(self.a, 5) == 10", ADD, WRONG),
    "parameters": (IMPORT + "@pytest.mark.parametrize('a,b,c', [(1, 2, 3), pytest.param(5, 5, 10, id='x')])\n"
                   "def test_a(a, b, c):\n    assert add(a, b) == c", ADD, WRONG),
    "one parameter": (IMPORT + "@pytest.mark.parametrize('a', [1, 2])\n@pytest.mark.parametrize('b', [3, 4])\n"
                      "def test_a(a, b):\n    assert add(a, b) == a + b", ADD, WRONG),
    "parameters of a class": (IMPORT + "@pytest.mark.parametrize('a', [1, 2])\nclass TestA:\n"
                              "    def test_a(self, a):\n        assert add(a, 1) == a + 1", ADD, WRONG),
    "a fixture": (IMPORT + "@pytest.fixture\ndef five():\n    yield 5\n\ndef test_a(five):\n    assert add(five, 5) == 10",
                  ADD, WRONG),
    "fixtures of fixtures": (IMPORT + "@pytest.fixture(params=[5, 6])\ndef n(request):\n    return request.param\n"
                             "@pytest.fixture(autouse=True)\ndef nothing():\n    pass\n"
                             "def test_a(n):\n    assert add(n, 1) == n + 1", ADD, WRONG),
    "a used fixture": (IMPORT + "state = []\n@pytest.fixture\ndef made():\n    state.append(5)\n"
                       "@pytest.mark.usefixtures('made')\ndef test_a():\n    assert add(state[0], 1) == 6", ADD, WRONG),
    "a key": ("from solution import last\ndef test_a():\n    assert sorted(['ab', 'ba'], key=last) == ['ba', 'ab']",
              "def last(x):\n    return x[-1]", "def last(x):\n    return x"),
    "raises": (IMPORT + "def test_a():\n    with pytest.raises(TypeError, match='unsupported'):\n        add(1, None)\n"
               "    assert add(1, 1) == 2", ADD, WRONG),
    "raises, called": (IMPORT + "def test_a():\n    info = pytest.raises(TypeError, add, 1, None)\n"
                       "    assert 'unsupported' in str(info.value)", ADD, "def add(a, b):\n    return 0"),
    "an error of the candidate's": ("from solution import pop, Empty\nimport pytest\ndef test_a():\n"
                                    "    with pytest.raises(Empty):\n        pop([])",
                                    "class Empty(Exception): pass\ndef pop(x):\n    raise Empty()",
                                    "class Empty(Exception): pass\ndef pop(x):\n    raise ValueError()"),
    "approx": (IMPORT + "def test_a():\n    assert add(0.1, 0.2) == pytest.approx(0.3)\n"
               "    assert [add(1, 1)] == pytest.approx([2.0])", ADD, "def add(a, b):\n    return 0.3001"),
    "approx with bounds": (IMPORT + "def test_a():\n    assert add(1, 1) == pytest.approx(2.05, abs=0.1)",
                           ADD, "def add(a, b):\n    return 2.2"),
    "a skipped test": (IMPORT + "@pytest.mark.skip(reason='slow')\ndef test_b():\n    assert 0\n"
                       "def test_a():\n    assert add(2, 2) == 4", ADD, WRONG),
    "a constant": ("from solution import LIMIT, add\ndef test_a():\n    assert LIMIT == 5 and add(1, 1) == 2",
                   "LIMIT = 5\n" + ADD, "LIMIT = 4\n" + ADD),
    "a method of Solution": ("from solution import Solution\ndef test_a():\n    assert Solution().add(1, 5) == 6",
                             "class Solution:\n    def add(self, a, b): return a + b",
                             "class Solution:\n    def add(self, a, b): return 3"),
    "a class of the candidate's": ("from solution import Stack, Empty\nimport pytest\ndef test_a():\n    s = Stack()\n"
                                   "    s.push(1)\n    s.push(2)\n    assert len(s) == 2 and s.pop() == 2\n"
                                   "def test_empty():\n    with pytest.raises(Empty):\n        Stack().pop()", STACK, QUEUE),
    "linked nodes": ("from solution import Node, reverse\ndef test_a():\n    head = Node(1, Node(2))\n"
                     "    head.next.next = Node(3)\n    back = reverse(head)\n    found = []\n    while back:\n"
                     "        found.append(back.value)\n        back = back.next\n    assert found == [3, 2, 1]",
                     NODE, NODE.replace("return before", "return node")),
    "capsys": (IMPORT + "def test_a(capsys):\n    add(1, 5)\n    assert capsys.readouterr().out == '6\\n'", PRINTS, ADD),
    "monkeypatch": ("from solution import ask\ndef test_a(monkeypatch):\n"
                    "    monkeypatch.setattr('builtins.input', lambda _='': '6')\n    assert ask() == 6",
                    "def ask():\n    return int(input('n? '))", "def ask():\n    return 7"),
    "unittest": ("import unittest\nfrom solution import add\nclass T(unittest.TestCase):\n    def setUp(self):\n"
                 "        self.n = 5\n    def test_a(self):\n        self.assertEqual(add(self.n, 1), 6)\n"
                 "    def test_b(self):\n        with self.assertRaises(TypeError):\n            add(1, None)\n"
                 "if __name__ == '__main__':\n    unittest.main()", ADD, WRONG),
    "a mock": ("from unittest import mock\nimport solution\ndef test_a():\n"
               "    with mock.patch('random.random', return_value=0.5):\n        assert solution.draw() == 5",
               "import random\ndef draw():\n    return int(10 * random.random())", "def draw():\n    return 6"),
    "async": ("from solution import add\nimport pytest\n@pytest.mark.asyncio\nasync def test_a():\n"
              "    assert add(1, 5) == 6", ADD, WRONG),
    "a change of the arguments": ("from solution import fill\ndef test_a():\n    x = [1]\n    fill(x)\n    assert x == [1, 2]",
                                  "def fill(x):\n    x.append(2)", "def fill(x):\n    x = [1, 2]"),
    "set-up functions": (IMPORT + "state = []\ndef setup_function():\n    state.append(1)\n"
                         "def test_a():\n    assert add(len(state), 5) == 6", ADD, WRONG),
}  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_a_right_program_scores_1_and_a_wrong_one_0(service, name):
    test, right, wrong = SUITES[name]
    good = verdict(service, right, test)
    assert (good.value, good.status) == (1.0, "scored"), good.detail
    bad = verdict(service, wrong, test)
    assert (bad.value, bad.status) == (0.0, "scored"), bad.detail


CHEATS = {
    "an object equal to everything": "class A:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "def add(a, b):\n    return A()",
    "leaving": "import os\ndef add(a, b):\n    os._exit(0)",
    "SystemExit": "def add(a, b):\n    raise SystemExit(0)",
    "an error": "def add(a, b):\n    raise AssertionError('passed')",
    "a subclass": "class I(int):\n    def __eq__(self, o): return True\ndef add(a, b):\n    return I(0)",
    "nothing": "x = 1",
    "leaving at once": "import sys\nsys.exit(0)",
    "its own pytest": "import sys, types\nm = types.ModuleType('pytest')\nm.raises = None\nsys.modules['pytest'] = m\n"
    + WRONG,
    "its own tests": WRONG + "def test_a():\n    pass\n",
    "a skip": "class Skipped(Exception): pass\ndef add(a, b):\n    raise Skipped('skip')",
    "StopIteration": "def add(a, b):\n    raise StopIteration",
    "a replaced check": "import builtins\nbuiltins.bool = lambda x: True\n" + WRONG,
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_does_not_pass_test_functions(service, name):
    test = (
        IMPORT
        + "def test_a():\n    assert add(1, 5) == 6\ndef test_b():\n    assert add(5, 5) == 10"
    )
    assert verdict(service, CHEATS[name], test).value == 0.0


SKIPPING = {
    "unittest": ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 5), 6)\n"
                 "    def test_b(self):\n        self.assertEqual(add(1, 2), 3)",
                 "import unittest\ndef add(a, b):\n    if b == 5: raise unittest.SkipTest()\n    return 3"),
    "pytest": (IMPORT + "def test_a(capsys):\n    assert add(1, 5) == 6\ndef test_b():\n    assert add(1, 2) == 3",
               "def add(a, b):\n    if b == 5:\n        import pytest\n        pytest.skip('x')\n    return 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", SKIPPING)
def test_a_candidate_cannot_have_tests_skipped_in_its_own_process(service, name):
    test, cheat = SKIPPING[name]
    assert verdict(service, cheat, test).value == 0.0
    assert verdict(service, ADD, test).value == 1.0


@pytest.mark.parametrize("test, reason", [
    (IMPORT + "def test_a(mocker):\n    assert add(1, 2) == 3", "the tests use the fixture mocker"),
    (IMPORT + "def test_a():\n    with pytest.warns(UserWarning):\n        add(1, 2)", "the tests use pytest.warns"),
    (IMPORT + "@pytest.mark.skip\ndef test_a():\n    assert add(1, 2) == 3", "no assert statement"),
    ("import no_such_module\nfrom solution import add\ndef test_a():\n    assert add(1, 2) == 3", "no_such_module"),
    ("def test_a(:\n    pass", "the tests are not Python"),
])  # fmt: skip
def test_tests_that_cannot_run_are_a_fault_and_no_verdict(service, test, reason):
    found = verdict(service, ADD, test)
    assert found.status == "fault" and reason in found.detail, found.detail


@pytest.mark.parametrize("test, inside", [
    (IMPORT + "def test_a():\n    assert add(1, 2) == 3", False),
    (IMPORT + "def test_a():\n    assert list(map(add, [1], [2])) == [3]", False),
    (IMPORT + "def test_a():\n    with pytest.raises(TypeError):\n        add(1, None)", False),
    ("from solution import Solution\ndef test_a():\n    assert Solution().add(1, 2) == 3", False),
    ("from solution import Stack\ndef test_a():\n    assert len(Stack()) == 0", True),
    ("from solution import Color\ndef test_a():\n    assert Color.RED.value == 1", True),
    ("from solution import f, E\ndef test_a():\n    try:\n        f()\n    except E:\n        pass", True),
    ("from solution import f, A\ndef test_a():\n    assert isinstance(f(), A)", True),
    ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(), 1)", True),
    ("from unittest.mock import patch\ndef test_a():\n    pass", True),
])  # fmt: skip
def test_the_tests_alone_decide_which_process_they_run_in(test, inside):
    assert sources.tests_of_source(test, "", "").inside is inside


def test_asserts_in_branches_and_helpers_count_where_they_are_reached(service):
    helper = "def same(a, b):\n    if a != b:\n        assert abs(a - b) < 1e-9\n    else:\n        assert a == b\n"
    check = (
        helper
        + "def check(candidate):\n    same(candidate(1, 5), 6)\n    same(candidate(0.1, 0.2), 0.3)\n"
    )
    assert verdict(service, ADD, check, entry_point="add").value == 1.0
    assert verdict(service, WRONG, check, entry_point="add").value == 0.0
    empty = "def check(candidate):\n    if candidate(1, 5) == 6:\n        assert True\n"
    assert verdict(service, WRONG, empty, entry_point="add").value == 0.0


@pytest.mark.parametrize("row, kind", [
    ({"tests": [{"input": "1", "output": "2"}, {"input": [1], "output": [2], "fn_name": "f"}]}, "some tests call"),
    ({"tests": [{"input": "1"}]}, "test 0 has input, not an input and an output"),
    ({"tests": [3]}, "test 0 is int, not an object"),
    ({"tests": [{"input": [1], "output": 2, "type": "function_call"}]}, "one fn_name is needed"),
    ({"tests": [{"input": [1], "output": 2, "fn_name": n} for n in "fg"]}, "the tests call f and g"),
    ({"public_tests": {"input": ["1"], "output": []}}, "the row's tests cannot be read"),
    ({"tests": "nothing here("}, "the tests are not Python"),
])  # fmt: skip
def test_cases_that_cannot_be_read_are_refused(row, kind):
    with pytest.raises(BadTests, match=kind.replace("(", r"\(")):
        read_tests(row)


STDIN = ("print(sum(map(int, input().split())))", "print(3)")
FORMS: dict[str, tuple[Any, tuple[str, str]]] = {
    "objects": ([{"input": "1 5", "output": "6"}], STDIN),
    "pairs": ([["1 5", "6"], ["1 1", "2"]], STDIN),
    "stdin": ([{"stdin": "1 5", "expected_output": "6"}], STDIN),
    "lists of lines": ({"inputs": [["1 5"]], "outputs": [["6"]]}, STDIN),
    "inputs and outputs": ({"inputs": ["1 5"], "outputs": ["6"]}, STDIN),
    "input and output": ({"input": ["1 5"], "output": ["6"]}, STDIN),
    "inside": ({"language": "python", "test_cases": [{"input": "1 5", "output": "6", "type": "stdin_stdout"}]}, STDIN),
    "asserts": (["assert add(1, 5) == 6", "assert add(1, 1) == 2"], (ADD, WRONG)),
    "source of asserts": ("assert add(1, 5) == 6\nassert add(2, 2) == 4", (ADD, WRONG)),
    "source of tests": (IMPORT + "def test_a():\n    assert add(1, 5) == 6", (ADD, WRONG)),
    "calls": ({"fn_name": "add", "inputs": [[1, 5], [2, 2]], "outputs": [6, 4]}, (ADD, WRONG)),
    "wrapped calls": ({"fn_name": "add", "inputs": [[1, 5], [2, 2]], "outputs": [[6], [4]]}, (ADD, WRONG)),
    "lists of one": (
        {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]},
        ("def f(x):\n    return [x]", "def f(x):\n    return x if x == 1 else [x]"),
    ),
    "source with its entry point": (
        {"test_code": "def check(candidate):\n    assert candidate(a=1, b=5) == 6", "entry_point": "Solution().add",
         "import_prefix": "from typing import *\n"},
        ("class Solution:\n    def add(self, a: int, b: int) -> List[int]:\n        return a + b",
         "class Solution:\n    def add(self, a, b):\n        return 3"),
    ),
    "asserts inside": ({"assert_case": ["assert add(1, 5) == 6"]}, (ADD, WRONG)),
    "calls as lines": ([{"input": "[1, 2]\n3", "output": "6", "testtype": "functional", "fn_name": "f"}],
                       ("def f(x, y):\n    return sum(x) + y", "def f(x, y):\n    return 5")),
    "one list as a line": ([{"input": "[1, 2]", "output": "3", "testtype": "functional", "metadata": '{"func_name": "f"}'}],
                           ("def f(x):\n    return sum(x)", "def f(x, y):\n    return x + y")),
    "calls as JSON": ([{"input": "[1, 5]", "output": "6", "type": "function_call", "fn_name": "add"}], (ADD, WRONG)),
}  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_tests_in_one_column_are_read_in_every_form(service, name, as_text):
    value, (right, wrong) = FORMS[name]
    tests = json.dumps(value) if as_text and not isinstance(value, str) else value
    samples = [
        Sample(f"```python\n{code}\n```", columns={"tests": tests}) for code in (right, wrong)
    ]
    values = [judged.parts["tests"].value for judged in service.judge(samples)]
    assert values == [1.0, 0.0]


def on_a_server(code: str, row: dict[str, Any]) -> bool:
    """Whether the program that a server is sent comes to its end."""
    tests = sources.tests_of_source(row["test"], row.get("entry_point", ""), "")
    source = SUITE_SOURCE.read_text()
    job = {
        "source": code, "prompt": "", "setup": tests.setup, "tests": list(tests.tests), "check": "", "entry": "",
        "suite": source, "nonce": "the end",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", _ASSERT_DRIVER],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode == 0 and run.stdout.rstrip().endswith("\nthe end")


@pytest.mark.parametrize("name", ["parameters", "raises", "a class of the candidate's", "unittest"])
def test_test_functions_run_on_a_server_too(name):
    test, right, wrong = SUITES[name]
    assert on_a_server(right, {"test": test}) and not on_a_server(wrong, {"test": test})
