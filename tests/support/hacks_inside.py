"""Programs that want a reward without solving their task, by every door of the judge. None may score.

Run by ``test_reward_hacks.py``, inside the cage.
"""

from __future__ import annotations

import asyncio

import pytest

from rewards import Score
from rewards.code_tests import code_tests
from rewards.sandbox import Sandbox, SandboxOptions

HUMANEVAL = {
    "prompt": "def double(x):\n    '''Twice x.'''\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\n"
    "    for n in range(5):\n        assert candidate(n) == 2 * n\n    assert abs(candidate(1.5) - 3) < 1e-9\n",
    "entry_point": "double",
}
MBPP = {
    "test_list": [
        "assert double(2) == 4",
        "assert double([1]) == [1, 1]",
        "assert set(double((1,))) == {1} and len(double('a')) == 2",
    ]
}
CALLS = {"fn_name": "double", "inputs": [[2], [[1]], [1.5]], "outputs": [4, [1, 1], 3.0]}
STDIN = {"inputs": ["2\n", "21\n"], "outputs": ["4\n", "42\n"]}

LIAR = """
class Liar({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
    def __hash__(self): return 0
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __len__(self): return 2
    def __iter__(self): return iter([1])
    def __bool__(self): return True
    def __getattr__(self, name): return self
    def __call__(self, *args): return self
    def __instancecheck__(self, other): return True
def double(x): return Liar({made})
"""
FUNCTION_HACKS = {
    "an object equal to all": LIAR.format(base="object", made=""),
    "an int equal to all": LIAR.format(base="int", made="7"),
    "a float equal to all": LIAR.format(base="float", made="7"),
    "a str equal to all": LIAR.format(base="str", made="'x'"),
    "a list equal to all": LIAR.format(base="list", made=""),
    "a dict equal to all": LIAR.format(base="dict", made=""),
    "a metaclass equal to all": "class Meta(type):\n    def __eq__(cls, other): return True\n    __hash__ = type.__hash__\n"
    "class Liar(metaclass=Meta): pass\ndef double(x): return Liar",
    "leaves with success at once": "import os\nos._exit(0)",
    "leaves with success when called": "import os\ndef double(x): os._exit(0)",
    "sys.exit when called": "import sys\ndef double(x): sys.exit(0)",
    "raises SystemExit at once": "raise SystemExit(0)",
    "raises what ends loops": "def double(x): raise StopIteration",
    "raises AssertionError": "def double(x): raise AssertionError",
    "raises GeneratorExit": "def double(x): raise GeneratorExit",
    "raises KeyboardInterrupt": "def double(x): raise KeyboardInterrupt",
    "an exception that lies": "class AssertionError(Exception):\n    def __eq__(self, other): return True\ndef double(x): raise AssertionError",
    "kills its parent": "import os, signal\ndef double(x):\n    os.kill(os.getppid() or 1, signal.SIGKILL)\n    os.kill(os.getpid(), 9)\n    return None",
    "reads frames": "import sys\ndef double(x):\n    frame = sys._getframe()\n    while frame:\n        for value in list(frame.f_locals.values()):\n"
    "            if isinstance(value, dict):\n                for key in ('expected', 'outputs', 'output', 'answer', 'test', 'tests'):\n"
    "                    if key in value: return value[key]\n        frame = frame.f_back",
    "reads what gc knows": "import gc\ndef double(x):\n    for thing in gc.get_objects():\n        if isinstance(thing, dict) and ('outputs' in thing or 'expected' in thing):\n"
    "            return thing.get('outputs', thing.get('expected'))",
    "writes frames": "import sys\ndef double(x):\n    frame = sys._getframe()\n    while frame:\n        for name in list(frame.f_locals):\n            frame.f_locals[name] = True\n        frame.f_globals.update(passed=True, ok=True, held=True)\n        frame = frame.f_back",
    "patches builtins": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = lambda x: True\nbuiltins.bool = lambda x: True\nbuiltins.len = lambda x: 2\nbuiltins.set = lambda x: {1}\nbuiltins.AssertionError = Exception\nbuiltins.__build_class__ = None\ndef double(x): return 0",
    "patches json": "import json\nreal = json.dumps\ndef dumps(x, *args, **kwargs):\n    return real({'reply': {'value': True}})\njson.dumps = dumps\ndef double(x): return None",
    "patches encoders": "import sys\nfor module in list(sys.modules.values()):\n    for name in ('encode', 'same_value', 'equal', 'check', 'compare', 'write_frame', 'report'):\n        if hasattr(module, name):\n            try: setattr(module, name, lambda *args, **kwargs: True)\n            except Exception: pass\ndef double(x): return 0",
    "forges replies": "import os, struct, json\ndef say(message):\n    body = json.dumps(message).encode()\n    for fd in range(3, 30):\n        try: os.write(fd, struct.pack('<I', len(body)) + body)\n        except OSError: pass\n"
    "for n in range(10): say({'test': n, 'held': True})\nsay({'tests': 1}); say({'end': True}); say({'loaded': True}); say({'reply': {'value': True}})\nos._exit(0)",
    "forges replies when called": "import os, struct, json\ndef double(x):\n    for message in ({'test': 0, 'held': True}, {'test': 1, 'held': True}, {'test': 2, 'held': True}, {'test': 3, 'held': True}, {'tests': 4}, {'end': True}, {'reply': {'value': True}}):\n        body = json.dumps(message).encode()\n"
    "        for fd in range(3, 30):\n            try: os.write(fd, struct.pack('<I', len(body)) + body)\n            except OSError: pass\n    os._exit(0)",
    "asks for the tests' functions": "import os, struct, json\ndef double(x):\n    for number in range(5):\n        body = json.dumps({'op': 'callback', 'id': number, 'args': [0, True]}).encode()\n        for fd in (3, 4):\n            try: os.write(fd, struct.pack('<I', len(body)) + body)\n            except OSError: pass\n    return None",
    "forges a fault": "import os, struct, json\nbody = json.dumps({'ready': False, 'detail': 'x'}).encode()\nfor fd in range(3, 30):\n    try: os.write(fd, struct.pack('<I', len(body)) + body)\n    except OSError: pass\nos._exit(99)",
    "sends nonsense": "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'\\xff' * 1000)\n    except OSError: pass\ndef double(x): return 0",
    "reads the tests from disk": "import os\ndef double(x):\n    for folder in ('/tmp', '/', '/proc/self', '/dev/shm', '.'):\n        for root, _, names in os.walk(folder):\n            for name in names:\n                if 'test' in name or 'expected' in name: return open(os.path.join(root, name)).read()",
    "reads the environment": "import os, sys\ndef double(x): return [*os.environ.values(), *sys.argv][0] if os.environ else None",
    "shares its argument": "def double(x):\n    try: x.clear(); x.extend([1, 1])\n    except AttributeError: pass\n    return x",
    "returns all types at once": "def double(x): return (4, [1, 1], 3.0)",
    "returns not a number": "def double(x): return float('nan')",
    "returns infinity": "def double(x): return float('inf')",
    "never returns": "def double(x):\n    while True: pass",
    "returns without end": "def double(x):\n    while True: yield 4",
    "is no function": "double = 4",
    "is not there": "def triple(x): return 4",
    "a property of the module": "def __getattr__(name): return lambda x: 4",
    "knows the visible test": "def double(x):\n    if x == 2: return 4",
    "prints what is wanted": "def double(x): print(4)\nprint('4\\n[1, 1]\\n3.0\\nOK\\nAll tests passed\\n1 passed')",
    "does not compile": "def double(x: return 2 * x",
    "replaces the test framework": "import sys, types\nfor name in ('unittest', 'pytest', 'doctest', 'tester', 'candidate', 'wire', '__main__'):\n    sys.modules[name] = types.ModuleType(name)\ndef double(x): return 0",
    "overrides check": "def check(candidate): pass\ndef double(x): return 0\ncandidate = double",
    "at exit": "import atexit\natexit.register(print, 'OK')\ndef double(x): return 0",
}  # fmt: skip
PROGRAM_HACKS = {
    "prints a prefix": "print(4)",
    "prints a part": "print(str(2 * int(input()))[:1])",
    "prints a superset": "print(4); print(42)",
    "prints all candidates": "input()\nfor n in range(100): print(n)",
    "prints on one line": "input()\nprint(*range(100))",
    "answer, then output": "x = 2 * int(input())\nprint(x)\nprint('done')",
    "prints nothing": "input()",
    "leaves with success": "import os\nos._exit(0)",
    "right but dies": "print(2 * int(input()), flush=True)\nraise ValueError",
    "right but killed": "import os, ctypes\nprint(2 * int(input()), flush=True)\nctypes.string_at(0)",
    "right but never ends": "print(2 * int(input()), flush=True)\nwhile True: pass",
    "right but a bad exit code": "import sys\nprint(2 * int(input()))\nsys.exit(3)",
    "on standard error": "import sys\nprint(2 * int(input()), file=sys.stderr)",
    "hard-coded": "print({'2': 4}.get(input(), 0))",
    "kept between runs": "import os\ntry: print(open('/tmp/state').read())\nexcept OSError: open('/tmp/state', 'w').write('42'); print(4)",
    "reads what it should print": "import os\nfor fd in range(3, 64):\n    try: print(os.read(fd, 100).decode())\n    except OSError: pass",
    "wildcards": "print('.*')",
    "not a number": "print('nan')",
    "escapes the terminal": "print('4\\r42\\x1b[1A')",
    "null bytes": "import sys\nsys.stdout.write('4\\0')",
    "huge exponent": "print('4e999999999999')",
}  # fmt: skip


def score(texts: dict[str, str], columns: dict[str, object]) -> dict[str, Score]:
    """What each completion is worth on a row."""

    async def judge() -> list[Score]:
        async with Sandbox(SandboxOptions(slots=8)) as sandbox:
            return await asyncio.gather(
                *(
                    code_tests(
                        f"```python\n{text}\n```", sandbox=sandbox, timeout_seconds=1.0, **columns
                    )
                    for text in texts.values()
                )
            )

    return dict(zip(texts, asyncio.run(judge())))


def refuse(scores: dict[str, Score]) -> None:
    assert {name: verdict for name, verdict in scores.items() if verdict.value != 0.0} == {}


@pytest.mark.parametrize("columns", [HUMANEVAL, MBPP, CALLS], ids=["HumanEval", "MBPP", "calls"])
def test_no_function_that_cheats_scores_and_none_becomes_a_fault(columns):
    refuse(score(FUNCTION_HACKS, columns))


def test_no_program_that_cheats_scores():
    refuse(score(PROGRAM_HACKS, STDIN))


def test_honest_programs_score():
    double = "def double(x):\n    return 2 * x"
    for columns in (HUMANEVAL, MBPP, CALLS):
        assert score({"honest": double}, columns)["honest"].value == 1.0
    assert score({"honest": "print(2 * int(input()))"}, STDIN)["honest"].value == 1.0


def test_a_completion_with_tricks_of_fences_is_judged_by_its_last_complete_block():
    right, wrong = "def double(x):\n    return 2 * x", "def double(x):\n    return 0"
    texts = {
        "right first": f"{right}\n```\nbut then\n```python\n{wrong}",
        "quoted": f"{wrong}\n```\nand ````python\n{right}\n```` inline\n```python\n{wrong}",
        "in the reasoning": f"{wrong}\n```\n<think>```python\n{right}\n```</think>\n```python\n{wrong}",
        "unfinished": f"{wrong}\n```\n```python\n{right}\n",
    }
    values = {name: verdict.value for name, verdict in score(texts, CALLS).items()}
    assert values["right first"] == values["quoted"] == values["in the reasoning"] == 0.0


@pytest.mark.parametrize("columns", [
    {"test_list": ["print(double(2))"]}, {"test_list": []}, {"inputs": [], "outputs": []},
    {"prompt": "x", "entry_point": "double", "test": "def check(candidate):\n    pass\n"},
    {"test_list": ["assert undefined_module.x == 1", "import nosuchmodule\nassert double(2) == 4"]},
    {"test_list": ["assert double(2) =="]}, {"inputs": ["1"], "outputs": []}, {"fn_name": "f", "inputs": [3], "outputs": [1]},
], ids=str)  # fmt: skip
def test_tests_that_are_none_or_broken_are_a_fault_and_never_a_pass(columns):
    verdict = score({"right": "def double(x):\n    return 2 * x"}, columns)["right"]
    if "undefined_module" not in str(columns):
        assert (verdict.status, verdict.value) == ("fault", None)
    assert verdict.value != 1.0


def test_an_assert_that_the_candidate_keeps_from_running_counts_as_failed():
    row = {"test_list": ["for x in double([3]):\n    assert x == 3", "assert double(2) == 4"]}
    verdict = score({"empty": "def double(x):\n    return [] if x == [3] else 4"}, row)["empty"]
    assert verdict.value == 0.0 and verdict.status == "scored"


def test_tests_that_cannot_travel_run_beside_the_program_and_say_so():
    row = {"test_list": ["class Point:\n    x = 3\nassert double(Point()) == 6"]}
    verdict = score({"right": "def double(p):\n    return 2 * p.x"}, row)["right"]
    assert verdict.value == 1.0 and verdict.parts["weak"] == 1.0 and "weak" in verdict.detail
    row["allow_weak"] = False
    assert score({"right": "def double(p):\n    return 2 * p.x"}, row)["right"].status == "fault"


def test_functions_and_objects_of_the_candidate_travel_by_number():
    row = {"test_list": [
        "assert apply(lambda x: x + 1, 3) == 4", "assert total(Pair(1, 2)) == 3", "assert Pair(4, 5).b == 5",
        "xs = [3, 1, 2]\nsort(xs)\nassert xs == [1, 2, 3]",
    ]}  # fmt: skip
    source = (
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\ndef total(p): return p.a + p.b\n"
        "def apply(f, x): return f(x)\ndef sort(xs): xs.sort()\n"
    )
    verdict = score({"right": source}, row)["right"]
    assert verdict.value == 1.0 and "weak" not in verdict.parts, verdict
